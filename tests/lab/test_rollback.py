"""Back again: after harden.yml and the way back to factory a device is, file by file, what it was as shipped."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator

import pytest

from lab.fleet import load
from lab.labs import Lab
from tests.lab.site_folder import Site, differences, play

DEVICES = ("debian11", "debian12", "debian13", "vendor")
# What the devices' own programs write while they run, and directories that package managers stamp.
OWN_LIFE = re.compile(
    r"^(etc/(machine-id|\.updated|resolv\.conf|mtab|ld\.so\.cache|\.pwd\.lock)|root/\.(bash|ash)_history)$"
)
LIST_OF_NAMES = ("firewall", "ssh", "legacy_services", "credentials")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if os.geteuid() != 0:
        pytest.skip("labs need root")
    prefix = os.environ.get("SALLYPORT_LAB", "pytest") + "rb"
    lab = Lab(load(), prefix, print)
    lab.up([])
    try:
        yield Site(lab, tmp_path_factory.mktemp("rollback"))
    finally:
        lab.down()


def sockets(site: Site, host: str) -> set[str]:
    """What listens, one entry a socket."""
    return {" ".join(line.split()) for line in site.snapshot(host)["listening"].splitlines()}


def shot(site: Site) -> dict[str, dict[str, str]]:
    taken = {}
    for host in DEVICES:
        found = {name: text for name, text in site.snapshot(host).items() if not OWN_LIFE.match(name)}
        del found["listening"]
        taken[host] = {**found, **{f"listens on {socket}": "yes" for socket in sockets(site, host)}}
    return taken


def test_previous_numbered_and_factory_on_every_device(site: Site) -> None:
    inventory = ("-i", str(site.folder / "hosts.yml"))
    # Lists nothing yet, but greets every device: dropbear makes its host key then, and that is no change of ours.
    assert play(*inventory, "playbooks/rollback.yml").status == 0
    before = shot(site)

    hardened = play(*inventory, "harden.yml")
    assert hardened.status == 0, hardened.output[-4000:]
    assert all(differences(before[host], after) for host, after in shot(site).items())

    listed = play(*inventory, "playbooks/rollback.yml")
    for number, name in enumerate(LIST_OF_NAMES, start=1):
        assert len(re.findall(rf"{number}  20\d\d-\S+Z  {name} ", listed.output)) == len(DEVICES), (
            listed.output
        )

    previous = play(*inventory, "playbooks/rollback.yml", "-e", "to=previous")
    assert previous.status == 0, previous.output[-4000:]
    after_three = play(*inventory, "playbooks/rollback.yml", "-e", "to=1")
    assert after_three.status == 0, after_three.output[-4000:]
    for host in DEVICES:
        # The firewall of generation 1 is in force, and SSH is as shipped.
        assert "sallyport" in site.sh(host, "sh /etc/sallyport/firewall-load live").lower()
        assert "etc/ssh/sshd_config.d/00-sallyport.conf" not in site.snapshot(host)

    factory = play(*inventory, "playbooks/rollback.yml", "-e", "to=factory")
    assert factory.status == 0, factory.output[-4000:]
    assert {host: differences(before[host], after) for host, after in shot(site).items()} == {
        host: {} for host in DEVICES
    }

    again = play(*inventory, "harden.yml")
    assert again.status == 0, again.output[-4000:]
    assert play(*inventory, "harden.yml").recap("vendor")["changed"] == 0


def test_a_device_rolled_back_boots_as_shipped(site: Site) -> None:
    inventory = ("-i", str(site.folder / "hosts.yml"), "--limit", "debian13,vendor")
    assert play(*inventory, "playbooks/rollback.yml", "-e", "to=factory").status == 0
    for host in ("debian13", "vendor"):
        before = sockets(site, host)
        site.lab.power_cut(host)
        limit = time.monotonic() + 60
        while sockets(site, host) != before and time.monotonic() < limit:
            time.sleep(0.2)  # SSH answers before the last service has started
        assert sockets(site, host) == before
