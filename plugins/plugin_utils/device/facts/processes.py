# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What runs on the device and what it listens on, from the kernel's own tables."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.facts.text import (
    clean,
    hexadecimal,
    number,
)

# PID (NAME) STATE PPID and some fifty numbers, which no process name of 64 bytes can imitate.
_STAT = re.compile(
    r"(?:^|(?<=\x1f))(\d{1,10}) \((.{0,64}?)\) [A-Za-z] (\d{1,10})(?: -?\d+){40,60}\n", re.M | re.S
)
# What the program reads between two processes, so that each record begins on a line of its own.
_BETWEEN = "Linux\n"
_HEADER = re.compile(r"^/proc/(\d{1,10})/fd/?:$")
_EXE = re.compile(r"/proc/(\d{1,10})/exe -> (.*)$")
_SOCKET = re.compile(r"(?:/proc/(\d{1,10})/fd/)?\d+ -> socket:\[(\d{1,20})\]$")
_CGROUP = re.compile(r"^/proc/(\d{1,10})/cgroup:\d+:[^:]*:(.*)$")
_LISTEN = re.compile(r"^(?:\[?([0-9A-Fa-f:.%*]*)\]?:)?(\d{1,5}) \((Stream|Datagram)\)$")


@dataclass(frozen=True)
class Process:
    """One process. ``name`` is what it calls itself, ``exe`` the file that the kernel says it runs.

    ``arguments`` is None where it could not be told for sure.
    """

    pid: int
    ppid: int = 0
    name: str = ""
    arguments: tuple[str, ...] | None = None
    exe: str = ""
    unit: str = ""
    inodes: frozenset[int] = frozenset()

    @property
    def command(self) -> str:
        return " ".join(self.arguments or ())


def processes(reply: Reply) -> dict[int, Process]:
    """Every process by its id.

    A process may write whatever it likes into its own arguments, records of other processes included. So an
    id with two records has no known arguments, and a name only where both agree.
    """
    found: dict[int, Process] = {}
    text = reply.get("processes")
    matches = list(_STAT.finditer(text))
    for index, match in enumerate(matches):
        stop = matches[index + 1].start() if index + 1 < len(matches) else len(text)
        body = text[match.end() : stop].removesuffix(_BETWEEN).rstrip("\x1f\n")
        arguments = tuple(clean(word) for word in body.split("\x1f")) if body else ()
        pid, ppid, name = int(match[1]), int(match[3]), clean(match[2])
        earlier = found.get(pid)
        if earlier is None:
            found[pid] = Process(pid, ppid, name, arguments)
        else:
            found[pid] = replace(
                earlier,
                ppid=ppid if ppid == earlier.ppid else 0,
                name=name if name == earlier.name else "",
                arguments=None,
            )
    _add_files(found, reply)
    _add_units(found, reply.get("cgroups"))
    return found


def _add_files(found: dict[int, Process], reply: Reply) -> None:
    inodes: dict[int, set[int]] = {}
    current = 0
    for line in [*reply.get("descriptors").split("\n"), *reply.all("descriptor")]:
        if match := _HEADER.match(line):
            current = int(match[1])
        elif match := _SOCKET.search(line):
            inodes.setdefault(int(match[1] or current), set()).add(int(match[2]))
        elif match := _EXE.search(line):
            pid = int(match[1])
            exe = clean(match[2]).removesuffix(" (deleted)")
            found[pid] = replace(found.get(pid, Process(pid)), exe=exe)
    for pid, numbers in inodes.items():
        found[pid] = replace(found.get(pid, Process(pid)), inodes=frozenset(numbers))


def _add_units(found: dict[int, Process], text: str) -> None:
    for line in text.split("\n"):
        match = _CGROUP.match(line)
        if not match:
            continue
        pid = int(match[1])
        unit = next(
            (part for part in reversed(match[2].split("/")) if part.endswith((".service", ".scope"))), ""
        )
        if unit and pid in found:
            found[pid] = replace(found[pid], unit=clean(unit))


def listening(
    reply: Reply, running: Mapping[int, Process], units: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Every TCP socket that listens and every UDP socket that takes packets from anyone.

    A socket on the IPv6 wildcard may answer IPv4 too; the kernel's tables do not say. A socket whose owner
    could not be learnt has ``pid`` 0. One that systemd holds for a service carries the socket unit.
    """
    owners: dict[int, list[Process]] = {}
    for process in running.values():
        for inode in process.inodes:
            owners.setdefault(inode, []).append(process)
    by_port = _socket_units(units)
    seen: dict[tuple[str, str, int, int], dict[str, Any]] = {}
    for table, protocol, family, state in (
        ("tcp", "tcp", "ipv4", "0A"),
        ("tcp6", "tcp", "ipv6", "0A"),
        ("udp", "udp", "ipv4", "07"),
        ("udp6", "udp", "ipv6", "07"),
    ):
        for line in reply.get(table).split("\n"):
            words = line.split()
            if len(words) < 10 or words[3] != state:
                continue
            where, _, port_hex = words[1].partition(":")
            local = socket_address(where, "big_endian" in reply)
            port = hexadecimal(port_hex)
            if not local or not 0 < port < 65536:
                continue
            owner = _owner(owners.get(number(words[9]), []))
            unit = owner.unit
            if owner.pid == 1:
                unit = by_port.get((protocol, port), unit)
            key = (protocol, local, port, owner.pid)
            seen[key] = {
                "protocol": protocol,
                "family": family,
                "address": local,
                "port": port,
                "pid": owner.pid,
                "process": owner.name,
                "unit": unit,
            }
    order = sorted(
        seen.values(), key=lambda s: (s["protocol"], s["port"], s["family"], s["address"], s["pid"])
    )
    return order


def socket_address(text: str, big_endian: bool) -> str:
    """The address of a socket as the kernel's tables print it: 32-bit words in the machine's own byte order.

    Returns "" for what is no such address.
    """
    if len(text) not in (8, 32) or not re.fullmatch(r"[0-9A-Fa-f]+", text):
        return ""
    raw = bytes.fromhex(text)
    if not big_endian:
        raw = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
    return str(ipaddress.ip_address(raw))


def with_parents(pids: Iterable[int], running: Mapping[int, Process]) -> list[dict[str, Any]]:
    """The processes ``pids`` and all their ancestors."""
    wanted: set[int] = set()
    for listener in pids:
        pid = listener
        while pid in running and pid not in wanted:
            wanted.add(pid)
            pid = running[pid].ppid
    return [
        {
            "pid": process.pid,
            "ppid": process.ppid,
            "name": process.name,
            "command": process.command,
            "exe": process.exe,
        }
        for process in (running[pid] for pid in sorted(wanted))
    ]


def units(reply: Reply, running: Iterable[Process]) -> dict[str, dict[str, Any]]:
    """systemd's services and sockets that start at boot, are masked, or run something that has sockets.

    The many static ones that only belong to systemd itself are left out.
    """
    listeners = {process.unit for process in running if process.inodes}
    found: dict[str, dict[str, Any]] = {}
    for block in reply.get("units").split("\n\n"):
        values: dict[str, list[str]] = {}
        for line in block.split("\n"):
            key, sign, value = line.partition("=")
            if sign:
                values.setdefault(key, []).append(clean(value))
        name = values.get("Id", [""])[0]
        if not name.endswith((".service", ".socket")):
            continue
        active, enabled = values.get("ActiveState", [""])[0], values.get("UnitFileState", [""])[0]
        chosen = enabled.startswith(("enabled", "generated", "linked", "alias", "masked"))
        if not chosen and name not in listeners and not (name.endswith(".socket") and active == "active"):
            continue
        found[name] = {
            "active": active,
            "enabled": enabled,
            "path": values.get("FragmentPath", [""])[0],
            "listen": values.get("Listen", []),
        }
    for name in map(clean, reply.all("wanted")):
        if name.endswith((".service", ".socket")) and name not in found:
            found[name] = {"active": "inactive", "enabled": "enabled", "path": "", "listen": []}
    for name in map(clean, reply.all("masked")):
        found[name] = {
            **found.get(name, {"active": "inactive", "listen": []}),
            "enabled": "masked",
            "path": "/dev/null",
        }
    return dict(sorted(found.items()))


def _owner(holders: list[Process]) -> Process:
    """Of all processes that hold a socket, the one that opened or was given it: no child of another holder.

    systemd keeps the sockets that it opens for services; the service is the better answer where it runs.
    """
    if not holders:
        return Process(0)
    holding = {process.pid for process in holders}
    heads = [process for process in holders if process.ppid not in holding or process.ppid == 1]
    others = [process for process in heads if process.pid != 1]
    return min(others or heads or holders, key=lambda process: process.pid)


def _socket_units(units: Mapping[str, Mapping[str, Any]]) -> dict[tuple[str, int], str]:
    found: dict[tuple[str, int], str] = {}
    for name, unit in units.items():
        for listen in unit.get("listen", []):
            if match := _LISTEN.match(listen):
                found[("tcp" if match[3] == "Stream" else "udp", int(match[2]))] = name
    return found
