# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The window at boot: was a link up before the rules were, for how long at most, and what listened in it?

Sallyport's rules load before anything that a device's init starts brings a link up. The kernel (``ip=``), an initramfs
or a container engine may be earlier, and no rule set can stop that; so it is measured. ``firewall-load boot`` notes what
it found right behind the first load of a boot, and this makes sense of the note.

All figures are upper bounds. Nothing listens before init begins, so the window begins there; a program cannot have
listened for longer than it has run.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.device.facts.processes import socket_address
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.facts.text import (
    clean,
    hexadecimal,
    number,
)

_TICKS = 100  # a second of /proc/PID/stat, on every architecture that Linux still has


def read(told: str, container: str = "") -> dict[str, Any]:
    """The window as a task reports it.

    Args:
        told: what ``firewall-load window`` printed.
        container: the engine that the device runs in, "" for none; its kernel's command line is the machine's.

    Returns:
        ``measured``; ``seconds`` at most, 0 for no window; ``links`` that were up; ``listeners`` that others could
        have reached, each with its ``seconds``; ``text`` for people.
    """
    records = [line.split(" ") for line in map(clean, told.split("\n")) if line]
    loaded = next((_seconds(words[1]) for words in records if words[0] == "loaded" and len(words) > 1), None)
    seen = [words for words in records if words[0] == "link" and len(words) == 3]
    if loaded is None or not seen:
        why = "it has not booted with these rules, or could not keep the note"
        if loaded is not None:
            why = "its links could not be seen when the rules were loaded"
        elif records:
            why = "its rules have been loaded by a run since it booted; the next boot is measured"
        return _window(False, 0.0, [], [], f"the window at boot is not measured: {why}")
    links = [name for _, state, name in seen if state in ("up", "earlier")]
    if not links:
        return _window(True, 0.0, [], [], "no window at boot: no link had been up when the rules were loaded")
    began = next((number(words[2]) for words in records if words[0] == "of" and len(words) > 2), 0)
    seconds = max(round(loaded - began / _TICKS, 2), 0.01)
    listeners = _listeners(records, loaded, seconds)
    said = ", ".join(
        f"{one['process'] or 'an unknown program'} on {one['address']} {one['protocol']}/{one['port']} for at most "
        f"{one['seconds']} s"
        for one in listeners
    )
    verb = "was" if len(links) == 1 else "were"
    text = (
        f"at boot {', '.join(links)} {verb} up before the rules, because {_because(records, container)}: for at most "
        f"{seconds} s since init began; then listened: {said or 'nothing that others could reach'}"
    )
    return _window(True, seconds, links, listeners, text)


def _window(
    measured: bool, seconds: float, links: list[str], listeners: list[dict[str, Any]], text: str
) -> dict[str, Any]:
    return {"measured": measured, "seconds": seconds, "links": links, "listeners": listeners, "text": text}


def _because(records: list[list[str]], container: str) -> str:
    if container:
        return f"the engine ({container}) brings a container's links up ahead of its init"
    asked = [words[1] for words in records if words[0] == "asked" and len(words) > 1]
    if asked:
        return f"the kernel's command line asks for it ({' '.join(asked)})"
    return "something ahead of init's own network did it"


def _listeners(records: list[list[str]], loaded: float, window: float) -> list[dict[str, Any]]:
    """Sockets that took packets from others when the rules came, each with the program that has held it longest."""
    big = ["big_endian"] in records
    held: dict[int, tuple[int, str]] = {}
    for words in records:
        if words[0] == "held" and len(words) > 3:
            holder = (number(words[2]), " ".join(words[3:]))
            held[number(words[1])] = min(holder, held.get(number(words[1]), holder))
    found: dict[tuple[str, str, int], dict[str, Any]] = {}
    for words in records:
        if words[0] != "socket" or len(words) != 4:
            continue
        place, _, port = words[2].partition(":")
        address = socket_address(place, big)
        if not address or ipaddress.ip_address(address).is_loopback:
            continue
        since, name = held.get(number(words[3]), (0, ""))
        seconds = max(round(loaded - since / _TICKS, 2), 0.01) if since else window
        protocol = words[1].removesuffix("6")
        found[protocol, address, hexadecimal(port)] = {
            "protocol": protocol,
            "address": address,
            "port": hexadecimal(port),
            "process": name,
            "seconds": min(seconds, window),
        }
    return [found[key] for key in sorted(found, key=lambda key: (key[0], key[2], key[1]))]


def _seconds(text: str) -> float | None:
    return float(text) if re.fullmatch(r"[0-9]{1,10}(\.[0-9]{1,9})?", text) else None
