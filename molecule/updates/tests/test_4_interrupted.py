"""dpkg that is killed, a device that loses power and a disk that is full: found, finished, or not begun; and services that run
what an update took away.
"""

from __future__ import annotations

import base64
import re
import subprocess

import pytest

from lab.podman import podman
from tests.updates_site import DEVICES, SERVER, Site, shown

# Kills the dpkg that runs this very script, once.
KILL = 'if [ -e /run/kill-{phase} ]; then rm /run/kill-{phase}; kill -9 "$PPID"; sleep 1; fi'
SCRIPTS = {phase: KILL.format(phase=phase) for phase in ("preinst", "postinst", "prerm", "postrm")}
LIMIT = 2048  # kB in a second
WAIT = "while [ -e /run/wait ]; do sleep 0.1; done"


@pytest.fixture(scope="module")
def boiler(site: Site) -> None:
    site.install(site.build("boiler", "1", **SCRIPTS))
    site.publish(site.work / "boiler_1_all.deb")
    site.applied(bandwidth_kb=LIMIT)


@pytest.mark.parametrize(
    ("number", "phases"),
    [(2, ("prerm", "preinst", "postrm")), (3, ("postinst", "postrm", "preinst"))],
    ids=["first", "second"],
)
def test_a_dpkg_that_is_killed_is_finished(
    site: Site, boiler: None, number: int, phases: tuple[str, ...]
) -> None:
    """Each device in another maintainer script; what the run itself does not finish, the next one does."""
    site.publish(site.build("boiler", str(number), **SCRIPTS))
    killed = dict(zip(DEVICES, phases, strict=True))
    site.all(lambda device: site.sh(device, f"touch /run/kill-{killed[device]}"))
    first = site.turn()
    for device, phase in killed.items():
        assert site.sh(device, f"ls /run/kill-{phase} 2>/dev/null || echo killed") == "killed\n", first[
            device
        ]
    again = site.turn()
    for device in DEVICES:
        assert again[device]["result"] == "ok", shown([first[device], again[device]])
        assert "repaired" in first[device] or "repaired" in again[device], shown(
            [first[device], again[device]]
        )
        assert site.version(device, "boiler") == str(number)
        assert site.sh(device, "dpkg --audit") == ""


def test_a_device_that_loses_power_while_dpkg_works_finishes_after_the_next_start(
    site: Site, boiler: None
) -> None:
    site.publish(site.build("boiler", "6", postinst=WAIT))
    device = "debian12"
    site.sh(device, "touch /run/wait; systemctl start --no-block sallyport-update.service")
    half = "dpkg-query -W -f '${db:Status-Status}' boiler"
    site.wait(lambda: site.sh(device, half) == "half-configured", 300, lambda: site.status(device))
    site.lab.power_cut(device)
    assert site.sh(device, half) != "installed"
    (said,) = site.turn(device).values()
    assert said["result"] == "ok" and "repaired" in said, shown(said)
    assert site.sh(device, half) == "installed" and site.version(device, "boiler") == "6"
    assert any(line.startswith("boiler 6 ") for line in said["installed"]), shown(said)


def test_too_little_space_is_found_before_anything_is_begun(site: Site, boiler: None) -> None:
    # What needs the space is what comes with it, as a kernel does.
    site.publish(site.build("kindling", "1", kilobytes="4096"), site.build("boiler", "7", depends="kindling"))
    device, cache = "debian13", "/var/cache/apt/archives"
    site.sh(device, f"mount -t tmpfs -o size=66m tmpfs {cache} && mkdir -p {cache}/partial")
    before = site.version(device, "boiler")
    try:
        (said,) = site.turn(device).values()
        assert said["result"] == "blocked" and f"{cache} needs 4" in said["message"], shown(said)
        assert site.version(device, "boiler") == before
        assert not re.search("boiler|kindling", site.sh(device, f"ls {cache}"))
    finally:
        site.sh(device, f"umount {cache}")
    (said,) = site.turn(device).values()
    assert said["result"] == "ok" and site.version(device, "boiler") == "7", shown(said)
    # It came no faster than it may: apt says so itself.
    log = site.sh(device, "cat /var/lib/sallyport-updates/fetch.log")
    rate = re.search(r"^Fetched .* in .* \(([0-9,.]+) (k?)B/s\)$", log, re.M)
    assert rate, log
    # The first buffers are not held back; without a limit apt says MB/s.
    assert float(rate[1].replace(",", "")) * (1 if rate[2] else 0.001) <= LIMIT * 2, log


def test_a_disk_without_a_single_block_still_takes_the_record(site: Site, boiler: None) -> None:
    device, state = "debian13", "/var/lib/sallyport-updates"
    site.sh(
        device,
        f"mount -t tmpfs -o size=512k tmpfs {state} && dd if=/dev/zero of={state}/spare bs=1k count=64 2>/dev/null",
    )
    try:
        site.sh(device, f"dd if=/dev/zero of={state}/filler bs=1k 2>/dev/null || :")
        assert site.sh(device, f"df -kP {state} | awk 'NR == 2 {{print $4}}'").strip() == "0"
        (said,) = site.turn(device).values()
        assert said["result"] == "blocked" and f"{state} needs 0 kB" in said["message"], shown(said)
    finally:
        site.sh(device, f"umount {state}")


PUMP = """[Unit]
Description=A service that uses a library
[Service]
ExecStart=/usr/bin/python3 -c "import ctypes, time; ctypes.CDLL('/usr/lib/valve/valve.so'); time.sleep(1000000)"
[Install]
WantedBy=multi-user.target
"""


def library(site: Site, number: int) -> str:
    path = site.work / f"valve{number}.so"
    command = ["gcc", "-shared", "-nostdlib", "-o", str(path), "-x", "c", "-"]
    subprocess.run(command, input=f"int valve(void) {{ return {number}; }}\n", text=True, check=True)
    return base64.b64encode(path.read_bytes()).decode()


def test_services_that_run_deleted_code_are_restarted_by_needrestart_and_named_where_there_is_none(
    site: Site, boiler: None
) -> None:
    packages = site.work / "extra"
    podman("cp", f"{site.lab.container(SERVER)}:/extra", str(packages))
    wanted = [path for path in packages.glob("*.deb") if not path.name.startswith("unattended-upgrades")]
    tar = subprocess.run(
        ["tar", "-C", str(packages), "-c", *(path.name for path in wanted)], capture_output=True, check=True
    )
    container = site.lab.container("debian12")
    subprocess.run(
        ["podman", "exec", "-i", container, "tar", "-C", "/run", "-x"], input=tar.stdout, check=True
    )
    site.sh("debian12", "dpkg -i /run/*.deb >/dev/null 2>&1; rm /run/*.deb")
    start = "systemctl daemon-reload; systemctl enable -q --now pump2"
    devices = ("debian12", "debian13")
    for number in (1, 2):
        # The package itself restarts nothing.
        postinst = f"echo '{library(site, number)}' | base64 -d >/usr/lib/valve/new && mv /usr/lib/valve/new /usr/lib/valve/valve.so"
        site.build("valve", str(number), {"usr/lib/valve/readme": ""}, postinst=postinst)
    site.install(
        site.work / "valve_1_all.deb", site.build("pump2", "1", unit=PUMP, postinst=start), devices=devices
    )
    old = {device: site.sh(device, "systemctl show -P MainPID pump2") for device in devices}
    site.publish(site.work / "valve_2_all.deb")
    said = site.turn(*devices)
    now = {device: site.sh(device, "systemctl show -P MainPID pump2") for device in devices}
    for device in devices:
        assert said[device]["result"] == "ok" and site.version(device, "valve") == "2", said[device]
    assert now["debian12"] != old["debian12"] and "restart" not in said["debian12"], shown(said["debian12"])
    assert now["debian13"] == old["debian13"] and said["debian13"]["restart"] == ["pump2.service"], shown(
        said["debian13"]
    )
