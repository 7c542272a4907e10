# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Sends one random policy's packets through the backends and compares with the judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.judge import (
    SCTP,
    TCP,
    Outcome,
    Packet,
    judge,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import HostPolicy
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.render import (
    Unsupported,
    iptables,
    iptables_ipset,
    nftables,
)

from tests.kernel.device import Device
from tests.kernel.packets import fragments, ip_packet
from tests.kernel.policies import Author

Files = Callable[[HostPolicy], dict[str, str]]

BACKENDS: Mapping[str, Files] = {
    "nftables": nftables.rulesets,
    "iptables_ipset": iptables_ipset.rulesets,
    "iptables": iptables.rulesets,
}


@dataclass(slots=True)
class Disagreement:
    seed: int
    backend: str
    packet: Packet
    extra: dict[str, Any]
    expected: Outcome
    got: str

    def __str__(self) -> str:
        return (
            f"seed {self.seed}, {self.backend}: {self.got}, the model says {self.expected}\n"
            f"  {self.packet}\n  {self.extra}"
        )


@dataclass(slots=True)
class Result:
    sent: int = 0
    delivered: int = 0
    passed: int = 0
    unsupported: int = 0
    fragmented: int = 0
    bridged: int = 0
    led_here: int = 0
    """Translated to a port of the device's own."""
    disagreements: list[Disagreement] = field(default_factory=list)


def compare(
    device: Device, seed: int, count: int, backends: Mapping[str, Files], legacy: bool = False
) -> Result:
    """Policy and packets of ``seed`` through every backend."""
    author = Author(seed)
    policy = author.policy()
    shots = [(packet, extra, judge(policy, packet)) for packet, extra in author.packets(policy, count)]
    # A sprung trap bans; what comes after it would meet a device that is not idle.
    shots.sort(key=lambda shot: shot[2].step == "trap")
    # Every other policy beside a bridge that shows its frames to the packet filter, as Docker's does.
    bridging = device.bridge_netfilter(seed % 2 == 1)
    if bridging:
        shots += [(packet, extra, judge(policy, packet)) for packet, extra in author.bridged(count // 10)]
    wire = [
        (packet, piece)
        for number, (packet, extra, _) in enumerate(shots, start=1)
        for piece in _pieces(packet, number, extra)
    ]
    bridged = {number for number, (_, extra, _) in enumerate(shots, start=1) if extra.get("bridged")}
    translations = [
        _translation(packet, number)
        for number, (packet, _, _) in enumerate(shots, start=1)
        if packet.original_destination is not None
    ]
    result = Result(sent=len(shots) * len(backends))
    for name, render in backends.items():
        try:
            files = render(policy)
        except Unsupported:
            # Too many rules for plain iptables: said before anything is changed, and rare enough to be counted.
            result.unsupported += 1
            result.sent -= len(shots)
            continue
        device.load(files, legacy=legacy)
        with device.translating(translations):
            seen = device.shoot(wire, bridged=bridged)
        for number, (packet, extra, expected) in enumerate(shots, start=1):
            if seen.first.get(number) != packet.hook:
                continue
            result.delivered += 1
            # A refused packet is answered from the hook it was refused in; a loss would look the same.
            got = "allow" if seen.last.get(number) == packet.hook else "deny"
            result.passed += got == "allow"
            result.fragmented += bool(extra.get("fragmented"))
            result.bridged += number in bridged
            result.led_here += packet.hook == "inbound" and packet.original_destination is not None
            if (got == "allow") != (expected.verdict == "allow"):
                result.disagreements.append(Disagreement(seed, name, packet, extra, expected, got))
    return result


def _pieces(packet: Packet, number: int, extra: Mapping[str, Any]) -> list[bytes]:
    """The packet as it goes over the wire.

    A fragmented one is cut behind its ports: in IPv4 inside a TCP header, in IPv6 behind it, since the kernel does not
    put together what RFC 8200 forbids, a first fragment without its whole transport header.
    """
    how = {key: value for key, value in extra.items() if key not in ("fragmented", "bridged")}
    if not extra.get("fragmented"):
        return [ip_packet(packet, number, **how)]
    first = 24 if packet.family == "ipv6" and packet.protocol == TCP else 16 if packet.protocol == SCTP else 8
    return fragments(ip_packet(packet, number, payload=b"sallyport", **how), first)


def _translation(packet: Packet, number: int) -> str:
    """The harness's rule that translates this one packet."""
    size = 4 if packet.family == "ipv4" else 16
    target = ip_address(packet.destination.to_bytes(size, "big"))
    if packet.family == "ipv4":
        return f"ip id {number} meta l4proto {packet.protocol} dnat ip to {target}:{packet.port}"
    return f"ip6 flowlabel {number} meta l4proto {packet.protocol} dnat ip6 to [{target}]:{packet.port}"
