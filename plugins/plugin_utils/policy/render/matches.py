# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""A rule, taken apart into conditions that any packet filter can state in one line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.intervals import intersect, union
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.judge import (
    ICMP,
    ICMPV6,
    SCTP,
    TCP,
    UDP,
    family_of,
    names_nothing,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import (
    V4_MAX,
    V6_MAX,
    Endpoint,
    Family,
    Intervals,
    Rule,
    ServiceSet,
)

View = Literal["inbound", "outbound", "forward", "to_container", "from_container", "published"]
"""The place in the rule set that a rule is stated for."""

SECTIONS: dict[View, str] = {
    "inbound": "inbound",
    "published": "inbound",
    "outbound": "outbound",
    "from_container": "outbound",
    "forward": "forward",
    "to_container": "forward",
}
"""The section of the policy that a place's rules are from; names are unique within one."""

_KNOWS_IN = frozenset(("inbound", "forward", "to_container", "from_container", "published"))
_KNOWS_OUT = frozenset(("outbound", "forward", "to_container", "from_container", "published"))


@dataclass(frozen=True, slots=True)
class Match:
    """Conditions that must all hold. None, or no interfaces, is no condition."""

    family: Family
    source: Intervals | None = None
    in_interfaces: tuple[str, ...] = ()
    destination: Intervals | None = None
    out_interfaces: tuple[str, ...] = ()
    protocols: Intervals | None = None
    ports: Intervals | None = None
    """Destination ports or ICMP types of the one protocol in ``protocols``."""

    @property
    def protocol(self) -> int:
        """The one protocol that ``ports`` speaks of."""
        assert self.protocols is not None
        return self.protocols[0][0]


def matches(rule: Rule, family: Family, view: View) -> list[Match]:
    """Every way in which a packet of ``family`` can match ``rule``; empty when none can."""
    targets = rule.destinations
    if view == "to_container" and rule.verdict == "allow":
        # Only a rule that names a container's address or interface permits direct routing to it.
        targets = tuple(target for target in targets if not names_nothing(target, family))
    return [
        Match(family, source, in_interfaces, destination, out_interfaces, protocols, ports)
        for in_interfaces, source in places(rule.sources, family, view in _KNOWS_IN)
        for out_interfaces, destination in places(targets, family, view in _KNOWS_OUT)
        for protocols, ports in _services(rule.services, family)
    ]


def places(
    endpoints: Iterable[Endpoint], family: Family, interface_known: bool = True
) -> list[tuple[tuple[str, ...], Intervals | None]]:
    """Endpoints of one family as (interfaces, addresses), those with the same interfaces joined."""
    joined: dict[tuple[str, ...], Intervals] = {}
    for endpoint in endpoints:
        addresses = family_of(endpoint.addresses, family)
        if not addresses or (endpoint.interfaces and not interface_known):
            continue
        names = () if "*" in endpoint.interfaces else tuple(sorted(set(endpoint.interfaces)))
        joined[names] = union(joined.get(names, ()), addresses)
    everything = ((0, V4_MAX if family == "ipv4" else V6_MAX),)
    if joined.get(()) == everything:
        return [((), None)]
    return [(names, None if addresses == everything else addresses) for names, addresses in joined.items()]


def _services(services: ServiceSet, family: Family) -> list[tuple[Intervals | None, Intervals | None]]:
    """(protocols, ports) for every part of ``services`` that exists in ``family``."""
    if services.any or services.protocols == ((0, 255),):
        return [(None, None)]
    named: list[tuple[int, Intervals]] = [(TCP, services.tcp), (UDP, services.udp), (SCTP, services.sctp)]
    named.append((ICMP, services.icmp) if family == "ipv4" else (ICMPV6, services.icmpv6))
    found: list[tuple[Intervals | None, Intervals | None]] = []
    for protocol, ports in named:
        if ports:
            every = protocol in (ICMP, ICMPV6) and ports == ((0, 255),)
            found.append((((protocol, protocol),), None if every else ports))
    if services.protocols:
        found.append((services.protocols, None))
    return found


def on_ports(found: Iterable[Match], protocol: int, ports: Intervals) -> list[Match]:
    """The parts of ``found`` that speak of these ports of one protocol."""
    result = []
    for match in found:
        if match.protocols is not None and not intersect(match.protocols, ((protocol, protocol),)):
            continue
        common = ports if match.ports is None else intersect(match.ports, ports)
        if common:
            result.append(
                Match(
                    match.family,
                    match.source,
                    match.in_interfaces,
                    match.destination,
                    match.out_interfaces,
                    ((protocol, protocol),),
                    common,
                )
            )
    return result
