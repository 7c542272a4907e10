# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Ends a run with what a person needs next: each failed host, its reason, and the command for just those hosts."""

from __future__ import annotations

DOCUMENTATION = r"""
name: summary
type: aggregate
short_description: Name each failed host with its reason, and the command that retries just those
version_added: 0.1.0
description:
  - Prints nothing when every host went well.
  - A host that failed because another one's policy is wrong is not listed a second time.
requirements:
  - Enable it with C(callbacks_enabled = sallyport.iot.summary) in the C([defaults]) of C(ansible.cfg).
author: The Sallyport authors
"""

import os
import shlex
import sys
from typing import Any

from ansible import context
from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):
    """Collects the last failure of each host."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "sallyport.iot.summary"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, display: Any = None, options: Any = None) -> None:
        super().__init__(display, options)
        self._reasons: dict[str, str] = {}

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            self._keep(result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._keep(result)

    def _keep(self, result: Any) -> None:
        # ansible-core 2.19 gave results public names; 2.17 has only the old ones.
        host = getattr(result, "host", None) or result._host
        task = getattr(result, "task", None) or result._task
        facts = getattr(result, "result", None)
        if not isinstance(facts, dict):
            facts = result._result
        if facts.get("censored"):
            message = "(hidden: the task handles secrets)"
        else:
            message = str(facts.get("msg") or facts.get("stderr") or "no message")
        self._reasons[host.get_name()] = f"{task.get_name()}: {' '.join(message.split())}"

    def v2_playbook_on_stats(self, stats: Any) -> None:
        failed = sorted(set(stats.failures) | set(stats.dark))
        if not failed:
            return
        self._display.banner("WHAT WENT WRONG")
        by_reason: dict[str, list[str]] = {}
        for host in failed:
            by_reason.setdefault(self._reasons.get(host, "no reason was reported"), []).append(host)
        for reason, hosts in by_reason.items():
            self._display.display(f"{', '.join(hosts)}: {reason}", color="red")
        if "localhost" in failed:
            failed.remove("localhost")
        if failed:
            self._display.display(f"\nAgain, for just these: {_again(failed)}")


def _again(hosts: list[str]) -> str:
    """The command line of this run with its limit replaced."""
    words = [os.path.basename(sys.argv[0])]
    skip = False
    for word in sys.argv[1:]:
        if skip:
            skip = False
        elif word in ("-l", "--limit"):
            skip = True
        elif not word.startswith("--limit=") and not (
            word.startswith("-l") and not word.startswith("--") and len(word) > 2
        ):
            words.append(word)
    # A secret given with -e would end up in a log; the vault and files do not.
    if context.CLIARGS.get("extra_vars"):
        words = _without_secrets(words)
    return shlex.join([*words, "--limit", ",".join(hosts)])


def _without_secrets(words: list[str]) -> list[str]:
    hidden = []
    for word in words:
        low = word.lower()
        secret = "=" in word and any(part in low for part in ("password", "_pass", "secret", "token"))
        hidden.append(f"{word.split('=', 1)[0]}=..." if secret else word)
    return hidden
