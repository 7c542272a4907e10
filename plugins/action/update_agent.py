# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""sallyport.iot.update_agent: a device that keeps itself patched. Documented in plugins/modules."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.sallyport.iot.plugins.plugin_utils.access import driver
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Exchange
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.inquiry import NotRoot
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates import house
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents import (
    AGENTS,
    aws_greengrass,
    azure_iot_edge,
    choose,
    mender,
    swupdate,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents.base import NoAgent, Unsupported
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents.pull import source
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.settings import (
    MODES,
    REBOOTS,
    SettingsError,
    read,
)

_NAMES = {"type": "list", "elements": "str", "default": []}


def _options(keys: Iterable[str], configuration: str) -> dict[str, Any]:
    """What one agent alone wants to know; it is read, and judged, by that agent."""
    kinds: dict[str, dict[str, Any]] = {
        "packages": {"type": "list", "elements": "str"},
        "sandbox": {"type": "list", "elements": "str"},
        "configuration": {"type": configuration},
        "private_key": {"type": "str", "no_log": True},
        "edge_ca_key": {"type": "str", "no_log": True},
        "ssh_key": {"type": "str", "no_log": True},
        "token": {"type": "str", "no_log": True},
        "tenant_token": {"type": "str", "no_log": True},
        "slots": {"type": "dict"},
        "identity": {"type": "dict"},
        "carry": {"type": "list", "elements": "str"},
        "carry_own": {"type": "bool"},
        "streamed": {"type": "bool"},
        "restart": {"type": "bool"},
    }
    return {
        "type": "dict",
        "default": {},
        "options": {key: kinds.get(key, {"type": "str"}) for key in keys},
    }


_SPEC: dict[str, Any] = {
    "agent": {"type": "str", "default": "auto", "choices": ["auto", *(agent.name for agent in AGENTS)]},
    "mode": {"type": "str", "default": "automatic", "choices": list(MODES)},
    "until": {"type": "str", "default": ""},
    "reason": {"type": "str", "default": ""},
    "window": {"type": "str", "default": "02:00-05:00"},
    "jitter": {"type": "int", "default": 1800},
    "every": {"type": "int", "default": 21600},
    "bandwidth_kb": {"type": "int", "default": 0},
    "repository": {"type": "dict", "default": {}},
    "ring": {"type": "str", "default": ""},
    "delay_days": {"type": "int", "default": 0},
    "origins": _NAMES,
    "pins": {"type": "list", "elements": "dict", "default": []},
    "blocked": _NAMES,
    "rollback": _NAMES,
    "health": _NAMES,
    "health_seconds": {"type": "int", "default": 60},
    "reboot": {"type": "str", "default": "never", "choices": list(REBOOTS)},
    "reboot_window": {"type": "str", "default": ""},
    "proxy": {"type": "str", "default": "", "no_log": True},
    "reserve_mb": {"type": "int", "default": 64},
    "install": {"type": "bool", "default": True},
    "greengrass": _options(aws_greengrass.KEYS, "dict"),
    "iot_edge": _options(azure_iot_edge.KEYS, "str"),
    "mender": _options(mender.KEYS, "str"),
    "pull": _options(source.KEYS, "str"),
    "swupdate": _options(swupdate.KEYS, "str"),
    **driver.SETTINGS,
}


class ActionModule(ActionBase):
    """Settings and device in, a confirmed update agent out; a converged device costs one exchange."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        del tmp
        task_vars = task_vars or {}
        host = str(task_vars.get("inventory_hostname"))
        _, arguments = self.validate_argument_spec(argument_spec=_SPEC)
        try:
            settings = read(arguments, host)
            device = driver.device_of(self, task_vars, result)
            agent = choose(arguments["agent"], device, settings)
            exchange = Exchange(self)
            found = house.read(exchange.ask(house.question(agent, house.paths(settings, agent))))
            plan = house.wanted(settings, agent, device, found)
        except NoAgent as error:
            # One such device in a fleet is no failed run: it has no updates now as before. The audit notes it too.
            told = {"warnings": [f"{host}: {error}"], "agent": "none", "mode": settings.mode, "notes": []}
            return {
                **result,
                **told,
                "changed": False,
                "state": "unchanged",
                "exchanges": 0,
                "msg": str(error),
            }
        except (SettingsError, Unsupported, NotRoot) as error:
            message = f"{host}: the update agent was refused, nothing was changed: {error}"
            return {**result, "failed": True, "changed": False, "state": "refused", "msg": message}
        result.update(agent=agent.name if agent else "none", mode=settings.mode, notes=list(plan.notes))
        if plan.warnings:
            result["warnings"] = [f"{host}: {line}" for line in plan.warnings]
        if house.converged(plan, found):
            message = "nothing to do: files and timers are as wanted"
            return {
                **result,
                "changed": False,
                "state": "unchanged",
                "exchanges": exchange.count,
                "msg": message,
            }
        patience = max(int(arguments["confirm_seconds"]), plan.slow)
        change = driver.transaction(
            "update_agent",
            [driver.file(entry) for entry in plan.files],
            {**arguments, "confirm_seconds": patience},
            note=f"{result['agent']}, {settings.mode}",
            commands=plan.commands,
        )
        outcome = driver.run(self, task_vars, change, exchange)
        outcome["exchanges"] = exchange.count
        return {**result, **outcome}
