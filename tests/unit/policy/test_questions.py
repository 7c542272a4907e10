"""Exposure, explain, compare and the filters: what an operator reads."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import (
    cidrs,
    compare,
    explain,
    exposure,
    flows,
    load,
    report,
    versions,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.judge import Packet, judge
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import HostPolicy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.policy import strategies as own

ROOT = Path(__file__).parents[3]
NOW = "2026-11-22"
SITE: dict[str, Any] = {
    "zones": {"mgmt": {"cidrs": ["198.51.100.0/25"], "interfaces": ["eth0"]}},
    "inbound": [
        {"name": "operators", "allow": ["ssh"], "from": ["mgmt"]},
        {"name": "panel", "allow": ["https"], "from": ["mgmt", "10.0.0.0/8"], "rate": "50/second"},
        {"name": "printer", "reject": ["ssh"], "from": ["10.0.0.0/8"]},
    ],
    "defaults": {"ping": {"from": "any"}},
}


def resolved(site: Any = SITE) -> load.Resolved:
    return load.load_host(None, "gw1", variables={"sallyport_policy__00_x": site}, now=date(2026, 11, 22))


def call(name: str, *arguments: Any, **options: Any) -> Any:
    module = importlib.import_module(f"ansible_collections.sallyport.iot.plugins.filter.{name}")
    return module.FilterModule().filters()[name](*arguments, **options)


def test_exposure_from_one_vantage_names_ports_rates_and_what_is_rejected() -> None:
    policy = resolved().tentative
    inside = exposure.for_vantage(policy, "198.51.100.9", "eth0")
    assert inside["tcp"] == ((22, 22), (443, 443))
    assert inside["icmp"] == ((8, 8),)
    assert inside["udp"] == ()
    assert [(kind, ports, rate.count) for kind, ports, rate in inside["rates"]] == [
        ("tcp", ((443, 443),), 50)
    ]
    assert exposure.for_vantage(policy, "198.51.100.9", "eth1")["tcp"] == ()
    other = exposure.for_vantage(policy, "10.1.1.1", "eth1")
    assert other["tcp"] == ((443, 443),)
    assert other["rejected"] == {"tcp": ((22, 22),)}
    assert exposure.for_vantage(policy, "2001:db8::1", "eth0")["tcp"] == ()


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(own.policies(), st.sampled_from(own.INTERFACES), st.integers(0, 9))
def test_exposure_says_what_the_single_packet_says(policy: HostPolicy, interface: str, offset: int) -> None:
    source, target = own.TENS + offset, own.TENS + 1
    seen = exposure.for_vantage(
        policy,
        cidrs.address_text("ipv4", source),
        interface,
        cidrs.address_text("ipv4", target),
        own.TODAY,
    )
    for kind, protocol, ports in (("tcp", 6, own.PORTS), ("udp", 17, own.PORTS), ("icmp", 1, (0, 3, 5, 8))):
        for port in ports:
            packet = Packet("inbound", "ipv4", source, target, protocol, port, 40000, interface)
            passes = any(low <= port <= high for low, high in seen[kind])  # type: ignore[literal-required]
            assert passes == (judge(policy, packet, own.TODAY).verdict == "allow"), (kind, port)


def test_explain_names_the_line_and_why_earlier_rules_did_not_match() -> None:
    site = resolved()
    question = explain.Question("10.1.1.1", "ssh", interface="eth1")
    (answer,) = explain.ask(site.tentative, site.services, site.zones, question)
    assert (answer.outcome.verdict, answer.outcome.name) == ("reject", "printer")
    assert [(rule.name, why) for rule, why in answer.passed_over] == [
        ("operators", "another source"),
        ("panel", "another service"),
    ]
    text = explain.as_text(question, [answer])
    assert "rejected by rule `printer` (sallyport_policy__00_x.inbound[2].name)" in text


def test_explain_names_a_zone_only_where_it_counts() -> None:
    site = SITE | {"zones": SITE["zones"] | {"cell": {"interfaces": ["wwan*"]}}}
    found = resolved(site)
    for interface, zones in (("eth0", ["mgmt"]), ("wwan0", ["cell"]), ("eth1", [])):
        question = explain.Question("198.51.100.9", "tcp/443", interface=interface)
        (answer,) = explain.ask(found.tentative, found.services, found.zones, question)
        assert list(answer.zones) == zones


def test_explain_answers_for_each_interface_that_matters() -> None:
    site = resolved()
    answers = explain.ask(
        site.tentative, site.services, site.zones, explain.Question("198.51.100.9", "tcp/22")
    )
    assert [(one.interfaces, one.outcome.step) for one in answers] == [
        (("eth0",), "rule"),
        (("other",), "spoofed"),
    ]


@pytest.mark.parametrize(
    ("question", "says"),
    [
        (explain.Question("10.0.0.0/8", "ssh"), "is a network"),
        (explain.Question("nowhere", "ssh"), "no address"),
        (explain.Question("10.0.0.1", "shh"), "did you mean `ssh`"),
        (explain.Question("10.0.0.1", "tcp/70000"), "above 65535"),
        (explain.Question("10.0.0.1", "ssh", "2001:db8::1"), "one family"),
    ],
)
def test_a_bad_question_says_what_was_expected(question: explain.Question, says: str) -> None:
    site = resolved()
    with pytest.raises(explain.BadQuestion, match=says):
        explain.ask(site.tentative, site.services, site.zones, question)


def test_compare_says_who_gains_and_who_loses_in_each_form() -> None:
    newer = json.loads(json.dumps(SITE))
    newer["inbound"][0]["from"] = ["mgmt", "192.0.2.0/24"]
    newer["inbound"][1]["rate"] = "5/second"
    newer["inbound"].pop()
    old, new = resolved(), resolved(newer)
    found = compare.compare(old.tentative, new.tentative, new.services)
    lines = {(line.change.kind, tuple(line.services)): line for line in compare.lines(found)}
    gained = lines["gained", ("ssh",)].change
    assert cidrs.texts(cidrs.parse(["192.0.2.0/24"])) == compare.cidr_texts("ipv4", gained.addresses)
    assert gained.example == "tcp 192.0.2.0 to any port 22"
    assert ("changed", ("https",)) in lines
    assert ("changed", ("ssh",)) in lines, "rejected before, dropped now"
    assert not any(kind == "lost" for kind, _services in lines)
    markdown = compare.as_markdown(found)
    assert "| gained | ssh | from 192.0.2.0/24 | inbound ipv4 on eth0, other |" in markdown
    assert "gained  ssh: from 192.0.2.0/24" in compare.as_text(found)
    assert {one["kind"] for one in compare.as_data(found)["changes"]} == {"gained", "changed"}
    assert not compare.compare(old.tentative, old.tentative, {})


def test_compare_of_blocklists_counts_and_shows_the_first(tmp_path: Path) -> None:
    for name, lines in (("old", "203.0.113.0/24\n"), ("new", "203.0.113.0/25\n192.0.2.1\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "fleet.yml").write_text("blocklists: [{name: bad, file: bad.netset}]\n")
        (tmp_path / name / "bad.netset").write_text(lines)
    old, new = (load.load_host(str(tmp_path / name), "gw1").tentative for name in ("old", "new"))
    text = compare.as_text(compare.compare(old, new, {}))
    assert "list bad: +1 addresses: 192.0.2.1/32" in text
    assert "list bad: -128 addresses: 203.0.113.128/25" in text


def test_compare_shows_what_nat_does_otherwise() -> None:
    """Masquerading and MSS clamping change no verdict, and a gateway all the same."""

    def site(nat: dict[str, Any]) -> load.Resolved:
        return load.load_host(None, "gw1", variables={"sallyport_policy__00_x": SITE | {"nat": nat}})

    old = site({"masquerade": ["eth0", "ppp*"]})
    new = site({"masquerade": ["eth0", "wwan0"], "clamp_mss": True})
    found = compare.compare(old.tentative, new.tentative, new.services)
    assert found and not found.every
    text = compare.as_text(found)
    assert (
        "nat masquerade: +wwan0: what is forwarded out there now leaves with this device's own IPv4" in text
    )
    assert "nat masquerade: -ppp*: what is forwarded out there now leaves with its sender's own IPv4" in text
    assert "nat clamp_mss: +any: forwarded TCP now learns" in text
    markdown = compare.as_markdown(found)
    assert "- nat `masquerade`: +wwan0: what" in markdown and "- nat `masquerade`: -ppp*: what" in markdown
    assert compare.as_data(found)["nat"] == [
        {"setting": "masquerade", "added": ["wwan0"], "removed": ["ppp*"]},
        {"setting": "clamp_mss", "added": ["any"], "removed": []},
    ]
    back = compare.compare(new.tentative, old.tentative, new.services)
    assert "nat clamp_mss: -any: forwarded TCP no longer learns" in compare.as_text(back)
    assert not compare.compare(old.tentative, old.tentative, old.services)


def test_where_a_published_port_leads_is_part_of_every_answer() -> None:
    def site(to: str) -> load.Resolved:
        publish = {"publish": [{"name": "hmi", "port": 443, "to": to}]}
        return load.load_host(None, "gw1", variables={"sallyport_policy__00_x": SITE | {"nat": publish}})

    old, new = site("10.20.0.9:443"), site("10.20.0.8:443")
    assert old.policy and new.policy
    found = compare.compare(old.tentative, new.tentative, new.services)
    text = compare.as_text(found)
    assert "gained  https" in text and "which leads to 10.20.0.8:443" in text
    assert "lost    https" in text and "which leads to 10.20.0.9:443" in text
    assert "which leads to 10.20.0.8:443" in compare.as_markdown(found)
    assert {one["target"] for one in compare.as_data(found)["changes"]} == {"10.20.0.8:443", "10.20.0.9:443"}
    openings = report.opening_data(exposure.openings(new.tentative, new.services))
    led = [one for one in openings if one["hook"] == "published"]
    assert {(one["service"], one["target"]) for one in led} == {("https", "10.20.0.8:443")}
    assert "leads to 10.20.0.8:443" in report.openings_text("gw1", openings)
    assert "leads to 10.20.0.8:443" in report.openings_markdown("gw1", openings)
    # Explained, it is judged as the kernel judges it: by the rules for the original port, and else dropped.
    policy = replace(new.tentative, defaults=replace(new.tentative.defaults, inbound="allow"))
    asked = explain.Question("198.51.100.9", "tcp/443", interface="eth0")
    (answer,) = explain.ask(policy, new.services, new.zones, asked)
    assert (answer.outcome.verdict, answer.outcome.step) == ("allow", "rule")
    assert "tcp/443 on eth0" in explain.as_text(asked, [answer])
    assert "it leads to 10.20.0.8:443" in explain.as_text(asked, [answer])
    assert explain.as_data([answer])[0]["leads_to"] == "10.20.0.8:443"
    bare = replace(policy, inbound=())
    (answer,) = explain.ask(bare, new.services, new.zones, asked)
    assert (answer.outcome.verdict, answer.outcome.step) == ("deny", "default")
    other = replace(asked, service="tcp/444")
    (answer,) = explain.ask(bare, new.services, new.zones, other)
    assert (answer.outcome.verdict, explain.as_data([answer])[0]["leads_to"]) == ("allow", "")


@pytest.mark.parametrize("known", ["device", "inventory"])
def test_a_port_that_leads_to_one_of_our_own_is_judged_by_the_port_that_was_asked_for(known: str) -> None:
    """As in the kernel, which tests/kernel/test_behaviour.py asks."""
    publish = {"publish": [{"name": "panel", "port": 8443, "to": "10.20.0.1:443"}]}

    def site(allowed: str, to: str = "10.20.0.1:443", inbound: str = "drop") -> load.Resolved:
        publish["publish"][0]["to"] = to
        layer = {
            "nat": publish,
            "services": {"asked": {"tcp": [8443]}, "led": {"tcp": [443]}},
            "inbound": [{"name": "web", "allow": [allowed]}],
            "defaults": {"inbound": inbound, "reason": "trial"},
        }
        addresses: dict[str, Any] = {"inventory": {"gw1": ["10.20.0.1"]}}
        if known == "device":
            addresses = {"device": {"interfaces": [{"name": "eth0", "addresses": ["10.20.0.1/24"]}]}}
        return load.load_host(None, "gw1", variables={"sallyport_policy__00_x": layer}, **addresses)

    def asked(found: load.Resolved, port: int, interface: str = "eth0") -> tuple[str, str]:
        question = explain.Question("198.51.100.9", f"tcp/{port}", interface=interface)
        (answer,) = explain.ask(found.tentative, found.services, found.zones, question)
        return answer.outcome.verdict, explain.as_data([answer])[0]["leads_to"]

    by_target, by_original = site("led"), site("asked")
    assert asked(by_target, 8443) == ("deny", "10.20.0.1:443")
    assert asked(by_target, 443) == ("allow", "")
    assert asked(by_original, 8443) == ("allow", "10.20.0.1:443")
    assert asked(by_original, 443) == ("deny", "")
    for found, closed in ((by_target, True), (by_original, False)):
        assert ("publish-closed" in {one.id for one in found.findings}) is closed
        passing = exposure.for_vantage(found.tentative, "198.51.100.9", "eth0")["tcp"]
        assert passing == (((443, 443),) if closed else ((8443, 8443),))
    # What no rule admits of a translated port is dropped, however open the rest is.
    opened = site("led", inbound="allow")
    assert asked(opened, 8443)[0] == "deny" and asked(opened, 8442)[0] == "allow"
    assert exposure.for_vantage(opened.tentative, "198.51.100.9", "eth0")["tcp"] == ((0, 8442), (8444, 65535))
    # What a container sends elsewhere obeys what holds for containers, translated or not.
    for found, leads in ((by_original, True), (site("asked", "10.20.0.9:443"), False)):
        for outbound in ("allow", "drop"):
            policy = replace(
                found.tentative, container_bridges=("pod0",), bridges=("pod0",), containers_outbound=outbound
            )
            verdict, to = asked(replace(found, tentative=policy), 8443, "pod0")
            assert verdict == ("allow" if leads or outbound == "allow" else "deny")
            assert to == ("10.20.0.1:443" if leads else "10.20.0.9:443")
            led = [flow for flow, _to in flows.translations(flows.Model(policy), [policy])]
            assert ("pod0" in {flow.in_interface for flow in led}) is leads
            # Nobody reaches 8443 of the device itself, so it stands there once: as what is published.
            rows = [
                one
                for one in exposure.openings(policy, found.services)
                if one.ports == (8443, 8443) and one.family == "ipv4"
            ]
            assert {(one.hook, bool(one.target)) for one in rows if one.target or one.hook == "inbound"} == {
                ("published", True)
            }


def test_icmp_that_starts_no_flow_passes_in_no_answer() -> None:
    """Connection tracking calls it invalid, so no rule is ever asked: tests/kernel/test_equivalence.py."""
    layer = SITE | {
        "services": {"all": {"icmp": ["0-254"], "icmpv6": ["0-255"]}},
        "inbound": [{"name": "all of it", "allow": ["all"]}],
    }
    found = load.load_host(None, "gw1", variables={"sallyport_policy__00_x": layer})
    policy = found.tentative
    assert exposure.for_vantage(policy, "198.51.100.9", "eth0")["icmp"] == (
        (8, 8),
        (13, 13),
        (15, 15),
        (17, 17),
    )
    six = exposure.for_vantage(policy, "2001:db8::9")["icmpv6"]
    assert six == ((128, 128), (130, 136), (139, 139), (143, 143), (151, 153))
    asked = explain.Question("198.51.100.9", "icmp/9", interface="eth0")
    (answer,) = explain.ask(policy, found.services, found.zones, asked)
    assert (answer.outcome.verdict, answer.outcome.step) == ("deny", "invalid")
    assert "no flow begins with it" in explain.as_text(asked, [answer])


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_a_git_revision_is_the_policy_as_it_was(tmp_path: Path) -> None:
    policy = tmp_path / "site/policy"
    policy.mkdir(parents=True)
    git(tmp_path, "init", "-q")
    (policy / "fleet.yml").write_text("zones: {}\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    (policy / "fleet.yml").write_text("zones: {a: {cidrs: [10.0.0.0/8]}}\n")
    with versions.folder_of("HEAD", str(policy)) as folder:
        assert (Path(folder) / "fleet.yml").read_text() == "zones: {}\n"
    assert not Path(folder).exists()
    with versions.folder_of(str(policy), str(policy)) as folder:
        assert folder == str(policy)
    for name in ("nope", "--output=/tmp/x", "HEAD;id"):
        with (
            pytest.raises(versions.NoSuchVersion, match="neither a folder nor a git revision"),
            versions.folder_of(name, str(policy)),
        ):
            pass


def test_a_revision_is_read_whole_whatever_its_attributes_say(tmp_path: Path) -> None:
    policy = tmp_path / "policy"
    (policy / "hosts").mkdir(parents=True)
    git(tmp_path, "init", "-q")
    (policy / ".gitattributes").write_text("hosts export-ignore\nfleet.yml export-subst\n")
    (policy / "fleet.yml").write_text("# $Format:%H$\n")
    (policy / "hosts/gw1.yml").write_text("# h\u00f6st\n")
    (policy / "hosts/empty.yml").write_text("")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    with versions.folder_of("HEAD", str(policy)) as folder:
        for name in ("fleet.yml", "hosts/gw1.yml", "hosts/empty.yml"):
            assert (Path(folder) / name).read_bytes() == (policy / name).read_bytes()
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(versions.NoSuchVersion, match="holds"), versions.folder_of("HEAD", str(other)):
        pass
    (policy / "hosts/gw2.yml").symlink_to("/etc/hostname")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "a link")
    with (
        pytest.raises(versions.NoSuchVersion, match="holds the link"),
        versions.folder_of("HEAD", str(policy)),
    ):
        pass


# Filters


def test_the_cidr_filters_do_everyday_work() -> None:
    assert call("cidr_merge", ["10.0.1.0/24", "10.0.0.0/24", "2001:db8::/32", "2001:db8:1::1"]) == [
        "10.0.0.0/23",
        "2001:db8::/32",
    ]
    assert call("cidr_merge", "10.0.0.1") == ["10.0.0.1/32"]
    assert call("cidr_merge", []) == []
    assert call("cidr_subtract", ["10.0.0.0/24"], ["10.0.0.128/26"]) == ["10.0.0.0/25", "10.0.0.192/26"]
    assert call("cidr_intersect", ["10.0.0.0/24"], ["10.0.0.128/25", "10.9.0.0/16"]) == ["10.0.0.128/25"]
    assert call("cidr_overlaps", ["10.0.0.0/24"], ["10.0.0.7"]) is True
    assert call("cidr_contains", ["10.0.0.0/24", "10.0.1.0/25"], ["10.0.0.0/23"]) is False
    assert call("cidr_contains", ["10.0.0.0/24", "10.0.1.0/24"], ["10.0.0.0/23"]) is True
    assert call("cidr_nearest", ["10.0.0.0/24", "10.0.3.7", "fd00::1"]) == ["10.0.0.0/22", "fd00::1/128"]
    assert call("cidr_normalise", ["10.0.0.7/24", "2001:DB8:0::1/128"]) == ["10.0.0.0/24", "2001:db8::1"]


ALL4, ALL6 = "0.0.0.0/0", "::/0"


@pytest.mark.parametrize(
    ("name", "given", "gives"),
    [
        ("cidr_merge", [[ALL4, ALL6, "1.2.3.4", "::1"]], [ALL4, ALL6]),
        ("cidr_merge", [["0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"]], [ALL4, ALL6]),
        ("cidr_merge", [["255.255.255.255", "255.255.255.254/32"]], ["255.255.255.254/31"]),
        ("cidr_merge", [["::1.2.3.4"]], ["::102:304/128"]),
        ("cidr_merge", [("10.0.0.1",)], ["10.0.0.1/32"]),
        ("cidr_merge", [iter(["10.0.0.1"])], ["10.0.0.1/32"]),
        ("cidr_subtract", [[ALL4, ALL6], [ALL4]], [ALL6]),
        ("cidr_subtract", [[ALL4], [ALL6]], [ALL4]),
        ("cidr_subtract", [[], [ALL4]], []),
        ("cidr_subtract", [[ALL4], []], [ALL4]),
        ("cidr_subtract", [ALL4, "128.0.0.0/1"], ["0.0.0.0/1"]),
        ("cidr_intersect", [[ALL4, ALL6], ["::1", "1.1.1.1"]], ["1.1.1.1/32", "::1/128"]),
        ("cidr_intersect", [[ALL4], [ALL6]], []),
        ("cidr_intersect", [[], []], []),
        ("cidr_overlaps", [[ALL4], [ALL6]], False),
        ("cidr_overlaps", [ALL4, "255.255.255.255"], True),
        ("cidr_overlaps", [[], [ALL4]], False),
        ("cidr_contains", [[ALL4, ALL6], ["::1", "1.1.1.1"]], True),
        ("cidr_contains", [[ALL4], [ALL6]], False),
        ("cidr_contains", [[], []], True),
        ("cidr_contains", [[], ["1.1.1.1"]], False),
        ("cidr_nearest", [[]], []),
        ("cidr_nearest", [[ALL4, ALL6]], [ALL4, ALL6]),
        ("cidr_nearest", [["0.0.0.0", "255.255.255.255", "::", "ffff::"]], [ALL4, ALL6]),
        ("cidr_nearest", ["10.1.2.3", ["10.0.0.0/8", "10.1.0.0/16", "10.2.0.0/16", ALL6]], ["10.1.0.0/16"]),
        ("cidr_nearest", [["10.1.2.3", "10.2.0.1", "::1"], ["10.1.0.0/16", "10.0.0.0/8", ALL6]], ["10.0.0.0/8", ALL6]),
        ("cidr_nearest", ["10.1.2.3", ["10.2.0.0/16"]], []),
        ("cidr_nearest", ["10.1.2.3", []], []),
        ("cidr_normalise", [["10.0.0.7/0", "10.0.0.7/255.0.0.0", "10.0.0.7/255.255.255.255"]], [ALL4, "10.0.0.0/8", "10.0.0.7"]),
        ("cidr_normalise", [[" 1.2.3.4\n", "::/0", "fe80::1/64"]], ["1.2.3.4", ALL6, "fe80::/64"]),
    ],
    ids=lambda value: repr(value).split(" object at")[0],
)  # fmt: skip
def test_the_cidr_filters_hold_at_their_edges(name: str, given: list[Any], gives: Any) -> None:
    assert call(name, *given) == gives


@pytest.mark.parametrize("other", [None, 7, {"10.0.0.0/8": 1}, ["10.0.0.1/8"], [None]], ids=repr)
@pytest.mark.parametrize(
    "name", ["cidr_subtract", "cidr_intersect", "cidr_overlaps", "cidr_contains", "cidr_nearest"]
)
def test_what_is_compared_with_is_read_as_strictly(name: str, other: Any) -> None:
    if name == "cidr_nearest" and other is None:
        return
    with pytest.raises(AnsibleFilterError, match=name):
        call(name, ["10.0.0.0/8"], other)


def test_an_entry_of_the_wrong_type_is_named_by_its_place() -> None:
    with pytest.raises(AnsibleFilterError, match="entry 2 is no text but int: 7"):
        call("cidr_merge", ["10.0.0.0/8", 7])


@pytest.mark.parametrize("value", [7, b"10.0.0.0", None, {"a": 1}, [7], ["10.0.0.1/8"], ["x"]], ids=repr)
@pytest.mark.parametrize("name", ["cidr_merge", "cidr_nearest", "cidr_normalise"])
def test_cidr_filters_refuse_what_is_no_list_of_cidrs(name: str, value: Any) -> None:
    if name == "cidr_normalise" and value == ["10.0.0.1/8"]:
        return
    with pytest.raises(AnsibleFilterError, match=name):
        call(name, value)


def test_the_policy_filters_take_a_map_layers_or_a_folder(tmp_path: Path) -> None:
    assert call("policy_findings", SITE, now=NOW) == []
    more = {"outbound": [{"name": "x", "allow": ["nope"]}]}
    assert [one["id"] for one in call("policy_findings", [SITE, more], now=NOW)] == ["unknown-service"]
    (tmp_path / "fleet.yml").write_text(yaml.safe_dump(SITE))
    assert call("policy_findings", str(tmp_path), now=NOW) == []
    assert call("policy_resolve", SITE, now=NOW)["zones"]["mgmt"] == {
        "cidrs": ["198.51.100.0/25"],
        "interfaces": ["eth0"],
    }
    assert call("policy_exposure", SITE, "198.51.100.9", interface="eth0", now=NOW)["tcp"] == ["22", "443"]
    assert {one["service"] for one in call("policy_exposure", SITE, now=NOW)} == {"ssh", "https", "ping"}
    assert call("policy_explain", SITE, source="10.1.1.1", service="ssh", now=NOW)[0]["verdict"] == "reject"
    assert "No difference" in call("policy_compare", SITE, SITE, form="markdown", now=NOW)
    assert "table inet sallyport" in call("policy_nftables", SITE, now=NOW)
    assert set(call("policy_iptables", SITE, ipset=False, now=NOW)) == {"v4", "v6"}


def test_the_policy_filters_refuse_a_policy_with_errors_by_its_findings() -> None:
    for name in ("policy_resolve", "policy_nftables", "policy_iptables", "policy_exposure"):
        with pytest.raises(AnsibleFilterError, match="unknown-zone"):
            call(name, {"inbound": [{"name": "x", "allow": ["ssh"], "from": ["nowhere"]}]})
    for options in (
        {"nonsense": 1},
        {"groups": 7},
        {"now": "soon"},
        {"management_ports": ["x"]},
        {"device": []},
    ):
        with pytest.raises(AnsibleFilterError, match="policy_findings"):
            call("policy_findings", SITE, **(options | ({"device": [1]} if "device" in options else {})))


def test_every_filter_is_documented_for_ansible_doc() -> None:
    names = sorted(
        path.stem
        for path in (ROOT / "plugins/filter").glob("*.py")
        if path.stem.startswith(("cidr", "policy"))
    )
    assert len(names) == 14
    for name in names:
        path = ROOT / f"plugins/filter/{name}.py"
        assert path.is_symlink() and path.resolve() == ROOT / f"filter_plugins/{name}.py"
    program = str(Path(sys.executable).with_name("ansible-doc"))
    command = [program, "-t", "filter", "-j", *(f"sallyport.iot.{name}" for name in names)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    documented = json.loads(done.stdout)
    for name in names:
        entry = documented[f"sallyport.iot.{name}"]
        assert (
            entry["examples"].strip() and entry["return"] and entry["doc"]["options"]["_input"]["description"]
        )


def test_every_finding_of_the_code_stands_in_the_reference() -> None:
    used: set[str] = set()
    for path in (ROOT / "plugins/plugin_utils/policy").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            said = [keyword.value for keyword in node.keywords if keyword.arg == "identity"]
            if called in ("add", "warn", "Finding", "refuse", "Number"):
                said += node.args[:1] if called != "Number" else node.args[2:3]
            used.update(
                one.value for one in said if isinstance(one, ast.Constant) and isinstance(one.value, str)
            )
    sections = {"nat", "traps", "defaults", "blocklists"}
    used = {one for one in used - sections if "_" not in one and len(one) > 2}
    reference = (ROOT / "docs/policy.md").read_text()
    assert len(used) > 40
    assert sorted(one for one in used if f"`{one}`" not in reference) == []
