# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Algebra on sorted, disjoint, non-adjacent inclusive integer intervals.

Every function that takes ``Intervals`` expects that form and returns it, so nothing is sorted twice. Plain
tuples of integers and no object per prefix: lists of a million prefixes are the normal case.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import (
    V4_MAX,
    V6_MAX,
    Addresses,
    Interval,
    Intervals,
)


def merge(pairs: Iterable[Interval]) -> Intervals:
    """Bring any intervals, overlapping and unsorted, into the canonical form."""
    merged: list[Interval] = []
    add = merged.append
    low, high = 0, -2
    for first, last in sorted(pairs):
        if first > high + 1:
            if high >= low:
                add((low, high))
            low, high = first, last
        elif last > high:
            high = last
    if high >= low:
        add((low, high))
    return tuple(merged)


def union(*sets: Intervals) -> Intervals:
    """Whatever lies in at least one of ``sets``."""
    filled = [one for one in sets if one]
    if not filled:
        return ()
    if len(filled) == 1:
        return filled[0]
    return merge(pair for one in filled for pair in one)


def intersect(left: Intervals, right: Intervals) -> Intervals:
    """Whatever lies in both; costs the shorter list times a search in the longer one."""
    if len(left) > len(right):
        left, right = right, left
    size = len(right)
    if size == 1 and left:
        low, high = max(left[0], right[0])[0], min(left[0][1], right[0][1])
        return ((low, high),) if low <= high else ()
    result: list[Interval] = []
    for first, last in left:
        index = _at(right, first)
        while index < size and right[index][0] <= last:
            low, high = right[index]
            result.append((low if low > first else first, high if high < last else last))
            index += 1
    return tuple(result)


def subtract(left: Intervals, right: Intervals) -> Intervals:
    """Whatever lies in ``left`` and not in ``right``; ``left`` itself where that is all of it and there are few holes."""
    if not right or not left:
        return left
    result: list[Interval] = []
    if len(right) <= 64 < len(left):
        # A few holes in a long list: leave the rest as it is.
        whole = True
        result += left
        for low, high in right:
            start = _at(result, low)
            end = bisect_right(result, (high, V6_MAX), start)
            if start < end:
                whole = False
                first, last = result[start][0], result[end - 1][1]
                before = [(first, low - 1)] if first < low else []
                after = [(high + 1, last)] if last > high else []
                result[start:end] = before + after
        return left if whole else tuple(result)
    size = len(right)
    for first, last in left:
        rest = first
        index = _at(right, first)
        while index < size and right[index][0] <= last:
            low, high = right[index]
            if low > rest:
                result.append((rest, low - 1))
            rest = high + 1
            index += 1
        if rest <= last:
            result.append((rest, last))
    return tuple(result)


def complement(inside: Intervals, highest: int) -> Intervals:
    """Whatever of 0 to ``highest`` does not lie in ``inside``."""
    return subtract(((0, highest),), inside)


def overlaps(left: Intervals, right: Intervals) -> bool:
    """Whether any integer lies in both."""
    if len(left) > len(right):
        left, right = right, left
    size = len(right)
    for first, last in left:
        index = _at(right, first)
        if index < size and right[index][0] <= last:
            return True
    return False


def contains(outer: Intervals, inner: Intervals) -> bool:
    """Whether all of ``inner`` lies in ``outer``."""
    size = len(outer)
    for first, last in inner:
        index = _at(outer, first)
        if index >= size or outer[index][0] > first or outer[index][1] < last:
            return False
    return True


def holds(inside: Intervals, point: int) -> bool:
    """Whether the integer ``point`` lies in ``inside``."""
    index = bisect_right(inside, (point, V6_MAX)) - 1
    return index >= 0 and inside[index][1] >= point


def count(inside: Intervals) -> int:
    """How many integers lie in ``inside``."""
    return sum(last - first + 1 for first, last in inside)


def _at(intervals: Sequence[Interval], point: int) -> int:
    """The index of the first interval that ends at or after ``point``."""
    index = bisect_left(intervals, (point, -1))
    if index and intervals[index - 1][1] >= point:
        return index - 1
    return index


def prefixes(intervals: Intervals, bits: int) -> Iterator[tuple[int, int]]:
    """The fewest prefixes that make up ``intervals``, as (network, prefix length), in order."""
    for first, last in intervals:
        start = first
        while start <= last:
            # The largest block that is both aligned at start and not too long.
            aligned = (start & -start).bit_length() if start else bits + 1
            fitting = (last - start + 1).bit_length()
            width = (aligned if aligned < fitting else fitting) - 1
            yield start, bits - width
            start += 1 << width


def nearest_prefix(intervals: Intervals, bits: int) -> tuple[int, int] | None:
    """The smallest single prefix that covers all of ``intervals``; None when there is nothing to cover."""
    if not intervals:
        return None
    low, high = intervals[0][0], intervals[-1][1]
    width = (low ^ high).bit_length()
    return low >> width << width, bits - width


def join(*sets: Addresses) -> Addresses:
    """The union of address sets."""
    return Addresses(union(*(one.v4 for one in sets)), union(*(one.v6 for one in sets)))


def minus(left: Addresses, right: Addresses) -> Addresses:
    """``left`` without ``right``."""
    return Addresses(subtract(left.v4, right.v4), subtract(left.v6, right.v6))


def common(left: Addresses, right: Addresses) -> Addresses:
    """What both hold."""
    return Addresses(intersect(left.v4, right.v4), intersect(left.v6, right.v6))


def touches(left: Addresses, right: Addresses) -> bool:
    """Whether both hold a common address."""
    return overlaps(left.v4, right.v4) or overlaps(left.v6, right.v6)


def covers(outer: Addresses, inner: Addresses) -> bool:
    """Whether ``outer`` holds all of ``inner``."""
    return contains(outer.v4, inner.v4) and contains(outer.v6, inner.v6)


def is_empty(addresses: Addresses) -> bool:
    """Whether there is no address at all."""
    return not addresses.v4 and not addresses.v6


def has_all_of_a_family(addresses: Addresses) -> bool:
    """Whether the set holds every address of IPv4 or every address of IPv6."""
    return addresses.v4 == ((0, V4_MAX),) or addresses.v6 == ((0, V6_MAX),)
