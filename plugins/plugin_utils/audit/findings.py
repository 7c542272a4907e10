# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What an audit finds: the one shape of a finding, merging equal ones, and waivers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from fnmatch import fnmatchcase
from typing import Any, Literal

from ansible_collections.sallyport.iot.plugins.module_utils.ports import format_ports, parse_ports

Weight = Literal["difference", "not_assessed", "note"]
"""A difference contradicts the policy; not_assessed could not be judged (and so is not green); a note is neither."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding about one device."""

    kind: str
    control: str
    """Id in docs/controls.yml."""
    weight: Weight
    message: str
    remedy: str
    protocol: str = ""
    ports: str = ""
    """As ``1-21,23``."""
    seen_from: tuple[str, ...] = ()
    """``vantage family`` pairs, such as ``wan ipv4``."""
    waiver: Mapping[str, str] = field(default_factory=dict)
    """The reason and the last day of the waiver that covers it; empty without one."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "seen_from": list(self.seen_from)}


ONE_HOLE = frozenset({"let_through"})
"""Kinds whose ports differ a little by vantage (a device limits its own refusals) and still are one finding."""


def merge(findings: Iterable[Finding]) -> list[Finding]:
    """One finding for what several vantages saw alike, in the order of first appearance."""
    merged: dict[tuple[str, ...], Finding] = {}
    for finding in findings:
        ports = "" if finding.kind in ONE_HOLE else finding.ports
        key = (finding.kind, finding.control, finding.protocol, ports, finding.message)
        before = merged.get(key)
        if before is None:
            merged[key] = finding
        else:
            seen = before.seen_from + tuple(s for s in finding.seen_from if s not in before.seen_from)
            both = format_ports(parse_ports(before.ports) | parse_ports(finding.ports))
            merged[key] = replace(before, seen_from=seen, ports=both)
    return list(merged.values())


class WaiverError(ValueError):
    """A waiver that is not understood; the message says which and why."""


def read_waivers(raw: Any) -> list[dict[str, Any]]:
    """Check a site's ``audit_waivers``. Raises WaiverError.

    Each has ``control`` and ``reason`` and ``until`` (the last day it holds), and may have ``kind``, ``protocol``,
    ``ports`` and ``from`` (``wan``, ``wan ipv6``, with ``*``) to cover no more than it must.
    """
    if not isinstance(raw, Sequence) or isinstance(raw, str):
        raise WaiverError(f"audit_waivers must be a list, got {type(raw).__name__}")
    known = {"control", "reason", "until", "kind", "protocol", "ports", "from"}
    waivers = []
    for position, entry in enumerate(raw):
        where = f"audit_waivers[{position}]"
        if not isinstance(entry, Mapping):
            raise WaiverError(f"{where} must be a dictionary, got {type(entry).__name__}")
        if unknown := set(entry) - known:
            raise WaiverError(
                f"{where} has the unknown key {min(unknown)!r}; known are {', '.join(sorted(known))}"
            )
        for key in ("control", "reason", "until"):
            if not str(entry.get(key, "")).strip():
                raise WaiverError(f"{where} has no '{key}': a waiver says which control, why, and until when")
        try:
            until = date.fromisoformat(str(entry["until"]))
            parse_ports(str(entry.get("ports", "")))
        except ValueError as error:
            raise WaiverError(
                f"{where}: {error}; 'until' is a date such as 2027-01-31, 'ports' such as 80,8000-8010"
            ) from None
        waivers.append({**entry, "until": until})
    return waivers


def waive(findings: Iterable[Finding], waivers: Sequence[Mapping[str, Any]], today: date) -> list[Finding]:
    """Mark what a waiver covers that has not expired, and note those that expired or cover nothing."""
    used: set[int] = set()
    result = []
    for finding in findings:
        covering = [position for position, waiver in enumerate(waivers) if _covers(waiver, finding)]
        used.update(covering)
        valid = [waivers[position] for position in covering if waivers[position]["until"] >= today]
        if valid:
            terms = {"reason": str(valid[0]["reason"]), "until": valid[0]["until"].isoformat()}
            result.append(replace(finding, waiver=terms))
        else:
            result.append(finding)
    for position, waiver in enumerate(waivers):
        expired = waiver["until"] < today
        if expired or position not in used:
            what = f"expired on {waiver['until']}" if expired else "covers nothing that was found"
            result.append(
                Finding(
                    kind="idle_waiver",
                    control=str(waiver["control"]),
                    weight="note",
                    message=f"the waiver '{waiver['reason']}' for {waiver['control']} {what}",
                    remedy="remove it from audit_waivers, or renew it with a new reason and date",
                )
            )
    return result


def _covers(waiver: Mapping[str, Any], finding: Finding) -> bool:
    """Whether the waiver speaks of all of this finding; one that covers some of its ports covers none."""
    if not fnmatchcase(finding.control, str(waiver["control"])):
        return False
    if not fnmatchcase(finding.kind, str(waiver.get("kind", "*"))):
        return False
    if waiver.get("protocol", finding.protocol) != finding.protocol:
        return False
    ports = parse_ports(str(waiver.get("ports", "")))
    if ports and not (finding.ports and parse_ports(finding.ports) <= ports):
        return False
    source = str(waiver.get("from", "*"))
    return source == "*" or all(
        fnmatchcase(seen, source) or fnmatchcase(seen.partition(" ")[0], source) for seen in finding.seen_from
    )


def verdict(findings: Iterable[Finding]) -> str:
    """``differences``, ``not assessed`` or ``pass``, of what no waiver covers."""
    weights = {finding.weight for finding in findings if not finding.waiver}
    if "difference" in weights:
        return "differences"
    return "not assessed" if "not_assessed" in weights else "pass"


def from_dict(raw: Mapping[str, Any]) -> Finding:
    """The finding that ``as_dict`` wrote."""
    return Finding(**{**raw, "seen_from": tuple(raw["seen_from"])})
