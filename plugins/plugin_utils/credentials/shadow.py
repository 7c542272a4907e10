# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""passwd and shadow as text: which field holds each account's password, and changing single fields.

All other bytes of the files stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

PASSWD = "/etc/passwd"
SHADOW = "/etc/shadow"

# Not "!": sshd without PAM takes a "!" in front for a locked account and refuses its keys too. No hash can
# ever be a single star, so the password is unusable and keys go on working.
LOCKED = "*"
_NUMBER = re.compile(r"\s*[+-]?[0-9]+\s*")


@dataclass(frozen=True)
class Account:
    """One line of passwd with the password field that counts for it.

    ``field`` is a secret: it is left out of every representation.
    """

    name: str
    uid: int
    home: str
    shell: str
    file: str
    field: str = field(repr=False)


def parse(passwd: str, shadow: str) -> list[Account]:
    """The accounts, in the order of passwd; lines that are no accounts are passed over.

    A line is an account if any C library takes it for one: glibc's takes spaces and a plus in front of a number, and misses
    no field behind it.
    """
    hidden: dict[str, str] = {}
    for line in shadow.split("\n"):
        parts = line.split(":")
        if len(parts) >= 2 and _name(line):
            hidden.setdefault(_name(line), parts[1])
    accounts = []
    for line in passwd.split("\n"):
        parts = line.split(":")
        name = _name(line)
        if len(parts) < 3 or not name or name[0] in "+-#" or not _NUMBER.fullmatch(parts[2]):
            continue
        stored, uid, home, shell = parts[1], parts[2], *[*parts, "", "", "", ""][5:7]
        # An x without a line in shadow lets nobody in by password.
        in_shadow = stored == "x"
        value = hidden.get(name, "*") if in_shadow else stored
        accounts.append(Account(name, int(uid), home, shell, SHADOW if in_shadow else PASSWD, value))
    return accounts


def _name(line: str) -> str:
    """Whose line it is; C libraries pass over the spaces in front."""
    return line.partition(":")[0].lstrip()


def replaced(text: str, fields: Mapping[str, str]) -> str:
    """``text`` (either file) with the second field of these accounts replaced.

    Raises:
        ValueError: a field that would break the file.
    """
    for name, value in fields.items():
        if ":" in value or "\n" in value:
            raise ValueError(f"a password field for {name} must not hold a colon or a newline")
    lines = text.split("\n")
    for index, line in enumerate(lines):
        parts = line.split(":")
        if len(parts) >= 2 and _name(line) in fields:
            parts[1] = fields[_name(line)]
            lines[index] = ":".join(parts)
    return "\n".join(lines)


def with_shells(passwd: str, shells: Mapping[str, str]) -> str:
    """passwd with other shells for these accounts."""
    return _edited(passwd, {name: {6: shell} for name, shell in shells.items()})


def with_change_due(shadow: str, names: Collection[str]) -> str:
    """shadow with these passwords due for a change at the next login."""
    return _edited(shadow, {name: {2: "0"} for name in names})


def with_change_on(shadow: str, names: Collection[str], day: int) -> str:
    """shadow with these passwords changed on that day (since 1970)."""
    return _edited(shadow, {name: {2: str(day)} for name in names})


def change_is_due(shadow: str, name: str) -> bool:
    """Whether this account must change its password at the next login already."""
    lines = ((_name(line), line.split(":")) for line in shadow.split("\n"))
    return any(whose == name and len(parts) > 2 and parts[2] == "0" for whose, parts in lines)


def without(text: str, names: Collection[str]) -> str:
    """``text`` (either file) without these accounts."""
    return "\n".join(line for line in text.split("\n") if _name(line) not in names or ":" not in line)


def moved(passwd: str, shadow: str, names: Collection[str]) -> tuple[str, str]:
    """Both files with the hashes of these accounts in shadow, where only root reads them."""
    fields = {_name(line): line.split(":")[1] for line in passwd.split("\n") if line.count(":") > 1}
    stale = without(shadow, names)
    joint = stale if not stale or stale.endswith("\n") else f"{stale}\n"
    # 0 would mean that a change is due: a day long ago instead.
    added = "".join(f"{name}:{fields[name]}:10000:0:99999:7:::\n" for name in sorted(names) if name in fields)
    return replaced(passwd, dict.fromkeys(names, "x")), joint + added


def _edited(text: str, wanted: Mapping[str, Mapping[int, str]]) -> str:
    lines = text.split("\n")
    for index, line in enumerate(lines):
        parts = line.split(":")
        for position, value in wanted.get(_name(line), {}).items():
            if len(parts) > position:
                parts[position] = value
        lines[index] = ":".join(parts)
    return "\n".join(lines)
