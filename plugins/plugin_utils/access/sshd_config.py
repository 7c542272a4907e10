# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Reading sshd's configuration far enough to know where ours must stand, and writing ours.

sshd takes the first value that it meets for most options, so ours must come before everybody else's: in a
drop-in that sorts first where the main file includes the directory early enough, else in a block at the top
of the main file. A Match block of the device's own overrides global settings for the logins that it matches;
it is left alone and named, because it may be what keeps somebody's way in open.
"""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

MAIN = "/etc/ssh/sshd_config"
DROP_IN_DIR = "/etc/ssh/sshd_config.d"
DROP_IN = f"{DROP_IN_DIR}/00-sallyport.conf"
BEGIN = (
    "# BEGIN Sallyport (this block is managed; it must stay at the top, because sshd takes the first value)"
)
END = "# END Sallyport"
BEGIN_MATCH = "# BEGIN Sallyport, who may log in (this block is managed; it must stay at the end)"
END_MATCH = "# END Sallyport, who may log in"

# These add up instead of the first one winning, so a line of somebody else before ours does no harm.
_CUMULATIVE = {
    "port",
    "listenaddress",
    "hostkey",
    "hostcertificate",
    "acceptenv",
    "allowusers",
    "denyusers",
    "allowgroups",
    "denygroups",
}


# sshd takes the last value of these, so one of the device's own wins over ours and is named.
LAST_WINS = frozenset(("maxstartups", "persourcenetblocksize"))


@dataclass(frozen=True)
class Directive:
    """One line of a configuration: where it stands, its keyword in small letters, and its arguments as
    written.
    """

    path: str
    line: int
    keyword: str
    arguments: str
    match: str = ""


@dataclass(frozen=True)
class Match:
    """Settings for the logins that meet a condition."""

    condition: str
    settings: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Place:
    """Where our settings go, and why there."""

    path: str
    why: str


def parse(path: str, text: str) -> list[Directive]:
    """The directives of one file in order; ``match`` is the condition of the Match block they stand in."""
    found: list[Directive] = []
    match = ""
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        words = (
            line.replace("=", " ", 1).split(None, 1) if "=" in line.split(None, 1)[0] else line.split(None, 1)
        )
        keyword, arguments = words[0].lower(), words[1].strip() if len(words) > 1 else ""
        if arguments.startswith("= "):
            arguments = arguments[2:].strip()
        if keyword == "match":
            match = "" if arguments.lower() == "all" else arguments
            continue
        found.append(Directive(path, number, keyword, arguments, match))
    return found


def without_block(text: str) -> str:
    """The main file as its owner wrote it."""
    lines = text.splitlines(keepends=True)
    kept: list[str] = []
    inside = False
    for line in lines:
        if line.rstrip("\n") in (BEGIN, BEGIN_MATCH):
            inside = True
        elif inside and line.rstrip("\n") in (END, END_MATCH):
            inside = False
        elif not inside:
            kept.append(line)
    return "".join(kept)


def place(files: Mapping[str, str], keywords: Iterable[str]) -> Place:
    """Where settings named ``keywords`` (any case) take effect before all others.

    Args:
        files: path -> text of the main file and of those in the drop-in directory.
    """
    ours = {word.lower() for word in keywords} - _CUMULATIVE
    if BEGIN in files.get(MAIN, "").splitlines():
        return Place(MAIN, "the block of an earlier run stands there")
    for directive in parse(MAIN, files.get(MAIN, "")):
        if directive.keyword == "include" and not directive.match:
            if _includes_drop_ins(directive.arguments):
                break
            return Place(
                MAIN,
                f"{MAIN} line {directive.line} includes {directive.arguments} first, which may set anything",
            )
        if directive.keyword in ours:
            return Place(
                MAIN,
                f"{MAIN} line {directive.line} sets {directive.keyword} before anything is included",
            )
    else:
        return Place(MAIN, f"{MAIN} does not include {DROP_IN_DIR}")
    for path in sorted(files):
        if posixpath.dirname(path) == DROP_IN_DIR and path.endswith(".conf") and path < DROP_IN:
            for directive in parse(path, files[path]):
                if directive.match:
                    continue
                if directive.keyword == "include":
                    return Place(
                        MAIN,
                        f"{path} line {directive.line} includes {directive.arguments} before {DROP_IN} could",
                    )
                if directive.keyword in ours:
                    return Place(
                        MAIN, f"{path} line {directive.line} sets {directive.keyword} before {DROP_IN} could"
                    )
    return Place(DROP_IN, f"{MAIN} includes {DROP_IN_DIR} first")


def _includes_drop_ins(arguments: str) -> bool:
    """Whether an Include names the drop-in directory, and nothing before it."""
    try:
        patterns = shlex.split(arguments)
    except ValueError:
        return False
    return bool(patterns) and posixpath.join("/etc/ssh", patterns[0]) == f"{DROP_IN_DIR}/*.conf"


def render(settings: Iterable[tuple[str, str]]) -> str:
    """The settings as lines of a configuration.

    Raises:
        ValueError: a value that would become another line.
    """
    lines = []
    for keyword, value in settings:
        if not keyword.isalnum() or not value or not value.isprintable():
            raise ValueError(
                f"ssh option {keyword!r}: expected one word and one line of text, found {value!r}; correct "
                "ssh_options"
            )
        lines.append(f"{keyword} {value}\n")
    return "".join(lines)


def render_matches(matches: Iterable[Match]) -> str:
    """Match blocks as lines of a configuration.

    Raises:
        ValueError: a condition or a value that would become another line.
    """
    parts = []
    for match in matches:
        if not match.condition or not match.condition.isprintable():
            raise ValueError(f"Match {match.condition!r}: expected one line of text")
        lines = render(match.settings).splitlines()
        parts.append(f"Match {match.condition}\n" + "".join(f"    {line}\n" for line in lines))
    return "".join(parts)


def files_for(
    where: Place,
    files: Mapping[str, str],
    settings: list[tuple[str, str]],
    banner: str,
    matches: Sequence[Match] = (),
) -> dict[str, str]:
    """The files to write: path -> whole new text.

    In a drop-in, Match blocks stand behind the settings: a block ends with its file. In the main file they stand at
    the very end, because whatever came behind them would belong to the last one.
    """
    body = f"# {banner}\n" + render(settings)
    blocks = render_matches(matches)
    if where.path != MAIN:
        return {where.path: body + blocks}
    rest = without_block(files.get(MAIN, ""))
    if blocks:
        rest += "" if not rest or rest.endswith("\n") else "\n"
        rest += f"{BEGIN_MATCH}\n{blocks}{END_MATCH}\n"
    return {MAIN: f"{BEGIN}\n{body}{END}\n" + rest}


def foreign(files: Mapping[str, str]) -> list[Directive]:
    """All directives that are not ours, of the main file and of the drop-ins."""
    found: list[Directive] = []
    for path in sorted(files):
        if path == MAIN:
            # The numbers of lines are those of the file as it is.
            ours: set[int] = set()
            inside = False
            for number, line in enumerate(files[path].splitlines(), 1):
                inside = inside or line in (BEGIN, BEGIN_MATCH)
                if inside:
                    ours.add(number)
                inside = inside and line not in (END, END_MATCH)
            text = (
                files[path]
                if not ours
                else "".join(
                    "#\n" if number in ours else line
                    for number, line in enumerate(files[path].splitlines(keepends=True), 1)
                )
            )
            found += parse(path, text)
        elif posixpath.dirname(path) == DROP_IN_DIR and path != DROP_IN:
            found += parse(path, files[path])
    return found


def exceptions(
    files: Mapping[str, str], settings: Iterable[tuple[str, str]], matches: Iterable[Match] = ()
) -> list[str]:
    """What of the device's own holds instead of ours, in words: in Match blocks, and where the last value wins."""
    ours = {keyword.lower(): value.lower() for keyword, value in settings}
    in_blocks = {keyword.lower() for match in matches for keyword, _ in match.settings}
    result = []
    for directive in foreign(files):
        mine = ours.get(directive.keyword)
        differs = mine is not None and directive.arguments.lower() != mine
        if not directive.match and differs and directive.keyword in LAST_WINS:
            result.append(
                f"{directive.path} line {directive.line}: {directive.keyword} {directive.arguments} holds, because sshd takes "
                "the last one; take it out to have ours"
            )
        if directive.match and (differs or directive.keyword in in_blocks):
            result.append(
                f"{directive.path} line {directive.line}: the block 'Match {directive.match}' keeps "
                f"{directive.keyword} {directive.arguments}"
            )
    return result
