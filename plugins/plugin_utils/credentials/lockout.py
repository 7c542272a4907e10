# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Lock-out against guessing on the console and with su, by pam_faillock.

Only there: a count that sshd or sudo shared would let a stranger at the console lock the automation out of sudo. So
login and su get a copy of common-auth of their own, with pam_faillock in it, and everything else stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

COMMON = "/etc/pam.d/common-auth"
OWN = "/etc/pam.d/sallyport-auth"
PROGRAMS = ("/etc/pam.d/login", "/etc/pam.d/su")
_INCLUDE = re.compile(r"^@include[ \t]+(common-auth|sallyport-auth)[ \t]*$", re.M)
_JUMP = re.compile(r"\b((?:success|default|new_authtok_reqd|ignore)=)(\d+)\b")
_DENY = re.compile(r"^auth\s+requisite\s+pam_deny\.so\b")
_REMEDY = "keys only for ssh (the ssh role), and no password that a console could be guessed at: credentials_action: lock"


@dataclass(frozen=True)
class Lockout:
    """What is to hold, or why it cannot.

    Attributes:
        state: ``set``, ``off`` or ``not available``.
        files: path -> text, for those that differ from what the device has.
        why, remedy: in words, where it is not available.
    """

    state: str
    files: dict[str, str] = field(default_factory=dict)
    why: str = ""
    remedy: str = ""

    def report(self) -> dict[str, str]:
        """For the result."""
        return {"state": self.state, "why": self.why, "remedy": self.remedy}


def plan(pam: Mapping[str, str], has_module: bool, attempts: int, seconds: int, spare_root: bool) -> Lockout:
    """The PAM files for this device.

    Args:
        pam: path -> text of the files that are there.
        attempts: wrong passwords within ``seconds`` that lock an account, for ``seconds``; 0 for no lock-out.
        spare_root: su asks for root's password when this inventory becomes root: nobody may make that fail.
    """
    if not attempts:
        return Lockout("off", _differing(pam, {path: _back(pam[path]) for path in PROGRAMS if path in pam}))
    if COMMON not in pam:
        return Lockout(
            "not available",
            why="this device has no PAM (login and su count no wrong passwords)",
            remedy=_REMEDY,
        )
    if not has_module:
        why = "this device's PAM has no pam_faillock"
        return Lockout("not available", why=why, remedy=f"{_REMEDY}; or libpam-modules 1.4 or newer")
    options = f"deny={attempts} fail_interval={seconds} unlock_time={seconds}"
    if not spare_root:
        # Short: root is who repairs things at the console.
        options += f" even_deny_root root_unlock_time={min(60, seconds)}"
    own = _with_faillock(pam[COMMON], options)
    users = [path for path in PROGRAMS if path in pam and _INCLUDE.search(pam[path])]
    if own is None or not users:
        what = (
            f"{COMMON} is not what pam-auth-update writes"
            if own is None
            else "login and su do not include it"
        )
        return Lockout("not available", why=what, remedy=_REMEDY)
    wanted = {OWN: own}
    for path in users:
        wanted[path] = _INCLUDE.sub("@include sallyport-auth", pam[path])
    return Lockout("set", _differing(pam, wanted))


def _back(text: str) -> str:
    return _INCLUDE.sub("@include common-auth", text)


def _differing(pam: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str]:
    return {path: text for path, text in wanted.items() if pam.get(path) != text}


def _with_faillock(common: str, options: str) -> str | None:
    """common-auth with the three calls of pam_faillock; None where it has no place for them."""
    modules = [line for line in common.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    denies = [index for index, line in enumerate(modules) if _DENY.match(line)]
    if len(denies) != 1 or any(line.startswith("@include") for line in modules):
        return None
    (deny,) = denies
    result = [
        "# Written by Sallyport: common-auth with a lock-out against guessing, for login and su alone. It is made anew from",
        "# common-auth by every run of the credentials role.",
        f"auth\trequired\tpam_faillock.so preauth {options}",
    ]
    for index, line in enumerate(modules):
        if index == deny:
            result.append(f"auth\t[default=die]\tpam_faillock.so authfail {options}")
        result.append(_jumping(line, index, deny) if index < deny else line)
    result.append(f"auth\trequired\tpam_faillock.so authsucc {options}")
    return "\n".join(result) + "\n"


def _jumping(line: str, index: int, deny: int) -> str:
    """A line whose jumps over the refusal go over one line more now."""

    def longer(found: re.Match[str]) -> str:
        over = int(found[2])
        return f"{found[1]}{over + 1 if index + over + 1 > deny else over}"

    return _JUMP.sub(longer, line)
