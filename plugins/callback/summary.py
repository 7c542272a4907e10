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
author: The Sallyport authors (@sallyport)
"""

import os
import shlex
import sys
from typing import Any, NamedTuple

from ansible import context
from ansible.plugins.callback import CallbackBase

# What ansible-core puts in front of a message, which says nothing to somebody who reads a summary.
_PREFIXES = ("Task failed: ", "Action failed: ", "Module failed: ")


class _Failure(NamedTuple):
    task: str
    lines: tuple[str, ...]
    whole_run: bool
    """No matter of one host: starting again for just that one would be no use."""


class CallbackModule(CallbackBase):
    """Collects the last failure of each host."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "sallyport.iot.summary"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, display: Any = None, options: Any = None) -> None:
        super().__init__(display, options)
        self._failures: dict[str, _Failure] = {}

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            self._keep(result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._keep(result)

    def _keep(self, result: Any) -> None:
        # ansible-core 2.19 gave results public names; 2.17 has only the old ones.
        host = (getattr(result, "host", None) or result._host).get_name()
        task = getattr(result, "task", None) or result._task
        facts = getattr(result, "result", None)
        if not isinstance(facts, dict):
            facts = result._result
        self._failures[host] = _Failure(
            task.get_name(), _lines(facts, host), facts.get("concerns") == "run" or host == "localhost"
        )

    def v2_playbook_on_stats(self, stats: Any) -> None:
        failed = sorted(set(stats.failures) | set(stats.dark))
        if not failed:
            return
        unknown = _Failure("", ("no reason was reported",), False)
        by_failure: dict[_Failure, list[str]] = {}
        for host in failed:
            by_failure.setdefault(self._failures.get(host, unknown), []).append(host)
        self._display.banner("WHAT WENT WRONG")
        for failure, hosts in by_failure.items():
            whom = "The run" if failure.whole_run else ", ".join(hosts)
            task = f" ({failure.task})" if failure.task else ""
            self._display.display(f"{whom}{task}: " + "\n    ".join(failure.lines), color="red")
        if any(failure.whole_run for failure in by_failure):
            self._display.display(f"\nThen again: {_again([])}")
        else:
            self._display.display(f"\nThen again, for just these: {_again(failed)}")


def _lines(facts: dict[str, Any], host: str) -> tuple[str, ...]:
    """The message of a failed task, without what the summary says anyway."""
    if facts.get("censored"):
        return ("(hidden: the task handles secrets)",)
    # A loop says only that some of its items failed; the items say why.
    items = [one for one in facts.get("results") or () if isinstance(one, dict) and one.get("failed")]
    texts = [str(one.get("msg") or one.get("stderr") or "no message") for one in items or [facts]]
    lines = []
    for text in dict.fromkeys(texts):
        for prefix in (*_PREFIXES, f"{host}: "):
            text = text.removeprefix(prefix)  # noqa: PLW2901
        # A device's words may hold anything; they must not drive the operator's terminal.
        lines += ["".join(c if c.isprintable() else "?" for c in line.strip()) for line in text.splitlines()]
    return tuple(line for line in lines if line) or ("no message",)


def _again(hosts: list[str]) -> str:
    """The command line of this run; with its limit replaced by ``hosts`` where there are any."""
    words = [os.path.basename(sys.argv[0])]
    rest = iter(sys.argv[1:])
    for word in rest:
        option, given, _ = word.partition("=")
        limits = len(option) > 4 and "--limit".startswith(option)  # --lim is enough for argparse
        if hosts and (word == "-l" or (limits and not given)):
            next(rest, None)
        elif not hosts or not (limits or (word.startswith("-l") and word != "-l")):
            words.append(word)
    # A secret given with -e would end up in a log; the vault and files do not.
    if context.CLIARGS.get("extra_vars"):
        words = _without_secrets(words)
    return shlex.join([*words, *(["--limit", ",".join(hosts)] if hosts else [])])


def _without_secrets(words: list[str]) -> list[str]:
    hidden = []
    for word in words:
        low = word.lower()
        secret = any(part in low for part in ("password", "_pass", "secret", "token"))
        mapping = word.lstrip().startswith(("{", "["))  # JSON or YAML
        shown = "{...}" if mapping else f"{word.split('=', 1)[0]}=..."
        hidden.append(shown if secret and (mapping or "=" in word) else word)
    return hidden
