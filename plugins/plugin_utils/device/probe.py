# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""From the reply of ``probe.sh`` to ``sallyport_device``, whose keys docs/architecture.md describes.

Pure: the same reply gives the same facts. What could not be learnt is empty, never a guess.
"""

from __future__ import annotations

import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.facts import (
    access,
    foreign,
    network,
    storage,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.facts import processes as running_processes
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.facts.text import (
    address,
    clean,
    number,
    utf8,
)

PROTOCOL = 1
MAX_FILE = 65536
# A clock before this was never set; one after it never came from a time server that we will live to see.
_EARLIEST = datetime(2025, 1, 1, tzinfo=timezone.utc).timestamp()
_LATEST = datetime(2100, 1, 1, tzinfo=timezone.utc).timestamp()


class ProbeError(Exception):
    """The reply does not describe a device that Sallyport can work with."""


def program() -> str:
    """The program for the device, without comments and indents: they would travel to it in every run."""
    text = Path(__file__).with_suffix(".sh").read_text(encoding="utf-8")
    lines = (line.strip() for line in text.split("\n"))
    return "\n".join(line for line in lines if line and not line.startswith("#"))


def device(reply: Reply, remote_user: str = "", become_method: str = "") -> dict[str, Any]:
    """``sallyport_device``.

    Args:
        reply: what probe.sh said.
        remote_user: who the controller logged in as, where it knows; else the device's own word is taken.
        become_method: how root was to be gained, "" for not at all.

    Raises:
        ProbeError: the reply is of another protocol, or the program did not reach its end.
    """
    if reply.get("protocol") != str(PROTOCOL) or "complete" not in reply:
        raise ProbeError(
            f"the probe did not reach its end (status {reply.status}). The device said: "
            f"{clean(reply.errors[-400:]) or 'nothing'}. Check that /proc is mounted there and memory is "
            "left to start processes."
        )
    running = running_processes.processes(reply)
    units = running_processes.units(reply, running.values())
    sockets = running_processes.listening(reply, running, units)
    files, omitted = _files(reply)
    connection = _connection(reply, running)
    ntp, ntp_names = network.ntp_servers(reply, running.values())
    uid = number(reply.get("uid", "-"))
    login_user = remote_user or clean(reply.get("login_user")) or _login_user(reply)
    return {
        "protocol": PROTOCOL,
        "hostname": clean(reply.get("hostname")),
        "kernel": clean(reply.get("kernel")),
        "machine": clean(reply.get("machine")),
        "os": _os(reply.get("os_release")),
        "init": _init(reply),
        "container": next((name for name in map(clean, reply.all("container")) if name), ""),
        "python": clean(reply.get("python") or reply.get("python_system")),
        "login_user": login_user,
        "effective_uid": uid,
        "privilege": _privilege(uid, login_user, become_method),
        "connection": connection,
        "ssh": access.ssh(reply, running, sockets, units, files, connection["server_port"]),
        "firewall": _firewall(reply),
        "foreign_drops": foreign.drops(reply),
        "listening": sockets,
        "accounts": access.accounts(reply),
        "packages": _packages(reply),
        "root": storage.root(reply),
        "state_dir": storage.state_dir(reply),
        "memory": storage.memory(reply),
        "clock": _clock(reply),
        "interfaces": network.interfaces(reply),
        "routers": network.routers(reply),
        "resolvers": network.resolvers(reply),
        "dhcp_servers": network.dhcp_servers(reply),
        "ntp_servers": ntp,
        "ntp_names": ntp_names,
        "tools": _tools(reply),
        "files": files,
        "files_omitted": omitted,
        "units": units,
        "processes": running_processes.with_parents({s["pid"] for s in sockets}, running),
        "transaction": _transaction(reply),
    }


def _os(text: str) -> dict[str, str]:
    values = {}
    for line in text.split("\n"):
        key, _, value = clean(line).partition("=")
        values[key] = value.strip("\"'")
    return {
        "id": values.get("ID", ""),
        "version_id": values.get("VERSION_ID", ""),
        "codename": values.get("VERSION_CODENAME", ""),
        "pretty": values.get("PRETTY_NAME", ""),
    }


def _init(reply: Reply) -> str:
    marks = set(reply.all("init_has"))
    comm, exe = reply.get("init_comm"), reply.get("init_exe").rpartition("/")[2]
    if "systemd" in marks:
        return "systemd"
    if "openrc" in marks:
        return "openrc"
    # BusyBox init calls itself init or linuxrc; its file tells, or that this userland is BusyBox's own.
    if exe.startswith("busybox") or (
        comm in ("init", "linuxrc") and not exe and _tools(reply).get("busybox")
    ):
        return "busybox"
    if comm == "init" and "inittab" in marks:
        return "sysv"
    return "unknown"


def _privilege(uid: int, login_user: str, become_method: str) -> str:
    if uid != 0:
        return "none"
    if login_user == "root" or not become_method:
        return "root"
    method = become_method.rpartition(".")[2]
    return method if method in ("sudo", "su", "doas") else "root"


def _connection(reply: Reply, running: dict[int, running_processes.Process]) -> dict[str, Any]:
    """The device's own view of the session; the nearest ancestor's word stands first."""
    for record in reply.all("connection"):
        words = record.split()
        if len(words) == 4 and address(words[0]) and address(words[2]):
            return {
                "client": address(words[0]),
                "client_port": number(words[1]),
                "server": address(words[2]),
                "server_port": number(words[3]),
                "interface": network.way_to(reply, address(words[0])),
            }
    return {"client": "", "client_port": 0, "server": "", "server_port": 0, "interface": ""}


def _login_user(reply: Reply) -> str:
    """The account of the outermost ancestor that is not root's, else root's own."""
    names: dict[str, str] = {}
    for record in reply.all("account"):
        parts = clean(record).split(":")
        if len(parts) > 2:
            names.setdefault(parts[1], parts[0])
    uids = [record.partition(" ")[2] for record in reply.all("ancestor_uid")]
    outermost = next((uid for uid in reversed(uids) if uid != "0"), "0" if uids else "")
    return names.get(outermost, "")


def _firewall(reply: Reply) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {
        name: {
            "path": "",
            "version": "",
            "variant": "",
            "works": False,
            "error": "",
            "proof": "",
            "features": [],
        }
        for name in ("nft", "iptables", "ip6tables", "ipset")
    }
    for record in reply.all("firewall"):
        name, path, text = [*clean(record).split(" ", 2), "", ""][:3]
        if name not in found:
            continue
        version = re.search(r"\bv?(\d+(?:\.\d+)+)", text)
        variant = ""
        if name in ("iptables", "ip6tables"):
            # Releases before the nftables variant existed do not say.
            variant = "nft" if "nf_tables" in text else "legacy"
        found[name].update(path=path, version=version[1] if version else "", variant=variant)
    for record in reply.all("firewall_features"):
        name, _, features = clean(record).partition(" ")
        if name in found:
            found[name]["features"] += features.split()
    working = set(reply.all("firewall_works"))
    proof = "private" if reply.get("firewall_proof").startswith("unshare") else "dry"
    for record in reply.all("firewall_error"):
        name, _, error = clean(record).partition(" ")
        if name in found:
            works = name in working
            found[name].update(works=works, error="" if works else error or "refused", proof=proof)
    return found


def _packages(reply: Reply) -> str:
    known, tools = set(reply.all("package_db")), _tools(reply)
    for name, tool in (("apt", "apt-get"), ("opkg", "opkg"), ("apk", "apk")):
        if name in known and tool in tools:
            return name
    return "none"


def _clock(reply: Reply) -> dict[str, Any]:
    epoch = number(reply.get("epoch"))
    return {"epoch": epoch, "plausible": _EARLIEST <= epoch <= _LATEST}


def _tools(reply: Reply) -> dict[str, str]:
    found = {}
    for record in reply.all("tool"):
        name, _, path = clean(record).partition(" ")
        found[name] = path
    return found


def _transaction(reply: Reply) -> dict[str, Any]:
    """The change that waits for its confirmation, and the last one that took itself back."""
    values: dict[str, str] = {}
    for record in reply.all("transaction"):
        place, key, value = [*clean(record).split(" ", 2), "", ""][:3]
        values[f"{place} {key}"] = value
    reverted = {key: values.get(f"reverted {key}", "") for key in ("id", "name")}
    reverted["reason"] = _lines(reply.get("reason reverted"))
    # A lock that nothing has been written into yet still stands in the way.
    pending = values.get("armed/tx id", "") or ("unnamed" if "armed/tx id" in values else "")
    return {"pending": pending, "last_reverted": reverted if "reverted id" in values else {}}


def _lines(text: str) -> str:
    return "\n".join(map(clean, text.rstrip("\n").split("\n")))


def _files(reply: Reply) -> tuple[dict[str, str], dict[str, str]]:
    """(texts by path, reasons by path of those left out): half a file or another text must not be edited."""
    files: dict[str, str] = {}
    omitted: dict[str, str] = {}
    for key, text in reply.records:
        if not key.startswith("file /"):
            continue
        path = clean(key.removeprefix("file "))
        whole = utf8(text)
        if whole is None:
            omitted[path] = "is not UTF-8"
        elif len(whole.encode()) > MAX_FILE:
            omitted[path] = f"is longer than {MAX_FILE} bytes"
        else:
            files[path] = whole
    return files, omitted
