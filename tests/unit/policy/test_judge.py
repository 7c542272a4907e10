"""Each step of "What happens to a packet" in docs/policy.md, by a packet that only this step decides."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import cidrs
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.judge import (
    ICMP,
    ICMPV6,
    TCP,
    UDP,
    Outcome,
    Packet,
    interface_matches,
    judge,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import (
    Addresses,
    Blocklist,
    Defaults,
    Endpoint,
    HostPolicy,
    Log,
    Ping,
    Rate,
    Rule,
    ServiceSet,
    Traps,
)


def number(text: str) -> int:
    return cidrs.parse_one(text)[1]


def ends(*texts: str, on: tuple[str, ...] = ()) -> tuple[Endpoint, ...]:
    return (Endpoint(cidrs.parse(texts), on),)


SSH, WEB, EVERY = ServiceSet(tcp=((22, 22),)), ServiceSet(tcp=((80, 80),)), ServiceSet(any=True)
POLICY = HostPolicy(
    "gw1",
    inbound=(
        Rule("operators", "allow", SSH, ends("10.0.0.0/24", "fd00::/64")),
        Rule("guests", "deny", EVERY, ends("10.6.0.0/16")),
        Rule("web", "allow", WEB, rate=Rate(5, 1), until=date(2027, 1, 31)),
    ),
    outbound=(Rule("no telnet", "reject", ServiceSet(tcp=((23, 23),)), log=True),),
    forward=(
        Rule("any web", "allow", WEB),
        Rule("to pod", "allow", SSH, destinations=ends("172.17.0.2")),
    ),
    container_bridges=("docker0", "docker1"),
    bridges=("br0", "docker0", "docker1"),
    container_addresses=(Endpoint(cidrs.parse(["172.17.0.1"]), ("docker0",)),),
    defaults=Defaults(ping=Ping(ends("10.0.0.0/8"), Rate(9, 1))),
    blocklists=(Blocklist("bad", cidrs.parse(["203.0.113.0/24"]), ("eth0",), both=True),),
    antispoof=ends("10.0.0.0/24", on=("eth1",)),
    traps=Traps(((23, 23), (80, 80))),
    log=Log(Rate(1, 1)),
)
IN = Packet("inbound", "ipv4", number("10.0.0.9"), number("198.51.100.1"), TCP, 22, 40000, "eth1")
OUT = Packet("outbound", "ipv4", number("198.51.100.1"), number("10.0.0.9"), TCP, 443, 40000, "", "eth0")
THROUGH = Packet("forward", "ipv4", number("10.0.0.9"), number("10.9.0.9"), TCP, 80, 40000, "eth1", "eth0")
POD = replace(THROUGH, out_interface="docker0", destination=number("172.17.0.2"))
FROM_POD = replace(THROUGH, in_interface="docker0", source=number("172.17.0.2"))
SIX = Packet("inbound", "ipv6", number("fe80::9"), number("ff02::1"), ICMPV6, 135, 0, "eth0", hop_limit=255)
DHCP = Packet("inbound", "ipv4", number("10.9.0.1"), number("10.9.0.9"), UDP, 68, 67, "eth0")
DHCP6 = Packet("inbound", "ipv6", number("fe80::1"), number("fe80::9"), UDP, 546, 547, "eth0")
STRANGER = number("192.0.2.9")
BANNED = cidrs.parse(["10.0.0.9"])

CASES: list[tuple[str, Packet, str, str]] = [
    ("loopback passes", replace(IN, in_interface="lo", source=STRANGER, port=9), "allow", "loopback"),
    ("inside one bridge passes", replace(THROUGH, in_interface="br0", out_interface="br0", port=9), "allow", "bridge"),
    ("back out of a port is filtered", replace(THROUGH, in_interface="eth0", out_interface="eth0", port=9, source=STRANGER), "deny", "default"),
    ("established passes", replace(IN, state="established", syn=False, port=9), "allow", "established"),
    ("a related ICMP error passes", replace(IN, state="related", protocol=ICMP, port=3), "allow", "related"),
    ("a related flow is judged as new", replace(IN, state="related", port=9), "deny", "default"),
    ("a related redirect is dropped", replace(IN, state="related", protocol=ICMP, port=5), "deny", "redirect"),
    ("neighbour discovery passes", SIX, "allow", "essential"),
    ("neighbour discovery from afar is dropped", replace(SIX, hop_limit=64), "deny", "redirect"),
    ("an IPv6 redirect is dropped", replace(SIX, port=137), "deny", "redirect"),
    ("listener discovery passes", replace(SIX, port=143, hop_limit=1), "allow", "essential"),
    ("IGMP to multicast passes", replace(IN, protocol=2, port=0, destination=number("224.0.0.1")), "allow", "essential"),
    ("other IGMP does not", replace(IN, protocol=2, port=0), "deny", "default"),
    ("a DHCP answer passes", DHCP, "allow", "essential"),
    ("a DHCP request does not come in", replace(DHCP, port=67, source_port=68), "deny", "default"),
    ("a DHCPv6 answer passes from the link", DHCP6, "allow", "essential"),
    ("a DHCPv6 answer from afar does not", replace(DHCP6, source=number("2001:db8::1")), "deny", "default"),
    ("an invalid packet is dropped", replace(IN, state="invalid"), "deny", "invalid"),
    ("a new TCP packet without SYN is dropped", replace(IN, syn=False), "deny", "invalid"),
    ("an untracked SYN counts as new", replace(IN, state="untracked"), "allow", "rule"),
    ("a zone's address on another interface is spoofed", replace(IN, in_interface="eth0"), "deny", "spoofed"),
    ("0.0.0.0 is nobody's", replace(IN, source=0, in_interface="eth0"), "deny", "default"),
    ("a listed source is dropped", replace(IN, source=number("203.0.113.5"), in_interface="eth0", port=80), "deny", "blocklist"),
    ("a list stands on its interfaces only", replace(IN, source=number("203.0.113.5"), port=80), "allow", "rule"),
    ("a rule admits", IN, "allow", "rule"),
    ("a deny ends the search before the trap", replace(IN, source=number("10.6.0.1"), port=23), "deny", "rule"),
    ("a rule's port is no trap", replace(IN, source=STRANGER, port=80), "allow", "rule"),
    ("what no rule decided may be a trap", replace(IN, source=STRANGER, port=23), "deny", "trap"),
    ("ping passes from where it may", replace(IN, protocol=ICMP, port=8, source=number("10.9.9.9")), "allow", "ping"),
    ("ping from elsewhere does not", replace(IN, protocol=ICMP, port=8, source=STRANGER), "deny", "default"),
    ("a deny of any stops ping", replace(IN, protocol=ICMP, port=8, source=number("10.6.0.1")), "deny", "rule"),
    ("the default decides the rest", replace(IN, port=9), "deny", "default"),
    ("outbound passes by default", OUT, "allow", "default"),
    ("outbound rules come first", replace(OUT, port=23), "reject", "rule"),
    ("a list for both ways stops calls to it", replace(OUT, destination=number("203.0.113.5")), "deny", "blocklist"),
    ("a DHCP request goes out", replace(OUT, protocol=UDP, port=67, source_port=68), "allow", "essential"),
    ("the device reaches its containers", replace(OUT, out_interface="docker0", port=23), "allow", "containers"),
    ("a forward rule admits", THROUGH, "allow", "rule"),
    ("forward is closed by default", replace(THROUGH, port=9), "deny", "default"),
    ("neighbour discovery is never forwarded", replace(SIX, hook="forward", out_interface="eth1", hop_limit=254), "deny", "redirect"),
    ("a rule to anywhere does not open containers", POD, "deny", "containers"),
    ("a rule that names the container does", replace(POD, port=22), "allow", "rule"),
    ("a published port obeys the inbound rule for the original port", replace(POD, port=8080, original_destination=number("198.51.100.1"), original_port=22), "allow", "rule"),
    ("a published port without one is closed", replace(POD, port=22, original_destination=number("198.51.100.1"), original_port=9), "deny", "default"),
    ("a port that leads to one of our own obeys the rule for the original port", replace(IN, port=9, original_destination=IN.destination, original_port=22), "allow", "rule"),
    ("and is closed without one, whatever the port it leads to", replace(IN, port=22, original_destination=IN.destination, original_port=9), "deny", "default"),
    ("an answer to no request is invalid", replace(IN, protocol=ICMP, port=0, source=number("10.9.9.9")), "deny", "invalid"),
    ("an ICMP error that belongs to no flow is invalid", replace(SIX, port=1), "deny", "invalid"),
    ("a router's announcement in IPv4 starts no flow", replace(IN, protocol=ICMP, port=9), "deny", "invalid"),
    ("an untracked answer is judged on", replace(IN, protocol=ICMP, port=0, state="untracked"), "deny", "default"),
    ("containers may call out", replace(FROM_POD, port=9), "allow", "containers"),
    ("container to container counts as from outside", replace(FROM_POD, out_interface="docker1"), "deny", "containers"),
    ("containers ask their bridge for names", replace(IN, source=number("172.17.0.2"), in_interface="docker0", destination=number("172.17.0.1"), protocol=UDP, port=53), "allow", "containers"),
    ("but not another address", replace(IN, source=number("172.17.0.2"), in_interface="docker0", protocol=UDP, port=53), "deny", "default"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "packet", "verdict", "step"), CASES, ids=[case[0] for case in CASES])
def test_step(name: str, packet: Packet, verdict: str, step: str) -> None:
    outcome = judge(POLICY, packet)
    assert (outcome.verdict, outcome.step) == (verdict, step)


@pytest.mark.parametrize("state", ["new", "established"])
def test_a_ban_cuts_running_flows_too(state: Any) -> None:
    assert judge(POLICY, replace(IN, state=state), bans=BANNED).step == "ban"
    assert judge(POLICY, replace(OUT, state=state), bans=BANNED).step == "ban"
    assert judge(POLICY, replace(THROUGH, state=state), bans=BANNED).step == "ban"


def test_a_rule_ends_after_its_last_day() -> None:
    packet = replace(IN, source=STRANGER, port=80)
    assert judge(POLICY, packet, date(2027, 1, 31)) == Outcome("allow", Rate(5, 1), date(2027, 1, 31))
    assert judge(POLICY, packet, date(2027, 2, 1)).step == "trap"


def test_drops_are_logged_where_the_policy_logs_drops_and_rules_where_they_say_so() -> None:
    assert judge(POLICY, replace(IN, port=9)).log
    assert not judge(POLICY, IN).log
    quiet = replace(POLICY, log=Log())
    assert not judge(quiet, replace(IN, port=9)).log
    assert judge(quiet, replace(OUT, port=23)).log


@pytest.mark.parametrize(
    ("outbound", "verdict", "step"),
    [("allow", "allow", "containers"), ("drop", "deny", "containers"), ("as_device", "reject", "rule")],
)
def test_containers_obey_their_own_setting(outbound: Any, verdict: str, step: str) -> None:
    outcome = judge(replace(POLICY, containers_outbound=outbound), replace(FROM_POD, port=23))
    assert (outcome.verdict, outcome.step) == (verdict, step)


def test_without_containers_dns_their_bridge_does_not_answer_either() -> None:
    asking = CASES[-2][1]
    assert judge(replace(POLICY, containers_outbound="drop"), asking).verdict == "deny"


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [("eth0", "eth0", True), ("eth0", "eth01", False), ("wwan*", "wwan", True), ("wwan*", "wwan0", True), ("wwan*", "wwa", False), ("wwan*", "", False)],
)  # fmt: skip
def test_interface_patterns_match_as_nft_does(pattern: str, name: str, matches: bool) -> None:
    assert interface_matches(pattern, name) is matches


def test_a_policy_for_ipv4_leaves_ipv6_closed() -> None:
    only4 = HostPolicy("h", inbound=(Rule("a", "allow", SSH, (Endpoint(Addresses(((0, 2**32 - 1),))),)),))
    packet = Packet("inbound", "ipv6", number("fd00::1"), 1, TCP, 22, 40000, "eth0")
    assert judge(only4, packet).verdict == "deny"
