# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""A device in a network namespace that real packets are shot at, and what its kernel let through.

Two rule sets of the harness stand around the policy: the first in every hook copies each packet that arrives
(the positive control), the last copies and drops each that survived. So no answer, connection or ban is left
behind by a packet, and the next one meets an idle device. Both leave interfaces alone whose names begin with "quiet".
"""

from __future__ import annotations

import os
import socket
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.judge import Packet
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.render.base import loader

from tests.kernel.namespace import Namespace
from tests.kernel.nflog import Nflog
from tests.kernel.packets import number_of, source_of

GROUP = 7
ADDRESSES = {
    "lan0": ("10.77.0.1/16", "fd77::1/64"),
    "wan0": ("198.51.100.130/25", "2001:db8:2::1/64"),
    "wwan0": ("100.64.0.1/16", "fd64::1/64"),
    "cbr0": ("172.20.0.1/16", "fd20::1/64"),
    "cbr1": ("172.21.0.1/16", "fd21::1/64"),
    "br0": ("172.22.0.1/16", "fd22::1/64"),
}
BRIDGES = ("br0", "cbr0", "cbr1")
DEFAULT_ROUTE = "wan0"

_HARNESS = """
table inet harness {{
	chain before_all {{
		type filter hook prerouting priority -350;
		udp sport {untracked} notrack
		tcp sport {untracked} notrack
	}}
	chain before_own {{
		type filter hook output priority -350;
		udp sport {untracked} notrack
		tcp sport {untracked} notrack
	}}
	chain translate {{
		type nat hook prerouting priority -100;
	}}
	chain first_in {{ type filter hook input priority -500; iifname "quiet*" accept; log group 7 prefix "inbound first" snaplen 120; }}
	chain first_out {{ type filter hook output priority -500; oifname "quiet*" accept; oif != "lo" log group 7 prefix "outbound first" snaplen 120; }}
	chain first_forward {{ type filter hook forward priority -500; log group 7 prefix "forward first" snaplen 120; }}
	chain last_in {{ type filter hook input priority 500; iifname "quiet*" accept; log group 7 prefix "inbound last" snaplen 120; {drop}; }}
	chain last_out {{ type filter hook output priority 500; oifname "quiet*" accept; oif != "lo" log group 7 prefix "outbound last" snaplen 120; {drop}; }}
	chain last_forward {{ type filter hook forward priority 500; log group 7 prefix "forward last" snaplen 120; {drop}; }}
}}
"""
UNTRACKED_PORT = 7777
"""The harness takes packets from this source port out of connection tracking."""


@dataclass(slots=True)
class Seen:
    """Numbers of packets by what became of them, for each hook."""

    first: dict[int, str] = field(default_factory=dict)
    last: dict[int, str] = field(default_factory=dict)
    sources: dict[int, bytes] = field(default_factory=dict)


class Device:
    """``addresses`` are ADDRESSES; every interface's far end lies in ``world``, where nothing answers."""

    def __init__(self, directory: Path, tag: str = "") -> None:
        prefix = f"spk{os.getpid()}{tag}"
        self.directory = directory
        self.inside = Namespace(f"{prefix}d")
        try:
            self.world = Namespace(f"{prefix}w")
        except BaseException:
            self.inside.close()
            raise
        self._marks = 0
        self._wires: dict[str, socket.socket] = {}
        self._macs: dict[str, bytes] = {}
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        inside = self.inside
        inside.sysctl(
            net__ipv4__conf__all__rp_filter=0,
            net__ipv4__conf__default__rp_filter=0,
            net__ipv4__conf__default__accept_local=1,
            net__ipv4__conf__all__accept_local=1,
            net__ipv4__ip_forward=1,
            net__ipv6__conf__all__forwarding=1,
            net__ipv6__conf__default__accept_dad=0,
            net__ipv6__conf__default__router_solicitations=0,
            net__ipv4__icmp_ratelimit=0,
            net__ipv6__icmp__ratelimit=0,
        )
        self.world.sysctl(net__ipv6__conf__default__disable_ipv6=1, net__ipv6__conf__all__disable_ipv6=1)
        lines = ["link set lo up"]
        for name in BRIDGES:
            lines += [f"link add {name} type bridge mcast_snooping 0", f"link set {name} up"]
        for name in ADDRESSES:
            for port in (f"{name}a", f"{name}b") if name in BRIDGES else (name,):
                lines.append(f"link add {port} type veth peer name {port}p netns {self.world.name}")
                if port != name:
                    lines.append(f"link set {port} master {name}")
                lines.append(f"link set {port} up")
        for name, addresses in ADDRESSES.items():
            for one in addresses:
                lines.append(f"address add {one} dev {name}{' nodad' if ':' in one else ''}")
        inside.run("ip", "-batch", "-", stdin="\n".join(lines) + "\n")
        peers = [f"{port}p" for name in ADDRESSES for port in _ports(name)]
        self.world.run("ip", "-batch", "-", stdin="".join(f"link set {peer} up\n" for peer in peers))
        for family in ("-4", "-6"):
            inside.run("ip", family, "route", "add", "default", "dev", DEFAULT_ROUTE)
        for name in ADDRESSES:
            self._macs[name] = bytes.fromhex(self._mac(name).replace(":", ""))
            for port in _ports(name):
                wire = self.world.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
                wire.bind((f"{port}p", 0))
                self._wires[port] = wire
        self._raw = {
            "ipv4": inside.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW),
            "ipv6": inside.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW),
        }
        self._raw["ipv4"].setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        self._nflog = Nflog(inside, GROUP)
        self.harness(drop=True)

    def _mac(self, name: str) -> str:
        words = self.inside.run("ip", "-o", "link", "show", name).split()
        return words[words.index("link/ether") + 1]

    def harness(self, drop: bool) -> None:
        """(Re)load the rule sets around the policy; without ``drop`` what survives goes on its way."""
        text = _HARNESS.format(drop="drop" if drop else "accept", untracked=UNTRACKED_PORT)
        self.inside.run("nft", "-f", "-", stdin=f"table inet harness {{}}\ndelete table inet harness\n{text}")

    def close(self) -> None:
        for one in (*self._wires.values(), *getattr(self, "_raw", {}).values()):
            one.close()
        if hasattr(self, "_nflog"):
            self._nflog.close()
        self.inside.close()
        self.world.close()

    # The policy

    def load(self, files: dict[str, str], legacy: bool = False, adopt: bool = False) -> None:
        """Make these files the firewall, by the program that a device runs."""
        for old in self.directory.iterdir():
            old.unlink()
        for name, text in files.items():
            (self.directory / name).write_text(text, encoding="utf-8")
        self.loader("adopt" if adopt else "load", legacy=legacy)

    def loader(self, *arguments: str, legacy: bool = False, memory_kb: int = 0) -> str:
        program = self.directory.parent / "firewall-load"
        if not program.exists():
            program.write_text(loader(), encoding="utf-8")
        script = f'SALLYPORT_FIREWALL_DIR="{self.directory}" exec sh "{program}" "$@"'
        if memory_kb:
            script = f"ulimit -v {memory_kb}\n{script}"
        if legacy:
            # A mount namespace of its own: only this command sees the other iptables.
            script = "mount --bind /usr/sbin/xtables-legacy-multi /usr/sbin/xtables-nft-multi\n" + script
        return self.inside.run("sh", "-euc", script, "sh", *arguments)

    def bridge_netfilter(self, on: bool) -> bool:
        """Whether frames inside a bridge meet the packet filter, as they do beside Docker; False without the module."""
        with suppress(FileNotFoundError):
            self.inside.sysctl(
                **{f"net__bridge__bridge-nf-call-{tables}": int(on) for tables in ("iptables", "ip6tables")}
            )
            return on
        return False

    @contextmanager
    def translating(self, rules: Iterable[str]) -> Iterator[None]:
        """With destination translations, as a container engine makes them."""
        program = "".join(f"add rule inet harness translate {rule}\n" for rule in rules)
        self.inside.run("nft", "-f", "-", stdin=program)
        try:
            yield
        finally:
            self.inside.run("nft", "flush", "chain", "inet", "harness", "translate")

    # Packets

    def shoot(
        self, packets: Iterable[tuple[Packet, bytes]], batch: int = 150, bridged: Container[int] = ()
    ) -> Seen:
        """Send each (what it is, IP packet); a packet's number must be unique.

        The numbers ``bridged`` go to another station behind the same bridge, not to the device.
        """
        packets = list(packets)
        # All of them before the first is sent: an answer may carry the number of a packet that is yet to come.
        seen = Seen(sources={number_of(data): source_of(data) for _, data in packets})
        waiting = 0
        for packet, data in packets:
            self.send(packet, data, number_of(data) in bridged)
            waiting += 1
            if waiting == batch:
                self._collect(seen)
                waiting = 0
        self._collect(seen)
        return seen

    def send(self, packet: Packet, data: bytes, bridged: bool = False) -> None:
        """Put one IP packet on the wire that its judge's form names, or send it from the device itself."""
        if packet.hook == "outbound":
            to = ip_address(data[16:20] if packet.family == "ipv4" else data[24:40])
            # The sender is told of a drop; what became of the packet is read from the hooks.
            with suppress(PermissionError, ConnectionError):
                self._raw[packet.family].sendto(data, (str(to), 0))
            return
        name = packet.in_interface
        kind = b"\x08\x00" if packet.family == "ipv4" else b"\x86\xdd"
        wire = self._wires[_ports(name)[0]]
        wire.send((b"\x02\0\0\0\0\x22" if bridged else self._macs[name]) + b"\x02\0\0\0\0\x01" + kind + data)

    def _collect(self, seen: Seen) -> None:
        """Read until a marker comes by: packets are handled in order, so all before it have been decided.

        The log itself may lose a packet when memory is short. A lost marker is sent again, a few times; a lost
        packet of the test's own shows as one that never arrived.
        """
        for _ in range(4):
            self._marks += 1
            marker = self._marks & 0xFFFF
            with suppress(PermissionError):
                self._raw["ipv4"].sendto(_marker(marker), ("198.51.100.254", 0))
            with suppress(TimeoutError):
                while not self._read(seen, marker):
                    pass
                return
        raise TimeoutError("four markers in a row were not logged: is the harness's table still loaded?")

    def _read(self, seen: Seen, marker: int) -> bool:
        """Note what one datagram of the log brings; whether the marker was in it."""
        for prefix, ip in self._nflog.receive():
            if ip[:1] == b"\x45" and ip[9] == 253:
                if number_of(ip) == marker and prefix == "outbound first":
                    return True
                continue
            hook, _, when = prefix.partition(" ")
            number = number_of(ip)
            # An answer of the device's own may happen to carry the number of one of ours.
            if seen.sources.get(number, source_of(ip)) == source_of(ip):
                (seen.first if when == "first" else seen.last)[number] = hook
        return False


def _marker(number: int) -> bytes:
    return (
        b"\x45\0\0\x14"
        + (number & 0xFFFF).to_bytes(2, "big")
        + b"\0\0\x40\xfd\0\0"
        + ip_address("198.51.100.130").packed
        + ip_address("198.51.100.254").packed
    )


def _ports(name: str) -> tuple[str, ...]:
    return (f"{name}a", f"{name}b") if name in BRIDGES else (name,)


def route(family: str, address: int) -> str:
    """The interface that the device sends to ``address`` by; "lo" for its own addresses."""
    found = ip_address(address.to_bytes(4 if family == "ipv4" else 16, "big"))
    for texts in ADDRESSES.values():
        for text in texts:
            if ip_address(text.partition("/")[0]) == found:
                return "lo"
    for name, texts in ADDRESSES.items():
        for text in texts:
            network = ip_network(text, strict=False)
            if network.version == found.version and found in network:
                return name
    return DEFAULT_ROUTE
