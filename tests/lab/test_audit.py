"""The audit is green on a hardened fleet and red, by name, for everything that goes wrong behind its back."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab.fleet import CHECKOUT, addresses
from lab.labs import Lab
from lab.podman import run_in

DEVICES = ("debian11", "debian12", "debian13", "vendor")
ABSENT = "absent"
ADMITTED = {"lan": {"22", "80"}, "wan": {"80"}}


@dataclass
class Audit:
    """One run of audit.yml."""

    status: int
    output: str
    evidence: dict[str, Any]
    directory: Path

    def findings(self, device: str, kind: str) -> list[dict[str, Any]]:
        return [f for f in self.evidence["devices"][device]["findings"] if f["kind"] == kind]

    def ports(self, device: str, kind: str, protocol: str = "tcp") -> dict[str, list[str]]:
        """ports -> from where"""
        found = self.findings(device, kind)
        return {f["ports"]: sorted(f["seen_from"]) for f in found if f["protocol"] == protocol}


def play(lab: Lab, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "inventories/lab", *arguments],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        env={**os.environ, "SALLYPORT_LAB": lab.prefix, "ANSIBLE_NOCOLOR": "1"},
    )


def audit(lab: Lab, directory: Path, *arguments: str) -> Audit:
    done = play(lab, "audit.yml", "-e", f"audit_report_dir={directory}", *arguments)
    output = done.stdout + done.stderr
    report = directory / "audit.json"
    assert report.exists(), output
    return Audit(done.returncode, output, json.loads(report.read_text(encoding="utf-8")), directory)


def on(lab: Lab, device: str, command: str) -> str:
    return run_in(lab.container(device), "sh", "-c", command)


@pytest.fixture(scope="module")
def fleet(lab: Lab) -> Iterator[Lab]:
    """Hardened here, and as shipped again for the next module."""
    lab.reset([])
    done = play(lab, "harden.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    yield lab
    lab.reset([])


@pytest.fixture(scope="module")
def green(fleet: Lab, tmp_path_factory: pytest.TempPathFactory) -> Audit:
    return audit(fleet, tmp_path_factory.mktemp("green"))


@pytest.fixture(scope="module")
def red(fleet: Lab, green: Audit, tmp_path_factory: pytest.TempPathFactory) -> Audit:
    """One thing goes wrong on each device, one device is not there, and all are audited in one run."""
    assert green.status == 0, green.output
    password_comes_back(fleet)
    listener_appears(fleet)
    rule_is_removed(fleet)
    telnet_and_a_foreign_rule(fleet)
    work = tmp_path_factory.mktemp("red")
    slot = fleet.slot()
    extra = work / "absent.json"
    where = {network: list(addresses(network, slot, 11)) for network in ("lan", "wan")}
    host = {"ansible_host": where["lan"][0], "ansible_user": "root", "audit_addresses": where}
    extra.write_text(json.dumps({"devices": {"hosts": {ABSENT: host}}}), encoding="utf-8")
    return audit(fleet, work, "-i", str(extra))


def password_comes_back(lab: Lab) -> None:
    on(
        lab,
        "debian11",
        "sed -i -e 's/^PasswordAuthentication .*/PasswordAuthentication yes/' "
        "-e 's/^PermitRootLogin .*/PermitRootLogin yes/' /etc/ssh/sshd_config.d/00-sallyport.conf && "
        "echo root:root | chpasswd && systemctl restart ssh",
    )
    on(lab, "debian12", "echo admin:password | chpasswd")


def listener_appears(lab: Lab) -> None:
    on(lab, "debian12", "setsid python3 -m http.server 443 >/dev/null 2>&1 </dev/null &")


def rule_is_removed(lab: Lab) -> None:
    """The last drop of the input chain: what no rule admits now passes."""
    chain = on(lab, "debian13", "nft -a list chain inet sallyport input")
    handle = re.findall(r"^\s*drop # handle (\d+)$", chain, re.MULTILINE)[-1]
    on(lab, "debian13", f"nft delete rule inet sallyport input handle {handle}")


def telnet_and_a_foreign_rule(lab: Lab) -> None:
    on(
        lab,
        "vendor",
        "printf 'admin\\nadmin\\n' | passwd root && telnetd -p 443 -l /bin/login >/dev/null 2>&1",
    )
    on(lab, "vendor", "iptables -I INPUT -i eth1 -p tcp --dport 80 -j DROP")


def test_a_hardened_fleet_is_green(green: Audit) -> None:
    assert green.status == 0, green.output
    assert green.evidence["verdict"] == "pass"
    assert "AUDIT: 4 of 4 devices are as the policy says" in green.output


@pytest.mark.parametrize("device", DEVICES)
def test_every_device_was_seen_from_both_networks_in_both_families(green: Audit, device: str) -> None:
    sights = green.evidence["devices"][device]["vantages"]
    for network, expected in ADMITTED.items():
        for family in ("ipv4", "ipv6"):
            seen = sights[network]["families"][family]
            assert set(seen["tcp"]["open"].split(",")) == expected
            assert seen["tcp"]["unknown"] == "" == seen["udp"]["unknown"]
            assert seen["passes"][0]["sent"] > 10, "the loss of the full scan was not measured"
            assert seen["error"] == ""


@pytest.mark.parametrize("device", DEVICES)
def test_every_default_login_was_refused_where_ssh_is_open(green: Audit, device: str) -> None:
    sights = green.evidence["devices"][device]["vantages"]
    (trial,) = sights["lan"]["logins"]
    assert (trial["kind"], trial["accepted"], trial["not_assessed"]) == ("ssh", [], 0)
    assert trial["refused"] > 30
    assert sights["wan"]["logins"] == []


def test_the_report_is_there_for_people_and_for_ci(green: Audit) -> None:
    suites = ElementTree.parse(green.directory / "audit.xml").getroot()
    assert [suite.get("name") for suite in suites] == list(green.evidence["devices"])
    assert {(s.get("failures"), s.get("errors")) for s in suites} == {("0", "0")}
    page = (green.directory / "audit.html").read_text(encoding="utf-8")
    assert "4 of 4 devices are as the policy says" in page


def test_a_run_with_differences_fails_and_names_every_host(red: Audit) -> None:
    assert red.status == 2, red.output
    line = next(line for line in red.output.splitlines() if line.startswith("AUDIT: "))
    assert line.startswith("AUDIT: 0 of 5 devices")
    assert all(device in line for device in (*DEVICES, ABSENT))


def test_a_rogue_listener_on_an_admitted_port_is_red(red: Audit) -> None:
    assert red.ports("debian12", "undeclared_listener") == {"443": ["lan ipv4", "wan ipv4"]}
    assert "python3" in red.findings("debian12", "undeclared_listener")[0]["message"]


def test_a_rule_removed_behind_its_back_is_red_from_the_network_and_on_the_device(red: Audit) -> None:
    ((ports, where),) = red.ports("debian13", "let_through").items()
    assert where == ["lan ipv4", "lan ipv6", "wan ipv4", "wan ipv6"]
    assert ports == "1-21,23-79,81-442,444-65535" or len(ports) > 1000
    assert red.ports("debian13", "exposed")["22"] == ["wan ipv4", "wan ipv6"]
    assert "the live rules" in red.findings("debian13", "drift")[0]["message"]


def test_a_default_password_that_returns_is_red_by_login_and_by_hash(red: Audit) -> None:
    (login,) = red.findings("debian11", "default_login")
    assert (login["ports"], login["seen_from"]) == ("22", ["lan ipv4"])
    assert "'root'" in login["message"]
    assert "account 'root'" in red.findings("debian11", "default_password")[0]["message"]


def test_a_default_password_behind_closed_doors_is_red_by_hash(red: Audit) -> None:
    assert red.findings("debian12", "default_login") == []
    assert "account 'admin'" in red.findings("debian12", "default_password")[0]["message"]


def test_a_telnet_login_on_an_admitted_port_is_red_and_lets_in(red: Audit) -> None:
    every = ["lan ipv4", "lan ipv6", "wan ipv4", "wan ipv6"]
    assert red.ports("vendor", "telnet") == {"443": every}
    assert red.ports("vendor", "default_login") == {"443": ["lan ipv4", "wan ipv4"]}


def test_a_foreign_rule_that_drops_what_the_policy_admits_is_red(red: Audit) -> None:
    assert red.ports("vendor", "lost") == {"80": ["wan ipv4"]}


def test_a_device_that_is_not_there_is_a_named_failure_and_stops_nobody(red: Audit) -> None:
    (finding,) = red.findings(ABSENT, "unreachable")
    assert finding["weight"] == "difference"
    assert red.evidence["devices"][ABSENT]["reached"] is False


def test_no_password_is_in_any_report(red: Audit) -> None:
    for path in red.directory.glob("audit.*"):
        text = path.read_text(encoding="utf-8")
        assert "xc3511" not in text
        assert "juantech" not in text
    assert "xc3511" not in red.output
