# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""sallyport.iot.time_sync: a clock that can be believed. Documented in plugins/modules."""

from __future__ import annotations

import time
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.sallyport.iot.plugins.plugin_utils.access import driver, policy_view
from ansible_collections.sallyport.iot.plugins.plugin_utils.clock import client
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Exchange, Reply

_SPEC: dict[str, dict[str, Any]] = {
    "servers": {"type": "list", "elements": "str", "default": []},
    "nts": {"type": "bool", "default": False},
    "nts_root": {"type": "str", "default": ""},
    "client": {"type": "str", "default": "auto"},
    "floor": {"type": "str", "default": ""},
    "wait": {"type": "int", "default": 0},
    "tolerance": {"type": "int", "default": 60},
}


class ActionModule(ActionBase):
    """Configures the client that the device has, through commit, and says whether its clock is right."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        del tmp
        task_vars = task_vars or {}
        _, arguments = self.validate_argument_spec(argument_spec={**_SPEC, **driver.SETTINGS})
        host = task_vars.get("inventory_hostname")
        try:
            wanted = client.parse(arguments)
            if not wanted.servers and not wanted.floor:
                message = "time_sync_servers and time_sync_floor are not set: the clock is left as it is"
                return {**result, "changed": False, "state": "unchanged", "exchanges": 0, "msg": message}
            device = driver.device_of(self, task_vars, result)
            missing = client.policy_says_no(policy_view.of(task_vars, device), wanted)
            if missing:
                raise client.Refused(
                    f"the policy drops what this device would ask of {', '.join(missing)}. Add to outbound: "
                    f"{client.rule(wanted)}"
                )
            exchange = Exchange(self)
            reply = exchange.ask(client.QUERY)
            plan = client.plan(wanted, device, reply)
        except client.Refused as error:
            message = f"{host}: time_sync was refused, nothing was changed: {error}"
            return {**result, "failed": True, "changed": False, "state": "refused", "msg": message}
        change = driver.transaction(
            "time_sync",
            [driver.file(entry) for entry in plan.files],
            arguments,
            note=f"time from {', '.join(wanted.servers) or 'the floor alone'} by {plan.client or 'nobody'}",
            commands={
                "check": plan.check,
                "activate": plan.activate,
                "verify": plan.verify,
                "revert": plan.revert,
            },
        )
        outcome = driver.run(self, task_vars, change, exchange)
        result.update(driver.with_fresh_facts(self, outcome, device, plan.files))
        wait = arguments["wait"] if plan.client else 0
        reply, result["clock"] = self._look(exchange, reply, plan.client, wait, result)
        if not result.get("failed") and not self._task.check_mode:
            self._judge(result, wanted, str(host), wait)
        return result

    def _look(
        self, exchange: Exchange, reply: Reply, name: str, wait: int, result: dict[str, Any]
    ) -> tuple[Reply, dict[str, Any]]:
        """The clock's state; after a change it is asked again, and with ``wait`` until it is synchronised."""
        asked = time.time()
        found = client.state(reply, name, asked)
        deadline = time.monotonic() + wait
        if self._task.check_mode or result.get("failed"):
            return reply, found
        while result.get("changed") or wait:
            asked = time.time()
            reply = exchange.ask(client.QUERY)
            found = client.state(reply, name, asked)
            if found["synchronised"] or time.monotonic() >= deadline:
                break
            time.sleep(1)
        result["exchanges"] = exchange.count
        return reply, found

    @staticmethod
    def _judge(result: dict[str, Any], wanted: client.Wanted, host: str, wait: int) -> None:
        clock = result["clock"]
        if wait and not clock["synchronised"]:
            result["failed"] = True
            result["msg"] = (
                f"{host}: {clock['client']} did not reach a time server within {wait} s. Check that this device "
                f"reaches {', '.join(wanted.servers)} on udp port 123"
                + (
                    " and tcp port 4460, and that its certificate is trusted (time_sync_nts_root)"
                    if wanted.nts
                    else ""
                )
            )
        elif abs(clock["difference"]) > wanted.tolerance:
            result["warnings"] = [
                *result.get("warnings", []),
                f"{host}: its clock is {abs(clock['difference'])} s {'ahead of' if clock['difference'] > 0 else 'behind'} "
                "this controller's",
            ]
