# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a device says of its updates: asked in one exchange, read here, for the audit and for promotions. Pure."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Mapping
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents.base import SETTINGS, STATE
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.house import CURRENT

QUESTION = f"""
say now "$(date +%s)"
if [ -r {SETTINGS} ]; then
  blob settings <{SETTINGS}
  say set_up "$(date -r {SETTINGS} +%s)"
fi
if [ -r {STATE}/status ]; then blob status <{STATE}/status; fi
{CURRENT}
if command -v systemctl >/dev/null; then say timers $(timers); fi
"""


def read(reply: Reply) -> dict[str, Any]:
    """The record, with every key present; ``agent`` is "" where Sallyport has set up none.

    Times are epochs of the device's own clock, ages are seconds.
    """
    settings = dict(_assignments(reply.get("settings")))
    now, set_up = (_number(reply.get(key)) for key in ("now", "set_up"))
    record: dict[str, Any] = {
        "agent": settings.get("AGENT", ""),
        "mode": settings.get("MODE", ""),
        "reason": settings.get("REASON", ""),
        "until": _number(settings.get("UNTIL", "")),
        "ring": settings.get("RING", ""),
        "every": _number(settings.get("EVERY", "")),
        "first": set_up + _number(settings.get("FIRST", "")) if set_up <= now else 0,
        "timer": (reply.get("timers").split() or ["unknown"])[0],
        "now": now,
        "ran": 0,
        "checked": 0,
        "succeeded": 0,
        "result": "",
        "message": "",
        "reboot_needed": False,
        "pending": [],
        "refused": [],
        "held": [],
        "installed": [],
        "back": [],
        "restart": [],
        "remarks": [],
    }
    for line in reply.get("status").splitlines():
        word, _, rest = line.partition(" ")
        _take(record, word, rest, now)
    return record


def _take(record: dict[str, Any], word: str, rest: str, now: int) -> None:
    parts = rest.split()
    if word in ("ran", "checked", "succeeded"):
        record[word] = _number(rest)
    elif word in ("result", "message"):
        record[word] = rest
    elif word == "reboot":
        record["reboot_needed"] = True
    elif word == "pending" and len(parts) == 5:
        keys = ("name", "installed", "offered", "kind")
        record["pending"].append(
            {**dict(zip(keys, parts, strict=False)), "age": max(0, now - _number(parts[4]))}
        )
    elif word == "refused" and parts:
        record["refused"].append({"kind": parts[0], "why": rest.partition(" ")[2]})
    elif word == "held" and len(parts) >= 3:
        why = rest.split(" ", 3)[3] if len(parts) > 3 else ""
        record["held"].append({"name": parts[0], "version": parts[1], "since": _number(parts[2]), "why": why})
    elif word == "installed" and len(parts) == 3:
        record["installed"].append({"name": parts[0], "version": parts[1], "since": _number(parts[2])})
    elif word in ("back", "restart"):
        record[word].append(rest)
    elif word in ("waiting", "unreachable", "repaired", "unprepared"):
        record["remarks"].append(f"{word}: {rest}")


def _assignments(text: str) -> Mapping[str, str]:
    found = {}
    for line in text.splitlines():
        name, sign, value = line.partition("=")
        if sign and name.isidentifier():
            with contextlib.suppress(ValueError):  # a quote that somebody broke
                found[name] = "".join(shlex.split(value)[:1])
    return found


def _number(text: str) -> int:
    """What a device says need not be a number."""
    return int(text) if text.isascii() and text.isdigit() else 0
