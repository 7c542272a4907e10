# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The types that load, check, render, explain, exposure and compare share.

Everything here is immutable and already resolved for one host: zones are address sets, services are port
intervals, layers are merged. Nothing here reads a file, a clock or a device.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from typing import Literal

Interval = tuple[int, int]
"""Inclusive first and last integer."""

Intervals = tuple[Interval, ...]
"""Sorted, disjoint, non-adjacent."""

V4_MAX = (1 << 32) - 1
V6_MAX = (1 << 128) - 1

Family = Literal["ipv4", "ipv6"]
Hook = Literal["inbound", "outbound", "forward", "published"]
Verdict = Literal["allow", "deny", "reject"]


@dataclass(frozen=True, slots=True)
class Addresses:
    """A set of IPv4 and IPv6 addresses."""

    v4: Intervals = ()
    v6: Intervals = ()


ANY_ADDRESS = Addresses(((0, V4_MAX),), ((0, V6_MAX),))


@dataclass(frozen=True, slots=True)
class Where:
    """Where a thing was written: a file and line, or a variable path. ``text`` is as written."""

    source: str
    line: int = 0
    text: str = ""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Addresses that count on these interfaces only; no interfaces means on any.

    In ``from`` the interface is the one a packet came in by, in ``to`` the one it leaves by. A name may
    end in ``*``, which also matches nothing (``wwan*`` matches ``wwan``).
    """

    addresses: Addresses = ANY_ADDRESS
    interfaces: tuple[str, ...] = ()
    zone: str = ""


@dataclass(frozen=True, slots=True)
class ServiceSet:
    """What a rule speaks about. ``any`` is every IP protocol; then the rest is empty."""

    any: bool = False
    tcp: Intervals = ()
    udp: Intervals = ()
    sctp: Intervals = ()
    icmp: Intervals = ()
    icmpv6: Intervals = ()
    protocols: Intervals = ()
    names: tuple[str, ...] = ()
    """As written, for messages only."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Packets that start a flow: ``count`` in ``seconds`` (1, 60, 3600 or 86400), bucket of ``burst``."""

    count: int
    seconds: int
    burst: int = 5


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. Empty ``sources`` or ``destinations`` never occur: any is ``(Endpoint(),)``."""

    name: str
    verdict: Verdict
    services: ServiceSet
    sources: tuple[Endpoint, ...] = (Endpoint(),)
    destinations: tuple[Endpoint, ...] = (Endpoint(),)
    rate: Rate | None = None
    until: date | None = None
    on_device: bool = False
    cut: bool = False
    log: bool = False
    reason: str = ""
    where: Where = field(default=Where(""), compare=False)


@dataclass(frozen=True, slots=True)
class Publish:
    """A destination translation: ``port`` of ``protocol`` on this host goes to one address and port."""

    name: str
    sources: tuple[Endpoint, ...]
    protocol: Literal["tcp", "udp"]
    port: int
    to_family: Family
    to_address: int
    to_port: int
    where: Where = field(default=Where(""), compare=False)


@dataclass(frozen=True, slots=True)
class Nat:
    masquerade: tuple[str, ...] = ()
    publish: tuple[Publish, ...] = ()
    clamp_mss: bool = False


@dataclass(frozen=True, slots=True)
class Ping:
    """Inbound echo requests that no rule decided."""

    sources: tuple[Endpoint, ...] = (Endpoint(),)
    rate: Rate | None = None


@dataclass(frozen=True, slots=True)
class Defaults:
    inbound: Verdict = "deny"
    outbound: Verdict = "allow"
    forward: Verdict = "deny"
    ping: Ping | None = None
    gate: Intervals = ()
    """TCP ports that are closed until root on the device opens one for ten minutes: see docs/policy.md."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Blocklist:
    """``addresses`` already have every protected address subtracted."""

    name: str
    addresses: Addresses
    interfaces: tuple[str, ...] = ()
    both: bool = False
    where: Where = field(default=Where(""), compare=False)


@dataclass(frozen=True, slots=True)
class Traps:
    tcp: Intervals = ()
    ban_seconds: int = 3600
    size: int = 4096
    proof: Literal["handshake", "syn"] = "syn"
    never: Addresses = Addresses()
    where: Where = field(default=Where(""), compare=False)


@dataclass(frozen=True, slots=True)
class Log:
    drops: Rate | None = None
    prefix: str = "sallyport"
    group: int | None = None
    """NFLOG group; None means the kernel log."""


@dataclass(frozen=True, slots=True)
class HostPolicy:
    """Everything that a backend needs to render one host."""

    host: str
    inbound: tuple[Rule, ...] = ()
    outbound: tuple[Rule, ...] = ()
    forward: tuple[Rule, ...] = ()
    nat: Nat = Nat()
    containers_outbound: Literal["allow", "as_device", "drop"] = "allow"
    container_bridges: tuple[str, ...] = ()
    """Interfaces that probe found to be container bridges."""
    bridges: tuple[str, ...] = ()
    """All bridge interfaces, container bridges included: traffic inside one passes."""
    container_addresses: tuple[Endpoint, ...] = ()
    """For every container bridge its own addresses there: name service (port 53) answers on them."""
    own_addresses: Addresses = Addresses()
    """The device's own, where they are known: a published port may lead to one of them."""
    defaults: Defaults = Defaults()
    blocklists: tuple[Blocklist, ...] = ()
    antispoof: tuple[Endpoint, ...] = ()
    """Zones that have addresses and interfaces; see "Anti-spoofing" in docs/policy.md."""
    traps: Traps | None = None
    protected: Addresses = Addresses()
    """Can never be banned and are subtracted from blocklists."""
    log: Log = Log()


Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One mistake or remark: a stable id, where it stands, what was found, and what to do about it."""

    id: str
    severity: Severity
    message: str
    remedy: str
    where: Where = Where("")
    hosts: tuple[str, ...] = ()
