# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""sallyport.iot.probe: what is this device? One exchange, and no Python needed there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.sallyport.iot.plugins.plugin_utils.device import probe
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Exchange

FACT = "sallyport_device"


class ActionModule(ActionBase):
    """Asks the device, or repeats what it said earlier in this run. Changes nothing, check mode or not."""

    _supports_check_mode = True
    _supports_async = False
    _supports_diff = False
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        del tmp
        _, arguments = self.validate_argument_spec(
            argument_spec={"refresh": {"type": "bool", "default": False}}
        )
        task_vars = task_vars or {}
        known = earlier(task_vars)
        if known and not arguments["refresh"]:
            result.update(changed=False, cached=True, ansible_facts={FACT: known})
            return result
        exchange = Exchange(self)
        reply = exchange.run(probe.program())
        try:
            device = probe.device(
                reply,
                remote_user=self._remote_user(exchange.transport),
                become_method=str(self._connection.become.name) if self._connection.become else "",
            )
        except probe.ProbeError as error:
            raise AnsibleActionFail(str(error)) from error
        device["run"] = run_id()
        result.update(changed=False, cached=False, ansible_facts={FACT: device})
        return result

    def _remote_user(self, transport: str) -> str:
        """The account that the controller logs in with; "" where only the device can know."""
        if transport == "local":
            return ""
        try:
            return str(self._connection.get_option("remote_user") or "")
        except (KeyError, AttributeError):
            return str(self._play_context.remote_user or "")


def earlier(task_vars: dict[str, Any]) -> dict[str, Any] | None:
    """What the probe of this very run found. A fact cache may hold another run's: that one is out of date."""
    known = (task_vars.get("ansible_facts") or {}).get(FACT) or task_vars.get(FACT)
    if isinstance(known, dict) and known.get("run") == run_id() and known.get("protocol") == probe.PROTOCOL:
        return known
    return None


def run_id() -> str:
    """The same for every task of one ansible-playbook: workers are forked from it, so they share its session.

    The number alone comes round again; with the time that the process started it does not.
    """
    parent = os.getppid()
    try:
        started = Path(f"/proc/{parent}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return str(parent)
    return f"{parent}-{started.rpartition(')')[2].split()[19]}"
