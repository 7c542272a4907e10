# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""sallyport.iot.audit_report: put the evidence of all devices together, write it down and show it.

Works on the controller alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.sallyport.iot.plugins.plugin_utils.audit.certificates import shared_tls_keys
from ansible_collections.sallyport.iot.plugins.plugin_utils.audit.evidence import document, load_controls
from ansible_collections.sallyport.iot.plugins.plugin_utils.audit.findings import (
    Finding,
    from_dict,
    read_waivers,
    waive,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.audit.fleet import shared_host_keys
from ansible_collections.sallyport.iot.plugins.plugin_utils.audit.report import as_html, as_junit, as_text

REGISTERED = "audit_judged"
"""The name under which playbooks/audit.yml registers each device's judgement."""


class ActionModule(ActionBase):
    """Runs once, after every device was judged."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        del tmp
        _, arguments = self.validate_argument_spec(
            argument_spec={
                "directory": {"type": "path", "required": True},
                "enforce": {"type": "bool", "default": True},
            }
        )
        task_vars = task_vars or {}
        judged = {
            host: task_vars["hostvars"][host].get(REGISTERED) or {}
            for host in task_vars.get("ansible_play_hosts_all", ())
        }
        evidence = assemble(judged, arguments["enforce"], datetime.now(timezone.utc))
        paths = write(Path(arguments["directory"]), evidence)
        Display().display("\n" + as_text(evidence) + f"\nReport: {paths['html']}\n")
        verdicts = {
            host: f"{entry['verdict']}: see above, and {paths['html']}"
            for host, entry in evidence["devices"].items()
            if entry["verdict"] != "pass"
        }
        result.update(changed=False, verdict=evidence["verdict"], verdicts=verdicts, files=paths)
        return result


def assemble(judged: Mapping[str, Mapping[str, Any]], enforce: bool, now: datetime) -> dict[str, Any]:
    """The evidence of the whole run from each device's judgement; a device without one is named all the same."""
    host_keys = shared_host_keys({host: one.get("host_keys", ()) for host, one in judged.items()})
    tls_keys = shared_tls_keys({host: str(one.get("tls_key", "")) for host, one in judged.items()})
    shared = {host: host_keys.get(host, []) + tls_keys.get(host, []) for host in judged}
    devices: dict[str, Any] = {}
    findings: dict[str, list[Finding]] = {}
    for host, one in judged.items():
        if "device" in one:
            devices[host] = one["device"]
            own = [from_dict(finding) for finding in one["findings"]]
            findings[host] = own + waive(shared.get(host, ()), used(one, shared, host), now.date())
        else:
            devices[host] = {"reached": False, "system": "not judged", "vantages": {}}
            why = str(one.get("msg", "the run ended before this device was judged"))
            findings[host] = [
                Finding("not_judged", "settled", "not_assessed", why, "mend that and run it again")
            ]
    return document(now.isoformat(timespec="seconds"), enforce, load_controls(), devices, findings)


def used(one: Mapping[str, Any], shared: Mapping[str, Any], host: str) -> list[dict[str, Any]]:
    """The waivers that can speak of what only the whole fleet shows; the others were applied with the device."""
    controls = {finding.control for finding in shared.get(host, ())}
    return [waiver for waiver in read_waivers(one.get("waivers", ())) if waiver["control"] in controls]


def write(directory: Path, evidence: Mapping[str, Any]) -> dict[str, str]:
    """Write all forms, each one whole or not at all. Raises AnsibleActionFail."""
    texts = {
        "json": json.dumps(evidence, indent=1, default=_plain) + "\n",
        "html": as_html(evidence),
        "xml": as_junit(evidence),
    }
    paths = {}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for kind, text in texts.items():
            path = directory / f"audit.{kind}"
            fresh = path.with_name(f".audit.{kind}.new")
            fresh.write_text(text, encoding="utf-8")
            fresh.replace(path)
            paths[kind] = str(path)
    except OSError as error:
        raise AnsibleActionFail(
            f"the report cannot be written to {directory}: {error.strerror}; set audit_report_dir to a folder of yours"
        ) from error
    return paths


def _plain(value: Any) -> str:
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"cannot write a {type(value).__name__} as JSON")
