"""The clock that certificates are judged by: each client that a device may have asks the servers that the site names.

The machine's clock is never set: chronyd runs with -x, timesyncd has not the right to. No Debian package has BusyBox's
ntpd, so a program of that name stands for it: what is tried is that init keeps it running with the right servers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet import DEVICES, Fleet, until

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
