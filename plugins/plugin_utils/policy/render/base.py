# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What every backend shares: the result that goes to ``commit``, refusals, names, comments and address texts."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from socket import AF_INET6, inet_ntoa, inet_ntop
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import shelf
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.intervals import merge, subtract
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.judge import UNSPOOFABLE
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import (
    Addresses,
    Endpoint,
    Family,
    HostPolicy,
    Intervals,
    Rate,
)

DIRECTORY = "/etc/sallyport/firewall"
LOADER = "/etc/sallyport/firewall-load"
BANS_SIZE = 4096
"""Addresses that can be banned at a time when the policy sets no traps."""
GATE_SECONDS = 600
"""A port that the device opens for a challenge is closed by the kernel after this long, whatever becomes of who opened it."""

RATE_TABLE_SIZE = 65535
MOST_ORIGINAL = 3000
"""Rules on original destinations, of which the kernel knows no sets: it tries them one by one."""
FAMILIES: tuple[Family, ...] = ("ipv4", "ipv6")
BITS = {"ipv4": 32, "ipv6": 128}


class Unsupported(Exception):
    """The policy says something that this backend or device cannot do. Raised before anything is changed.

    ``message`` says what was asked and what stands in the way, ``remedy`` what to do next.
    """

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(f"{message} {remedy}")
        self.message = message
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class RenderedFile:
    """One file on the device. ``content`` None means that the file must be absent, ``link`` a symbolic link."""

    path: str
    content: str | None
    mode: str = "0600"
    link: str = ""


@dataclass(frozen=True, slots=True)
class Rendered:
    """The files of one host's firewall and the sh snippets that ``commit`` runs around them.

    ``activate`` loads the new files; on a first load it adopts running TCP, and ``settle`` ends that after the
    confirmation. ``revert`` brings the live state in line with whatever files are on disk. ``live`` prints the
    live state without the content of large sets, bans or rate buckets. ``tell`` prints what boot_window.py reads.
    """

    backend: str
    files: tuple[RenderedFile, ...]
    check: tuple[str, ...]
    activate: tuple[str, ...]
    settle: tuple[str, ...]
    revert: tuple[str, ...]
    live: tuple[str, ...]
    verify: tuple[str, ...]
    tell: str
    notes: tuple[str, ...] = ()


def short_hash(*parts: object) -> str:
    """Ten hexadecimal digits that stand for ``parts`` in a generated name."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:10]


def content_hash(intervals: Intervals) -> str:
    """SHA-256 of an address set."""
    return shelf.content(intervals)


def comment(text: str) -> str:
    """``text`` from the policy as it may stand between double quotes in any rule set: at most 100 bytes.

    Quotes, backslashes, ``$`` and backquotes mean something to one of the parsers that read it.
    """
    return re.sub(r"[^ !#%-\[\]^_a-~{|}]", "?", text.replace('"', "'").replace("\\", "/"))[:100]


_INTERFACE = re.compile(r"[A-Za-z0-9_.:@=-]{1,15}|[A-Za-z0-9_.:@=-]{0,14}\*")


def interface(name: str) -> str:
    """``name`` when it is a possible interface name or pattern; raises Unsupported otherwise."""
    if not _INTERFACE.fullmatch(name) or name in (".", ".."):
        raise Unsupported(
            f"{name!r} is no name of an interface: expected up to 15 letters, digits or _.:@=- , and * only at the end.",
            "Correct the interface in the policy.",
        )
    return name


def address(family: Family, number: int) -> str:
    """The usual text of an address."""
    if family == "ipv6":
        return inet_ntop(AF_INET6, number.to_bytes(16, "big"))
    return inet_ntoa(number.to_bytes(4, "big"))


def spoofable(endpoint: Endpoint) -> Addresses:
    """The sources that anti-spoofing guards for a zone."""
    return Addresses(
        subtract(endpoint.addresses.v4, UNSPOOFABLE.v4), subtract(endpoint.addresses.v6, UNSPOOFABLE.v6)
    )


def never_banned(policy: HostPolicy) -> Addresses:
    """Addresses that no trap may ban. An IPv6 ban takes a whole /64, so each of them covers its /64."""
    never = policy.traps.never if policy.traps else Addresses()
    v4 = merge((*policy.protected.v4, *never.v4))
    v6 = merge((first >> 64 << 64, last | (1 << 64) - 1) for first, last in (*policy.protected.v6, *never.v6))
    return Addresses(v4, v6)


UNITS = {1: "second", 60: "minute", 3600: "hour", 86400: "day"}


def rate_text(rate: Rate) -> str:
    """``50/second``, as both families of tools write it."""
    return f"{rate.count}/{UNITS[rate.seconds]}"


def refill_seconds(rate: Rate) -> int:
    """After this long an empty bucket is full again, so that forgetting it changes nothing."""
    return max(10, -(-rate.seconds * rate.burst // rate.count) + 1)


def clock_plausible(device: Mapping[str, Any] | None) -> bool:
    """Whether rules may also ask the device's own clock."""
    return bool(((device or {}).get("clock") or {}).get("plausible"))


def refuse_long(published: Sequence[str]) -> None:
    """Raise Unsupported where the inbound rules name too many single destinations."""
    count = sum("ct original ip" in line or "--ctorigdst " in line for line in published)
    if count > MOST_ORIGINAL:
        raise Unsupported(
            f"The inbound rules take {count} lines for translated packets, since each destination and port in"
            f" them is a rule of its own there, and {MOST_ORIGINAL} is the most that is sensible.",
            "Leave `to` out of the inbound rules, or write it with fewer, larger prefixes.",
        )


def behind_filter(device: Mapping[str, Any] | None, tool: str) -> bool:
    """Whether iptables has a table behind ``filter`` in INPUT. Without a device to ask, as every kernel of today."""
    features = (((device or {}).get("firewall") or {}).get(tool) or {}).get("features")
    return not features or "security" in features


def loader() -> str:
    """The program on the device that loads, checks, shows and removes any backend's files."""
    return (Path(__file__).parent / "firewall-load.sh").read_text(encoding="utf-8")
