# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What every agent has on a device: the program, its settings, its timers; and the one question that tells whether all of
it is as wanted. Pure.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents import AGENTS, NONE
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents.base import (
    AGENT,
    FOLDER,
    SETTINGS,
    STATE,
    Agent,
    Found,
    Part,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.settings import Settings, clock

RUN, HEALTH = (f"{FOLDER}/{name}" for name in ("run.sh", "health.sh"))
_UNITS = "/etc/systemd/system"
_UPDATE, _REBOOT = "sallyport-update", "sallyport-reboot"
_TIMERS = (f"{_UPDATE}.timer", f"{_REBOOT}.timer")
_FIRST = 300  # seconds after a start, or after the set-up, at which a device looks at the latest, beside its jitter
_CHECK_SECONDS = 60  # that one of the operator's checks may take, or health_seconds if that is longer
_LOOKS = 3  # in a row, that find a device healthy after an update
_MANAGED = "# Managed by Sallyport: role update_agent.\n"
# Read by the question below and by the status, on every kind of device.
CURRENT = "timers() { systemctl is-active " + " ".join(_TIMERS) + " 2>/dev/null | tr '\\n' ' ' || :; }\n"


@dataclass(frozen=True)
class Wanted:
    """Everything that the device is to have, and the commands that make it live."""

    files: tuple[Mapping[str, Any], ...]
    commands: Mapping[str, tuple[str, ...]]
    timers: tuple[str, ...]
    units: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    slow: int = 0


def question(agent: Agent | None, paths: Sequence[str]) -> str:
    """One read-only program: what is at ``paths``, do the timers run, and what the agent itself wants to know."""
    names = " ".join(shlex.quote(path) for path in paths)
    return (
        f"{CURRENT}"
        f"for file in {names}; do\n"
        '  if [ -L "$file" ]; then say "link $file $(readlink "$file")"\n'
        '  elif [ -f "$file" ]; then\n'
        '    say "digest $file $(sha256sum <"$file")"\n'
        '    meta=$(ls -ld "$file"); set -- $meta\n'
        '    say "mode $file $1 $3 $4"\n'
        "  fi\n"
        "done\n"
        "if command -v systemctl >/dev/null; then say timers $(timers); fi\n"
    ) + (agent.question() if agent else "")


def read(reply: Reply) -> Found:
    """The answer to :func:`question`."""
    texts: dict[str, str] = {}
    answers = {key: reply.get(key) for key in ("timers", "policy", "packages", "running", "users")}
    tables: dict[str, dict[str, str]] = {"link": {}, "digest": {}, "mode": {}}
    for key, value in reply.records:
        if key.startswith("text "):
            texts[key[len("text ") :]] = value
        elif key == "answer":
            name, _, rest = value.partition(" ")
            answers[name] = rest
        elif key in tables:
            path, _, rest = value.partition(" ")
            tables[key][path] = rest.split("  ")[0].split()[0] if key == "digest" else rest
    return Found(texts, tables["digest"], tables["mode"], tables["link"], answers)


def paths(settings: Settings, agent: Agent | None) -> list[str]:
    """Every path that this role may ever put something at, to be asked for before it is known what goes there."""
    # Nothing is known yet, so nothing may be missing.
    empty = wanted(replace(settings, install=True), agent, {"os": {"id": "debian"}}, Found())
    return [str(entry["dest"]) for entry in empty.files]


def wanted(settings: Settings, agent: Agent | None, device: Mapping[str, Any], found: Found) -> Wanted:
    """The device as the operator wants it. Raises Unsupported where the agent cannot."""
    part = agent.plan(settings, device, found) if agent else Part()
    files: list[Mapping[str, Any]] = [_file(SETTINGS, _settings(settings, agent, part))]
    if agent is None:
        return Wanted(tuple(files), {"revert": (_FORGET,)}, ())
    timers = _wanted_timers(settings)
    files += [
        _file(RUN, (Path(__file__).parent / "run.sh").read_text(encoding="utf-8"), "0755"),
        _file(AGENT, agent.program()),
        _file(HEALTH, _health(settings.health, max(_CHECK_SECONDS, settings.health_seconds)), "0700"),
        _file(f"{_UNITS}/{_UPDATE}.service", _service("look for updates, and install them", "update")),
        _file(f"{_UNITS}/{_REBOOT}.service", _service("reboot where an update needs it", "reboot")),
        _file(f"{_UNITS}/{_UPDATE}.timer", _update_timer(settings)),
        _file(f"{_UNITS}/{_REBOOT}.timer", _reboot_timer(settings)),
    ]
    for timer in _TIMERS:
        link = f"{_UNITS}/timers.target.wants/{timer}"
        target = f"{_UNITS}/{timer}"
        files.append({"dest": link, "link": target} if timer in timers else {"dest": link, "state": "absent"})
    files += part.files
    there = {entry["dest"] for entry in files}
    others_own = dict.fromkeys(path for other in AGENTS for path in other.own)
    files += [{"dest": path, "state": "absent"} for path in others_own if path not in there]
    others = tuple(timer for timer in _TIMERS if timer not in timers)
    start = [f"systemctl restart {timer}" for timer in timers] + [
        f"systemctl stop {timer}" for timer in others
    ]
    commands = {
        "check": (
            f'sh -n "$(staged {RUN})" && sh -n "$(staged {AGENT})" && sh -n "$(staged {HEALTH})" && sh -n "$(staged {SETTINGS})"',
            *part.check,
        ),
        "activate": ("systemctl daemon-reload", *part.activate, *start),
        "verify": (*(f"systemctl -q is-active {unit}" for unit in (*timers, *part.units)), *part.verify),
        "revert": ("systemctl daemon-reload", *part.revert, _AS_ON_DISK),
        "live": (f"{CURRENT}timers", *(f"systemctl is-active {unit} || :" for unit in part.units)),
    }
    return Wanted(tuple(files), commands, timers, part.units, part.notes, part.warnings, part.slow)


def converged(plan: Wanted, found: Found) -> bool:
    """Whether the device has all of it: content, mode and owner of every file, and the timers and services run that should."""
    for entry in plan.files:
        path = str(entry["dest"])
        there = path in found.digests or path in found.links or path in found.texts
        if entry.get("state") == "absent":
            if there:
                return False
        elif "link" in entry:
            if found.links.get(path) != entry["link"]:
                return False
        elif entry.get("mode") == "keep":
            if found.texts.get(path) != entry["content"]:
                return False
        else:
            digest = hashlib.sha256(str(entry["content"]).encode()).hexdigest()
            if (
                found.digests.get(path) != digest
                or found.modes.get(path) != f"{_letters(entry['mode'])} {entry.get('owner', 'root')} root"
            ):
                return False
    if not set(plan.units) <= set(found.answers.get("running", "").split()):
        return False
    active = found.answers.get("timers", "").split()
    return not plan.commands.get("live") or active == [
        "active" if timer in plan.timers else "inactive" for timer in _TIMERS
    ]


def _wanted_timers(settings: Settings) -> tuple[str, ...]:
    if settings.mode == "manual":
        return ()
    return _TIMERS if settings.reboot != "never" else _TIMERS[:1]


def _file(path: str, content: str, mode: str = "0644") -> dict[str, Any]:
    return {"dest": path, "content": content, "mode": mode}


def _letters(mode: str) -> str:
    """
    >>> _letters("0755")
    '-rwxr-xr-x'
    """
    return "-" + "".join("rwx"[i] if int(digit) & (4 >> i) else "-" for digit in mode[-3:] for i in range(3))


def _settings(settings: Settings, agent: Agent | None, part: Part) -> str:
    values: dict[str, Any] = {
        "AGENT": agent.name if agent else NONE,
        "MODE": settings.mode,
        "REASON": settings.reason,
        "UNTIL": settings.until,
        "RING": settings.ring,
        "EVERY": settings.every,
        "FIRST": min(settings.every, _FIRST) + settings.jitter,
        "WINDOW_BEGIN": settings.window.begin,
        "WINDOW_LENGTH": settings.window.length,
        "DELAY": settings.delay_days * 86400,
        "HEALTH_SECONDS": settings.health_seconds,
        "LOOKS": min(settings.health_seconds, _LOOKS),
        "ROLLBACK": " ".join(settings.rollback),
        "REBOOT": settings.reboot,
        "REBOOT_BEGIN": settings.reboot_window.begin,
        "REBOOT_LENGTH": settings.reboot_window.length,
        "RESERVE_KB": settings.reserve_mb * 1024,
        "COMMITS": settings.state_dir,
        **part.shell,
    }
    return _MANAGED + "".join(f"{name}={shlex.quote(str(value))}\n" for name, value in values.items())


def _health(commands: Sequence[str], seconds: int) -> str:
    """Each check in a shell of its own; the first that fails, or does not end within ``seconds``, says which it was."""
    text = f"#!/bin/sh\n{_MANAGED}set -u\n"
    for number, command in enumerate(commands):
        text += (
            # One that hangs would hold the verdict up, and with it the way back. What it has started may outlive it, and would
            # hold a pipe open.
            f"timeout -k 5 {seconds} /bin/sh -eu -c {shlex.quote(command)} >check.log 2>&1 </dev/null || {{\n"
            # BusyBox' timeout ends as what it has told to end does.
            f"    case $? in 124 | 137 | 143) said='it has not ended within {seconds} seconds' ;; *) said=$(tail -n 1 check.log) ;; esac\n"
            f"    printf 'update_agent_health[{number}] failed: %s\\n' \"$said\"\n    exit 1\n}}\n"
        )
    return text


def _service(what: str, word: str) -> str:
    # A shutdown waits for dpkg as long as dpkg needs: only run.sh is told to stop, and it ends with what it has begun. No time is
    # too long for a slow line: a run that systemd gave up would go on by itself, beside the next one.
    return (
        f"{_MANAGED}[Unit]\nDescription=Sallyport: {what}\nAfter=network-online.target time-sync.target\n"
        "Wants=network-online.target\n\n"
        f"[Service]\nType=oneshot\nExecStart=/bin/sh {RUN} {word}\nTimeoutStartSec=infinity\nTimeoutStopSec=15min\n"
        "KillMode=process\nNice=10\nIOSchedulingClass=idle\n"
    )


def _update_timer(settings: Settings) -> str:
    accuracy = "1s" if settings.every < 600 else "1min"
    lines = [
        f"OnBootSec={min(settings.every, _FIRST)}",
        f"OnActiveSec={min(settings.every, _FIRST)}",
        f"OnUnitInactiveSec={settings.every}",
    ]
    if settings.window.length < 24 * 60:
        lines.append(f"OnCalendar=*-*-* {clock(settings.window.begin)}:00")
    return (
        f"{_MANAGED}[Unit]\nDescription=Sallyport: when this device looks for updates ({settings.window.text})\n\n"
        "[Timer]\n" + "".join(f"{line}\n" for line in lines) +
        f"RandomizedDelaySec={settings.jitter}\nAccuracySec={accuracy}\n\n[Install]\nWantedBy=timers.target\n"
    )  # fmt: skip


def _reboot_timer(settings: Settings) -> str:
    at = (settings.reboot_window.begin + settings.reboot_offset) % (24 * 60)
    jitter = min(300, settings.reboot_window.length * 30) if settings.reboot == "window" else 0
    return (
        f"{_MANAGED}[Unit]\nDescription=Sallyport: when this device may reboot ({settings.reboot_window.text})\n\n"
        f"[Timer]\nOnCalendar=*-*-* {clock(at)}:00\nRandomizedDelaySec={jitter}\nAccuracySec=1s\n\n"
        "[Install]\nWantedBy=timers.target\n"
    )


# What is on disk after a way back says which timers there are; where none is, what they left goes too.
_AS_ON_DISK = (
    f"for timer in {' '.join(_TIMERS)}; do\n"
    f'  if [ -e {_UNITS}/timers.target.wants/"$timer" ]; then systemctl restart "$timer"; else systemctl stop "$timer" || :; fi\n'
    "done\n"
    f"if [ ! -e {SETTINGS} ]; then\n"
    # A unit that failed is remembered, even when its file is gone.
    f"  for unit in {' '.join(_TIMERS)} {_UPDATE}.service {_REBOOT}.service; do\n"
    '    systemctl reset-failed "$unit" 2>/dev/null || :\n  done\n'
    f"  systemctl daemon-reload\n  rm -rf {STATE}\nfi"
)
_FORGET = f"if [ ! -e {SETTINGS} ]; then rm -rf {STATE}; fi"
