# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Bans by hand: whom may they hit, for how long, and what does a device's loader say of them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import check, cidrs, intervals
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import Addresses, HostPolicy, Rule
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.render.base import never_banned

LONGEST = 3600
"""Seconds. A mistake heals by itself within the hour."""

_UNITS = {"s": 1, "m": 60, "h": 3600}
_EXPIRES = re.compile(r"(\d+)(ms|d|h|m|s)")
_EXPIRES_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1, "ms": 0}
_SERVERS = {
    "routers": "a router",
    "resolvers": "a resolver",
    "dhcp_servers": "a DHCP server",
    "ntp_servers": "a time server",
}


class BadBan(ValueError):
    """The ban cannot be. The message says what was expected and what was found."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a ban hits: one IPv4 address, or all of an IPv6 /64.

    ``text`` is for people, ``address`` for the loader; of a /64 it is the first one.
    """

    text: str
    address: str
    addresses: Addresses


@dataclass(frozen=True, slots=True)
class Ban:
    """One ban of a device; ``seconds`` until it ends, None where the kernel does not tell."""

    text: str
    seconds: int | None


def subject(text: str) -> Subject:
    """Whom ``text``, an address or an IPv6 /64, means.

    Raises:
        BadBan: it is neither, or no packet from elsewhere can come from there.
    """
    address, slash, _ = text.partition("/")
    try:
        family, first, last = cidrs.parse_one(text)
    except cidrs.NotACidr as error:
        raise BadBan(f"expected an address to ban or lift: {error}") from error
    if family == "ipv4":
        if first != last:
            raise BadBan(
                f"{text}: a ban hits one IPv4 address or one IPv6 /64, and this is a network. Networks go into a "
                "blocklist of the policy"
            )
        found = Subject(cidrs.address_text(family, first), cidrs.address_text(family, first), _span4(first))
    else:
        if slash and last - first > (1 << 64) - 1:
            raise BadBan(
                f"{text}: a ban hits one IPv4 address or one IPv6 /64, and this is more. Networks go into a blocklist "
                "of the policy"
            )
        network = first >> 64 << 64
        found = Subject(
            cidrs.prefix_text(family, network, 64),
            cidrs.address_text(family, network),
            Addresses((), ((network, network | (1 << 64) - 1),)),
        )
    meant = ipaddress.ip_address(address)
    if meant.is_loopback or meant.is_multicast or meant.is_unspecified or meant.is_link_local:
        raise BadBan(
            f"{text}: a ban hits hosts, and this is a loopback, multicast, unspecified or link-local address, which "
            "devices need to talk to their own network"
        )
    return found


def duration(text: str) -> int:
    """``30m`` in seconds.

    Raises:
        BadBan: it is no duration, or longer than an hour.
    """
    if not re.fullmatch(r"[1-9][0-9]{0,4}[smh]", text, re.ASCII):
        raise BadBan(f"expected how long the ban lasts, such as 30m or 1h, got {text!r}")
    seconds = int(text[:-1]) * _UNITS[text[-1]]
    if seconds > LONGEST:
        raise BadBan(
            f"a ban of {text} is longer than one hour. Write at most 1h, or put the address into a blocklist of the "
            "policy"
        )
    return seconds


def why_protected(policy: HostPolicy, device: Mapping[str, Any], whom: Subject) -> str:
    """Why the ban must not be, in words that name who would be cut off; "" where it may."""
    if not intervals.touches(never_banned(policy), whom.addresses):
        return ""
    connection = device.get("connection") or {}
    if _names([connection.get("client")], whom):
        return "this controller comes from there"
    for key, kind in _SERVERS.items():
        if _names(device.get(key) or (), whom):
            return f"{kind} of this device is there"
    ports = {int(connection.get("server_port") or 22)}
    admitting = [rule for rule in policy.inbound if check.covers_port(rule, ports)]
    brokers = [rule for rule in policy.forward if check.to_brokers(rule)]
    for rules, side in ((admitting, "from"), (policy.outbound, "to"), (brokers, "to")):
        for rule in rules:
            if rule.verdict == "allow" and (zone := _end(rule, side, whom)):
                where = f" ({rule.where.source}:{rule.where.line})" if rule.where.line else ""
                return f"rule `{rule.name}`{where} allows traffic {side} {zone}"
    if policy.traps and intervals.touches(policy.traps.never, whom.addresses):
        return "`traps.never` of the policy names it"
    return "the policy protects it: it is an execution node or a broker, or shares its /64 with a protected address"


def read(text: str) -> list[Ban]:
    """The lines of ``firewall-load bans``: an address, and when its ban ends."""
    found = []
    for line in text.splitlines():
        address, _, expires = line.partition(" ")
        try:
            family, first, _last = cidrs.parse_one(str(ipaddress.ip_address(address)))
        except ValueError:
            continue
        if family == "ipv6":
            name = cidrs.prefix_text(family, first >> 64 << 64, 64)
        else:
            name = cidrs.address_text(family, first)
        parts = _EXPIRES.findall(expires)
        seconds = sum(int(count) * _EXPIRES_UNITS[unit] for count, unit in parts) if parts else None
        found.append(Ban(name, seconds))
    return sorted(found, key=lambda one: (":" in one.text, one.text))


def for_people(seconds: int | None) -> str:
    """``12m 5s``; where the kernel does not tell, that."""
    if seconds is None:
        return "a time that this kernel does not tell"
    if seconds == LONGEST:
        return "1h"
    minutes, rest = divmod(seconds, 60)
    return " ".join(part for part in (f"{minutes}m" * bool(minutes), f"{rest}s" * bool(rest)) if part) or "0s"


def _end(rule: Rule, side: str, whom: Subject) -> str:
    """The zone or addresses at this end of a rule that a ban would hit; "" for any, which protects nobody."""
    for endpoint in rule.sources if side == "from" else rule.destinations:
        named = never_banned(HostPolicy("", protected=check.named(endpoint)))
        if intervals.touches(named, whom.addresses):
            return (
                f"zone `{endpoint.zone}`" if endpoint.zone else ", ".join(cidrs.texts(endpoint.addresses)[:3])
            )
    return ""


def _names(texts: Any, whom: Subject) -> bool:
    for text in texts:
        try:
            there = cidrs.parse([check.plain(str(text))])
        except cidrs.NotACidr:
            continue  # known by name only, or not known at all
        if intervals.touches(never_banned(HostPolicy("", protected=there)), whom.addresses):
            return True
    return False


def _span4(address: int) -> Addresses:
    return Addresses(((address, address),), ())
