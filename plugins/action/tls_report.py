# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""sallyport.iot.tls_report: is this device's certificate still good? Documented in plugins/modules."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Exchange
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls import device as devices
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls import options


class ActionModule(ActionBase):
    """One exchange that changes nothing; the controller judges what came back."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        del tmp
        host = (task_vars or {}).get("inventory_hostname")
        names = ("mode", "names", "warn_days", "fail_days")
        _, arguments = self.validate_argument_spec(argument_spec={name: options.SPEC[name] for name in names})
        expected = arguments.pop("mode") != "none"
        defaults = {name: spec["default"] for name, spec in options.SPEC.items()}
        now = datetime.now(timezone.utc)
        try:
            wanted = options.parse({**defaults, **arguments}, now)
        except options.OptionError as error:
            return {**result, "failed": True, "changed": False, "msg": f"{host}: {error}"}
        found = devices.read(Exchange(self).ask(devices.query(wanted)))
        if not expected and not found.here:
            return {
                **result,
                "changed": False,
                "skipped": True,
                "msg": "no certificate is wanted, or there, from this role",
            }
        verdict = devices.judge(found, wanted, now)
        if found.certificate:
            result["certificate"] = found.certificate.report(now)
        return {**result, "changed": False, "verdict": verdict, "msg": verdict["message"]}
