# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What happens to one packet: the plain reading of the policy that every backend is compared with.

Written to be checked by eye against docs/policy.md, step by step, not to be fast. It judges a device without
bans (unless some are given) and with full rate buckets.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from typing import Literal

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.intervals import holds
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import (
    V4_MAX,
    V6_MAX,
    Addresses,
    Endpoint,
    Family,
    HostPolicy,
    Intervals,
    Publish,
    Rate,
    Rule,
    ServiceSet,
    Verdict,
)

ICMP, IGMP, TCP, UDP, ICMPV6, SCTP = 1, 2, 6, 17, 58, 132

ICMP_ERRORS = frozenset((3, 11, 12))
ICMPV6_ERRORS = frozenset((1, 2, 3, 4))
ICMP_REDIRECT, ICMPV6_REDIRECT = 5, 137
ICMP_ECHO, ICMPV6_ECHO = 8, 128
ICMP_STARTS = frozenset((8, 13, 15, 17))
"""Requests: what connection tracking takes for the start of a flow. Whatever else belongs to no flow is invalid."""
ICMPV6_STARTS = frozenset((128, 139, *range(130, 138), 143, *range(151, 154)))
"""The same, and what it leaves untracked: multicast listeners and routers, neighbour discovery."""
NEIGHBOUR_DISCOVERY = frozenset((133, 134, 135, 136))
MLD = frozenset((130, 131, 132, 143))
LINK_LOCAL: Intervals = ((0xFE80 << 112, (0xFEC0 << 112) - 1),)
"""fe80::/10"""
MULTICAST_V4: Intervals = ((0xE0000000, 0xEFFFFFFF),)
"""224.0.0.0/4"""
UNSPOOFABLE = Addresses(((0, 0),), ((0, 0), *LINK_LOCAL))
"""Sources that anti-spoofing leaves alone: 0.0.0.0, :: and fe80::/10."""

State = Literal["new", "established", "related", "invalid", "untracked"]


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet at one hook, as the kernel's connection tracking sees it.

    ``port`` is the destination port (TCP, UDP, SCTP) or the ICMP type. A packet whose destination was
    translated (published) has ``original_destination`` and ``original_port``; it is at the hook ``forward``, or at
    ``inbound`` where it leads to the device itself. ``syn`` says for TCP that of SYN, ACK, RST and FIN only SYN is set.
    """

    hook: Literal["inbound", "outbound", "forward"]
    family: Family
    source: int
    destination: int
    protocol: int
    port: int = 0
    source_port: int = 0
    in_interface: str = ""
    out_interface: str = ""
    original_destination: int | None = None
    original_port: int = 0
    state: State = "new"
    syn: bool = True
    hop_limit: int = 64


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happens, and by which step. Equal when verdict, rate, cut-off date and log are."""

    verdict: Verdict
    rate: Rate | None = None
    until: date | None = None
    log: bool = False
    step: str = field(default="", compare=False)
    """loopback, bridge, ban, established, related, essential, redirect, invalid, spoofed, blocklist, rule,
    containers, trap, ping or default"""
    name: str = field(default="", compare=False)
    """Of the rule or blocklist."""


def judge(
    policy: HostPolicy, packet: Packet, on: date | None = None, bans: Addresses | None = None
) -> Outcome:
    """Follow ``packet`` through the steps of docs/policy.md, "Order".

    ``on`` is the day: rules that ended before it are not there. ``bans`` are addresses banned at the moment.
    """

    def passes(step: str) -> Outcome:
        return Outcome("allow", step=step)

    def drops(step: str, name: str = "") -> Outcome:
        return Outcome("deny", log=policy.log.drops is not None, step=step, name=name)

    p = packet
    inbound, outbound, forward = (p.hook == hook for hook in ("inbound", "outbound", "forward"))
    if (inbound and p.in_interface == "lo") or (outbound and p.out_interface == "lo"):
        return passes("loopback")
    if forward and p.in_interface == p.out_interface and p.in_interface in policy.bridges:
        return passes("bridge")
    if bans and address_in(bans, p.family, p.destination if outbound else p.source):
        return drops("ban")
    if p.state == "established":
        return passes("established")
    if p.state == "related" and _icmp_error(p):
        return passes("related")
    essential = _essential(p)
    if essential:
        return passes("essential")
    if essential is False:
        return drops("redirect")
    if p.state == "invalid" or (p.protocol == TCP and not p.syn) or (p.state == "new" and not _starts(p)):
        return drops("invalid")
    if not outbound and spoofed(policy, p.family, p.source, p.in_interface):
        return drops("spoofed")
    for blocked in policy.blocklists:
        if outbound:
            if (
                blocked.both
                and counts_on(blocked.interfaces, p.out_interface)
                and address_in(blocked.addresses, p.family, p.destination)
            ):
                return drops("blocklist", blocked.name)
        elif counts_on(blocked.interfaces, p.in_interface) and address_in(
            blocked.addresses, p.family, p.source
        ):
            return drops("blocklist", blocked.name)
    return _by_rules(policy, p, on)


def _by_rules(policy: HostPolicy, p: Packet, on: date | None) -> Outcome:
    """Steps 8 to 10."""
    log = policy.log.drops is not None

    def first(rules: tuple[Rule, ...], destination: int, port: int) -> Outcome | None:
        for rule in rules:
            if on is not None and rule.until is not None and rule.until < on:
                continue
            if rule_matches(rule, policy, p, destination, port):
                noisy = rule.log or (rule.verdict != "allow" and log)
                return Outcome(rule.verdict, rule.rate, rule.until, noisy, "rule", rule.name)
        return None

    def fallback(verdict: Verdict) -> Outcome:
        return Outcome(verdict, log=verdict != "allow" and log, step="default")

    if p.hook == "outbound":
        if p.out_interface in policy.container_bridges:
            return Outcome("allow", step="containers")
        return first(policy.outbound, p.destination, p.port) or fallback(policy.defaults.outbound)

    if p.hook == "forward":
        from_container = p.in_interface in policy.container_bridges
        to_container = p.out_interface in policy.container_bridges
        if from_container and not to_container:
            if policy.containers_outbound == "as_device":
                return first(policy.outbound, p.destination, p.port) or fallback(policy.defaults.outbound)
            if policy.containers_outbound == "drop":
                return Outcome("deny", log=log, step="containers")
            return Outcome("allow", step="containers")
        if p.original_destination is not None:
            decided = first(policy.inbound, p.original_destination, p.original_port)
            return decided or Outcome("deny", log=log, step="default")
        decided = first(policy.forward, p.destination, p.port)
        if decided:
            return decided
        return (
            Outcome("deny", log=log, step="containers") if to_container else fallback(policy.defaults.forward)
        )

    if (
        policy.containers_outbound != "drop"
        and p.protocol in (TCP, UDP)
        and p.port == 53
        and any(
            endpoint_matches(own, p.family, p.destination, p.in_interface)
            for own in policy.container_addresses
        )
    ):
        return Outcome("allow", step="containers")
    if p.original_destination is not None:
        decided = first(policy.inbound, p.original_destination, p.original_port)
        return decided or Outcome("deny", log=log, step="default")
    decided = first(policy.inbound, p.destination, p.port)
    if decided:
        return decided
    if policy.traps and p.protocol == TCP and holds(policy.traps.tcp, p.port):
        return Outcome("deny", log=log, step="trap")
    if p.state == "new" and led_away(policy, p):
        return Outcome("deny", log=log, step="default")
    ping = policy.defaults.ping
    if (
        ping
        and (p.protocol, p.port, p.family) in ((ICMP, ICMP_ECHO, "ipv4"), (ICMPV6, ICMPV6_ECHO, "ipv6"))
        and any(endpoint_matches(source, p.family, p.source, p.in_interface) for source in ping.sources)
    ):
        return Outcome("allow", ping.rate, step="ping")
    return fallback(policy.defaults.inbound)


def led_away(policy: HostPolicy, p: Packet) -> Publish | None:
    """The first of our own entries that translates a packet to one of the device's addresses."""
    for publish in policy.nat.publish:
        number = TCP if publish.protocol == "tcp" else UDP
        if (number, publish.port, publish.to_family) == (p.protocol, p.port, p.family) and any(
            endpoint_matches(one, p.family, p.source, p.in_interface) for one in publish.sources
        ):
            return publish
    return None


def rule_matches(rule: Rule, policy: HostPolicy, p: Packet, destination: int, port: int) -> bool:
    """Whether ``rule`` speaks of the packet, taken as going to ``destination`` and ``port``."""
    if not service_matches(rule.services, p.family, p.protocol, port):
        return False
    if not any(endpoint_matches(source, p.family, p.source, p.in_interface) for source in rule.sources):
        return False
    # Only a rule that names a container's address or interface permits direct routing to it.
    naming_only = (
        p.hook == "forward"
        and p.original_destination is None
        and rule.verdict == "allow"
        and p.out_interface in policy.container_bridges
        and p.in_interface != p.out_interface
    )
    return any(
        endpoint_matches(target, p.family, destination, p.out_interface)
        for target in rule.destinations
        if not (naming_only and names_nothing(target, p.family))
    )


def names_nothing(endpoint: Endpoint, family: Family) -> bool:
    """Whether ``endpoint`` is any address of the family on any interface."""
    every = ((0, V4_MAX),) if family == "ipv4" else ((0, V6_MAX),)
    return not endpoint.interfaces and family_of(endpoint.addresses, family) == every


def service_matches(services: ServiceSet, family: Family, protocol: int, port: int) -> bool:
    """Whether ``services`` hold this protocol and port or ICMP type."""
    if services.any or holds(services.protocols, protocol):
        return True
    if protocol == TCP:
        return holds(services.tcp, port)
    if protocol == UDP:
        return holds(services.udp, port)
    if protocol == SCTP:
        return holds(services.sctp, port)
    if protocol == ICMP:
        return family == "ipv4" and holds(services.icmp, port)
    if protocol == ICMPV6:
        return family == "ipv6" and holds(services.icmpv6, port)
    return False


def endpoint_matches(endpoint: Endpoint, family: Family, address: int, interface: str) -> bool:
    """Whether ``endpoint`` holds the address, seen on ``interface``."""
    return counts_on(endpoint.interfaces, interface) and address_in(endpoint.addresses, family, address)


def interface_matches(pattern: str, name: str) -> bool:
    """Whether an interface is meant; ``*`` at the end of ``pattern`` is any end, an empty one too."""
    if not name:
        return False
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else pattern == name


def family_of(addresses: Addresses, family: Family) -> Intervals:
    """The intervals of one family."""
    return addresses.v4 if family == "ipv4" else addresses.v6


def address_in(addresses: Addresses, family: Family, address: int) -> bool:
    """Whether ``addresses`` hold the address."""
    return holds(family_of(addresses, family), address)


def spoofed(policy: HostPolicy, family: Family, source: int, interface: str) -> bool:
    """Whether ``source`` belongs behind other interfaces than the one that it came in by."""
    if address_in(UNSPOOFABLE, family, source):
        return False
    holders = [zone for zone in policy.antispoof if address_in(zone.addresses, family, source)]
    return bool(holders) and not any(counts_on(zone.interfaces, interface) for zone in holders)


def counts_on(interfaces: tuple[str, ...], name: str) -> bool:
    """Whether something that stands on ``interfaces`` (none: all) concerns the interface ``name``."""
    return not interfaces or any(interface_matches(pattern, name) for pattern in interfaces)


def _starts(p: Packet) -> bool:
    """Whether connection tracking lets a flow begin with this packet."""
    return starts_flow(p.family, p.protocol, p.port)


def starts_flow(family: Family, protocol: int, kind: int) -> bool:
    """Whether a flow may begin with this protocol and ICMP type; answers and errors belong to another flow."""
    if (protocol, family) == (ICMP, "ipv4"):
        return kind in ICMP_STARTS
    return (protocol, family) != (ICMPV6, "ipv6") or kind in ICMPV6_STARTS


def _icmp_error(p: Packet) -> bool:
    if p.family == "ipv4":
        return p.protocol == ICMP and p.port in ICMP_ERRORS
    return p.protocol == ICMPV6 and p.port in ICMPV6_ERRORS


def _essential(p: Packet) -> bool | None:
    """True when the packet always passes, False when it never does, None when it is judged on."""
    here = p.hook != "forward"
    if p.family == "ipv6" and p.protocol == ICMPV6:
        if p.port == ICMPV6_REDIRECT:
            return False
        if p.port in NEIGHBOUR_DISCOVERY:
            # Routers lower the hop limit, so 255 proves that the packet comes from this link.
            return here if p.hop_limit == 255 else False
        return True if here and p.port in MLD else None
    if p.family == "ipv4" and p.protocol == ICMP:
        return False if p.port == ICMP_REDIRECT else None
    if not here:
        return None
    if p.family == "ipv4" and p.protocol == IGMP:
        return True if holds(MULTICAST_V4, p.destination) else None
    if p.protocol == UDP:
        server, client = (67, 68) if p.family == "ipv4" else (547, 546)
        on_link = p.family == "ipv4" or holds(LINK_LOCAL, p.source)
        answer = p.source_port == server and p.port == client
        request = p.hook == "outbound" and p.source_port == client and p.port == server
        return True if on_link and (answer or request) else None
    return None
