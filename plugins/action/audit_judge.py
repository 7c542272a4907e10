# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""sallyport.iot.audit_judge: compare what the vantages saw of one device with what its policy says.

Works on the controller alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.sallyport.iot.plugins.module_utils.ports import format_ports
from ansible_collections.sallyport.iot.plugins.plugin_utils.audit import certificates
from ansible_collections.sallyport.iot.plugins.plugin_utils.audit.compare import (
    EXPOSURE,
    LOGINS,
    Allowed,
    Device,
    compare,
    judge_firewall,
    judge_logins,
    judge_passwords,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.audit.findings import (
    Finding,
    WaiverError,
    merge,
    read_waivers,
    waive,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.audit.inputs import read_policy
from ansible_collections.sallyport.iot.plugins.plugin_utils.audit.updates import judge_updates
from ansible_collections.sallyport.iot.plugins.plugin_utils.audit.view import (
    allowed_for,
    footnotes,
    interface_towards,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.fleet import device_of
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.load import Resolved

SETTLED = "settled"


class ActionModule(ActionBase):
    """Judges one device; the result holds its part of the evidence."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        del tmp
        _, arguments = self.validate_argument_spec(
            argument_spec={
                "plan": {"type": "dict", "required": True},
                "probe": {"type": "dict", "required": True},
                "scans": {"type": "list", "elements": "dict", "required": True},
                "logins": {"type": "list", "elements": "dict", "required": True},
                "firewall": {"type": "dict", "default": {}},
                "passwords": {"type": "dict", "default": {}},
                "tls": {"type": "dict", "default": {}},
                "updates": {"type": "dict", "default": {}},
                "update_days": {"type": "int", "default": 14},
                "try_logins": {"type": "bool", "required": True},
                "listeners": {"type": "list", "elements": "dict", "default": []},
                "waivers": {"type": "list", "elements": "dict", "default": []},
            }
        )
        today = datetime.now(timezone.utc).date()
        try:
            waivers = read_waivers(arguments["waivers"])
        except WaiverError as error:
            raise AnsibleActionFail(str(error)) from error
        probe, plan = arguments["probe"], arguments["plan"]
        facts = (device_of(task_vars or {}) or {}) if reached(probe) else {}
        resolved, _error = read_policy(task_vars or {}, facts)
        device = Device(
            facts.get("listening") if facts else None,
            str(facts.get("init", "unknown")),
            arguments["listeners"],
        )
        findings = list(about_device(probe, plan, facts))
        findings += judge_firewall(arguments["firewall"]) + judge_passwords(arguments["passwords"])
        findings += certificates.judge_tls(arguments["tls"])
        findings += judge_updates(arguments["updates"], arguments["update_days"])
        sights: dict[str, Any] = {}
        for scan in arguments["scans"]:
            place = scan["item"]
            sight: dict[str, Any] = {"host": place["host"], "families": {}, "logins": []}
            sights[place["name"]] = sight
            if "families" not in scan:
                findings.append(no_scan(place, scan))
                continue
            for family, seen in scan["families"].items():
                allowed = view(resolved, facts, seen, today)
                where = f"{place['name']} {family}"
                findings += compare(allowed, device, seen, where)
                sight["families"][family] = {**seen, "admitted": shown(allowed)}
        if arguments["try_logins"]:
            for trial in arguments["logins"]:
                place = trial["item"]["item"]
                sights[place["name"]]["logins"] = trial.get("services", [])
                findings += judge_logins(trial.get("services", []), place["name"])
                findings += no_logins(trial, place["name"])
        if resolved.policy is not None:
            notes = footnotes(resolved.policy)
            findings += [Finding("footnote", EXPOSURE, "note", note, "nothing to do") for note in notes]
        judged = waive(merge(findings), waivers, today)
        result.update(
            changed=False,
            device={
                "reached": bool(facts),
                "system": system(facts),
                "boot_window": arguments["firewall"].get("boot_window", {}),
                "updates": arguments["updates"].get("updates", {}),
                "vantages": sights,
            },
            host_keys=facts.get("ssh", {}).get("host_keys", []),
            tls_key=certificates.key_of(arguments["tls"]),
            findings=[finding.as_dict() for finding in judged],
            waivers=arguments["waivers"],
        )
        return result


def reached(probe: Mapping[str, Any]) -> bool:
    """Whether probe got an answer in this run; the facts of an earlier run do not count."""
    return not probe.get("unreachable") and "ansible_facts" in probe


def about_device(
    probe: Mapping[str, Any], plan: Mapping[str, Any], facts: Mapping[str, Any]
) -> Iterator[Finding]:
    """What is wrong before any packet was judged."""
    if not facts:
        why = str(probe.get("msg", "no answer")).strip()
        yield Finding(
            "unreachable",
            SETTLED,
            "difference",
            f"the controller could not look at the device: {why}",
            "the network was scanned all the same; mend the way in and run audit.yml --limit with this host",
        )
    elif facts["transaction"]["pending"]:
        yield Finding(
            "pending",
            SETTLED,
            "not_assessed",
            f"change {facts['transaction']['pending']} waits for its confirmation; no login was tried",
            "wait for it to be confirmed or to revert, and run the audit again",
        )
    for lack in plan["missing"]:
        yield Finding(
            "no_vantage", EXPOSURE, "not_assessed", lack, "complete the inventory; see docs/audit.md"
        )
    if plan["policy_error"]:
        remedy = "run playbooks/policy.yml and mend what it finds"
        yield Finding("no_policy", EXPOSURE, "not_assessed", plan["policy_error"], remedy)


def view(resolved: Resolved, facts: Mapping[str, Any], seen: Mapping[str, Any], today: Any) -> Allowed | None:
    """What the policy lets this vantage see; None where that is not known."""
    if resolved.policy is None or not seen["source"]:
        return None
    interface = interface_towards(facts, seen["source"], seen["address"])
    return allowed_for(resolved.policy, resolved.services, seen["source"], seen["address"], interface, today)


def shown(allowed: Allowed | None) -> dict[str, str] | None:
    """For the evidence."""
    if allowed is None:
        return None
    return {protocol: format_ports(ports) for protocol, ports in allowed.admitted.items()}


def no_scan(place: Mapping[str, Any], scan: Mapping[str, Any]) -> Finding:
    """A vantage that did not do its work."""
    why = str(scan.get("msg", "no reason given")).strip()
    return Finding(
        "no_scan",
        EXPOSURE,
        "not_assessed",
        f"vantage {place['host']} did not scan: {why}",
        f"mend the vantage host {place['host']} and run the audit again",
        seen_from=(f"{place['name']}",),
    )


def no_logins(trial: Mapping[str, Any], name: str) -> list[Finding]:
    """A login is offered, but none was tried there."""
    offered: Sequence[Any] = trial["item"].get("login_services", ())
    if "services" in trial or not offered:
        return []
    why = (
        str(trial.get("msg", ""))
        if trial.get("failed") or trial.get("unreachable")
        else "see control 'settled'"
    )
    return [
        Finding(
            "logins_not_assessed",
            LOGINS,
            "not_assessed",
            f"no default login was tried: {why}",
            "mend that first, and run the audit again",
            seen_from=(name,),
        )
    ]


def system(facts: Mapping[str, Any]) -> str:
    """One line about the device."""
    if not facts:
        return "not reached"
    ssh = facts["ssh"]
    parts = (facts["os"].get("pretty", ""), f"Linux {facts['kernel']} {facts['machine']}", facts["init"])
    return ", ".join(part for part in (*parts, f"{ssh['server']} {ssh['version']}") if part.strip())
