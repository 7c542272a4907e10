# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Telnet and its kin: what on this device is one of them, what starts it, and what takes it away for good.

A service is what listens and what would start at boot, not what a package is called: the same telnetd hides in an
inetd line, a systemd socket, an inittab entry or a boot script, on any port. Each finding names all the
places that start it; one that listens and whose start cannot be found or switched off is reported as not
handled, never dropped.
"""

from __future__ import annotations

import ipaddress
import posixpath
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.access import boot_files, shell, snmp
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply

Socket = tuple[str, int]


@dataclass(frozen=True)
class Kind:
    """One family of legacy services.

    Attributes:
        name: what the allow list calls it.
        why: what is wrong with it, for the report.
        programs: base names of daemons and applets; an ``in.`` in front is ignored.
        words: a pattern for whole names of units, of interpreters' scripts and of folders that are served.
        ports: where it is expected. What else listens there is reported, never stopped.
        services: names of inetd services. Many are everyday words (login, time), so they count nowhere else.
    """

    name: str
    why: str
    programs: frozenset[str]
    words: str = ""
    ports: frozenset[Socket] = frozenset()
    services: frozenset[str] = frozenset()


def _kind(
    name: str, why: str, programs: str, words: str = "", ports: Iterable[Socket] = (), services: str = ""
) -> Kind:
    return Kind(name, why, frozenset(programs.split()), words, frozenset(ports), frozenset(services.split()))


KINDS: tuple[Kind, ...] = (
    _kind(
        "telnet",
        "passwords and sessions travel in clear text",
        "telnetd telnetd-ssl utelnetd",
        r"\bu?telnetd?\b",
        {("tcp", 23)},
        services="telnet telnets",
    ),
    _kind(
        "rsh",
        "trusts addresses and sends passwords in clear text",
        "rshd rlogind rexecd rsh-redone-rshd rsh-redone-rlogind rexd",
        r"\b(rsh|rlogin|rexec)d?\b",
        {("tcp", 512), ("tcp", 513), ("tcp", 514)},
        services="rsh rlogin rexec shell login exec",
    ),
    _kind(
        "ftp",
        "passwords and files travel in clear text",
        "ftpd vsftpd proftpd pure-ftpd tcpsvd-ftpd bftpd uftpd ftpd-ssl",
        r"\b(vs|pro|pure-|b|u)?ftpd\b",
        {("tcp", 21)},
        services="ftp",
    ),
    _kind(
        "tftp",
        "anybody reads, and often writes, files without a login",
        "tftpd tftpd-hpa atftpd utftpd",
        r"\b[au]?tftpd\b",
        {("udp", 69)},
        services="tftp",
    ),
    _kind(
        "finger",
        "tells strangers who has an account",
        "fingerd cfingerd",
        r"\bc?fingerd\b",
        {("tcp", 79)},
        services="finger",
    ),
    _kind(
        "inetd trivia",
        "amplifies attacks on others and serves nobody",
        "talkd ntalkd qotd",
        "",
        {(protocol, port) for protocol in ("tcp", "udp") for port in (7, 9, 13, 17, 19, 37)}
        | {("tcp", 1), ("tcp", 11)},
        services="chargen echo discard daytime time qotd systat netstat tcpmux talk ntalk",
    ),
    _kind(
        "snmp",
        "versions 1 and 2c send their only secret in clear text",
        "snmpd",
        r"\bsnmpd\b",
        {("udp", 161)},
        services="snmp",
    ),
    _kind(
        "upnp",
        "opens the device and its network to whoever asks",
        "upnpd miniupnpd minissdpd ssdpd minidlna minidlnad upmpdcli igd",
        r"\b\w*(upnp|ssdp|dlna)\w*\b",
        # No port: every client of SSDP binds 1900.
    ),
    _kind(
        "netbios",
        "file sharing meant for trusted networks",
        "smbd nmbd samba winbindd ksmbd wsdd wsdd2",
        r"\b(smbd|nmbd|ksmbd)\b",
        {("tcp", 139), ("tcp", 445), ("udp", 137), ("udp", 138)},
    ),
    _kind("jetdirect", "prints whatever anybody sends", "p910nd p9100d jetdirect", r"\bp910\dd?\b"),
    _kind("adb", "a root shell for the asking", "adbd", r"\badbd\b"),
    _kind(
        "tr069",
        "remote management whose clients were worms' favourite",
        "cwmpd cwmpclient tr069 tr069c easycwmpd icwmpd",
        r"\b(\w*cwmp\w*|tr-?069\w*)\b",
        {("tcp", 7547)},
    ),
    _kind(
        "console",
        "a shell for whoever plugs in a cable: no password is asked for",
        "debug-shell",
    ),
    _kind(
        "debug server",
        "runs code for whoever connects",
        "gdbserver lldb-server tcf-agent",
        r"\b(gdbserver|lldb-server)\b",
    ),
)

_BY_NAME = {kind.name: kind for kind in KINDS}
# Programs that hold sockets for others: what they hold says nothing about them.
_SUPERVISORS = {
    "inetd",
    "openbsd-inetd",
    "inetutils-inetd",
    "xinetd",
    "systemd",
    "init",
    "tcpd",
    "busybox",
    "sh",
}
# Daemons that sites move to odd ports; a port alone says nothing about them.
_OTHERS = {"sshd", "dropbear", "rsyslogd", "syslog-ng", "nginx", "lighttpd", "apache2"}
# Any word that is no name of an instance.
_INSTANCE = "sallyport"
# Units that start what others told them to: masked, they would take much else along.
_STARTERS = {"cron", "crond", "cronie", "anacron", "atd", "rc-local", "rc.local", "rcS", "ssh", "sshd", "init"} | {
    "inetd", "openbsd-inetd", "inetutils-inetd", "xinetd", "docker", "containerd", "podman", "supervisor", "monit"
}  # fmt: skip
# Where these listen says their command line, or nothing and it is the usual port.
_PORT_BY_ARGUMENT = {"telnet", "rsh", "finger"}
_REMEDIES = {
    "dnsmasq": "take enable-tftp out of its configuration",
    "docker-proxy": "stop the container that publishes the port",
}
_INETD = ("inetd", "openbsd-inetd", "inetutils-inetd", "rlinetd")


@dataclass
class Finding:
    """One legacy service on this device.

    Attributes:
        kind: its family's name.
        sockets: where it listens now.
        suspected: where something else listens that may be one; it is reported and left alone.
        processes: names of the processes that listen.
        units: systemd units that run or start it.
        entries: lines of boot files that start it.
        unhandled: why it could not be taken away whole; empty when it can.
        reason: why it stays, when the allow list says so, or when it turned out to be harmless.
        answers: versions of a protocol that it was seen to take, where that decides.
        edits: files with which it may stay: path -> new text, secret. Then it is restarted, not taken away.
        proof: sh that fails as long as the edits do not count.
    """

    kind: str
    sockets: set[Socket] = field(default_factory=set)
    suspected: set[Socket] = field(default_factory=set)
    processes: set[str] = field(default_factory=set)
    units: set[str] = field(default_factory=set)
    entries: list[boot_files.Entry] = field(default_factory=list)
    unhandled: list[str] = field(default_factory=list)
    reason: str = ""
    answers: tuple[str, ...] = ()
    edits: dict[str, str] = field(default_factory=dict, repr=False)
    proof: str = field(default="", repr=False)

    def report(self) -> dict[str, Any]:
        """For the result and for people."""
        return {
            "service": self.kind,
            "why": _BY_NAME[self.kind].why,
            "listens": [f"{port}/{protocol}" for protocol, port in sorted(self.sockets | self.suspected)],
            "processes": sorted(self.processes),
            "started_by": sorted(self.units) + [f"{entry.path}:{entry.line}" for entry in self.entries],
            "answers": list(self.answers),
            "kept_because": self.reason,
            "not_handled": list(self.unhandled),
        }


class AllowListError(ValueError):
    """The list of services that stay is wrong."""


def allow_list(value: Any) -> dict[str, str]:
    """``[{name, reason}]`` -> name -> reason.

    Raises:
        AllowListError: with the index, what was expected and what was found.
    """
    result: dict[str, str] = {}
    for index, item in enumerate(value or []):
        where = f"legacy_services_allow[{index}]"
        if not isinstance(item, Mapping) or set(item) != {"name", "reason"}:
            raise AllowListError(f"{where}: expected a mapping with exactly name and reason, found {item!r}")
        name, reason = item["name"], item["reason"]
        if name not in _BY_NAME:
            raise AllowListError(
                f"{where}.name: expected one of {', '.join(sorted(_BY_NAME))}; found {name!r}"
            )
        if not isinstance(reason, str) or not reason.strip():
            raise AllowListError(f"{where}.reason: say in a few words why {name} stays; found {reason!r}")
        result[str(name)] = reason.strip()
    return result


def _program(name: str) -> str:
    base = posixpath.basename(name)
    return base[3:] if base.startswith("in.") else base


def by_program(names: Iterable[str]) -> Kind | None:
    """The family that one of these programs belongs to."""
    wanted = {_program(name) for name in names}
    return next((kind for kind in KINDS if wanted & kind.programs), None)


# What packagers put around a daemon's name, and what says no more than that it is one.
_AROUND = frozenset(
    ["inetutils", "openbsd", "netkit", "gnu", "krb5", "busybox", "hpa", "ssl", "server", "daemon", "service"]
)
_INTERPRETER = re.compile(
    r"(python|perl|ruby|node|nodejs|lua|php|tclsh|java|micropython|sh|ash|bash|dash)[\d.]*"
)
_FILE_SERVERS = frozenset(["httpd", "uhttpd", "thttpd", "mini_httpd", "darkhttpd", "webfsd", "http.server"])


def by_name(stem: str) -> Kind | None:
    """The family that a unit, a script or a folder is named after as a whole: ``block-telnet`` is named after none."""
    rest = [word for word in re.split(r"[-_.]+", stem.lower()) if word not in _AROUND]
    for name in (stem.lower(), *(rest if len(rest) == 1 else ())):
        kind = by_program([name, f"{name}d"]) or next(
            (one for one in KINDS if one.words and re.fullmatch(one.words, name, re.IGNORECASE)), None
        )
        if kind is not None:
            return kind
    return None


def by_command(parts: Sequence[str]) -> Kind | None:
    """The family of what is run: the program, the script of an interpreter, the folder of a server of files.

    Any other word is what the program is told about, and that is no reason to stop it.
    """
    if not parts:
        return None
    program, arguments = posixpath.basename(parts[0].lstrip("-")), list(parts[1:])
    kind = by_program([program])
    if kind is not None:
        return kind
    inner = boot_files.unwrapped(boot_files.served(parts))
    if inner:
        return by_command(inner) or _serves(inner)
    if _INTERPRETER.fullmatch(program):
        script = next((word for word in arguments if not word.startswith("-")), "")
        program = posixpath.basename(script)
        kind = by_name(re.sub(r"\.(py|pl|rb|js|lua|php|sh|jar|tcl)$", "", program)) if program else None
        if kind is not None:
            return kind
    if program in _FILE_SERVERS:
        for word, after in pairwise(arguments):
            if word in ("-h", "-d", "-r", "--directory", "--root"):
                return by_name(posixpath.basename(after.rstrip("/")))
    return None


def _serves(inner: list[str]) -> Kind | None:
    """What it is that gives this to whoever connects."""
    if _is_shell(inner):
        # The oldest back door of all.
        return _BY_NAME["debug server"]
    return _BY_NAME["telnet"] if posixpath.basename(inner[0]) == "login" else None


def by_socket(socket: Socket) -> Kind | None:
    """The family that this socket belongs to, whoever holds it."""
    return next((kind for kind in KINDS if socket in kind.ports), None)


def _entry_kind(entry: boot_files.Entry) -> Kind | None:
    if entry.kind in ("inittab", "unit") and boot_files.asks_nobody(entry.command):
        return _BY_NAME["console"]
    if entry.kind == "unit":
        return None
    if entry.kind in ("inetd", "xinetd"):
        named = next((kind for kind in KINDS if entry.name in kind.services), None)
        served = boot_files.words(entry.command)
        found = named or by_program([entry.name, *entry.programs]) or by_command(boot_files.unwrapped(served))
        return found or (_BY_NAME["debug server"] if _is_shell(served) else None)
    return _by_line(entry.command)


def _by_line(command: str) -> Kind | None:
    """The family of what a line of shell runs."""
    calls = boot_files.called(command)
    kind = next((one for one in map(by_command, calls) if one is not None), None)
    if kind is None and "|" in command and any(map(boot_files.listens, calls)):
        # A netcat that runs nothing gets its shell by pipes.
        shells = (parts for parts in calls if posixpath.basename(parts[0]) != "su")
        if any(boot_files.asks_nobody(shlex.join(parts)) for parts in shells):
            return _BY_NAME["debug server"]
    return kind


def _is_shell(served: list[str]) -> bool:
    if len(served) > 1 and served[1] == posixpath.basename(served[0]):
        served = [served[0], *served[2:]]
    return boot_files.asks_nobody(shlex.join(served))


def _loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _would_start(unit: Mapping[str, Any]) -> bool:
    """Whether a unit runs, or would at the next boot."""
    enabled = str(unit.get("enabled"))
    if enabled == "masked":
        return False
    starts = enabled.startswith("enabled") or enabled in ("alias", "linked", "generated")
    return starts or str(unit.get("active")) in ("active", "activating", "reloading", "listening")


# Root's own; the probe sends them only where they start something at boot, because their other lines may hold secrets.
_CRONTABS = ("/var/spool/cron/crontabs/root", "/var/spool/cron/root", "/etc/crontabs/root")


def asking(device: Mapping[str, Any]) -> str:
    """sh that tells what systemd runs for each unit that would start, and shows texts that no facts may hold; "" where there
    is nothing to ask.
    """
    return _asking_units(device) + _asking_texts(device)


def _asking_texts(device: Mapping[str, Any]) -> str:
    paths: list[str] = []
    if {"crond", "crontab"} & set(device.get("tools") or {}):
        paths += [path for path in _CRONTABS if path not in (device.get("files") or {})]
    omitted: Mapping[str, str] = device.get("files_omitted") or {}
    paths += [path for path, why in sorted(omitted.items()) if _readable(path, why) and path not in paths]
    return "".join(
        f'if [ -r {shlex.quote(path)} ]; then blob "aside "{shlex.quote(path)} <{shlex.quote(path)}; fi\n'
        for path in paths
    )


def _readable(path: str, why: str) -> bool:
    """Whether a file that facts cannot hold can be read all the same."""
    return bool(boot_files.kind_of(path)) and "UTF-8" in why


def _asking_units(device: Mapping[str, Any]) -> str:
    """A socket that starts one service for each caller is asked for by an instance of that service's template."""
    names = [
        name
        for name, unit in (device.get("units") or {}).items()
        if name.endswith((".service", ".socket")) and _would_start(unit)
    ]
    if not names:
        return ""
    sockets = [name.rpartition(".")[0] for name in names if name.endswith(".socket")]
    names += [f"{stem}@{_INSTANCE}.service" for stem in sockets if "@" not in stem]
    names += [f"{stem}.service" for stem in sockets]
    # systemctl knows no template by itself, and would end at the first one.
    named = {name.replace("@.", f"@{_INSTANCE}.") for name in names}
    asked = " ".join(shlex.quote(name) for name in sorted(named))
    listed = " ".join(shlex.quote(f"{stem}.socket".replace("@.", f"@{_INSTANCE}.")) for stem in sockets)
    # Timers and watched paths that wait now; one that is loaded and off tells so.
    more = f"$(systemctl show -p Triggers --value {listed} '*.timer' '*.path' 2>/dev/null || :)"
    # Consoles are told of by their whole pattern: what a generator started is enabled nowhere. Drop-ins in /etc are known.
    return (
        f"told=$(systemctl show -p Id -p ExecStart -p Triggers -p DropInPaths -p ActiveState {asked} {more} '*getty*.service' '*.timer' '*.path' 2>/dev/null) || :\n"
        "printf '%s\\n' \"$told\" | blob unit_commands\n"
        "for each in $(printf '%s\\n' \"$told\" | sed -n 's/^DropInPaths=//p'); do\n"
        '  case "$each" in\n    /etc/*) ;;\n    *getty*/*.conf) if [ -f "$each" ]; then blob "drop_in $each" <"$each"; fi ;;\n'
        "  esac\ndone\n"
    )


def with_commands(device: Mapping[str, Any], reply: Reply) -> dict[str, Any]:
    """The device with what ``asking`` found out: ``unit_commands``, unit -> command lines, those of its service for a socket or a
    timer; and ``aside``, path -> text, secret.
    """
    commands: dict[str, list[str]] = {}
    triggers: dict[str, list[str]] = {}
    states: dict[str, str] = {}
    for block in reply.get("unit_commands").split("\n\n"):
        lines = block.splitlines()
        name = next((line[len("Id=") :] for line in lines if line.startswith("Id=")), "")
        commands[name] = [
            found[1]
            for line in lines
            if (found := re.match(r"ExecStart=\{.*? argv\[\]=(.*?) ; ignore_errors=", line))
        ]
        triggers[name] = [
            each
            for line in lines
            if line.startswith("Triggers=")
            for each in line[len("Triggers=") :].split()
        ]
        states[name] = next(
            (line[len("ActiveState=") :] for line in lines if line.startswith("ActiveState=")), ""
        )
    for name in list(commands):
        # The template is what the probe names, and what is to be masked.
        template = name.replace(f"@{_INSTANCE}.", "@.")
        commands[template], triggers[template] = commands[name], triggers[name]
    for name in [one for one in commands if one.endswith(".socket")]:
        stem = name.rpartition(".")[0]
        services = triggers[name] or [f"{stem}@{_INSTANCE}.service", f"{stem}.service"]
        commands[name] = [command for one in services for command in commands.get(one, [])]
    units = dict(device.get("units") or {})
    for name in [one for one in commands if one.endswith((".timer", ".path"))]:
        if states[name] != "active":
            del commands[name]
            continue
        commands[name] = [command for one in triggers[name] for command in commands.get(one, [])]
        for one in (name, *triggers[name]):
            units.setdefault(one, {"active": states.get(one, "inactive"), "enabled": "static", "path": ""})
    prefix = "drop_in "
    drop_ins = {key[len(prefix) :]: text for key, text in reply.records if key.startswith(prefix)}
    files = {**(device.get("files") or {}), **drop_ins}
    prefix = "aside "
    aside = {key[len(prefix) :]: text for key, text in reply.records if key.startswith(prefix)}
    return {
        **device, "unit_commands": commands, "unit_triggers": triggers, "units": units, "files": files, "aside": aside
    }  # fmt: skip


def shown(device: Mapping[str, Any]) -> dict[str, Any]:
    """The device without what facts must not hold."""
    return {key: value for key, value in device.items() if key != "aside"}


def _by_commands(device: Mapping[str, Any], unit: str) -> Kind | None:
    """The family of what systemd runs for this unit."""
    commands: Mapping[str, Sequence[str]] = device.get("unit_commands") or {}
    for command in commands.get(unit, ()):
        parts = boot_files.unwrapped(boot_files.words(command))
        kind = by_command(parts)
        if kind is None and parts and posixpath.basename(parts[0]) in ("sh", "ash", "bash", "dash"):
            kind = _by_line(" ".join(parts[2:]))
        if kind is None and unit.endswith(".socket") and parts and _is_shell(parts):
            kind = _BY_NAME["debug server"]
        if kind is not None:
            return kind
    return None


def _logs_in_by_itself(device: Mapping[str, Any], unit: str) -> bool:
    """Whether a unit of another name than systemd's gettys is a console that asks nobody (autologin@.service)."""
    commands: Mapping[str, Sequence[str]] = device.get("unit_commands") or {}
    for command in commands.get(unit, ()):
        parts = boot_files.unwrapped(boot_files.words(command))
        program = posixpath.basename(parts[0]) if parts else ""
        if program in ("getty", "agetty", "mingetty", "login") and boot_files.asks_nobody(command):
            return True
    return False


def find(device: Mapping[str, Any], allow: Mapping[str, str]) -> list[Finding]:
    """Every legacy service that listens beyond loopback or would start at boot.

    Args:
        device: ``sallyport_device``.
        allow: from ``allow_list``.
    """
    found: dict[str, Finding] = {}

    def finding(kind: Kind) -> Finding:
        return found.setdefault(kind.name, Finding(kind.name, reason=allow.get(kind.name, "")))

    files = _texts(device)
    inetd_ports: dict[Socket, Kind] = {}
    for path in sorted(files):
        for entry in boot_files.entries(path, files[path]):
            kind = _entry_kind(entry)
            if kind is None:
                _unsure(entry, finding)
                continue
            if entry.kind == "unit" and not boot_files.is_drop_in(path):
                finding(kind).units.add(entry.name)
                continue
            finding(kind).entries.append(entry)
            own = boot_files.port_of(entry, files[path])
            if own:
                inetd_ports["tcp", own] = kind
            if not boot_files.can_switch_off(entry):
                finding(kind).unhandled.append(
                    f"{entry.path} line {entry.line} starts it within a construct that cannot lose one line: "
                    f"{entry.command.encode('utf-8', 'replace').decode()}"
                )
    units: Mapping[str, Mapping[str, Any]] = device.get("units") or {}
    for name, unit in units.items():
        if not name.endswith((".service", ".socket")) or not _would_start(unit):
            continue
        stem = name.rpartition(".")[0].partition("@")[0]
        # telnet.socket, tftp.service: units often go without the daemon's d; others have a name that says nothing.
        kind = by_name(stem) or _by_commands(device, name)
        if kind is None and "getty" not in stem and _logs_in_by_itself(device, name):
            kind = _BY_NAME["console"]
        if kind is not None:
            finding(kind).units.add(name)
    _gettys(device, finding)
    _timers(device, finding)
    _listeners(device, finding, found.get, inetd_ports)
    return [found[kind.name] for kind in KINDS if kind.name in found]


def _texts(device: Mapping[str, Any]) -> dict[str, str]:
    """Every file that starts something, those that facts must not hold included."""
    return {**(device.get("files") or {}), **(device.get("aside") or {})}


def _unsure(entry: boot_files.Entry, finding: Any) -> None:
    """Say of a console that asks for no name itself that somebody has to look at what does."""
    program = boot_files.lets_decide(entry.command) if entry.kind in ("inittab", "unit") else ""
    if program:
        finding(_BY_NAME["console"]).unhandled.append(
            f"{entry.path} line {entry.line} opens a terminal without asking for a name, by {program}: look whether that asks "
            "for a password"
        )


def _timers(device: Mapping[str, Any], finding: Any) -> None:
    """What a timer of systemd, or a path that it watches, starts sooner or later."""
    for name in device.get("unit_commands") or {}:
        if name.endswith((".timer", ".path")):
            kind = _by_commands(device, name)
            if kind is not None:
                finding(kind).units |= {name, *device["unit_triggers"][name]}


def unread(device: Mapping[str, Any]) -> list[str]:
    """In words, the files that start things at boot and that could not be read: nobody can say what they start."""
    omitted: Mapping[str, str] = device.get("files_omitted") or {}
    return [
        f"{path} {why}, so what it starts was not looked at; look at it by hand, or make it readable"
        for path, why in sorted(omitted.items())
        if boot_files.kind_of(path) and path not in (device.get("aside") or {})
    ]


def _gettys(device: Mapping[str, Any], finding: Any) -> None:
    """Consoles that ask nobody, as systemd understands all of their files, and that no drop-in explains."""
    commands: Mapping[str, Sequence[str]] = device.get("unit_commands") or {}
    for name, listed in commands.items():
        if "getty" not in name or f"@{_INSTANCE}." in name or not any(map(boot_files.asks_nobody, listed)):
            continue
        console = finding(_BY_NAME["console"])
        known = {entry.name for entry in console.entries} | console.units
        if not known & {name, re.sub(r"@.*\.", "@.", name)}:
            console.units.add(name)


def _listeners(
    device: Mapping[str, Any], finding: Any, finding_of: Any, inetd_ports: Mapping[Socket, Kind]
) -> None:
    commands = {
        int(process["pid"]): str(process.get("command", "")) for process in device.get("processes") or []
    }
    for listener in device.get("listening") or []:
        if _loopback(str(listener.get("address", ""))):
            continue
        socket: Socket = (str(listener["protocol"]), int(listener["port"]))
        process, unit = str(listener.get("process", "")), str(listener.get("unit", ""))
        command = commands.get(int(listener.get("pid") or 0), "")
        supervised = process in _SUPERVISORS and process not in ("busybox", "sh")
        kind = inetd_ports.get(socket) if supervised else None
        if kind is None and supervised and unit.endswith(".socket"):
            kind = by_name(unit.rpartition(".")[0]) or _by_commands(device, unit)
        if kind is None and supervised:
            served = by_socket(socket)
            known = finding_of(served.name) if served else None
            if known is not None and any(one.kind in ("inetd", "xinetd") for one in known.entries):
                kind = served
        if not supervised:
            parts = boot_files.unwrapped(boot_files.words(command))
            kind = by_program([process]) or by_command(parts)
            if kind is None and unit:
                kind = by_name(unit.rpartition(".")[0].partition("@")[0])
            if process in _OTHERS:
                continue
        if kind is None and process in boot_files.NETCATS and _piped(finding_of("debug server"), socket):
            kind = _BY_NAME["debug server"]
        if kind is None:
            kind = by_socket(socket)
            if kind is not None:
                _suspect(finding(kind), socket, process, unit)
            continue
        entry = finding(kind)
        entry.sockets.add(socket)
        if process:
            entry.processes.add(process)
        own = unit.endswith((".service", ".socket")) and _is_unit_of(device, unit, kind)
        if own and (not supervised or unit.endswith(".socket")):
            entry.units.add(unit)
            continue
        if not _accounts(entry, socket, supervised):
            text = f"{process or 'an unknown process'} listens on {socket[1]}/{socket[0]}, and nothing that starts it was found"
            if text not in entry.unhandled:
                entry.unhandled.append(text)


def _piped(known: Finding | None, socket: Socket) -> bool:
    """Whether a netcat on this socket is the one that a line found before feeds to a shell."""
    return known is not None and any(socket[1] in _numbers(entry.command) for entry in known.entries)


def _numbers(command: str) -> set[int]:
    return {int(text) for text in re.findall(r"(?<![\w.])\d{1,5}(?![\w.])", command)}


def _is_unit_of(device: Mapping[str, Any], unit: str, kind: Kind) -> bool:
    """Whether a unit in which one of a family runs is there for it, and not one that starts many things."""
    stem = unit.rpartition(".")[0].partition("@")[0]
    if stem in _STARTERS:
        return False
    known = (device.get("unit_commands") or {}).get(unit)
    return not known or kind in (by_name(stem), _by_commands(device, unit))


def _suspect(entry: Finding, socket: Socket, process: str, unit: str) -> None:
    entry.suspected.add(socket)
    remedy = _REMEDIES.get(process) or (
        f"systemctl mask --now {unit}" if unit else "stop it where it is started"
    )
    entry.unhandled.append(
        f"{process or 'an unknown process'}{f' ({unit})' if unit else ''} listens on {socket[1]}/{socket[0]}, where "
        f"{entry.kind} is expected; it was left alone, because a port does not tell what a program is. If it is one: {remedy}"
    )


def _accounts(entry: Finding, socket: Socket, supervised: bool) -> bool:
    """Whether a line that starts this family starts what listens on this very socket.

    A second daemon beside one that is known would come back with the next boot.
    """
    if supervised:
        return any(one.kind in ("inetd", "xinetd") for one in entry.entries) or bool(entry.units)
    lines = [one for one in entry.entries if one.kind not in ("inetd", "xinetd")]
    if entry.kind == "debug server":
        said_by = [_numbers(one.command) for one in lines]
        return any(not said or socket[1] in said for said in said_by) or bool(entry.units and not lines)
    if entry.kind not in _PORT_BY_ARGUMENT:
        # Their ports stand in files of their own.
        return bool(lines or entry.units)
    for one in lines:
        said = [int(text) for text in re.findall(r"-p\s*(?:\S*:)?(\d+)\b", one.command)]
        if socket[1] in said or (not said and socket in _BY_NAME[entry.kind].ports):
            return True
    return False


def judge_snmp(
    device: Mapping[str, Any],
    agent: Finding,
    answers: snmp.Answers,
    texts: Mapping[str, str],
    words: Iterable[str],
) -> None:
    """Let an agent stay that takes no community, or that can do without; ``agent`` is changed.

    Args:
        texts: its configuration files, secret.
        words: every community that was tried, secret.
    """
    agent.answers = answers.versions
    # A community that answers others than us, by their address, is in clear text just the same.
    if answers.clear_text or ("3" in answers.versions and snmp.communities(texts.values())):
        edits = snmp.without_communities(texts)
        if edits is not None:
            agent.edits = edits
            agent.proof = snmp.nobody_answers(device, words)
    elif "3" in answers.versions:
        agent.reason = "it answers version 3, and no known community"


@dataclass
class Plan:
    """What ``commit`` is to do so that the findings are gone and stay away."""

    files: list[dict[str, Any]] = field(default_factory=list)
    check: list[str] = field(default_factory=list)
    activate: list[str] = field(default_factory=list)
    revert: list[str] = field(default_factory=list)
    verify: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.files)


def plan(device: Mapping[str, Any], findings: Iterable[Finding]) -> Plan:
    """Files and commands that take away every finding without a reason to stay."""
    files = _texts(device)
    result = Plan()
    texts: dict[str, str] = {}
    units: set[str] = set()
    stop: set[str] = set()
    sockets: set[Socket] = set()
    back: set[Socket] = set()
    restart: list[str] = []
    consoles: set[str] = set()
    gone = [item for item in findings if not item.reason]
    for item in gone:
        if item.edits:
            _edit(result, device, item)
            continue
        units |= item.units
        sockets |= item.sockets
        if not item.unhandled and all(entry.kind not in ("rc", "cron") for entry in item.entries):
            # What somebody started by hand, or a script in its own time, is not promised.
            back |= item.sockets
        stop |= item.processes - _SUPERVISORS
        if "busybox" in item.processes:
            stop.add("busybox")
        # From the last to the first: an xinetd entry gains a line when it is switched off.
        for entry in sorted(item.entries, key=lambda each: -each.line):
            if entry.kind == "unit":
                consoles.add(entry.name)
            if boot_files.can_switch_off(entry):
                texts[entry.path] = boot_files.switched_off(texts.get(entry.path, files[entry.path]), entry)
                stop |= {_program(name)[:15] for name in entry.programs} & _all_programs()
                stop |= {name[:15] for name in entry.programs if name.startswith("in.")}
                # What cron starts again and again it starts again by itself.
                repeated = entry.kind == "cron" and not files[entry.path].splitlines()[
                    entry.line - 1
                ].startswith("@reboot")
                if entry.kind in ("rc", "cron") and item.sockets and not repeated:
                    restart.append(entry.command)
    units |= _idle_supervisors(device, {**files, **texts}, texts)
    for path in sorted(texts):
        there = boot_files.place_of(path)
        mode = "" if there == path else "0644"
        file = {"dest": there, "content": texts[path], "mode": mode, "was": files[path]}
        result.files.append({**file, "secret": True} if path in (device.get("aside") or {}) else file)
        if boot_files.kind_of(path) == "rc":
            result.check.append(f'sh -n "$(staged {shlex.quote(path)})"')
    for unit in sorted(units):
        result.files.append({"dest": f"/etc/systemd/system/{unit}", "link": "/dev/null"})
    _commands(result, device, texts, units, stop, sockets, back, restart)
    if consoles:
        # A template's drop-in holds for all of its instances.
        listed = " ".join(shlex.quote(name.replace("@.", "@*.")) for name in sorted(consoles))
        again = f"systemctl daemon-reload; systemctl try-restart {listed}"
        result.activate.append(again)
        result.revert.append(again)
    if any(item.kind == "console" and item.entries for item in gone) and "/etc/inittab" in texts:
        result.activate.append(shell.END_CONSOLES)
    return result


def _edit(result: Plan, device: Mapping[str, Any], item: Finding) -> None:
    for path, text in sorted(item.edits.items()):
        result.files.append({"dest": path, "content": text, "mode": "", "secret": True})
    units = sorted(unit for unit in item.units if unit.endswith(".service"))
    again = (
        f"systemctl restart {' '.join(shlex.quote(unit) for unit in units)}"
        if units
        else shell.reload_named(sorted(item.processes) or [item.kind])
    )
    result.activate.append(again)
    result.revert.append(again)
    if item.proof:
        result.verify.append(item.proof)


def _all_programs() -> set[str]:
    return {name[:15] for kind in KINDS for name in kind.programs}


def _idle_supervisors(
    device: Mapping[str, Any], files: Mapping[str, str], changed: Mapping[str, str]
) -> set[str]:
    """Units of inetd and xinetd, once nothing is left for them to serve."""
    result: set[str] = set()
    for family, names in (("inetd", _INETD), ("xinetd", ("xinetd",))):
        mine = [path for path in files if boot_files.kind_of(path) == family]
        if not any(path in changed for path in mine):
            continue
        if any(True for path in mine for _ in boot_files.entries(path, files[path])):
            continue
        for listener in device.get("listening") or []:
            if listener.get("process") in names and str(listener.get("unit", "")).endswith(".service"):
                result.add(str(listener["unit"]))
        for unit in device.get("units") or {}:
            if unit.rpartition(".")[0] in names:
                result.add(unit)
    return result


def _commands(
    result: Plan,
    device: Mapping[str, Any],
    texts: Mapping[str, str],
    units: set[str],
    stop: set[str],
    sockets: set[Socket],
    back: set[Socket],
    restart: list[str],
) -> None:
    kinds = {boot_files.kind_of(path) for path in texts}
    if units:
        # A template cannot be stopped, what was started from it can.
        listed = " ".join(shlex.quote(unit.replace("@.", "@*.")) for unit in sorted(units))
        templates = " ".join(
            shlex.quote(f"{unit.rpartition('.')[0]}@*.service")
            for unit in sorted(units)
            if unit.endswith(".socket")
        )
        result.activate.append(f"systemctl daemon-reload; systemctl stop {listed} {templates}".rstrip())
        timers = [unit for unit in sorted(units) if unit.endswith((".timer", ".path"))]
        if timers:
            # They failed when what they start was masked; that is no failure of anybody's.
            result.activate.append(
                f"systemctl reset-failed {' '.join(map(shlex.quote, timers))} 2>/dev/null || :"
            )
        was_active = [
            unit
            for unit in sorted(units)
            if str((device.get("units") or {}).get(unit, {}).get("active", "active"))
            in ("active", "listening")
        ]
        result.revert.append("systemctl daemon-reload")
        if was_active:
            # A busy device may refuse the first start (no watch left for a PID file, seen); the way back must not
            # fail for that.
            result.revert += [
                f"tries=3\nuntil systemctl start {shlex.quote(unit)}; do\n"
                f'  tries=$((tries - 1)); [ "$tries" -gt 0 ] || exit 1; sleep 1\ndone'
                for unit in was_active
            ]
    if "inittab" in kinds:
        result.activate.append("kill -HUP 1")
        result.revert.append("kill -HUP 1")
    for family, names in (("inetd", _INETD), ("xinetd", ("xinetd",))):
        if family in kinds:
            result.activate.append(shell.reload_named(names))
            # One that is only now being started reads its files anyway, and a HUP before it listens for one ends it.
            if not any(unit.rpartition(".")[0] in names for unit in units):
                result.revert.append(shell.reload_named(names))
    if stop and sockets:
        result.activate.append(shell.stop_holders(stop, sockets))
    for command in restart:
        result.revert.append(f"( {command} ) </dev/null >/dev/null 2>&1 &")
    if sockets:
        result.verify.append(shell.nobody_listens(sockets))
    if back:
        # Daemons that fork return before they listen: back is only who answers again. But one that does not come
        # back, its program being gone, must not keep the device from going back.
        result.revert.append(f"( {shell.somebody_listens(back)}\n) || :")
