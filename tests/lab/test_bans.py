"""bans.yml on a device of each backend, seen by who is banned."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.fleet import CHECKOUT, addresses, load
from lab.labs import Lab
from lab.podman import podman

# nftables, iptables with ipset, plain iptables.
DEVICES = ["debian12", "vendor", "poor"]


class Site:
    """A lab whose devices have only a firewall."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def play(self, *arguments: str) -> str:
        """What ansible-playbook printed, on one line, whatever came of it."""
        done = subprocess.run(
            [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "inventories/lab", *arguments],
            cwd=CHECKOUT, capture_output=True, text=True, timeout=300, check=False,
            env={**os.environ, "SALLYPORT_LAB": self.lab.prefix, "ANSIBLE_NOCOLOR": "1"},
        )  # fmt: skip
        return " ".join((done.stdout + done.stderr).split())

    def address(self, name: str, network: str, family: int) -> str:
        return addresses(network, self.lab.slot(), self.lab.fleet.devices[name].number)[family]

    def reads_the_web_page(self, device: str, family: int) -> bool:
        """From the vantage point on wan."""
        done = podman(
            "exec", self.lab.container("vantage-wan"), "nmap", "-n", "-Pn", "-sT", "-p", "80",
            *(["-6"] if family else []), "-oG", "-", self.address(device, "wan", family),
        )  # fmt: skip
        return "80/open/" in done


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    if os.geteuid() != 0:
        pytest.skip("labs need root")
    prefix = os.environ.get("SALLYPORT_LAB", "pytest") + "bn" + os.environ.get("PYTEST_XDIST_WORKER", "")
    lab = Lab(load(), prefix, print)
    request.addfinalizer(lab.down)
    lab.up([*DEVICES, "vantage-wan"])
    one = Site(lab)
    said = one.play("playbooks/harden.yml", "--tags", "firewall")
    assert said.count("failed=0") == len(DEVICES) + 1, said
    yield one


@pytest.mark.parametrize("family", [0, 1])
def test_a_ban_shuts_out_whom_it_names_until_it_is_lifted(site: Site, family: int) -> None:
    who = site.address("vantage-wan", "wan", family)
    assert [name for name in DEVICES if site.reads_the_web_page(name, family)] == DEVICES
    foreseen = site.play("playbooks/bans.yml", "-e", f"ban={who}", "--check")
    assert foreseen.count("would be banned for 1h") == len(DEVICES), foreseen
    assert [name for name in DEVICES if site.reads_the_web_page(name, family)] == DEVICES
    banned = site.play("playbooks/bans.yml", "-e", f"ban={who}")
    assert banned.count("is banned for 1h") == len(DEVICES), banned
    assert not [name for name in DEVICES if site.reads_the_web_page(name, family)]
    again = site.play("playbooks/bans.yml", "-e", f"ban={who}", "--limit", "debian12,vendor")
    assert again.count("changed=0") == 2 and "is banned already: ends in " in again, again
    listed = site.play("playbooks/bans.yml")
    assert len(re.findall(r"ends in \d+m \d+s", listed)) == 2, listed
    assert "ends in a time that this kernel does not tell" in listed
    site.play("playbooks/bans.yml", "-e", f"lift={who}")
    assert [name for name in DEVICES if site.reads_the_web_page(name, family)] == DEVICES
    assert site.play("playbooks/bans.yml").count("nobody is banned") == len(DEVICES)


def test_the_controller_and_whom_the_policy_protects_are_never_banned(site: Site) -> None:
    controller = podman(
        "exec", site.lab.container("debian12"), "sh", "-c", "ss -Htn state established '( sport = :22 )'"
    ).split()[3]
    whom = controller.rpartition(":")[0].strip("[]").removeprefix("::ffff:")
    for who, why in (
        (whom, "this controller comes from there"),
        (site.address("debian12", "lan", 1), "allows traffic from zone `mgmt`"),
    ):
        said = site.play("playbooks/bans.yml", "-e", f"ban={who}")
        assert said.count("failed=1") == len(DEVICES) and why in said, said
    assert site.play("playbooks/bans.yml").count("nobody is banned") == len(DEVICES)


def test_a_firewall_that_is_not_in_force_bans_nobody_and_says_so(site: Site) -> None:
    podman("exec", site.lab.container("debian12"), "nft", "flush", "ruleset")
    said = site.play("playbooks/bans.yml", "-e", "ban=203.0.113.9", "--limit", "debian12")
    assert "the firewall is not in force as it was loaded" in said and "failed=1" in said, said
    repaired = site.play("playbooks/harden.yml", "--tags", "firewall", "--limit", "debian12,localhost")
    assert "failed=0" in repaired, repaired
    said = site.play("playbooks/bans.yml", "-e", "ban=203.0.113.9", "-e", "for=5m", "--limit", "debian12")
    assert "203.0.113.9 is banned for 5m" in said, said
