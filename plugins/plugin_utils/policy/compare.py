# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What two versions of a policy do differently: who gains, who loses and who is treated otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Literal

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import cidrs, flows, intervals
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.exposure import (
    PROTOCOL_NAMES,
    label,
    rate_text,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.judge import Outcome, family_of
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import (
    Addresses,
    Family,
    Hook,
    HostPolicy,
    Interval,
    Intervals,
    Nat,
    ServiceSet,
)

Kind = Literal["gained", "lost", "changed"]
SHOWN = 20


@dataclass(frozen=True, slots=True)
class Change:
    """Addresses of the open side (destinations outbound, else sources) whose flows fare otherwise."""

    kind: Kind
    hook: Hook
    in_interface: str
    out_interface: str
    family: Family
    protocol: str
    ports: Interval
    service: str
    addresses: Intervals
    fixed: Intervals
    before: Outcome
    after: Outcome
    target: str = ""
    """Where a published port of ours leads: address and port."""

    @property
    def example(self) -> str:
        """One packet that shows it."""
        open_side = cidrs.address_text(self.family, self.addresses[0][0])
        whole = self.fixed == flows.everything(self.family)
        fixed = "any" if whole else cidrs.address_text(self.family, self.fixed[0][0])
        source, target = (fixed, open_side) if self.hook == "outbound" else (open_side, fixed)
        numbered = self.protocol in ("tcp", "udp", "sctp")
        port = (
            f" port {self.ports[0] or min(1, self.ports[1])}"
            if numbered
            else f" type {self.ports[0]}"
            if "icmp" in self.protocol
            else ""
        )
        onward = f", which leads to {self.target}" if self.target else ""
        return f"{self.protocol} {source} to {target}{port}{onward}"


@dataclass(frozen=True, slots=True)
class ListChange:
    """What a blocklist gained and lost."""

    name: str
    added: Addresses
    removed: Addresses


@dataclass(frozen=True, slots=True)
class NatChange:
    """Interfaces on which ``nat`` begins or ceases to do something; no address gains or loses a service by that."""

    setting: Literal["masquerade", "clamp_mss"]
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """All differences between two versions of one host's policy."""

    host: str
    changes: tuple[Change, ...]
    lists: tuple[ListChange, ...]
    translations: tuple[Change, ...] = ()
    """Who gains and loses what by our own published ports, by where these lead."""
    nat: tuple[NatChange, ...] = ()

    @property
    def every(self) -> tuple[Change, ...]:
        """All that a reader must see."""
        return (*self.changes, *self.translations)

    def __bool__(self) -> bool:
        return bool(self.every or self.lists or self.nat)


def compare(
    before: HostPolicy,
    after: HostPolicy,
    services: Mapping[str, ServiceSet],
    present: Iterable[str] = (),
    on: date | None = None,
) -> Comparison:
    """Every flow that fares otherwise ``after``. ``services`` give the names. Raises ``flows.TooManyPieces``."""
    if replace(before, host=after.host) == after:
        return Comparison(after.host, (), ())
    old, new = flows.Model(before, on), flows.Model(after, on)
    spans: dict[tuple[Any, ...], list[Interval]] = {}
    present = list(present)
    # Without a container engine only our own entries publish, and these are compared by where they lead.
    hooks = [hook for hook in flows.HOOKS if hook != "published" or flows.engines_publish([before, after])]
    for flow in flows.flow_classes([before, after], hooks, present):
        parts, others = old.outcomes(flow), new.outcomes(flow)
        if parts == others:
            continue
        for outcome, addresses in parts:
            for other, theirs in others:
                if outcome == other:
                    continue
                common = intervals.intersect(addresses, theirs)
                if common:
                    key = (
                        flow.hook, flow.family, flow.in_interface, flow.out_interface, flow.protocol,
                        common, flow.fixed, outcome, other,
                        # Outcomes are equal whoever decides, but the reader wants to know.
                        outcome.step, outcome.name, other.step, other.name,
                    )  # fmt: skip
                    spans.setdefault(key, []).append(flow.ports)
    changes = [
        Change(
            kind=_kind(outcome, other),
            hook=hook,
            in_interface=into,
            out_interface=out,
            family=family,
            protocol=PROTOCOL_NAMES.get(protocol, f"protocol {protocol}"),
            ports=ports,
            service=label(services, family, protocol, ports),
            addresses=addresses,
            fixed=fixed,
            before=outcome,
            after=other,
        )
        for (
            hook,
            family,
            into,
            out,
            protocol,
            addresses,
            fixed,
            outcome,
            other,
            *_by,
        ), found in spans.items()
        for ports in intervals.merge(found)
    ]
    led = tuple(_translations(old, new, services, present))
    lists, nat = tuple(_lists(before, after)), tuple(_nat(before.nat, after.nat))
    return Comparison(after.host, tuple(changes), lists, led, nat)


def _translations(
    old: flows.Model, new: flows.Model, services: Mapping[str, ServiceSet], present: Iterable[str]
) -> Iterable[Change]:
    policies = (old.policy, new.policy)
    parts, others = (flows.translations(one, policies, present) for one in (old, new))
    for key in dict.fromkeys((*parts, *others)):
        flow, (address, port) = key
        host = cidrs.address_text(flow.family, address)
        for outcome, addresses in _whole(flow, parts.get(key, [])):
            for other, theirs in _whole(flow, others.get(key, [])):
                common = intervals.intersect(addresses, theirs)
                if not common or outcome == other or "allow" not in (outcome.verdict, other.verdict):
                    continue
                yield Change(
                    kind=_kind(outcome, other),
                    hook=flow.hook,
                    in_interface=flow.in_interface,
                    out_interface="",
                    family=flow.family,
                    protocol=PROTOCOL_NAMES[flow.protocol],
                    ports=flow.ports,
                    service=label(services, flow.family, flow.protocol, flow.ports),
                    addresses=common,
                    fixed=flow.fixed,
                    before=outcome,
                    after=other,
                    target=f"{host}:{port}" if flow.family == "ipv4" else f"[{host}]:{port}",
                )


def _whole(flow: flows.FlowClass, parts: list[flows.Part]) -> list[flows.Part]:
    """``parts`` and all who are not translated."""
    rest = intervals.subtract(
        flows.everything(flow.family), intervals.union(*(addresses for _outcome, addresses in parts))
    )
    return [*parts, (flows.UNPUBLISHED, rest)] if rest else parts


def _kind(before: Outcome, after: Outcome) -> Kind:
    passed, passes = before.verdict == "allow", after.verdict == "allow"
    if passed == passes:
        return "changed"
    return "gained" if passes else "lost"


def _lists(before: HostPolicy, after: HostPolicy) -> Iterable[ListChange]:
    old = {one.name: one for one in before.blocklists}
    new = {one.name: one for one in after.blocklists}
    for name in sorted(old.keys() | new.keys()):
        left = old[name].addresses if name in old else Addresses()
        right = new[name].addresses if name in new else Addresses()
        if left != right:
            yield ListChange(name, intervals.minus(right, left), intervals.minus(left, right))


def _nat(before: Nat, after: Nat) -> Iterable[NatChange]:
    old, new = set(before.masquerade), set(after.masquerade)
    if old != new:
        yield NatChange("masquerade", tuple(sorted(new - old)), tuple(sorted(old - new)))
    if before.clamp_mss != after.clamp_mss:
        every = ("any",)
        yield NatChange("clamp_mss", every if after.clamp_mss else (), every if before.clamp_mss else ())


# As data and text


def as_data(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain data for JSON."""
    return {
        "host": comparison.host,
        "changes": [
            {
                "kind": one.kind,
                "hook": one.hook,
                "in_interface": one.in_interface,
                "out_interface": one.out_interface,
                "family": one.family,
                "protocol": one.protocol,
                "ports": list(one.ports),
                "service": one.service,
                "addresses": cidr_texts(one.family, one.addresses),
                "other_side": cidr_texts(one.family, one.fixed),
                "before": outcome_text(one.before),
                "after": outcome_text(one.after),
                "target": one.target,
                "example": one.example,
            }
            for one in comparison.every
        ],
        "blocklists": [
            {
                "name": one.name,
                "added": _size(one.added),
                "removed": _size(one.removed),
                "added_first": cidrs.texts(one.added)[:SHOWN],
                "removed_first": cidrs.texts(one.removed)[:SHOWN],
            }
            for one in comparison.lists
        ],
        "nat": [
            {"setting": one.setting, "added": list(one.added), "removed": list(one.removed)}
            for one in comparison.nat
        ],
    }


@dataclass(slots=True)
class Line:
    """Changes that a reader takes for one: the same addresses fare the same way on these interfaces."""

    change: Change
    services: list[str]
    ways: list[str]


def lines(comparison: Comparison) -> list[Line]:
    """The changes as a reader wants them: gained first, services and interfaces with the same change together."""
    by_service: dict[tuple[Any, ...], tuple[Change, list[str]]] = {}
    for one in comparison.every:
        texts = (one.target, outcome_text(one.before), outcome_text(one.after))
        key = (one.kind, one.hook, one.family, one.service, one.addresses, one.fixed, *texts)
        by_service.setdefault(key, (one, []))[1].append(_way(one))
    merged: dict[tuple[Any, ...], Line] = {}
    for key, (one, ways) in by_service.items():
        # Without its service; the other side matters only where it is not any.
        rest = (*key[:3], *key[4:], tuple(ways))
        line = merged.setdefault(rest, Line(one, [], ways))
        line.services.append(one.service)
        if one.protocol == "tcp" != line.change.protocol:
            # The example that readers know best.
            line.change = one
    for line in merged.values():
        named = [name for name in line.services if not name.startswith("protocol ")]
        others = ["other protocols"] if len(named) < len(line.services) else []
        whole = {"tcp", "udp", "sctp"} <= set(named) and bool(others)
        ports = [name for name in named if name not in ("tcp", "udp", "sctp") and "icmp" not in name]
        line.services = ["any", *ports] if whole else [*named, *others]
    weight = {"gained": 0, "lost": 1, "changed": 2}
    return sorted(
        merged.values(), key=lambda line: (weight[line.change.kind], line.change.hook, line.change.family)
    )


def as_text(comparison: Comparison) -> str:
    """The comparison for a terminal."""
    if not comparison:
        return f"{comparison.host}: no difference\n"
    found = [f"{comparison.host}:"]
    for line in lines(comparison):
        one = line.change
        found.append(f"  {one.kind:7} {', '.join(line.services)}: {_addresses(one)}")
        found.append(f"          {_where(line)}")
        found.append(f"          {outcome_text(one.before)} -> {outcome_text(one.after)}; e.g. {one.example}")
    for name, sign, addresses in _list_lines(comparison):
        found.append(f"  list {name}: {sign}{_size(addresses)} addresses: {_first(cidrs.texts(addresses))}")
    for setting, names, what in _nat_lines(comparison):
        found.append(f"  nat {setting}: {', '.join(names)}: {what}")
    return "\n".join(found) + "\n"


def as_markdown(comparison: Comparison) -> str:
    """The comparison for a review comment."""
    if not comparison:
        return f"### {_escape(comparison.host)}\n\nNo difference.\n"
    found = [f"### {_escape(comparison.host)}", ""]
    if comparison.every:
        found += [
            "| | service | addresses | where | before | after | example |",
            "|---|---|---|---|---|---|---|",
        ]
        for line in lines(comparison):
            one = line.change
            cells = (
                one.kind, ", ".join(line.services), _addresses(one), _where(line),
                outcome_text(one.before), outcome_text(one.after), one.example,
            )  # fmt: skip
            found.append("| " + " | ".join(_escape(cell) for cell in cells) + " |")
        found.append("")
    for name, sign, addresses in _list_lines(comparison):
        first = ", ".join(f"`{text}`" for text in cidrs.texts(addresses)[:SHOWN])
        found.append(f"- list `{name}`: {sign}{_size(addresses)} addresses ({first})")
    for setting, names, what in _nat_lines(comparison):
        found.append(f"- nat `{setting}`: {_escape(', '.join(names))}: {what}")
    return "\n".join(found).rstrip("\n") + "\n"


def _way(one: Change) -> str:
    return " to ".join(name for name in (one.in_interface, one.out_interface) if name)


def _where(line: Line) -> str:
    one = line.change
    onward = f", which leads to {one.target}" if one.target else ""
    return f"{one.hook} {one.family}{_on(line)}{onward}"


def _on(line: Line) -> str:
    ways = list(dict.fromkeys(line.ways))
    return f" on {', '.join(ways[:SHOWN])}" + (" and more" if len(ways) > SHOWN else "")


def _list_lines(comparison: Comparison) -> Iterable[tuple[str, str, Addresses]]:
    for one in comparison.lists:
        for sign, addresses in (("+", one.added), ("-", one.removed)):
            if not intervals.is_empty(addresses):
                yield one.name, sign, addresses


_NAT = {
    "masquerade": (
        "what is forwarded out there now leaves with this device's own IPv4 address",
        "what is forwarded out there now leaves with its sender's own IPv4 address",
    ),
    "clamp_mss": (
        "forwarded TCP now learns the MSS of the path from this device",
        "forwarded TCP no longer learns the MSS of the path from this device",
    ),
}


def _nat_lines(comparison: Comparison) -> Iterable[tuple[str, list[str], str]]:
    for one in comparison.nat:
        for sign, names, what in zip("+-", (one.added, one.removed), _NAT[one.setting], strict=True):
            if names:
                yield one.setting, [sign + name for name in names], what


def _addresses(one: Change) -> str:
    whom = "to" if one.hook == "outbound" else "from"
    text = f"{whom} {people_text(one.family, one.addresses)}"
    if one.fixed != flows.everything(one.family):
        text += f" {'from' if one.hook == 'outbound' else 'to'} {people_text(one.family, one.fixed)}"
    return text


def cidr_texts(family: Family, addresses: Intervals) -> list[str]:
    """Addresses of one family as CIDRs; ``any`` for all of them."""
    if addresses == flows.everything(family):
        return ["any"]
    return cidrs.texts(Addresses(addresses) if family == "ipv4" else Addresses((), addresses))


def people_text(family: Family, addresses: Intervals) -> str:
    """Addresses as a reader says it: ``any but 198.51.100.0/24`` where that is shorter."""
    texts = cidr_texts(family, addresses)
    every = flows.everything(family)
    without = cidr_texts(family, intervals.subtract(every, addresses)) if addresses != every else []
    if without and len(without) < len(texts):
        return f"any but {_first(without)}"
    return _first(texts)


def _first(texts: list[str]) -> str:
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more


def _size(addresses: Addresses) -> int:
    return intervals.count(family_of(addresses, "ipv4")) + intervals.count(family_of(addresses, "ipv6"))


_STEPS = {
    "default": "default",
    "ping": "defaults.ping",
    "spoofed": "anti-spoofing",
    "containers": "what holds for containers",
    "invalid": "connection tracking: no flow begins with it",
    "redirect": "what holds for redirects and neighbour discovery",
    "bridge": "being inside one bridge",
    "trap": "a trap",
}


def outcome_text(outcome: Outcome) -> str:
    """An outcome in words."""
    if outcome.step == "unpublished":
        return "not published"
    text = {"allow": "allowed", "deny": "dropped", "reject": "rejected"}[outcome.verdict]
    if outcome.step in ("rule", "blocklist"):
        text += f" by {'rule' if outcome.step == 'rule' else 'list'} `{outcome.name}`"
    elif outcome.step:
        text += f" by {_STEPS.get(outcome.step, outcome.step)}"
    if outcome.rate:
        text += f" at {rate_text(outcome.rate)}"
    if outcome.until:
        text += f" until {outcome.until.isoformat()}"
    return text + (", logged" if outcome.log else "")


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
