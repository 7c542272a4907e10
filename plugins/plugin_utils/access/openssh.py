# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""OpenSSH on one device: the settings that its version knows, and the change that brings them about."""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.access import host_keys, sshd_config
from ansible_collections.sallyport.iot.plugins.plugin_utils.access.algorithms import Algorithms
from ansible_collections.sallyport.iot.plugins.plugin_utils.access.options import SshOptions
from ansible_collections.sallyport.iot.plugins.plugin_utils.access.ssh_plan import (
    Plan,
    Refused,
    check_way_in,
    drop_weak,
    login_account,
)

# Keys of the operator stand in a directory that only root writes: no home directory with odd modes, and no
# user, can make them not count, and the keys that people put into their own files are left alone.
KEYS_DIR = "/etc/ssh/authorized_keys.d"
HOST_KEYS = {"ed25519": "/etc/ssh/ssh_host_ed25519_key"}
_OLDEST = (7, 4)


def version(text: str) -> tuple[int, int]:
    """``OpenSSH_9.2p1 Debian-2`` or ``9.2p1`` -> (9, 2).

    Raises:
        Refused: no version is in it.
    """
    found = re.search(r"(\d+)\.(\d+)", text)
    if not found:
        raise Refused(f"the version of this device's OpenSSH could not be read; its sshd says {text!r}")
    return int(found[1]), int(found[2])


def punishes(device: Mapping[str, Any]) -> bool:
    """Whether this release holds failed logins against their source, and can exempt some."""
    return version(str(device["ssh"]["version"])) >= (9, 8)


def settings(device: Mapping[str, Any], options: SshOptions, algorithms: Algorithms) -> list[tuple[str, str]]:
    """sshd's settings, in the order in which they are written."""
    ssh = device["ssh"]
    has = version(str(ssh["version"]))
    config: Mapping[str, Sequence[str]] = ssh.get("config") or {}
    passwords = "yes" if options.password_authentication else "no"
    root = options.permit_root_login
    if root == "auto":
        # Whoever logs in as root now must not be the one who is shut out.
        root = "prohibit-password" if login_account(device)["name"] == "root" else "no"
    if has < (7, 0) and root == "prohibit-password":
        root = "without-password"
    forwarding = "yes" if options.forwarding else "no"
    listed = [f"{KEYS_DIR}/%u"]
    if not options.authorized_keys_exclusive:
        before = " ".join(config.get("authorizedkeysfile") or [".ssh/authorized_keys"]).split()
        listed = [*(path for path in before if path not in ("none", *listed)), *listed]
    result = [
        ("PermitRootLogin", root),
        ("PubkeyAuthentication", "yes"),
        ("AuthorizedKeysFile", " ".join(listed)),
        ("PasswordAuthentication", passwords),
        ("PermitEmptyPasswords", "no"),
        # Before 8.7 this is another option, and with PAM it asks for passwords just the same.
        *([("ChallengeResponseAuthentication", passwords)] if has < (8, 7) else []),
        ("KbdInteractiveAuthentication", passwords),
        ("HostbasedAuthentication", "no"),
        ("StrictModes", "yes"),
        ("MaxAuthTries", str(options.max_auth_tries)),
        ("LoginGraceTime", str(options.login_grace_time)),
        ("AllowTcpForwarding", forwarding),
        ("AllowStreamLocalForwarding", forwarding),
        ("AllowAgentForwarding", forwarding),
        ("PermitTunnel", "no"),
        ("X11Forwarding", "no"),
        ("PermitUserEnvironment", "no"),
    ]
    if options.allow_users:
        result.append(("AllowUsers", " ".join(options.allow_users)))
    if has >= (9, 1):
        result.append(("RequiredRSASize", str(host_keys.MIN_RSA_BITS)))
    if punishes(device):
        exempt = exemptions(device, options)
        if exempt:
            result.append(("PerSourcePenaltyExemptList", ",".join(exempt)))
    result += algorithm_settings(has, algorithms)
    result += list(options.options.items())
    last = {keyword.lower(): (keyword, value) for keyword, value in result}
    return list(last.values())


def algorithm_settings(has: tuple[int, int], algorithms: Algorithms) -> list[tuple[str, str]]:
    """The lists, under the names that this version knows."""
    names = {"kex": "KexAlgorithms", "cipher": "Ciphers", "mac": "MACs", "hostkeyalgs": "HostKeyAlgorithms"}
    result = [(names[kind], ",".join(values)) for kind, values in algorithms.lists.items()]
    if algorithms.user_keys:
        option = "PubkeyAcceptedAlgorithms" if has >= (8, 5) else "PubkeyAcceptedKeyTypes"
        result.append((option, ",".join(algorithms.user_keys)))
    return result


def exemptions(device: Mapping[str, Any], options: SshOptions) -> list[str]:
    """Whom failed logins must never be held against: what the site says, and this controller as the device sees it.

    The controller's own address is left out where a network holds it already: it may be another one tomorrow, and
    that must not be a change.
    """
    client = str((device.get("connection") or {}).get("client") or "").partition("%")[0]
    sources = list(dict.fromkeys(options.exempt_sources))
    if not client:
        return sources
    own = ipaddress.ip_address(client)
    held = any(own in ipaddress.ip_network(source) for source in sources)
    return sources if held else [client, *sources]


def plan(
    device: Mapping[str, Any],
    options: SshOptions,
    algorithms: Algorithms,
    shared: Mapping[str, Sequence[str]],
    banner: str,
) -> Plan:
    """The whole change for one device.

    Args:
        shared: host keys that other devices show too, from ``host_keys.shared_with``.
        banner: the comment at the top of the file.

    Raises:
        Refused: the operator would lose the way in, or this sshd cannot be served.
    """
    ssh = device["ssh"]
    if version(str(ssh["version"])) < _OLDEST:
        raise Refused(
            f"OpenSSH {ssh['version']} is older than {_OLDEST[0]}.{_OLDEST[1]}, the oldest that is supported"
        )
    check_way_in(device, options)
    user = str(login_account(device)["name"])
    result = Plan()
    files = {
        path: text
        for path, text in (device.get("files") or {}).items()
        if path.startswith("/etc/ssh/sshd_config")
    }
    if sshd_config.MAIN not in files:
        raise Refused(
            f"{sshd_config.MAIN} could not be read on this device; is sshd configured from another file?"
        )
    wanted = settings(device, options, algorithms)
    where = sshd_config.place(files, [keyword for keyword, _ in wanted])
    for path, text in sshd_config.files_for(where, files, wanted, banner).items():
        mode = "" if path == sshd_config.MAIN else "0600"
        result.files.append({"dest": path, "content": text, "mode": mode})
    if options.authorized_keys:
        text = "".join(f"{key}\n" for key in options.authorized_keys)
        result.files.append({"dest": f"{KEYS_DIR}/{user}", "content": f"# {banner}\n{text}", "mode": "0644"})
    result.notes += sshd_config.exceptions(files, wanted)
    result.notes += [f"kept for {options.clients}: {name}" for name in algorithms.kept_for_clients]
    result.notes += [
        f"{kind}: left as the device has it, because it does not tell what it supports"
        for kind in algorithms.unknown
    ]
    keys = ssh.get("host_keys") or []
    renew, weak = host_keys.renewals(keys, shared if options.renew_shared_host_keys else {}, wanted=HOST_KEYS)
    result.renewals = renew
    drop_weak(weak, result)
    result.gone += [item.old_public for item in renew if item.old_public]
    gone = {host_keys.blob(public) for public in result.gone}
    result.stays = [
        str(key["public"]) for key in keys if host_keys.blob(str(key.get("public", ""))) not in gone
    ]
    _commands(result, device, where, wanted, user)
    return result


def _commands(
    result: Plan,
    device: Mapping[str, Any],
    where: sshd_config.Place,
    wanted: list[tuple[str, str]],
    user: str,
) -> None:
    ssh = device["ssh"]
    sshd = shlex.quote(str(ssh.get("binary") or "/usr/sbin/sshd"))
    staged = f'"$(staged {shlex.quote(where.path)})"'
    whole = f"cat {staged}" if where.path == sshd_config.MAIN else f"cat {staged} {sshd_config.MAIN}"
    # sshd wants its directory even for a test, and systemd takes it away while the service is stopped.
    result.check.append(
        f"[ -d /run/sshd ] || mkdir -m 0755 /run/sshd\n"
        f"whole=$(mktemp)\ntrap 'rm -f \"$whole\"' EXIT\n"
        f'{whole} >"$whole"\n{sshd} -t -f "$whole"\n'
        # What the files say for the operator's own login, before anything is touched.
        + _expect(f'{_effective(sshd, device, user)} -f "$whole"', wanted, user, device)
    )
    unit = str(ssh.get("unit") or "")
    if not unit:
        raise Refused(
            "sshd runs without a systemd unit on this device; how it is started at boot is not known, "
            "so it cannot be shown that the new settings would be there after a reboot"
        )
    if unit.endswith(".socket"):
        # The socket itself stays: its port and addresses are none of ours. With one sshd for all connections its
        # service runs by now, started by this very connection; with one for each, there is none to restart and every
        # new one reads the new files.
        restart = f"systemctl try-restart {shlex.quote(unit.removesuffix('.socket') + '.service')}"
    else:
        # Not reload: only a daemon that started after the swap proves what the next boot will do.
        restart = f"systemctl restart {shlex.quote(unit)}"
        result.verify.append(f"systemctl is-active --quiet {shlex.quote(unit)}")
    result.activate.append(restart)
    result.revert.append(restart)
    result.verify.append(_expect(_effective(sshd, device, user), wanted, user, device))


def _effective(sshd: str, device: Mapping[str, Any], user: str) -> str:
    connection = device.get("connection") or {}
    address = str(connection.get("client") or "127.0.0.1").partition("%")[0]
    spec = f"user={user},host={address},addr={address}"
    server, port = str(connection.get("server") or "").partition("%")[0], connection.get("server_port")
    if server and port:
        spec += f",laddr={server},lport={port}"
    return f"{sshd} -T -C {shlex.quote(spec)}"


def _expect(command: str, wanted: list[tuple[str, str]], user: str, device: Mapping[str, Any]) -> str:
    """sh that fails, naming the option, unless sshd's own account of its settings lets ``user`` in as it
    should.
    """
    values = {keyword.lower(): value for keyword, value in wanted}
    exact = {"pubkeyauthentication": ["yes"]}
    if user == "root":
        exact["permitrootlogin"] = ["yes", "without-password", "prohibit-password"]
    matched = any(
        directive.match
        for path, text in (device.get("files") or {}).items()
        if path.startswith("/etc/ssh/sshd_config")
        for directive in sshd_config.parse(path, text)
    )
    if not matched:
        # A Match block of the device's own may differ for this login; it is named in the notes instead.
        exact["passwordauthentication"] = [values["passwordauthentication"]]
    lines = [
        f"effective=$({command})",
        "printf '%s\\n' \"$effective\" | {",
        "bad=''",
        "while read -r key value; do",
        '  case "$key" in',
    ]
    for key, allowed in exact.items():
        pattern = "|".join(shlex.quote(item) for item in allowed)
        lines.append(f'    {key}) case "$value" in {pattern}) ;; *) bad="$bad $key=$value" ;; esac ;;')
    lines += [
        "  esac",
        "done",
        '[ -z "$bad" ] || {',
        f"  printf '%s\\n' \"sshd would not do for the login of {user} what was asked:$bad\" >&2",
        "  exit 1",
        "}",
        "}",
    ]
    return "\n".join(lines)


def generate_key(kind: str) -> str:
    """sh that makes a key of this kind as ``"$1"``, and its public half as ``"$1.pub"``."""
    bits = {"rsa": " -b 3072", "ecdsa": " -b 256"}.get(kind, "")
    return f"ssh-keygen -q -t {shlex.quote(kind)}{bits} -N '' -C '' -f \"$1\""
