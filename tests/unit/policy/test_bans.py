"""Bans by hand hit whom they name, end within the hour, and never cut off whom the policy protects."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import bans, cidrs
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import (
    Endpoint,
    HostPolicy,
    Rule,
    ServiceSet,
    Traps,
    Where,
)

SSH, WEB = ServiceSet(tcp=((22, 22),)), ServiceSet(tcp=((80, 80),))
MGMT = Endpoint(cidrs.parse(["192.0.2.0/25", "2001:db8:1::5"]), (), "mgmt")
PROTECTED = cidrs.parse(["192.0.2.0/25", "2001:db8:1::5", "192.0.2.200", "203.0.113.1", "198.51.100.4"])
POLICY = HostPolicy(
    "gw1",
    inbound=(
        Rule("web", "allow", WEB, (Endpoint(cidrs.parse(["192.0.2.0/24"]), (), "public"),)),
        Rule("operators", "allow", SSH, (MGMT,), where=Where("fleet.yml", 7)),
    ),
    outbound=(
        Rule("broker", "allow", WEB, destinations=(Endpoint(cidrs.parse(["198.51.100.4"])),)),
        Rule("any", "allow", WEB),
    ),
    protected=PROTECTED,
)
DEVICE: dict[str, Any] = {
    "connection": {"client": "192.0.2.200", "server_port": 22},
    "routers": ["203.0.113.1%eth0"],
    "resolvers": ["not-an-address"],
}


@pytest.mark.parametrize(
    ("text", "named", "address", "count"),
    [
        ("203.0.113.9", "203.0.113.9", "203.0.113.9", 1),
        ("203.0.113.9/32", "203.0.113.9", "203.0.113.9", 1),
        ("2001:db8:66::7", "2001:db8:66::/64", "2001:db8:66::", 1 << 64),
        ("2001:db8:66:0::/64", "2001:db8:66::/64", "2001:db8:66::", 1 << 64),
    ],
)
def test_a_ban_hits_one_ipv4_address_or_one_ipv6_64(text: str, named: str, address: str, count: int) -> None:
    whom = bans.subject(text)
    assert (whom.text, whom.address) == (named, address)
    assert sum(last - first + 1 for first, last in (*whom.addresses.v4, *whom.addresses.v6)) == count


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("203.0.113.0/24", "this is a network"),
        ("2001:db8::/48", "this is more"),
        ("203.0.113.9; reboot", "expected an address"),
        ("::ffff:203.0.113.9", "expected an address"),
        ("", "expected an address"),
        ("127.0.0.1", "loopback"),
        ("224.0.0.251", "multicast"),
        ("0.0.0.0", "unspecified"),
        ("fe80::1", "link-local"),
    ],
)
def test_what_is_no_host_is_not_banned(text: str, words: str) -> None:
    with pytest.raises(bans.BadBan, match=words):
        bans.subject(text)


def test_a_ban_lasts_an_hour_at_most() -> None:
    assert [bans.duration(text) for text in ("1s", "30m", "60m", "1h", "3600s")] == [
        1,
        1800,
        3600,
        3600,
        3600,
    ]
    for text in ("2h", "61m", "3601s"):
        with pytest.raises(bans.BadBan, match="longer than one hour"):
            bans.duration(text)
    for text in ("", "0s", "1d", "10", "1h30m", "-1h", "1h\n", "\u0661h"):
        with pytest.raises(bans.BadBan, match="such as 30m or 1h"):
            bans.duration(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("192.0.2.200", "this controller comes from there"),
        ("203.0.113.1", "a router of this device is there"),
        ("192.0.2.7", "rule `operators` (fleet.yml:7) allows traffic from zone `mgmt`"),
        ("2001:db8:1::99", "rule `operators` (fleet.yml:7) allows traffic from zone `mgmt`"),
        ("198.51.100.4", "rule `broker` allows traffic to 198.51.100.4/32"),
    ],
)
def test_who_is_protected_is_refused_with_the_reason(text: str, why: str) -> None:
    assert bans.why_protected(POLICY, DEVICE, bans.subject(text)) == why


@pytest.mark.parametrize("text", ["192.0.2.128", "192.0.2.201", "203.0.113.9", "2001:db8:2::5"])
def test_who_may_only_see_a_web_page_can_be_banned(text: str) -> None:
    assert bans.why_protected(POLICY, DEVICE, bans.subject(text)) == ""


def test_what_traps_never_ban_is_not_banned_by_hand_either() -> None:
    policy = replace(POLICY, traps=Traps(never=cidrs.parse(["203.0.113.9"])))
    assert "traps.never" in bans.why_protected(policy, DEVICE, bans.subject("203.0.113.9"))


def test_what_every_backends_loader_lists_is_understood() -> None:
    listed = "\n".join(
        (
            "2001:db8:66:: 59m59s816ms",  # nft
            "203.0.113.9 1h",
            "203.0.113.10 29s",  # ipset
            "203.0.113.11",  # xt_recent
            "2001:0db8:0067:0000:0000:0000:0000:0000",
            "something else",
        )
    )
    assert bans.read(listed) == [
        bans.Ban("203.0.113.10", 29),
        bans.Ban("203.0.113.11", None),
        bans.Ban("203.0.113.9", 3600),
        bans.Ban("2001:db8:66::/64", 3599),
        bans.Ban("2001:db8:67::/64", None),
    ]
