# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Action for sallyport.iot.commit; documented in plugins/modules/commit.py."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.commit import CommitError, run
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.transaction import (
    ArgumentError,
    from_arguments,
)


class ActionModule(ActionBase):
    """Change files and live state so that the change takes itself back unless it is confirmed."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        del tmp
        try:
            transaction = from_arguments(self._task.args, self._sources())
            return {**result, **run(self, task_vars or {}, transaction)}
        except ArgumentError as error:
            return {**result, "failed": True, "changed": False, "state": "refused", "msg": f"commit: {error}"}
        except CommitError as error:
            return {**result, **error.result, "failed": True, "msg": str(error)}

    def _sources(self) -> dict[str, bytes]:
        """The content of every file on the controller that a ``src`` names, looked up as builtin copy does."""
        sources = {}
        for item in self._task.args.get("files") or []:
            name = item.get("src") if isinstance(item, dict) else None
            if name:
                with open(self._find_needle("files", name), "rb") as handle:
                    sources[str(name)] = handle.read()
        return sources
