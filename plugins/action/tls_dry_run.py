# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""sallyport.iot.tls_dry_run: would the next renewal work? Documented in plugins/modules."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Exchange
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls import certbot, options


class ActionModule(ActionBase):
    """One exchange; certbot goes through everything but keeps nothing."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        del tmp
        host = (task_vars or {}).get("inventory_hostname")
        _, arguments = self.validate_argument_spec(
            argument_spec={
                "names": {"type": "list", "elements": "str", "required": True},
                "acme_directory": {"type": "str", "required": True},
                "acme_root": {"type": "str", "default": ""},
                **{
                    name: options.SPEC[name]
                    for name in ("challenge", "dns_plugin", "dns_hook", "dns_propagation")
                },
            }
        )
        if self._task.check_mode:
            return {**result, "changed": False, "msg": "check mode asks no CA"}
        defaults = {name: spec["default"] for name, spec in options.SPEC.items()}
        everything = {**defaults, **arguments, "mode": "device", "acme_agree": True}
        try:
            wanted = options.parse(everything, datetime.now(timezone.utc))
        except options.OptionError as error:
            return {**result, "failed": True, "changed": False, "msg": f"{host}: {error}"}
        reply = Exchange(self).run(certbot.dry_run(wanted))
        if reply.get("code") != "0":
            why = certbot.explain(reply.get("output") or reply.errors, wanted)
            message = f"{host}: the next renewal would not work; what is served now stays: {why}"
            return {**result, "failed": True, "changed": False, "msg": message}
        return {**result, "changed": False, "msg": "the next renewal would work"}
