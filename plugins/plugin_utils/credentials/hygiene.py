# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What the account files themselves must look like: one account with UID 0, hashes that only root reads, no shells for
services.
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials import hashing
from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials.shadow import PASSWD, Account

SHELLS = frozenset(
    ("sh", "ash", "bash", "dash", "ksh", "mksh", "zsh", "csh", "tcsh", "fish", "hush", "rbash", "busybox")
)
FIRST_PERSON = 1000
"""UIDs below belong to services."""


@dataclass(frozen=True)
class Remark:
    """One thing that is not as it must be: an account or a file, why, and what is done about it ("" for nothing)."""

    what: str
    why: str
    action: str

    def report(self) -> dict[str, str]:
        """For the result."""
        return {"what": self.what, "why": self.why, "action": self.action}


@dataclass
class Tidying:
    """What is to change.

    Attributes:
        remarks: everything that was found.
        removed: accounts that go.
        shells: account -> its new shell.
        shadowed: accounts whose hash moves from passwd to shadow.
        modes: file -> (mode, owner, group).
    """

    remarks: list[Remark] = field(default_factory=list)
    removed: set[str] = field(default_factory=set)
    shells: dict[str, str] = field(default_factory=dict)
    shadowed: set[str] = field(default_factory=set)
    modes: dict[str, tuple[str, str, str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.removed or self.shells or self.shadowed or self.modes)


def look(
    accounts: Iterable[Account],
    modes: Mapping[str, tuple[str, str, str]],
    *,
    login: str,
    with_keys: Collection[str],
    keep_shells: Collection[str],
    no_shell: str,
    has_shadow: bool,
) -> Tidying:
    """What is wrong with the account files, and what is to be done.

    Args:
        modes: file -> (symbolic mode, owner, group) of the files that hold hashes.
        login: the account with which Ansible logs in; nothing may happen to it.
        with_keys: accounts that have keys: somebody logs in with them.
        keep_shells: service accounts that need their shell.
        no_shell: a program on the device that lets nobody in; "" where there is none.
    """
    result = Tidying()
    for one in accounts:
        if one.uid == 0 and one.name != "root":
            action = "" if one.name == login else "removed"
            why = "has UID 0 beside root"
            if action:
                result.removed.add(one.name)
            else:
                why += "; kept, because this inventory logs in with it: make root the login, then run again"
            result.remarks.append(Remark(one.name, why, action))
            continue
        if one.file == PASSWD and has_shadow and hashing.scheme(one.field) not in ("locked", "empty"):
            result.shadowed.add(one.name)
            result.remarks.append(
                Remark(
                    one.name, "its hash stands in /etc/passwd, which everybody reads", "moved to /etc/shadow"
                )
            )
        if 0 < one.uid < FIRST_PERSON or one.name == "nobody":
            _service(result, one, login, with_keys, keep_shells, no_shell)
    for path, (mode, owner, group) in sorted(modes.items()):
        readers = group in ("root", "shadow")
        allowed = mode[7:10] == "---" and mode[5] == mode[6] == "-" and owner == "root"
        if allowed and (readers or mode[4] == "-"):
            continue
        result.modes[path] = ("0640", "root", "shadow") if group == "shadow" else ("0600", "root", "root")
        who = "everybody" if "r" in mode[7:10] else f"more than root ({mode} {owner}:{group})"
        result.remarks.append(Remark(path, f"is open to {who}", f"mode {result.modes[path][0]}"))
    return result


def _service(
    result: Tidying,
    one: Account,
    login: str,
    with_keys: Collection[str],
    keep_shells: Collection[str],
    no_shell: str,
) -> None:
    # An empty field means /bin/sh.
    if posixpath.basename(one.shell or "sh") not in SHELLS or one.name == login or one.name in keep_shells:
        return
    why = f"is a service account with the shell {one.shell or '/bin/sh'}"
    if one.name in with_keys or hashing.scheme(one.field) not in ("locked", "empty"):
        why += "; kept, because it has a password, keys or certificates: somebody logs in with it"
        result.remarks.append(Remark(one.name, why, ""))
    elif no_shell:
        result.shells[one.name] = no_shell
        result.remarks.append(Remark(one.name, why, f"shell {no_shell}"))
    else:
        result.remarks.append(
            Remark(one.name, f"{why}; the device has no nologin and no false to put there", "")
        )
