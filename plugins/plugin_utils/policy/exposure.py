# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a policy exposes: to one vantage point, port by port, or to everybody, by source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import TypedDict

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import cidrs, flows, intervals
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.judge import (
    ICMP,
    ICMPV6,
    SCTP,
    TCP,
    UDP,
    Outcome,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import (
    Family,
    Hook,
    HostPolicy,
    Interval,
    Intervals,
    Rate,
    ServiceSet,
)


class Exposed(TypedDict):
    """What passes from one vantage point. Ports and ICMP types as intervals."""

    tcp: Intervals
    udp: Intervals
    sctp: Intervals
    icmp: Intervals
    icmpv6: Intervals
    footnotes: list[str]
    rates: list[tuple[str, Intervals, Rate]]
    """Protocol, ports and the rate that admits them: what a scanner must stay below."""
    rejected: dict[str, Intervals]
    """Ports by protocol that are refused audibly: a scanner sees them closed, not filtered."""


PROTOCOL_NAMES = {TCP: "tcp", UDP: "udp", SCTP: "sctp", ICMP: "icmp", ICMPV6: "icmpv6"}


def for_vantage(
    policy: HostPolicy,
    address: str,
    interface: str = "",
    destination: str = "",
    on: date | None = None,
) -> Exposed:
    """What passes from ``address``, coming in by ``interface``, to ``destination``, an address of the device.

    Without an interface it is one that no policy names. Without a destination, a port counts that passes to any.
    Raises ``cidrs.NotACidr`` for what is no address.
    """
    family, source, last = cidrs.parse_one(address)
    if source != last:
        raise cidrs.NotACidr(address, "not-a-cidr", "is a network", "name one address of it")
    target: Intervals | None = None
    if destination:
        other, first, last = cidrs.parse_one(destination)
        if other != family or first != last:
            raise cidrs.NotACidr(
                destination, "not-a-cidr", f"is no {family} address", "name one of that family"
            )
        target = ((first, first),)
    name = interface or flows.interface_atoms([policy])[-1]
    model = flows.Model(policy, on)
    here = ((source, source),)
    passing: dict[int, list[Interval]] = {number: [] for number in PROTOCOL_NAMES}
    rejected: dict[int, list[Interval]] = {number: [] for number in PROTOCOL_NAMES}
    rated: dict[tuple[str, Rate], list[Interval]] = {}
    footnotes: dict[str, None] = {}
    for protocol in PROTOCOL_NAMES:
        if (protocol, family) in ((ICMP, "ipv6"), (ICMPV6, "ipv4")):
            continue
        targets = [target] if target else flows.fixed_classes([policy], "inbound", family, protocol)
        for ports in flows.port_classes([policy], "inbound", family, protocol):
            results = [
                model.outcomes(flows.FlowClass("inbound", name, "", family, protocol, ports, fixed), here)[0][
                    0
                ]
                for fixed in targets
            ]
            allowed = [one for one in results if one.verdict == "allow"]
            if not allowed:
                if any(one.verdict == "reject" for one in results):
                    rejected[protocol].append(ports)
                continue
            passing[protocol].append(ports)
            for one in allowed:
                _note(one, PROTOCOL_NAMES[protocol], ports, rated, footnotes)
            if len(allowed) < len(results):
                footnotes[
                    f"{PROTOCOL_NAMES[protocol]} {span(ports)} passes to some of the device's addresses only"
                ] = None
    if policy.traps:
        footnotes["traps: a port that is not admitted may ban the caller"] = None
    return Exposed(
        tcp=intervals.merge(passing[TCP]),
        udp=intervals.merge(passing[UDP]),
        sctp=intervals.merge(passing[SCTP]),
        icmp=intervals.merge(passing[ICMP]),
        icmpv6=intervals.merge(passing[ICMPV6]),
        footnotes=list(footnotes),
        rates=[(protocol, intervals.merge(spans), rate) for (protocol, rate), spans in rated.items()],
        rejected={
            PROTOCOL_NAMES[number]: intervals.merge(spans) for number, spans in rejected.items() if spans
        },
    )


def _note(
    outcome: Outcome,
    protocol: str,
    ports: Interval,
    rated: dict[tuple[str, Rate], list[Interval]],
    footnotes: dict[str, None],
) -> None:
    if outcome.rate:
        rated.setdefault((protocol, outcome.rate), []).append(ports)
        whose = f"rule `{outcome.name}`: at most {rate_text(outcome.rate)} a source"
        in_all = f"ping: at most {rate_text(outcome.rate)} in all"
        footnotes[whose if outcome.step == "rule" else in_all] = None
    if outcome.until:
        footnotes[f"rule `{outcome.name}`: until {outcome.until.isoformat()}"] = None


def span(ports: Interval) -> str:
    """A port or a range as text."""
    return str(ports[0]) if ports[0] == ports[1] else f"{ports[0]}-{ports[1]}"


def rate_text(rate: Rate) -> str:
    """A rate as a policy writes it."""
    unit = {1: "second", 60: "minute", 3600: "hour", 86400: "day"}[rate.seconds]
    return f"{rate.count}/{unit}" + (f" burst {rate.burst}" if rate.burst != 5 else "")


@dataclass(frozen=True, slots=True)
class Opening:
    """Sources that reach one service by one interface."""

    hook: str
    interface: str
    family: Family
    protocol: str
    ports: Interval
    service: str
    sources: Intervals
    to: Intervals
    rate: Rate | None
    until: date | None
    by: str
    """The rule's name, ``ping`` or ``default``."""
    target: str = ""
    """Where a published port of ours leads: address and port."""


def openings(
    policy: HostPolicy,
    services: Mapping[str, ServiceSet],
    present: Iterable[str] = (),
    on: date | None = None,
) -> list[Opening]:
    """Everything that may reach the device or what it publishes, without what is essential to the network."""
    found: list[Opening] = []
    model = flows.Model(policy, on)
    present = list(present)
    hooks: tuple[Hook, ...] = ("inbound", "published") if flows.engines_publish([policy]) else ("inbound",)
    every: list[tuple[flows.FlowClass, str, list[flows.Part]]] = [
        (flow, "", model.outcomes(flow)) for flow in flows.flow_classes([policy], hooks, present)
    ]
    for (flow, (address, port)), parts in flows.translations(model, [policy], present).items():
        host = cidrs.address_text(flow.family, address)
        every.append((flow, f"{host}:{port}" if flow.family == "ipv4" else f"[{host}]:{port}", parts))
    for flow, target, parts in every:
        # Who is led elsewhere does not reach this device's own port.
        led = model.led_away(flow) if flow.hook == "inbound" else ()
        for outcome, found_addresses in parts:
            addresses = intervals.subtract(found_addresses, led) if led else found_addresses
            if not addresses:
                continue
            if outcome.verdict != "allow" or outcome.step in (
                "essential",
                "loopback",
                "bridge",
                "containers",
            ):
                continue
            found.append(
                Opening(
                    flow.hook,
                    flow.in_interface,
                    flow.family,
                    PROTOCOL_NAMES.get(flow.protocol, str(flow.protocol)),
                    flow.ports,
                    label(services, flow.family, flow.protocol, flow.ports),
                    addresses,
                    flow.fixed,
                    outcome.rate,
                    outcome.until,
                    f"`{outcome.name}`" if outcome.step == "rule" else outcome.step,
                    target,
                )
            )
    return found


def label(services: Mapping[str, ServiceSet], family: Family, protocol: int, ports: Interval) -> str:
    """What the policy calls these ports: the narrowest service that holds them, else the ports themselves."""
    best, size = "", 1 << 20
    for name, service in services.items():
        held = flows.service_ports(service, family, protocol)
        if intervals.contains(held, (ports,)) and intervals.count(held) < size:
            best, size = name, intervals.count(held)
    whole = flows.whole_of(family, protocol)[0]
    if best and size < intervals.count((whole,)):
        return best
    protocol_name = PROTOCOL_NAMES.get(protocol, f"protocol {protocol}")
    return protocol_name if ports == whole else f"{protocol_name}/{span(ports)}"
