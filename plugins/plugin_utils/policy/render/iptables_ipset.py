# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""iptables where ipset is there: address sets and blocklists are sets, bans a set that outlives the generation.

A set is named after its content, so a new generation has new sets, and rules and sets change in one commit.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import shelf
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.cidrs import prefix_texts
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.intervals import prefixes
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import Family, HostPolicy, Intervals
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.render.base import (
    BANS_SIZE,
    BITS,
    FAMILIES,
    GATE_SECONDS,
    content_hash,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.render.xtables import Vocabulary, Writer

FEW = 2
"""So many prefixes are rules of their own; more are a set. The kernel holds some hundred sets."""

LONG = 1000
"""A set of more intervals than this lies in the file of lists."""

GATE = "sallyport-gate"
"""The set of ports that stand open for the moment."""

_INET = {"ipv4": "inet", "ipv6": "inet6"}


def rulesets(policy: HostPolicy, device: Mapping[str, Any] | None = None) -> dict[str, str]:
    """The files ``sets``, ``v4``, ``v6`` and, where there are long lists, ``set-lists``.

    Long lists lie in a file of their own so that a changed rule does not send them again. Raises Unsupported for
    what these tools cannot say.
    """
    words = _Sets(policy)
    v4, v6 = (Writer(policy, family, words, device).text() for family in FAMILIES)
    return {**words.files(), "v4": v4, "v6": v6}


class _Sets(Vocabulary):
    def __init__(self, policy: HostPolicy) -> None:
        self.ban_seconds = policy.traps.ban_seconds if policy.traps else 0
        self.size = policy.traps.size if policy.traps else BANS_SIZE
        self.gate = bool(policy.defaults.gate)
        self.sets: dict[str, tuple[Family, Intervals, str]] = {}

    def files(self) -> dict[str, str]:
        """For ``ipset restore``. Sets of addresses are filled under a name that ends in ``-n``, then renamed."""
        short: list[str] = []
        long: list[str] = []
        for family in FAMILIES:
            mask = " netmask 64" if family == "ipv6" else ""
            short.append(
                f"create {self._bans(family)} hash:ip family {_INET[family]}{mask} maxelem {self.size} timeout 0"
            )
        if self.gate:
            short.append(f"create {GATE} bitmap:port range 0-65535 timeout {GATE_SECONDS}")
        for name, (family, intervals, digest) in self.sets.items():
            lines = long if len(intervals) > LONG else short
            lines.append(
                shelf.text(digest, len(intervals), name, __file__, partial(_filled, name, family, intervals))
            )
        files = {"set-lists": "\n".join((*long, ""))} if long else {}
        return {**files, "sets": "\n".join((*short, ""))}

    def addresses(self, family: Family, intervals: Intervals, side: str) -> list[str]:
        few = [prefix for _, prefix in zip(range(FEW + 1), prefixes(intervals, BITS[family]), strict=False)]
        if len(few) <= FEW:
            option = "-s" if side == "src" else "-d"
            return [f"{option} {text}" for text in prefix_texts(family, intervals)]
        return [f"-m set --match-set {self._set(family, intervals)} {side}"]

    def blocked(self, writer: Writer, intervals: Intervals, side: str) -> list[str]:
        return [f"-m set --match-set {self._set(writer.family, intervals)} {side} {writer.drop}"]

    def banned(self, family: Family, side: str) -> str:
        return f"-m set --match-set {self._bans(family)} {side}"

    def opened(self) -> str:
        return f"-m set --match-set {GATE} dst"

    def ban(self, family: Family, drop: str) -> list[str]:
        # Without --exist: the first time-out stands. A full set takes nothing more; the packet is dropped anyway.
        return [f"-j SET --add-set {self._bans(family)} src --timeout {self.ban_seconds}"]

    def _bans(self, family: Family) -> str:
        return f"sallyport-bans{family[-1]}-{self.size}"

    def _set(self, family: Family, intervals: Intervals) -> str:
        digest = content_hash(intervals)
        name = f"sallyport-{family[-1]}-{digest[:10]}"
        self.sets[name] = (family, intervals, digest)
        return name


def _filled(name: str, family: Family, intervals: Intervals) -> str:
    texts = prefix_texts(family, _without_all(family, intervals))
    size = 1 << max(6, (len(texts) - 1).bit_length())
    most = max(size, len(texts))
    start = f"add {name}-n "
    lines = [f"create {name}-n hash:net family {_INET[family]} hashsize {size} maxelem {most}"]
    return "\n".join(lines + [start + text for text in texts])


def _without_all(family: Family, intervals: Intervals) -> Intervals:
    """hash:net knows no /0: the whole family becomes two halves."""
    half = 1 << (BITS[family] - 1)
    if intervals == ((0, 2 * half - 1),):
        return ((0, half - 1), (half, 2 * half - 1))
    return intervals
