# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Whole sets of flows through a policy at once: the model behind exposure and compare.

A flow class fixes everything but one side's addresses: hook, interfaces, family, protocol and port, and the other
side. ``Model.outcomes`` splits the addresses of the open side by what happens to them. The first packet of a flow is
judged, on a device without bans and with full rate buckets; ``judge`` says the same packet by packet.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import count, pairwise, product
from string import ascii_lowercase, digits

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import intervals
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.judge import (
    ICMP,
    ICMP_ECHO,
    ICMP_REDIRECT,
    ICMP_STARTS,
    ICMPV6,
    ICMPV6_ECHO,
    ICMPV6_REDIRECT,
    ICMPV6_STARTS,
    IGMP,
    MLD,
    MULTICAST_V4,
    NEIGHBOUR_DISCOVERY,
    SCTP,
    TCP,
    UDP,
    UNSPOOFABLE,
    Outcome,
    address_in,
    counts_on,
    family_of,
    names_nothing,
    starts_flow,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import (
    V4_MAX,
    V6_MAX,
    Endpoint,
    Family,
    Hook,
    HostPolicy,
    Interval,
    Intervals,
    Publish,
    Rule,
    ServiceSet,
    Verdict,
)

FAMILIES: tuple[Family, ...] = ("ipv4", "ipv6")
HOOKS: tuple[Hook, ...] = ("inbound", "published", "outbound", "forward")
OTHER = "other"
"""Stands for every interface that neither policy nor device names."""
PORTS: Intervals = ((0, 65535),)
TYPES: Intervals = ((0, 255),)
NUMBERS = {"tcp": TCP, "udp": UDP}
_WITH_PORTS = {TCP: "tcp", UDP: "udp", SCTP: "sctp"}
MAX_PIECES = 100_000


class TooManyPieces(ValueError):
    """The policies cut the space of flows into more pieces than can be told apart in reasonable time."""


@dataclass(frozen=True, slots=True)
class FlowClass:
    """All flows that agree in everything but the open side's addresses.

    The open side is the source, except outbound, where it is the destination. ``fixed`` is the other side. For
    ``published`` flows ``fixed`` and ``ports`` are the original destination.
    """

    hook: Hook
    in_interface: str
    out_interface: str
    family: Family
    protocol: int
    ports: Interval
    """Ports or ICMP types, (0, 0) for protocols that have neither."""
    fixed: Intervals


Part = tuple[Outcome, Intervals]


def everything(family: Family) -> Intervals:
    """Every address of the family."""
    return ((0, V4_MAX),) if family == "ipv4" else ((0, V6_MAX),)


def service_ports(services: ServiceSet, family: Family, protocol: int) -> Intervals:
    """The ports or types of ``protocol`` that ``services`` hold; ((0, 0),) stands for one without ports."""
    whole = whole_of(family, protocol)
    if services.any or intervals.holds(services.protocols, protocol):
        return whole
    key = _WITH_PORTS.get(protocol)
    if key:
        found: Intervals = getattr(services, key)
        return found
    if protocol == ICMP and family == "ipv4":
        return services.icmp
    if protocol == ICMPV6 and family == "ipv6":
        return services.icmpv6
    return ()


def whole_of(family: Family, protocol: int) -> Intervals:
    """All ports or types of a protocol."""
    if protocol in _WITH_PORTS:
        return PORTS
    if (protocol, family) in ((ICMP, "ipv4"), (ICMPV6, "ipv6")):
        return TYPES
    return ((0, 0),)


def addresses_on(endpoints: Iterable[Endpoint], family: Family, interface: str) -> Intervals:
    """The addresses that ``endpoints`` mean on one interface."""
    return intervals.union(
        *(family_of(one.addresses, family) for one in endpoints if counts_on(one.interfaces, interface))
    )


class Model:
    """One policy at one day, ready to judge whole flow classes. ``on`` None counts expired rules as alive."""

    def __init__(self, policy: HostPolicy, on: date | None = None) -> None:
        self.policy = policy
        self.log = policy.log.drops is not None
        self._rules: dict[Hook, tuple[Rule, ...]] = {
            hook: tuple(rule for rule in rules if on is None or rule.until is None or rule.until >= on)
            for hook, rules in _sections(policy)
        }
        self._dropped: dict[tuple[bool, Family, str], tuple[list[Part], Intervals]] = {}
        # Many classes differ in one thing only, so what the others need is worked out once.
        self._by_service: dict[tuple[str, Family, int, Interval], list[Rule]] = {}
        self._on: dict[tuple[int, Family, str], Intervals] = {}

    def outcomes(self, flow: FlowClass, within: Intervals | None = None) -> list[Part]:
        """Split the open side's addresses (or those ``within``) by outcome; parts do not overlap."""
        split = _Split(everything(flow.family) if within is None else within)
        self._always(flow, split)
        if not split.rest:
            return split.parts
        if within is None:
            parts, rest = self._dropped_by_source(flow)
            if split.parts:
                for outcome, addresses in parts:
                    split.take(addresses, outcome)
            else:
                split.parts, split.rest = list(parts), rest
        else:
            self._drop_by_source(flow, split)
        if split.rest:
            self._by_rules(flow, split)
        return split.parts

    def _always(self, flow: FlowClass, split: _Split) -> None:
        """Steps 1 to 6: what no policy changes."""
        forwarded = flow.hook in ("forward", "published")
        here = not forwarded
        if here and "lo" in (flow.in_interface, flow.out_interface):
            split.take_all(Outcome("allow", step="loopback"))
        elif (
            forwarded and flow.in_interface == flow.out_interface and flow.in_interface in self.policy.bridges
        ):
            split.take_all(Outcome("allow", step="bridge"))
        elif flow.family == "ipv6" and flow.protocol == ICMPV6:
            # port_classes never puts one of these types in a class with others.
            kind = flow.ports[0]
            if kind == ICMPV6_REDIRECT or (forwarded and kind in NEIGHBOUR_DISCOVERY):
                split.take_all(self._drop("redirect"))
            elif here and (kind in NEIGHBOUR_DISCOVERY or kind in MLD):
                split.take_all(Outcome("allow", step="essential"))
        elif flow.family == "ipv4" and flow.protocol == ICMP and flow.ports[0] == ICMP_REDIRECT:
            split.take_all(self._drop("redirect"))
        elif flow.family == "ipv4" and flow.protocol == IGMP and here:
            if flow.hook == "outbound":
                split.take(MULTICAST_V4, Outcome("allow", step="essential"))
            elif intervals.contains(MULTICAST_V4, flow.fixed):
                split.take_all(Outcome("allow", step="essential"))
        if not starts_flow(flow.family, flow.protocol, flow.ports[0]):
            split.take_all(self._drop("invalid"))

    def _dropped_by_source(self, flow: FlowClass) -> tuple[list[Part], Intervals]:
        """Steps 6b and 7 for every address; the same for all ports of an interface, so computed once."""
        outbound = flow.hook == "outbound"
        key = (outbound, flow.family, flow.out_interface if outbound else flow.in_interface)
        if key not in self._dropped:
            split = _Split(everything(flow.family))
            self._drop_by_source(flow, split)
            self._dropped[key] = (split.parts, split.rest)
        return self._dropped[key]

    def _drop_by_source(self, flow: FlowClass, split: _Split) -> None:
        outbound = flow.hook == "outbound"
        name = flow.out_interface if outbound else flow.in_interface
        if not outbound:
            split.take(spoofed_on(self.policy, flow.family, name), self._drop("spoofed"))
        for blocked in self.policy.blocklists:
            if (blocked.both or not outbound) and counts_on(blocked.interfaces, name):
                outcome = self._drop("blocklist", blocked.name)
                split.take(family_of(blocked.addresses, flow.family), outcome)

    def _by_rules(self, flow: FlowClass, split: _Split) -> None:
        """Steps 8 to 10."""
        policy = self.policy
        to_container = flow.out_interface in policy.container_bridges
        leaves = leaves_container(policy, flow.in_interface, flow.out_interface)
        if flow.hook == "outbound" and to_container:
            split.take_all(Outcome("allow", step="containers"))
            return
        if leaves and policy.containers_outbound != "as_device":
            allowed = policy.containers_outbound == "allow"
            split.take_all(Outcome("allow", step="containers") if allowed else self._drop("containers"))
            return
        if flow.hook == "inbound" and self._container_names(flow):
            split.take_all(Outcome("allow", step="containers"))
            return
        for rule in self._speaking_of("outbound" if leaves else flow.hook, flow):
            open_side = self._open_side(rule, flow)
            if open_side:
                noisy = rule.log or (rule.verdict != "allow" and self.log)
                split.take(open_side, Outcome(rule.verdict, rule.rate, rule.until, noisy, "rule", rule.name))
                if not split.rest:
                    return
        if flow.hook == "published":
            split.take_all(self._drop("default"))
        elif flow.hook == "outbound" or leaves:
            split.take_all(self._default(policy.defaults.outbound))
        elif flow.hook == "forward":
            verdict = policy.defaults.forward
            split.take_all(self._drop("containers") if to_container else self._default(verdict))
        elif policy.traps and flow.protocol == TCP and intervals.contains(policy.traps.tcp, (flow.ports,)):
            split.take_all(self._drop("trap"))
        else:
            split.take(self.led_away(flow), self._drop("default"))
            if policy.defaults.ping and is_ping(flow.family, flow.protocol, flow.ports):
                allowed_to = addresses_on(policy.defaults.ping.sources, flow.family, flow.in_interface)
                split.take(allowed_to, Outcome("allow", policy.defaults.ping.rate, step="ping"))
            split.take_all(self._default(policy.defaults.inbound))

    def _speaking_of(self, section: Hook, flow: FlowClass) -> list[Rule]:
        """The rules of a section whose services hold the class."""
        key = (section, flow.family, flow.protocol, flow.ports)
        if key not in self._by_service:
            self._by_service[key] = [
                rule
                for rule in self._rules[section]
                if intervals.contains(service_ports(rule.services, flow.family, flow.protocol), (flow.ports,))
            ]
        return self._by_service[key]

    def _addresses_on(self, endpoints: tuple[Endpoint, ...], family: Family, interface: str) -> Intervals:
        """``addresses_on``, remembered; the policy keeps its endpoints, so their identity stays good."""
        key = (id(endpoints), family, interface)
        if key not in self._on:
            self._on[key] = addresses_on(endpoints, family, interface)
        return self._on[key]

    def led_away(self, flow: FlowClass) -> Intervals:
        """Sources that one of our own entries translates at this port: what no rule admits of them is dropped."""
        return intervals.union(
            *(
                addresses_on(publish.sources, flow.family, flow.in_interface)
                for publish in self.policy.nat.publish
                if (publish.to_family, NUMBERS[publish.protocol], (publish.port, publish.port))
                == (flow.family, flow.protocol, flow.ports)
            )
        )

    def _container_names(self, flow: FlowClass) -> bool:
        """Whether this is a container asking its bridge for a name."""
        policy = self.policy
        if policy.containers_outbound == "drop" or flow.protocol not in (TCP, UDP) or flow.ports != (53, 53):
            return False
        own = addresses_on(policy.container_addresses, flow.family, flow.in_interface)
        return intervals.contains(own, flow.fixed)

    def _open_side(self, rule: Rule, flow: FlowClass) -> Intervals:
        """The open side's addresses for which ``rule`` matches; empty where it does not match at all."""
        targets = rule.destinations
        if (
            flow.hook == "forward"
            and rule.verdict == "allow"
            and flow.out_interface in self.policy.container_bridges
        ):
            # Only a rule that names a container's address or interface permits direct routing to it.
            named = tuple(one for one in targets if not names_nothing(one, flow.family))
            wanted = addresses_on(named, flow.family, flow.out_interface)
        else:
            wanted = self._addresses_on(targets, flow.family, flow.out_interface)
        sources = self._addresses_on(rule.sources, flow.family, flow.in_interface)
        fixed, open_side = (sources, wanted) if flow.hook == "outbound" else (wanted, sources)
        return open_side if intervals.contains(fixed, flow.fixed) else ()

    def _drop(self, step: str, name: str = "") -> Outcome:
        return Outcome("deny", log=self.log, step=step, name=name)

    def _default(self, verdict: Verdict) -> Outcome:
        return Outcome(verdict, log=verdict != "allow" and self.log, step="default")


def _sections(policy: HostPolicy) -> tuple[tuple[Hook, tuple[Rule, ...]], ...]:
    return (
        ("inbound", policy.inbound),
        ("published", policy.inbound),
        ("outbound", policy.outbound),
        ("forward", policy.forward),
    )


class _Split:
    """Addresses that are still undecided, and what was decided so far."""

    __slots__ = ("parts", "rest")

    def __init__(self, rest: Intervals) -> None:
        self.rest = rest
        self.parts: list[Part] = []

    def take(self, addresses: Intervals, outcome: Outcome) -> None:
        taken = intervals.intersect(self.rest, addresses)
        if taken:
            self.parts.append((outcome, taken))
            self.rest = intervals.subtract(self.rest, taken)

    def take_all(self, outcome: Outcome) -> None:
        if self.rest:
            self.parts.append((outcome, self.rest))
            self.rest = ()


def leaves_container(policy: HostPolicy, into: str, out: str) -> bool:
    """Whether a forwarded flow starts in a container and goes elsewhere than to a container."""
    return bool(out) and into in policy.container_bridges and out not in policy.container_bridges


def is_ping(family: Family, protocol: int, ports: Interval) -> bool:
    """Whether a class is echo requests."""
    echo = {"ipv4": (ICMP, (ICMP_ECHO, ICMP_ECHO)), "ipv6": (ICMPV6, (ICMPV6_ECHO, ICMPV6_ECHO))}
    return (protocol, ports) == echo[family]


def spoofed_on(policy: HostPolicy, family: Family, interface: str) -> Intervals:
    """Sources that belong behind other interfaces than this one."""
    elsewhere = intervals.union(*(family_of(zone.addresses, family) for zone in policy.antispoof))
    if not elsewhere:
        return ()
    here = addresses_on(policy.antispoof, family, interface)
    return intervals.subtract(intervals.subtract(elsewhere, here), family_of(UNSPOOFABLE, family))


# Cutting the space of flows into classes


def interface_atoms(policies: Iterable[HostPolicy], present: Iterable[str] = ()) -> list[str]:
    """One name for every way in which policies can tell interfaces apart, ``other`` for the rest."""
    names: set[str] = set(present)
    for policy in policies:
        names.update(policy.bridges, policy.container_bridges)
        ends = [end for rule in (*policy.inbound, *policy.outbound, *policy.forward) for end in _ends(rule)]
        ends += [*policy.antispoof, *policy.container_addresses]
        ends += policy.defaults.ping.sources if policy.defaults.ping else ()
        for publish in policy.nat.publish:
            ends += publish.sources
        for end in ends:
            names.update(end.interfaces)
        for blocked in policy.blocklists:
            names.update(blocked.interfaces)
    exact = {name for name in names if not name.endswith("*")}
    patterns = sorted(name[:-1] for name in names - exact if name != "*")
    # A pattern means more than the names beside it, so each has a name that nothing narrower speaks of.
    alone = {_only(prefix, exact, patterns) for prefix in patterns}
    # The name that stands for all others must not match any pattern.
    other = OTHER
    while other in exact or other.startswith(tuple(patterns)):
        # No interface of a policy begins so.
        other = f"~{other}"
    return [*sorted((exact | alone) - {"lo"}), other]


def _only(prefix: str, exact: Container[str], prefixes: Iterable[str]) -> str:
    """A name with this prefix that is no exact one and has no longer one of the prefixes."""
    narrower = tuple(one for one in prefixes if len(one) > len(prefix) and one.startswith(prefix))
    letters = (one for size in count(1) for one in product(digits + ascii_lowercase, repeat=size))
    names = (prefix + "".join(one) for one in letters)
    return next(name for name in names if name not in exact and not name.startswith(narrower))


def _ends(rule: Rule) -> tuple[Endpoint, ...]:
    return (*rule.sources, *rule.destinations)


def protocols(policies: Iterable[HostPolicy]) -> list[int]:
    """One number for every way in which policies can tell IP protocols apart."""
    special = {ICMP, IGMP, TCP, UDP, ICMPV6, SCTP}
    cuts = {0, 256}
    for number in special:
        cuts.update((number, number + 1))
    for policy in policies:
        for rule in (*policy.inbound, *policy.outbound, *policy.forward):
            for low, high in rule.services.protocols:
                cuts.update((low, high + 1))
    return sorted(cut for cut in cuts if cut < 256)


def port_classes(
    policies: Iterable[HostPolicy], hook: Hook, family: Family, protocol: int, only: ServiceSet | None = None
) -> list[Interval]:
    """The ports or types of a protocol, cut wherever a policy may treat them differently; those of ``only``."""
    whole = whole_of(family, protocol)
    wanted = whole if only is None else service_ports(only, family, protocol)
    if whole == ((0, 0),) or not wanted:
        return [(0, 0)] if wanted else []
    cuts = {whole[0][0], whole[0][1] + 1}
    for low, high in wanted:
        cuts.update((low, high + 1))
    fixed: set[int] = set()
    if (protocol, family) == (ICMPV6, "ipv6"):
        fixed = {ICMPV6_REDIRECT, *NEIGHBOUR_DISCOVERY, *MLD, *ICMPV6_STARTS}
    elif (protocol, family) == (ICMP, "ipv4"):
        fixed = {ICMP_REDIRECT, *ICMP_STARTS}
    elif hook == "inbound" and protocol in (TCP, UDP):
        fixed = {53}
    for one in fixed:
        cuts.update((one, one + 1))
    for policy in policies:
        for rule in (*policy.inbound, *policy.outbound, *policy.forward):
            for low, high in service_ports(rule.services, family, protocol):
                cuts.update((low, high + 1))
        if policy.traps and protocol == TCP:
            for low, high in policy.traps.tcp:
                cuts.update((low, high + 1))
        for publish in policy.nat.publish:
            if hook == "inbound" and (NUMBERS[publish.protocol], publish.to_family) == (protocol, family):
                cuts.update((publish.port, publish.port + 1))
    ordered = sorted(cut for cut in cuts if cut <= whole[0][1] + 1)
    return [(low, high - 1) for low, high in pairwise(ordered) if intervals.holds(wanted, low)]


def fixed_classes(
    policies: Sequence[HostPolicy], hook: Hook, family: Family, protocol: int
) -> list[Intervals]:
    """The fixed side's addresses, cut into sets that no rule can tell apart. Raises ``TooManyPieces``."""
    sets: set[Intervals] = set()
    for policy in policies:
        rules = policy.outbound if hook == "outbound" else policy.inbound
        if hook == "forward":
            rules = (*policy.forward, *policy.outbound)
        for rule in rules:
            ends = rule.sources if hook == "outbound" else rule.destinations
            # A rule that names several ends matches their union on any one interface, so ends are cut singly.
            sets.update(family_of(end.addresses, family) for end in ends)
        if hook == "inbound" and protocol in (TCP, UDP):
            sets.update(family_of(own.addresses, family) for own in policy.container_addresses)
    if hook == "inbound" and family == "ipv4" and protocol == IGMP:
        sets.add(MULTICAST_V4)
    pieces: list[Intervals] = [everything(family)]
    for one in sorted(sets):
        cuts = ((intervals.intersect(piece, one), intervals.subtract(piece, one)) for piece in pieces)
        pieces = [part for cut in cuts for part in cut if part]
        if len(pieces) > MAX_PIECES:
            raise TooManyPieces(_too_many(hook))
    return pieces


def flow_classes(
    policies: Sequence[HostPolicy],
    hooks: Iterable[Hook] = HOOKS,
    present: Iterable[str] = (),
    only: ServiceSet | None = None,
) -> Iterator[FlowClass]:
    """All flow classes (of the service ``only``) that ``policies`` can tell apart.

    ``present`` names interfaces to tell apart besides. Raises ``TooManyPieces`` past 100,000.
    """
    atoms = interface_atoms(policies, present)
    count = 0
    for hook in hooks:
        if hook == "published" and not any(one.nat.publish or one.container_bridges for one in policies):
            continue
        ins = [""] if hook == "outbound" else atoms
        outs = [""] if hook == "inbound" else atoms
        for family in FAMILIES:
            for protocol in protocols(policies):
                fixed = fixed_classes(policies, hook, family, protocol)
                for ports in port_classes(policies, hook, family, protocol, only):
                    count += len(ins) * len(outs) * len(fixed)
                    if count > MAX_PIECES:
                        raise TooManyPieces(_too_many(hook))
                    for into in ins:
                        for out in outs:
                            if hook == "published" and any(
                                leaves_container(one, into, out) for one in policies
                            ):
                                # Translated or not, it obeys containers.outbound, as a forwarded flow.
                                continue
                            for piece in fixed:
                                yield FlowClass(hook, into, out, family, protocol, ports, piece)


UNPUBLISHED = Outcome("deny", step="unpublished")
"""What becomes of a flow through a translation that is not there."""
Target = tuple[int, int]
"""The address and port that a published port leads to."""


def translations(
    model: Model, policies: Sequence[HostPolicy], present: Iterable[str] = ()
) -> dict[tuple[FlowClass, Target], list[Part]]:
    """For each of the model's own published ports who gets through it, by original class and translated destination.

    As in the kernel, the first entry that matches translates. Classes are those that ``policies`` can tell apart.
    """
    found: dict[tuple[FlowClass, Target], list[Part]] = {}
    for into in interface_atoms(policies, present):
        taken: dict[tuple[str, int, Family], Intervals] = {}
        for publish in model.policy.nat.publish:
            family, number = publish.to_family, NUMBERS[publish.protocol]
            before = taken.get((publish.protocol, publish.port, family), ())
            sources = intervals.subtract(addresses_on(publish.sources, family, into), before)
            taken[publish.protocol, publish.port, family] = intervals.union(before, sources)
            if into in model.policy.container_bridges and not leads_here(model.policy, publish):
                # What containers send elsewhere obeys containers.outbound, translated or not.
                continue
            for fixed in fixed_classes(policies, "published", family, number):
                flow = FlowClass("published", into, "", family, number, (publish.port, publish.port), fixed)
                parts = found.setdefault((flow, (publish.to_address, publish.to_port)), [])
                parts += [
                    (outcome, own)
                    for outcome, addresses in model.outcomes(flow)
                    if (own := intervals.intersect(addresses, sources))
                ]
    return found


def leads_here(policy: HostPolicy, publish: Publish) -> bool:
    """Whether a published port leads to the device itself, as far as its addresses are known."""
    return address_in(policy.own_addresses, publish.to_family, publish.to_address)


def engines_publish(policies: Iterable[HostPolicy]) -> bool:
    """Whether somebody else may translate too: then any port may be a published one."""
    return any(one.container_bridges for one in policies)


def _too_many(hook: str) -> str:
    return (
        f"the policy cuts {hook} flows into more than {MAX_PIECES} pieces; "
        "name fewer interfaces, destinations or port ranges, or ask about one of them"
    )
