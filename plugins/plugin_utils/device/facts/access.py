# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Who may log in and through what: accounts and the SSH server. No hash and no private key ever gets here."""

from __future__ import annotations

import base64
import binascii
import fnmatch
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.facts.processes import Process
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.facts.text import clean, number

_KINDS = {"ed25519": "ssh-ed25519", "rsa": "ssh-rsa", "dss": "ssh-dss", "dsa": "ssh-dss", "ecdsa": "ecdsa"}
_SUPPORTED = {
    "kex": "kex",
    "cipher": "cipher",
    "mac": "mac",
    "key": "key",
    "HostKeyAlgorithms": "hostkeyalgs",
}


def accounts(reply: Reply) -> list[dict[str, Any]]:
    """Every account in passwd, judged by shadow where its password is kept there.

    ``password``: ``set``; ``empty`` logs in without one; ``locked`` begins with "!", which some SSH servers
    take as no login at all, keys included; ``none`` has nothing that could match; "" where shadow could not
    be read.
    """
    shadow: dict[str, tuple[str, str]] = {}
    for record in reply.all("shadow"):
        parts = clean(record).split(":")
        if len(parts) == 3:
            shadow.setdefault(parts[0], (parts[1], parts[2]))
    unknown = ("none", "") if "shadow_readable" in reply else ("", "")
    found = []
    for record in reply.all("account"):
        parts = clean(record).split(":", 7)
        if len(parts) != 8 or not parts[0]:
            continue
        name, uid, gid, password, scheme, keys, home, shell = parts
        if password == "shadow":
            password, scheme = shadow.get(name, unknown)
        found.append(
            {
                "name": name,
                "uid": number(uid),
                "gid": number(gid),
                "home": home,
                # An empty field means the system's default shell, and a login.
                "shell": shell or "/bin/sh",
                "password": password,
                "scheme": scheme,
                "authorized_keys": number(keys),
            }
        )
    return found


def ssh(
    reply: Reply,
    running: Mapping[int, Process],
    listening: Sequence[Mapping[str, Any]],
    units: Mapping[str, Mapping[str, Any]],
    files: Mapping[str, str],
    server_port: int,
) -> dict[str, Any]:
    """The SSH server that answers, or ``none``. Of two, the one that this controller came in by.

    ``supported`` is what the OpenSSH of the device can do; empty for dropbear, whose build does not tell.
    """
    sockets = [s for s in listening if s["protocol"] == "tcp" and _daemon(s, running)]
    mine = [s for s in sockets if s["port"] == server_port] or sockets
    server = _daemon(mine[0], running) if mine else "none"
    ports = {s["port"] for s in sockets if _daemon(s, running) == server}
    if not mine and _hidden(reply, running):
        server = _running(running)
        ports = {server_port} - {0} if server != "none" else set()
    sockets = [s for s in sockets if _daemon(s, running) == server]
    heads = [running[s["pid"]] for s in sockets if s["pid"] in running and s["pid"] != 1]
    socket_unit = next((s["unit"] for s in sockets if s["unit"].endswith(".socket")), "")
    if not socket_unit:
        socket_unit = next(
            (n for n in ("ssh.socket", "sshd.socket") if units.get(n, {}).get("active") == "active"), ""
        )
    service = next((head.unit for head in heads if head.unit.endswith(".service")), "")
    return {
        "server": server,
        "version": _version(reply, server),
        "binary": clean(reply.get({"openssh": "sshd", "dropbear": "dropbear"}.get(server, "sshd"))),
        "ports": sorted(ports),
        "socket_activated": bool(socket_unit),
        "include_dir": server == "openssh" and includes_drop_ins(files.get("/etc/ssh/sshd_config", "")),
        "config": _config(reply.get("sshd_config")) if server == "openssh" else {},
        "config_error": clean(reply.get("sshd_error")) if server == "openssh" else "",
        "supported": _supported(reply) if server == "openssh" else {name: [] for name in _SUPPORTED.values()},
        "host_keys": [key for key in map(host_key, reply.all("host_key")) if key],
        "unit": socket_unit or service,
        "arguments": _arguments(heads[0]) if heads else [],
    }


def includes_drop_ins(text: str) -> bool:
    """Does this sshd_config read sshd_config.d for everybody, that is before its first Match?"""
    for line in text.split("\n"):
        words = line.replace("=", " ", 1).replace('"', "").split()
        keyword = words[0].lower() if words else ""
        if keyword == "match":
            return False
        if keyword == "include":
            for pattern in words[1:]:
                path = pattern if pattern.startswith("/") else f"/etc/ssh/{pattern}"
                if fnmatch.fnmatch("/etc/ssh/sshd_config.d/00-sallyport.conf", path):
                    return True
    return False


def host_key(record: str) -> dict[str, Any] | None:
    """``PATH [TYPE BASE64 [COMMENT]]`` as ``{type, bits, public, path}``.

    Without a readable public half, the type is told from the name of the file.
    """
    words = clean(record).split(" ")
    at = next((i for i, word in enumerate(words) if i and re.match(r"(ssh|ecdsa|sk)-", word)), 0)
    path = " ".join(words[:at] if at else words).strip()
    if not path:
        return None
    if at and len(words) > at + 1:
        kind, encoded = words[at], words[at + 1]
        bits = _bits(kind, encoded)
        if bits:
            return {"type": kind, "bits": bits, "public": f"{kind} {encoded}", "path": path}
    short = next(
        (name for name in ("ed25519", "ecdsa", "rsa", "dss", "dsa") if name in path.rpartition("/")[2]), ""
    )
    kind = {
        "ed25519": "ssh-ed25519",
        "rsa": "ssh-rsa",
        "dss": "ssh-dss",
        "dsa": "ssh-dss",
        "ecdsa": "ecdsa",
    }.get(short, "")
    return {"type": kind, "bits": 0, "public": "", "path": path}


def _bits(kind: str, encoded: str) -> int:
    """The size of a public key, 0 where it is none."""
    try:
        raw = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return 0
    fields = []
    while len(raw) >= 4:
        size = int.from_bytes(raw[:4], "big")
        fields.append(raw[4 : 4 + size])
        raw = raw[4 + size :]
    if not fields or fields[0] != kind.encode():
        return 0
    if kind == "ssh-rsa" and len(fields) == 3:
        return int.from_bytes(fields[2], "big").bit_length()
    if kind == "ssh-dss" and len(fields) == 5:
        return int.from_bytes(fields[1], "big").bit_length()
    if match := re.search(r"nistp(\d+)", kind):
        return int(match[1])
    return 256 if "ed25519" in kind else 0


def _daemon(socket: Mapping[str, Any], running: Mapping[int, Process]) -> str:
    """openssh, dropbear or "" for the owner of a socket; by its file, else by its name."""
    process = running.get(socket["pid"])
    if socket["unit"] in ("ssh.socket", "sshd.socket"):
        return "openssh"
    if socket["unit"] == "dropbear.socket":
        return "dropbear"
    return _program(process) if process else ""


def _program(process: Process) -> str:
    for text in (process.exe.rpartition("/")[2], process.name):
        if text == "sshd":
            return "openssh"
        if text in ("dropbear", "dropbearmulti"):
            return "dropbear"
    return ""


def _hidden(reply: Reply, running: Mapping[int, Process]) -> bool:
    """Could the owners of sockets not be seen, for want of root or of any tool that shows them?"""
    return reply.get("uid") != "0" or not any(process.inodes for process in running.values())


def _running(running: Mapping[int, Process]) -> str:
    """The server by its process alone. The last resort: a daemon in a container of the device is seen too."""
    names = {_program(process) for process in running.values()}
    return next((name for name in ("openssh", "dropbear") if name in names), "none")


def _version(reply: Reply, server: str) -> str:
    pattern, text = {
        "openssh": (r"OpenSSH_([0-9][0-9A-Za-z.]*)", reply.get("sshd_version")),
        "dropbear": (r"v?([0-9]{4}\.[0-9]+|0\.[0-9]+)", reply.get("dropbear_version")),
    }.get(server, ("(?!)", ""))
    match = re.search(pattern, text)
    return match[1] if match else ""


def _config(text: str) -> dict[str, list[str]]:
    """``sshd -T``: an option may stand on several lines."""
    found: dict[str, list[str]] = {}
    for line in text.split("\n"):
        key, _, value = clean(line).partition(" ")
        if key:
            found.setdefault(key.lower(), []).append(value)
    return found


def _supported(reply: Reply) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {name: [] for name in _SUPPORTED.values()}
    for record in reply.all("ssh_q"):
        kind, _, names = clean(record).partition(" ")
        if kind in _SUPPORTED:
            found[_SUPPORTED[kind]] = names.split()
    return found


def _arguments(process: Process) -> list[str]:
    """The arguments that the daemon was started with. sshd shows ``sshd: FILE ARGS [listener] ...``."""
    words = list(process.arguments or ())
    if len(words) == 1 and words[0].startswith("sshd: "):
        words = words[0].removeprefix("sshd: ").partition(" [listener]")[0].split()
    return words[1:]
