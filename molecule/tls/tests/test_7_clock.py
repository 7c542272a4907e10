"""The clock that certificates are judged by: each client that a device may have asks the servers that the site names.

The machine's clock is never set: chronyd runs with -x, timesyncd has not the right to, and the floor's `date` is a program
that writes down what it was to set; what it tells is libfaketime's where the device has it. No Debian package has BusyBox's
ntpd, so a program of that name stands for it: what is tried is that init keeps it running with the right servers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from acme import authority, certificate, pem
from cryptography.hazmat.primitives.asymmetric import ec
from fleet import DEVICES, FAKETIME, Fleet, until

from tests.role_examples import examples

ALL = ":".join(DEVICES)
CLOCK = {"playbook": "molecule/tls/clock.yml", "action": "time_sync"}
LOG = "/tmp/time.log"
NTPD = "#!/bin/sh\\nwhile :; do sleep 3600; done\\n"
RUNNING = "for pid in $(pidof ntpd busybox-ntpd sh); do tr '\\0' ' ' </proc/$pid/cmdline; echo; done"


@pytest.fixture(scope="module")
def server(fleet: Fleet) -> Iterator[str]:
    """A time server, and clients that do what they do although they are in containers."""
    fleet.acme.put({"timeserver.py": (Path(__file__).parent / "timeserver.py").read_text(encoding="utf-8")})
    fleet.acme.background(f"echo $$ >/tmp/time.pid; exec python3 /tmp/timeserver.py {LOG}")
    for device, unit in (("tls11", "chrony"), ("tls12", "chrony"), ("tls13", "systemd-timesyncd")):
        fleet.sh(
            device,
            f"mkdir -p /etc/systemd/system/{unit}.service.d; printf '[Unit]\\nConditionCapability=\\n"
            f"ConditionVirtualization=\\n' >/etc/systemd/system/{unit}.service.d/test.conf; systemctl daemon-reload",
        )
    for device in ("tls11", "tls12"):
        fleet.sh(device, "echo 'DAEMON_OPTS=\"-x\"' >/etc/default/chrony")
    fleet.sh(
        "tlsvendor",
        f"mkdir -p /opt; printf '{NTPD}' >/opt/busybox-ntpd; chmod 755 /opt/busybox-ntpd; "
        "ln -sf /opt/busybox-ntpd /usr/sbin/ntpd",
    )
    yield fleet.acme.address
    fleet.sh("vantage-lan", "kill $(cat /tmp/time.pid)")


def asked(fleet: Fleet, device: str) -> bool:
    log = fleet.sh("vantage-lan", f"cat {LOG} 2>/dev/null || :")
    return fleet.address(device) in log.splitlines()


def test_check_mode_touches_no_clock_and_contacts_nobody(fleet: Fleet, server: str) -> None:
    with fleet.untouched(*DEVICES):
        run = fleet.play(
            ALL, "--check", "--diff", **CLOCK, time_sync_servers=[server], time_sync_floor="2026-11-01"
        )
    assert run.status == 0 and all(run[device]["state"] == "would_change" for device in DEVICES), run.output


def test_each_client_asks_the_sites_servers_and_the_result_is_the_evidence(fleet: Fleet, server: str) -> None:
    wait = "{{ 40 if inventory_hostname in ['tls11', 'tls12'] else 0 }}"
    site = {"time_sync_servers": [server], "time_sync_wait": wait}
    run = fleet.play(ALL, **CLOCK, **site)
    assert run.status == 0, run.output
    for device in ("tls11", "tls12"):
        clock = run[device]["clock"]
        assert clock["client"] == "chrony" and clock["synchronised"] and clock["stratum"] == 3, clock
    assert run["tls13"]["clock"]["client"] == "timesyncd" and run["tlsvendor"]["clock"]["client"] == "ntpd"
    for device in ("tls11", "tls12", "tls13"):
        assert until(lambda device=device: asked(fleet, device), 40), device
    assert until(lambda: f"ntpd -n -p {server}" in fleet.sh("tlsvendor", RUNNING))
    again = fleet.play(ALL, **CLOCK, time_sync_servers=[server])
    assert again.status == 0 and not any(again[device]["changed"] for device in DEVICES), again.output


def test_another_server_takes_the_place_of_the_first(fleet: Fleet, server: str) -> None:
    other = fleet.address("tls11")
    run = fleet.play("tls12:tlsvendor", **CLOCK, time_sync_servers=[other])
    assert run.status == 0, run.output
    assert server not in fleet.sh("tls12", "chronyc -n sources") and other in fleet.sh(
        "tls12", "chronyc -n sources"
    )
    assert until(lambda: f"ntpd -n -p {other}" in fleet.sh("tlsvendor", RUNNING))
    assert f"ntpd -n -p {server}" not in fleet.sh("tlsvendor", RUNNING)
    back = fleet.play("tlsvendor", playbook="playbooks/rollback.yml", action="rollback", to="previous")
    assert back.status == 0, back.output
    assert until(lambda: f"ntpd -n -p {server}" in fleet.sh("tlsvendor", RUNNING))


NTS = """local stratum 5
allow
user root
cmdport 0
bindcmdaddress /
pidfile /run/nts.pid
ntsserverkey /run/nts.key
ntsservercert /run/nts.pem
"""


@pytest.fixture
def nts(fleet: Fleet) -> Iterator[tuple[str, str]]:
    """A server on a device that proves who it is: its address, and its CA's root."""
    root, root_key = authority("Time CA")
    key, address = ec.generate_private_key(ec.SECP256R1()), fleet.address("tls11")
    made = certificate("time", key, root, root_key, names=(address,))
    for name, text in (("conf", NTS), ("key", pem(key)), ("pem", made)):
        fleet.sh("tls11", f"umask 077; cat >/run/nts.{name} <<'END'\n{text}END")
    fleet.sh("tls11", "chronyd -x -f /run/nts.conf")
    yield address, root
    fleet.sh("tls11", "kill $(cat /run/nts.pid)")


def test_behind_a_policy_that_drops_what_goes_out_a_server_is_asked_that_proves_who_it_is(
    fleet: Fleet, nts: tuple[str, str]
) -> None:
    address, root = nts
    policy = {"sallyport_policy_dir": str(Path(__file__).parents[1] / "policy")}
    closed = {**policy, "sallyport_policy__50_out": {"defaults": {"outbound": "drop"}}}
    site = {
        "time_sync_servers": [address],
        "time_sync_nts": True,
        "time_sync_nts_root": root,
        "time_sync_wait": 60,
    }
    run = fleet.play("tls12", **CLOCK, **closed, **site)
    assert run["tls12"]["state"] == "refused", run.output
    assert f"{address} (udp 123), {address} (tcp 4460)" in run["tls12"]["msg"]
    rule = yaml.safe_load(run["tls12"]["msg"].partition("Add to outbound: ")[2])
    closed["sallyport_policy__60_time"] = {"outbound": [rule]}
    firewall = fleet.play("tls12", playbook="molecule/tls/firewall.yml", action="firewall", **closed)
    assert firewall.status == 0, firewall.output
    try:
        elsewhere = f"timeout 2 bash -c '</dev/tcp/{fleet.acme.address}/14000' && echo open || echo dropped"
        assert fleet.sh("tls12", elsewhere).strip() == "dropped"
        run = fleet.play("tls12", **CLOCK, **closed, **site)
        assert run.status == 0, run.output
        clock = run["tls12"]["clock"]
        assert clock["source"] == address and clock["synchronised"] and clock["authenticated"], clock
        other, _ = authority("Another CA")
        site |= {"time_sync_nts_root": other, "time_sync_wait": 5}
        run = fleet.play("tls12", **CLOCK, **closed, **site)
        assert run["tls12"]["failed"] and "that its certificate is trusted" in run["tls12"]["msg"], run.output
        assert not run["tls12"]["clock"]["synchronised"]
    finally:
        fleet.sh("tls12", "nft delete table inet sallyport 2>/dev/null || :")


def test_a_device_that_boots_in_1970_is_set_to_the_floor_before_anything_else(
    fleet: Fleet, tmp_path: Path
) -> None:
    """By the unit on one device and by init's first line on the other, after a power cut. The README's playbook."""
    floor, asked = 1793491200, "/var/lib/date.asked"
    tells = {
        "tls13": f"LD_PRELOAD={FAKETIME} FAKETIME='@1970-01-02 00:00:00' NO_FAKE_STAT=1 exec /usr/bin/date \"$@\"",
        "tlsvendor": 'case $1 in -r) exec /bin/date "$@" ;; esac; echo 86400',
    }
    places = {"tls13": "/usr/local/bin/date", "tlsvendor": "/sbin/date"}
    (example,) = examples("time_sync")
    playbook = tmp_path / "clock.yml"
    playbook.write_text(example, encoding="utf-8")
    run = fleet.play("tls13:tlsvendor", playbook=str(playbook), action="time_sync")
    assert run.status == 0 and run["tls13"]["changed"] and run["tlsvendor"]["changed"], run.output
    for device, told in tells.items():
        program = f'#!/bin/sh\ncase "$*" in *-s*) echo "$*" >>{asked}; exit ;; esac\n{told}\n'
        place = places[device]
        fleet.sh(device, f"cat >{place} <<'END'\n{program}END\nchmod 755 {place}")
    # Nothing in a container has the right to set a clock, so systemd would not even start it.
    folder = "/etc/systemd/system/sallyport-clock-floor.service.d"
    fleet.sh("tls13", f"mkdir {folder}; printf '[Unit]\\nConditionCapability=\\n' >{folder}/test.conf")
    for device, place in places.items():
        fleet.lab.power_cut(device)
        assert until(lambda device=device: fleet.sh(device, f"cat {asked} 2>/dev/null || :") != "")  # type: ignore[misc]
        fleet.sh(device, f"rm {place}")
        (said,) = fleet.sh(device, f"cat {asked}").splitlines()
        now = int(fleet.sh(device, "date +%s"))
        assert said.startswith("-u -s @") and floor <= int(said.rpartition("@")[2]) <= now, said
