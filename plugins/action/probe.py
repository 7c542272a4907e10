# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""sallyport.iot.probe: what is this device? One exchange, and no Python needed there."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.inquiry import FACT, ask, recall


class ActionModule(ActionBase):
    """Asks the device, or repeats what it said earlier in this run. Changes nothing, check mode or not."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        del tmp
        _, arguments = self.validate_argument_spec(
            argument_spec={"refresh": {"type": "bool", "default": False}}
        )
        known = None if arguments["refresh"] else recall(task_vars or {})
        result.update(changed=False, cached=known is not None, ansible_facts={FACT: known or ask(self)})
        return result
