"""Interval algebra and CIDR texts against sets of integers and against netaddr."""

from __future__ import annotations

import random
import socket
from itertools import pairwise

import netaddr
import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import cidrs, intervals
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import Addresses, Intervals
from hypothesis import given
from hypothesis import strategies as st

SMALL = 40
pairs = st.lists(
    st.tuples(st.integers(0, SMALL), st.integers(0, SMALL)).map(lambda one: (min(one), max(one)))
)
canonical = pairs.map(intervals.merge)


def members(found: Intervals) -> set[int]:
    return {number for low, high in found for number in range(low, high + 1)}


def is_canonical(found: Intervals) -> bool:
    return all(low <= high for low, high in found) and all(
        left[1] + 1 < right[0] for left, right in pairwise(found)
    )


@given(pairs)
def test_merge_holds_the_same_numbers_in_canonical_form(drawn: list[tuple[int, int]]) -> None:
    merged = intervals.merge(drawn)
    assert is_canonical(merged)
    assert members(merged) == {number for low, high in drawn for number in range(low, high + 1)}


@given(canonical, canonical)
def test_the_algebra_is_that_of_sets(left: Intervals, right: Intervals) -> None:
    a, b = members(left), members(right)
    for found, expected in (
        (intervals.union(left, right), a | b),
        (intervals.intersect(left, right), a & b),
        (intervals.subtract(left, right), a - b),
        (intervals.complement(left, SMALL), set(range(SMALL + 1)) - a),
    ):
        assert is_canonical(found)
        assert members(found) == expected
    assert intervals.overlaps(left, right) == bool(a & b)
    assert intervals.contains(left, right) == (b <= a)
    assert intervals.count(left) == len(a)
    assert {number for number in range(SMALL + 1) if intervals.holds(left, number)} == a


@given(st.lists(st.integers(0, 3000), min_size=65, max_size=300, unique=True), pairs)
def test_cutting_few_holes_into_a_long_list_is_the_same_subtraction(
    numbers: list[int], drawn: list[tuple[int, int]]
) -> None:
    left = intervals.merge((number * 3, number * 3 + 1) for number in numbers)
    right = intervals.merge((low * 200, high * 200 + 7) for low, high in drawn)
    found = intervals.subtract(left, right)
    assert is_canonical(found)
    assert members(found) == members(left) - members(right)


@given(canonical)
def test_prefixes_make_up_the_set_with_the_fewest_blocks(found: Intervals) -> None:
    blocks = list(intervals.prefixes(found, 32))
    ours = {number for start, length in blocks for number in range(start, start + (1 << 32 - length))}
    assert ours == members(found)
    theirs = netaddr.cidr_merge([netaddr.IPRange(low, high) for low, high in found] if found else [])
    assert len(blocks) == len(theirs)
    nearest = intervals.nearest_prefix(found, 32)
    if found:
        assert nearest is not None
        ends = [netaddr.IPAddress(found[0][0]), netaddr.IPAddress(found[-1][1])]
        assert netaddr.spanning_cidr(ends).prefixlen == nearest[1] or found[0] == found[-1]
    else:
        assert nearest is None


prefix4 = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(
    lambda one: netaddr.IPNetwork(one, version=4).cidr
)
prefix6 = st.tuples(st.integers(0, 2**128 - 1), st.integers(0, 128)).map(
    lambda one: netaddr.IPNetwork(one, version=6).cidr
)
_MAPPED = netaddr.IPNetwork("::ffff:0:0/96")


@given(st.lists(prefix4 | prefix6))
def test_reading_merging_and_writing_agrees_with_netaddr(drawn: list[netaddr.IPNetwork]) -> None:
    networks = [one for one in drawn if one.version == 4 or one not in _MAPPED]
    written = cidrs.texts(cidrs.parse([str(one) for one in networks]))
    assert [netaddr.IPNetwork(text) for text in written] == netaddr.cidr_merge(networks)


@given(st.integers(0, 2**128 - 1) | st.integers(0, 2**49))
def test_ipv6_addresses_are_written_as_netaddr_writes_them(number: int) -> None:
    if 0xFFFF << 32 <= number <= 0xFFFFFFFFFFFF:
        return
    text = cidrs.address_text("ipv6", number)
    assert int(netaddr.IPAddress(text)) == number
    if number >> 32:
        assert text == str(netaddr.IPAddress(number, 6))


@given(canonical)
def test_spans_are_written_as_address_cidr_or_range(found: Intervals) -> None:
    for family in ("ipv4", "ipv6"):
        high = 0 if family == "ipv4" else 0xFD00 << 112
        moved = tuple((high + low, high + last) for low, last in found)
        texts = cidrs.span_texts(family, moved)  # type: ignore[arg-type]
        read = [(cidrs.parse_range if "-" in text else cidrs.parse_one)(text) for text in texts]
        assert tuple(one[1:] for one in read) == moved


def test_a_block_list_of_thousands_of_lines_agrees_with_netaddr() -> None:
    chance = random.Random(7)
    lines = []
    for _ in range(3000):
        length = chance.randint(12, 32)
        network = chance.getrandbits(32) >> (32 - length) << (32 - length)
        lines.append(f"{socket.inet_ntoa(network.to_bytes(4, 'big'))}/{length}")
        if chance.random() < 0.3:
            lines.append(lines[-1])
    found, problems = cidrs.read_list("\r\n".join(["# head", *lines, ""]))
    assert problems == []
    assert cidrs.texts(found) == [str(one) for one in netaddr.cidr_merge(lines)]


def test_a_block_list_of_both_families_agrees_with_netaddr() -> None:
    chance = random.Random(8)
    lines = []
    for _ in range(3000):
        bits = chance.choice((32, 128))
        length = chance.randint(bits // 3, bits)
        network = chance.getrandbits(bits) >> (bits - length) << (bits - length)
        lines.append(str(netaddr.IPNetwork((network, length), 4 if bits == 32 else 6)))
    lines += ["::/100", "::1:0:0/96", "192.0.2.7", "2001:db8::7"]
    found, problems = cidrs.read_list("\n".join(lines))
    assert problems == []
    assert cidrs.texts(found) == [str(one) for one in netaddr.cidr_merge(lines)]


def test_a_line_with_two_slashes_does_not_make_up_for_one_with_none() -> None:
    found, problems = cidrs.read_list("2001:db8::\n64/::/64")
    assert cidrs.texts(found) == ["2001:db8::/128"]
    assert [(one.text, one.line) for one in problems] == [("64/::/64", 2)]


@pytest.mark.parametrize(
    ("text", "says", "remedy"),
    [
        ("198.51.100.0/255.255.255.0", "netmask", "/24"),
        ("198.51.100", "short form", "four numbers"),
        ("198.51.100.1-198.51.100.9", "range", "CIDRs"),
        ("198.051.100.0/24", "leading zero", "without it"),
        ("198.51.100.0/024", "leading zero", "0 to 32"),
        ("256.0.0.1", "above 255", "0 to 255"),
        ("fe80::1%eth0", "zone index", "interfaces"),
        ("::ffff:198.51.100.0/120", "IPv4 address written as IPv6", "198.51.100.0/24"),
        ("198.51.100.7/24", "host bits", "198.51.100.0/24 for the network or 198.51.100.7 alone"),
        ("2001:db8::1/64", "host bits", "2001:db8::/64"),
        ("198.51.100.0/33", "from 0 to 32", "0 to 32"),
        ("198.51.100.0/", "no prefix length", "0 to 32"),
        ("1.1.1.+1", "no address", "198.51.100.0/24"),
        ("1.1.1.1_0", "no address", "198.51.100.0/24"),
        (" 1.1.1.1", "no address", "198.51.100.0/24"),
        ("1.1.1.1\n", "no address", "198.51.100.0/24"),
        ("\u0661.1.1.1", "no address", "198.51.100.0/24"),
        ("", "no address", "198.51.100.0/24"),
        ("2001:db8:::1", "no IPv6", "2001:db8:10::/64"),
        ("12345::", "no IPv6", "2001:db8:10::/64"),
    ],
)
def test_what_is_no_cidr_is_refused_with_the_reason_and_what_to_write(
    text: str, says: str, remedy: str
) -> None:
    for lines in ([text], ["10.0.0.0/8", text, "2001:db8::/32"]):
        _found, problems = cidrs.collect(lines)
        assert len(problems) == 1
        assert says in problems[0].why and remedy in problems[0].remedy
        assert problems[0].line == lines.index(text) + 1


@given(st.text(alphabet="0123456789./:af- \n", max_size=20))
def test_the_bulk_reader_takes_exactly_what_the_careful_one_takes(text: str) -> None:
    try:
        family, first, last = cidrs.parse_one(text)
    except cidrs.NotACidr:
        assert cidrs.collect([text])[1]
    else:
        expected = Addresses(((first, last),)) if family == "ipv4" else Addresses((), ((first, last),))
        assert cidrs.collect([text]) == (expected, [])


@pytest.mark.parametrize(
    ("text", "tidy"),
    [
        ("10.0.0.7/24", "10.0.0.0/24"),
        ("10.0.3.0/255.255.0.0", "10.0.0.0/16"),
        ("2001:DB8:0::1/128", "2001:db8::1"),
        ("192.168.1.1", "192.168.1.1"),
        (" 192.168.1.1/32 ", "192.168.1.1"),
        ("0.0.0.0/0", "0.0.0.0/0"),
    ],
)
def test_normalise_gives_the_one_form(text: str, tidy: str) -> None:
    assert cidrs.normalise(text) == tidy


@pytest.mark.parametrize("text", ["10.0.0.0/255.0.255.0", "010.0.0.0/8", "10.0/16", "x", "10.0.0.0/33"])
def test_normalise_refuses_what_has_more_than_one_meaning(text: str) -> None:
    with pytest.raises(cidrs.NotACidr):
        cidrs.normalise(text)
