# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Answer "what happens to this connection, and why": the verdict, the step and line that decide, and the way there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Literal

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import cidrs, flows
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.compare import outcome_text
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.judge import (
    ICMP,
    ICMPV6,
    SCTP,
    TCP,
    UDP,
    Outcome,
    Packet,
    endpoint_matches,
    judge,
    led_away,
    rule_matches,
    service_matches,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.language import nearest
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import (
    Endpoint,
    Family,
    HostPolicy,
    Rule,
    ServiceSet,
)

_NUMBERS = {"tcp": TCP, "udp": UDP, "sctp": SCTP, "icmp": ICMP, "icmpv6": ICMPV6}


class BadQuestion(ValueError):
    """The question cannot be understood; the text says what was expected."""


@dataclass(frozen=True, slots=True)
class Question:
    """One connection attempt. Empty interfaces mean: say it for each one that makes a difference."""

    source: str
    service: str
    destination: str = ""
    interface: str = ""
    out_interface: str = ""
    hook: Literal["inbound", "outbound", "forward"] = "inbound"
    published_port: int = 0
    """For a translated destination (hook forward): the original port; ``destination`` is the original address."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What happens to one packet of the question on these interfaces."""

    packet: Packet
    interfaces: tuple[str, ...]
    outcome: Outcome
    rule: Rule | None
    passed_over: tuple[tuple[Rule, str], ...]
    """The rules before the one that decided, and why each did not match."""
    zones: tuple[str, ...]
    """The zones that hold the source, where it comes in."""


def ask(
    policy: HostPolicy,
    services: Mapping[str, ServiceSet],
    zones: Mapping[str, Endpoint],
    question: Question,
    on: date | None = None,
) -> list[Answer]:
    """Answer ``question``: one answer for each port group and interface that fares differently.

    Raises ``BadQuestion``.
    """
    family, source = _address(question.source, "from")
    destination = 0
    if question.destination:
        other, destination = _address(question.destination, "to")
        if other != family:
            raise BadQuestion(f"`from` is {family} and `to` is {other}; name two addresses of one family")
    answers: list[Answer] = []
    for protocol, port in _ports(question.service, services, family):
        grouped: dict[tuple[Outcome, str, str, int, int], tuple[Packet, list[str]]] = {}
        for into, out in _interfaces(policy, question):
            packet = Packet(
                hook=question.hook,
                family=family,
                source=source,
                destination=destination,
                protocol=protocol,
                port=port,
                source_port=40000,
                in_interface=into,
                out_interface=out,
                # A new neighbour discovery packet is one from this link.
                hop_limit=255,
            )
            if question.published_port:
                packet = replace(
                    packet, original_destination=destination, original_port=question.published_port
                )
            else:
                packet = _led(policy, packet)
            outcome = judge(policy, packet, on)
            key = (outcome, outcome.step, outcome.name, packet.destination, packet.port)
            grouped.setdefault(key, (packet, []))[1].append(" to ".join(name for name in (into, out) if name))
        for (outcome, *_rest), (packet, names) in grouped.items():
            answers.append(_answer(policy, zones, packet, tuple(names), outcome, on))
    return answers


def _led(policy: HostPolicy, packet: Packet) -> Packet:
    """The packet as a published port of ours leads it on, where one does."""
    publish = led_away(policy, packet) if packet.hook == "inbound" else None
    if publish is None:
        return packet
    led = replace(
        packet,
        destination=publish.to_address,
        port=publish.to_port,
        original_destination=packet.destination,
        original_port=packet.port,
    )
    if flows.leads_here(policy, publish):
        return led
    return replace(led, hook="forward", out_interface=flows.OTHER)


def _leads_to(packet: Packet) -> str:
    if packet.original_destination is None or (packet.hook, packet.out_interface) not in (
        ("forward", flows.OTHER),
        ("inbound", ""),
    ):
        return ""
    host = cidrs.address_text(packet.family, packet.destination)
    return f"{host}:{packet.port}" if packet.family == "ipv4" else f"[{host}]:{packet.port}"


def _port(packet: Packet) -> int:
    """The port that was asked for."""
    return packet.port if packet.original_destination is None else packet.original_port


def _answer(
    policy: HostPolicy,
    zones: Mapping[str, Endpoint],
    packet: Packet,
    names: tuple[str, ...],
    outcome: Outcome,
    on: date | None,
) -> Answer:
    rules = policy.outbound if packet.hook == "outbound" else policy.inbound
    target, port = packet.destination, packet.port
    if packet.hook == "forward" and packet.original_destination is None:
        rules = policy.forward
        if (
            packet.in_interface in policy.container_bridges
            and packet.out_interface not in policy.container_bridges
        ):
            rules = policy.outbound
    elif packet.original_destination is not None:
        target, port = packet.original_destination, packet.original_port
    decided = None
    passed: list[tuple[Rule, str]] = []
    if outcome.step in ("rule", "trap", "ping", "default"):
        for rule in rules:
            if on is not None and rule.until is not None and rule.until < on:
                passed.append((rule, f"it ended on {rule.until}"))
            elif rule_matches(rule, policy, packet, target, port):
                decided = rule
                break
            else:
                passed.append((rule, _why_not(rule, packet, target, port)))
    held = tuple(
        name
        for name, zone in zones.items()
        if endpoint_matches(zone, packet.family, packet.source, packet.in_interface)
    )
    return Answer(packet, names, outcome, decided, tuple(passed), held)


def _why_not(rule: Rule, packet: Packet, target: int, port: int) -> str:
    if not service_matches(rule.services, packet.family, packet.protocol, port):
        return "another service"
    if not any(
        endpoint_matches(one, packet.family, packet.source, packet.in_interface) for one in rule.sources
    ):
        anywhere = any(
            endpoint_matches(Endpoint(one.addresses), packet.family, packet.source, "")
            for one in rule.sources
        )
        return "the source counts on other interfaces" if anywhere else "another source"
    if not any(
        endpoint_matches(one, packet.family, target, packet.out_interface) for one in rule.destinations
    ):
        return "another destination"
    return "it does not name the container's address"


def _address(text: str, key: str) -> tuple[Family, int]:
    try:
        family, first, last = cidrs.parse_one(text)
    except cidrs.NotACidr as problem:
        raise BadQuestion(f"`{key}`: {problem}") from None
    if first != last:
        raise BadQuestion(f"`{key}` is a network, {text}; ask about one address of it")
    return family, first


def _interfaces(policy: HostPolicy, question: Question) -> list[tuple[str, str]]:
    atoms = flows.interface_atoms([policy])
    ins = [question.interface] if question.interface else atoms
    outs = [question.out_interface] if question.out_interface else atoms
    if question.hook == "inbound":
        return [(name, "") for name in ins]
    if question.hook == "outbound":
        return [("", name) for name in outs]
    return [(into, out) for into in ins for out in outs]


def _ports(text: str, services: Mapping[str, ServiceSet], family: Family) -> list[tuple[int, int]]:
    """What to ask about: ``tcp/22``, ``icmp/8``, ``protocol/50`` or a service, of which each range's ends count."""
    match = re.fullmatch(r"(tcp|udp|sctp|icmp|icmpv6|protocol)/([0-9]{1,5})", text, re.ASCII)
    if match:
        number = int(match[2])
        if match[1] == "protocol":
            if number > 255:
                raise BadQuestion(f"protocol {number} is above 255")
            return [(number, 0)]
        highest = 255 if match[1].startswith("icmp") else 65535
        if number > highest:
            raise BadQuestion(f"{text}: the number is above {highest}")
        return [(_NUMBERS[match[1]], number)]
    service = services.get(text)
    if service is None:
        near = nearest(text, tuple(services))
        raise BadQuestion(f"`service` is neither one that the policy knows nor like tcp/22: `{text}`; {near}")
    found: list[tuple[int, int]] = []
    for number in range(256):
        for low, high in flows.service_ports(service, family, number):
            found += [(number, port) for port in sorted({low, high})]
    if not found:
        raise BadQuestion(f"service `{text}` has nothing for {family}")
    return found


def as_data(answers: list[Answer]) -> list[dict[str, Any]]:
    """Answers as plain data for JSON."""
    return [
        {
            "interfaces": list(one.interfaces),
            "protocol": one.packet.protocol,
            "port": _port(one.packet),
            "leads_to": _leads_to(one.packet),
            "verdict": one.outcome.verdict,
            "step": one.outcome.step,
            "name": one.outcome.name,
            "where": _place(one.rule) if one.rule else "",
            "text": outcome_text(one.outcome),
            "source_zones": list(one.zones),
            "passed_over": [
                {"rule": rule.name, "where": _place(rule), "why": why} for rule, why in one.passed_over
            ],
        }
        for one in answers
    ]


def as_text(question: Question, answers: list[Answer]) -> str:
    """Answers for a terminal."""
    target = f" to {question.destination}" if question.destination else ""
    lines = [f"{question.hook} {question.service} from {question.source}{target}"]
    for one in answers:
        where = f" ({_place(one.rule)})" if one.rule else ""
        names = {number: name for name, number in _NUMBERS.items()}
        what = f"{names.get(one.packet.protocol, f'protocol {one.packet.protocol}')}/{_port(one.packet)}"
        lines.append(f"  {what} on {', '.join(one.interfaces)}: {outcome_text(one.outcome)}{where}")
        if _leads_to(one.packet):
            lines.append(f"    a published port: it leads to {_leads_to(one.packet)}")
        lines.append(f"    the source lies in {', '.join(one.zones) or 'no zone'}")
        lines += [f"    not by `{rule.name}` ({_place(rule)}): {why}" for rule, why in one.passed_over]
    return "\n".join(lines) + "\n"


def _place(rule: Rule) -> str:
    return f"{rule.where.source}:{rule.where.line}" if rule.where.line else rule.where.source
