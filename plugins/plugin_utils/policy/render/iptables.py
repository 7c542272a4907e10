# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""iptables and nothing else: every prefix is a rule, and bans live in xt_recent.

The kernel walks rules one by one, so what would take thousands of them is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.cidrs import prefix_texts
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import Family, HostPolicy, Intervals
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.render.base import (
    FAMILIES,
    Unsupported,
    content_hash,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.render.xtables import (
    OWN,
    Vocabulary,
    Writer,
)

MOST_RULES = 3000
"""Rules in one family. A chain of 10,000 rules takes nine tenths of the packet rate."""

TRAP_BANS = 60
"""Addresses that traps may ban within the time of one ban. Beside 36 by hand (firewall-load.sh) they fit into the 100 that
xt_recent holds by default: a full table would forget a ban that is still in force."""


def rulesets(policy: HostPolicy, device: Mapping[str, Any] | None = None) -> dict[str, str]:
    """The files ``v4`` and ``v6``. Raises Unsupported for what plain iptables cannot say."""
    _refuse_large(policy)
    words = _Prefixes(policy)
    texts = {f"v{family[-1]}": Writer(policy, family, words, device).text() for family in FAMILIES}
    for name, text in texts.items():
        rules = text.count("\n-A ")
        if rules > MOST_RULES:
            raise Unsupported(
                f"This policy takes {rules} rules for IP{name} without ipset, and {MOST_RULES} is the most that is"
                " sensible: the kernel tries them one by one.",
                "Install ipset or nftables on the device, or write the zones with fewer, larger prefixes.",
            )
    return texts


def _refuse_large(policy: HostPolicy) -> None:
    for blocklist in policy.blocklists:
        count = max(len(blocklist.addresses.v4), len(blocklist.addresses.v6))
        if count > MOST_RULES:
            raise Unsupported(
                f"Blocklist {blocklist.name!r} has {count} ranges in one family; without ipset each is a rule of its"
                f" own, and {MOST_RULES} is the most that is sensible.",
                "Install ipset or nftables on the device, or take the list off this device.",
            )


class _Prefixes(Vocabulary):
    comments = False

    def __init__(self, policy: HostPolicy) -> None:
        self.ban_seconds = policy.traps.ban_seconds if policy.traps else 3600
        self.most = min(policy.traps.size if policy.traps else 0, TRAP_BANS)

    def addresses(self, family: Family, intervals: Intervals, side: str) -> list[str]:
        option = "-s" if side == "src" else "-d"
        return [f"{option} {text}" for text in prefix_texts(family, intervals)]

    def blocked(self, writer: Writer, intervals: Intervals, side: str) -> list[str]:
        # A chain of drops may be reached by -j: it permits nothing, and falls back when nothing matched.
        name = f"B{content_hash(intervals)[:10]}-{side.upper()}"
        writer.add_chain(
            "mangle", name, [f"{one} {writer.drop}" for one in self.addresses(writer.family, intervals, side)]
        )
        return [f"-j {OWN}{name}"]

    def banned(self, family: Family, side: str) -> str:
        which = "--rsource" if side == "src" else "--rdest"
        return (
            f"-m recent --name {_list(family)} --rcheck --seconds {self.ban_seconds} {_mask(family)} {which}"
        )

    def opened(self) -> str:
        raise Unsupported(
            "The policy has a gate (`defaults: {gate: [...]}`), which closes by itself, and iptables without ipset has"
            " nothing that does.",
            "Install ipset or nftables on the device, or get its certificate by DNS-01 or on the controller.",
        )

    def ban(self, family: Family, drop: str) -> list[str]:
        # A list of one entry, whatever the source, whose stamps are the bans of late.
        count = f"-m recent --name {_list(family)}COUNT"
        everybody = f"--mask {'0.0.0.0' if family == 'ipv4' else '::'} --rsource"
        return [
            f"{count} --rcheck --seconds {self.ban_seconds} --hitcount {self.most} {everybody} {drop}",
            f"{count} --set {everybody}",
            f"-m recent --name {_list(family)} --set {_mask(family)} --rsource",
        ]


def _list(family: Family) -> str:
    return f"SALLYPORT{family[-1]}"


def _mask(family: Family) -> str:
    return "--mask 255.255.255.255" if family == "ipv4" else "--mask ffff:ffff:ffff:ffff::"
