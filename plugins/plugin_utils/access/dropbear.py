# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Dropbear on one device. It has no configuration file: what it does is what its command line says.

So the line that starts it at boot is edited (in inittab or a boot script), and
the listening process is ended so that init starts the new one from that very line. Sessions are processes of
their own and live on. Its algorithms are compiled in: what can be chosen is which host keys it shows.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.access import boot_files, host_keys, shell
from ansible_collections.sallyport.iot.plugins.plugin_utils.access.options import SshOptions
from ansible_collections.sallyport.iot.plugins.plugin_utils.access.ssh_plan import (
    Plan,
    Refused,
    check_way_in,
    login_account,
)

KEY_DIR = "/etc/dropbear"
# Letters that take the next word, or the rest of their own, as a value.
_WITH_VALUE = set("bcrdpPWKIVTDG")
_SAFE_WORD = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")
# Ed25519 host keys came with this release; before it the best is a long RSA key.
_ED25519_SINCE = (2020, 79)
_MAX_TRIES_SINCE = (2019, 77)

_CANNOT = {
    "ssh_users": "dropbear can neither limit who logs in from where, nor ask for a second factor (it has no PAM and "
    "reads no verify-required)",
    "ssh_groups": "dropbear cannot limit who logs in",
    "ssh_trusted_user_ca": "dropbear knows no certificates",
    "ssh_revoked_keys": "dropbear knows no revocation; take the key out of the authorized_keys file instead",
    "ssh_host_certificates": "dropbear knows no certificates",
}


@dataclass(frozen=True)
class Arguments:
    """A parsed command line: flags without values, and (letter, value) pairs, in their order."""

    flags: tuple[str, ...]
    values: tuple[tuple[str, str], ...]
    program: tuple[str, ...]

    def text(self) -> str:
        """As one line that needs no shell: BusyBox init splits at spaces and knows no quotes."""
        words = [*self.program, *(f"-{flag}" for flag in self.flags)]
        for letter, value in self.values:
            words += [f"-{letter}", value]
        for word in words:
            if not _SAFE_WORD.fullmatch(word):
                raise Refused(f"dropbear's command line holds a word that cannot be kept as it is: {word!r}")
        return " ".join(words)


def parse(command: str) -> Arguments:
    """``/usr/sbin/dropbear -FE -p 22`` -> its parts.

    Raises:
        Refused: words that are neither options nor their values.
    """
    words = boot_files.words(command)
    start = next((i for i, word in enumerate(words) if posixpath.basename(word) == "dropbear"), None)
    if start is None:
        raise Refused(f"there is no dropbear in the command line {command!r}")
    program, rest = words[: start + 1], words[start + 1 :]
    flags: list[str] = []
    values: list[tuple[str, str]] = []
    index = 0
    while index < len(rest):
        word = rest[index]
        index += 1
        if not word.startswith("-") or word == "-":
            raise Refused(f"dropbear is started by a line that is not understood: {command!r} (at {word!r})")
        for position, letter in enumerate(word[1:], 1):
            if letter not in _WITH_VALUE:
                flags.append(letter)
                continue
            value = word[position + 1 :]
            if not value:
                if index >= len(rest):
                    raise Refused(f"dropbear's option -{letter} has no value in {command!r}")
                value = rest[index]
                index += 1
            values.append((letter, value))
            break
    return Arguments(tuple(dict.fromkeys(flags)), tuple(values), tuple(program))


def hardened(
    arguments: Arguments,
    options: SshOptions,
    keys: Sequence[str],
    has: tuple[int, int],
    login: str = "root",
) -> Arguments:
    """The same daemon with keys only, no forwarding, and these host keys (paths).

    Args:
        login: who logs in with Ansible; unless that is root, ``auto`` keeps root out as on OpenSSH.
    """
    # -B lets empty passwords in; -a opens forwarded ports to the network; -R would make and show every kind
    # of key.
    # -w keeps root out, and may stand there without having been loaded yet.
    flags = [flag for flag in arguments.flags if flag not in "BaRsgjkw"]
    if not options.password_authentication:
        flags.append("s")
    elif "g" in arguments.flags or options.permit_root_login in ("prohibit-password", "auto"):
        flags.append("g")
    if options.permit_root_login == "no" or (options.permit_root_login == "auto" and login != "root"):
        flags.append("w")
    if not options.forwarding:
        flags += ["j", "k"]
    values = [(letter, value) for letter, value in arguments.values if letter not in ("r", "d", "T")]
    values += [("r", path) for path in keys]
    if has >= _MAX_TRIES_SINCE:
        values.append(("T", str(options.max_auth_tries)))
    return Arguments(tuple(dict.fromkeys(flags)), tuple(values), arguments.program)


def version(text: str) -> tuple[int, int]:
    """``Dropbear v2022.83`` -> (2022, 83); (0, 0) where it does not tell."""
    found = re.search(r"(\d{4})\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def start_line(files: Mapping[str, str]) -> boot_files.Entry:
    """The one line that starts dropbear at boot.

    Raises:
        Refused: there is none that can be edited, or more than one.
    """
    found = []
    for path in sorted(files):
        if boot_files.kind_of(path) not in ("inittab", "rc"):
            continue
        for entry in boot_files.entries(path, files[path]):
            words = boot_files.words(entry.command)
            if words and "dropbear" in (posixpath.basename(word) for word in words[:2]):
                found.append(entry)
    if len(found) != 1:
        listed = ", ".join(f"{entry.path}:{entry.line}" for entry in found) or "nowhere"
        raise Refused(
            f"dropbear's command line has to be changed where it is started at boot, and exactly one such "
            "line was "
            f"expected in /etc/inittab or a boot script; found: {listed}. Start it from one line of "
            "/etc/inittab"
        )
    if not boot_files.can_switch_off(found[0]):
        raise Refused(
            f"{found[0].path} line {found[0].line} starts dropbear within a construct: {found[0].command!r}. "
            f"Start it from a line of its own"
        )
    return found[0]


# What decides who gets in and where. The site's: ports, two factors, groups, a command for everybody, where keys are.
# Ours: passwords, root, empty passwords, keys of the host.
_SITES, _OURS = "ptcGD", "swgBr"


def _check_loaded(
    device: Mapping[str, Any], entry: boot_files.Entry, written: Arguments, letters: str
) -> None:
    """The line that boots must be the one that runs: our restart loads it, and so does the way back.

    Raises:
        Refused: somebody has changed it and not loaded it, so nobody knows whether the operator would still get in.
    """
    port = int((device.get("connection") or {}).get("server_port") or 0)
    holders = {
        int(one.get("pid") or 0)
        for one in device.get("listening") or []
        if one.get("process") == "dropbear" and int(one["port"]) == port
    }
    for process in device.get("processes") or []:
        if int(process["pid"]) not in holders:
            continue
        running = parse(str(process.get("command", "")))
        if _deciding(running, letters) != _deciding(written, letters):
            raise Refused(
                f"dropbear runs as {process['command']!r}, and {entry.path} line {entry.line} says {entry.command!r}, which was "
                "never loaded: this change would load it, and so would the way back. Load it and see that you still get in, or "
                "put it back; then run again"
            )


def _deciding(arguments: Arguments, letters: str) -> tuple[set[str], set[tuple[str, str]]]:
    values = {(letter, value) for letter, value in arguments.values if letter in letters}
    ports = {("p", value.removeprefix("0.0.0.0:")) for letter, value in values if letter == "p"} or {
        ("p", "22")
    }
    return set(arguments.flags) & set(letters), {one for one in values if one[0] != "p"} | ports


def keys_file(device: Mapping[str, Any], account: Mapping[str, Any]) -> str:
    """Where this dropbear looks for the keys of an account."""
    # Builds for OpenWrt take root's keys from their configuration directory.
    openwrt = f"{KEY_DIR}/authorized_keys"
    if account["name"] == "root" and (
        openwrt in (device.get("files") or {}) or "/etc/config/dropbear" in device["files"]
    ):
        return openwrt
    home = str(account["home"]).rstrip("/")
    return f"{home}/.ssh/authorized_keys"


def merged_keys(before: str, wanted: Sequence[str], exclusive: bool) -> str:
    """The text of authorized_keys with all wanted keys; others' lines stay unless ``exclusive``."""
    if exclusive:
        return "".join(f"{key}\n" for key in wanted)
    there = {host_keys.blob(line) for line in before.splitlines() if not line.lstrip().startswith("#")}
    text = before if not before or before.endswith("\n") else before + "\n"
    return text + "".join(f"{key}\n" for key in wanted if host_keys.blob(key) not in there)


def plan(
    device: Mapping[str, Any], options: SshOptions, shared: Mapping[str, Sequence[str]], keys_before: str
) -> Plan:
    """The whole change for one device.

    Args:
        shared: host keys that other devices show too.
        keys_before: the present content of the login user's authorized_keys.

    Raises:
        Refused: the operator would lose the way in, or this dropbear cannot be served.
    """
    check_way_in(device, options)
    account = login_account(device)
    if options.allow_users:
        raise Refused(
            "ssh_allow_users: dropbear cannot limit who logs in; lock the accounts instead, or leave it empty"
        )
    if options.options:
        raise Refused("ssh_options are sshd's; dropbear has none of them. Leave it empty for this device")
    for name, given in (
        ("ssh_users", options.users),
        ("ssh_groups", options.groups),
        ("ssh_trusted_user_ca", options.trusted_user_ca),
        ("ssh_revoked_keys", options.revoked_keys),
        ("ssh_host_certificates", options.host_certificates),
    ):
        if given:
            raise Refused(f"{name}: {_CANNOT[name]}. Leave it empty for this device")
    if options.idle_timeout:
        raise Refused(
            "ssh_idle_timeout: dropbear's would end Ansible's own long tasks too, since it cannot except anybody. "
            "Leave it at 0 for this device"
        )
    ssh, files = device["ssh"], device.get("files") or {}
    if str(ssh.get("unit") or "").endswith((".service", ".socket")):
        raise Refused(
            f"dropbear runs as the systemd unit {ssh['unit']} here, which is not supported yet; "
            f"use OpenSSH on this device, or start dropbear from /etc/inittab"
        )
    has = version(str(ssh.get("version") or ""))
    result = Plan()
    entry = start_line(files)
    present = parse(entry.command)
    kept = _host_keys(result, device, has, shared if options.renew_shared_host_keys else {})
    new = hardened(present, options, kept, has, str(account["name"])).text()
    # What our own line decides has been loaded, and proved by a login, when it was written.
    ours = new == entry.command.rstrip("& ")
    _check_loaded(device, entry, present, _SITES if ours else _SITES + _OURS)
    text = files[entry.path]
    lines = text.splitlines(keepends=True)
    old_line = lines[entry.line - 1]
    lines[entry.line - 1] = old_line.replace(
        entry.command, new + (" &" if entry.command.rstrip().endswith("&") else "")
    )
    mode = "0755" if entry.kind == "rc" else "0644"
    result.files.append({"dest": entry.path, "content": "".join(lines), "mode": mode})
    if options.authorized_keys:
        result.files.append(
            {
                "dest": keys_file(device, account),
                "content": merged_keys(
                    keys_before, options.authorized_keys, options.authorized_keys_exclusive
                ),
                "mode": "0600",
                # By name: devices without stat show names only. A group's name is not known but for root's.
                "owner": str(account["name"]),
                "group": "root" if int(account["gid"]) == 0 else str(account["gid"]),
            }
        )
    ports = [("tcp", int(port)) for port in ssh.get("ports") or [22]]
    stop = shell.stop_holders(["dropbear"], ports)
    if entry.kind == "inittab":
        result.activate += ["kill -HUP 1", stop]
        result.revert += ["kill -HUP 1", stop]
    else:
        result.activate += [stop, f"{new} </dev/null >/dev/null 2>&1 &"]
        result.revert += [stop, f"{entry.command} </dev/null >/dev/null 2>&1 &"]
    result.verify.append(shell.somebody_listens(ports))
    # What boots is what runs: the listener's own command line has to be the new one.
    result.verify.append(shell.runs_as("dropbear", ports, new))
    # Started again by hand with other arguments it is another daemon, whatever the files say.
    result.live.append(shell.started_as(ports))
    result.notes.append(
        "dropbear's ciphers and key exchange are compiled in; they stay what this build offers"
    )
    return result


def _host_keys(
    result: Plan, device: Mapping[str, Any], has: tuple[int, int], shared: Mapping[str, Sequence[str]]
) -> list[str]:
    keys = device["ssh"].get("host_keys") or []
    best = "ed25519" if has >= _ED25519_SINCE else "rsa"
    wanted = {best: f"{KEY_DIR}/dropbear_{best}_host_key"}
    renew, _ = host_keys.renewals(keys, shared, wanted=wanted)
    paths = {host_keys.key_type(str(key.get("type", ""))): str(key["path"]) for key in keys}
    path = paths.get(best, wanted[best])
    result.renewals = [item for item in renew if item.type == best]
    for item in result.renewals:
        result.gone += [item.old_public] if item.old_public else []
    for key in keys:
        kind = host_keys.key_type(str(key.get("type", "")))
        if kind != best:
            # Not deleted (nobody shows it any more): an older setup of the vendor may still name the file.
            result.gone.append(str(key.get("public", "")))
            result.notes.append(f"host key {key['path']} ({kind}) is no longer shown; {path} is")
        elif not any(item.type == best for item in result.renewals):
            result.stays.append(str(key.get("public", "")))
    return [path]


def generate_key(kind: str) -> str:
    """sh that makes a key of this kind as ``"$1"`` and its public half as ``"$1.pub"``."""
    size = " -s 3072" if kind == "rsa" else ""
    return (
        f'rm -f "$1"\ndropbearkey -t {shlex.quote(kind)}{size} -f "$1" >"$1.text"\n'
        'while read -r first rest; do\n  case "$first" in ssh-*|ecdsa-*) printf \'%s %s\\n\' "$first" "$rest" >"$1.pub" ;; esac\n'
        'done <"$1.text"\nrm -f "$1.text"\n[ -s "$1.pub" ]'
    )
