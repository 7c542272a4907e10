# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""OpenSSH on one device: the settings that its version knows, and the change that brings them about."""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.access import (
    admission,
    host_keys,
    second_factor,
    sshd_config,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.access.admission import Admission
from ansible_collections.sallyport.iot.plugins.plugin_utils.access.algorithms import Algorithms, left_out
from ansible_collections.sallyport.iot.plugins.plugin_utils.access.options import SshOptions
from ansible_collections.sallyport.iot.plugins.plugin_utils.access.second_factor import Answers
from ansible_collections.sallyport.iot.plugins.plugin_utils.access.ssh_plan import (
    Plan,
    Refused,
    check_way_in,
    drop_weak,
    login_account,
)

# Keys of the operator stand in a directory that only root writes (KEYS_DIR): no home directory with odd modes, and
# no user, can make them not count, and the keys that people put into their own files are left alone.
KEYS_DIR = second_factor.KEYS_DIR
# A login that no Match block of anybody's names: what sshd would do for it is what holds for everybody.
_NOBODY, _NOWHERE = "sallyport-nobody", "203.0.113.254"
# Of these the last one wins, they add up, or sshd itself says them in other words.
_NOT_COMPARED = sshd_config.LAST_WINS | {
    "hostkey",
    "hostcertificate",
    "allowusers",
    "persourcepenalties",
    "persourcepenaltyexemptlist",
}
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


def settings(
    device: Mapping[str, Any], options: SshOptions, algorithms: Algorithms, admitted: Admission | None = None
) -> list[tuple[str, str]]:
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
        # A client that is gone holds its session for three minutes at most.
        ("ClientAliveInterval", "60"),
        ("ClientAliveCountMax", "3"),
    ]
    if options.allow_users:
        result.append(("AllowUsers", " ".join(options.allow_users)))
    if has >= (9, 1):
        result.append(("RequiredRSASize", str(host_keys.MIN_RSA_BITS)))
    if has >= (8, 5):
        # One source cannot use up the places of those who have not logged in yet; its IPv6 network counts as one.
        places = options.max_startups_per_source
        result.append(("PerSourceMaxStartups", str(places)))
        # From here on sshd turns newcomers away by chance, so one source must not get there alone.
        result.append(("MaxStartups", f"{3 * places}:30:{10 * places}"))
        result.append(("PerSourceNetBlockSize", "32:64"))
    if options.idle_timeout and has < (9, 2):
        raise Refused(
            f"ssh_idle_timeout: OpenSSH {ssh['version']} cannot give people a time-out of their own (before 9.2 SetEnv may do nothing in a Match block); "
            "set it to 0 for this device (sessions whose client is gone end after three minutes in any case)"
        )
    if punishes(device):
        result.append(("PerSourcePenalties", "yes"))
        exempt = exemptions(device, options)
        if exempt:
            result.append(("PerSourcePenaltyExemptList", ",".join(exempt)))
    result += algorithm_settings(has, algorithms)
    result += admission.settings(admitted, options, has)
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
    admitted: Admission | None = None,
    answers: Answers | None = None,
    password: bool = False,
) -> Plan:
    """The whole change for one device.

    Args:
        shared: host keys that other devices show too, from ``host_keys.shared_with``.
        banner: the comment at the top of the file.
        admitted: who may log in; None where nobody said it.
        answers: what the device said about second factors; None where it was not asked.
        password: whether this controller has a password for its login.

    Raises:
        Refused: the operator would lose the way in, or this sshd cannot be served.
    """
    ssh = device["ssh"]
    if version(str(ssh["version"])) < _OLDEST:
        raise Refused(
            f"OpenSSH {ssh['version']} is older than {_OLDEST[0]}.{_OLDEST[1]}, the oldest that is supported"
        )
    check_way_in(device, options)
    _check_daemon(device)
    _check_lock(device, options)
    user = str(login_account(device)["name"])
    result = Plan()
    files = {
        path: text
        for path, text in (device.get("files") or {}).items()
        if path.startswith("/etc/ssh/sshd_config")
    }
    for path, why in sorted((device.get("files_omitted") or {}).items()):
        if path.startswith("/etc/ssh/sshd_config"):
            raise Refused(
                f"{path} {why}, so what it says to sshd cannot be respected; correct it on the device and run again"
            )
    if sshd_config.MAIN not in files:
        raise Refused(
            f"{sshd_config.MAIN} could not be read on this device; is sshd configured from another file?"
        )
    has = version(str(ssh["version"]))
    keys = ssh.get("host_keys") or []
    renew, weak = host_keys.renewals(
        keys,
        shared if options.renew_shared_host_keys else {},
        wanted=HOST_KEYS,
        rsa_bits=_audited_rsa_bits(options, algorithms),
    )
    result.renewals = renew
    drop_weak(weak, result)
    result.gone += [item.old_public for item in renew if item.old_public]
    gone = {host_keys.blob(public) for public in result.gone}
    result.stays = [
        str(key["public"]) for key in keys if host_keys.blob(str(key.get("public", ""))) not in gone
    ]
    wanted = settings(device, options, algorithms, admitted)
    shown, said = admission.host_certificates(
        options.host_certificates,
        result.stays,
        result.gone,
        {host_keys.blob(str(key.get("public", ""))): str(key["path"]) for key in keys},
    )
    wanted += [("HostCertificate", path) for path, _ in shown]
    if options.profile == "ssh-audit":
        # The order in which host keys are offered is that of these lines; the policies want this one.
        paths = {host_keys.key_type(str(key.get("type", ""))): str(key["path"]) for key in keys}
        wanted += [
            ("HostKey", path)
            for kind in (("rsa", "ed25519") if has < (8, 5) else ("ed25519", "rsa"))
            if (path := paths.get(kind, HOST_KEYS.get(kind)))
        ]
        if left_out(algorithms, options.clients):
            result.notes.append(
                f"ssh_profile: ssh-audit leaves no key exchange that {options.clients} speaks on this device; clients "
                "before openssh-8.5 stay out (set ssh_profile: default to let them in)"
            )
    result.notes += said
    matches = admission.matches(
        admitted, options, algorithms.user_keys, has, user, (ssh.get("config") or {}).get("setenv") or ()
    )
    where = sshd_config.place(files, [keyword for keyword, _ in wanted])
    before = files.get(where.path, "")
    if where.path == sshd_config.MAIN and sshd_config.DROP_IN in files:
        # Of an earlier run, from before something came to stand before it; whom it named would go on getting in.
        result.files.append({"dest": sshd_config.DROP_IN, "state": "absent"})
    result.files += [{"dest": path, "content": f"{line}\n", "mode": "0644"} for path, line in shown]
    result.files += admission.files(admitted, options, banner, before, user, answers)
    if answers is not None:
        result.files += admission.factor_files(admitted, answers)
    for path, text in sshd_config.files_for(where, files, wanted, banner, matches).items():
        mode = "" if path == sshd_config.MAIN else "0600"
        result.files.append({"dest": path, "content": text, "mode": mode})
    if options.authorized_keys:
        text = "".join(f"{key}\n" for key in options.authorized_keys)
        result.files.append({"dest": f"{KEYS_DIR}/{user}", "content": f"# {banner}\n{text}", "mode": "0644"})
    result.notes += sshd_config.exceptions(files, wanted, matches)
    result.notes += admission.notes(admitted)
    result.notes += _others(device)
    result.notes += [f"kept for {options.clients}: {name}" for name in algorithms.kept_for_clients]
    result.notes += [
        f"{kind}: left as the device has it, because it does not tell what it supports"
        for kind in algorithms.unknown
    ]
    _commands(
        result,
        device,
        where,
        wanted,
        user,
        admission.logins(admitted),
        _for_anybody(wanted, has, files, options),
        [keyword.lower() for keyword in options.options],
        password,
    )
    return result


def _audited_rsa_bits(options: SshOptions, algorithms: Algorithms) -> int:
    """ssh-audit's policies up to Debian 12 want RSA host keys of this size exactly."""
    older = "mlkem768x25519-sha256" not in algorithms.lists.get("kex", ())
    return 4096 if options.profile == "ssh-audit" and older else host_keys.MIN_RSA_BITS


def _check_daemon(device: Mapping[str, Any]) -> None:
    """Refuse a daemon whose command line says what its file is to say: the command line would win.

    Raises:
        Refused: with the word on the command line.
    """
    words = [str(word) for word in device["ssh"].get("arguments") or []]
    for index, word in enumerate(words):
        following = words[index + 1] if index + 1 < len(words) else ""
        value = word[2:] or following
        if word.startswith("-f") and value != sshd_config.MAIN:
            raise Refused(
                f"the sshd that this controller came in by reads {value or 'a file of its own'} and not {sshd_config.MAIN}; "
                "set ansible_port to the port of the main daemon, or start this one without -f"
            )
        if word.startswith("-o"):
            keyword = re.split(r"[=\s]", value.strip(), maxsplit=1)[0]
            if keyword.lower() not in ("pidfile", "port", "listenaddress", "addressfamily"):
                raise Refused(
                    f"this sshd is started with -o {value}, which wins over every file; take it out of its unit "
                    "(/etc/default/ssh) and run again"
                )


def _check_lock(device: Mapping[str, Any], options: SshOptions) -> None:
    """Refuse a login that works today only because PAM is asked.

    Raises:
        Refused: with the command that mends it.
    """
    account = login_account(device)
    found = " ".join((device["ssh"].get("config") or {}).get("usepam") or ["yes"])
    pam = {keyword.lower(): value for keyword, value in options.options.items()}.get("usepam", found)
    if account.get("password") == "locked" and pam.lower() == "no":
        raise Refused(
            f"the password of {account['name']} is locked with a !, and with UsePAM no sshd takes that for no login at "
            f"all, keys included. Run on the device: usermod -p '*' {account['name']}"
        )


def _others(device: Mapping[str, Any]) -> list[str]:
    """Daemons beside the one that this controller came in by, in words: they are left alone."""
    return [
        f"{process} listens on port {port} too ({unit}); it is a daemon of its own, and was left alone"
        for port, process, unit, _ in admission.other_daemons(device)
        if unit and not unit.endswith(".scope")
    ]


def _commands(
    result: Plan,
    device: Mapping[str, Any],
    where: sshd_config.Place,
    wanted: list[tuple[str, str]],
    user: str,
    logins: Sequence[tuple[str, str, Mapping[str, Sequence[str]]]],
    anybody: Mapping[str, Sequence[str]],
    said: Sequence[str],
    password: bool,
) -> None:
    ssh = device["ssh"]
    sshd = shlex.quote(str(ssh.get("binary") or "/usr/sbin/sshd"))
    unit = str(ssh.get("unit") or "")
    if not unit:
        raise Refused(
            "sshd runs without a systemd unit on this device; how it is started at boot is not known, "
            "so it cannot be shown that the new settings would be there after a reboot"
        )
    behind_socket = unit.endswith(".socket")

    def asked(file: str) -> str:
        """sh that asks sshd what it will do for the operator, and for all who have settings of their own."""
        login = _effective(sshd, device, user, name='"$client"')
        parts = [
            _client_name(login + file, device),
            _expect(login + file, _for_login(wanted, user, device), user),
        ]
        parts.append(_lets_in(login, device, user, behind_socket, said))
        parts.append(_expect(_effective(sshd, device, _NOBODY, _NOWHERE) + file, anybody, ""))
        for name, address, expected in logins:
            parts.append(_expect(_effective(sshd, device, name, address) + file, expected, name))
        return "\n".join(parts)

    # sshd wants its directory even for a test, and systemd takes it away while the service is stopped.
    result.check.append(
        f"[ -d /run/sshd ] || mkdir -m 0755 /run/sshd\n{_is_loaded(unit)}\n"
        # The way back loads the files as they are now. What stands there and was never loaded must not shut the
        # operator out then, though ours hides it as long as it is there.
        + _way_back(sshd, device, user, behind_socket, [*said, *_ours_before(device)], password)
        + f"\n{whole(sshd, where.path)}\n"
        # What the files will say for the operator's own login, before anything is touched.
        + asked(' -f "$whole"')
    )
    if behind_socket:
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
    result.verify.append(asked(""))


def whole(sshd: str, place: str) -> str:
    """sh that tests the configuration as it will be, and leaves it in the file ``$whole``.

    Our drop-in of an earlier run must not be in it: what it says, a list of people for instance, would hide what the
    device's own files say once it is gone. So the directory is copied as links, with the staged file in its place, and
    the main file reads that one; complaints name the files as they are called.
    """
    ours = sshd_config.DROP_IN.rpartition("/")[2]
    staged = f'ln -s "$(staged {sshd_config.DROP_IN})" "$parts/{ours}"\n' if place != sshd_config.MAIN else ""
    return (
        'whole=$(mktemp) parts=$(mktemp -d)\ntrap \'rm -rf "$whole" "$parts"\' EXIT\n'
        f"for each in {sshd_config.DROP_IN_DIR}/*.conf; do\n"
        f'  if [ -f "$each" ] && [ "$each" != {sshd_config.DROP_IN} ]; then ln -s "$each" "$parts"; fi\ndone\n{staged}'
        f"sed '/^[[:space:]]*[Ii][Nn][Cc][Ll][Uu][Dd][Ee]/s|\\([[:space:]=\"'\\'']\\)\\(/etc/ssh/\\)\\{{0,1\\}}sshd_config\\.d/|\\1'\"$parts\"'/|g' "
        f'"$(staged {sshd_config.MAIN})" >"$whole"\n'
        f'said=$({sshd} -t -f "$whole" 2>&1) || {{\n'
        f'  printf \'%s\\n\' "$said" | sed "s|$parts|{sshd_config.DROP_IN_DIR}|g; s|$whole|{sshd_config.MAIN}|g" >&2\n'
        "  exit 1\n}"
    )


def _effective(sshd: str, device: Mapping[str, Any], user: str, address: str = "", name: str = "") -> str:
    """How sshd is asked for a login.

    Args:
        name: by what name sshd knows the client, as a word of sh; by its address where this is left out.
    """
    connection = device.get("connection") or {}
    sshd += "".join(f" {shlex.quote(word)}" for word in _where_it_listens(device))
    address = address or _client(device)
    spec = shlex.quote(f"user={user},addr={address},host=")
    spec += name or shlex.quote(address)
    server, port = str(connection.get("server") or "").partition("%")[0], connection.get("server_port")
    if server and port:
        spec += shlex.quote(f",laddr={server},lport={port}")
    return f"{sshd} -T -C {spec}"


def _where_it_listens(device: Mapping[str, Any]) -> list[str]:
    """What the command line of this daemon says about where it listens: no file does."""
    words = [str(word) for word in device["ssh"].get("arguments") or []]
    found: list[str] = []
    for word, after in pairwise([*words, ""]):
        if re.fullmatch(r"-[46]|-p\d+", word):
            found.append(word)
        elif word in ("-p", "-o") or word.startswith("-o"):
            value = after if len(word) == 2 else word[2:]
            if word == "-p" or re.match(r"(port|listenaddress|addressfamily)[=\s]", value, re.IGNORECASE):
                found += [word[:2], value]
    return found


def _client(device: Mapping[str, Any]) -> str:
    """This controller's address, as the device sees it."""
    return str((device.get("connection") or {}).get("client") or "127.0.0.1").partition("%")[0]


def _client_name(command: str, device: Mapping[str, Any]) -> str:
    """sh that sets ``$client``: by what name this sshd knows the controller.

    It is the address, unless UseDNS says otherwise and the name that belongs to the address leads back to it, which
    is what sshd asks too.
    """
    address = shlex.quote(_client(device))
    return rf"""client={address}
if {command} | grep -qx 'usedns yes'; then
  name=$(getent hosts {address} | {{ read -r _ found _ && printf '%s' "$found" | tr '[:upper:]' '[:lower:]'; }}) || name=''
  case " $(getent ahosts "${{name:-.}}" | tr '\n\t' '  ') " in *" {_client(device)} "*) client=$name ;; esac
fi"""


def _is_loaded(unit: str) -> str:
    """sh that fails where systemd would start another sshd than the one that runs: our restart would be the first to do it,
    and so would the one of the way back.

    What it would start stands in the unit, its drop-ins and the files of variables that they name.
    """
    service = unit.removesuffix(".socket").removesuffix(".service") + ".service"
    compared = (
        ""
        if unit.endswith(".socket")
        else r"""
main=$(systemctl show -p MainPID --value "$unit")
runs=$(tr '\0' ' ' 2>/dev/null <"/proc/$main/cmdline" | sed 's/^sshd: //; s/ \[listener\].*//') || runs=''
starts=$(systemctl show -p ExecStart --value "$unit" | sed -n 's/^.*argv\[\]=\(.*\) ; ignore_errors=.*$/\1/p')
sources=$(systemctl show -p EnvironmentFiles --value "$unit" | sed 's/ (ignore_errors=.*//')
value() {
  {
    systemctl show -p Environment --value "$unit" | tr ' ' '\n'
    for file in $sources; do if [ -r "$file" ]; then cat "$file"; echo; fi; done
  } | sed -n "s/^[[:space:]]*$1=//p" | tail -n 1
}
plain() { printf '%s\n' "$*" | tr -d "\"'" | tr -s '[:space:]' ' ' | sed 's/^ //; s/ $//'; }
wanted=''
set -f
for word in $starts; do
  case "$word" in '$'*) name=${word#?} name=${name#"{"}; word=$(value "${name%"}"}") ;; esac
  wanted="$wanted $word"
done
set +f
wanted=$(plain "$wanted") runs=$(plain "$runs")
case "${starts%% *}" in
  */sshd)
    [ -z "$runs" ] || [ "$runs" = "$wanted" ] || {
      printf '%s\n' "sshd runs as '$runs', and $unit would start '$wanted', which was never loaded (look at $sources and systemctl cat $unit): this change would load it, and so would the way back. Load it and see that you still get in, or put it back; then run again" >&2
      exit 1
    } ;;
esac"""
    )
    units = " ".join(shlex.quote(one) for one in dict.fromkeys((unit, service)))
    return rf"""for unit in {units}; do
  paths=" $(systemctl show -p FragmentPath -p DropInPaths --value "$unit" 2>/dev/null | tr '\n' ' ')"
  new=''
  if [ "$(systemctl show -p NeedDaemonReload --value "$unit" 2>/dev/null)" = yes ]; then new=$paths; fi
  # systemd does not see a file in a folder that is new itself.
  for file in /etc/systemd/system/"$unit" /etc/systemd/system/"$unit".d/*.conf /run/systemd/system/"$unit".d/*.conf; do
    case "$paths" in *"/${{file##*/}} "*) [ "${{file%.conf}}" = "$file" ] || continue ;; esac
    case "$paths" in *" $file "*) ;; *) if [ -f "$file" ] && [ ! -L "$file" ]; then new="$new $file"; fi ;; esac
  done
  [ -z "$new" ] || {{
    printf '%s\n' "files of $unit were changed and not loaded (${{new# }}): the next start would read them, and nobody has seen whether the operator still gets in then. Run systemctl daemon-reload, restart it and see, or put them back; then run again" >&2
    exit 1
  }}
done
unit={shlex.quote(unit)}{compared}"""


def _ours_before(device: Mapping[str, Any]) -> list[str]:
    """What an earlier run of ours set, in small letters: that was loaded, and proved by a login."""
    files = device.get("files") or {}
    text = str(files.get(sshd_config.DROP_IN, ""))
    main = str(files.get(sshd_config.MAIN, ""))
    kept = sshd_config.without_block(main).splitlines()
    text += "".join(f"{line}\n" for line in main.splitlines() if line not in kept)
    return [one.keyword for one in sshd_config.parse(sshd_config.MAIN, text)]


def _way_back(
    sshd: str,
    device: Mapping[str, Any],
    user: str,
    behind_socket: bool,
    said: Sequence[str],
    password: bool,
) -> str:
    """sh that fails where the operator's login would not work any more with sshd's files as they are now.

    The login works at this moment, so what is in its way was written and not loaded.

    Args:
        password: whether the controller has one to come with.
    """
    account = login_account(device)
    command = _effective(sshd, device, user, name='"$client"')
    values = {"%h": str(account["home"]).rstrip("/"), "%u": user, "%U": str(account.get("uid") or 0)}
    filled = "".join(f"; s|{token}|{value}|g" for token, value in values.items())
    by_password = password and account.get("password") not in ("locked", "none")
    return rf"""{_client_name(command, device)}
effective=$({command})
{_lets_in(command, device, user, behind_socket, said)}
printf '%s
' "$effective" | {{
root=yes keys=no files='' held='' other='' asked=''
while read -r key value; do
  case "$key" in
    permitrootlogin) root=$value ;;
    pubkeyauthentication) keys=$value ;;
    authorizedkeysfile) files=$(printf '%s
' "$value" | sed {shlex.quote("s|%%|%|g" + filled)}) ;;
    authorizedkeyscommand|trustedusercakeys) [ "$value" = none ] || held=yes ;;
    gssapiauthentication|hostbasedauthentication|kerberosauthentication) [ "$value" != yes ] || other=yes ;;
    passwordauthentication|kbdinteractiveauthentication|challengeresponseauthentication) [ "$value" != yes ] || asked=yes ;;
  esac
done
for file in $files; do
  case "$file" in /*) ;; *) file={shlex.quote(values["%h"])}/$file ;; esac
  if [ -s "$file" ]; then held=yes; fi
done
bad=''
[ "$keys" = yes ] || bad="$bad, PubkeyAuthentication $keys"
[ -n "$held" ] || bad="$bad, no key in AuthorizedKeysFile $files"
way=$other
[ -n "$bad" ] || way=yes
[ {shlex.quote(user)} = root ] || root=yes
case "$root" in
  no | forced-commands-only) way='' bad=", PermitRootLogin $root" ;;
  *) [ "{"yes" if by_password else "no"} $asked $root" != 'yes yes yes' ] || way=yes ;;
esac
[ -n "$way" ] || {{
  printf '%s
' "what stands in sshd's files and was not loaded yet would shut out the login of {user} as soon as sshd starts again, which this change and the way back from it do: ${{bad#, }}. Correct it on the device and run again" >&2
  exit 1
}}
}}"""


def _for_login(
    wanted: list[tuple[str, str]], user: str, device: Mapping[str, Any]
) -> dict[str, Sequence[str]]:
    """What sshd has to say about the operator's own login."""
    values = {keyword.lower(): value for keyword, value in wanted}
    exact: dict[str, Sequence[str]] = {"pubkeyauthentication": ["yes"]}
    if user == "root":
        exact["permitrootlogin"] = ["yes", "without-password", "prohibit-password"]
    files = {
        path: text
        for path, text in (device.get("files") or {}).items()
        if path.startswith("/etc/ssh/sshd_config")
    }
    if not any(directive.match for directive in sshd_config.foreign(files)):
        # A Match block of the device's own may differ for this login; it is named in the notes instead.
        exact["passwordauthentication"] = [values["passwordauthentication"]]
    return exact


def _for_anybody(
    wanted: Sequence[tuple[str, str]],
    has: tuple[int, int],
    files: Mapping[str, str],
    options: SshOptions,
) -> dict[str, Sequence[str]]:
    """What sshd has to say of a login that nothing names: all of our settings, as far as it says them in our words.

    What a Match block of the device's own sets is named in the notes instead; what the site wrote may be in other words.
    """
    left_alone = set(_NOT_COMPARED) | {keyword.lower() for keyword in options.options}
    left_alone |= {one.keyword for one in sshd_config.foreign(files) if one.match}
    if has < (8, 7):
        # There it is the other name of ChallengeResponseAuthentication.
        left_alone.add("kbdinteractiveauthentication")
    result: dict[str, Sequence[str]] = {}
    for keyword, value in wanted:
        name = keyword.lower()
        if name in left_alone:
            continue
        result[name] = [value]
        if value in ("prohibit-password", "without-password"):
            result[name] = ["prohibit-password", "without-password"]
    return result


def _expect(command: str, exact: Mapping[str, Sequence[str]], user: str) -> str:
    """sh that fails, naming the option, unless sshd's own account of its settings is as it should be for ``user``.

    Args:
        user: "" for anybody; then an option of which this sshd says nothing does not count.
    """
    if user:
        missing = f" one of {' '.join(exact)} is not said at all"
        text = f"sshd would not do for the login of {user} what was asked:$bad"
    else:
        missing = ""
        text = (
            "something sets before us, or in a block for everybody, what this role sets (an Include of another file, a "
            "Match all):$bad. Take it out of sshd's files, or say it in ssh_options, and run again"
        )
    lines = [
        f"effective=$({command})",
        "printf '%s\\n' \"$effective\" | {",
        "bad='' seen=0",
        "while read -r key value; do",
        '  case "$key" in',
    ]
    for key, allowed in exact.items():
        pattern = "|".join(shlex.quote(item) for item in allowed)
        lines.append(
            f'    {key}) case "$value" in {pattern}) seen=$((seen + 1)) ;; *) bad="$bad $key=$value" ;; esac ;;'
        )
    lines += [
        "  esac",
        "done",
        *([f'[ -n "$bad" ] || [ "$seen" -ge {len(exact)} ] || bad="{missing}"'] if missing else []),
        '[ -z "$bad" ] || {',
        f"  printf '%s\\n' \"{text}\" >&2",
        "  exit 1",
        "}",
        "}",
    ]
    return "\n".join(lines)


def _lets_in(
    command: str, device: Mapping[str, Any], user: str, behind_socket: bool, said: Sequence[str]
) -> str:
    """sh that fails unless the operator's login passes what only a real login meets; ``$effective`` is from before.

    What somebody wrote into a file and never loaded would come alive with our restart, and with the restart of the
    way back too. So it has to be found before: lists of people with their addresses (sshd itself judges those, as
    Match blocks of a file that is made for it), and what lets a login in only to end it.

    Args:
        command: how sshd is asked for this login, without a file.
        said: options that the site itself sets, in small letters; those are its own decision, and the proof's.
    """
    connection = device.get("connection") or {}
    server, port = str(connection.get("server") or ""), connection.get("server_port")
    addresses = ""
    if server and port and "%" not in server and not behind_socket:
        family = "[::]" if ":" in server else "0.0.0.0"
        own = f"[{server}]" if ":" in server else server
        addresses = f"{shlex.quote(f'{own}:{port}')}|{shlex.quote(f'{family}:{port}')}"
    listens = f'    listenaddress) case "$value" in {addresses}) heard=yes ;; esac ;;' if addresses else ""
    deaf = (
        f'[ "$heard" = yes ] || bad="$bad, it would not listen on {server} port {port} any more"'
        if addresses
        else ":"
    )
    # What our own settings name is only on its way when this is asked.
    ours = shlex.quote(admission.REVOKED)
    endings = {
        "refuseconnection": '[ "$value" != yes ] || bad="$bad, RefuseConnection ends its connection"',
        "maxstartups": 'case "$value" in 0:*) bad="$bad, MaxStartups $value lets nobody come" ;; esac',
        "sshdsessionpath|sshdauthpath": '[ -x "$value" ] || bad="$bad, $key $value is not there"',
        "forcecommand": '[ "$value" = none ] || bad="$bad, ForceCommand $value ends every login"',
        "chrootdirectory": '[ "$value" = none ] || bad="$bad, ChrootDirectory $value takes its files away"',
        "maxsessions": '[ "$value" != 0 ] || bad="$bad, MaxSessions 0 gives it no session"',
        "revokedkeys": f'case "$value" in none|{ours}) ;; *) [ -r "$value" ] || bad="$bad, RevokedKeys $value is not '
        'there, so every key is refused" ;; esac',
    }
    ends = "".join(
        f"    {key}) {test} ;;\n" for key, test in endings.items() if not set(key.split("|")) & set(said)
    )
    return rf"""
groups=$(id -Gn {shlex.quote(user)} 2>/dev/null || :)
fits() {{ case {shlex.quote(user)} in $1) true ;; *) false ;; esac; }}
may='' not=''
judge=$(mktemp)
{{
  printf '%s\n' "$effective" | sed -n 's/^hostkey /HostKey /p'
  printf 'MaxSessions 1\nMaxAuthTries 1\n'
}} >"$judge"
printf '%s\n' "$effective" | while read -r key value; do
  case "$key" in allowusers) says='MaxSessions 2' ;; denyusers) says='MaxAuthTries 2' ;; *) continue ;; esac
  case "$value" in *@*) ;; *) continue ;; esac
  # A name that fits counts too, unless an address is excluded.
  if fits "${{value%@*}}"; then
    printf 'Match Address "%s"\n  %s\n' "${{value##*@}}" "$says"
    case "$value" in *!*) ;; *) printf 'Match Host "%s"\n  %s\n' "${{value##*@}}" "$says" ;; esac
  fi
done >>"$judge"
if grep -q '^Match' "$judge"; then
  if judged=$({command} -f "$judge"); then
    case "$judged" in *'maxsessions 2'*) may=yes ;; esac
    case "$judged" in *'maxauthtries 2'*) not=yes ;; esac
  else
    rm -f "$judge"
    echo 'the addresses in AllowUsers or DenyUsers could not be judged by sshd. Correct them on the device and run again' >&2
    exit 1
  fi
fi
rm -f "$judge"
member() {{
  for group in $groups; do case "$group" in $1) return 0 ;; esac; done
  return 1
}}
printf '%s
' "$effective" | {{
bad=''; users=unsaid; people=unsaid; heard=no
[ -z "$not" ] || bad=", DenyUsers shuts it out by the address that it comes from"
while read -r key value; do
  case "$key" in
    allowusers)
      [ "$users" = yes ] || users=$may
      case "$value" in
        *@*) ;;
        *) if fits "$value"; then users=yes; fi ;;
      esac
      [ "$users" = yes ] || users=no ;;
    denyusers) case "$value" in *@*) ;; *) if fits "$value"; then bad="$bad, DenyUsers $value shuts it out"; fi ;; esac ;;
    allowgroups) [ "$people" = yes ] || people=no; if member "$value"; then people=yes; fi ;;
    denygroups) if member "$value"; then bad="$bad, DenyGroups $value shuts it out"; fi ;;
    authenticationmethods)
      case " $value " in *' publickey '*|*' any '*|*' password '*) ;; *) bad="$bad, AuthenticationMethods $value asks for more than a key" ;; esac ;;
{ends}{listens}
  esac
done
[ "$users" != no ] || bad="$bad, AllowUsers does not name it"
[ "$people" != no ] || bad="$bad, AllowGroups names no group of it"
{deaf}
[ -z "$bad" ] || {{
  printf '%s
' "with the files as they are, sshd would shut out the login of {user}: ${{bad#, }}. Correct them on the device and run again" >&2
  exit 1
}}
}}"""


def generate_key(kind: str, rsa_bits: int = 3072) -> str:
    """sh that makes a key of this kind as ``"$1"``, and its public half as ``"$1.pub"``."""
    bits = {"rsa": f" -b {max(rsa_bits, 3072)}", "ecdsa": " -b 256"}.get(kind, "")
    return f"ssh-keygen -q -t {shlex.quote(kind)}{bits} -N '' -C '' -f \"$1\""
