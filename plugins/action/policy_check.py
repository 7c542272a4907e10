# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Action for sallyport.iot.policy_check; documented in plugins/modules/policy_check.py."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import fleet, load
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.report import finding_text, warnings


class ActionModule(ActionBase):
    """Checks the policy of every host of the play, on the controller."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        del tmp
        variables = task_vars or {}
        resolved = []
        known = fleet.Addresses(variables.get("hostvars") or {})
        for host in variables.get("ansible_play_hosts") or ():
            # Without a device the policy is checked all the same, for what it says of itself.
            device = fleet.device_of(variables["hostvars"][host])
            folder = self._task.args.get("policy_dir")
            resolved.append(fleet.resolve_host(variables, host, folder, device, known))
        findings = load.gather(resolved)
        result["changed"] = False
        result["findings"] = [finding_text(finding) for finding in findings]
        result["warnings"] = warnings(findings)
        errors = [finding for finding in findings if finding.severity == "error"]
        if errors:
            count = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
            lines = "\n".join(finding_text(finding) for finding in findings)
            result.update(
                failed=True,
                concerns="run",
                msg=f"the policy has {count}; no device was touched. Correct the policy and run again.\n{lines}",
            )
        else:
            result["msg"] = "\n".join(result["findings"]) or f"{len(resolved)} policies are sound"
        return result
