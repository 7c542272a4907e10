# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Turn merged layers into one host's zones, services and rules.

A broken entry has its finding already; whatever leans on it is left out quietly and its section is marked as
tainted, so that nothing is concluded from a rule set with holes.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, cast

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import cidrs, intervals, layers, shelf
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.judge import UNSPOOFABLE
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.language import (
    RATE,
    Entry,
    Reader,
    Said,
    nearest,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.layers import HOOKS, Merged
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import (
    ANY_ADDRESS,
    Addresses,
    Blocklist,
    Defaults,
    Endpoint,
    Log,
    Nat,
    Ping,
    Publish,
    Rate,
    Rule,
    ServiceSet,
    Traps,
    Verdict,
    Where,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.source import short

_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
_BAN_UNITS = {"s": 1, "m": 60, "h": 3600}
_VERDICTS: dict[str, Verdict] = {"drop": "deny", "reject": "reject", "allow": "allow"}
_ADDRESS_LIKE = re.compile(r"[0-9.]+(-[0-9.]+)?|.*[/:].*", re.ASCII)
_LISTED = re.compile(r"(?=.*[.:])[0-9A-Fa-f.:/-]{3,90}", re.ASCII)
"""What was meant to be an entry of a list, if not written well."""
_PROTOCOLS = ("tcp", "udp", "sctp", "icmp", "icmpv6", "protocols")
MAX_LIST_FINDINGS = 10
MAX_LIST_BYTES = 256 << 20
"""Ten times the longest list that anybody publishes."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Everything about one host that the policy does not say. ``device`` is probe's result, or None without one."""

    host: str
    policy_dir: str | None = None
    inventory: Mapping[str, Sequence[str]] = field(default_factory=dict)
    group_members: Mapping[str, Sequence[str]] = field(default_factory=dict)
    device: Mapping[str, Any] | None = None
    controller: tuple[str, ...] = ()
    brokers: tuple[str, ...] = ()
    management_ports: tuple[int, ...] = (22,)
    list_dirs: tuple[str, ...] = ()
    """Folders beside the policy's own in which block lists may lie."""
    now: date = date.min


@dataclass(slots=True)
class Assertion:
    """What a layer says must hold."""

    where: Where
    service: ServiceSet | None = None
    name: str = ""
    only_from: tuple[Endpoint, ...] = ()
    defaults: dict[str, Verdict] = field(default_factory=dict)


@dataclass(slots=True)
class Draft:
    """A resolved policy before anything is checked, expired rules included."""

    zones: dict[str, Endpoint]
    services: dict[str, ServiceSet]
    rules: dict[str, tuple[Rule, ...]]
    nat: Nat
    containers_outbound: str
    defaults: Defaults
    defaults_at: dict[str, Where]
    blocklists: tuple[Blocklist, ...]
    accepted_overlaps: frozenset[str]
    antispoof: tuple[Endpoint, ...]
    traps: Traps | None
    log: Log
    asserts: tuple[Assertion, ...]
    tainted: set[str]
    interfaces_named: dict[str, Where]


def resolve(merged: Merged, around: Surroundings, reader: Reader) -> Draft:
    """Resolve ``merged`` for one host; findings go to ``reader``."""
    return _Resolver(merged, around, reader).draft()


class _Resolver:
    def __init__(self, merged: Merged, around: Surroundings, reader: Reader) -> None:
        self.merged = merged
        self.around = around
        self.reader = reader
        self.tainted = merged.tainted
        self.zones: dict[str, Endpoint | None] = {}
        self.services: dict[str, ServiceSet | None] = {}
        self.antispoof: list[Endpoint] = []
        self.interfaces_named: dict[str, Where] = {}

    def draft(self) -> Draft:
        merged = self.merged
        for name, entry in merged.zones.items():
            self.zones[name] = self.zone(name, entry)
        for name, entry in merged.services.items():
            self.services[name] = self.service(name, entry)
        rules = {hook: self.rules(hook) for hook in HOOKS}
        masquerade = tuple(dict.fromkeys(str(one) for one in merged.masquerade))
        for one in merged.masquerade:
            self.interfaces_named.setdefault(str(one), one.where)
        publish = tuple(filter(None, [self.publish(entry) for entry in merged.publish]))
        accepted = frozenset(str(one["name"]) for one in merged.blocklists if one.get("overlap") == "accept")
        return Draft(
            zones={name: zone for name, zone in self.zones.items() if zone},
            services={name: service for name, service in self.services.items() if service},
            rules=rules,
            nat=Nat(masquerade, publish, merged.clamp_mss),
            containers_outbound=str(merged.containers.get("outbound", "allow")),
            defaults=self.defaults(),
            defaults_at=merged.defaults_at,
            blocklists=tuple(filter(None, [self.blocklist(entry) for entry in merged.blocklists])),
            accepted_overlaps=accepted,
            antispoof=tuple(self.antispoof),
            traps=self.traps(),
            log=self.log(),
            asserts=tuple(filter(None, [self.assertion(entry) for entry in merged.asserts])),
            tainted=self.tainted,
            interfaces_named=self.interfaces_named,
        )

    # Zones and addresses

    def zone(self, name: str, entry: Entry) -> Endpoint | None:
        for said in _said(entry, "interfaces"):
            self.interfaces_named.setdefault(str(said), said.where)
        if entry.broken:
            return None
        own = entry.memo
        if own is None:
            own = entry.memo = self.zone_own(entry)
        findings, good, members, cut = own
        self.reader.findings.extend(findings)
        from_hosts = self.hosts(name, entry)
        if not good or from_hosts is None:
            return None
        interfaces = tuple(str(said) for said in _said(entry, "interfaces"))
        named = "cidrs" in entry or "hosts" in entry
        local = entry.get("local") is True
        addresses = intervals.join(members, from_hosts)
        if not named and interfaces:
            addresses = ANY_ADDRESS
        elif local:
            addresses = intervals.join(addresses, UNSPOOFABLE)
        if intervals.is_empty(addresses):
            self.reader.add(
                "empty-zone",
                entry.where,
                f"zone `{name}` has no members",
                "give it cidrs, hosts or interfaces, or remove it",
            )
            return None
        if cut != Addresses() and not intervals.covers(addresses, cut):
            outside = intervals.minus(cut, addresses)
            shown = cidrs.texts(outside)
            where = _said(entry, "except")[0].where
            self.reader.add(
                "except-outside",
                where,
                f"`except` of zone `{name}` lies outside the zone: {shown[0]}"
                + (f" and {len(shown) - 1} more" if len(shown) > 1 else ""),
                "cut only what is inside, or remove the entry",
            )
            return None
        addresses = intervals.minus(addresses, cut)
        if intervals.is_empty(addresses):
            message = f"`except` leaves zone `{name}` without members"
            self.reader.add("empty-zone", entry.where, message, "cut less, or remove the zone")
            return None
        zone = Endpoint(addresses, interfaces, name)
        if named and interfaces:
            self.antispoof.append(zone)
        return zone

    def zone_own(self, entry: Entry) -> tuple[list[Any], bool, Addresses, Addresses]:
        """What the entry says by itself, the same for every host."""
        reader = Reader()
        members, good = _addresses(reader, _said(entry, "cidrs"))
        cut, good_cut = _addresses(reader, _said(entry, "except"))
        return reader.findings, good and good_cut, members, cut

    def hosts(self, zone: str, entry: Entry) -> Addresses | None:
        # Every host of a fleet has the same members in this zone.
        joined: dict[tuple[str, ...], Addresses] | None = getattr(self.around.inventory, "joined", None)
        names = tuple(str(said) for said in _said(entry, "hosts"))
        if joined is None:
            return self.members(zone, entry)
        if names not in joined:
            addresses = self.members(zone, entry)
            if addresses is None:
                return None
            joined[names] = addresses
        return joined[names]

    def members(self, zone: str, entry: Entry) -> Addresses | None:
        found: list[str] = []
        good = True
        for said in _said(entry, "hosts"):
            name = str(said)
            if name in self.around.inventory:
                members: Sequence[str] = (name,)
            elif name in self.around.group_members:
                members = self.around.group_members[name]
            else:
                good = False
                known = (*self.around.group_members, *self.around.inventory)
                self.reader.add(
                    "unknown-host",
                    said.where,
                    f"zone `{zone}` names `{short(name)}`, which is no host or group of the inventory",
                    nearest(name, known) if known else "run with the inventory",
                )
                continue
            for member in members:
                texts = [text for text in self.around.inventory.get(member, ()) if text]
                if not texts or not all(_is_address(text) for text in texts):
                    good = False
                    said_address = f" (it has `{short(str(texts[0]))}`)" if texts else ""
                    self.reader.add(
                        "host-without-address",
                        said.where,
                        f"zone `{zone}` names `{short(member)}`, whose IP address is not known{said_address}",
                        "set sallyport_addresses for it to a list of its addresses",
                    )
                    break
                found += texts
        return cidrs.parse(found) if good else None

    def endpoints(self, items: Sequence[Said], hook: str, key: str, rule: str) -> tuple[Endpoint, ...] | None:
        """What a ``from`` or ``to`` means; None after a finding, or quietly where a zone is broken."""
        result: list[Endpoint] = []
        literals: list[Said] = []
        good = True
        everything = False
        for said in items:
            text = str(said)
            if text == "any":
                everything = True
            elif text in self.zones:
                zone = self.zones[text]
                if zone is None:
                    good = False
                    continue
                if zone.interfaces and (hook, key) in (("inbound", "to"), ("outbound", "from")):
                    good = False
                    way = "leaves by none" if hook == "inbound" else "came in by none"
                    self.reader.add(
                        "interface-direction",
                        said.where,
                        f"`{key}` of {rule} names zone `{text}`, which has interfaces, but such a packet {way}",
                        "name a zone without interfaces",
                    )
                    continue
                result.append(zone)
            elif _ADDRESS_LIKE.fullmatch(text):
                literals.append(said)
            else:
                good = False
                self.reader.add(
                    "unknown-zone",
                    said.where,
                    f"`{key}` of {rule} names zone `{short(text)}`, which is nowhere defined",
                    nearest(text, ("any", *self.zones)),
                )
        if literals:
            addresses, fine = _addresses(self.reader, literals)
            good = good and fine
            result.append(Endpoint(addresses))
        if not good:
            return None
        return (Endpoint(),) if everything else tuple(result)

    # Services

    def service(self, name: str, entry: Entry) -> ServiceSet | None:
        if entry.broken:
            return None
        if entry.memo is None:
            spans = {key: intervals.merge(entry[key]) for key in _PROTOCOLS if key in entry}
            entry.memo = ServiceSet(names=(name,), **cast(Any, spans))
        service = cast(ServiceSet, entry.memo)
        if service == ServiceSet(names=(name,)):
            self.reader.add(
                "empty-service",
                entry.where,
                f"service `{name}` has no port, type or protocol",
                f"give it one of {', '.join(_PROTOCOLS)}, or remove it",
            )
            return None
        return service

    def service_set(self, items: Sequence[Said], rule: str) -> ServiceSet | None:
        found: list[ServiceSet] = []
        good = True
        everything = False
        for said in items:
            text = str(said)
            if text == "any":
                everything = True
            elif text in self.services:
                service = self.services[text]
                if service is None:
                    good = False
                else:
                    found.append(service)
            else:
                good = False
                self.reader.add(
                    "unknown-service",
                    said.where,
                    f"{rule} names service `{short(text)}`, which is nowhere defined",
                    nearest(text, ("any", *self.services)),
                )
        if not good:
            return None
        names = tuple(dict.fromkeys(str(said) for said in items))
        if everything:
            return ServiceSet(any=True, names=names)
        if len(found) == 1 and names == found[0].names:
            return found[0]
        spans = {key: intervals.union(*(getattr(one, key) for one in found)) for key in _PROTOCOLS}
        return ServiceSet(names=names, **cast(Any, spans))

    # Rules

    def rules(self, hook: str) -> tuple[Rule, ...]:
        result: list[Rule] = []
        for entry in self.merged.rules[hook]:
            rule = None if entry.broken else self.rule(hook, entry)
            if rule is None:
                self.tainted.add(hook)
            else:
                result.append(rule)
        return tuple(result)

    def rule(self, hook: str, entry: Entry) -> Rule | None:
        name = str(entry["name"])
        said = f"{hook} rule `{short(name, 40)}`"
        verdicts: tuple[Verdict, ...] = ("allow", "deny", "reject")
        verdict = next(key for key in verdicts if key in entry)
        services = self.service_set(entry[verdict], said)
        ends: list[tuple[Endpoint, ...] | None] = []
        for key in ("from", "to"):
            ends.append(self.endpoints(entry[key], hook, key, said) if key in entry else (Endpoint(),))
        good = services is not None and None not in ends
        rate = _rate(entry.get("rate"))
        if rate and verdict != "allow":
            good = False
            self.reader.add(
                "rate-on-deny",
                entry.at("rate"),
                f"{said} has a rate, but only what is allowed can have one",
                "allow at this rate instead; what is over it is dropped",
            )
        until = None
        if "until" in entry:
            until = _date(entry["until"])
            if until is None:
                good = False
                message = f"`until` of {said} is no day of the calendar: `{short(entry['until'])}`"
                self.reader.add(
                    "bad-date", entry["until"].where, message, 'write a date such as "2027-01-31"'
                )
        elif entry.get("on_device"):
            good = False
            message = f"{said} ends on the device's clock, but has no end"
            self.reader.add(
                "missing-key", entry.at("on_device"), message, "add `until`, or remove `on_device`"
            )
        tools = (self.around.device or {}).get("tools") or {}
        if entry.get("cut") is True and self.around.device is not None and not tools.get("conntrack"):
            good = False
            self.reader.add(
                "no-conntrack",
                entry.at("cut"),
                f"{said} must end running connections, but {self.around.host} has no conntrack tool",
                "install it there, or leave `cut` out",
            )
        if not good or services is None or ends[0] is None or ends[1] is None:
            return None
        return Rule(
            name=name,
            verdict=verdict,
            services=services,
            sources=ends[0],
            destinations=ends[1],
            rate=rate,
            until=until,
            on_device=entry.get("on_device") is True,
            cut=entry.get("cut") is True,
            log=entry.get("log") is True,
            reason=str(entry.get("reason", "")),
            where=entry["name"].where,
        )

    def publish(self, entry: Entry) -> Publish | None:
        if entry.broken:
            self.tainted.add("nat")
            return None
        name = str(entry["name"])
        said = f"published port `{short(name, 40)}`"
        sources = self.endpoints(entry["from"], "forward", "from", said) if "from" in entry else (Endpoint(),)
        target: Said = entry["to"]
        match = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\[\]]+)):([1-9][0-9]{0,4})", str(target), re.ASCII)
        place = None
        if match and int(match[3]) <= 65535:
            try:
                family, first, last = cidrs.parse_one(match[1] or match[2])
                if first == last and (family == "ipv6") == bool(match[1]):
                    place = (family, first, int(match[3]))
            except cidrs.NotACidr:
                place = None
        if place is None:
            self.reader.add(
                "bad-target",
                target.where,
                f"`to` of {said} is no address and port: `{short(str(target))}`",
                'write "10.20.0.9:443" or "[2001:db8::9]:443"',
            )
        nowhere = _nowhere(place[0], place[1]) if place else ""
        if nowhere:
            self.reader.add(
                "bad-target",
                target.where,
                f"`to` of {said} is {nowhere}, where no packet can be led: `{short(str(target))}`",
                "name a host on a network; for a port of this device, its address there",
            )
        if place is None or nowhere or sources is None:
            self.tainted.add("nat")
            return None
        protocol = cast(Any, str(entry.get("protocol", "tcp")))
        return Publish(name, sources, protocol, entry["port"], *place, where=entry["name"].where)

    # The rest

    def defaults(self) -> Defaults:
        said = self.merged.defaults
        ping = None
        if "ping" in said:
            entry: Entry = said["ping"]
            sources = (Endpoint(),)
            if "from" in entry:
                found = self.endpoints(entry["from"], "inbound", "from", "`ping`")
                if found is None:
                    self.tainted.add("defaults")
                sources = cast(Any, found or sources)
            ping = Ping(sources, _rate(entry.get("rate")))
        return Defaults(
            inbound=_VERDICTS[said.get("inbound", "drop")],
            outbound=_VERDICTS[said.get("outbound", "allow")],
            forward=_VERDICTS[said.get("forward", "drop")],
            ping=ping,
            gate=intervals.merge(said["gate"]) if "gate" in said else (),
            reason=str(said.get("reason", "")),
        )

    def blocklist(self, entry: Entry) -> Blocklist | None:
        for said in _said(entry, "interfaces"):
            self.interfaces_named.setdefault(str(said), said.where)
        if entry.broken:
            self.tainted.add("blocklists")
            return None
        file: Said = entry["file"]
        name = str(entry["name"])
        path = os.path.join(self.around.policy_dir or "", str(file))
        try:
            if not self.may_read(path):
                self.tainted.add("blocklists")
                self.reader.add(
                    "blocklist-file",
                    file.where,
                    f"the file of list `{name}` lies outside the policy's folder: {short(str(file))}",
                    "put it there, or name its folder in the variable sallyport_list_dirs",
                )
                return None
            addresses, problems = _read_blocklist(path)
        except (OSError, ValueError) as error:
            self.tainted.add("blocklists")
            reason = getattr(error, "strerror", None) or "its name cannot be one"
            self.reader.add(
                "blocklist-file",
                file.where,
                f"the file of list `{name}` cannot be read: {short(path)}: {reason}",
                "put it there; the name is relative to the policy's folder",
            )
            return None
        for problem in problems[:MAX_LIST_FINDINGS]:
            more = len(problems) - MAX_LIST_FINDINGS
            last = problem is problems[MAX_LIST_FINDINGS - 1] if more > 0 else False
            # What is no list may be somebody's secret, and findings end up in the logs of CI.
            shown = short(problem.text) if _LISTED.fullmatch(problem.text) else ""
            self.reader.add(
                problem.kind,
                Where(path, problem.line, shown),
                (f"`{shown}` {problem.why}" if shown else "this line is no address, CIDR or range")
                + (f" (and {more} or more lines after it)" if last else ""),
                problem.remedy if shown else "correct the line, or name the list that was meant",
            )
        if problems:
            self.tainted.add("blocklists")
            return None
        if intervals.is_empty(addresses):
            self.reader.warn(
                "empty-blocklist",
                file.where,
                f"list `{name}` holds no address",
                "check how the file was fetched",
            )
        interfaces = tuple(str(said) for said in _said(entry, "interfaces"))
        both = entry.get("direction") == "both"
        return Blocklist(name, addresses, interfaces, both, where=entry["name"].where)

    def may_read(self, path: str) -> bool:
        """Whether a list lies in the policy's folder or one that a variable names, wherever links lead."""
        real = os.path.realpath(path)
        return any(
            os.path.commonpath((real, home)) == home
            for home in map(os.path.realpath, (self.around.policy_dir or os.curdir, *self.around.list_dirs))
        )

    def traps(self) -> Traps | None:
        entry = self.merged.traps
        if entry is None:
            return None
        never: tuple[Endpoint, ...] | None = ()
        if not entry.broken and "never" in entry:
            never = self.endpoints(entry["never"], "inbound", "from", "`traps`")
            self._never(never or (), entry)
        ban = 3600
        if isinstance(entry.get("ban"), Said):
            ban = int(entry["ban"][:-1]) * _BAN_UNITS[entry["ban"][-1]]
            if ban > 3600:
                message = f"a ban of `{entry['ban']}` is longer than one hour"
                self.reader.add("bad-ban", entry.at("ban"), message, "write at most 1h")
                never = None
        if entry.broken or never is None:
            self.tainted.add("traps")
            return None
        can_prove = self.around.device is None or _has_synproxy(self.around.device)
        proof = entry.get("proof")
        if proof == "handshake" and not can_prove:
            self.tainted.add("traps")
            self.reader.add(
                "no-synproxy",
                entry.at("proof"),
                "`proof: handshake` needs synproxy, which this device's kernel does not have",
                "leave `proof` out, or choose syn knowing that a forged packet can then ban an address",
            )
            return None
        if proof == "syn" or not can_prove:
            why = "is chosen" if proof == "syn" else "is all that this device's kernel offers"
            self.reader.warn(
                "trap-proof-syn",
                entry.at("proof") if proof else entry.where,
                f"`proof: syn` {why}: one forged packet bans the address that it names",
                "keep the traps to networks where sources cannot be forged, or drop them",
            )
        return Traps(
            tcp=intervals.merge(entry["tcp"]),
            ban_seconds=ban,
            size=entry.get("size", 4096),
            proof="handshake" if can_prove and proof != "syn" else "syn",
            never=intervals.join(*(one.addresses for one in never)),
            where=entry.where,
        )

    def _never(self, never: Iterable[Endpoint], entry: Entry) -> None:
        """A ban knows addresses only, so who is never banned is told by addresses too."""
        for one in never:
            v4, v6 = one.addresses.v4 == ANY_ADDRESS.v4, one.addresses.v6 == ANY_ADDRESS.v6
            if not v4 and not v6:
                continue
            nobody = "nobody" if v4 and v6 else f"no {'IPv4' if v4 else 'IPv6'} caller"
            if one.interfaces:
                self.reader.add(
                    "trap-never",
                    entry.at("never"),
                    f"`never` of `traps` names zone `{one.zone}`, which is told by its interfaces, and a ban knows "
                    f"addresses only: {nobody} would be banned, wherever it came in",
                    "name the addresses that must not be banned",
                )
            else:
                self.reader.warn(
                    "trap-never",
                    entry.at("never"),
                    f"`never` of `traps` names any address, so {nobody} is banned: callers are only dropped",
                    "name those who must not be banned, or leave the traps out",
                )

    def log(self) -> Log:
        said = self.merged.log
        return Log(_rate(said.get("drops")), str(said.get("prefix", "sallyport")), said.get("group"))

    def assertion(self, entry: Entry) -> Assertion | None:
        if entry.broken:
            return None
        bound: Entry | None = entry.get("defaults") or None
        result = Assertion(entry.where)
        if bound is not None:
            result.defaults = {hook: _VERDICTS[word] for hook, word in bound.items()}
        if "service" in entry or "only_from" in entry:
            for key in ("service", "only_from"):
                if key not in entry:
                    message = f"an assertion has no `{key}`"
                    self.reader.add("missing-key", entry.where, message, "write both service and only_from")
                    return None
            result.name = str(entry["service"])
            result.service = self.service_set([entry["service"]], "an assertion")
            sources = self.endpoints(entry["only_from"], "inbound", "only_from", "an assertion")
            if result.service is None or sources is None:
                return None
            result.only_from = sources
        elif bound is None:
            message = "an assertion says nothing"
            self.reader.add("missing-key", entry.where, message, "write service and only_from, or defaults")
            return None
        return result


def _nowhere(family: str, number: int) -> str:
    """What kind of address it is, where a translation can lead nobody to it."""
    address = ipaddress.IPv4Address(number) if family == "ipv4" else ipaddress.IPv6Address(number)
    if address.is_loopback:
        return "a loopback address"
    if address.is_unspecified or (family == "ipv4" and number >> 24 == 0):
        return "no host's address"
    if address.is_multicast:
        return "a multicast address"
    if address.is_link_local:
        return "a link-local address"
    if family == "ipv4" and number >> 28 == 15:
        return "a broadcast or reserved address"
    return ""


def _has_synproxy(device: Mapping[str, Any]) -> bool:
    """Whether the firewall that this device takes can prove a TCP handshake."""
    firewall = device.get("firewall") or {}

    def offers(tool: str) -> bool:
        seen = firewall.get(tool) or {}
        return bool(seen.get("works")) and "synproxy" in (seen.get("features") or ())

    if (firewall.get("nft") or {}).get("works"):
        return offers("nft")
    return offers("iptables") and offers("ip6tables")


def _said(entry: Entry, key: str) -> list[Said]:
    value = entry.get(key)
    return value if isinstance(value, list) else []


def _addresses(reader: Reader, items: Sequence[Said]) -> tuple[Addresses, bool]:
    """The addresses of CIDR texts, and whether all of them were good."""
    addresses, problems = cidrs.collect(items)
    for problem in problems:
        where = items[problem.line - 1].where
        reader.add(problem.kind, where, f"`{short(problem.text)}` {problem.why}", problem.remedy)
    return addresses, not problems


def _is_address(text: str) -> bool:
    try:
        _family, first, last = cidrs.parse_one(text)
    except cidrs.NotACidr:
        return False
    return first == last


def _rate(said: Said | None) -> Rate | None:
    if said is None:
        return None
    match = re.fullmatch(RATE, str(said), re.ASCII)
    if not match:
        return None
    return Rate(int(match[1]), _SECONDS[match[2]], int(match[4] or 5))


def _date(text: str) -> date | None:
    try:
        return date.fromisoformat(str(text))
    except ValueError:
        return None


_lists: dict[str, tuple[layers.Stamp, tuple[Addresses, list[cidrs.NotACidr]]]] = {}


def _read_blocklist(path: str) -> tuple[Addresses, list[cidrs.NotACidr]]:
    """The addresses in a list file, from memory where it has not changed. Raises OSError."""
    now = layers.stamp(path)
    known = _lists.get(path)
    if known and known[0] == now:
        return known[1]
    raw = layers.read_file(path, MAX_LIST_BYTES + 1)
    if len(raw) > MAX_LIST_BYTES:
        raise OSError(errno.EFBIG, f"it has more than {MAX_LIST_BYTES >> 20} MB")
    name = shelf.digest(raw)
    kept = shelf.fetch(name, len(raw))
    read = (kept, []) if kept else cidrs.read_list(raw.decode("utf-8-sig", "replace"))
    if not kept and not read[1]:
        shelf.keep(name, len(raw), read[0])
    if len(_lists) >= 64:
        _lists.clear()
    _lists[path] = (now, read)
    return read
