# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Which of a device's SSH host keys must be made anew, and why.

Factory images often carry one set of host keys for every unit, so that whoever buys one can pose as all. A
key that two devices of the fleet show is therefore made anew on each of them: which of the two is the copy
cannot be known.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MIN_RSA_BITS = 2048
_KEY_TYPE = re.compile(r"(?:ssh|sk-ssh|ecdsa|sk-ecdsa|rsa|webauthn)-[a-z0-9@.-]+")


@dataclass(frozen=True)
class Renewal:
    """One key to make anew: its type (``ed25519``, ``rsa``, ``ecdsa``), the private file, and why."""

    type: str
    path: str
    why: str
    old_public: str = ""
    bits: int = 0


def key_type(name: str) -> str:
    """``ssh-ed25519``, ``ED25519`` and ``ed25519`` are one type."""
    lowered = name.lower()
    for short in ("ed25519", "ecdsa", "dss", "dsa", "rsa"):
        if short in lowered:
            return "dsa" if short == "dss" else short
    return lowered


def blob(public: str) -> str:
    """The base64 part of a public key line, with or without its type and comment; empty where there is none."""
    return parts(public)[0]


def parts(line: str) -> tuple[str, str]:
    """The base64 part and the comment of a line with a public key, read as ssh daemons read it: what stands in an option's
    quotes is no key. Both are empty for a line that they might read in different ways.
    """
    rest = line.strip(" \t\r\n")
    # At the start, behind options or a host's name, or behind both a mark and a name.
    for _ in range(3):
        words = [word for word in re.split(r"[ \t]+", rest) if word]
        if len(words) > 1 and _KEY_TYPE.fullmatch(words[0]) and words[1].startswith("AAAA"):
            return words[1], " ".join(words[2:])
        rest = _behind_first_word(rest)
    words = line.split()
    return (words[0], " ".join(words[1:])) if words and words[0].startswith("AAAA") else ("", "")


def options_of(line: str) -> list[str]:
    """Names of the options in front of a public key, in small letters."""
    words = re.split(r"[ \t]+", line.strip(), maxsplit=1)
    if _KEY_TYPE.fullmatch(words[0]):
        return []
    behind = _behind_first_word(line.strip())
    front = line.strip()[: len(line.strip()) - len(behind)].strip()
    return [one.partition("=")[0].strip().lower() for one in re.findall(r'(?:[^,"]|"(?:\\.|[^"])*")+', front)]


def _behind_first_word(line: str) -> str:
    quoted = False
    for index, letter in enumerate(line):
        before = line[index - 1] if index else ""
        # dropbear takes the first of two for an escape, OpenSSH neither: nothing says who is to read this.
        if quoted and letter == before == "\\":
            return ""
        if letter == '"' and before != "\\":
            quoted = not quoted
        if letter in " \t" and not quoted:
            return line[index:].lstrip(" \t")
    return ""


def fingerprint(public: str) -> str:
    """As ssh-keygen -l prints it: ``SHA256:...``; empty for what is no public key."""
    try:
        raw = base64.b64decode(blob(public), validate=True)
    except (binascii.Error, ValueError):
        return ""
    return "SHA256:" + base64.b64encode(hashlib.sha256(raw).digest()).decode().rstrip("=") if raw else ""


def shared_with(
    mine: Iterable[Mapping[str, Any]], fleet: Mapping[str, Iterable[Mapping[str, Any]]]
) -> dict[str, list[str]]:
    """blob of a key of ours -> names of the other devices that show the same one.

    Args:
        mine: ``sallyport_device.ssh.host_keys`` of this device.
        fleet: the same of every *other* device, by its inventory name.
    """
    owners: dict[str, list[str]] = {}
    for name in sorted(fleet):
        for key in fleet[name]:
            owners.setdefault(blob(str(key.get("public", ""))), []).append(name)
    result = {}
    for key in mine:
        shown = blob(str(key.get("public", "")))
        if shown and shown in owners:
            result[shown] = sorted(set(owners[shown]))
    return result


def renewals(
    mine: Sequence[Mapping[str, Any]],
    shared: Mapping[str, Sequence[str]],
    *,
    wanted: Mapping[str, str],
    rsa_bits: int = MIN_RSA_BITS,
) -> tuple[list[Renewal], list[Mapping[str, Any]]]:
    """What to make anew, and the weak keys to take away for good.

    Args:
        mine: this device's host keys.
        shared: from ``shared_with``.
        wanted: type -> private path of keys that must exist when all is done.
        rsa_bits: RSA keys with fewer are made anew; 3072 is what they get at least.
    """
    renew: list[Renewal] = []
    drop: list[Mapping[str, Any]] = []
    present: set[str] = set()
    size = max(rsa_bits, 3072)
    for key in mine:
        kind, path, public = (
            key_type(str(key.get("type", ""))),
            str(key.get("path", "")),
            str(key.get("public", "")),
        )
        bits = int(key.get("bits") or 0)
        present.add(kind)
        others = shared.get(blob(public), ())
        if kind == "dsa":
            drop.append(key)
        elif kind == "rsa" and 0 < bits < rsa_bits:
            why = "is weak" if bits < MIN_RSA_BITS else f"is less than {rsa_bits}"
            renew.append(Renewal(kind, path, f"an RSA key of {bits} bits {why}", public, size))
        elif others:
            renew.append(Renewal(kind, path, f"the same key is on {', '.join(others)}", public, size))
    for kind, path in wanted.items():
        if kind not in present:
            renew.append(Renewal(kind, path, f"there is no {kind} host key"))
    return renew, drop
