"""A change that nobody confirmed is gone after a power cut: from the files, and from the daemons that run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from lab.fleet import CHECKOUT, load
from lab.labs import Lab
from tests.lab.site_folder import TOOLS, Site, play

SSHD = "/etc/ssh/sshd_config.d/00-nobody.conf"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if os.geteuid() != 0:
        pytest.skip("labs need root")
    lab = Lab(load(), os.environ.get("SALLYPORT_LAB", "pytest") + "pc", print)
    lab.up(["debian13", "vendor"])
    try:
        yield Site(lab, tmp_path_factory.mktemp("power"))
    finally:
        lab.down()


def children(pid: int) -> list[int]:
    """A process and all that it started, sessions of their own included."""
    listed = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout
    return [pid, *(found for child in listed.split() for found in children(int(child)))]


def lose_power_in_the_middle(site: Site, host: str, commit: dict[str, object], until: str) -> None:
    """Start the commit, wait until ``until`` is true on the device, kill the controller, cut the power."""
    site.sh(host, "rm -f /run/reached")  # /run is no tmpfs on every device
    plays = [{"hosts": host, "gather_facts": False, "tasks": [{"sallyport.iot.commit": commit}]}]
    book = site.folder / f"{host}.yml"
    book.write_text(json.dumps(plays), encoding="utf-8")
    command = [str(TOOLS / "ansible-playbook"), "-i", str(site.folder / "hosts.yml"), str(book)]
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        limit = time.monotonic() + 60
        while site.sh(host, f"if {until}; then echo reached; fi").strip() != "reached":
            assert run.poll() is None, "the commit ended before its activation hung"
            assert time.monotonic() < limit, "the change never came as far as its activation"
            time.sleep(0.1)
        for pid in children(run.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    site.lab.power_cut(host)


def test_busybox_does_not_start_the_daemons_of_an_unconfirmed_inittab(site: Site) -> None:
    assert play("-i", str(site.folder / "hosts.yml"), "playbooks/rollback.yml").status == 0
    old = site.sh("vendor", "cat /etc/inittab")
    commit = {
        "name": "nobody",
        "files": [{"dest": "/etc/inittab", "content": old.replace("dropbear -F", "dropbear -s -g -F")}],
        "activate": ["kill -HUP 1", "touch /run/activated", "sleep 300"],
        "confirm": {"seconds": 200},
    }
    lose_power_in_the_middle(site, "vendor", commit, "test -e /run/activated")
    running = site.sh("vendor", "cat /proc/[0-9]*/cmdline | tr '\\000' ' '")
    assert "dropbear -F -E -R" in running and "-s -g" not in running, running
    assert site.sh("vendor", "cat /etc/inittab").partition("\n")[2] == old
    assert (
        play("-i", str(site.folder / "hosts.yml"), "playbooks/rollback.yml", "--limit", "vendor").status == 0
    )


def test_systemd_boots_without_an_unconfirmed_sshd_setting(site: Site) -> None:
    commit = {
        "name": "nobody",
        "files": [{"dest": SSHD, "content": "DenyUsers root\n"}],
        "activate": ["systemctl restart ssh", "touch /run/activated", "sleep 300"],
        "confirm": {"seconds": 200},
    }
    lose_power_in_the_middle(site, "debian13", commit, "test -e /run/activated")
    assert (
        site.sh("debian13", f"ls {SSHD} 2>&1; ls -d /var/lib/sallyport/armed 2>&1").count("No such file") == 2
    )
    assert "root" not in site.sh("debian13", "sshd -T | grep -i denyusers || true")
    assert (
        play("-i", str(site.folder / "hosts.yml"), "playbooks/rollback.yml", "--limit", "debian13").status
        == 0
    )


# What makes a change stay where it is, so that the power can be cut right there, and which state the boot must lead to.
STAY = ["touch /run/reached", "sleep 300"]
MOMENTS: dict[str, tuple[dict[str, object], str, str]] = {
    "verifying": ({"verify": STAY}, "test -e /run/reached", "old"),
    "waiting for the confirmation": ({"verify": ["true"]}, "test -e /var/lib/sallyport/armed/tx/live", "old"),
    "reverting": ({"revert": STAY, "verify": ["false"]}, "test -e /run/reached", "old"),
    "settling": (
        # Nothing of it says anything to sshd, so no new one has to answer.
        {
            "activate": ["true"],
            "verify": ["true"],
            "settle": STAY,
            "confirm": {"seconds": 200, "new_daemon": False},
        },
        "test -e /run/reached",
        "new",
    ),
}
# A setting that lets nobody in any more, and the command that makes it live.
SHUT = {
    "debian13": (SSHD, "DenyUsers root\n", "systemctl restart ssh"),
    "vendor": ("/etc/gate", "shut\n", "kill -STOP $(pidof dropbear)"),
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("host", ["debian13", "vendor"])
def test_cut_at_any_moment_the_operator_logs_in_and_nothing_is_half_done(
    site: Site, host: str, moment: str
) -> None:
    lists, until, leads_to = MOMENTS[moment]
    path, text, shut = SHUT[host]
    kept = leads_to == "new"
    files = [
        {"dest": "/etc/motd", "content": "new\n"},
        {"dest": path, "content": "#\n" if kept else text},
    ]
    before = site.sh(host, "cat /etc/motd")
    commit = {"name": "moment", "files": files, "activate": [shut], "confirm": {"seconds": 200}, **lists}
    lose_power_in_the_middle(site, host, commit, until)
    found = site.sh(host, f"cat /etc/motd; ls {path} 2>&1")
    assert found.startswith("new\n" if kept else before), found
    assert ("No such file" in found) != kept, found
    inventory = ("-i", str(site.folder / "hosts.yml"), "--limit", host)
    listed = play(*inventory, "playbooks/rollback.yml")
    assert listed.status == 0, listed.output[-2000:]
    again = play(*inventory, "playbooks/rollback.yml", "-e", "to=factory")
    assert again.status == 0, again.output[-2000:]
    left = site.sh(
        host, "ls -d /var/lib/sallyport /etc/.sallyport* /etc/ssh/sshd_config.d/.sallyport* 2>/dev/null || :"
    )
    assert left == "" and site.sh(host, "cat /etc/motd") == before


def test_systemd_restores_before_the_network_and_every_daemon(site: Site) -> None:
    commit = {"name": "nobody", "files": [{"dest": "/etc/motd", "content": "new\n"}], "activate": STAY, "confirm": {"seconds": 200}}  # fmt: skip
    lose_power_in_the_middle(site, "debian13", commit, "test -e /run/reached")
    show = "systemctl show -P {} {}"
    restored = site.sh("debian13", show.format("ExecMainExitTimestampMonotonic", "sallyport-restore.service"))
    assert int(restored) > 0
    for unit in ("network-pre.target", "ssh.service", "sysinit.target"):
        began = site.sh("debian13", show.format("ActiveEnterTimestampMonotonic", unit))
        assert int(restored) < int(began), unit


def test_busybox_restores_before_the_script_that_brings_the_network_up(site: Site) -> None:
    old = site.sh("vendor", "cat /etc/init.d/rcS")
    script = old.replace("\n", "\ntouch /run/unconfirmed\n", 1)
    commit = {
        "name": "nobody",
        "files": [{"dest": "/etc/init.d/rcS", "content": script, "mode": "0755"}],
        "activate": STAY,
        "confirm": {"seconds": 200},
    }
    lose_power_in_the_middle(site, "vendor", commit, "test -e /run/reached")
    assert site.sh("vendor", "ls /run/unconfirmed 2>&1").strip().endswith("No such file or directory")
    assert site.sh("vendor", "cat /etc/init.d/rcS") == old


def test_a_second_state_folder_is_refused(site: Site) -> None:
    book = site.folder / "second.yml"
    task = {"sallyport.iot.commit": {"name": "motd", "state_dir": "/opt/second", "files": [{"dest": "/etc/motd", "content": "x\n"}]}}  # fmt: skip
    book.write_text(
        json.dumps([{"hosts": "debian13", "gather_facts": False, "tasks": [task]}]), encoding="utf-8"
    )
    run = play("-i", str(site.folder / "hosts.yml"), str(book))
    assert run.status != 0
    assert "the boot hook looks after /var/lib/sallyport, not after /opt/second" in " ".join(
        run.output.split()
    )
    assert site.sh("debian13", "cat /etc/motd") != "x\n"
