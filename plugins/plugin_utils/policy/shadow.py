# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Rules that can never decide anything, judged by the union of the others and not pair by pair.

In one family a rule is a product of three sets on a line: sources (interface and address in one number),
destinations (the same) and services (protocol and port in one number). Whether a rule is shadowed is whether its
product is covered by the products of earlier rules, found by cutting them out one after the other until something
or nothing is left.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import flows, intervals
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.judge import (
    ICMP,
    ICMP_ECHO,
    ICMP_REDIRECT,
    ICMPV6,
    ICMPV6_ECHO,
    ICMPV6_REDIRECT,
    MLD,
    NEIGHBOUR_DISCOVERY,
    TCP,
    counts_on,
    family_of,
    names_nothing,
    starts_flow,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import (
    Endpoint,
    Family,
    Finding,
    HostPolicy,
    Intervals,
    Rate,
    Rule,
    ServiceSet,
    Verdict,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.source import short

Label = Literal["conflict", "shadowed", "redundant"]
Decision = tuple[Verdict, "Rate | None"]
Hook = Literal["inbound", "outbound", "forward"]
Product = tuple[Intervals, Intervals, Intervals]
"""Sources, destinations, services."""

_FOREVER = date.max
_PORT_BITS = 16


@dataclass(frozen=True, slots=True)
class Labelled:
    """A rule with its label and, where there are any, the names of the earlier rules that cover it."""

    hook: Hook
    rule: Rule
    label: Label
    by: tuple[str, ...]


def labels(policy: HostPolicy) -> list[Labelled]:
    """The strongest label of every rule that has one, in order."""
    found: list[Labelled] = []
    sections: tuple[tuple[Hook, tuple[Rule, ...]], ...] = (
        ("inbound", policy.inbound),
        ("outbound", policy.outbound),
        ("forward", policy.forward),
    )
    for hook, rules in sections:
        if rules:
            found += _Section(policy, hook, rules).labels()
    return found


def findings(policy: HostPolicy, skip: Container[str] = ()) -> list[Finding]:
    """The labels as warnings, without those of the hooks in ``skip``."""
    words = {
        "conflict": (
            "can never match and earlier rules decide otherwise",
            "move it before them, or remove it",
        ),
        "shadowed": ("can never match: earlier rules cover all of it", "remove it"),
        "redundant": ("changes nothing: without it the same would happen", "remove it"),
    }
    result = []
    for one in labels(policy):
        if one.hook in skip:
            continue
        why, remedy = words[one.label]
        by = ", ".join(f"`{short(name, 40)}`" for name in one.by[:3]) + (
            " and more" if len(one.by) > 3 else ""
        )
        message = f"{one.hook} rule `{short(one.rule.name, 40)}` {why}" + (f" (by {by})" if by else "")
        result.append(Finding(one.label, "warning", message, remedy, one.rule.where))
    return result


class _Section:
    """One section's rules in both families, with an index to find the rules that meet another one."""

    def __init__(self, policy: HostPolicy, hook: Hook, rules: tuple[Rule, ...]) -> None:
        self.policy = policy
        self.hook = hook
        self.rules = rules
        self.timed = any(rule.until for rule in rules)
        self.decisions = [_decision(rule) for rule in rules]
        self.atoms = flows.interface_atoms([policy])
        self.families: dict[Family, _Index] = {}
        for family in flows.FAMILIES:
            lines = _Lines(policy, hook, family, self.atoms)
            self.families[family] = _Index(lines, [lines.product(rule) for rule in rules])
        # A published flow is judged by the inbound rules and ends in a drop.
        self.tails: list[bool] = [False]
        if hook == "inbound" and (policy.nat.publish or policy.container_bridges):
            self.tails.append(True)

    def labels(self) -> Iterator[Labelled]:
        for place, rule in enumerate(self.rules):
            by = self._shadowed(place)
            if by is not None:
                label: Label = "conflict" if self._conflicts(place) else "shadowed"
                yield Labelled(self.hook, rule, label, by)
            elif self._redundant(place):
                yield Labelled(self.hook, rule, "redundant", ())

    def _end(self, place: int) -> date:
        return self.rules[place].until or _FOREVER

    def _shadowed(self, place: int) -> tuple[str, ...] | None:
        """The names of earlier rules that cover this one as long as it lives; None where something is left."""
        by: dict[str, None] = {}
        matches = False
        # Rules only ever go, so what covers this one on its last day covered it before.
        last = self._end(place)
        for index in self.families.values():
            own = index.products[place]
            if own is None:
                continue
            matches = True
            whole = next((one for one in index.covering(place) if self._end(one) >= last), None)
            if whole is None:
                earlier = [one for one in index.meeting(place, before=True) if self._end(one) >= last]
                if next(_uncovered(own, [index.product(one) for one in earlier]), None) is not None:
                    return None
                by.update((self.rules[one].name, None) for one in earlier)
            else:
                by[self.rules[whole].name] = None
        return tuple(by) if matches else None

    def _conflicts(self, place: int) -> bool:
        """Whether some flow of this shadowed rule had another outcome than it says."""
        wanted = self.decisions[place]
        for index in self.families.values():
            own = index.products[place]
            if own is None:
                continue
            for day in self._days(index, place):
                alive: list[Product] = []
                for one in index.meeting(place, before=True):
                    if self._end(one) < day:
                        continue
                    product = index.product(one)
                    if self.decisions[one] != wanted:
                        meeting = _meet(own, product)
                        if meeting and next(_uncovered(meeting, alive), None) is not None:
                            return True
                    alive.append(product)
        return False

    def _redundant(self, place: int) -> bool:
        """Whether every flow that this rule decides would meet the same outcome without it."""
        wanted = self.decisions[place]
        for index in self.families.values():
            own = index.products[place]
            if own is None:
                continue
            for day in self._days(index, place):
                hiding = [
                    index.product(one) for one in index.meeting(place, before=True) if self._end(one) >= day
                ]
                following = [
                    (index.product(one), self.decisions[one])
                    for one in index.meeting(place, before=False)
                    if self._end(one) >= day
                ]
                for published in self.tails:
                    before = list(hiding)
                    for product, decision in [*following, *index.lines.tail(published)]:
                        meeting = _meet(own, product) if decision != wanted else None
                        if meeting and any(
                            index.lines.visible(cell, published) for cell in _uncovered(meeting, before)
                        ):
                            return False
                        before.append(product)
        return True

    def _days(self, index: _Index, place: int) -> list[date]:
        """One day for each piece of time in which this rule lives."""
        last = self._end(place)
        if not self.timed:
            return [last]
        others = [*index.meeting(place, before=True), *index.meeting(place, before=False)]
        return sorted({last, *(day for day in map(self._end, others) if day < last)})


def _decision(rule: Rule) -> Decision:
    return rule.verdict, rule.rate


class _Lines:
    """How one family's interfaces, addresses, protocols and ports become numbers on a line."""

    def __init__(self, policy: HostPolicy, hook: Hook, family: Family, atoms: Sequence[str]) -> None:
        self.policy = policy
        self.hook = hook
        self.family = family
        self.atoms = atoms
        self.size = 1 << (32 if family == "ipv4" else 128)
        # A packet that starts or ends here has one interface only.
        self.ins = [""] if hook == "outbound" else list(atoms)
        self.outs = [""] if hook == "inbound" else list(atoms)
        self._ends: dict[tuple[int, bool, bool], Intervals] = {}
        self._services: dict[int, Intervals] = {}
        self._keep: list[object] = []
        self._blocked: dict[str, Intervals] = {}

    def product(self, rule: Rule) -> Product | None:
        """The rule as a product; None where it matches nothing of this family."""
        naming = self.hook == "forward" and rule.verdict == "allow" and bool(self.policy.container_bridges)
        sources = self.ends(rule.sources, self.ins, True)
        destinations = self.ends(rule.destinations, self.outs, False, naming)
        services = self.services(rule.services)
        return (sources, destinations, services) if sources and destinations and services else None

    def ends(
        self, endpoints: tuple[Endpoint, ...], names: Sequence[str], source: bool, naming: bool = False
    ) -> Intervals:
        key = (id(endpoints), source, naming)
        if key not in self._ends:
            self._keep.append(endpoints)
            pairs = []
            for place, name in enumerate(names):
                strict = naming and name in self.policy.container_bridges
                for end in endpoints:
                    if counts_on(end.interfaces, name) and not (strict and names_nothing(end, self.family)):
                        base = place * self.size
                        pairs += [
                            (base + low, base + high) for low, high in family_of(end.addresses, self.family)
                        ]
            self._ends[key] = intervals.merge(pairs)
        return self._ends[key]

    def services(self, services: ServiceSet) -> Intervals:
        key = id(services)
        if key not in self._services:
            self._keep.append(services)
            pairs = []
            numbers: Iterable[int] = range(256)
            if not services.any and not services.protocols:
                numbers = (1, 6, 17, 58, 132)
            for number in numbers:
                base = number << _PORT_BITS
                pairs += [
                    (base + low, base + high)
                    for low, high in flows.service_ports(services, self.family, number)
                ]
            self._services[key] = intervals.merge(pairs)
        return self._services[key]

    def everything(self) -> Product:
        ends = (((0, self.size * len(self.ins) - 1),), ((0, self.size * len(self.outs) - 1),))
        return (*ends, self.services(_ANY))

    def tail(self, published: bool) -> list[tuple[Product, Decision]]:
        """What decides after the rules, as further rules."""
        policy = self.policy
        every = self.everything()
        if published:
            return [(every, ("deny", None))]
        if self.hook == "outbound":
            return [(every, (policy.defaults.outbound, None))]
        steps: list[tuple[Product, Decision]] = []
        if self.hook == "forward":
            places = [place for place, name in enumerate(self.outs) if name in policy.container_bridges]
            to_containers = intervals.merge(
                (place * self.size, (place + 1) * self.size - 1) for place in places
            )
            if to_containers:
                steps.append(((every[0], to_containers, every[2]), ("deny", None)))
            return [*steps, (every, (policy.defaults.forward, None))]
        if policy.traps:
            base = TCP << _PORT_BITS
            trapped = intervals.merge((base + low, base + high) for low, high in policy.traps.tcp)
            steps.append(((every[0], every[1], trapped), ("deny", None)))
        for publish in policy.nat.publish:
            if publish.to_family == self.family:
                port = (flows.NUMBERS[publish.protocol] << _PORT_BITS) + publish.port
                sources = self.ends(publish.sources, self.ins, True)
                steps.append(((sources, every[1], ((port, port),)), ("deny", None)))
        ping = policy.defaults.ping
        if ping:
            number, kind = (ICMP, ICMP_ECHO) if self.family == "ipv4" else (ICMPV6, ICMPV6_ECHO)
            echo = (number << _PORT_BITS) + kind
            sources = self.ends(ping.sources, self.ins, True)
            steps.append(((sources, every[1], ((echo, echo),)), ("allow", ping.rate)))
        return [*steps, (every, (policy.defaults.inbound, None))]

    def visible(self, cell: Product, published: bool) -> bool:
        """Whether any flow of ``cell`` gets as far as the rules."""
        services = intervals.subtract(cell[2], self._settled(published))
        if not services:
            return False
        here = self._split(cell[1] if self.hook == "outbound" else cell[0])
        left = {
            place: intervals.subtract(addresses, self._dropped(place)) for place, addresses in here.items()
        }
        places = [place for place, addresses in left.items() if addresses]
        if self.hook != "forward":
            return bool(places)
        bridges, containers = self.policy.bridges, self.policy.container_bridges
        for place in places:
            into = self.ins[place]
            for other in self._split(cell[1]):
                out = self.outs[other]
                if into == out and into in bridges:
                    continue
                if into in containers and out not in containers:
                    continue
                return True
        return False

    def _settled(self, published: bool) -> Intervals:
        """Services that are decided before any rule is asked."""
        forwarded = published or self.hook == "forward"
        if self.family == "ipv4":
            kinds: set[int] = {ICMP_REDIRECT}
            number = ICMP
        else:
            kinds = {ICMPV6_REDIRECT, *NEIGHBOUR_DISCOVERY} | (set() if forwarded else MLD)
            number = ICMPV6
        kinds.update(kind for kind in range(256) if not starts_flow(self.family, number, kind))
        base = number << _PORT_BITS
        return intervals.merge((base + kind, base + kind) for kind in kinds)

    def _split(self, line: Intervals) -> dict[int, Intervals]:
        """The addresses of a set on a line, by interface."""
        found: dict[int, list[tuple[int, int]]] = {}
        for low, high in line:
            for place in range(low // self.size, high // self.size + 1):
                base = place * self.size
                found.setdefault(place, []).append((max(low - base, 0), min(high - base, self.size - 1)))
        return {place: tuple(pairs) for place, pairs in found.items()}

    def _dropped(self, place: int) -> Intervals:
        """Addresses that anti-spoofing and block lists drop on one interface before the rules."""
        outbound = self.hook == "outbound"
        name = self.outs[place] if outbound else self.ins[place]
        if name not in self._blocked:
            sets = [
                family_of(one.addresses, self.family)
                for one in self.policy.blocklists
                if (one.both or not outbound) and counts_on(one.interfaces, name)
            ]
            if not outbound:
                sets.append(flows.spoofed_on(self.policy, self.family, name))
            self._blocked[name] = intervals.union(*sets)
        return self._blocked[name]


_ANY = ServiceSet(any=True)


class _Index:
    """Finds the rules whose hulls meet another rule's, with one bit a rule."""

    STEP = 64
    CELLS = 256
    """Into so many a line is cut. Rules of several intervals have hulls that meet everybody's; their cells do not."""
    WIDE = 64

    def __init__(self, lines: _Lines, products: list[Product | None]) -> None:
        self.lines = lines
        self.products = products
        self.all = self.solid = 0
        for place, product in enumerate(products):
            if product:
                self.all |= 1 << place
                if len(product[0]) == len(product[1]) == len(product[2]) == 1:
                    # Its hull is itself.
                    self.solid |= 1 << place
        self._starts = [self._sorted(dimension, 0) for dimension in range(3)]
        self._ends = [self._sorted(dimension, -1) for dimension in range(3)]
        # Where all hulls are exact, nothing is gained by looking closer.
        self._cells = [] if self.solid == self.all else [self._cut(dimension) for dimension in range(3)]
        self._near: dict[tuple[int, int], int] = {}

    def product(self, place: int) -> Product:
        product = self.products[place]
        assert product is not None
        return product

    def _sorted(self, dimension: int, end: int) -> tuple[list[int], list[int], list[int]]:
        """Hull ends in order, the rules they belong to, and every 64th time the bits of all rules up to there."""
        ordered = sorted(
            (product[dimension][end][0 if end == 0 else 1], place)
            for place, product in enumerate(self.products)
            if product
        )
        bits = 0
        sums = [0]
        for position, (_value, place) in enumerate(ordered, 1):
            bits |= 1 << place
            if position % self.STEP == 0:
                sums.append(bits)
        return [value for value, _place in ordered], [place for _value, place in ordered], sums

    def _cut(self, dimension: int) -> tuple[list[int], list[int], int]:
        """Where a line is cut, the bits of the rules in each cell, and those of rules in so many that they count always."""
        lines = [(place, product[dimension]) for place, product in enumerate(self.products) if product]
        starts = sorted({low for _place, line in lines for low, _high in line})
        edges = starts[:: len(starts) // self.CELLS + 1]
        cells = [bytearray(len(self.products) // 8 + 1) for _ in range(len(edges) + 1)]
        always = 0
        for place, line in lines:
            held = self._held(edges, line)
            if held is None:
                always |= 1 << place
            else:
                for cell in held:
                    cells[cell][place >> 3] |= 1 << (place & 7)
        return edges, [int.from_bytes(cell, "little") for cell in cells], always

    def _held(self, edges: list[int], line: Intervals) -> set[int] | None:
        """The cells that a set of intervals touches; None for too many."""
        held: set[int] = set()
        for low, high in line:
            first, last = bisect_right(edges, low), bisect_right(edges, high)
            if last - first > self.WIDE:
                return None
            held.update(range(first, last + 1))
            if len(held) > self.WIDE:
                return None
        return held

    def _around(self, dimension: int, line: Intervals) -> int:
        """The bits of all rules that may meet ``line``, and of some that do not."""
        key = dimension, id(line)
        if key not in self._near:
            edges, cells, bits = self._cells[dimension]
            held = self._held(edges, line)
            if held is None:
                bits = self.all
            else:
                for cell in held:
                    bits |= cells[cell]
            self._near[key] = bits
        return self._near[key]

    def _first(self, table: tuple[list[int], list[int], list[int]], number: int) -> int:
        """The bits of the first ``number`` rules of a table."""
        _values, places, sums = table
        bits = sums[number // self.STEP]
        for place in places[number - number % self.STEP : number]:
            bits |= 1 << place
        return bits

    def meeting(self, place: int, before: bool) -> Iterator[int]:
        """The rules before or after ``place`` that meet it in all three dimensions, in order."""
        own = self.product(place)
        low = (1 << place) - 1
        bits = self.all & (low if before else ~(low | 1 << place))
        for dimension in range(3):
            first, last = own[dimension][0][0], own[dimension][-1][1]
            ends = self._ends[dimension]
            bits &= ~self._first(ends, bisect_left(ends[0], first))
            starts = self._starts[dimension]
            bits &= self._first(starts, bisect_right(starts[0], last))
            if self._cells:
                bits &= self._around(dimension, own[dimension])
            if not bits:
                return
        if self.solid >> place & 1:
            exact = bits & self.solid
            for other in _places(bits):
                if exact >> other & 1 or _touch(own, self.product(other)):
                    yield other
        else:
            yield from (other for other in _places(bits) if _touch(own, self.product(other)))

    def covering(self, place: int) -> Iterator[int]:
        """Earlier rules that cover all of ``place`` and have no holes, in order. (Others may cover it too.)"""
        own = self.product(place)
        bits = self.solid & ((1 << place) - 1)
        for dimension in range(3):
            first, last = own[dimension][0][0], own[dimension][-1][1]
            ends = self._ends[dimension]
            bits &= ~self._first(ends, bisect_left(ends[0], last))
            starts = self._starts[dimension]
            bits &= self._first(starts, bisect_right(starts[0], first))
            if not bits:
                return
        yield from _places(bits)


def _places(bits: int) -> Iterator[int]:
    """Which bits are set, lowest first."""
    digits = bin(bits)[:1:-1]
    place = digits.find("1")
    while place >= 0:
        yield place
        place = digits.find("1", place + 1)


def _touch(left: Product, right: Product) -> bool:
    return (
        (left[0] is right[0] or intervals.overlaps(left[0], right[0]))
        and (left[1] is right[1] or intervals.overlaps(left[1], right[1]))
        and (left[2] is right[2] or intervals.overlaps(left[2], right[2]))
    )


def _within(inner: Product, outer: Product) -> bool:
    return (
        (inner[0] is outer[0] or intervals.contains(outer[0], inner[0]))
        and (inner[1] is outer[1] or intervals.contains(outer[1], inner[1]))
        and (inner[2] is outer[2] or intervals.contains(outer[2], inner[2]))
    )


def _meet(left: Product, right: Product) -> Product | None:
    services = left[2] if left[2] is right[2] else intervals.intersect(left[2], right[2])
    if not services:
        return None
    sources = left[0] if left[0] is right[0] else intervals.intersect(left[0], right[0])
    if not sources:
        return None
    destinations = left[1] if left[1] is right[1] else intervals.intersect(left[1], right[1])
    return (sources, destinations, services) if destinations else None


def _uncovered(product: Product, others: Sequence[Product]) -> Iterator[Product]:
    """What of ``product`` no other product covers, in pieces that are products themselves."""
    if any(_within(product, other) for other in others):
        return
    stack: list[tuple[Product, int]] = [(product, 0)]
    while stack:
        piece, position = stack.pop()
        while position < len(others):
            other = others[position]
            position += 1
            common = _meet(piece, other)
            if common is None:
                continue
            # The piece falls apart into what is beside the other one in each dimension in turn.
            beside: list[Product] = []
            rest = piece
            for dimension in range(3):
                outside = intervals.subtract(rest[dimension], common[dimension])
                if outside:
                    beside.append(_with(rest, dimension, outside))
                rest = _with(rest, dimension, common[dimension])
            stack += [(one, position) for one in beside]
            break
        else:
            yield piece


def _with(product: Product, dimension: int, new: Intervals) -> Product:
    return (
        new if dimension == 0 else product[0],
        new if dimension == 1 else product[1],
        new if dimension == 2 else product[2],
    )
