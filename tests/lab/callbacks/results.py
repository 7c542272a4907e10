"""Every task's result as one JSON line in the file that SALLYPORT_TEST_RESULTS names: what a test can judge by."""

from __future__ import annotations

import json
import os
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: results
type: aggregate
short_description: Task results as JSON lines, for tests
description: Writes host, action, status and result of every task.
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Writes beside the screen output; it changes nothing there."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "results"

    def _write(self, status: str, result: Any) -> None:
        task = getattr(result, "_task", None) or result.task
        host = getattr(result, "_host", None) or result.host
        values = getattr(result, "_result", None) or result.result
        keep = {key: value for key, value in values.items() if key != "ansible_facts"}
        line = {
            "host": str(host),
            "action": task.action,
            "role": str(task._role or ""),
            "status": status,
            "result": keep,
        }
        with open(os.environ["SALLYPORT_TEST_RESULTS"], "a", encoding="utf-8") as stream:
            stream.write(json.dumps(line, default=str) + "\n")

    def v2_runner_on_ok(self, result: Any) -> None:
        self._write("ok", result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._write("failed", result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._write("unreachable", result)
