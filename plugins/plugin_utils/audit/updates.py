# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a device's record of its updates means for the audit. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.audit.findings import Finding, Weight

AUTOMATIC, AUTHENTIC, TIMELY = "updates-automatic", "updates-authentic", "updates-timely"
_DAY = 86400
_SLACK = 120  # seconds that a timer may be late, and a device slow


def judge_updates(result: Mapping[str, Any], most_days: int) -> list[Finding]:
    """The findings of ``sallyport.iot.update_status``; ``result`` is empty or skipped where it was not asked.

    Args:
        most_days: how old a pending update, or the last look, may be.
    """
    if result.get("skipped") or not result:
        return []
    record = result.get("updates")
    if result.get("unreachable") or result.get("failed") or not isinstance(record, Mapping):
        why = str(result.get("msg", "no answer")).strip()
        remedy = "mend what it says and run the audit again"
        return [
            Finding(
                "updates_not_assessed",
                control,
                "not_assessed",
                f"its updates could not be asked for: {why}",
                remedy,
            )
            for control in (AUTOMATIC, AUTHENTIC, TIMELY)
        ]
    if not record["agent"]:
        message = "Sallyport has set up no update agent here, so its updates were not judged"
        return [Finding("no_agent", AUTOMATIC, "note", message, "use the role update_agent")]
    return [*_running(record, most_days), *_believed(record), *_current(record, most_days)]


def _running(record: Mapping[str, Any], most_days: int) -> Iterator[Finding]:
    """Does it update by itself, and does that end well?"""
    mode = record["mode"]
    if mode == "manual":
        message = f"taken out of automatic updates: {record['reason']}"
        yield Finding(
            "opted_out", AUTOMATIC, "note", message, "set update_agent_mode to automatic when that has passed"
        )
        return
    if mode != "automatic" and not (mode == "postponed" and record["until"] <= record["now"]):
        message = f"its updates are not automatic ({mode})"
        yield Finding(
            "opted_out", AUTOMATIC, "note", message, "set update_agent_mode to automatic when that has passed"
        )
    if record["timer"] != "active":
        yield Finding(
            "no_timer",
            AUTOMATIC,
            "difference",
            f"the update timer is {record['timer']}",
            "run harden.yml --tags update_agent",
        )
    if record["result"] in ("blocked", "failed", "unhealthy", "rolled_back"):
        message = f"the last run ended as {record['result'].replace('_', ' ')}: {record['message']}"
        yield Finding(
            "update_failed",
            AUTOMATIC,
            "difference",
            message,
            "mend that; systemctl start sallyport-update tries again",
        )
    for held in record["held"]:
        message = f"{held['name']} {held['version']} harmed this device and is held: {held['why']}"
        yield Finding("held", AUTOMATIC, "difference", message, "publish a version that mends it")
    if record["reboot_needed"]:
        message = "an update counts only after a reboot, which has not happened"
        yield Finding(
            "reboot_needed", AUTOMATIC, "note", message, "reboot it, or allow a window: update_agent_reboot"
        )
    since = record["now"] - record["checked"]
    if record["checked"] and since > most_days * _DAY:
        message = f"no source has answered as it should for {since // _DAY} days"
        yield Finding(
            "not_checked",
            AUTOMATIC,
            "difference",
            message,
            "see journalctl -u sallyport-update on the device",
        )
    elif not record["ran"] and record["timer"] == "active" and record["now"] <= record["first"] + _SLACK:
        minutes = (max(0, record["first"] - record["now"]) + 59) // 60
        message = f"it has not looked for updates yet, and will within {minutes} minutes"
        yield Finding("not_checked", AUTOMATIC, "note", message, "run the audit again when its timer has")
    elif not record["checked"]:
        message = "no source has answered yet" if record["ran"] else "it has not looked for updates yet"
        yield Finding(
            "not_checked", AUTOMATIC, "not_assessed", message, "run the audit again when its timer has"
        )


def _believed(record: Mapping[str, Any]) -> Iterator[Finding]:
    """What came and was not what the source's owner signed."""
    for refused in record["refused"]:
        message = f"refused ({refused['kind']}): {refused['why']}"
        yield Finding(
            "update_refused",
            AUTHENTIC,
            "difference",
            message,
            "look at the repository, and at who can reach it",
        )


def _current(record: Mapping[str, Any], most_days: int) -> Iterator[Finding]:
    """How long has it gone without what is offered?"""
    for one in record["pending"]:
        if one["kind"] == "other" or one["age"] <= most_days * _DAY:
            continue
        message = (
            f"{one['name']} {one['offered']} ({one['kind']}) has been pending for {one['age'] // _DAY} days"
        )
        weight: Weight = "note" if record["mode"] == "manual" else "difference"
        yield Finding(
            "update_overdue", TIMELY, weight, message, "see the last run's message, its window and its delay"
        )


def describe(record: Mapping[str, Any]) -> str:
    """The record in one line, for people; "" where Sallyport has set up no agent."""
    if not record.get("agent"):
        return ""
    reason = f": {record['reason']}" if record["reason"] else ""
    parts = [f"{record['agent']}, {record['mode']}{reason}"]
    for key, words in (("checked", "last check"), ("succeeded", "last success")):
        parts.append(f"{words} {_span(record['now'] - record[key]) + ' ago' if record[key] else 'never'}")
    pending = [
        f"{one['name']} {one['installed']} to {one['offered']} ({one['kind']}, {_span(one['age'])})"
        for one in record["pending"]
    ]
    parts.append(f"pending {_some(pending)}")
    parts += [f"refused {_some([one['kind'] for one in record['refused']])}"] if record["refused"] else []
    held = [f"{one['name']} {one['version']}" for one in record["held"]]
    parts += [f"held {_some(held)}"] if held else []
    return "; ".join(parts)


def _some(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(names[:most]) or "none"
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def _span(seconds: int) -> str:
    """
    >>> _span(90), _span(7200), _span(200000)
    ('1 min', '2 h', '2 days')
    """
    for size, name in ((_DAY, "days"), (3600, "h")):
        if seconds >= size:
            return f"{seconds // size} {name}"
    return f"{max(0, seconds) // 60} min"
