# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The ssh role's variables as one typed object, checked before any device is asked."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.access import host_keys

_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}\$?")


class OptionError(ValueError):
    """A variable is wrong. The message names it, what was expected and what was found."""


@dataclass(frozen=True)
class SshOptions:
    """What the operator asked of the ssh role; see roles/ssh/meta/argument_specs.yml for the meaning of each."""

    authorized_keys: tuple[str, ...] = ()
    authorized_keys_exclusive: bool = False
    password_authentication: bool = False
    permit_root_login: str = "auto"
    allow_users: tuple[str, ...] = ()
    max_auth_tries: int = 4
    login_grace_time: int = 30
    forwarding: bool = False
    exempt_sources: tuple[str, ...] = ()
    clients: str = "openssh-8.4"
    profile: str = "default"
    renew_shared_host_keys: bool = True
    known_hosts: bool = True
    options: Mapping[str, str] = field(default_factory=dict)


def parse(values: Mapping[str, Any]) -> SshOptions:
    """The options of the action plugin, without their ``ssh_`` in front.

    Raises:
        OptionError: for the first that is wrong.
    """
    known = set(SshOptions.__dataclass_fields__)
    unknown = sorted(set(values) - known)
    if unknown:
        raise OptionError(f"unknown option {unknown[0]!r}; expected one of {', '.join(sorted(known))}")
    got = dict(values)
    for name in ("authorized_keys", "allow_users", "exempt_sources"):
        if name in got:
            got[name] = _texts(f"ssh_{name}", got[name])
    for index, key in enumerate(got.get("authorized_keys", ())):
        if "\n" in key or not key.isprintable() or not host_keys.fingerprint(key):
            raise OptionError(
                f"ssh_authorized_keys[{index}]: expected one line of an OpenSSH public key "
                f"(such as the content of id_ed25519.pub), found {key[:40]!r}"
            )
    for index, user in enumerate(got.get("allow_users", ())):
        if not _USER.fullmatch(user):
            raise OptionError(f"ssh_allow_users[{index}]: expected the name of an account, found {user!r}")
    for index, source in enumerate(got.get("exempt_sources", ())):
        try:
            ipaddress.ip_network(source)
        except ValueError as error:
            raise OptionError(
                f"ssh_exempt_sources[{index}]: expected a CIDR, found {source!r}: {error}"
            ) from None
    for name, low, high in (
        ("max_auth_tries", 2, 100),
        ("login_grace_time", 5, 600),
        ("confirm_seconds", 5, 3600),
    ):
        if name in got:
            got[name] = _integer(f"ssh_{name}", got[name], low, high)
    root = got.get("permit_root_login", "auto")
    if root not in ("auto", "no", "prohibit-password", "yes"):
        raise OptionError(
            f"ssh_permit_root_login: expected auto, no, prohibit-password or yes, found {root!r}"
        )
    extra = got.get("options", {})
    if not isinstance(extra, Mapping):
        raise OptionError(
            f"ssh_options: expected a mapping of sshd option to value, found {type(extra).__name__}"
        )
    for name, value in extra.items():
        if not str(name).isalnum() or not isinstance(value, str | int) or isinstance(value, bool):
            raise OptionError(
                f"ssh_options.{name}: expected text or a number (quote yes and no), found {value!r}"
            )
        if str(name).lower() in ("match", "include"):
            raise OptionError(
                f"ssh_options.{name}: a block cannot be an option; put it into a drop-in of your own"
            )
    got["options"] = {str(name): str(value) for name, value in extra.items()}
    return SshOptions(**got)


def check_settings(values: Mapping[str, Any]) -> None:
    """Refuse settings that ``commit`` could not work with.

    Raises:
        OptionError: for the first that is wrong.
    """
    _integer("ssh_confirm_seconds", values["confirm_seconds"], 5, 3600)
    _integer("ssh_keep", values["keep"], 1, 1000)


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise OptionError(f"{name}: expected a list of text, found {type(value).__name__}")
    for index, item in enumerate(value):
        if not isinstance(item, str):
            raise OptionError(f"{name}[{index}]: expected text, found {type(item).__name__}")
    return tuple(item.strip() for item in value if item.strip())


def _integer(name: str, value: Any, low: int, high: int) -> int:
    try:
        number = int(str(value))
    except ValueError:
        raise OptionError(f"{name}: expected a whole number from {low} to {high}, found {value!r}") from None
    if not low <= number <= high:
        raise OptionError(f"{name}: expected a whole number from {low} to {high}, found {number}")
    return number
