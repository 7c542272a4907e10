# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""BusyBox httpd as init starts it: on loopback behind a TLS front, and back where it was when the front goes."""

from __future__ import annotations

import re

from ansible_collections.sallyport.iot.plugins.plugin_utils.access import shell
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls.services import stunnel
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls.services.base import Plan, Site
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls.services.paths import INITTAB, STUNNEL

NAMES = ("httpd", "busybox")
"""How the kernel calls it."""
_LINE = re.compile(
    r"^(?P<head>[^:#]*:[^:]*:respawn:\s*-?(?:\S*/)?(?:busybox\s+)?(?:[^\s:]*/)?httpd)(?P<rest>(?:\s.*)?)$"
)
# -p alone, or behind others that take nothing (-fp 80).
_PORT = re.compile(r"(?P<before>\s-[fiv]*p\s*)(?P<where>\S+)")
_LOOPBACK = ("127.", "localhost:", "[::1]:")
_KEPT = "# before sallyport: "


def original(text: str) -> str:
    """inittab without what this role did to it."""
    lines: list[str] = []
    before = ""
    for line in text.splitlines():
        # Ours stands behind the one that it took the place of.
        ours, before = before, ""
        if ours:
            lines.append(ours)
            if _port(line) == _port(ours) and _where(line).startswith(_LOOPBACK):
                continue
        if line.startswith(_KEPT):
            before = line.removeprefix(_KEPT)
        elif not line.endswith(f" {STUNNEL}"):
            lines.append(line)
    lines += [before] if before else []
    return _text(lines, text)


def to_loopback(text: str, upstream: str) -> str:
    """inittab with the httpd of this port on loopback; the line as it was stays above it, for the way back."""
    lines = []
    for line in text.splitlines():
        moved = line
        if starts(line, upstream) and not _where(line).startswith(_LOOPBACK):
            moved = _with_port(line, upstream.replace("localhost", "127.0.0.1"))
        lines += [line] if moved == line else [f"{_KEPT}{line}", moved]
    return _text(lines, text)


def starts(text: str, upstream: str) -> bool:
    """Whether init starts an httpd on this port, here or already on loopback."""
    return any(_port(line) == upstream.rpartition(":")[2] for line in text.splitlines())


def _where(line: str) -> str:
    """Where a line's httpd listens, as it says; "" where it starts none."""
    match = _LINE.match(line)
    if not match:
        return ""
    found = _PORT.search(match["rest"])
    return found["where"].strip("'\"") if found else "80"


def _port(line: str) -> str:
    return _where(line).rpartition(":")[2]


def _with_port(line: str, where: str) -> str:
    """The line with another -p, and nothing else touched: there may be quotes in it."""
    match = _LINE.match(line)
    found = _PORT.search(match["rest"]) if match else None
    if not match or not found:
        return f"{line.rstrip()} -p {where}"
    at = len(match["head"])
    return f"{line[: at + found.start()]}{found['before'].rstrip()} {where}{line[at + found.end() :]}"


def _text(lines: list[str], before: str) -> str:
    return before if lines == before.splitlines() else "\n".join(lines) + "\n"


def add(plan: Plan, site: Site, *, local: bool) -> None:
    """What init starts: the front, and the plain listener where it belongs."""
    before = site.inittab
    if before is None or not site.pair:
        return
    text = original(before)
    if local:
        text = to_loopback(text, site.wanted.upstream)
    if "stunnel" in plan.services:
        text = f"{text.rstrip()}\n{stunnel.line(site)}\n"
    if text == before and not local and "stunnel" not in plan.services:
        return
    plan.files.append({"dest": INITTAB, "content": text, "mode": "keep"})
    if text == before:
        return
    # init leaves alone what runs; the next one it starts reads the new line.
    other = set(before.splitlines()) ^ set(text.splitlines())
    moved = sorted({("tcp", int(_port(line))) for line in other if _port(line).isdigit()})
    command = "kill -HUP 1" + (f"\n{shell.stop_holders(NAMES, moved)}" if moved else "")
    plan.activate.insert(0, command)
    plan.revert.append(command)
    if moved:
        plan.verify.append(shell.somebody_listens(moved))
