# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Action for sallyport.iot.firewall; documented in plugins/modules/firewall.py."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.sallyport.iot.plugins.action.policy_check import describe
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.commit import CommitError, run
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.transaction import (
    Confirm,
    File,
    Transaction,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import fleet, render


class ActionModule(ActionBase):
    """Policy and device in, confirmed firewall out."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_diff = True
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        del tmp
        variables = task_vars or {}
        arguments = self._task.args
        host = variables["inventory_hostname"]
        device = fleet.device_of(variables)
        if device is None:
            return {
                **result,
                "failed": True,
                "msg": f"{host}: nothing is known of the device; run sallyport.iot.probe first.",
            }
        resolved = fleet.resolve_host(variables, host, arguments.get("policy_dir"), device)
        result["findings"] = [describe(finding) for finding in resolved.findings]
        if resolved.policy is None:
            errors = "\n".join(describe(finding) for finding in resolved.errors)
            return {
                **result,
                "failed": True,
                "changed": False,
                "msg": f"{host}: the policy has errors; nothing was changed.\n{errors}",
            }
        try:
            rendered = render.render(
                resolved.policy,
                device,
                backend=arguments.get("backend") or "auto",
                memory_kb=int(arguments.get("memory_kb") or 0),
            )
        except render.Unsupported as error:
            message = f"{host}: the firewall was refused, nothing was changed: {error.message} {error.remedy}"
            return {**result, "failed": True, "changed": False, "state": "refused", "msg": message}
        result["backend"] = rendered.backend
        result["notes"] = list(rendered.notes)
        transaction = Transaction(
            name="firewall",
            files=tuple(_file(item) for item in rendered.files),
            check=rendered.check,
            activate=rendered.activate,
            verify=rendered.verify,
            revert=rendered.revert,
            settle=rendered.settle,
            live=rendered.live,
            confirm=Confirm(seconds=int(arguments.get("confirm_seconds") or 60)),
            keep=int(arguments.get("keep") or 10),
            state_dir=arguments.get("state_dir") or Transaction(name="firewall").state_dir,
            note=rendered.backend,
        )
        try:
            return {**result, **run(self, variables, transaction)}
        except CommitError as error:
            return {**result, **error.result, "failed": True, "msg": str(error)}


def _file(item: render.RenderedFile) -> File:
    if item.link:
        return File(dest=item.path, kind="link", target=item.link)
    if item.content is None:
        return File(dest=item.path, kind="absent")
    return File(dest=item.path, content=item.content.encode(), mode=item.mode)
