# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""CIDR texts to address sets and back, strictly and fast.

A CIDR here is an address in full, or an address and a prefix length with no host bits set. Netmasks, short
forms, leading zeros, zone indexes and IPv4 written as IPv6 are refused: programs disagree on what they mean.

Well-formed lists are read in bulk (a few operations on one long bytes object, nothing per prefix but one
integer); only what does not fit is looked at line by line, to say what is wrong with it.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from socket import AF_INET6, inet_aton, inet_ntoa, inet_ntop, inet_pton
from typing import cast

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.intervals import merge, prefixes, union
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import (
    V4_MAX,
    Addresses,
    Family,
    Interval,
    Intervals,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.pause import no_collector
from netaddr import IPAddress

_OCTETS = {str(number): number for number in range(256)}
_LENGTHS4 = {str(length): length for length in range(33)}
_LENGTHS6 = {str(length): length for length in range(129)}
_HOST4 = [V4_MAX >> length for length in range(33)]
_HOST6 = [(1 << 128 - length) - 1 for length in range(129)]
_LEADING_ZERO = re.compile(rb"(?<![0-9])0[0-9]")
_SUFFIXES = [f"/{length}" for length in range(129)]
_SUFFIX_OF_HOST4 = {host: f"/{length}" for length, host in enumerate(_HOST4)}
_SUFFIX_OF_HOST6 = {host: f"/{length}" for length, host in enumerate(_HOST6)}
_ODD6 = 1 << 48
"""Below this the C library may write the last 32 bits as IPv4."""
_MAPPED = (0xFFFF << 32, (0xFFFF << 32) | V4_MAX)


@dataclass(frozen=True, slots=True)
class NotACidr(ValueError):
    """Why ``text`` is not a CIDR. ``kind`` is ``not-a-cidr`` or ``host-bits``; ``line`` counts from 1."""

    text: str
    kind: str
    why: str
    remedy: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.text!r} {self.why}; {self.remedy}"


def parse_one(text: str) -> tuple[Family, int, int]:
    """Read one CIDR or bare address: its family, first and last address.

    Raises ``NotACidr`` with the reason and what to write instead.
    """
    address, slash, length = text.partition("/")
    if ":" in address:
        return _parse6(text, address, slash, length)
    return _parse4(text, address, slash, length)


def parse(texts: Sequence[str]) -> Addresses:
    """Read many CIDRs into one address set. Raises the first ``NotACidr``; its ``line`` is the place."""
    addresses, problems = collect(texts)
    if problems:
        raise problems[0]
    return addresses


def normalise(text: str) -> str:
    """``text`` in the form that is taken everywhere: host bits cleared, a netmask as a length, IPv6 shortened.

    Raises ``NotACidr`` for what can be read in more than one way.
    """
    address, slash, length = text.strip().partition("/")
    if slash and "." in length:
        _family, mask, last = parse_one(length)
        host = mask ^ V4_MAX
        if mask != last or host & (host + 1):
            raise NotACidr(text, "not-a-cidr", "has no netmask of leading ones", "write the prefix length")
        length = str(32 - host.bit_length())
    family, number, _last = parse_one(address)
    bits = 32 if family == "ipv4" else 128
    size = _prefix_length(text, slash, length, bits)
    network = number >> (bits - size) << (bits - size)
    return address_text(family, network) if size == bits else prefix_text(family, network, size)


def collect(lines: Sequence[str], ranges: bool = False, limit: int = 100) -> tuple[Addresses, list[NotACidr]]:
    """Read many CIDRs, keep the good ones and report the others, at most ``limit`` of them.

    With ``ranges``, ``first-last`` is read too.
    """
    whole = "\n".join(lines)
    fours: Sequence[str]
    sixes: Sequence[str]
    if ":" not in whole:
        fours, sixes = lines, []
    elif "." not in whole:
        fours, sixes = [], lines
    else:
        fours = [line for line in lines if ":" not in line]
        sixes = [line for line in lines if ":" in line]
    four = _bulk4(fours)
    six = _bulk6(sixes)
    if four is not None and six is not None:
        return Addresses(four, six), []

    problems: list[NotACidr] = []
    pairs: dict[Family, list[Interval]] = {"ipv4": [], "ipv6": []}
    for number, line in enumerate(lines, 1):
        try:
            family, first, last = (parse_range if ranges and "-" in line else parse_one)(line)
        except NotACidr as problem:
            if len(problems) < limit:
                # Of a range, the half that is wrong would not be found again in its file.
                problems.append(NotACidr(line, problem.kind, problem.why, problem.remedy, number))
        else:
            pairs[family].append((first, last))
    return Addresses(merge(pairs["ipv4"]), merge(pairs["ipv6"])), problems


def parse_range(text: str) -> tuple[Family, int, int]:
    """Read ``first-last``, as block lists write it. Raises ``NotACidr``."""
    left, _dash, right = (part.strip() for part in text.partition("-"))
    family, low, first_end = parse_one(left)
    other, high, last_end = parse_one(right)
    if family != other or first_end != low or last_end != high or high < low:
        raise NotACidr(text, "not-a-cidr", "is no range of addresses", "write first-last, both of one family")
    return family, low, high


@no_collector()
def read_list(text: str) -> tuple[Addresses, list[NotACidr]]:
    """Read a block list: a CIDR, address or range a line; ``#`` and ``;`` begin comments; CRLF is fine."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    every = text.split("\n")
    lines = list(filter(None, every))
    if "#" in text or ";" in text:
        lines = [line for line in lines if line[0] != "#" and line[0] != ";"]
    if any(mark in text for mark in " \t#;") and any(line.strip(_PLAIN) for line in lines):
        lines = [stripped for line in every if (stripped := _uncomment(line))]
    if "-" in text and any("-" in line for line in lines):
        plain = [line for line in lines if "-" not in line]
        addresses, problems = collect(plain)
        spans, more = collect([line for line in lines if "-" in line], ranges=True)
        addresses = Addresses(union(addresses.v4, spans.v4), union(addresses.v6, spans.v6))
        problems += more
    else:
        addresses, problems = collect(lines)
    if not problems:
        return addresses, []
    # Only now is the place in the file worth looking for.
    places: dict[str, int] = {}
    for number, line in enumerate(every, 1):
        places.setdefault(_uncomment(line), number)
    return addresses, [
        NotACidr(one.text, one.kind, one.why, one.remedy, places.get(one.text, 0)) for one in problems
    ]


_PLAIN = "0123456789abcdefABCDEF.:/-"


def _uncomment(line: str) -> str:
    for mark in "#;":
        if mark in line:
            line = line[: line.index(mark)]
    return line.strip()


@no_collector()
def texts(addresses: Addresses) -> list[str]:
    """The fewest CIDRs that make up ``addresses``, IPv4 first, in order."""
    return [*_texts4(addresses.v4), *_texts6(addresses.v6)]


def prefix_texts(family: Family, intervals: Intervals) -> list[str]:
    """The fewest CIDRs that make up ``intervals``, in order."""
    return _texts4(intervals) if family == "ipv4" else _texts6(intervals)


def span_texts(family: Family, intervals: Intervals) -> list[str]:
    """One text for each interval, in order: an address, a CIDR, or ``first-last``."""
    result: list[str] = []
    add = result.append
    four = family == "ipv4"
    size = 4 if four else 16
    suffix_of = (_SUFFIX_OF_HOST4 if four else _SUFFIX_OF_HOST6).get
    for first, last in intervals:
        text = inet_ntoa(first.to_bytes(size, "big")) if four else address_text(family, first)
        host = first ^ last
        if host:
            suffix = suffix_of(host)
            text += f"-{address_text(family, last)}" if suffix is None or first & host else suffix
        add(text)
    return result


def address_text(family: Family, address: int) -> str:
    """One address as text (RFC 5952 for IPv6)."""
    if family == "ipv4":
        return inet_ntoa(address.to_bytes(4, "big"))
    if address >> 32 in (0, 0xFFFF):
        # The C library would write the last 32 bits as IPv4.
        return str(IPAddress(address, 6)) if address >> 32 else _low6(address)
    return inet_ntop(AF_INET6, address.to_bytes(16, "big"))


def prefix_text(family: Family, network: int, length: int) -> str:
    """One prefix as text."""
    return address_text(family, network) + _SUFFIXES[length]


def one_text(family: Family, first: int, last: int) -> str:
    """An interval as one CIDR, an address or ``first-last``, for messages."""
    bits = 32 if family == "ipv4" else 128
    blocks = list(prefixes(((first, last),), bits))
    if first == last:
        return address_text(family, first)
    if len(blocks) == 1:
        return prefix_text(family, *blocks[0])
    return f"{address_text(family, first)}-{address_text(family, last)}"


def _low6(address: int) -> str:
    high, low = address >> 16, address & 0xFFFF
    if high:
        return f"::{high:x}:{low:x}"
    return f"::{low:x}" if low else "::"


def _bulk4(lines: Sequence[str]) -> Intervals | None:
    """Well-formed IPv4 CIDRs; None when any line is something else."""
    count = len(lines)
    if not count:
        return ()
    text = "\n".join(lines)
    if text.count("/") != count:
        text = "\n".join([line if "/" in line else line + "/32" for line in lines])
    try:
        raw = text.encode("ascii")
    except UnicodeEncodeError:
        return None
    # Without its digits a well-formed list is nothing but this pattern, so the pieces are in their places. The
    # C library would read 010 as 8, hence the second look.
    if raw.translate(None, b"0123456789") + b"\n" != b".../\n" * count or _LEADING_ZERO.search(raw):
        return None
    pieces = text.replace("/", "\n").split("\n")
    try:
        addresses = b"".join(map(inet_aton, pieces[0::2]))
        lengths = bytes(map(_LENGTHS4.__getitem__, pieces[1::2]))
    except (OSError, KeyError):
        return None
    cells = bytearray(8 * count)
    for place in range(4):
        cells[3 + place :: 8] = addresses[place::4]
    cells[7::8] = lengths
    merged: list[Interval] = []
    add = merged.append
    low, high = 0, -2
    for cell in sorted(struct.unpack(f">{count}Q", cells)):
        first = cell >> 8
        host = _HOST4[cell & 63]
        if first & host:
            return None
        if first > high:
            # Prefixes are nested or apart, so one that starts inside also ends inside.
            if first == high + 1:
                high = first + host
            else:
                add((low, high))
                low, high = first, first + host
    add((low, high))
    return tuple(merged[1:])


def _bulk6(lines: Sequence[str]) -> Intervals | None:
    """Well-formed IPv6 CIDRs; None when any line is something else."""
    if not lines:
        return ()
    text = "\n".join(lines)
    if text.count("/") != len(lines):
        text = "\n".join([line if "/" in line else line + "/128" for line in lines])
    # Two lines such as "2001:db8::" and "64/::/64" have as many slashes as two good ones, but not in these places.
    try:
        raw = text.encode("ascii")
    except UnicodeEncodeError:
        return None
    if raw.translate(None, b"0123456789abcdefABCDEF:.") + b"\n" != b"/\n" * len(lines):
        return None
    pieces = text.replace("/", "\n").split("\n")
    try:
        addresses = map(
            cast(Callable[[bytes, str], int], int.from_bytes),
            map(inet_pton, repeat(AF_INET6), pieces[0::2]),
            repeat("big"),
        )
        lengths = map(_LENGTHS6.__getitem__, pieces[1::2])
        cells = [first << 8 | length for first, length in zip(addresses, lengths, strict=True)]
    except (OSError, KeyError, ValueError):
        return None
    cells.sort()
    at = bisect_left(cells, _MAPPED[0] << 8)
    if at < len(cells) and cells[at] >> 8 <= _MAPPED[1]:
        return None
    merged: list[Interval] = []
    add = merged.append
    low, high = 0, -2
    for cell in cells:
        first = cell >> 8
        host = _HOST6[cell & 255]
        if first & host:
            return None
        if first > high:
            if first == high + 1:
                high = first + host
            else:
                add((low, high))
                low, high = first, first + host
    add((low, high))
    return tuple(merged[1:])


def _texts4(intervals: Intervals) -> list[str]:
    result: list[str] = []
    add = result.append
    pack = struct.Struct(">I").pack
    suffix_of = _SUFFIX_OF_HOST4.get
    for first, last in intervals:
        host = first ^ last
        suffix = suffix_of(host)
        if suffix is None or first & host:
            for network, length in prefixes(((first, last),), 32):
                add(inet_ntoa(pack(network)) + _SUFFIXES[length])
        else:
            add(inet_ntoa(pack(first)) + suffix)
    return result


def _texts6(intervals: Intervals) -> list[str]:
    odd = bisect_left(intervals, (_ODD6, 0))
    result = [prefix_text("ipv6", *block) for block in prefixes(intervals[:odd], 128)]
    add = result.append
    suffix_of = _SUFFIX_OF_HOST6.get
    for first, last in intervals[odd:] if odd else intervals:
        host = first ^ last
        suffix = suffix_of(host)
        if suffix is None or first & host:
            for network, length in prefixes(((first, last),), 128):
                add(prefix_text("ipv6", network, length))
        else:
            add(inet_ntop(AF_INET6, first.to_bytes(16, "big")) + suffix)
    return result


def _parse4(text: str, address: str, slash: str, length: str) -> tuple[Family, int, int]:
    octets = address.split(".")
    values = [_OCTETS.get(octet) for octet in octets]
    if None in values or len(values) != 4:
        raise _explain4(text, address, octets)
    number = 0
    for value in values:
        number = number << 8 | (value or 0)
    bits = _prefix_length(text, slash, length, 32)
    host = _HOST4[bits]
    if number & host:
        raise _host_bits(text, "ipv4", number, bits, host)
    return "ipv4", number, number | host


def _parse6(text: str, address: str, slash: str, length: str) -> tuple[Family, int, int]:
    if "%" in address:
        raise NotACidr(
            text,
            "not-a-cidr",
            "has a zone index",
            "write the address alone and name the interface under `interfaces`",
        )
    try:
        if not address.isascii():
            raise OSError
        number = int.from_bytes(inet_pton(AF_INET6, address), "big")
    except (OSError, ValueError):
        raise NotACidr(
            text, "not-a-cidr", "is no IPv6 address", 'write one such as "2001:db8:10::/64"'
        ) from None
    bits = _prefix_length(text, slash, length, 128)
    if _MAPPED[0] <= number <= _MAPPED[1] and bits >= 96:
        raise NotACidr(
            text,
            "not-a-cidr",
            "is an IPv4 address written as IPv6, which no packet carries",
            f"write {address_text('ipv4', number & V4_MAX)}" + (f"/{bits - 96}" if bits < 128 else ""),
        )
    host = _HOST6[bits]
    if number & host:
        raise _host_bits(text, "ipv6", number, bits, host)
    return "ipv6", number, number | host


def _prefix_length(text: str, slash: str, length: str, bits: int) -> int:
    if not slash:
        return bits
    found = _OCTETS.get(length)
    if found is None or found > bits:
        why = (
            "has no prefix length after the slash" if not length else f"has no prefix length from 0 to {bits}"
        )
        remedy = f"write a number from 0 to {bits}"
        if "." in length:
            why, remedy = "has a netmask", "write the number of leading one bits, such as /24"
        elif length.isdecimal() and length.startswith("0"):
            why = "has a prefix length with a leading zero"
        raise NotACidr(text, "not-a-cidr", why, remedy)
    return found


def _host_bits(text: str, family: Family, number: int, bits: int, host: int) -> NotACidr:
    network = prefix_text(family, number & ~host, bits)
    alone = address_text(family, number)
    return NotACidr(
        text, "host-bits", "has host bits set", f"write {network} for the network or {alone} alone"
    )


def _explain4(text: str, address: str, octets: list[str]) -> NotACidr:
    why, remedy = "is no address or CIDR", "write one such as 198.51.100.0/24"
    if "-" in address:
        why, remedy = "is a range", "write the CIDRs that make it up"
    elif all(octet.isdecimal() and octet.isascii() for octet in octets):
        if any(len(octet) > 1 and octet.startswith("0") for octet in octets):
            why, remedy = (
                "has a leading zero, which some programs read as octal",
                "write the number without it",
            )
        elif any(int(octet[:4]) > 255 for octet in octets):
            why, remedy = "has a number above 255", "write four numbers from 0 to 255"
        elif len(octets) != 4:
            why, remedy = "is a short form", "write all four numbers"
    return NotACidr(text, "not-a-cidr", why, remedy)


def read(items: Iterable[str]) -> Addresses:
    """Read CIDRs that are known to be good, such as the ones of a probe."""
    return parse(list(items))
