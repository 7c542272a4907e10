# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a vantage saw of a device, against what the policy says it may see. Pure.

Every port falls into one of these, so that nothing can be off without being a difference:

==================  =============================  =====================================================
the scan saw        the policy admits it           the policy does not
==================  =============================  =====================================================
open                fine, if the listener is known  difference: exposed
closed (refused)    fine, if nothing listens       difference: let through (unless the policy rejects)
filtered (silence)  difference: a rule is lost or   fine
                    another firewall says no
no result           not assessed                   not assessed
==================  =============================  =====================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.sallyport.iot.plugins.module_utils.ports import format_ports, parse_ports
from ansible_collections.sallyport.iot.plugins.plugin_utils.audit.findings import Finding, Weight
from ansible_collections.sallyport.iot.plugins.plugin_utils.audit.listeners import (
    local_only,
    objection,
    on_port,
    serves,
)

EXPOSURE, LISTENERS, TELNET, LOGINS = "net-exposure", "net-listeners", "no-telnet", "no-default-logins"
PASSWORDS, FIREWALL = "no-default-passwords", "firewall-state"


@dataclass(frozen=True, slots=True)
class Allowed:
    """What the policy lets one vantage reach, by protocol (``tcp``, ``udp``)."""

    admitted: Mapping[str, frozenset[int]]
    rejected: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """Ports that the policy refuses with an answer instead of with silence."""
    published: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """Ports that are translated to another host: what listens there is not visible on the device."""
    services: Mapping[tuple[str, int], tuple[str, ...]] = field(default_factory=dict)
    """The names by which the policy admits a (protocol, port)."""


@dataclass(frozen=True, slots=True)
class Device:
    """What is known about the device itself. ``listening`` is None where probe did not reach it."""

    listening: Sequence[Mapping[str, Any]] | None
    init: str = "unknown"
    declared: Sequence[Mapping[str, Any]] = ()


def compare(allowed: Allowed | None, device: Device, seen: Mapping[str, Any], where: str) -> list[Finding]:
    """Judge one family of one device as one vantage saw it.

    ``seen`` is one entry of ``families`` of ``sallyport.iot.scan``, ``where`` is ``vantage family``. Without
    ``allowed`` (the policy could not be read) only what needs no policy is judged.
    """
    findings = _quality(seen, where)
    if allowed is not None:
        for protocol in ("tcp", "udp"):
            findings += _ports(allowed, device, protocol, seen, where)
    return findings + _greetings(seen, where)


def _quality(seen: Mapping[str, Any], where: str) -> list[Finding]:
    """How far the scan itself can be believed."""
    findings = []
    if seen["error"]:
        findings.append(
            Finding(
                "scan_incomplete",
                EXPOSURE,
                "not_assessed",
                f"the scan is incomplete: {seen['error']}",
                "raise audit_budget, lower audit_rate, or look at the path between the vantage and the device",
                seen_from=(where,),
            )
        )
    for protocol in ("tcp", "udp"):
        missing = parse_ports(seen[protocol]["unknown"])
        if missing and not seen["error"]:
            findings.append(
                Finding(
                    "no_result",
                    EXPOSURE,
                    "not_assessed",
                    f"{len(missing)} {protocol} ports have no result",
                    "run the audit again",
                    protocol,
                    format_ports(missing),
                    (where,),
                )
            )
    return findings


def _ports(
    allowed: Allowed, device: Device, protocol: str, seen: Mapping[str, Any], where: str
) -> list[Finding]:
    """The table in this module's first lines, for one protocol."""
    admitted = allowed.admitted.get(protocol, frozenset())
    states = {state: parse_ports(text) for state, text in seen[protocol].items()}
    answered = states["closed"] - admitted - allowed.rejected.get(protocol, frozenset())
    findings = []

    def report(kind: str, ports: set[int], message: str, remedy: str, control: str = EXPOSURE) -> None:
        if ports:
            text = format_ports(ports)
            findings.append(Finding(kind, control, "difference", message, remedy, protocol, text, (where,)))

    report(
        "exposed",
        states["open"] - admitted,
        "answers, and the policy does not admit it",
        "run harden.yml; if it is meant to be reached, admit it in the policy",
    )
    report(
        "let_through",
        answered,
        "nothing listens, but packets arrive at the device though the policy drops them",
        "run harden.yml: the firewall is not in force for these ports",
    )
    report(
        "lost",
        states["filtered"] & admitted,
        "the policy admits it, but nothing comes through",
        "run harden.yml; if it stays, another firewall on the device or on the way drops it",
    )
    if device.listening is None:
        return findings
    listening = [entry for entry in device.listening if not local_only(str(entry["address"]))]
    published = allowed.published.get(protocol, frozenset())
    hidden = {
        port
        for port in (states["open"] & admitted) - published
        if not on_port(listening, protocol, port, seen["address"])
    }
    report(
        "hidden_listener",
        hidden,
        "answers, but the device's own listing shows nothing there",
        "look for a listener that started after the probe or that hides itself, and for a translation on the way",
        LISTENERS,
    )
    served = {
        int(entry["port"])
        for entry in listening
        if entry["protocol"] == protocol and serves(entry, seen["address"])
    }
    report(
        "refused",
        states["closed"] & admitted & served,
        "the policy admits it and something listens, but the connection is refused",
        "look for a foreign rule that rejects it (nft list ruleset, iptables-save), then run harden.yml",
    )
    for entry in listening:
        port = int(entry["port"])
        if (
            entry["protocol"] != protocol
            or port not in admitted
            or not on_port([entry], protocol, port, seen["address"])
        ):
            continue
        why = objection(entry, allowed.services.get((protocol, port), ()), device.declared, device.init)
        if why:
            process = str(entry.get("process") or "unknown program")
            report(
                "undeclared_listener",
                {port},
                f"{process} (pid {entry.get('pid') or '?'}) listens where the policy lets packets in: {why}",
                f'stop it, or declare it: audit_listeners: [{{process: {process}, {protocol}: "{port}"}}]',
                LISTENERS,
            )
    return findings


def _greetings(seen: Mapping[str, Any], where: str) -> list[Finding]:
    """A telnet login on any open port, whatever the policy says about it."""
    findings = []
    for port, heard in seen["greetings"].items():
        weight: Weight = "difference" if heard["kind"] == "telnet" else "not_assessed"
        if heard["kind"] == "telnet":
            message, remedy = (
                "greets like a telnet login",
                "run harden.yml: role legacy_services stops it for good",
            )
        elif heard["kind"] in ("dropped", "unknown"):
            message = f"opened, but could not be listened to: {heard['text'] or 'no time was left'}"
            remedy = "run the audit again, with a larger audit_budget"
        else:
            continue
        findings.append(Finding("telnet", TELNET, weight, message, remedy, "tcp", str(port), (where,)))
    return findings


def judge_logins(trials: Sequence[Mapping[str, Any]], where: str) -> list[Finding]:
    """What the default logins achieved. ``trials`` is ``services`` of ``sallyport.iot.try_logins``."""
    findings = []
    for trial in trials:
        port = str(trial["port"])
        family = "ipv6" if ":" in trial["address"] else "ipv4"
        place = (f"{where} {family}",)
        if trial["accepted"]:
            names = "', '".join(trial["accepted"])
            findings.append(
                Finding(
                    "default_login",
                    LOGINS,
                    "difference",
                    f"{trial['kind']} lets '{names}' in with a known default password",
                    "run harden.yml: roles credentials and ssh replace it and close password login",
                    "tcp",
                    port,
                    place,
                )
            )
        elif trial["not_assessed"]:
            findings.append(
                Finding(
                    "logins_not_assessed",
                    LOGINS,
                    "not_assessed",
                    f"{trial['not_assessed']} default logins over {trial['kind']} got no clear answer: {trial['reason']}",
                    "run the audit again later, with a larger audit_budget; a dropped connection proves nothing",
                    "tcp",
                    port,
                    place,
                )
            )
    return findings


def judge_firewall(result: Mapping[str, Any]) -> list[Finding]:
    """What the firewall role, in check mode, would change. ``result`` is empty or skipped where it was not asked."""
    if result.get("skipped") or not result:
        return []
    if result.get("failed") or result.get("unreachable") or "state" not in result:
        why = str(result.get("msg", "no answer")).strip()
        return [
            Finding(
                "firewall_not_assessed",
                FIREWALL,
                "not_assessed",
                f"the rules in force could not be compared: {why}",
                "run harden.yml --tags firewall --check and mend what it says",
            )
        ]
    window = result.get("boot_window") or {}
    notes = []
    if window.get("seconds") or not window.get("measured", True):
        remedy = "measure it: boot the device with its rules, and run the audit again"
        if window["seconds"]:
            remedy = "let init bring the network up, behind Sallyport's rules, where the device allows that"
        notes.append(Finding("boot_window", FIREWALL, "note", str(window["text"]), remedy))
    what = [str(entry["dest"]) for entry in result.get("files", ()) if entry["change"] != "none"]
    what += [] if result.get("live", "same") == "same" else ["the live rules"]
    if result["state"] == "unchanged":
        return notes
    return [
        *notes,
        Finding(
            "drift",
            FIREWALL,
            "difference",
            f"not what the policy compiles to: {', '.join(what) or 'the state of the firewall'}",
            "run harden.yml; --check --diff shows what differs",
        ),
    ]


def judge_passwords(result: Mapping[str, Any]) -> list[Finding]:
    """What the credentials role found in the device's hashes. ``result`` is empty or skipped where not asked."""
    if result.get("skipped") or not result:
        return []
    if result.get("unreachable") or "accounts" not in result:
        why = str(result.get("msg", "no answer")).strip()
        return [
            Finding(
                "passwords_not_assessed",
                PASSWORDS,
                "not_assessed",
                f"the password hashes could not be judged: {why}",
                "run harden.yml --tags credentials --check and mend what it says",
            )
        ]
    findings = []
    for account in result["accounts"]:
        if account["verdict"] in ("default", "empty", "shared"):
            message = f"account '{account['account']}': {account['why']}"
            remedy = "run harden.yml: role credentials locks or replaces it"
            findings.append(Finding("default_password", PASSWORDS, "difference", message, remedy))
        elif account["verdict"] == "not assessed":
            message = f"account '{account['account']}': not assessed: {account['why']}"
            remedy = "give the account a password of a scheme that the controller can read, or lock it"
            findings.append(Finding("passwords_not_assessed", PASSWORDS, "not_assessed", message, remedy))
    return findings
