"""A gateway with 64 MB takes a blocklist of 100,000 prefixes where that fits, and where not, it is told so and lives on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.fleet import CHECKOUT, load
from lab.labs import Lab
from lab.podman import podman

# ipset, and nftables without ipset beside it.
DEVICES = ["vendor", "debian12"]


class Site:
    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.folder = folder

    def harden(self, device: str, listed: int) -> str:
        """The firewall role with a list of so many prefixes; what ansible-playbook printed, on one line."""
        policy = (CHECKOUT / "inventories/lab/policy/fleet.yml").read_text(encoding="utf-8")
        (self.folder / "fleet.yml").write_text(
            policy + "\nblocklists: [{name: long, file: long}]\n", encoding="utf-8"
        )
        # From 11.0.0.0 on, no two of them adjacent.
        numbers = ((11 << 24) + 512 * number for number in range(listed))
        lines = (f"{one >> 24}.{one >> 16 & 255}.{one >> 8 & 255}.{one & 255}/32\n" for one in numbers)
        (self.folder / "long").write_text("".join(lines), encoding="utf-8")
        done = subprocess.run(
            [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "inventories/lab", "playbooks/harden.yml",
             "--tags", "firewall", "--limit", f"{device},localhost", "-e", f"sallyport_policy_dir={self.folder}"],
            cwd=CHECKOUT, capture_output=True, text=True, timeout=300, check=False,
            env={**os.environ, "SALLYPORT_LAB": self.lab.prefix, "ANSIBLE_NOCOLOR": "1"},
        )  # fmt: skip
        return " ".join((done.stdout + done.stderr).split())

    def on(self, device: str, command: str) -> str:
        return podman("exec", self.lab.container(device), "sh", "-c", command)


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if os.geteuid() != 0:
        pytest.skip("labs need root")
    prefix = os.environ.get("SALLYPORT_LAB", "pytest") + "lm" + os.environ.get("PYTEST_XDIST_WORKER", "")
    lab = Lab(load(), prefix, print)
    request.addfinalizer(lab.down)
    lab.up(DEVICES)
    for device in DEVICES:
        podman("update", "--memory=64m", "--memory-swap=64m", lab.container(device))
    yield Site(lab, tmp_path_factory.mktemp("policy"))


def test_what_fits_is_loaded_and_what_does_not_is_refused_with_the_figures(site: Site) -> None:
    boot = site.on("vendor", "cat /proc/1/stat").split()[21]
    said = site.harden("vendor", 100_000)
    assert "failed=0" in said, said
    entries = "ipset list -t | sed -n 's/^Number of entries: //p'"
    assert "100000" in site.on("vendor", entries).split()
    assert "failed=0" in (said := site.harden("vendor", 100_000)) and re.search(
        r"vendor : \S+ changed=0", said
    ), said
    said = site.harden("vendor", 400_000)
    assert "failed=1" in said, said
    assert re.search(
        r"loading 400000 list entries takes about 42 MB, and half of the device's free memory is 3\d MB", said
    )
    assert "100000" in site.on("vendor", entries).split(), "the refused list took the old one with it"
    assert site.on("vendor", "cat /proc/1/stat").split()[21] == boot


def test_nft_does_not_try_what_would_kill_it(site: Site) -> None:
    said = site.harden("debian12", 100_000)
    assert "failed=1" in said, said
    assert re.search(
        r"nftables: loading 100000 list entries takes about 139 MB, and half of .* is 3\d MB", said
    ), said
    assert "iptables_ipset:" in said and "short" in said, said
    assert "sallyport" not in site.on("debian12", "nft -t list ruleset; ls /etc/sallyport 2>/dev/null || :")
    said = site.harden("debian12", 10_000)
    assert "failed=0" in said, said
