# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Whether a resolved policy is sound: it admits the operator, keeps its promises and says nothing twice.

Also the place where the policy meets the day and the device: expired rules go, and what must never be cut off is
worked out and taken from the block lists.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from datetime import date, timedelta
from functools import lru_cache
from typing import Any, cast

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import cidrs, flows, intervals, shadow
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.judge import (
    ICMP,
    ICMP_REDIRECT,
    ICMPV6,
    ICMPV6_REDIRECT,
    TCP,
    UNSPOOFABLE,
    Outcome,
    Packet,
    address_in,
    endpoint_matches,
    family_of,
    interface_matches,
    judge,
    starts_flow,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.language import Reader
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import (
    Addresses,
    Blocklist,
    Endpoint,
    Family,
    HostPolicy,
    Intervals,
    Publish,
    Rule,
    Where,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.resolve import Draft, Surroundings
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.source import short

SOON = timedelta(days=14)
WIDE = 8
"""What holds an eighth of its family means the internet: 2000::/3, all that is assigned of IPv6, is one."""
MANAGEMENT_RATE = 30
"""Connections a minute that a run of ours may need: one for each change that it confirms, and for each retry."""
_NEEDED = {"DNS": ("udp", (53,)), "NTP": ("udp", (123,)), "logging": ("", ()), "updates": ("tcp", (80, 443))}
_BROKERS = (1883, 8883, 5671, 5672)  # MQTT and AMQP, plain and over TLS
_LOGGING = {"udp": (514,), "tcp": (601, 6514)}


def finish(
    draft: Draft, around: Surroundings, reader: Reader, previous: Collection[str] | None = None
) -> HostPolicy:
    """Make the host's policy of ``draft`` and note what is wrong with it.

    ``previous`` holds the fingerprints of the rules that the host has now (None: not known): an expired rule is an
    error only where it is new.
    """
    rules = {hook: _alive(hook, found, around.now, previous, reader) for hook, found in draft.rules.items()}
    ports = management_ports(around)
    protected = _protected(rules, ports, around, reader)
    lists = tuple(_cut(one, protected, reader) for one in draft.blocklists)
    device = around.device or {}
    interfaces: Iterable[Mapping[str, Any]] = device.get("interfaces") or ()
    bridges = {
        str(one["name"]): str(one.get("kind", "")) for one in interfaces if "bridge" in str(one.get("kind"))
    }
    container_bridges = tuple(sorted(name for name, kind in bridges.items() if kind == "container_bridge"))
    policy = HostPolicy(
        host=around.host,
        inbound=rules["inbound"],
        outbound=rules["outbound"],
        forward=rules["forward"],
        nat=draft.nat,
        containers_outbound=cast(Any, draft.containers_outbound),
        container_bridges=container_bridges,
        bridges=tuple(sorted(bridges)),
        container_addresses=tuple(
            Endpoint(_own_addresses(one.get("addresses") or ()), (str(one["name"]),))
            for one in sorted(interfaces, key=lambda one: str(one["name"]))
            if str(one["name"]) in container_bridges
        ),
        own_addresses=_known_addresses(around),
        defaults=draft.defaults,
        blocklists=lists,
        antispoof=draft.antispoof,
        traps=draft.traps,
        protected=protected,
        log=draft.log,
    )
    _check(policy, draft, around, ports, reader)
    return policy


def _check(policy: HostPolicy, draft: Draft, around: Surroundings, ports: set[int], reader: Reader) -> None:
    """Everything that is judged on the finished policy; nothing is concluded from a section with holes."""
    _management_open(policy, draft, ports, reader)
    if not draft.tainted & {"inbound", "defaults", "zones"}:
        _admits_controller(policy, draft, around, ports, reader)
        _asserts(policy, draft, around, reader)
    _overlaps(policy, draft, reader)
    _wide(policy, ports, reader)
    if "outbound" not in draft.tainted and "defaults" not in draft.tainted:
        _blind(policy, draft, reader)
    _interfaces(draft, around, reader)
    _foreign(policy, around, reader)
    if "inbound" not in draft.tainted:
        _published(policy, reader)
    _reject(policy, around, reader)
    dead = _icmp(policy, reader)
    # One mistake, one finding: what no flow starts with changes nothing either.
    reader.findings += [
        one
        for one in shadow.findings(policy, draft.tainted)
        if one.id != "redundant" or one.where not in dead
    ]


def fingerprint(rule: Rule) -> str:
    """Tells rules apart by what they say, wherever they stand.

    A zone or service counts by its name: who else joins it does not make an old rule a new one.
    """
    return hashlib.sha256(
        repr(
            (
                rule.name,
                rule.verdict,
                rule.services.names or rule.services,
                [end.zone or end for end in rule.sources],
                [end.zone or end for end in rule.destinations],
                rule.rate,
                rule.until,
                rule.on_device,
                rule.cut,
                rule.log,
            )
        ).encode()
    ).hexdigest()


def management_ports(around: Surroundings) -> set[int]:
    """The TCP ports by which this controller comes in."""
    connection = (around.device or {}).get("connection") or {}
    port = connection.get("server_port")
    return {int(port)} if port else set(around.management_ports)


def controllers(around: Surroundings) -> list[str]:
    """This controller and the execution nodes, as the device sees them."""
    connection = (around.device or {}).get("connection") or {}
    seen = [str(connection["client"])] if connection.get("client") else []
    return list(dict.fromkeys(plain(text) for text in (*seen, *around.controller)))


def plain(text: str) -> str:
    """An address as other programs print it, without zone index, IPv4 not dressed up as IPv6."""
    text = text.split("%", 1)[0]
    return text[7:] if text.lower().startswith("::ffff:") and "." in text else text


def _alive(
    hook: str, rules: tuple[Rule, ...], now: date, previous: Collection[str] | None, reader: Reader
) -> tuple[Rule, ...]:
    alive: list[Rule] = []
    for rule in rules:
        said = f"{hook} rule `{short(rule.name, 40)}`"
        if rule.until is None:
            alive.append(rule)
        elif rule.until >= now:
            alive.append(rule)
            if rule.until - now <= SOON:
                message = f"{said} ends on {rule.until} (24:00 UTC)"
                reader.warn("expires-soon", rule.where, message, "extend `until`, or let it go")
        elif previous is not None and fingerprint(rule) not in previous:
            message = f"{said} is new or changed and ended already, on {rule.until}"
            reader.add("expired-new", rule.where, message, "correct `until`, or remove the rule")
        else:
            message = f"{said} ended on {rule.until} and is left out"
            reader.warn("expired", rule.where, message, "remove it, or extend `until`")
    return tuple(alive)


def covers_port(rule: Rule, ports: Iterable[int]) -> bool:
    """Whether ``rule`` speaks of one of these TCP ports."""
    held = flows.service_ports(rule.services, "ipv4", TCP)
    return any(intervals.holds(held, port) for port in ports)


def named(endpoint: Endpoint) -> Addresses:
    """The addresses that an endpoint names: any, /0 and whatever else is most of the internet name none."""
    wide = _wide_families(endpoint)
    return Addresses(
        () if "ipv4" in wide else endpoint.addresses.v4, () if "ipv6" in wide else endpoint.addresses.v6
    )


def _wide_families(endpoint: Endpoint) -> list[Family]:
    """The families of which an endpoint holds so much that it names nobody."""
    return [
        family
        for family in flows.FAMILIES
        if intervals.count(family_of(endpoint.addresses, family)) * WIDE
        >= intervals.count(flows.everything(family))
    ]


def _own_addresses(texts: Iterable[Any]) -> Addresses:
    """The addresses of an interface, from their CIDRs with host bits.

    Its link-local one stands for all: it changes with every boot and every container, and the policy must not. What
    arrives for another one of this interface is not for this device.
    """
    own = [str(text).partition("/")[0] for text in texts]
    return cidrs.parse([text for text in own if not text.lower().startswith("fe80:")] + ["fe80::/10"])


def to_brokers(rule: Rule) -> bool:
    """Whether ``rule`` leads to message brokers, also those of the devices behind a gateway."""
    return rule.verdict == "allow" and not rule.services.any and covers_port(rule, _BROKERS)


def _known_addresses(around: Surroundings) -> Addresses:
    """All of the device's addresses that probe saw, else those that the inventory knows."""
    interfaces: Iterable[Mapping[str, Any]] = (around.device or {}).get("interfaces") or ()
    texts = [str(text).partition("/")[0] for one in interfaces for text in one.get("addresses") or ()]
    found = Addresses()
    for text in texts or around.inventory.get(around.host, ()):
        try:
            found = intervals.join(found, cidrs.parse([plain(text)]))
        except cidrs.NotACidr:
            continue
    return found


def _protected(
    rules: Mapping[str, tuple[Rule, ...]], ports: set[int], around: Surroundings, reader: Reader
) -> Addresses:
    found: list[Addresses] = []
    for rule in rules["inbound"]:
        if rule.verdict == "allow" and covers_port(rule, ports):
            found += [named(one) for one in rule.sources]
    for rule in rules["outbound"]:
        if rule.verdict == "allow":
            found += [named(one) for one in rule.destinations]
    for rule in rules["forward"]:
        if to_brokers(rule):
            found += [named(one) for one in rule.destinations]
    for text in around.brokers:
        try:
            found.append(named(Endpoint(cidrs.parse([text]))))
        except cidrs.NotACidr as problem:
            reader.add(
                "bad-broker",
                Where("sallyport_brokers"),
                f"the broker `{short(text)}` is no address, and no host or group of the inventory: it {problem.why}",
                "name hosts, groups or addresses; a host needs ansible_host or sallyport_addresses to be an address",
            )
    device = around.device or {}
    texts = controllers(around)
    for key in ("routers", "resolvers", "dhcp_servers", "ntp_servers"):
        texts += [plain(str(one)) for one in device.get(key) or ()]
    for text in texts:
        try:
            found.append(cidrs.parse([text]))
        except cidrs.NotACidr:
            # A server that is known by name only has no address to protect.
            continue
    return intervals.join(*found)


@lru_cache(maxsize=256)
def _cut_addresses(addresses: Addresses, protected: Addresses) -> tuple[Addresses, Addresses]:
    """A list without what is protected, and what was taken out. Shared between hosts."""
    removed = intervals.common(addresses, protected)
    left = intervals.minus(intervals.minus(addresses, protected), UNSPOOFABLE)
    return left, removed


def _cut(blocked: Blocklist, protected: Addresses, reader: Reader) -> Blocklist:
    left, removed = _cut_addresses(blocked.addresses, protected)
    if not intervals.is_empty(removed):
        count = intervals.count(removed.v4) + intervals.count(removed.v6)
        example = cidrs.texts(removed)[0]
        nothing = ", and nothing is left" if intervals.is_empty(left) else ""
        reader.warn(
            "blocklist-protected",
            blocked.where,
            f"list `{blocked.name}` holds {count} addresses that must never be cut off, such as {example}; "
            f"they are left out of it{nothing}",
            "nothing, if the rules that protect them name them on purpose; else narrow those rules, or choose a list "
            "without them",
        )
    return Blocklist(blocked.name, left, blocked.interfaces, blocked.both, blocked.where)


def _most_of_a_family(addresses: Addresses) -> bool:
    """Whether more than half of IPv4 or IPv6 is in there: any address, but for a few exceptions."""
    return any(
        intervals.count(family_of(addresses, family)) * 2 > intervals.count(flows.everything(family))
        for family in flows.FAMILIES
    )


def _management_open(policy: HostPolicy, draft: Draft, ports: set[int], reader: Reader) -> None:
    opened = Addresses()
    for rule in policy.inbound:
        if rule.verdict != "allow" or rule.reason or not covers_port(rule, ports):
            continue
        # Two halves are the whole, in one rule or in two; the rule that completes it gets the finding.
        own = intervals.join(*(one.addresses for one in rule.sources if not one.interfaces))
        whole = intervals.join(opened, own)
        if _most_of_a_family(own) or (
            intervals.has_all_of_a_family(whole) and not intervals.has_all_of_a_family(opened)
        ):
            said = ", ".join(str(port) for port in sorted(ports))
            reader.add(
                "management-open",
                rule.where,
                f"inbound rule `{short(rule.name, 40)}` opens the management port (TCP {said}) to any address",
                "name the zones that manage this device in `from`, or say why in `reason`",
            )
        opened = whole
    if policy.defaults.inbound == "allow" and not policy.defaults.reason and "defaults" not in draft.tainted:
        reader.add(
            "management-open",
            draft.defaults_at.get("inbound", Where("")),
            "`defaults.inbound: allow` opens the management port to any address",
            "write drop and rules for what is needed, or say why in `defaults.reason`",
        )


def _admits_controller(
    policy: HostPolicy, draft: Draft, around: Surroundings, ports: set[int], reader: Reader
) -> None:
    connection = (around.device or {}).get("connection") or {}
    server = plain(str(connection.get("server") or ""))
    own = [server] if server else list(around.inventory.get(around.host, ()))
    known: list[Mapping[str, Any]] = list((around.device or {}).get("interfaces") or ())
    held = {
        str(one["name"]): [str(text).partition("/")[0] for text in one.get("addresses") or ()]
        for one in known
    }
    client, interface = plain(str(connection.get("client") or "")), str(connection.get("interface") or "")
    by_address = [name for name, texts in held.items() if server and server in texts and name != "lo"]
    # A management address often lies on lo or on a dummy, where no packet comes in: the way back says more. Where the
    # two differ either may be meant, and a change that is wrong about it takes itself back.
    atoms = list(dict.fromkeys(name for name in (interface, *by_address) if name))
    atoms = atoms or [name for name in held if name != "lo"] or flows.interface_atoms([policy])
    if client in ("127.0.0.1", "::1") or client in (one for texts in held.values() for one in texts):
        # Pull mode: the controller is the device, over loopback.
        atoms = ["lo"]
    for text in controllers(around):
        try:
            family, source, last = cidrs.parse_one(text)
            if source != last:
                raise cidrs.NotACidr(text, "bad-controller", "is a network", "name one address of it")
        except cidrs.NotACidr as problem:
            message = f"the controller's address `{short(text)}` {problem.why}"
            reader.add("bad-controller", Where("controller"), message, problem.remedy)
            continue
        destination = _address_of(own, family)
        for port in sorted(ports):
            taken = _translated(policy, family, source, port, atoms)
            if taken:
                _led_away(taken, text, port, reader)
                continue
            results = [
                judge(policy, Packet("inbound", family, source, destination, TCP, port, 40000, name))
                for name in atoms
            ]
            admitted = [one for one in results if one.verdict == "allow"]
            if not admitted:
                _locked_out(policy, text, port, results[0], reader, draft)
            elif all(
                one.rate and one.rate.count * 60 < MANAGEMENT_RATE * one.rate.seconds for one in admitted
            ):
                _throttled(policy, text, port, admitted[0], reader)
        if not any(
            address_in(named(zone), family, source) or (zone.interfaces and _is_any(zone, atoms))
            for zone in draft.zones.values()
        ):
            reader.warn(
                "management-path",
                draft.defaults_at.get("inbound", Where("policy")),
                f"no zone holds {text}, the address that this controller comes from",
                "put the management network into a zone, so that rules and lists can spare it",
            )


def _address_of(texts: Iterable[str], family: Family) -> int:
    """The first of a device's addresses that is of ``family``, 0 where none is known."""
    for text in texts:
        try:
            other, address, _last = cidrs.parse_one(text)
        except cidrs.NotACidr:
            continue
        if other == family:
            return address
    return 0


def _translated(
    policy: HostPolicy, family: Family, source: int, port: int, atoms: Iterable[str]
) -> Publish | None:
    """The published port that would take a connection of ours away from the device, by whichever way it comes in."""
    for publish in policy.nat.publish:
        if (publish.protocol, publish.port, publish.to_family) == ("tcp", port, family) and all(
            any(endpoint_matches(one, family, source, name) for one in publish.sources) for name in atoms
        ):
            return publish
    return None


def _led_away(publish: Publish, text: str, port: int, reader: Reader) -> None:
    reader.add(
        "lock-out",
        publish.where,
        f"published port `{short(publish.name, 40)}` would lock out the running controller, {text}: what it sends to "
        f"TCP port {port} of this device goes elsewhere",
        f"publish another port than {port}, or say in `from` who else may use it",
    )


def _is_any(zone: Endpoint, atoms: list[str]) -> bool:
    return intervals.has_all_of_a_family(zone.addresses) and any(
        interface_matches(pattern, name) for pattern in zone.interfaces for name in atoms
    )


def _locked_out(
    policy: HostPolicy, text: str, port: int, outcome: Outcome, reader: Reader, draft: Draft
) -> None:
    by = {
        "default": "no rule admits it",
        "rule": f"rule `{short(outcome.name, 40)}` stops it",
        "spoofed": "its zone lists other interfaces than the one that it comes in by",
        "blocklist": f"list `{outcome.name}` holds it",
        "trap": "the port is a trap",
    }.get(outcome.step, outcome.step)
    where = draft.defaults_at.get("inbound", Where("policy", 0, f"tcp/{port} from {text}"))
    for rule in policy.inbound:
        if outcome.step == "rule" and rule.name == outcome.name:
            where = rule.where
    reader.add(
        "lock-out",
        where,
        f"this policy would lock out the running controller, {text}, on TCP port {port}: {by}",
        f"add an inbound rule that allows the service on port {port} from a zone that holds {text}",
    )


def _throttled(policy: HostPolicy, text: str, port: int, outcome: Outcome, reader: Reader) -> None:
    rule = next((one for one in policy.inbound if one.name == outcome.name), None)
    reader.add(
        "lock-out",
        rule.where if rule else Where("policy", 0, f"tcp/{port} from {text}"),
        f"the rate of rule `{short(outcome.name, 40)}` would lock out the running controller, {text}, on TCP port "
        f"{port}: each change is confirmed over a connection of its own",
        f"allow {text} in a rule of its own without a rate before this one, or a rate of {MANAGEMENT_RATE}/minute or more",
    )


def _asserts(policy: HostPolicy, draft: Draft, around: Surroundings, reader: Reader) -> None:
    model = flows.Model(policy)
    for one in draft.asserts:
        for hook, verdict in one.defaults.items():
            found = getattr(policy.defaults, hook)
            if found != verdict:
                words = {"deny": "drop"}
                reader.add(
                    "assert-failed",
                    one.where,
                    f"`defaults.{hook}` must be {words.get(verdict, verdict)}, but is {words.get(found, found)}",
                    f"see {_place(draft.defaults_at.get(hook))}",
                )
        if one.service is None:
            continue
        names = [name for end in one.only_from for name in end.interfaces]
        names = [name for name in names if not name.endswith("*")]
        broken = _assert_breach(
            model, flows.flow_classes([policy], ("inbound", "published"), names, one.service), one
        )
        if broken:
            reader.add(
                "assert-failed",
                one.where,
                f"service `{one.name}` must be reached from {_ends_text(one.only_from)} only, but {broken}",
                "narrow that rule, or the assertion",
            )


def _assert_breach(model: flows.Model, classes: Iterable[flows.FlowClass], one: Any) -> str:
    try:
        for flow in classes:
            allowed = flows.addresses_on(one.only_from, flow.family, flow.in_interface)
            for outcome, addresses in model.outcomes(flow):
                if outcome.verdict != "allow" or outcome.step in (
                    "essential",
                    "loopback",
                    "bridge",
                    "containers",
                ):
                    continue
                others = intervals.subtract(addresses, allowed)
                if others:
                    by = {"rule": f"rule `{short(outcome.name, 40)}`", "ping": "`defaults.ping`"}.get(
                        outcome.step, "the default"
                    )
                    return f"{by} admits {cidrs.one_text(flow.family, *others[0])} too"
    except flows.TooManyPieces as error:
        return f"that cannot be shown: {error}"
    return ""


def _ends_text(ends: Iterable[Endpoint]) -> str:
    return ", ".join(end.zone or ", ".join(cidrs.texts(end.addresses)[:3]) for end in ends)


def _place(where: Where | None) -> str:
    if where is None:
        return "`defaults`"
    return f"{where.source}:{where.line}" if where.line else where.source


def _overlaps(policy: HostPolicy, draft: Draft, reader: Reader) -> None:
    for blocked in policy.blocklists:
        if blocked.name in draft.accepted_overlaps:
            continue
        seen: dict[str, int] = {}
        for rule in (*policy.inbound, *policy.forward):
            if rule.verdict != "allow":
                continue
            for end in rule.sources:
                if not _same_interface(blocked.interfaces, end.interfaces):
                    continue
                common = intervals.common(named(end), blocked.addresses)
                if not intervals.is_empty(common):
                    name = f"zone `{end.zone}`" if end.zone else f"rule `{short(rule.name, 40)}`"
                    seen[name] = intervals.count(common.v4) + intervals.count(common.v6)
        if seen:
            said = ", ".join(f"{count} addresses of {name}" for name, count in seen.items())
            reader.add(
                "blocklist-overlap",
                blocked.where,
                f"list `{blocked.name}` would drop what rules admit: {said}",
                "stand the list on other interfaces, or write `overlap: accept`",
            )


def _wide(policy: HostPolicy, ports: set[int], reader: Reader) -> None:
    """Zones that would protect whom they hold, were they not most of the internet."""
    if not policy.blocklists and not policy.traps:
        return
    seen: set[str] = set()
    for hook, rules in (("inbound", policy.inbound), ("outbound", policy.outbound)):
        for rule in rules:
            if rule.verdict != "allow" or (hook == "inbound" and not covers_port(rule, ports)):
                continue
            for end in rule.sources if hook == "inbound" else rule.destinations:
                wide = [
                    family
                    for family in _wide_families(end)
                    if family_of(end.addresses, family) != flows.everything(family)
                ]
                said = f"zone `{end.zone}`" if end.zone else ", ".join(cidrs.texts(end.addresses)[:3])
                if not wide or said in seen:
                    continue
                seen.add(said)
                names = " and ".join({"ipv4": "IPv4", "ipv6": "IPv6"}[family] for family in wide)
                reader.warn(
                    "wide-zone",
                    rule.where,
                    f"{hook} rule `{short(rule.name, 40)}` names {said}, which holds an eighth of {names} or more: that "
                    "protects nobody in it from block lists, traps and bans",
                    "nothing, if it means the internet; name whoever must never be cut off in a zone or a rule of "
                    "their own",
                )


def _same_interface(left: Collection[str], right: Collection[str]) -> bool:
    """Whether some interface name fits both; no names means all."""
    if not left or not right:
        return True
    return any(
        interface_matches(a, b.rstrip("*") or "x") or interface_matches(b, a.rstrip("*") or "x")
        for a in left
        for b in right
    )


def _blind(policy: HostPolicy, draft: Draft, reader: Reader) -> None:
    """What a device under ``outbound: drop`` could no longer do."""
    if policy.defaults.outbound == "allow":
        return

    def admits(transport: str, ports: Iterable[int]) -> bool:
        return any(
            rule.verdict == "allow"
            and any(
                intervals.holds(flows.service_ports(rule.services, family, flows.NUMBERS[transport]), port)
                for port in ports
                for family in flows.FAMILIES
            )
            for rule in policy.outbound
        )

    missing = [
        name for name, (transport, ports) in _NEEDED.items() if transport and not admits(transport, ports)
    ]
    if not any(admits(transport, ports) for transport, ports in _LOGGING.items()):
        missing.append("logging")
    if missing:
        reader.warn(
            "outbound-blind",
            draft.defaults_at.get("outbound", Where("policy")),
            f"outbound is closed by default and no rule admits {', '.join(missing)}",
            "add outbound rules for what the device needs",
        )


def _foreign(policy: HostPolicy, around: Surroundings, reader: Reader) -> None:
    """Firewalls of others on the device: Sallyport only says no, so what they drop stays dropped."""

    def allowed(rules: Iterable[Rule], default: str) -> list[str]:
        if default == "allow":
            return ["whatever no rule decides"]
        found = [name for rule in rules if rule.verdict == "allow" for name in rule.services.names]
        return list(dict.fromkeys(found))

    nat, defaults = policy.nat, policy.defaults
    onward = [f"what `{short(one.name, 40)}` publishes" for one in nat.publish]
    onward += [f"what leaves by {name}" for name in nat.masquerade]
    ways = {
        "input": ("inbound", allowed(policy.inbound, defaults.inbound)),
        "output": ("outbound", allowed(policy.outbound, defaults.outbound)),
        "forward": ("forward", [*allowed(policy.forward, defaults.forward), *onward]),
    }
    drops: list[Mapping[str, Any]] = list((around.device or {}).get("foreign_drops") or ())
    for hook, (way, services) in ways.items():
        here = [one for one in drops if one.get("hook") == hook]
        if not here or not services:
            continue
        families = {str(one["table"]).partition(" ")[0] for one in here}
        only = {frozenset({"ip"}): " over IPv4", frozenset({"ip6"}): " over IPv6"}.get(
            frozenset(families), ""
        )
        concerned = ", ".join(services[:8]) + (f" and {len(services) - 8} more" if len(services) > 8 else "")
        said = ", ".join(f"{one['chain']} of {one['table']} ({one['how']})" for one in here[:4])
        more = f" and {len(here) - 4} more" if len(here) > 4 else ""
        programs = sorted({str(one["program"]) for one in here if one.get("program")})
        whose = f" {', '.join(programs)} is active." if programs else ""
        remedy = "allow the same there, or switch that firewall off once this one is in force"
        reader.warn(
            "foreign-drop",
            Where("policy", 0, short(said)),
            f"{around.host} has another firewall that drops what it does not allow itself, whatever this policy says "
            f"{way}: chain {said}{more}.{whose} Unless it allows them too, this stops{only}: {concerned}",
            remedy + (" (ufw disable)" if programs else ""),
        )


def _published(policy: HostPolicy, reader: Reader) -> None:
    """Translations that nobody can use, since a published port is judged by the inbound rules."""
    atoms = flows.interface_atoms([policy])
    taken: dict[tuple[str, int, Family, str], Intervals] = {}
    for publish in policy.nat.publish:
        family, name = publish.to_family, short(publish.name, 40)
        callers: dict[str, Intervals] = {}
        for atom in atoms:
            key = (publish.protocol, publish.port, family, atom)
            sources = flows.addresses_on(publish.sources, family, atom)
            callers[atom] = intervals.subtract(sources, taken.get(key, ()))
            taken[key] = intervals.union(taken.get(key, ()), sources)
        if not any(family_of(one.addresses, family) for one in publish.sources):
            words = {"ipv4": "IPv4", "ipv6": "IPv6"}[family]
            reader.warn(
                "publish-dead",
                publish.where,
                f"`to` of published port `{name}` is an {words} address, and `from` holds none: nobody is led there",
                "name sources of the same family",
            )
        elif not any(callers.values()):
            reader.warn(
                "publish-dead",
                publish.where,
                f"earlier entries take {publish.protocol}/{publish.port} from everybody whom published port `{name}` "
                "names: nobody is led there",
                "remove it, or put it before them",
            )
        elif not any(
            rule.verdict == "allow"
            and intervals.holds(
                flows.service_ports(rule.services, family, flows.NUMBERS[publish.protocol]), publish.port
            )
            and any(
                intervals.overlaps(flows.addresses_on(rule.sources, family, atom), sources)
                for atom, sources in callers.items()
            )
            for rule in policy.inbound
        ):
            reader.warn(
                "publish-closed",
                publish.where,
                f"no inbound rule allows {publish.protocol}/{publish.port} from whom it names, so nobody reaches "
                f"`{name}`",
                "add an inbound rule for the original port",
            )


def _reject(policy: HostPolicy, around: Surroundings, reader: Reader) -> None:
    """Where nothing stands behind ``filter``, what somebody accepts there cannot be taken back."""
    rejecting = next((rule for rule in policy.inbound if rule.verdict == "reject"), None)
    if rejecting is None and policy.defaults.inbound != "reject":
        return
    firewall: Mapping[str, Any] = (around.device or {}).get("firewall") or {}
    if (firewall.get("nft") or {}).get("works"):
        return
    tools = [firewall.get(tool) or {} for tool in ("iptables", "ip6tables")]
    if all(not one.get("features") or "security" in one["features"] for one in tools):
        return
    what = f"rule `{short(rejecting.name, 40)}`" if rejecting else "`defaults.inbound`"
    reader.warn(
        "reject-overruled",
        rejecting.where if rejecting else Where("policy", 0, "defaults.inbound"),
        f"{what} rejects, and on {around.host} an ACCEPT that somebody else puts ahead in iptables' INPUT overrules "
        "that: its kernel has no table `security`",
        "write deny (drop), which nobody overrules, or load iptable_security and ip6table_security there",
    )


def _icmp(policy: HostPolicy, reader: Reader) -> set[Where]:
    """Rules that admit ICMP which starts no flow, and so never comes as far as a rule."""
    found = set()
    for hook, rules in (
        ("inbound", policy.inbound),
        ("outbound", policy.outbound),
        ("forward", policy.forward),
    ):
        for rule in rules:
            if rule.verdict != "allow":
                continue
            dead = [
                f"{name} {', '.join(str(one) for one in kinds[:6])}{' and more' if len(kinds) > 6 else ''}"
                for name, family, number, listed, never in (
                    ("ICMP", "ipv4", ICMP, rule.services.icmp, ICMP_REDIRECT),
                    ("ICMPv6", "ipv6", ICMPV6, rule.services.icmpv6, ICMPV6_REDIRECT),
                )
                if (
                    kinds := [
                        kind
                        for low, high in listed
                        for kind in range(low, high + 1)
                        if kind == never or not starts_flow(cast(Family, family), number, kind)
                    ]
                )
            ]
            if dead:
                found.add(rule.where)
                reader.warn(
                    "icmp-no-flow",
                    rule.where,
                    f"{hook} rule `{short(rule.name, 40)}` admits {' and '.join(dead)}, but no flow starts with these "
                    "types: on their own they are dropped before any rule is asked",
                    "take them out; answers and errors come in with the flow that they belong to",
                )
    return found


def _interfaces(draft: Draft, around: Surroundings, reader: Reader) -> None:
    if around.device is None:
        return
    present = {str(one.get("name")) for one in around.device.get("interfaces") or ()}
    for name, where in draft.interfaces_named.items():
        if not name.endswith("*") and name not in present:
            known = ", ".join(sorted(present - {"lo"})) or "none"
            message = f"{around.host} has no interface `{name}`; it has {known}"
            reader.warn(
                "interface-absent", where, message, "correct the name, or end it with `*` if it comes later"
            )
