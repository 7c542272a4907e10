# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The device's interfaces, and the neighbours that it cannot do without."""

from __future__ import annotations

import ipaddress
import itertools
import re
from collections.abc import Iterable
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.facts.processes import (
    Process,
    socket_address,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.facts.text import (
    address,
    clean,
    hexadecimal,
)

_UP, _REJECT = 0x1, 0x200  # flags of a route
_LOOPBACK = "772"  # ARPHRD_LOOPBACK
# How Docker, Podman, CNI, containerd, LXC, LXD and Incus name the bridges that they make.
_CONTAINER_BRIDGE = re.compile(
    r"docker\d+|docker_gwbridge|br-[0-9a-f]{12}|podman\d+|cni\S*|nerdctl\d+|lxcbr\d+|lxdbr\d+|incusbr\d+"
)
_IP_ADDR = re.compile(
    r"^\d+: +([^\s@:]+)(?:@[^\s:]+)?:? +inet6? +([0-9a-fA-F.:]+)(?:/(\d+))?(?: +peer +[0-9a-fA-F.:]+/(\d+))?"
)


def interfaces(reply: Reply) -> list[dict[str, Any]]:
    """Every interface with its kind and its addresses as CIDRs."""
    found: dict[str, dict[str, Any]] = {}
    for record in reply.all("interface"):
        words = record.split(" ")
        if len(words) >= 4:
            name = clean(words[0])
            ports = [word for word in words[4:] if word.startswith("port=")]
            found[name] = {
                "name": name,
                "kind": _kind(name, words[1], set(words[4:]), ports),
                "addresses": [],
            }
    if not found:
        # No /sys: the names alone are known.
        for line in reply.get("net_dev").split("\n")[2:]:
            name = clean(line.partition(":")[0])
            if name:
                kind = "loopback" if name == "lo" else "other"
                found[name] = {"name": name, "kind": kind, "addresses": []}
    for name, cidr in _addresses(reply):
        if name in found and cidr not in found[name]["addresses"]:
            found[name]["addresses"].append(cidr)
    return list(found.values())


def routers(reply: Reply) -> list[str]:
    """The next hops of default routes, IPv4 before IPv6."""
    found: list[str] = []
    for _iface, destination, gateway, mask in _routes(reply):
        if destination == mask == "0.0.0.0" and gateway != "0.0.0.0":
            found.append(gateway)
    for line in reply.get("ipv6_route").split("\n"):
        words = line.split()
        if len(words) >= 10 and words[0] == "0" * 32 and words[1] == "00" and words[4] != "0" * 32:
            found.append(_ipv6(words[4]))
    return _unique(found)


def way_to(reply: Reply, whom: str) -> str:
    """The interface by which the device reaches an address; "" where no route of its main table leads there."""
    if not whom:
        return ""
    target = ipaddress.ip_address(whom)
    found: list[tuple[int, int, str]] = []
    if target.version == 4:
        for iface, destination, _gateway, mask in _routes(reply):
            size = bin(int(ipaddress.ip_address(mask))).count("1")
            if int(target) >> 32 - size == int(ipaddress.ip_address(destination)) >> 32 - size:
                found.append((32 - size, 0, iface))
    else:
        for line in reply.get("ipv6_route").split("\n"):
            words = line.split()
            if len(words) < 10 or not hexadecimal(words[8]) & _UP or hexadecimal(words[8]) & _REJECT:
                continue
            outside = 128 - min(128, hexadecimal(words[1]))
            if words[9] != "lo" and int(target) >> outside == hexadecimal(words[0]) >> outside:
                found.append((outside, hexadecimal(words[5]), clean(words[9])))
    return min(found)[2] if found else ""


def resolvers(reply: Reply) -> list[str]:
    """Name servers other than the device itself."""
    found = []
    for record in reply.all("resolver"):
        words = record.split()
        if len(words) > 1 and words[0].lower() == "nameserver":
            found.append(address(words[1]))
    return _unique(found, loopback=False)


def dhcp_servers(reply: Reply) -> list[str]:
    """Servers that gave the device its leases, as the lease files name them."""
    found = []
    for record in reply.all("dhcp"):
        for word in re.findall(r"[0-9a-fA-F.:]{3,}", record.replace("=", " ")):
            found.append(address(word.strip(".:")) if "." in word else address(word))
    return _unique(found, loopback=False)


def ntp_servers(reply: Reply, running: Iterable[Process]) -> tuple[list[str], list[str]]:
    """Time servers as (addresses, names), from configuration and the arguments of a running BusyBox ntpd."""
    words: list[str] = []
    for record in reply.all("ntp"):
        parts = record.replace("=", " ").replace("'", " ").replace('"', " ").split()
        if not parts:
            continue
        keyword = parts[0].lower()
        if keyword in ("ntp", "fallbackntp"):
            words += parts[1:]
        elif keyword == "list" and len(parts) > 2:
            words.append(parts[2])
        elif keyword in ("server", "pool", "peer") and len(parts) > 1:
            words.append(parts[1])
    for process in running:
        arguments = process.arguments or ()
        if process.name == "ntpd":
            words += [following for flag, following in itertools.pairwise(arguments) if flag == "-p"]
    names = [clean(word) for word in words if not address(word)]
    return _unique([address(word) for word in words], loopback=False), list(dict.fromkeys(names))


def _kind(name: str, hardware: str, traits: set[str], ports: list[str]) -> str:
    if hardware == _LOOPBACK:
        return "loopback"
    if "bridge" in traits:
        return "container_bridge" if _CONTAINER_BRIDGE.fullmatch(name) else "bridge"
    return "physical" if "device" in traits else "other"


def _addresses(reply: Reply) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for line in reply.get("ip_addr").split("\n"):
        if match := _IP_ADDR.match(line):
            local = address(match[2])
            if local:
                whole = "128" if ":" in local else "32"
                found.append((clean(match[1]), f"{local}/{match[3] or match[4] or whole}"))
    if found:
        return found
    for line in reply.get("if_inet6").split("\n"):
        words = line.split()
        if len(words) == 6 and len(words[0]) == 32:
            found.append((clean(words[5]), f"{_ipv6(words[0])}/{hexadecimal(words[2])}"))
    return _without_ip(reply) + found


def _without_ip(reply: Reply) -> list[tuple[str, str]]:
    """IPv4 addresses of a device without ``ip``: the kernel's own, placed by its connected routes."""
    own: list[str] = []
    last = ""
    for line in reply.get("fib_trie").split("\n"):
        if match := re.search(r"\|-- ([0-9.]+)", line):
            last = address(match[1])
        elif "/32 host LOCAL" in line and last:
            own.append(last)
    connected = [
        (iface, ipaddress.ip_network(f"{destination}/{mask}", strict=False))
        for iface, destination, gateway, mask in _routes(reply)
        if gateway == "0.0.0.0" and mask != "0.0.0.0"
    ]
    found = []
    for local in _unique(own):
        if local.startswith("127."):
            found.append(("lo", f"{local}/8"))
            continue
        for iface, network in connected:
            if ipaddress.ip_address(local) in network:
                found.append((iface, f"{local}/{network.prefixlen}"))
                break
    return found


def _routes(reply: Reply) -> list[tuple[str, str, str, str]]:
    """(interface, destination, gateway, mask) of the IPv4 routes that are up."""
    found = []
    for line in reply.get("route").split("\n")[1:]:
        words = line.split()
        if len(words) < 8:
            continue
        big = "big_endian" in reply
        destination, gateway, mask = (socket_address(words[at], big) for at in (1, 2, 7))
        if destination and gateway and mask and hexadecimal(words[3]) & 1:
            found.append((clean(words[0]), destination, gateway, mask))
    return found


def _ipv6(text: str) -> str:
    try:
        return str(ipaddress.IPv6Address(int(text, 16)))
    except ValueError:
        return ""


def _unique(found: Iterable[str], loopback: bool = True) -> list[str]:
    kept = [item for item in found if item]
    if not loopback:
        kept = [item for item in kept if not ipaddress.ip_address(item).is_loopback]
    return list(dict.fromkeys(kept))
