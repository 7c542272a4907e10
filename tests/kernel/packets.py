# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Packets as bytes, from what the judge calls a packet. Every one carries a number that is read back."""

from __future__ import annotations

import struct

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.judge import (
    ICMP,
    ICMPV6,
    SCTP,
    TCP,
    UDP,
    Packet,
)

FIN, SYN, RST, ACK = 1, 2, 4, 16


def ip_packet(
    packet: Packet,
    number: int,
    flags: int = SYN,
    destination: int | None = None,
    port: int | None = None,
    spoil: bool = False,
    hop_by_hop: bool = False,
    body: bytes = b"sallyport",
    payload: bytes = b"",
) -> bytes:
    """The IP packet. ``destination`` and ``port`` are those on the wire, where a translation follows;
    ``spoil`` breaks the transport checksum; ``hop_by_hop`` puts extension headers before the transport; ``payload``
    is what a TCP segment carries."""
    to = packet.destination if destination is None else destination
    port = packet.port if port is None else port
    size = 4 if packet.family == "ipv4" else 16
    source_bytes, to_bytes = packet.source.to_bytes(size, "big"), to.to_bytes(size, "big")

    def checksum(data: bytes) -> int:
        if packet.family == "ipv4":
            pseudo = source_bytes + to_bytes + struct.pack(">BBH", 0, packet.protocol, len(data))
        else:
            pseudo = source_bytes + to_bytes + struct.pack(">II", len(data), packet.protocol)
        return internet_checksum(pseudo + data)

    if packet.protocol == TCP:
        data = (
            struct.pack(">HHIIBBHHH", packet.source_port, port, number, 0, 0x50, flags, 8192, 0, 0) + payload
        )
        data = _place(data, 16, checksum(data), spoil)
    elif packet.protocol == UDP:
        data = struct.pack(">HHHH", packet.source_port, port, 8 + len(body), 0) + body
        data = _place(data, 6, checksum(data), spoil)
    elif packet.protocol == SCTP:
        init = struct.pack(">BBHIIHHI", 1, 0, 20, number or 1, 65535, 1, 1, number)
        data = struct.pack(">HHII", packet.source_port, port, 0, 0) + init
        data = data[:8] + struct.pack("<I", crc32c(data) ^ spoil) + data[12:]
    elif packet.protocol in (ICMP, ICMPV6):
        data = struct.pack(">BBHHH", port, 0, 0, number & 0xFFFF, 1) + body.ljust(32, b"\0")
        value = checksum(data) if packet.protocol == ICMPV6 else internet_checksum(data)
        data = _place(data, 2, value, spoil)
    else:
        data = struct.pack(">II", 0, number) + body
    if packet.family == "ipv4":
        header = struct.pack(
            ">BBHHHBBH", 0x45, 0, 20 + len(data), number, 0, packet.hop_limit, packet.protocol, 0
        )
        header += source_bytes + to_bytes
        return _place(header, 10, internet_checksum(header), False) + data
    following = packet.protocol
    if hop_by_hop:
        # Hop-by-hop options, then destination options, both padding only.
        data = struct.pack(">BBBBI", 60, 0, 1, 4, 0) + struct.pack(">BBBBI", following, 0, 1, 4, 0) + data
        following = 0
    header = struct.pack(">IHBB", 6 << 28 | number, len(data), following, packet.hop_limit)
    return header + source_bytes + to_bytes + data


def fragments(whole: bytes, first: int) -> list[bytes]:
    """``whole`` in two fragments, the first with ``first`` bytes (a multiple of 8) of payload."""
    if whole[0] >> 4 == 4:
        pieces = []
        for offset, more, data in ((0, 1, whole[20 : 20 + first]), (first, 0, whole[20 + first :])):
            header = whole[:2] + struct.pack(">H", 20 + len(data)) + whole[4:6]
            header += struct.pack(">H", more << 13 | offset // 8) + whole[8:10] + b"\0\0" + whole[12:20]
            pieces.append(_place(header, 10, internet_checksum(header), False) + data)
        return pieces
    number = struct.unpack(">I", whole[:4])[0] & 0xFFFFF
    pieces = []
    for offset, more, data in ((0, 1, whole[40 : 40 + first]), (first, 0, whole[40 + first :])):
        extension = struct.pack(">BBHI", whole[6], 0, offset | more, number)
        pieces.append(whole[:4] + struct.pack(">HB", 8 + len(data), 44) + whole[7:40] + extension + data)
    return pieces


def number_of(ip: bytes) -> int:
    """The number that ``ip_packet`` was given."""
    if ip[0] >> 4 == 4:
        return int.from_bytes(ip[4:6], "big")
    return int.from_bytes(ip[:4], "big") & 0xFFFFF


def source_of(ip: bytes) -> bytes:
    """The source address on the wire."""
    return ip[12:16] if ip[0] >> 4 == 4 else ip[8:24]


def internet_checksum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _place(data: bytes, at: int, value: int, spoil: bool) -> bytes:
    return data[:at] + struct.pack(">H", (value ^ 0x5555) if spoil else value) + data[at + 2 :]


def _crc_table() -> list[int]:
    table = []
    for index in range(256):
        value = index
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC = _crc_table()


def crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value = _CRC[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF
