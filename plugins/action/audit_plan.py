# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""sallyport.iot.audit_plan: from which vantages a device is scanned, at which addresses, and how carefully.

Works on the controller alone.
"""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.sallyport.iot.plugins.plugin_utils.audit.inputs import read_policy, vantages
from ansible_collections.sallyport.iot.plugins.plugin_utils.audit.plan import scan_plan
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.fleet import device_of


class ActionModule(ActionBase):
    """Plans one device's scan."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        del tmp
        _, arguments = self.validate_argument_spec(
            argument_spec={
                "addresses": {"type": "dict", "default": {}},
                "budget": {"type": "int", "required": True},
            }
        )
        task_vars = task_vars or {}
        device = device_of(task_vars) or {}
        places, missing = vantages(task_vars, arguments["addresses"])
        resolved, policy_error = read_policy(task_vars, device)
        result.update(
            changed=False,
            scans=places,
            missing=missing,
            budget=max(10, arguments["budget"] // max(1, len(places))),
            policy_error=policy_error,
            **scan_plan(resolved.policy, device),
        )
        return result
