# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Action for sallyport.iot.rollback; documented in plugins/modules/rollback.py."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.sallyport.iot.plugins.plugin_utils.access import known_hosts
from ansible_collections.sallyport.iot.plugins.plugin_utils.device import generations
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.commit import CommitError, run
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Exchange
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.transaction import (
    DEFAULT_STATE_DIR,
    printable,
)


class ActionModule(ActionBase):
    """List the generations of a device, or go back to one."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        del tmp
        variables = task_vars or {}
        host = variables.get("inventory_hostname", "this host")
        wanted = str(self._task.args.get("to") or "")
        state_dir = str(self._task.args.get("state_dir") or DEFAULT_STATE_DIR)
        exchange = Exchange(self)
        program = generations.listing(state_dir)
        known = generations.parse(exchange.ask(program))
        result["generations"] = [_readable(generation) for generation in known]
        if not wanted:
            return {**result, "changed": False, "msg": generations.table(known)}
        if not known and wanted == "factory":
            if not self._task.check_mode:
                exchange.run(generations.clear(state_dir))
            return {**result, "changed": False, "msg": "the device is as it was found: it has no generations"}
        try:
            number = generations.resolve(known, wanted)
        except generations.GenerationError as error:
            return {**result, "failed": True, "changed": False, "msg": f"{host}: {error}"}
        undone = [generation for generation in known if generation.number > number]
        keys = exchange.run(program + generations.public_keys(undone))
        host_keys = _host_keys(undone, keys)
        transaction = generations.way_back(
            known,
            number,
            state_dir=state_dir,
            seconds=int(self._task.args.get("seconds") or 60),
            host_keys=host_keys,
        )
        try:
            if host_keys and not self._task.check_mode and exchange.transport == "ssh":
                # Known before the device answers with them; the newer ones stay, and do no harm: nobody has them.
                target = known_hosts.resolve(known_hosts.command_of(self))
                if target is not None:
                    known_hosts.edit(
                        target.path, lambda text: known_hosts.added(text, target.names, host_keys)
                    )
            outcome = run(self, variables, transaction, exchange=exchange)
        except CommitError as error:
            return {**result, **error.result, "failed": True, "msg": str(error)}
        outcome["files"] = [item["dest"] for item in outcome["files"]]
        outcome.pop("live", None)
        return {**result, **outcome, "to": number, "undone": [generation.number for generation in undone]}


def _host_keys(undone: list[generations.Generation], reply: Any) -> tuple[str, ...]:
    """The public host keys with which the device will answer after the way back: what the oldest change replaced."""
    found: dict[str, str] = {}
    for generation in undone:
        for path in generation.files:
            for line in reply.get(f"public {generation.number} {path}").splitlines():
                if line.startswith(("ssh-", "ecdsa-", "sk-")):
                    found.setdefault(path, " ".join(line.split()[:2]))
    return tuple(found.values())


def _readable(generation: generations.Generation) -> dict[str, Any]:
    return {
        "number": generation.number,
        "name": generation.name,
        "when": generation.when,
        "by": generation.by,
        "note": generation.note,
        "files": sorted(printable(path) for path in generation.files),
        "kept": not generation.pruned,
    }
