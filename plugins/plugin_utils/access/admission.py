# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What the people of ssh_users and ssh_groups mean for one device's OpenSSH: settings, Match blocks and files.

Pure. sshd lets Match blocks override what stands outside of them, and adds up AllowUsers within them. So the
list of who may log in stands in a block for everybody: that replaces a list of the device's own, which would
otherwise go on letting its people in.
"""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.access import certificates, people, second_factor
from ansible_collections.sallyport.iot.plugins.plugin_utils.access.options import SshOptions
from ansible_collections.sallyport.iot.plugins.plugin_utils.access.people import Admitted, Group, Person
from ansible_collections.sallyport.iot.plugins.plugin_utils.access.second_factor import (
    KEYS_DIR,
    PRINCIPALS_DIR,
    Answers,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.access.ssh_plan import Refused, login_account
from ansible_collections.sallyport.iot.plugins.plugin_utils.access.sshd_config import Match, foreign

EVERYBODY = "Match User *"
USER_CA = "/etc/ssh/sallyport/user_ca"
REVOKED = "/etc/ssh/sallyport/revoked"
# One line holds this many; sshd reads as many lines as there are.
_ENTRIES = 40
_NO_LOGIN = ("nologin", "false")
_TOKEN_KINDS = ("sk-ssh-ed25519", "sk-ecdsa-sha2-nistp256")

Resolve = Callable[[str, Sequence[str]], Sequence[str]]


@dataclass(frozen=True)
class Admission:
    """Who may log in to one device.

    Attributes:
        users: the login user of this inventory is always one of them.
        exempt: whether the login user needs an exemption, because others have a second factor.
    """

    login: str
    users: tuple[Admitted, ...] = ()
    groups: tuple[Admitted, ...] = ()
    answers: Answers = field(default_factory=Answers)
    again: frozenset[str] = frozenset()

    @property
    def people(self) -> list[Person]:
        return [one.who for one in self.users if isinstance(one.who, Person)]

    def with_factor(self, factor: str) -> list[str]:
        """Names of those who have it."""
        return [person.name for person in self.people if person.second_factor == factor]

    @property
    def exempt(self) -> bool:
        return any(person.second_factor != "none" for person in self.people)

    def enrol(self) -> list[str]:
        """Who gets a new secret now."""
        return [
            person.name
            for person in self.people
            if person.second_factor == "totp"
            and not person.totp_secret
            and (person.name not in self.answers.enrolled or person.name in self.again)
        ]

    def given(self) -> dict[str, str]:
        """account -> secret of the site's own, for those whose device has another one, or none."""
        return {
            person.name: person.totp_secret
            for person in self.people
            if person.totp_secret and not self.answers.has_secret(person.name, person.totp_secret)
        }


def with_login_keys(device: Mapping[str, Any], options: SshOptions) -> SshOptions:
    """Keys that ssh_users names for the login user count as ssh_authorized_keys and the other way round."""
    login = device.get("login_user")
    own = next((person for person in options.users if person.name == login), None)
    if own is None:
        return options
    keys = tuple(dict.fromkeys((*options.authorized_keys, *own.keys)))
    users = tuple(replace(person, keys=keys) if person is own else person for person in options.users)
    return replace(options, authorized_keys=keys, users=users)


def admit(
    device: Mapping[str, Any],
    options: SshOptions,
    answers: Answers,
    resolve: Resolve,
    default: Sequence[str],
) -> Admission | None:
    """Who may log in to this device; None where nobody said it.

    Args:
        resolve: a variable's path and its zones and CIDRs -> CIDRs.
        default: the CIDRs of those who name none; none for from anywhere.

    Raises:
        Refused: an entry cannot work on this device, or the operator would lose the way in.
    """
    if not options.chooses_people:
        return None
    login = str(login_account(device)["name"])
    client = str((device.get("connection") or {}).get("client") or "")
    users: list[Admitted] = []
    for index, written in enumerate(options.users):
        where = f"ssh_users[{index}]"
        cidrs = resolve(f"{where}.from", written.sources) if written.sources else default
        factor = written.second_factor or ("none" if written.name == login else options.second_factor)
        person = replace(written, second_factor=factor)
        if person.name == login:
            _check_login(where, person, cidrs, client, bool(person.sources))
            cidrs = _with_controller(cidrs, client)
        _check_account(device, where, person, options, answers)
        users.append(Admitted(person, tuple(cidrs)))
    if login not in (one.who.name for one in users):
        own = Person(login, keys=options.authorized_keys, second_factor="none")
        users.insert(0, Admitted(own, tuple(_with_controller(default, client))))
    groups = []
    for index, group in enumerate(options.groups):
        if group.name not in answers.groups:
            raise Refused(
                f"ssh_groups[{index}].name: there is no group {group.name} on this device; make it first"
            )
        cidrs = resolve(f"ssh_groups[{index}].from", group.sources) if group.sources else default
        groups.append(Admitted(group, tuple(cidrs)))
    found = Admission(login, tuple(users), tuple(groups), answers, frozenset(options.enrol_again))
    strangers = sorted(found.again - set(found.with_factor("totp")))
    if strangers:
        raise Refused(
            f"ssh_enrol_again: {strangers[0]} has no second_factor: totp in ssh_users on this device; "
            f"those who have: {', '.join(found.with_factor('totp')) or 'nobody'}"
        )
    given = sorted(found.again & {person.name for person in found.people if person.totp_secret})
    if given:
        raise Refused(
            f"ssh_enrol_again: the secret of {given[0]} is the site's own (totp_secret in ssh_users); write another one there"
        )
    _check_factors(device, options, found)
    _check_clock(device, options, found)
    return found


def settings(admission: Admission | None, options: SshOptions, has: tuple[int, int]) -> list[tuple[str, str]]:
    """What holds for every login."""
    result: list[tuple[str, str]] = []
    if options.trusted_user_ca:
        result += [("TrustedUserCAKeys", USER_CA), ("AuthorizedPrincipalsFile", f"{PRINCIPALS_DIR}/%u")]
    if options.revoked_keys:
        result.append(("RevokedKeys", REVOKED))
    if admission is not None and admission.exempt:
        # Whoever is not asked for a second factor by name has to come with a key.
        result.append(("AuthenticationMethods", "publickey"))
        if admission.with_factor("totp"):
            result.append(("UsePAM", "yes"))
            if has < (8, 7):
                # Before 8.7 PAM asks through this option, which cannot stand in a Match block. Who may use it is
                # decided by AuthenticationMethods.
                result.append(("ChallengeResponseAuthentication", "yes"))
    return result


def matches(
    admission: Admission | None,
    options: SshOptions,
    user_keys: Sequence[str],
    has: tuple[int, int],
    login: str,
    environment: Sequence[str] = (),
) -> list[Match]:
    """Blocks in the order in which they must stand: the first value that a login meets is its own.

    Args:
        environment: what sshd sets for every session already (``SetEnv``).
    """
    result: list[Match] = []
    if options.idle_timeout:
        # Ansible waits for long tasks without a word; only people are idle. The shell ends itself, because sshd's own
        # ChannelTimeout knows no exceptions: from 9.2 to 10.0 it is not read again for a Match block, but for "none",
        # which drops the connection (both seen).
        kept = [f'"{word}"' if " " in word else word for word in environment if not word.startswith("TMOUT=")]
        words = " ".join([*kept, f"TMOUT={options.idle_timeout}"])
        result.append(Match(f"User *,!{login}", (("SetEnv", words),)))
    if admission is None:
        return result
    patterns = [pattern for one in admission.users for pattern in one.patterns()]
    result.append(Match(EVERYBODY.removeprefix("Match "), _allow(patterns)))
    result += [Match(f"Group {one.who.name}", _allow(one.patterns())) for one in admission.groups]
    for one in admission.users:
        person = one.who
        assert isinstance(person, Person)
        own = _own_settings(person, options, user_keys, has)
        if own:
            result.append(Match(f"User {person.name}", tuple(own)))
        if person.name == admission.login and admission.exempt:
            result.append(_exemption(one, person))
    return result


def files(
    admission: Admission | None,
    options: SshOptions,
    banner: str,
    before: str,
    login: str,
    answers: Answers | None,
) -> list[dict[str, Any]]:
    """Keys, principals, CAs and revocations, and the files of earlier runs that must go.

    Args:
        before: our present settings on the device; a file that they do not name was never written.
    """
    result: list[dict[str, Any]] = []
    for path, content in (
        (USER_CA, "".join(f"{key}\n" for key in options.trusted_user_ca)),
        (
            REVOKED,
            certificates.revocation_list(options.revoked_keys, options.trusted_user_ca)
            if options.revoked_keys
            else b"",
        ),
    ):
        if content:
            result.append({"dest": path, "content": content, "mode": "0644"})
        elif f" {path}\n" in before:
            result.append({"dest": path, "state": "absent"})
    wanted: dict[str, str] = {}
    for person in admission.people if admission else ():
        if person.keys and person.name != login:
            lines = "".join(f"{people.key_line(person, key)}\n" for key in person.keys)
            wanted[f"{KEYS_DIR}/{person.name}"] = f"# {banner}\n{lines}"
        if person.principals:
            lines = "".join(f"{principal}\n" for principal in person.principals)
            wanted[f"{PRINCIPALS_DIR}/{person.name}"] = f"# {banner}\n{lines}"
    result += [{"dest": path, "content": text, "mode": "0644"} for path, text in wanted.items()]
    keep = {*wanted, f"{KEYS_DIR}/{login}"}
    ours = answers.ours if answers else ()
    result += [{"dest": path, "state": "absent"} for path in ours if path not in keep]
    return result


def factor_files(admission: Admission | None, answers: Answers) -> list[dict[str, Any]]:
    """PAM's lines, and the secrets of those who no longer have a second factor; new secrets are made elsewhere."""
    having = set(admission.with_factor("totp")) if admission else set()
    result: list[dict[str, Any]] = []
    if answers.pam is not None:
        text = second_factor.pam_with(answers.pam, bool(having))
        # Named where it is as wanted too: what is changed by hand is drift.
        if having or text != answers.pam:
            result.append({"dest": second_factor.PAM_FILE, "content": text, "mode": ""})
    result += [
        {"dest": f"{second_factor.SECRETS_DIR}/{name}", "state": "absent", "secret": True}
        for name in sorted(answers.enrolled - having)
    ]
    return result


def logins(admission: Admission | None) -> list[tuple[str, str, dict[str, list[str]]]]:
    """(user, an address to come from, option -> allowed values) that sshd itself must confirm."""
    found = []
    for one in admission.users if admission else ():
        person = one.who
        assert isinstance(person, Person) and admission is not None
        expected: dict[str, list[str]] = {}
        if person.second_factor == "totp":
            expected = {
                "authenticationmethods": ["publickey,keyboard-interactive"],
                "kbdinteractiveauthentication": ["yes"],
                "usepam": ["yes"],
            }
        elif person.second_factor == "fido2":
            expected = {"pubkeyauthoptions": ["verify-required"], "authenticationmethods": ["publickey"]}
        elif person.name == admission.login and admission.exempt:
            expected = {"authenticationmethods": ["publickey"]}
        if person.command:
            expected["forcecommand"] = [person.command]
        if expected:
            address = one.cidrs[0].partition("/")[0] if one.cidrs else "127.0.0.1"
            found.append((person.name, address, expected))
    return found


def notes(admission: Admission | None) -> list[str]:
    """What an operator should know."""
    if admission is None:
        return []
    result = []
    for one in (*admission.users, *admission.groups):
        kind = "group " if isinstance(one.who, Group) else ""
        where = ", ".join(one.cidrs) or "anywhere that the firewall lets through"
        result.append(f"{kind}{one.who.name} may log in from {where}")
    given = sorted(person.name for person in admission.people if person.totp_secret)
    if given:
        result.append(
            f"totp_secret of {', '.join(given)}: each device remembers only the codes that were used on it, so a code that is "
            "seen on one opens every other with the same secret for up to 90 s; without totp_secret each device has its own"
        )
    if not admission.answers.keeps_time:
        result += [
            f"{person.name} gets in by certificate alone, which counts only while the clock is right; this device has "
            "neither a clock chip nor a time client, so after a power cut it may not (role time_sync, or keys as well)"
            for person in admission.people
            if person.principals and not person.keys
        ]
    result += [
        f"{name} must change its password at the next login, which a login by key cannot; chage -d -1 {name} ends that"
        for name in sorted({person.name for person in admission.people} & admission.answers.must_change)
    ]
    return result


def _allow(patterns: Sequence[str]) -> tuple[tuple[str, str], ...]:
    chunks = [patterns[at : at + _ENTRIES] for at in range(0, len(patterns), _ENTRIES)]
    return tuple(("AllowUsers", " ".join(chunk)) for chunk in chunks)


def _own_settings(
    person: Person, options: SshOptions, user_keys: Sequence[str], has: tuple[int, int]
) -> list[tuple[str, str]]:
    result: list[tuple[str, str]] = []
    if person.second_factor == "totp":
        result += [
            ("AuthenticationMethods", "publickey,keyboard-interactive"),
            ("KbdInteractiveAuthentication", "yes"),
        ]
    if person.second_factor == "fido2":
        accepted = "PubkeyAcceptedAlgorithms" if has >= (8, 5) else "PubkeyAcceptedKeyTypes"
        # The person's own authorized_keys go on counting, but only tokens in them.
        result += [
            ("PubkeyAuthOptions", "verify-required"),
            (accepted, ",".join(name for name in user_keys if name.startswith(_TOKEN_KINDS))),
        ]
    if person.command:
        result.append(("ForceCommand", person.command))
    if person.forwarding is not None and person.forwarding != options.forwarding:
        word = "yes" if person.forwarding else "no"
        result += [
            ("AllowTcpForwarding", word),
            ("AllowStreamLocalForwarding", word),
            ("AllowAgentForwarding", word),
        ]
    return result


def _exemption(one: Admitted, person: Person) -> Match:
    """The automation's way past the second factor: by keys that only root can write, from its sources alone."""
    condition = f"User {person.name}"
    if one.cidrs:
        condition += f" Address {','.join(one.cidrs)}"
    keys = f"{KEYS_DIR}/%u" if person.keys else "none"
    return Match(condition, (("AuthenticationMethods", "publickey"), ("AuthorizedKeysFile", keys)))


def _with_controller(cidrs: Sequence[str], client: str) -> list[str]:
    """The sources of the login user, this controller being one of them."""
    if not cidrs:
        return []
    if not client:
        # Pull mode: the login that proves the way in comes over loopback.
        return [*cidrs, "127.0.0.0/8", "::1/128"]
    if "%" in client:
        # A link-local address names its interface, which no list of sshd can.
        return []
    own = ipaddress.ip_address(client)
    held = any(own in ipaddress.ip_network(cidr) for cidr in cidrs)
    return list(cidrs) if held else [*cidrs, str(ipaddress.ip_network(own))]


def _check_login(where: str, person: Person, cidrs: Sequence[str], client: str, said: bool) -> None:
    if person.second_factor != "none":
        raise Refused(
            f"{where}.second_factor: {person.name} is the account that Ansible logs in with, and it can give neither a "
            "code nor a touch. Give people accounts of their own, and leave this one at none"
        )
    if person.command:
        raise Refused(
            f"{where}.command: {person.name} is the account that Ansible logs in with; it needs a shell"
        )
    if said and client and "%" not in client:
        own = ipaddress.ip_address(client)
        if not any(own in ipaddress.ip_network(cidr) for cidr in cidrs):
            raise Refused(
                f"{where}.from: this controller comes from {client}, which is in none of {', '.join(cidrs)}; "
                "add it, or nobody could come back"
            )


def _check_account(
    device: Mapping[str, Any], where: str, person: Person, options: SshOptions, answers: Answers
) -> None:
    account = next((one for one in device.get("accounts") or [] if one["name"] == person.name), None)
    if account is None:
        raise Refused(
            f"{where}.name: there is no account {person.name} on this device; make it first "
            "(ansible.builtin.user), this role makes none"
        )
    shell = str(account.get("shell") or "/bin/sh").rpartition("/")[2]
    if shell in _NO_LOGIN:
        raise Refused(
            f"{where}.name: the shell of {person.name} is {account['shell']}, so no login can work; give it another, or "
            "take it out"
        )
    config = (device.get("ssh") or {}).get("config") or {}
    pam = {key.lower(): value for key, value in options.options.items()}.get(
        "usepam", " ".join(config.get("usepam") or ["no"] if config else ["yes"])
    )
    if account.get("password") == "locked" and pam == "no" and person.second_factor != "totp":
        raise Refused(
            f"{where}.name: the password of {person.name} is locked with a !, and without PAM sshd takes that for no "
            f"login at all, keys included. Run: usermod -p '*' {person.name}"
        )


def _check_factors(device: Mapping[str, Any], options: SshOptions, admission: Admission) -> None:
    if not admission.exempt:
        return
    if options.password_authentication:
        raise Refused(
            "ssh_password_authentication: a second factor is worth nothing beside a password that is enough by itself; "
            "leave it at false"
        )
    own = next(person for person in admission.people if person.name == admission.login)
    if not own.keys and not own.principals:
        raise Refused(
            f"{admission.login} is exempted from second factors by its key, so that key has to be known: set "
            "ssh_authorized_keys, or its principals in ssh_users"
        )
    if admission.groups:
        raise Refused(
            f"ssh_groups: members of {admission.groups[0].who.name} would get in without the second factor that "
            "others have; name the people in ssh_users instead"
        )
    config = (device.get("ssh") or {}).get("config") or {}
    if admission.with_factor("totp"):
        second_factor.require(admission.with_factor("totp"), admission.answers, config)
        _check_bypass(device, options, admission.with_factor("totp"))
    for index, person in enumerate(options.users):
        if person.name not in admission.with_factor("fido2"):
            continue
        for number, key in enumerate(person.keys):
            if not people.is_token_key(key):
                raise Refused(
                    f"ssh_users[{index}].keys[{number}]: expected a FIDO2 key (sk-ssh-ed25519@openssh.com or "
                    f"sk-ecdsa-sha2-nistp256@openssh.com), found {key.split()[0]}"
                )


def _check_clock(device: Mapping[str, Any], options: SshOptions, admission: Admission) -> None:
    """Refuse certificates as the operator's only way in where a power cut takes the time away.

    The login that proves this change works today; with the clock at 1970 no certificate is valid yet.

    Raises:
        Refused: with what helps.
    """
    own = next(person for person in admission.people if person.name == admission.login)
    in_home = 0 if options.authorized_keys_exclusive else login_account(device).get("authorized_keys")
    if admission.answers.keeps_time or own.keys or in_home or not own.principals:
        return
    if not options.password_authentication:
        raise Refused(
            f"{own.name} would get in by certificate alone, and this device has neither a clock chip nor a time client: "
            "after a power cut its clock is wrong, no certificate is valid, and nobody gets in. Set ssh_authorized_keys "
            "to a key as well, or install a time client (role time_sync)"
        )


def _check_bypass(device: Mapping[str, Any], options: SshOptions, who: Sequence[str]) -> None:
    """Refuse codes where the code alone would let somebody in: what asks PAM for a password now asks for six digits.

    All sshd processes share PAM's service of this name, so our lines there count for a second daemon too.

    Raises:
        Refused: with the daemon, or the line, that would do with a code.
    """
    names = ", ".join(who)
    commands = {int(one["pid"]): str(one.get("command", "")) for one in device.get("processes") or []}
    for port, process, unit, pid in other_daemons(device):
        apart = re.search(r"-o\s*['\"]?UsePAM[=\s]+no\b", commands.get(pid, ""), re.IGNORECASE)
        if process != "dropbear" and not apart:
            raise Refused(
                f"one-time codes for {names}: a second sshd listens on port {port} ({unit or 'no unit'}) and shares "
                f"{second_factor.PAM_FILE}, so there a code alone would do for a password. Stop that daemon, start it with "
                "-o UsePAM=no, or use second_factor: fido2"
            )
    files = {
        path: text
        for path, text in (device.get("files") or {}).items()
        if path.startswith("/etc/ssh/sshd_config")
    }
    said = [
        (f"{one.path} line {one.line} (Match {one.match})", one.arguments)
        for one in foreign(files)
        if one.match and one.keyword == "authenticationmethods"
    ]
    said += [
        ("ssh_options.AuthenticationMethods", value)
        for keyword, value in options.options.items()
        if keyword.lower() == "authenticationmethods"
    ]
    for where, value in said:
        if any("publickey" not in methods.split(",") for methods in value.split()):
            raise Refused(
                f"one-time codes for {names}: {where} says AuthenticationMethods {value}, which asks for no key, so "
                "there a code alone would do. Let each of its lists begin with publickey, or take it out"
            )


def other_daemons(device: Mapping[str, Any]) -> list[tuple[int, str, str, int]]:
    """(port, process, unit, pid) of SSH daemons beside the one that this controller came in by.

    Sessions listen too, for ports that they forward; they are no daemons.
    """
    unit, main = str(device["ssh"].get("unit") or ""), (device.get("connection") or {}).get("server_port")
    commands = {int(one["pid"]): str(one.get("command", "")) for one in device.get("processes") or []}
    found: dict[int, tuple[int, str, str, int]] = {}
    for listener in device.get("listening") or []:
        theirs, process = str(listener.get("unit") or ""), str(listener.get("process") or "")
        port, pid = int(listener["port"]), int(listener.get("pid") or 0)
        command = commands.get(pid, "")
        session = command.startswith("sshd: ") and "[listener]" not in command
        behind = process == "systemd" and re.search(r"ssh", theirs) and theirs.endswith(".socket")
        same = theirs.rpartition(".")[0] == unit.rpartition(".")[0]
        if (process in ("sshd", "dropbear") or behind) and not same and not session and port != main:
            found[port] = (port, "sshd" if behind else process, theirs, pid)
    return [found[port] for port in sorted(found)]


def host_certificates(
    lines: Sequence[str],
    stays: Sequence[str],
    gone: Sequence[str],
    paths: Mapping[str, str],
    now: float = 0.0,
) -> tuple[list[tuple[str, str]], list[str]]:
    """(path, line) of the certificates that belong to this device's host keys, and notes.

    Args:
        stays, gone: public host keys that the device keeps, and that this run takes away.
        paths: base64 of a host key -> its private file.

    Raises:
        Refused: a certificate is for another key, or its time is over.
    """
    now = now or time.time()
    kept = {word for public in stays for word in public.split() if word.startswith("AAAA")}
    going = {word for public in gone for word in public.split() if word.startswith("AAAA")}
    found: list[tuple[str, str]] = []
    said: list[str] = []
    for index, line in enumerate(lines):
        certificate = certificates.parse(line)
        if certificate.key in going:
            said.append(
                f"ssh_host_certificates[{index}] is for a host key that is made anew; sign the new one and run again"
            )
            continue
        if certificate.key not in kept:
            raise Refused(
                f"ssh_host_certificates[{index}] ({certificate.key_id or 'no id'}): it is for none of this device's host "
                "keys; sign the content of its /etc/ssh/ssh_host_ed25519_key.pub"
            )
        if not certificates.valid_at(certificate, now):
            raise Refused(
                f"ssh_host_certificates[{index}] ({certificate.key_id or 'no id'}): it is not valid now; clients that "
                "trust its CA would refuse this device. Sign a new one"
            )
        found.append((f"{paths[certificate.key]}-cert.pub", " ".join(line.split()[:2])))
    return found, said
