# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""passwd and shadow as text: which field holds each account's password, and changing single fields.

All other bytes of the files stay as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

PASSWD = "/etc/passwd"
SHADOW = "/etc/shadow"

# Not "!": sshd without PAM takes a "!" in front for a locked account and refuses its keys too. No hash can
# ever be a single star, so the password is unusable and keys go on working.
LOCKED = "*"


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
    """The accounts, in the order of passwd; lines that are no accounts are passed over."""
    hidden: dict[str, str] = {}
    for line in shadow.split("\n"):
        parts = line.split(":")
        if len(parts) >= 2 and parts[0]:
            hidden.setdefault(parts[0], parts[1])
    accounts = []
    for line in passwd.split("\n"):
        parts = line.split(":")
        if len(parts) != 7 or not parts[0] or parts[0][0] in "+-#" or not parts[2].isdecimal():
            continue
        name, stored, uid, _, _, home, shell = parts
        # An x without a line in shadow lets nobody in by password.
        in_shadow = stored == "x"
        value = hidden.get(name, "*") if in_shadow else stored
        accounts.append(Account(name, int(uid), home, shell, SHADOW if in_shadow else PASSWD, value))
    return accounts


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
        if len(parts) >= 2 and parts[0] in fields:
            parts[1] = fields[parts[0]]
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
    lines = (line.split(":") for line in shadow.split("\n"))
    return any(parts[0] == name and len(parts) > 2 and parts[2] == "0" for parts in lines)


def without(text: str, names: Collection[str]) -> str:
    """``text`` (either file) without these accounts."""
    return "\n".join(
        line for line in text.split("\n") if line.partition(":")[0] not in names or ":" not in line
    )


def moved(passwd: str, shadow: str, names: Collection[str]) -> tuple[str, str]:
    """Both files with the hashes of these accounts in shadow, where only root reads them."""
    fields = {
        parts[0]: parts[1] for parts in (line.split(":") for line in passwd.split("\n")) if len(parts) == 7
    }
    stale = without(shadow, names)
    joint = stale if not stale or stale.endswith("\n") else f"{stale}\n"
    # 0 would mean that a change is due: a day long ago instead.
    added = "".join(f"{name}:{fields[name]}:10000:0:99999:7:::\n" for name in sorted(names) if name in fields)
    return replaced(passwd, dict.fromkeys(names, "x")), joint + added


def _edited(text: str, wanted: Mapping[str, Mapping[int, str]]) -> str:
    lines = text.split("\n")
    for index, line in enumerate(lines):
        parts = line.split(":")
        for position, value in wanted.get(parts[0], {}).items():
            if len(parts) > position:
                parts[position] = value
        lines[index] = ":".join(parts)
    return "\n".join(lines)
