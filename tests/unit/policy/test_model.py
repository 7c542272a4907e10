"""The set-wise model, compare and the shadow labels agree with the packet-by-packet reading."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import date
from itertools import product

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import (
    compare,
    exposure,
    flows,
    intervals,
    shadow,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.judge import (
    Outcome,
    Packet,
    interface_matches,
    judge,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import (
    Addresses,
    Defaults,
    Endpoint,
    HostPolicy,
    Intervals,
    Nat,
    Publish,
    Rate,
    Rule,
    ServiceSet,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.policy import strategies as own

CASES = [("inbound", False), ("outbound", False), ("forward", False), ("forward", True)]
RELAXED = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def open_side(packet: Packet) -> int:
    return packet.destination if packet.hook == "outbound" else packet.source


def class_of(policy: HostPolicy, packet: Packet) -> flows.FlowClass:
    hook = packet.hook
    if packet.original_destination is not None and not flows.leaves_container(
        policy, packet.in_interface, packet.out_interface
    ):
        hook = "published"  # type: ignore[assignment]
    protocol = max(number for number in flows.protocols([policy]) if number <= packet.protocol)
    fixed = packet.source if packet.hook == "outbound" else packet.destination
    return flows.FlowClass(
        hook,
        packet.in_interface,
        packet.out_interface,
        packet.family,
        protocol,
        next(
            ports
            for ports in flows.port_classes([policy], hook, packet.family, protocol)
            if ports[0] <= packet.port <= ports[1]
        ),
        next(
            one
            for one in flows.fixed_classes([policy], hook, packet.family, protocol)
            if intervals.holds(one, fixed)
        ),
    )


@pytest.mark.parametrize(("hook", "published"), CASES)
def test_sets_of_flows_fare_as_each_packet_of_them_does(hook: str, published: bool) -> None:
    @RELAXED
    @given(own.policies(), st.randoms(use_true_random=False))
    def run(policy: HostPolicy, chance: object) -> None:
        model = flows.Model(policy, own.TODAY)
        for packet in chance.sample(every, 25):  # type: ignore[attr-defined]
            flow = class_of(policy, packet)
            parts = model.outcomes(flow)
            hits = [outcome for outcome, addresses in parts if intervals.holds(addresses, open_side(packet))]
            expected = judge(policy, packet, own.TODAY)
            assert hits == [expected], (packet, flow)
            assert (hits[0].step, hits[0].name) == (expected.step, expected.name)

    every = own.packets(hook, published)
    run()


@settings(max_examples=300, deadline=None)
@given(st.lists(st.from_regex(r"[a-b0]{1,3}|[a-b0]{1,3}\*|o(ther)?\*", fullmatch=True), max_size=6))
def test_interfaces_are_told_apart_in_every_way_in_which_names_and_patterns_can(names: list[str]) -> None:
    def matching(name: str) -> frozenset[str]:
        return frozenset(one for one in names if interface_matches(one, name))

    rule = Rule("r", "allow", ServiceSet(any=True), tuple(Endpoint(interfaces=(name,)) for name in names))
    atoms = flows.interface_atoms([HostPolicy("h", inbound=(rule,) if names else ())])
    universe = ["".join(one) for size in range(1, 6) for one in product("ab0x", repeat=size)]
    assert {matching(one) for one in universe} <= {matching(one) for one in atoms}
    assert not matching(atoms[-1]), "the last one stands for all that nobody names"
    # The same policy gives the same answer, in whatever order its names are met.
    again = replace(rule, sources=tuple(reversed(rule.sources)))
    assert flows.interface_atoms([HostPolicy("h", inbound=(again,) if names else ())]) == atoms


def test_a_pattern_beside_one_of_its_names_is_judged_where_it_stands_alone() -> None:
    mqtt = ServiceSet(tcp=((1883, 1883),))
    first = Rule("not the first", "deny", mqtt, (Endpoint(interfaces=("wwan0",)),))
    rest = Rule("modems", "allow", mqtt, (Endpoint(interfaces=("wwan*",)),))
    policy = HostPolicy("h", inbound=(first, rest))
    assert shadow.labels(policy) == []
    assert {one.interface for one in exposure.openings(policy, {})} == {"wwan1"}
    found = compare.compare(HostPolicy("h", inbound=(first,)), policy, {})
    assert {(one.kind, one.in_interface) for one in found.changes} == {("gained", "wwan1")}


def test_without_anything_published_there_are_no_published_flows() -> None:
    assert not list(flows.flow_classes([HostPolicy("h")], ("published",)))


def test_flow_classes_never_overlap_and_hold_every_packet() -> None:
    @settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
    @given(own.policies(size=2))
    def run(policy: HostPolicy) -> None:
        every = list(flows.flow_classes([policy], present=own.INTERFACES))
        found = set(every)
        assert len(found) == len(every)
        for hook, published in CASES:
            for packet in own.packets(hook, published)[::11]:
                assert class_of(policy, packet) in found

    run()


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(own.policies(size=2), own.policies(size=2), st.randoms(use_true_random=False))
def test_compare_lists_exactly_the_packets_that_fare_otherwise(
    before: HostPolicy, after: HostPolicy, chance: object
) -> None:
    found = compare.compare(before, after, {}, own.INTERFACES, own.TODAY)
    every = [packet for hook, published in CASES for packet in own.packets(hook, published)]
    for packet in chance.sample(every, 60):  # type: ignore[attr-defined]
        old, new = judge(before, packet, own.TODAY), judge(after, packet, own.TODAY)
        start = max(number for number in flows.protocols([before, after]) if number <= packet.protocol)
        hits = [one for one in found.changes if speaks_of(one, packet, start)]
        if old == new:
            assert hits == []
        else:
            assert len(hits) == 1, packet
            passed, passes = old.verdict == "allow", new.verdict == "allow"
            kind = "changed" if passed == passes else "gained" if passes else "lost"
            assert (hits[0].kind, hits[0].before, hits[0].after) == (kind, old, new)


def published(*sources: tuple[int, int, int], port: int = 80) -> tuple[Publish, ...]:
    """(first source, last source, last octet of the target) of each entry."""
    return tuple(
        Publish(
            str(place), (Endpoint(Addresses(((low, high),))),), "tcp", port, "ipv4", own.TENS + 100 + last, 81
        )
        for place, (low, high, last) in enumerate(sources)
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15), st.integers(0, 1)), max_size=3),
    st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15), st.integers(0, 1)), max_size=3),
    st.tuples(st.integers(0, 15), st.integers(0, 15), st.sampled_from(["allow", "deny", "reject"])),
    st.booleans(),
)
def test_compare_says_who_gains_and_loses_what_by_a_published_port(
    old: list[tuple[int, int, int]],
    new: list[tuple[int, int, int]],
    ruled: tuple[int, int, str],
    engine: bool,
) -> None:
    def policy(entries: list[tuple[int, int, int]]) -> HostPolicy:
        entries = [(own.TENS + min(a, b), own.TENS + max(a, b), last) for a, b, last in entries]
        first, last, verdict = ruled
        one = rule("r", verdict, own.TENS + min(first, last), own.TENS + max(first, last), (80, 80))
        bridges = ("pod0",) if engine else ()
        return HostPolicy(
            "h", inbound=(one,), nat=Nat(publish=published(*entries)), container_bridges=bridges
        )

    def goes(policy: HostPolicy, source: int) -> dict[int, str]:
        """The one target that the kernel would choose, and whether the packet may go there."""
        for entry in policy.nat.publish:
            if any(intervals.holds(end.addresses.v4, source) for end in entry.sources):
                packet = Packet(
                    "forward", "ipv4", source, entry.to_address, 6, 81, in_interface="other",
                    out_interface="lan9", original_destination=own.TENS + 200, original_port=80,
                )  # fmt: skip
                return {entry.to_address: judge(policy, packet).verdict}
        return {}

    before, after = policy(old), policy(new)
    found = [one for one in compare.compare(before, after, {}).translations if one.in_interface == "other"]
    for source in range(own.TENS, own.TENS + 17):
        had = {to for to, verdict in goes(before, source).items() if verdict == "allow"}
        has = {to for to, verdict in goes(after, source).items() if verdict == "allow"}
        said = {
            (one.kind, one.target)
            for one in found
            if intervals.holds(one.addresses, source) and one.ports == (80, 80)
        }
        expected = {("gained", to) for to in has - had} | {("lost", to) for to in had - has}
        assert said == {(kind, f"10.0.0.{to & 255}:81") for kind, to in expected}


def speaks_of(change: compare.Change, packet: Packet, start: int) -> bool:
    """``start`` is the number that stands for the packet's protocol among those that behave alike."""
    leaves = packet.in_interface == "pod0" and packet.out_interface != "pod0"
    hook = "published" if packet.original_destination is not None and not leaves else packet.hook
    fixed = packet.source if packet.hook == "outbound" else packet.destination
    names = {6: "tcp", 17: "udp", 132: "sctp", 1: "icmp", 58: "icmpv6"}
    protocol = names.get(packet.protocol)
    if protocol is None:
        if change.protocol != f"protocol {start}":
            return False
    elif protocol != change.protocol:
        return False
    return (
        change.hook == hook
        and change.in_interface == packet.in_interface
        and change.out_interface == packet.out_interface
        and change.family == packet.family
        and change.ports[0] <= packet.port <= change.ports[1]
        and intervals.holds(change.fixed, fixed)
        and intervals.holds(change.addresses, open_side(packet))
    )


def rule(
    name: str, verdict: str, low: int, high: int, ports: tuple[int, int] = (22, 22), **more: object
) -> Rule:
    ends = (Endpoint(Addresses(((low, high),))),)
    return Rule(name, verdict, ServiceSet(tcp=(ports,)), ends, **more)  # type: ignore[arg-type]


def label_of(*rules: Rule, **more: object) -> dict[str, str]:
    policy = HostPolicy("h", inbound=rules, **more)  # type: ignore[arg-type]
    return {one.rule.name: one.label for one in shadow.labels(policy)}


def test_a_rule_covered_by_two_others_together_is_shadowed() -> None:
    assert label_of(rule("a", "allow", 0, 99), rule("b", "allow", 100, 199), rule("c", "allow", 50, 150)) == {
        "c": "shadowed"
    }


def test_a_rule_with_one_address_left_is_not_shadowed() -> None:
    assert (
        label_of(rule("a", "allow", 0, 99), rule("b", "allow", 101, 199), rule("c", "allow", 50, 150)) == {}
    )


def test_a_shadowed_rule_that_says_otherwise_is_a_conflict() -> None:
    assert label_of(rule("a", "deny", 0, 99), rule("b", "allow", 100, 199), rule("c", "allow", 50, 150)) == {
        "c": "conflict"
    }


def test_an_earlier_rule_that_ends_sooner_does_not_shadow() -> None:
    early = rule("a", "allow", 0, 99, until=date(2027, 1, 31))
    assert label_of(early, rule("b", "allow", 0, 99)) == {"a": "redundant"}
    late = rule("a", "allow", 0, 99, until=date(2027, 3, 1))
    assert label_of(late, rule("b", "allow", 0, 9, until=date(2027, 2, 1))) == {"b": "shadowed"}


def test_another_rate_is_another_outcome() -> None:
    assert label_of(rule("a", "allow", 0, 99, rate=Rate(5, 1)), rule("b", "allow", 0, 9)) == {"b": "conflict"}


def test_a_deny_before_a_drop_default_is_redundant_unless_it_stops_ping() -> None:
    last = Rule("last", "deny", ServiceSet(any=True), (Endpoint(),))
    assert label_of(rule("a", "allow", 0, 9), last) == {"last": "redundant"}
    from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import Ping

    assert label_of(rule("a", "allow", 0, 9), last, defaults=Defaults(ping=Ping())) == {}


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(own.policies(size=4), st.sampled_from(["inbound", "outbound", "forward"]))
def test_labels_agree_with_trying_every_packet_without_the_rule(policy: HostPolicy, hook: str) -> None:
    """A sample of packets can refute a label; that none is missed is shown by the next test."""
    rules = getattr(policy, hook)
    labels = {one.rule.name: one.label for one in shadow.labels(policy) if one.hook == hook}
    days = [date(2026, 11, 1), date(2027, 1, 15), date(2027, 2, 15), date(2027, 4, 1)]
    universe = own.packets(hook)
    for place, one in enumerate(rules):
        label = labels.get(one.name)
        if label is None:
            continue
        without = replace(policy, **{hook: rules[:place] + rules[place + 1 :]})
        for day in days:
            for packet in universe[:: 3 if hook != "forward" else 31]:
                with_it, then = judge(policy, packet, day), judge(without, packet, day)
                if label == "redundant":
                    assert (with_it.verdict, with_it.rate) == (then.verdict, then.rate)
                else:
                    assert not (with_it.step == "rule" and with_it.name == one.name)


small = st.builds(
    lambda verdict, low, size, port, ports, rate, until: (
        verdict,
        low,
        low + size,
        port,
        port + ports,
        rate,
        until,
    ),
    st.sampled_from(["allow", "deny"]),
    st.integers(0, 5),
    st.integers(0, 4),
    st.integers(1, 3),
    st.integers(0, 2),
    st.sampled_from([None, None, Rate(1, 1)]),
    st.sampled_from([None, None, date(2027, 1, 1), date(2027, 2, 1)]),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(small, max_size=5), st.sampled_from(["deny", "allow"]))
def test_labels_are_those_of_brute_force(drawn: list[tuple], default: str) -> None:  # type: ignore[type-arg]
    """Ten addresses, five ports, three pieces of time: every flow class is tried."""
    rules = [
        rule(f"r{i}", v, low, high, (p, q), rate=rate if v == "allow" else None, until=until)
        for i, (v, low, high, p, q, rate, until) in enumerate(drawn)
    ]
    policy = HostPolicy("h", inbound=tuple(rules), defaults=Defaults(inbound=default))  # type: ignore[arg-type]
    pieces = [date(2026, 12, 31), date(2027, 1, 15), date(2027, 3, 1)]

    def first(among: list[Rule], address: int, port: int, day: date) -> Rule | None:
        for one in among:
            alive = one.until is None or one.until >= day
            if (
                alive
                and intervals.holds(one.sources[0].addresses.v4, address)
                and intervals.holds(one.services.tcp, port)
            ):
                return one
        return None

    def decision(one: Rule | None) -> tuple[str, Rate | None]:
        return (one.verdict, one.rate) if one else (default, None)

    expected = {}
    for place, one in enumerate(rules):
        decides = conflict = differs = False
        for day in pieces:
            if one.until is not None and one.until < day:
                continue
            for address in range(12):
                for port in range(7):
                    if first([one], address, port, day) is None:
                        continue
                    earlier = first(rules[:place], address, port, day)
                    if earlier is not None:
                        conflict = conflict or decision(earlier) != decision(one)
                        continue
                    decides = True
                    differs = differs or decision(first(rules[place + 1 :], address, port, day)) != decision(
                        one
                    )
        if not decides:
            expected[one.name] = "conflict" if conflict else "shadowed"
        elif not differs:
            expected[one.name] = "redundant"
    assert {one.rule.name: one.label for one in shadow.labels(policy)} == expected


def test_too_many_pieces_is_an_error_that_says_so() -> None:
    ends = tuple(Endpoint(Addresses(((n * 10, n * 10 + 5),))) for n in range(400))
    rules = tuple(
        Rule(f"r{n}", "allow", ServiceSet(tcp=((n * 3 + 1, n * 3 + 1),)), (Endpoint(),), (ends[n],))
        for n in range(400)
    )
    with pytest.raises(flows.TooManyPieces, match="more than 100000 pieces"):
        list(flows.flow_classes([HostPolicy("h", forward=rules)]))


def test_outcomes_are_equal_by_verdict_rate_cut_off_and_log_only() -> None:
    assert Outcome("allow", step="rule", name="a") == Outcome("allow", step="default")
    assert Outcome("allow") != Outcome("allow", log=True)


@pytest.mark.parametrize(("cells", "wide"), [(256, 64), (8, 2), (3, 0)])
def test_the_index_of_rules_leaves_out_none_that_meets_another(
    monkeypatch: pytest.MonkeyPatch, cells: int, wide: int
) -> None:
    """Also for rules of many intervals, and for some that are in nearly every cell."""
    monkeypatch.setattr(shadow._Index, "CELLS", cells)
    monkeypatch.setattr(shadow._Index, "WIDE", wide)
    chance = random.Random(8)

    def some(top: int, longest: int) -> Intervals:
        lows = [chance.randrange(1, top) for _ in range(chance.choice((1, 2, 3, 9)))]
        return intervals.merge((low, min(top, low + chance.randrange(longest))) for low in lows)

    rules = tuple(
        Rule(
            f"r{number}",
            "allow",
            ServiceSet(any=True)
            if number % 17 == 0
            else ServiceSet(tcp=some(65535, chance.choice((1, 20000)))),
            (Endpoint(Addresses(some((1 << 32) - 1, chance.choice((1 << 8, 1 << 29))))),),
        )
        for number in range(150)
    )
    section = shadow._Section(HostPolicy("gw1", inbound=rules), "inbound", rules)
    index = section.families["ipv4"]
    touching = 0
    for place, rule in enumerate(index.products):
        assert rule is not None
        expected = [
            other
            for other in range(len(rules))
            if other != place and shadow._touch(rule, index.product(other))
        ]
        found = [*index.meeting(place, before=True), *index.meeting(place, before=False)]
        assert found == expected
        touching += len(found)
    assert touching > 500
