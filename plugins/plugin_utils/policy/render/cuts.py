# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Rules that say ``cut: true``, as the flows that end when such a rule is withdrawn or has expired.

One line is what ``conntrack -D`` takes. The loader keeps the lines of the generation that is in force and ends the
flows of every line that the next one no longer has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.cidrs import prefix_texts
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.judge import SCTP, TCP, UDP
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import HostPolicy, Rule
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.render.base import (
    FAMILIES,
    Unsupported,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.render.matches import Match, View, matches

_NAMES = {TCP: "tcp", UDP: "udp", SCTP: "sctp"}
_MOST_LINES = 500
"""Each is one run of conntrack on the device."""


def cuts(policy: HostPolicy, device: Mapping[str, Any]) -> str:
    """The lines of all rules, "" when there are none. Raises Unsupported for what conntrack cannot single out."""
    lines: list[str] = []
    views: tuple[tuple[View, tuple[Rule, ...]], ...] = (
        ("inbound", policy.inbound),
        ("outbound", policy.outbound),
        ("forward", policy.forward),
    )
    for view, rules in views:
        for rule in rules:
            if not rule.cut:
                continue
            if not (device.get("tools") or {}).get("conntrack"):
                raise Unsupported(
                    f"Rule {rule.name!r} says cut: true, and the device has no conntrack tool to end flows with.",
                    "Install conntrack on the device, or leave cut out: running flows then end by themselves.",
                )
            for family in FAMILIES:
                for match in matches(rule, family, view):
                    lines += _flows(rule, match)
            if len(lines) > _MOST_LINES:
                raise Unsupported(
                    f"Rule {rule.name!r} says cut: true; ending its flows takes more than {_MOST_LINES} runs of"
                    " conntrack, which takes one port and prefix at a time.",
                    "Name fewer ports and prefixes in rules that say cut.",
                )
    return "".join(f"{line}\n" for line in dict.fromkeys(lines))


def _flows(rule: Rule, match: Match) -> list[str]:
    if match.in_interfaces or match.out_interfaces:
        raise Unsupported(
            f"Rule {rule.name!r} says cut: true for an interface, and a flow in the kernel's table has none.",
            "Name addresses instead of interfaces in rules that say cut.",
        )
    services = [""]
    if match.protocols is not None:
        if match.ports is None or match.protocol not in _NAMES:
            raise Unsupported(
                f"Rule {rule.name!r} says cut: true for something else than TCP, UDP and SCTP ports.",
                "Leave cut out of this rule.",
            )
        count = sum(last - first + 1 for first, last in match.ports)
        if count > _MOST_LINES:
            raise Unsupported(
                f"Rule {rule.name!r} says cut: true for {count} ports; conntrack takes one at a time.",
                "Name fewer ports in rules that say cut.",
            )
        services = [
            f"-p {_NAMES[match.protocol]} --orig-port-dst {port}"
            for first, last in match.ports
            for port in range(first, last + 1)
        ]
    sources = (
        [""] if match.source is None else [f"-s {one}" for one in prefix_texts(match.family, match.source)]
    )
    targets = (
        [""]
        if match.destination is None
        else [f"-d {one}" for one in prefix_texts(match.family, match.destination)]
    )
    return [
        " ".join(part for part in (f"-f {match.family}", service, source, target) if part)
        for service in services
        for source in sources
        for target in targets
    ]
