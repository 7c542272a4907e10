"""Bad input ends one host, or the run before anything is touched, with a message that helps; the rest goes on."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.fleet import load
from lab.labs import Lab
from tests.lab.site_folder import Run, Site, differences, play

FIREWALL_TOOLS = "iptables ip6tables ipset iptables-restore ip6tables-restore"

# host -> what its one line of the summary must say: what is wrong, and what to set or do
CAUSES = {
    "ghost": ("does not answer", "check ansible_host, ansible_port"),
    "debian11": ("refuses the login", "check ansible_user, ansible_password"),
    "debian12": ("host key is not one that this controller knows", "ssh-keygen -R "),
    "vendor": ("No packet filter of this device will do", "Install nftables, or iptables"),
    "operator": ("ops is not root on this device", "Set ansible_become: true"),
    "operator-password": ("root was not gained", "check ansible_become_method and ansible_become_password"),
    "poor": ("root has no key on this device", "Set ssh_authorized_keys"),
}
UNTOUCHED = ("debian11", "debian12", "vendor", "operator", "operator-password")
"""What stops these is found before their first change."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A lab of its own: these devices end up in states that no other test expects."""
    if os.geteuid() != 0:
        pytest.skip("labs need root")
    prefix = os.environ.get("SALLYPORT_LAB", "pytest") + os.environ.get("PYTEST_XDIST_WORKER", "")
    one = Lab(load(), f"b{prefix}"[:14], print)
    one.up(["debian13", *(name for name in CAUSES if name != "ghost")])
    try:
        made = Site(one, tmp_path_factory.mktemp("bad") / "site")
        for name in one.containers():  # dropbear makes its host keys at the first greeting
            scan = ["ssh-keyscan", "-T", "20", made.address(name)]
            subprocess.run(scan, capture_output=True, timeout=60, check=True)
        yield made
    finally:
        one.down()
    shutil.rmtree(made.vars["ansible_control_path_dir"], ignore_errors=True)


@pytest.fixture
def shipped(site: Site) -> dict[str, dict[str, str]]:
    """Every device as it is now, before a run that must not touch it."""
    return {host: site.snapshot(host) for host in site.hosts}


@dataclass(frozen=True)
class Broken:
    """The run over a fleet of which all hosts but one are in trouble, and what it left."""

    run: Run
    before: dict[str, dict[str, str]]
    after: dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def broken(site: Site) -> Broken:
    """Each host has a trouble of its own, in one run."""
    site.hosts["ghost"] = {"ansible_host": nobody(site), "ansible_user": "root"}
    site.groups["busybox"].append("ghost")
    site.hosts["debian11"] |= {"ansible_password": "wrong", "ansible_ssh_private_key_file": ""}
    site.hosts["operator"]["ansible_become"] = False
    site.hosts["operator-password"]["ansible_become_password"] = "wrong"
    site.hosts["poor"]["ssh_authorized_keys"] = []
    # A master that an earlier run left would get past a wrong password and another host key.
    site.vars["ansible_control_path_dir"] = tempfile.mkdtemp(prefix="sallyport-")
    site.write()
    known_hosts = site.lab.state / "known_hosts"
    forget(known_hosts, site.address("debian12"))
    with known_hosts.open("a", encoding="utf-8") as stream:
        stream.write(f"{site.address('debian12')} {another_key(site.folder.parent)}\n")
    site.sh(
        "vendor", f"mkdir /root/away; for t in {FIREWALL_TOOLS}; do mv $(command -v $t) /root/away/; done"
    )
    before = {host: site.snapshot(host) for host in UNTOUCHED}
    run = play("-i", str(site.folder), "harden.yml")
    return Broken(run, before, {host: site.snapshot(host) for host in UNTOUCHED})


@pytest.fixture(scope="module")
def retried(site: Site, broken: Broken) -> Run:
    """The causes mended, and then the very command that the summary printed."""
    site.hosts.update(copy.deepcopy(site.as_shipped))
    site.hosts["ghost"] = site.as_shipped["debian13"]  # the address was wrong
    # Its shipped password is one that strangers know, and sudo asks for it: no run could take it away.
    site.sh("operator-password", "echo technician:only-this-device-has-it | chpasswd")
    password = {
        "ansible_password": "only-this-device-has-it",
        "ansible_become_password": "only-this-device-has-it",
    }
    site.hosts["operator-password"] |= password
    site.write()
    forget(site.lab.state / "known_hosts", site.address("debian12"))
    site.sh("vendor", "mv /root/away/* /usr/sbin/")
    name, *arguments = broken.run.again
    assert name == "ansible-playbook"
    return play(*arguments)


def nobody(site: Site) -> str:
    """An address on the lab's own network that no device has."""
    taken = {variables["ansible_host"] for variables in site.hosts.values()} | set(
        site.vars["lab_controller"]["lan"]
    )
    network, _, last = site.address("debian13").rpartition(".")
    first = int(last) - int(last) % 16
    return next(text for text in (f"{network}.{first + i}" for i in range(12, 1, -1)) if text not in taken)


def another_key(folder: Path) -> str:
    """The public half of a key that no device has."""
    path = folder / "another"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return " ".join(path.with_suffix(".pub").read_text(encoding="utf-8").split()[:2])


def forget(known_hosts: Path, address: str) -> None:
    if known_hosts.exists():
        subprocess.run(["ssh-keygen", "-f", str(known_hosts), "-R", address], capture_output=True, check=True)


# No inventory


@pytest.mark.parametrize("case", ["missing", "empty", "no lab"])
def test_a_run_without_devices_says_so_once_and_how_to_name_them(case: str, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("", encoding="utf-8")
    arguments = {
        "missing": ["-i", f"{tmp_path}/missing"],
        "empty": ["-i", f"{tmp_path}/empty"],
        "no lab": [],
    }[case]
    done = play(*arguments, "harden.yml", SALLYPORT_LAB="nosuchlab")
    assert done.status != 0
    assert done.summary.count("has no hosts") == 1, done.output
    assert "Name yours with -i" in done.summary
    assert case == "no lab" or f"{tmp_path}/{case}" in done.summary


# The policy. These come first: the devices must be as shipped.


def test_an_error_in_one_hosts_policy_is_found_before_any_device_is_touched(
    site: Site, shipped: dict[str, dict[str, str]]
) -> None:
    layer = site.folder / "policy" / "hosts" / "vendor.yml"
    layer.parent.mkdir()
    layer.write_text("inbound:\n  - {name: panels, allow: [htps], from: [10.20.0.1/16]}\n", encoding="utf-8")
    run = play("-i", str(site.folder), "harden.yml")
    layer.unlink()
    assert run.status != 0
    assert "the policy has 2 errors; no device was touched" in run.summary, run.output
    assert run.summary.count(f"{layer}:2: error") == 2
    assert "did you mean `https`?" in run.summary and "write 10.20.0.0/16" in run.summary
    assert run.again == ["ansible-playbook", "-i", str(site.folder), "harden.yml"]
    assert touched(site, shipped) == {}


def test_a_policy_that_does_not_admit_this_controller_touches_nothing(
    site: Site, shipped: dict[str, dict[str, str]]
) -> None:
    policy = site.folder / "policy" / "fleet.yml"
    good = policy.read_text(encoding="utf-8")
    policy.write_text(good.replace("198.51.100.0/25", "198.18.5.0/25"), encoding="utf-8")
    run = play("-i", str(site.folder), "harden.yml")
    policy.write_text(good, encoding="utf-8")
    assert run.status != 0
    controller = site.vars["lab_controller"]["lan"][0]
    assert run.summary.count(f"would lock out the running controller, {controller}, on TCP port 22") == 1, (
        run.output
    )
    assert touched(site, shipped) == {}


def touched(site: Site, before: dict[str, dict[str, str]]) -> dict[str, dict[str, tuple[str, str]]]:
    """The devices that are not as they were, and in what."""
    found = {host: differences(before[host], site.snapshot(host)) for host in before}
    return {host: what for host, what in found.items() if what}


# Hosts in trouble


@pytest.mark.parametrize("host", CAUSES)
def test_a_host_in_trouble_is_named_once_with_its_cause_and_what_to_do(host: str, broken: Broken) -> None:
    lines = broken.run.said_of(host)
    assert len(lines) == 1, broken.run.output
    for words in CAUSES[host]:
        assert lines[0].count(words) == 1, lines[0]


def test_the_others_finish_and_the_run_fails(site: Site, broken: Broken) -> None:
    assert broken.run.status != 0
    counts = broken.run.recap("debian13")
    assert (counts["failed"], counts["unreachable"], counts["changed"]) == (0, 0, 5), broken.run.output
    assert "sallyport" in site.sh("debian13", "nft list tables")
    assert not broken.run.said_of("debian13")


@pytest.mark.parametrize("host", UNTOUCHED)
def test_a_host_that_was_stopped_before_its_first_change_is_as_it_was(host: str, broken: Broken) -> None:
    assert differences(broken.before[host], broken.after[host]) == {}


def test_the_summary_gives_a_command_for_just_the_failed_ones(site: Site, broken: Broken) -> None:
    *command, option, hosts = broken.run.again
    assert command == ["ansible-playbook", "-i", str(site.folder), "harden.yml"]
    assert (option, set(hosts.split(","))) == ("--limit", set(CAUSES))


def test_that_very_command_succeeds_once_the_causes_are_mended(retried: Run) -> None:
    assert retried.status == 0, retried.output
    assert retried.summary == ""
    assert not retried.recap("debian13")
    for host in CAUSES:
        assert retried.recap(host)["failed"] == 0
    assert {host for host in CAUSES if retried.recap(host)["changed"] == 0} <= {"ghost"}


def test_the_summary_hides_secrets_of_the_command_line(site: Site, broken: Broken) -> None:
    ghost = ["-i", str(site.folder), "harden.yml", "--limit", "nowhere", "-e", "ansible_password=tell-nobody"]
    site.hosts["nowhere"] = {"ansible_host": nobody(site), "ansible_user": "root"}
    site.groups["busybox"].append("nowhere")
    site.write()
    run = play(*ghost)
    site.groups["busybox"].remove("nowhere")
    site.write()
    assert run.status != 0 and len(run.said_of("nowhere")) == 1, run.output
    assert "tell-nobody" not in run.output
