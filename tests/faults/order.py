# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Which writes must have reached the medium before which others begin: the table of docs/commit.md, against a recording.

A power cut shows a missing flush only by luck, since whatever else runs flushes the medium too. The calls themselves show
it every time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tests.faults.chamber import STATE
from tests.faults.trial import Point

_ALL = (STATE, "/etc", "/etc/made/deep")
_ETC = ("/etc",)
_COPY = r"(\.sallyport-0123456789abcdef-\d+\.(new|old)|/tx/old/)"
_END = r"^end$"


@dataclass(frozen=True)
class Rule:
    """Between the last call like ``first`` and the next call like ``then`` the folders' file systems are flushed.

    Both are patterns for "role call path...".
    """

    what: str
    first: str
    then: str
    folders: tuple[str, ...] = _ALL


_ARMED = (
    Rule("the manifest before the names that only it knows", r"^arm rename\S* \S+/stage\.\w+ \S+/tx$", r"^arm .*\.sallyport-"),
    Rule("every copy before the mark that promises it", f"^arm .*{_COPY}", r"^worker openat \S+/tx/open$"),
    Rule("the mark before the first change", r"^worker openat \S+/tx/open$", r"^worker (rename|unlink)\S* .*/etc/"),
    Rule("all files before they are activated", r"^worker (rename|unlink)\S* .*/etc/", r"^worker openat \S+/tx/output$"),
)  # fmt: skip
_HOOKED = (
    Rule(
        "the program before it takes its place", r"^stage \w+ \S+/stage\.\w+/device$", r"^stage rename\S* .*/device$", (STATE,)
    ),
    Rule(
        "the boot line before it takes its place", r"^arm \w+ /etc/\.sallyport-inittab$", r"^arm rename\S* .* /etc/inittab$", _ETC
    ),
    Rule("the boot line before any copy", r"^arm rename\S* .* /etc/inittab$", f"^arm .*{_COPY}", _ETC),
)  # fmt: skip
_CONFIRMED = (
    Rule("the verdict before anybody acts on it", r"^confirm rename\S* \S+/tx/open ", r"^confirm (?!sync|fsync|fdatasync)"),
    Rule("the generation before the answer", r"^confirm rmdir \S+/armed$", _END),
)  # fmt: skip
RULES = {
    "confirmed": (*_HOOKED, *_ARMED, *_CONFIRMED),
    "abandoned": (
        *_HOOKED,
        *_ARMED,
        Rule("the old files before the live state", r"^guards (rename|unlink)\S* .*/etc/", r"^guards openat \S+/tx/output$"),
        Rule("the end of the way back", r"^guards rmdir \S+/armed$", _END),
    ),
    "factory": (
        *_ARMED[1:],
        *_CONFIRMED,
        Rule("the table without the boot line, whole", r"^clear \w+ /etc/\.sallyport-inittab$", r"^clear rename\S* .* /etc/inittab$", _ETC),
        Rule("no boot line before no lock", r"^clear rename\S* .* /etc/inittab$", r"^clear rename\S* \S+/armed ", _ETC),
    ),
}  # fmt: skip


def broken(points: Sequence[Point], scenario: str) -> list[str]:
    """The rules that a recording of this scenario does not keep, each with the two calls that nothing parts."""
    calls = [(f"{point.role} {point.what}".strip(), point.when) for point in points] + [("end", "before")]
    return [text for rule in RULES[scenario] for text in _judge(rule, calls)]


def _judge(rule: Rule, calls: Sequence[tuple[str, str]]) -> list[str]:
    begun = [i for i, (text, when) in enumerate(calls) if when == "after" and re.search(rule.first, text)]
    if not begun:
        return [f"{rule.what}: no call is like {rule.first}"]
    then = next(
        (
            i
            for i, (text, when) in enumerate(calls)
            if i > begun[0]
            and when == "before"
            and re.search(rule.then, text)
            # The same call may be one of several that belong together.
            and not re.search(rule.first, text)
        ),
        None,
    )
    if then is None:
        return [f"{rule.what}: no call is like {rule.then}"]
    last = max(i for i in begun if i < then)
    if last != begun[-1]:
        return [f"{rule.what}: {calls[then][0]} comes before {calls[begun[-1]][0]}"]
    flushed = [text.split(" ")[1:] for text, when in calls[last:then] if when == "after"]
    if any(words[0] == "sync" for words in flushed):
        return []
    covered = {words[1] for words in flushed if words[0] == "syncfs" and len(words) > 1}
    missing = [
        folder
        for folder in rule.folders
        if folder not in covered and not (folder == STATE and any(path.startswith(STATE) for path in covered))
    ]
    return (
        [f"{rule.what}: no flush of {', '.join(missing)} between {calls[last][0]} and {calls[then][0]}"]
        if missing
        else []
    )
