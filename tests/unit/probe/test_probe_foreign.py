"""What other firewalls drop by default, from what their tools print."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.device import probe
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply

FIREWALLD = """\
table inet firewalld {
	chain mangle_PREROUTING {
		type filter hook prerouting priority mangle + 10; policy accept;
	chain filter_INPUT {
		type filter hook input priority filter + 10; policy accept;
		reject with icmpx type admin-prohibited
	}
	chain filter_INPUT_ZONES {
		drop
	}
}
table bridge other {
	chain in {
		type filter hook input priority 0; policy drop;
	}
}
"""
UFW = """\
table ip filter {
	chain ufw-user-input {
	}
	chain INPUT {
		type filter hook input priority filter; policy drop;
	}
	chain OUTPUT {
		type filter hook output priority filter; policy accept;
	}
}
"""


def entry(table: str, chain: str, hook: str, how: str, program: str = "") -> dict[str, Any]:
    return {"table": table, "chain": chain, "hook": hook, "how": how, "program": program}


def test_base_chains_count_and_others_do_not(reply: Callable[..., Reply]) -> None:
    found = probe.device(reply(("foreign_nft", FIREWALLD + UFW)))["foreign_drops"]
    assert found == [
        entry("inet firewalld", "filter_INPUT", "input", "reject with icmpx type admin-prohibited"),
        entry("ip filter", "INPUT", "input", "policy drop", "ufw"),
    ]


def test_iptables_says_it_in_its_own_words(reply: Callable[..., Reply]) -> None:
    v4 = "-P INPUT DROP\n-P FORWARD DROP\n-N ufw-user-input\n-A OUTPUT -j REJECT --reject-with icmp-port-unreachable\n"
    found = probe.device(reply(("foreign_iptables", v4), ("foreign_ip6tables", "-P FORWARD DROP\n")))
    assert found["foreign_drops"] == [
        entry("ip filter", "INPUT", "input", "policy drop", "ufw"),
        entry("ip filter", "FORWARD", "forward", "policy drop", "ufw"),
        entry("ip filter", "OUTPUT", "output", "reject", "ufw"),
        entry("ip6 filter", "FORWARD", "forward", "policy drop"),
    ]


def test_nothing_said_is_nothing_found(reply: Callable[..., Reply]) -> None:
    assert probe.device(reply())["foreign_drops"] == []
    noise = ("foreign_nft", "\0{}\n}\ntable\ntable ip {\nchain\n drop\n type filter hook input policy drop;")
    assert probe.device(reply(noise))["foreign_drops"] == []
