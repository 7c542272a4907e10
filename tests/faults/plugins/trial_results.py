"""Writes a play's results to a file of the controller's: within ansible-playbook itself, since a module would be another Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        path = Path(self._task.args["dest"])
        path.touch(mode=0o600)
        path.write_text(self._task.args["content"], encoding="utf-8")
        return result
