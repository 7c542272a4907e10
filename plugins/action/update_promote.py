# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""sallyport.iot.update_promote: move versions that have proved themselves to the next ring. Documented in plugins/modules."""

from __future__ import annotations

import shlex
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Exchange, Reply
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates import promotion

REGISTERED = "update_promote_status"
"""The name under which playbooks/promote.yml registers each device's record."""
PROGRAM = "/usr/local/sbin/sallyport-repository"


class ActionModule(ActionBase):
    """Runs once, on the repository, after every device was asked."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        del tmp
        task_vars = task_vars or {}
        _, arguments = self.validate_argument_spec(
            argument_spec={
                "ring": {"type": "str", "required": True},
                "to": {"type": "str", "required": True},
                "devices": {"type": "list", "elements": "str", "required": True},
                "soak": {"type": "int", "default": 86400},
                "threshold": {"type": "int", "default": 0},
                "minimum": {"type": "int", "default": 1},
            }
        )
        ring, to = arguments["ring"], arguments["to"]
        exchange = Exchange(self)
        reply = exchange.run(
            f"{PROGRAM} list {shlex.quote(ring)} | blob from\n{PROGRAM} list {shlex.quote(to)} | blob to\n"
        )
        if "from" not in reply or "to" not in reply or reply.errors.strip():
            return {**result, **self._failed(f"the rings {ring} and {to} could not be read", reply)}
        records = {}
        for host in arguments["devices"]:
            said = task_vars["hostvars"][host].get(REGISTERED) or {}
            records[host] = said.get("updates")
        verdicts = promotion.decide(
            ring,
            promotion.read_listing(reply.get("from")),
            promotion.read_listing(reply.get("to")),
            records,
            promotion.Rules(arguments["soak"], arguments["threshold"], arguments["minimum"]),
        )
        by_state = {
            state: {one.exact: one.why for one in verdicts if one.state == state}
            for state in ("move", "wait", "stop")
        }
        moved, waiting, stopped = by_state["move"], by_state["wait"], by_state["stop"]
        result.update(changed=bool(moved), moved=moved, waiting=waiting, stopped=stopped)
        if moved and not self._task.check_mode:
            reply = exchange.run(
                f"{PROGRAM} move {shlex.quote(ring)} {shlex.quote(to)} {shlex.join(moved)} >&2\n"
            )
            if reply.status != 0:
                return {**result, **self._failed(f"not everything was moved from {ring} to {to}", reply)}
        lines = [f"{exact}: {why}" for found in (stopped, waiting, moved) for exact, why in found.items()]
        result["msg"] = "\n".join(lines) or f"{to} offers everything that {ring} offers"
        if stopped:
            result.update(
                failed=True,
                msg=f"the ring {ring} stops, nothing of this goes on to {to}: "
                + "; ".join(f"{exact}: {why}" for exact, why in stopped.items())
                + ". Publish a version that mends it, or take it out of the ring",
            )
        return result

    def _failed(self, what: str, reply: Reply) -> dict[str, Any]:
        said = reply.errors.strip()[-400:] or f"status {reply.status}"
        return {
            "failed": True,
            "changed": False,
            "msg": f"{what}: {said}. Is this host a repository that playbooks/repository.yml has set up?",
        }
