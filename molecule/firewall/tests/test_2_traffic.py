"""What passes and what does not, from both networks and in both families."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.judge import TCP, Packet
from fleet import (
    BLOCKED,
    CALLER,
    COUNTED,
    DEVICES,
    FAMILIES,
    OTHER,
    PATIENCE,
    SILENCE,
    TALKER,
    VICTIM,
    Fleet,
    banned_as,
    guest,
    kind_of,
    until,
)

from tests.kernel.nflog import Nflog
from tests.kernel.packets import ACK, SYN, ip_packet

LAN, WAN = "vantage-lan", "vantage-wan"
EXPECTED = {
    (LAN, 22): "open",
    (WAN, 22): "filtered",
    (LAN, 80): "filtered",
    (WAN, 80): "filtered",
    (LAN, 5000): "filtered",
    (WAN, 5000): "filtered",
    (LAN, 7000): "open",
    (WAN, 7000): "open",
    (LAN, 7001): "filtered",
    (WAN, 7001): "filtered",
}
both = pytest.mark.parametrize("family", FAMILIES)
each = pytest.mark.parametrize("device", DEVICES)


@both
def test_what_is_allowed_is_open_and_what_is_not_is_filtered(fleet: Fleet, family: str) -> None:
    asked = {
        (place, "", fleet.address(device, place.removeprefix("vantage-"), family), port): (
            f"{device} {place} {port}",
            verdict,
        )
        for device in DEVICES
        for (place, port), verdict in EXPECTED.items()
    }
    seen = fleet.verdicts(asked)
    wrong = {asked[one][0]: verdict for one, verdict in seen.items() if verdict != asked[one][1]}
    assert wrong == {}


@both
def test_a_blocklist_drops_its_sources_and_nobody_else(fleet: Fleet, family: str) -> None:
    asked = {
        (WAN, guest(number, family), fleet.address(device, "wan", family), 7000): expected
        for device in DEVICES
        for number, expected in ((BLOCKED, "filtered"), (OTHER, "open"))
    }
    assert fleet.verdicts(asked) == asked


def answers(fleet: Fleet, number: int, family: str, address: str, port: int, times: int) -> int:
    """How many of so many new UDP flows are answered."""
    clients = []
    for _ in range(times):
        client = fleet.places[WAN].socket(kind_of(address), socket.SOCK_DGRAM)
        client.bind((guest(number, family), 0))
        client.connect((address, port))
        clients.append(client)
    for client in clients:
        client.send(b"count me")
    end = time.monotonic() + SILENCE
    count = 0
    for client in clients:
        client.settimeout(max(0.01, end - time.monotonic()))
        try:
            client.recv(64)
            count += 1
        except TimeoutError:
            pass
        client.close()
    return count


@each
@both
def test_a_rate_counts_each_source_by_itself(fleet: Fleet, device: str, family: str) -> None:
    address = fleet.address(device, "wan", family)
    assert answers(fleet, COUNTED, family, address, 7002, 12) == 3, "three an hour, in one burst"
    assert answers(fleet, OTHER, family, address, 7002, 1) == 1, "another source has a count of its own"
    assert answers(fleet, COUNTED, family, address, 7002, 4) == 0, "the first one's is used up"


@each
@both
def test_dropped_packets_are_logged_and_so_are_flows_that_a_rule_wants_logged(
    fleet: Fleet, device: str, family: str
) -> None:
    log = Nflog(fleet.places[device], 5)  # type: ignore[arg-type]
    try:
        address = fleet.address(device, "wan", family)
        assert fleet.verdicts([(WAN, guest(OTHER, family), address, 7001)]).popitem()[1] == "filtered"
        source = socket.inet_pton(kind_of(address), guest(OTHER, family))
        seen: list[tuple[str, bytes]] = []

        def logged() -> bool:
            seen.extend(log.receive())
            return any(prefix.startswith("fwlab drop") and source in packet[:40] for prefix, packet in seen)

        until(logged, f"a log entry of {guest(OTHER, family)}, seen: {[prefix for prefix, _ in seen]}")
    finally:
        log.close()


def forged_ack(fleet: Fleet, address: str, family: str, number: int) -> None:
    """A packet in a guest's name, as if a handshake had come to its end."""
    kind = kind_of(address)
    packet = Packet(
        "inbound",
        family,  # type: ignore[arg-type]
        int.from_bytes(socket.inet_pton(kind, guest(VICTIM, family)), "big"),
        int.from_bytes(socket.inet_pton(kind, address), "big"),
        TCP,
        7547,
        40000 + number,
    )
    with fleet.places[WAN].socket(kind, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(ip_packet(packet, number, flags=ACK), (address, 0))


@contextmanager
def deaf(fleet: Fleet) -> Iterator[None]:
    """The victim hears nothing from traps, as if somebody else had sent the SYN in its name.

    The SYN still comes from a TCP socket: with an IPv6 packet whose checksum was not computed by hardware, the kernel's
    SYN proxy for nftables does nothing at all.
    """
    place = fleet.places[WAN]
    place.run("nft", "-f", "-", stdin=DEAF)
    try:
        yield
    finally:
        place.run("nft", "delete", "table", "inet", "deaf")


DEAF = f"""
table inet deaf {{
	chain input {{
		type filter hook input priority 0; policy accept;
		tcp sport 7547 ip daddr {guest(VICTIM, "ipv4")} drop
		tcp sport 7547 ip6 daddr {guest(VICTIM, "ipv6")} drop
	}}
}}
"""


@each
@both
def test_a_syn_in_somebody_elses_name_bans_nobody(fleet: Fleet, device: str, family: str) -> None:
    address = fleet.address(device, "wan", family)
    everything = 3  # ETH_P_ALL
    with deaf(fleet), fleet.places[WAN].socket(socket.AF_PACKET, socket.SOCK_DGRAM, everything << 8) as heard:
        assert fleet.verdicts([(WAN, guest(VICTIM, family), address, 7547)]).popitem()[1] == "filtered"
        heard.settimeout(0.2)

        def answered() -> bool:
            """The positive control: the trap saw the SYN, since its SYN-ACK came."""
            try:
                packet = heard.recv(200)
            except TimeoutError:
                return False
            segment = packet[20 if family == "ipv4" else 40 :]
            to = socket.inet_pton(kind_of(address), guest(VICTIM, family))
            flags = segment[13] & (SYN | ACK) if len(segment) > 13 else 0
            return to in packet[:40] and segment[:2] == (7547).to_bytes(2, "big") and flags == SYN | ACK

        until(answered, f"an answer of the trap of {device}")
        for number in range(3):
            forged_ack(fleet, address, family, number)
    assert fleet.verdicts([(WAN, guest(VICTIM, family), address, 7000)]).popitem()[1] == "open"
    assert banned_as(VICTIM, family) not in fleet.banned(device)


@each
@both
def test_who_really_calls_a_trap_is_banned_and_his_running_udp_flow_ends(
    fleet: Fleet, device: str, family: str
) -> None:
    address = fleet.address(device, "wan", family)
    udp = fleet.flow(WAN, socket.SOCK_DGRAM, address, 7000, guest(CALLER, family))
    tcp = fleet.flow(WAN, socket.SOCK_STREAM, address, 7000, guest(CALLER, family))
    other = fleet.flow(WAN, socket.SOCK_DGRAM, address, 7000, guest(TALKER, family))
    try:
        assert udp.echoes() and tcp.echoes() and other.echoes()
        fleet.verdicts([(WAN, guest(CALLER, family), address, 7547)])
        banned = banned_as(CALLER, family)
        until(lambda: banned in fleet.banned(device), f"the ban of {banned}")
        assert not udp.echoes(SILENCE), "the banned source's UDP flow goes on"
        assert not tcp.echoes(SILENCE), "the banned source's connection goes on"
        assert other.echoes(), "another source's flow was cut"
        fleet.loader(device, "lift", banned)
        assert udp.echoes(PATIENCE), "a lifted ban still holds"
    finally:
        for flow in (udp, tcp, other):
            flow.close()
