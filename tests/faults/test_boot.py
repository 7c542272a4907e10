"""From the first moment of its link a booting device lets nothing through that the policy forbids. The devices bring
their links up themselves, as hardware does, and somebody on wan knocks all the time. Where something ahead of init
brings the links up, no rules can be in time, and the window is measured."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lab.fleet import CHECKOUT, load
from lab.labs import Lab
from tests.faults.chamber import wait_until
from tests.faults.counted import COUNTED
from tests.faults.prober import Prober
from tests.kernel.namespace import run
from tests.lab.site_folder import Run, Site, play

HOSTS = {"ownlink": 12, "ownlink-vendor": 14}
"""Each with the number of the host on wan that knocks at it."""
ENGINES = ("debian13", "vendor")
"""The container engine brings their links up ahead of their init, as a kernel or an initramfs can."""
_EARLY = {
    "debian13": (
        "printf '[Unit]\\nDefaultDependencies=no\\nBefore=sallyport-firewall.service\\n"
        "[Socket]\\nListenStream=7070\\nAccept=yes\\n[Install]\\nWantedBy=sysinit.target\\n'"
        " >/etc/systemd/system/early.socket\n"
        "printf '[Service]\\nExecStart=/bin/true\\n' >/etc/systemd/system/early@.service\n"
        "systemctl enable early.socket"
    ),
    "vendor": (
        "printf '#!/bin/sh\\nexec httpd -p 7070 -h /www\\n' >/etc/sallyport/boot.d/40-early\n"
        "chmod 755 /etc/sallyport/boot.d/40-early"
    ),
}
"""A listener that is there before the rules."""
_ALLOWED = (80, 443)
_LATE = {
    "ownlink": (
        "mkdir -p /etc/systemd/system/sallyport-firewall.service.d\n"
        "printf '[Service]\\nExecStart=\\nExecStart=/bin/sh -c \"(sleep 1; exec /bin/sh /etc/sallyport/firewall-load load) &\"\\n'"
        " >/etc/systemd/system/sallyport-firewall.service.d/late.conf",
        "rm -r /etc/systemd/system/sallyport-firewall.service.d",
    ),
    "ownlink-vendor": (
        "cd /etc/sallyport/boot.d; mv 50-firewall ../on-time\n"
        "printf '#!/bin/sh\\n(sleep 1; exec /etc/sallyport/on-time) &\\n' >50-firewall; chmod 755 50-firewall",
        "mv /etc/sallyport/on-time /etc/sallyport/boot.d/50-firewall",
    ),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Both devices, with a firewall; from wan only the web page is to be seen."""
    if os.geteuid() != 0:
        pytest.skip("labs need root")
    prefix = os.environ.get("SALLYPORT_LAB", "faults") + "bt" + os.environ.get("PYTEST_XDIST_WORKER", "")
    lab = Lab(load(), prefix, print)
    lab.up([*HOSTS, *ENGINES])
    try:
        one = Site(lab, tmp_path_factory.mktemp("boot"))
        hardening = play("-i", str(one.folder / "hosts.yml"), "playbooks/harden.yml", "--tags", "firewall")
        assert hardening.status == 0, hardening.output
        yield one
    finally:
        lab.down()


def _boot(site: Site, what: str) -> dict[str, Prober]:
    """Cut the power of both and knock from then on, until each has booted and shows its web page to both families."""

    def one(host: str) -> Prober:
        lab = site.lab
        # A device without power sends nothing. A network that the kernel takes down loses its rules before its links.
        run("ip", "link", "set", f"sally{lab.slot()}-{lab.fleet.devices[host].number}-1", "down")
        with Prober(lab, host, HOSTS[host]) as prober:
            lab.power_cut(host)
            web = [(family, "tcp", 80) for family in ("IPv4", "IPv6")]
            shown = wait_until(lambda: all(prober.answers[port] for port in web), 30)
            assert wait_until(lambda: prober.sent > 1000), prober.sent
        told = f"{host} boots {what}: {prober.sent} packets from wan"
        print(f"injected: {told}")
        COUNTED.append(told)
        assert shown, f"{told}: what is allowed never answered: {prober.answers}"
        return prober

    with ThreadPoolExecutor(len(HOSTS)) as pool:
        return dict(zip(HOSTS, pool.map(one, HOSTS), strict=True))


def test_nothing_that_the_policy_forbids_gets_through_at_boot(site: Site) -> None:
    for host, prober in _boot(site, "with its rules").items():
        assert not prober.answered(*_ALLOWED), f"{host} let through: {prober.answered(*_ALLOWED)}"


def test_rules_that_come_a_second_late_leak_and_the_prober_sees_it(site: Site) -> None:
    """The positive control of the other tests here."""
    for host, (late, _) in _LATE.items():
        site.sh(host, late)
    try:
        booted = _boot(site, "with its rules a second late")
    finally:
        for host, (_, in_time) in _LATE.items():
            site.sh(host, in_time)
    for host, prober in booted.items():
        leaked = prober.answered(*_ALLOWED)
        assert ("IPv4", "tcp", 23) in leaked, (
            f"{host}: late rules let nothing through, so the prober is blind: {leaked}"
        )


def test_a_network_that_is_up_before_init_is_measured_with_what_listens_in_it(
    site: Site, tmp_path: Path
) -> None:
    """Converged runs, each in one exchange; nothing that this version has loaded by a run counts as a boot."""

    def windows() -> dict[str, dict[str, Any]]:
        results = tmp_path / f"results{len(list(tmp_path.iterdir()))}"
        again = play(
            "-i", str(site.folder / "hosts.yml"), "playbooks/harden.yml", "--tags", "firewall",
            ANSIBLE_CALLBACK_PLUGINS=str(CHECKOUT / "tests/lab/callbacks"), ANSIBLE_CALLBACKS_ENABLED="results",
            SALLYPORT_TEST_RESULTS=str(results),
        )  # fmt: skip
        assert again.status == 0, again.output
        lines = [json.loads(line) for line in results.read_text().splitlines()]
        found = {line["host"]: line["result"] for line in lines if line["action"] == "sallyport.iot.firewall"}
        assert {(one["changed"], one["exchanges"]) for one in found.values()} == {(False, 1)}, again.output
        return {host: one["boot_window"] for host, one in found.items()}

    before = windows()
    for host in ENGINES:
        assert not before[host]["measured"], before[host]
        site.sh(host, _EARLY[host])
    with ThreadPoolExecutor(len(ENGINES)) as pool:
        list(pool.map(site.lab.power_cut, (*HOSTS, *ENGINES)))
    measured = windows()
    for host in HOSTS:
        assert measured[host]["measured"] and measured[host]["seconds"] == 0, measured[host]
    for host in ENGINES:
        window = measured[host]
        print(f"{host}: {window['text']}")
        assert 0 < window["seconds"] < 60 and window["links"] == ["eth0", "eth1"], window
        early = [one for one in window["listeners"] if one["port"] == 7070]
        assert [one["process"] for one in early] == [{"debian13": "systemd", "vendor": "httpd"}[host]], window
        assert "the engine (podman)" in window["text"] and "7070" in window["text"]
        # What came up behind the rules was never open.
        assert not [one for one in window["listeners"] if one["port"] in (22, 23)], window
    # A restart of the service while the device runs is no boot.
    site.sh("debian13", "systemctl restart sallyport-firewall")
    assert windows()["debian13"] == measured["debian13"]


def test_an_unconfirmed_opening_is_gone_before_the_link_is_up(site: Site, tmp_path: Path) -> None:
    """Telnet for everybody, live and not yet confirmed when the power fails."""
    policy = site.folder / "policy" / "fleet.yml"
    closed = policy.read_text()
    between = Path(__file__).with_name("ssh_between.py")

    def harden(host: str) -> Run:
        held = {"match": "'confirm'", "do": "hold", "folder": str(tmp_path / host)}
        (tmp_path / host).mkdir()
        return play(
            "-i", str(site.folder / "hosts.yml"), "playbooks/harden.yml", "--tags", "firewall",
            "--limit", f"{host},localhost", "-e", f"ansible_ssh_executable={between}", "-e", "firewall_confirm_seconds=120",
            SALLYPORT_TRIAL_SSH=json.dumps(held),
        )  # fmt: skip

    with ThreadPoolExecutor(len(HOSTS)) as pool:
        try:
            policy.write_text(closed.replace("allow: [http,", "allow: [telnet, http,"))
            opening = {host: pool.submit(harden, host) for host in HOSTS}
            for host, run_of in opening.items():
                assert wait_until((tmp_path / host / "held").exists, 60), (
                    run_of.done() and run_of.result().output
                )
                with Prober(site.lab, host, HOSTS[host]) as before:
                    assert wait_until(lambda before=before: before.answers["IPv4", "tcp", 23] > 0), (  # type: ignore[misc]
                        f"{host}: the opening was never live"
                    )
            booted = _boot(site, "with an unconfirmed opening")
        finally:
            policy.write_text(closed)
            for host in HOSTS:
                (tmp_path / host / "release").touch()
        ended = {host: run_of.result() for host, run_of in opening.items()}
    for host, prober in booted.items():
        assert not prober.answered(*_ALLOWED), f"{host} let through: {prober.answered(*_ALLOWED)}"
        assert ended[host].status != 0, ended[host].output
        said = " ".join(ended[host].output.split())
        assert "lost power, or was restarted, before the change was confirmed" in said, said
