# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Findings, exposure and resolved policies as text, plain data and Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import cidrs
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.compare import cidr_texts, people_text
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.exposure import (
    Exposed,
    Opening,
    rate_text,
    span,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.load import Resolved
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import (
    Endpoint,
    Finding,
    Intervals,
    Rule,
    ServiceSet,
)

_SHOWN = 6


def place(one: Finding) -> str:
    """Where a finding was written."""
    if not one.where.source:
        return "policy"
    return f"{one.where.source}:{one.where.line}" if one.where.line else one.where.source


def finding_text(one: Finding) -> str:
    """A finding on one line: place, severity and id, what is wrong, what to do, whom it concerns."""
    whom = ", ".join(one.hosts[:5]) + (" and more" if len(one.hosts) > 5 else "")
    return f"{place(one)}: {one.severity} {one.id}: {one.message}; {one.remedy}" + (
        f" [{whom}]" if whom else ""
    )


def warnings(findings: Iterable[Finding]) -> list[str]:
    """Warnings as Ansible shows them in any run. Without hosts, so that what many have is said once."""
    return [finding_text(replace(one, hosts=())) for one in findings if one.severity == "warning"]


def finding_data(one: Finding) -> dict[str, Any]:
    """A finding as plain data."""
    return {
        "id": one.id,
        "severity": one.severity,
        "message": one.message,
        "remedy": one.remedy,
        "source": one.where.source,
        "line": one.where.line,
        "text": one.where.text,
        "hosts": list(one.hosts),
    }


def findings_markdown(findings: Sequence[Finding]) -> str:
    """Findings as a table for a review comment."""
    if not findings:
        return "No findings.\n"
    lines = ["| | id | where | what | remedy |", "|---|---|---|---|---|"]
    for one in findings:
        cells = (one.severity, one.id, place(one), one.message, one.remedy)
        lines.append(
            "| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |"
        )
    return "\n".join(lines) + "\n"


def spans_text(ports: Intervals) -> list[str]:
    """Ports as text, ranges as ``first-last``."""
    return [span(one) for one in ports]


def exposed_data(exposed: Exposed) -> dict[str, Any]:
    """What one vantage point reaches, as plain data."""
    return {
        **{key: spans_text(exposed[key]) for key in ("tcp", "udp", "sctp", "icmp", "icmpv6")},
        "footnotes": list(exposed["footnotes"]),
        "rates": [
            {"protocol": protocol, "ports": spans_text(ports), "rate": rate_text(rate)}
            for protocol, ports, rate in exposed["rates"]
        ],
        "rejected": {protocol: spans_text(ports) for protocol, ports in exposed["rejected"].items()},
    }


def exposed_text(host: str, source: str, data: Mapping[str, Any]) -> str:
    """``exposed_data`` for a terminal."""
    lines = [f"{host}, from {source}:"]
    for key in ("tcp", "udp", "sctp", "icmp", "icmpv6"):
        if data[key]:
            lines.append(f"  {key:7} {', '.join(data[key])}")
    if len(lines) == 1:
        lines.append("  nothing passes")
    return "\n".join([*lines, *(f"  note: {note}" for note in data["footnotes"])]) + "\n"


def opening_data(openings: Iterable[Opening]) -> list[dict[str, Any]]:
    """Everything that is exposed, as plain data; interfaces with the same answer share an entry."""
    merged: dict[tuple[Any, ...], list[str]] = {}
    for one in openings:
        key = (
            one.hook, one.family, one.protocol, one.ports, one.service, one.sources, one.to, one.rate, one.until, one.by,
            one.target,
        )  # fmt: skip
        merged.setdefault(key, []).append(one.interface)
    return [
        {
            "hook": hook,
            "interfaces": names,
            "family": family,
            "protocol": protocol,
            "ports": span(ports),
            "service": service,
            "who": people_text(family, sources),
            "sources": cidr_texts(family, sources),
            "to": cidr_texts(family, to),
            "rate": rate_text(rate) if rate else "",
            "until": until.isoformat() if until else "",
            "by": by,
            "target": target,
        }
        for (
            hook,
            family,
            protocol,
            ports,
            service,
            sources,
            to,
            rate,
            until,
            by,
            target,
        ), names in merged.items()
    ]


def openings_text(host: str, entries: Sequence[Mapping[str, Any]]) -> str:
    """``opening_data`` for a terminal."""
    lines = [f"{host}:" if entries else f"{host}: nothing is exposed"]
    for one in entries:
        notes = [f"at {one['rate']}"] if one["rate"] else []
        notes += [f"until {one['until']}"] if one["until"] else []
        notes += [f"to {', '.join(one['to'][:_SHOWN])}"] if one["to"] != ["any"] else []
        notes += [f"leads to {one['target']}"] if one["target"] else []
        lines.append(
            f"  {one['service']:14} {one['protocol'] + '/' + one['ports']:16} {one['family']}"
            f" {'published ' if one['hook'] == 'published' else ''}by {one['by']}"
            f" on {', '.join(one['interfaces'])}: {one['who']}" + (f" ({', '.join(notes)})" if notes else "")
        )
    return "\n".join(lines) + "\n"


def openings_markdown(host: str, entries: Sequence[Mapping[str, Any]]) -> str:
    """``opening_data`` as a table."""
    head = [
        f"### {host}",
        "",
        "| service | port | family | interfaces | sources | by |",
        "|---|---|---|---|---|---|",
    ]
    for one in entries:
        cells = (
            one["service"], f"{one['protocol']}/{one['ports']}", one["family"], ", ".join(one["interfaces"]),
            one["who"], one["by"] + (f", leads to {one['target']}" if one["target"] else ""),
        )  # fmt: skip
        head.append("| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |")
    return "\n".join(head) + "\n"


def resolved_data(found: Resolved) -> dict[str, Any]:
    """A resolved policy as plain data."""
    policy = found.tentative
    return {
        "host": found.host,
        "zones": {name: _endpoint(zone) for name, zone in found.zones.items()},
        "services": {name: _services(service) for name, service in found.services.items()},
        "inbound": [_rule(rule) for rule in policy.inbound],
        "outbound": [_rule(rule) for rule in policy.outbound],
        "forward": [_rule(rule) for rule in policy.forward],
        "defaults": {
            "inbound": policy.defaults.inbound,
            "outbound": policy.defaults.outbound,
            "forward": policy.defaults.forward,
        },
        "protected": cidrs.texts(policy.protected),
    }


def _endpoint(end: Endpoint) -> dict[str, Any]:
    return {"cidrs": cidrs.texts(end.addresses), "interfaces": list(end.interfaces)}


def _services(services: ServiceSet) -> dict[str, Any]:
    kinds = ("tcp", "udp", "sctp", "icmp", "icmpv6", "protocols")
    found: dict[str, Any] = {
        kind: spans_text(getattr(services, kind)) for kind in kinds if getattr(services, kind)
    }
    return {"any": True} if services.any else found


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "name": rule.name,
        "verdict": rule.verdict,
        "services": list(rule.services.names),
        "from": [end.zone or _endpoint(end) for end in rule.sources],
        "to": [end.zone or _endpoint(end) for end in rule.destinations],
        "rate": rate_text(rule.rate) if rule.rate else "",
        "until": rule.until.isoformat() if rule.until else "",
        "where": f"{rule.where.source}:{rule.where.line}" if rule.where.line else rule.where.source,
    }
