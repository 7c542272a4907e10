# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Action for sallyport.iot.firewall; documented in plugins/modules/firewall.py."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.sallyport.iot.plugins.plugin_utils.device import boot_window, inquiry
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.commit import CommitError, run
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.transaction import (
    DEFAULT_STATE_DIR,
    Confirm,
    File,
    Transaction,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import fleet, load, render
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.report import finding_text, warnings

_SPEC: dict[str, Any] = {
    "policy_dir": {"type": "path", "required": True},
    "backend": {
        "type": "str",
        "choices": ["auto", "nftables", "iptables_ipset", "iptables"],
        "default": "auto",
    },
    "memory_kb": {"type": "int", "default": 0},
    "confirm_seconds": {"type": "int", "default": 60},
    "keep": {"type": "int", "default": 10},
    "state_dir": {"type": "path", "default": DEFAULT_STATE_DIR},
}


class ActionModule(ActionBase):
    """Policy and device in, confirmed firewall out."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        del tmp
        variables = task_vars or {}
        _, arguments = self.validate_argument_spec(argument_spec=_SPEC)
        host = variables["inventory_hostname"]
        device = fleet.device_of(variables)
        if device is None:
            device = inquiry.ask(self)
            result["ansible_facts"] = {inquiry.FACT: device}
        try:
            inquiry.require_root(device)
        except inquiry.NotRoot as error:
            return _refused(result, host, str(error))
        resolved = fleet.resolve_host(variables, host, arguments["policy_dir"], device)
        result["findings"] = [finding_text(finding) for finding in resolved.findings]
        result["warnings"] = warnings(resolved.findings)
        if resolved.policy is None:
            errors = "\n".join(finding_text(finding) for finding in resolved.errors)
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
                backend=arguments["backend"],
                memory_kb=arguments["memory_kb"],
            )
        except render.Unsupported as error:
            return _refused(result, host, f"{error.message} {error.remedy}")
        result["backend"] = rendered.backend
        result["notes"] = list(rendered.notes)
        transaction = Transaction(
            name="firewall",
            files=(*(_file(item) for item in rendered.files), _rules(resolved)),
            check=rendered.check,
            activate=rendered.activate,
            verify=rendered.verify,
            revert=rendered.revert,
            settle=rendered.settle,
            live=rendered.live,
            tell=rendered.tell,
            confirm=Confirm(seconds=arguments["confirm_seconds"]),
            keep=arguments["keep"],
            state_dir=arguments["state_dir"],
            note=rendered.backend,
        )
        try:
            result.update(run(self, variables, transaction))
        except CommitError as error:
            result.update(error.result, failed=True, msg=str(error))
        if "told" in result:
            result["boot_window"] = boot_window.read(result.pop("told"), str(device.get("container") or ""))
        return result


def _rules(resolved: load.Resolved) -> File:
    """What tells the next run which rules are new: an expired rule is an error only where it is."""
    lines = "".join(f"{fingerprint}\n" for fingerprint in sorted(resolved.fingerprints))
    return File(dest=fleet.RULES, content=lines.encode(), mode="0600")


def _refused(result: dict[str, Any], host: str, why: str) -> dict[str, Any]:
    message = f"{host}: the firewall was refused, nothing was changed: {why}"
    return {**result, "failed": True, "changed": False, "state": "refused", "msg": message}


def _file(item: render.RenderedFile) -> File:
    if item.link:
        return File(dest=item.path, kind="link", target=item.link)
    if item.content is None:
        return File(dest=item.path, kind="absent")
    return File(dest=item.path, content=item.content.encode(), mode=item.mode)
