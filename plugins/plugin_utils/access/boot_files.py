# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The small files that start services at boot: reading them, and switching single entries off.

inittab, inetd.conf, xinetd.d, BusyBox rc scripts, cron's @reboot, and what systemd is told of consoles. An entry is switched off by marking its
line, never by deleting it, so that whoever reads the file on the device sees what was there and who took it
out.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

MARK = "# switched off by sallyport: "


@dataclass(frozen=True)
class Entry:
    """One thing that a file starts.

    Attributes:
        kind: inittab, inetd, xinetd, rc, cron or unit.
        path: the file.
        line: of its first line, from 1.
        name: the service's name where the format has one, else empty.
        command: what is run, as written.
    """

    kind: str
    path: str
    line: int
    name: str
    command: str

    @property
    def programs(self) -> tuple[str, ...]:
        """Base names of all words of the command: a wrapper (tcpd, busybox, start-stop-daemon) hides the real
        one.
        """
        return tuple(posixpath.basename(word.strip(";&|(){}`'")) for word in words(self.command))


def words(command: str) -> list[str]:
    """The words of a command line, quotes removed where they are whole."""
    try:
        return shlex.split(command, comments=True)
    except ValueError:
        return command.split()


def kind_of(path: str) -> str:
    """What format a file has, from its path; empty for none of ours."""
    if path == "/etc/inittab":
        return "inittab"
    if path == "/etc/inetd.conf" or path.startswith("/etc/inetd.d/"):
        return "inetd"
    if path == "/etc/xinetd.conf" or path.startswith("/etc/xinetd.d/"):
        return "xinetd"
    if path == "/etc/crontab" or path.startswith(("/etc/cron.d/", "/var/spool/cron/", "/etc/crontabs/")):
        return "cron"
    if path.startswith("/etc/systemd/system/"):
        return "unit"
    if path.startswith(("/etc/init.d/", "/etc/rc.d/", "/etc/rc")):
        return "rc"
    return ""


def entries(path: str, text: str) -> Iterator[Entry]:
    """What this file starts, entries that are switched off left out."""
    kind = kind_of(path)
    if kind == "xinetd":
        yield from _xinetd(path, text)
        return
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith(("#", ": #")):
            continue
        if kind == "inittab":
            parts = line.split(":", 3)
            if len(parts) == 4 and parts[2] != "off":
                yield Entry(kind, path, number, parts[0], parts[3])
        elif kind == "inetd":
            # service type protocol wait user program arguments
            fields = line.split(None, 5)
            if len(fields) == 6:
                yield Entry(kind, path, number, fields[0].rpartition(":")[2], fields[5])
        elif kind == "cron":
            if line.startswith("@reboot"):
                yield Entry(kind, path, number, "", line[len("@reboot") :].strip())
        elif kind == "unit":
            # An empty value only takes back what stood before it.
            if line.startswith("ExecStart=") and line != "ExecStart=":
                yield Entry(kind, path, number, unit_of(path), line[len("ExecStart=") :].lstrip("-@+!:"))
        elif kind == "rc":
            yield Entry(kind, path, number, "", line)


def unit_of(path: str) -> str:
    """The unit that a file below /etc/systemd/system is, or is a drop-in of."""
    first = path[len("/etc/systemd/system/") :].partition("/")[0]
    return first[:-2] if first.endswith(".d") else first


def is_drop_in(path: str) -> bool:
    """Whether a unit is still there without this file."""
    return posixpath.dirname(path).endswith(".d")


_SHELL = frozenset(("sh", "ash", "bash", "dash", "hush", "busybox"))


def asks_nobody(command: str) -> bool:
    """Whether what runs on a terminal is a shell, or a login that asks for no password."""
    parts = words(command)
    if not parts:
        return False
    program = posixpath.basename(parts[0].lstrip("-"))
    if program == "busybox" and len(parts) > 1:
        parts = parts[1:]
        program = parts[0]
    arguments = parts[1:]
    if program in _SHELL:
        # With a script to run it is no shell for whoever sits there.
        return all(word in ("-l", "-i", "--login", "-") for word in arguments)
    if program == "login":
        return "-f" in arguments
    if program in ("getty", "agetty", "mingetty"):
        if any(word in ("-a", "--autologin") or word.startswith("--autologin=") for word in arguments):
            return True
        given = [
            posixpath.basename(after)
            for word, after in pairwise(arguments)
            if word in ("-l", "--login-program")
        ]
        return bool(_SHELL & set(given))
    return False


def _xinetd(path: str, text: str) -> Iterator[Entry]:
    name, start = "", 0
    fields: dict[str, str] = {}
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if line.startswith("#"):
            continue
        if line.startswith("service "):
            name, start, fields = line.split(None, 1)[1].rstrip("{").strip(), number, {}
        elif line.startswith("}") and name:
            if fields.get("disable", "no") != "yes":
                yield Entry(
                    "xinetd",
                    path,
                    start,
                    name,
                    f"{fields.get('server', '')} {fields.get('server_args', '')}".strip(),
                )
            name = ""
        elif "=" in line and name:
            key, _, value = line.partition("=")
            fields[key.strip()] = value.strip()


def port_of(entry: Entry, text: str) -> int:
    """The port that an xinetd entry names itself, 0 where it names none."""
    if entry.kind != "xinetd":
        return 0
    lines = text.splitlines()[entry.line - 1 :]
    for raw in lines:
        if raw.strip().startswith("}"):
            break
        key, _, value = raw.partition("=")
        if key.strip() == "port" and value.strip().isdecimal():
            return int(value)
    return 0


# A line that opens, continues or closes a construct cannot be taken out by itself.
_NOT_ALONE = re.compile(
    r"^(if|then|else|elif|fi|for|while|until|do|done|case|esac|function)\b|^[\w-]+\s*\(\)|^[{}()]|^[^\s()]+\)"
    r"|(\\|\bthen|\bdo|\{|&&|\|\||\||\()$"
)


def can_switch_off(entry: Entry) -> bool:
    """Whether this one line can go without breaking what stands around it."""
    return entry.kind != "rc" or not (_NOT_ALONE.search(entry.command) or "<<" in entry.command)


def switched_off(text: str, entry: Entry) -> str:
    """``text`` with this entry marked as off.

    Entries of one file may be switched off one after the other: line numbers stay what they were, but for
        xinetd,
    whose entries are to be switched off from the last to the first.
    """
    lines = text.splitlines(keepends=True)
    index = entry.line - 1
    if entry.kind == "unit":
        # With the command the line goes that takes back the one of the unit itself: that one is to run again.
        return "".join(f"{MARK}{line}" if line.strip().startswith("ExecStart=") else line for line in lines)
    if entry.kind == "xinetd":
        return "".join(_xinetd_off(lines, index))
    raw = lines[index]
    indent = raw[: len(raw) - len(raw.lstrip())]
    # A shell needs a command where one stood: a body of comments alone is a syntax error.
    mark = f": {MARK}" if entry.kind == "rc" else MARK
    lines[index] = f"{indent}{mark}{raw.lstrip()}"
    return "".join(lines)


def _xinetd_off(lines: list[str], index: int) -> list[str]:
    result = lines[: index + 1]
    body = lines[index + 1 :]
    opened = "{" in lines[index]
    done = False
    for position, raw in enumerate(body):
        line = raw.strip()
        if line.startswith("}") and not done:
            # The mark on a line of its own: xinetd would take it for more values.
            result.append(f"\t{MARK.rstrip(': ')}\n\tdisable = yes\n")
            return result + body[position:]
        if opened and line.partition("=")[0].strip() == "disable":
            continue
        opened = opened or line.startswith("{")
        result.append(raw)
    return result
