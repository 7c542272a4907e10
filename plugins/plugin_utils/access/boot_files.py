# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The small files that start services at boot: reading them, and switching single entries off.

inittab, inetd.conf, xinetd.d, BusyBox rc scripts, crontabs, and what systemd is told of consoles. An entry is switched off by marking its
line, never by deleting it, so that whoever reads the file on the device sees what was there and who took it
out.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

MARK = "# switched off by sallyport: "
# Stands in a loop for what was its body, which must not begin to run in circles.
_IDLE = "sleep 60 "


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
        """Base names of the programs that are run, behind wrappers (tcpd, busybox, start-stop-daemon).

        What a program is told about is none of them: ``killall telnetd`` and ``chmod 000 /usr/sbin/in.ftpd`` start nothing.
        """
        if self.kind in ("inetd", "xinetd"):
            # The program, what it is to call itself, and behind a wrapper the real one.
            return tuple(posixpath.basename(word) for word in words(self.command)[:3])
        return tuple(posixpath.basename(parts[0]) for parts in called(self.command))


def words(command: str) -> list[str]:
    """The words of a command line, quotes removed where they are whole."""
    try:
        return shlex.split(command, comments=True)
    except ValueError:
        return command.split()


_SEPARATORS = ";&|(){}`"
_KEYWORDS = frozenset(
    ["if", "then", "else", "elif", "while", "until", "do", "!", "time", "export", "local", "readonly"]
)
# They run the program that is named next.
_WRAPPERS = frozenset(
    [
        "busybox",
        "env",
        "nohup",
        "setsid",
        "nice",
        "ionice",
        "exec",
        "eval",
        "command",
        "stdbuf",
        "chrt",
        "taskset",
        "timeout",
        "tcpd",
        "daemon",
        "daemonize",
        "service_start",
        "cttyhack",
        "openvt",
        "unshare",
        "sudo",
        "doas",
        "respawn",
    ]
)
_ASSIGNED = re.compile(r"(\w+)=(\S*)")
_NAMES_PROGRAM = re.compile(r"(\w*_)?(DAEMON|PROG|PROGRAM|BIN|BINARY|EXEC|CMD|COMMAND)", re.IGNORECASE)


def called(command: str) -> list[list[str]]:
    """The simple commands of a line of shell, wrappers and keywords taken off; a program that a variable is set to too."""
    found: list[list[str]] = []
    for segment in _segments(command):
        parts = list(segment)
        while parts:
            assigned = _ASSIGNED.fullmatch(parts[0])
            if assigned:
                if "bin/" in assigned[2] or _NAMES_PROGRAM.fullmatch(assigned[1]):
                    found.append([assigned[2]])
            elif parts[0] not in _KEYWORDS:
                break
            parts = parts[1:]
        parts = unwrapped(parts)
        if not parts:
            continue
        found.append(parts)
        if posixpath.basename(parts[0]) in _SHELL and "-c" in parts[1:-1]:
            found += called(parts[parts.index("-c") + 1])
    return [parts for parts in found if parts[0]]


def unwrapped(parts: list[str]) -> list[str]:
    """A simple command without what only runs another one."""
    while parts:
        program = posixpath.basename(parts[0].lstrip("-"))
        if program == "start-stop-daemon":
            return _started(parts)
        if program == "procd_set_param" and parts[1:2] == ["command"]:
            parts = parts[2:]
        elif program == "chroot":
            parts = [word for word in parts[1:] if not word.startswith("--")][1:] or ["sh"]
        elif program == "command" and parts[1:2] in (["-v"], ["-V"]):
            break
        elif program in _WRAPPERS and len(parts) > 1:
            parts = parts[1:]
            while parts and (
                parts[0].startswith("-") or parts[0].isdecimal() or _ASSIGNED.fullmatch(parts[0])
            ):
                parts = parts[1:]
        else:
            break
    return parts


def _started(parts: list[str]) -> list[str]:
    if not any(word == "--start" or re.fullmatch(r"-[A-Za-z]*S[A-Za-z]*", word) for word in parts):
        return parts
    for word, after in pairwise(parts):
        if word in ("--exec", "--startas") or re.fullmatch(r"-[A-Za-z]*[xa]", word):
            return [after, *parts[parts.index("--") + 1 :]] if "--" in parts else [after]
        if word.startswith(("--exec=", "--startas=")):
            return [word.partition("=")[2]]
    return parts


NETCATS = frozenset(["nc", "netcat", "ncat", "nc.traditional", "nc.openbsd"])
# They take connections and run what stands behind an address and a port, or behind their options.
_FOR_EACH = frozenset(["tcpsvd", "udpsvd", "tcpserver"])
_VALUED_BY_NETCAT = frozenset("pwisgGoqTxXmfOPIVM")
_VALUED_BY_SERVER = frozenset("cCbuliitxgB")
_TERMINALS = frozenset(["ttyd", "gotty"])
_NETWORK = re.compile(
    r"(?P<tls>ssl|openssl|dtls)?\w*?(?<!unix)(?<!abstract)-(l|listen|recv|recvfrom)(:.*)?", re.IGNORECASE
)


def served(parts: Sequence[str]) -> list[str]:
    """What a program that listens for others runs for each who connects: ``nc -e``, socat, tcpsvd, ttyd; [] for nothing."""
    program, arguments = posixpath.basename(parts[0].lstrip("-")) if parts else "", list(parts[1:])
    if program in NETCATS:
        return _by_netcat(arguments)
    if program == "socat":
        return _by_socat(arguments)
    if program in _FOR_EACH:
        return _by_server(arguments)
    if program in _TERMINALS and not any(re.match(r"(-c|--credential)\b", word) for word in arguments):
        for number, word in enumerate(arguments):
            if posixpath.basename(word) in _SHELL or posixpath.basename(word) in ("login", "su"):
                return arguments[number:]
    return []


def _by_netcat(arguments: list[str]) -> list[str]:
    listens, command = False, list[str]()
    for word, after, last in zip(arguments, [*arguments[1:], ""], [*arguments[2:], "", ""], strict=False):
        name, equals, value = word.partition("=")
        if name == "--listen":
            listens = True
        elif name in ("--exec", "--sh-exec"):
            command = words(value if equals else after)
        elif re.fullmatch(r"-[A-Za-z0-9].*", word):
            for position, letter in enumerate(word[1:], 2):
                listens = listens or letter == "l"
                if letter in "ec":
                    command = words(word[position:] or after)
                    script = after if word[position:] else last
                    # BusyBox takes all words that follow; elsewhere they are options, an address and a port.
                    if command and "/" in script and not script.startswith("-"):
                        command.append(script)
                if letter in "ec" or letter in _VALUED_BY_NETCAT:
                    break
    return command if listens else []


def _by_socat(arguments: list[str]) -> list[str]:
    listens, command = False, list[str]()
    for word in arguments:
        network = _NETWORK.fullmatch(word.partition(",")[0])
        # Without a word of it, socat asks a caller over TLS for a certificate.
        if network and (not network["tls"] or re.search(r",verify=0\b", word)):
            listens = True
        kind, _, value = word.partition(":")
        if kind.lower() in ("exec", "system", "shell") or kind.lower().startswith("shell,"):
            command = words(value.partition(",")[0]) or ["sh"]
    return command if listens else []


def _by_server(arguments: list[str]) -> list[str]:
    rest = arguments
    while rest and rest[0].startswith("-") and len(rest[0]) > 1:
        valued = next((place for place, letter in enumerate(rest[0]) if letter in _VALUED_BY_SERVER), 0)
        rest = rest[2:] if valued and valued == len(rest[0]) - 1 else rest[1:]
    return rest[2:]


def listens(parts: Sequence[str]) -> bool:
    """Whether this is a netcat that waits for somebody."""
    return posixpath.basename(parts[0]) in NETCATS and any(
        word == "--listen" or re.fullmatch(r"-[A-Za-z0-9]*l\w*", word) for word in parts[1:]
    )


def _segments(command: str) -> list[list[str]]:
    try:
        lexer = shlex.shlex(command, posix=True, punctuation_chars=f"{_SEPARATORS}<>")
        lexer.whitespace_split = True
        tokens = list(lexer)
    except ValueError:
        return [each.split() for each in re.split(f"[{_SEPARATORS}]+", command)]
    found: list[list[str]] = [[]]
    redirected = False
    for token in tokens:
        if token and all(letter in f"{_SEPARATORS}<>" for letter in token):
            redirected = token[0] in "<>" or token[-1] in "<>"
            if not redirected:
                found.append([])
            elif found[-1][-1:] in (["0"], ["1"], ["2"]):
                found[-1].pop()  # what is redirected, and no argument
        elif redirected:
            redirected = False
        else:
            found[-1].append(token)
    return found


_UNITS = "/etc/systemd/system/"
# Where packages, and what runs, put units and drop-ins; one of the same name in /etc wins over them.
_UNIT_DIRS = (
    _UNITS,
    "/run/systemd/system/",
    "/usr/local/lib/systemd/system/",
    "/usr/lib/systemd/system/",
    "/lib/systemd/system/",
)


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
    if path.startswith(_UNIT_DIRS):
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
        if not line or line.startswith(("#", ": #", f"{_IDLE}#")):
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
        elif kind == "cron" and not _ASSIGNS.match(line):
            # In time every line starts what it names, whether the device boots in between or not.
            before = 1 if line.startswith("@") else 5
            # These name the user in front of the command.
            before += path == "/etc/crontab" or path.startswith("/etc/cron.d/")
            fields = line.split(None, before)
            if len(fields) > before:
                yield Entry(kind, path, number, "", fields[before])
        elif kind == "unit":
            # An empty value only takes back what stood before it.
            if line.startswith("ExecStart=") and line != "ExecStart=":
                yield Entry(kind, path, number, unit_of(path), line[len("ExecStart=") :].lstrip("-@+!:"))
        elif kind == "rc":
            yield Entry(kind, path, number, "", line)


_ASSIGNS = re.compile(r"\w+\s*=")


def unit_of(path: str) -> str:
    """The unit that a file of systemd is, or is a drop-in of."""
    first = _below(path).partition("/")[0]
    return first[:-2] if first.endswith(".d") else first


def _below(path: str) -> str:
    return next(path[len(folder) :] for folder in _UNIT_DIRS if path.startswith(folder))


def place_of(path: str) -> str:
    """Where a change of this file has to stand so that it counts, and outlives an upgrade of what brought the file."""
    return _UNITS + _below(path) if kind_of(path) == "unit" else path


def is_drop_in(path: str) -> bool:
    """Whether a unit is still there without this file."""
    return posixpath.dirname(path).endswith(".d")


_SHELL = frozenset(
    (
        "sh",
        "ash",
        "bash",
        "dash",
        "hush",
        "rbash",
        "ksh",
        "ksh93",
        "mksh",
        "zsh",
        "csh",
        "tcsh",
        "fish",
        "yash",
        "busybox",
    )
)
# Options of shells whose value is a word of its own, and no script.
_VALUED_BY_SHELL = frozenset(("--rcfile", "--init-file", "-o", "+o", "-O", "+O"))
# They ask for a password themselves.
_ASKING = frozenset(("login", "sulogin", "agetty", "getty"))


def asks_nobody(command: str) -> bool:
    """Whether what runs on a terminal is a shell, or a login that asks for no password."""
    segments = [_without_keywords(each) for each in _segments(command)]
    if "|" in command.replace("||", ""):
        # A shell that others feed is for nobody who sits there.
        segments = [words(command)]
    return any(_asks_nobody(unwrapped(each)) for each in segments)


def _without_keywords(parts: list[str]) -> list[str]:
    while parts and (parts[0] in _KEYWORDS or _ASSIGNED.fullmatch(parts[0])):
        parts = parts[1:]
    return parts


def _asks_nobody(parts: list[str]) -> bool:
    if not parts:
        return False
    program = posixpath.basename(parts[0].lstrip("-"))
    arguments = parts[1:]
    if program in _SHELL:
        return _shell_asks_nobody(arguments)
    if program == "su":
        # Whoever is root already is asked for nothing.
        return "-c" not in arguments[:-1] or asks_nobody(arguments[arguments.index("-c") + 1])
    if program == "login":
        return any(word.startswith("-f") for word in arguments)
    if program == "sulogin":
        return any(word in ("-e", "--force") for word in arguments)
    if program in ("getty", "agetty", "mingetty"):
        return _getty_asks_nobody(arguments)
    if program == "rungetty":
        behind = arguments[arguments.index("--") + 1 :] if "--" in arguments else []
        return "--autologin" in arguments or _asks_nobody(unwrapped(behind))
    return False


def _shell_asks_nobody(arguments: list[str]) -> bool:
    skip = False
    for word, after in pairwise([*arguments, ""]):
        if skip:
            skip = False
        elif word in _VALUED_BY_SHELL:
            skip = True
        elif re.fullmatch(r"-[A-Za-z]*c[A-Za-z]*", word):
            return asks_nobody(after)
        elif not word.startswith(("-", "+")):
            # With a script to run it is no shell for whoever sits there.
            return False
    return True


def lets_decide(command: str) -> str:
    """The program to which a getty leaves who gets in, without asking for a name itself; "" where it is a known one."""
    parts = unwrapped(next(iter(_segments(command)), []))
    if not parts or posixpath.basename(parts[0].lstrip("-")) not in ("getty", "agetty"):
        return ""
    given, silent = _getty_options(parts[1:]), False
    for word in parts[1:]:
        silent = silent or word == "--skip-login" or bool(re.fullmatch(r"-[hiLmwJNRsUE8]*n\w*", word))
    program = posixpath.basename(given["l"])
    return given["l"] if silent and program and program not in _ASKING and program not in _SHELL else ""


def _getty_asks_nobody(arguments: list[str]) -> bool:
    given = _getty_options(arguments)
    if given["a"] or posixpath.basename(given["l"]) in _SHELL:
        return True
    return any(word.startswith("-f") for word in words(given["o"]))


def _getty_options(arguments: list[str]) -> dict[str, str]:
    given = {"a": "", "l": "", "o": ""}
    long = {"--autologin": "a", "--login-program": "l", "--login-options": "o"}
    for word, after in pairwise([*arguments, ""]):
        name, equals, value = word.partition("=")
        if name in long:
            given[long[name]] = value if equals else after
            continue
        # Flags may stand before the letter that takes the rest, or the next word, as its value.
        short = re.fullmatch(r"-([nhiLmwJNRsUE8c]*)([alo])(.*)", word, re.DOTALL)
        if short:
            given[short[2]] = short[3] or after
    return given


def _xinetd(path: str, text: str) -> Iterator[Entry]:
    name, start = "", 0
    fields: dict[str, str] = {}
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if line.startswith("#"):
            continue
        if line.split()[:1] == ["service"]:
            name, start, fields = line[len("service") :].rstrip("{").strip(), number, {}
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
    """The port that an entry of inetd or xinetd names itself, 0 where it names none."""
    if entry.kind == "inetd" and entry.name.isdecimal():
        return int(entry.name)
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


_WHOLE = re.compile(
    r"(?:while|until|for)\b.*\bdone\b[^;|&]*&?|if\b.*\bfi\b[^;|&]*&?|\(.*\)[^;|&()]*&?|\{.*\}[^;|&{}]*&?"
)
_REDIRECTED = re.compile(r"\d?>>?\s*(&\d|[^\s;&|()]+)|<\s*[^\s;&|()]+")
_PAIRS = (
    (r"\bdo\b", r"\bdone\b"),
    (r"\bif\b", r"\bfi\b"),
    (r"\bcase\b", r"\besac\b"),
    (r"\(", r"\)"),
    (r"\{", r"\}"),
)


def can_switch_off(entry: Entry) -> bool:
    """Whether this one line can go without breaking what stands around it."""
    line = entry.command
    if entry.kind != "rc":
        return True
    if "<<" in line:
        return False
    return _is_whole(line) or not _NOT_ALONE.search(line)


def _is_whole(line: str) -> bool:
    """Whether a line opens a construct and closes all that it opens."""
    return bool(_WHOLE.fullmatch(_REDIRECTED.sub("", line).strip())) and all(
        len(re.findall(opens, line)) == len(re.findall(closes, line)) for opens, closes in _PAIRS
    )


def _in_loop(lines: Sequence[str]) -> bool:
    """Whether what follows these lines of a script stands in the body of a loop."""
    code = "\n".join(line for line in lines if not line.strip().startswith("#"))
    return len(re.findall(r"\b(?:while|until)\b", code)) + len(re.findall(r"\bfor\b", code)) > len(
        re.findall(r"\bdone\b", code)
    )


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
    mark = MARK
    if entry.kind == "rc":
        mark = f"{_IDLE}{MARK}" if _in_loop(lines[:index]) else f": {MARK}"
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
