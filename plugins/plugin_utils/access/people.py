# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Who may log in over SSH, from where, with what: the people of ssh_users and ssh_groups as typed objects.

Pure. Everything that ends up in a line of a configuration, a file name or a key file is checked here, so that
nothing has to be quoted later: sshd's configuration has no quoting that all its releases agree on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.access import certificates, host_keys

FACTORS = ("none", "totp", "fido2")

# Stricter than what useradd takes: no pattern letters (sshd would match others too), no @ (a host would begin).
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}")
# RFC 4226: 128 bits at least. Apps show it in groups, and some pad it.
_SECRET = re.compile(r"[A-Z2-7]{26,128}")
_PRINCIPAL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:+-]{0,127}")
_USER_KEYS = {
    "name",
    "keys",
    "from",
    "principals",
    "command",
    "forwarding",
    "second_factor",
    "totp_secret",
}


class PeopleError(ValueError):
    """An entry is wrong. The message names it, what was expected and what was found."""


@dataclass(frozen=True)
class Person:
    """One entry of ssh_users.

    Attributes:
        sources: zones of the policy and CIDRs as written; none for those that the policy admits.
        principals: names in certificates that stand for this account.
        second_factor: ``none``, ``totp``, ``fido2``, or "" for what ssh_second_factor says.
        totp_secret: base32, where the site has one already; "" for one that is made for each device.
    """

    name: str
    keys: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    principals: tuple[str, ...] = ()
    command: str = ""
    forwarding: bool | None = None
    second_factor: str = ""
    totp_secret: str = field(default="", repr=False)


@dataclass(frozen=True)
class Group:
    """One entry of ssh_groups: its members may log in, from these sources."""

    name: str
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Admitted:
    """A person or the members of a group, with the sources resolved to CIDRs; none means from anywhere."""

    who: Person | Group
    cidrs: tuple[str, ...] = ()

    def patterns(self) -> list[str]:
        """For sshd's AllowUsers."""
        name = "*" if isinstance(self.who, Group) else self.who.name
        return [f"{name}@{cidr}" for cidr in self.cidrs] or [name]


def parse_users(value: Any) -> tuple[Person, ...]:
    """``ssh_users``.

    Raises:
        PeopleError: for the first entry that is wrong.
    """
    found: list[Person] = []
    for where, entry in _entries("ssh_users", value, _USER_KEYS):
        name = _name(f"{where}.name", entry.get("name"))
        if name in (one.name for one in found):
            raise PeopleError(f"{where}.name: expected each account once, found {name!r} again")
        factor = entry.get("second_factor", "")
        if factor not in ("", *FACTORS):
            raise PeopleError(f"{where}.second_factor: expected {', '.join(FACTORS)}, found {factor!r}")
        secret = _secret(f"{where}.totp_secret", entry.get("totp_secret", ""))
        if secret and secret in (one.totp_secret for one in found):
            raise PeopleError(f"{where}.totp_secret: expected one of its own, found that of another person")
        keys = _texts(f"{where}.keys", entry.get("keys", []))
        for index, key in enumerate(keys):
            _bare_key(f"{where}.keys[{index}]", key)
        principals = _texts(f"{where}.principals", entry.get("principals", []))
        for index, principal in enumerate(principals):
            if not _PRINCIPAL.fullmatch(principal):
                raise PeopleError(
                    f"{where}.principals[{index}]: expected a name as it stands in certificates, found {principal!r}"
                )
        forwarding = entry.get("forwarding")
        if forwarding is not None and not isinstance(forwarding, bool):
            raise PeopleError(f"{where}.forwarding: expected true or false, found {forwarding!r}")
        found.append(
            Person(
                name=name,
                keys=keys,
                sources=_sources(f"{where}.from", entry),
                principals=principals,
                command=_command(f"{where}.command", entry.get("command", "")),
                forwarding=forwarding,
                second_factor=str(factor),
                totp_secret=secret,
            )
        )
    return tuple(found)


def parse_groups(value: Any) -> tuple[Group, ...]:
    """``ssh_groups``.

    Raises:
        PeopleError: for the first entry that is wrong.
    """
    found: list[Group] = []
    for where, entry in _entries("ssh_groups", value, {"name", "from"}):
        name = _name(f"{where}.name", entry.get("name"))
        if name in (one.name for one in found):
            raise PeopleError(f"{where}.name: expected each group once, found {name!r} again")
        found.append(Group(name, _sources(f"{where}.from", entry)))
    return tuple(found)


def key_line(person: Person, key: str) -> str:
    """One line of this person's key file."""
    return f"verify-required {key}" if person.second_factor == "fido2" else key


def is_token_key(key: str) -> bool:
    """Whether a public key lives in a FIDO2 token."""
    return key.split()[0].startswith("sk-")


def _entries(name: str, value: Any, known: set[str]) -> list[tuple[str, Mapping[str, Any]]]:
    if not isinstance(value, list | tuple):
        raise PeopleError(f"{name}: expected a list, found {type(value).__name__}")
    found = []
    for index, entry in enumerate(value):
        where = f"{name}[{index}]"
        if not isinstance(entry, Mapping):
            raise PeopleError(
                f"{where}: expected a mapping with {', '.join(sorted(known))}, found {type(entry).__name__}"
            )
        unknown = sorted(str(key) for key in entry if key not in known)
        if unknown:
            raise PeopleError(f"{where}.{unknown[0]}: no such key; expected {', '.join(sorted(known))}")
        found.append((where, entry))
    return found


def _name(where: str, value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise PeopleError(
            f"{where}: expected a name of letters, digits and ._- (at most 32), found {value!r}"
        )
    return str(value)


def _texts(where: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise PeopleError(f"{where}: expected a list of text, found {type(value).__name__}")
    for index, item in enumerate(value):
        if not isinstance(item, str):
            raise PeopleError(f"{where}[{index}]: expected text, found {type(item).__name__}")
    return tuple(str(item).strip() for item in value)


def _sources(where: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    if "from" not in entry:
        return ()
    texts = _texts(where, entry["from"])
    if not texts:
        raise PeopleError(
            f"{where}: expected zones of the policy or CIDRs, found an empty list; leave it out to take the sources "
            "that the policy admits to the SSH port"
        )
    return texts


def _bare_key(where: str, key: str) -> None:
    words = key.split()
    kind = words[0] if words else ""
    if (
        not key.isprintable()
        or len(words) < 2
        or not kind.startswith(("ssh-", "ecdsa-", "sk-"))
        or certificates.kind_of(words[1]) != kind
        or not host_keys.fingerprint(words[1])
    ):
        raise PeopleError(
            f"{where}: expected one line of an OpenSSH public key without options (from, command and forwarding are "
            f"keys of the entry), found {key[:40]!r}"
        )
    if "-cert-v01@" in kind:
        raise PeopleError(
            f"{where}: expected a public key, found a certificate; set ssh_trusted_user_ca and principals instead"
        )


def _command(where: str, value: Any) -> str:
    # From 8.5 on sshd takes all of the line, before it cut at a number sign.
    if not isinstance(value, str) or not (value.isprintable() or not value) or "#" in value:
        raise PeopleError(f"{where}: expected one line of text without #, found {value!r}")
    return str(value).strip()


def _secret(where: str, value: Any) -> str:
    # Whatever it is, it is not shown.
    text = re.sub(r"[ -]", "", value).rstrip("=").upper() if isinstance(value, str) else ""
    if value != "" and not _SECRET.fullmatch(text):
        raise PeopleError(
            f"{where}: expected 128 bits or more in base32, as authenticator apps take them (26 to 128 of A-Z and 2-7), "
            f"found {len(text)} characters" + ("" if isinstance(value, str) else f" ({type(value).__name__})")
        )
    return text


def names_of(people: Sequence[Person]) -> set[str]:
    """Account names."""
    return {person.name for person in people}
