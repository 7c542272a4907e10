# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The ssh role's variables as one typed object, checked before any device is asked."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.access import (
    certificates,
    host_keys,
    people,
)

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
    users: tuple[people.Person, ...] = ()
    groups: tuple[people.Group, ...] = ()
    second_factor: str = "none"
    enrolment_directory: str = ""
    enrol_again: tuple[str, ...] = ()
    trusted_user_ca: tuple[str, ...] = ()
    revoked_keys: certificates.Revocations = field(default_factory=certificates.Revocations)
    host_certificates: tuple[str, ...] = ()
    idle_timeout: int = 0
    max_startups_per_source: int = 10

    @property
    def chooses_people(self) -> bool:
        """Whether somebody said who may log in, so that nobody else may."""
        return bool(self.users or self.groups)


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
    for name in (
        "authorized_keys",
        "allow_users",
        "exempt_sources",
        "enrol_again",
        "trusted_user_ca",
        "host_certificates",
    ):
        if name in got:
            got[name] = _texts(f"ssh_{name}", got[name])
    for index, key in enumerate(got.get("authorized_keys", ())):
        _operators_key(f"ssh_authorized_keys[{index}]", key)
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
        ("max_startups_per_source", 3, 1000),
    ):
        if name in got:
            got[name] = _integer(f"ssh_{name}", got[name], low, high)
    if "idle_timeout" in got:
        seconds = _integer("ssh_idle_timeout", got["idle_timeout"], 0, 7 * 86400)
        if 0 < seconds < 10:
            raise OptionError(f"ssh_idle_timeout: expected 0 (never) or seconds from 10, found {seconds}")
        got["idle_timeout"] = seconds
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
        if str(name).lower() == "authenticationmethods" and re.search(r",\s|\s,", str(value)):
            joined = re.sub(r"\s*,\s*", ",", str(value))
            raise OptionError(
                f"ssh_options.{name}: methods with a space between them are alternatives, each enough by itself; "
                f"found {value!r}. Write {joined!r} if all of them are wanted"
            )
    got["options"] = {str(name): str(value) for name, value in extra.items()}
    try:
        _people(got)
    except (people.PeopleError, certificates.CertificateError) as error:
        raise OptionError(str(error)) from None
    return SshOptions(**got)


_KEY_OPTIONS = frozenset(
    ("from", "environment", "restrict", "pty", "user-rc", "port-forwarding", "agent-forwarding", "x11-forwarding", "permitopen",
     "permitlisten", "tunnel", "no-pty", "no-user-rc", "no-port-forwarding", "no-agent-forwarding", "no-x11-forwarding",
     "no-touch-required", "verify-required", "cert-authority", "principals")
)  # fmt: skip


def _operators_key(where: str, key: str) -> None:
    """Refuse a line that would not let the operator in, or not for long."""
    encoded = host_keys.blob(key)
    stated = re.search(rf"(\S+)\s+{re.escape(encoded)}", key)
    if (
        "\n" in key
        or not key.isprintable()
        or not certificates.is_whole(encoded)
        or not stated
        or stated[1] != certificates.kind_of(encoded)
    ):
        raise OptionError(
            f"{where}: expected one line of an OpenSSH public key "
            f"(such as the content of id_ed25519.pub), found {key[:40]!r}"
        )
    for option in host_keys.options_of(key):
        if option == "command":
            raise OptionError(
                f"{where}: this key runs one command only, and the login of Ansible needs a shell"
            )
        if option == "expiry-time":
            raise OptionError(
                f"{where}: this key ends at a time, and with it the operator's way in; give a key without expiry-time"
            )
        if option not in _KEY_OPTIONS:
            raise OptionError(
                f"{where}: sshd knows no option {option!r} in front of a key, found {key[:40]!r}"
            )


def _people(got: dict[str, Any]) -> None:
    """Who may log in, and the certificates; what contradicts itself is refused here."""
    if "users" in got:
        got["users"] = people.parse_users(got["users"])
    if "groups" in got:
        got["groups"] = people.parse_groups(got["groups"])
    if "trusted_user_ca" in got:
        got["trusted_user_ca"] = certificates.parse_authorities("ssh_trusted_user_ca", got["trusted_user_ca"])
    if "revoked_keys" in got:
        got["revoked_keys"] = certificates.parse_revocations("ssh_revoked_keys", got["revoked_keys"])
    for index, line in enumerate(got.get("host_certificates", ())):
        try:
            host = certificates.parse(line).host
        except certificates.CertificateError as error:
            raise OptionError(f"ssh_host_certificates[{index}]: {error}") from None
        if not host:
            raise OptionError(
                f"ssh_host_certificates[{index}]: expected a host certificate (ssh-keygen -h), found one for users"
            )
    factor = got.get("second_factor", "none")
    if factor not in people.FACTORS:
        raise OptionError(f"ssh_second_factor: expected {', '.join(people.FACTORS)}, found {factor!r}")
    chosen = got.get("users", ())
    groups = got.get("groups", ())
    if (chosen or groups) and got.get("allow_users"):
        raise OptionError(
            "ssh_allow_users: ssh_users and ssh_groups say who may log in; leave it empty beside them"
        )
    if groups and factor != "none":
        raise OptionError(
            f"ssh_groups: expected none beside ssh_second_factor: {factor}, because a factor belongs to one person; "
            "name the people in ssh_users"
        )
    if factor != "none" and not chosen:
        raise OptionError(
            f"ssh_second_factor: {factor} is for the people of ssh_users, and there are none; name them"
        )
    if (chosen or groups) and (
        extra := {"allowusers", "allowgroups"} & {key.lower() for key in got["options"]}
    ):
        raise OptionError(
            f"ssh_options.{extra.pop()}: ssh_users and ssh_groups say who may log in; leave it out beside them"
        )
    revoked: certificates.Revocations = got.get("revoked_keys", certificates.Revocations())
    if (revoked.serials or revoked.ids) and not got.get("trusted_user_ca"):
        raise OptionError(
            "ssh_revoked_keys: serial and id are about certificates, and ssh_trusted_user_ca names no CA that signs any"
        )
    named = [
        (f"ssh_authorized_keys[{index}]", key) for index, key in enumerate(got.get("authorized_keys", ()))
    ]
    for number, person in enumerate(chosen):
        named += [(f"ssh_users[{number}].keys[{index}]", key) for index, key in enumerate(person.keys)]
        if person.principals and not got.get("trusted_user_ca"):
            raise OptionError(
                f"ssh_users[{number}].principals: certificates count only where ssh_trusted_user_ca names their CA"
            )
        if person.totp_secret and (person.second_factor or factor) != "totp":
            raise OptionError(
                f"ssh_users[{number}].totp_secret: expected second_factor: totp beside it, found "
                f"{person.second_factor or factor}"
            )
        if not person.keys and not person.principals and (person.second_factor or factor) == "fido2":
            raise OptionError(
                f"ssh_users[{number}].keys: expected the FIDO2 keys of {person.name}, found none"
            )
        if (person.second_factor or factor) == "fido2":
            for index, key in enumerate(person.keys):
                if not people.is_token_key(key) and person.second_factor == "fido2":
                    raise OptionError(
                        f"ssh_users[{number}].keys[{index}]: expected a FIDO2 key (sk-ssh-ed25519@openssh.com or "
                        f"sk-ecdsa-sha2-nistp256@openssh.com), found {key.split()[0]}"
                    )
    for where, key in named:
        if certificates.revokes(revoked, key):
            raise OptionError(f"{where}: this key stands in ssh_revoked_keys too; take it out of one of them")


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
