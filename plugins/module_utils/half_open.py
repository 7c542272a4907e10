# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Ask ports known to be open, over and over, and count the answers that do not come.

Each probe is one SYN; the kernel answers the SYN-ACK with a reset by itself, since no socket asked for it. So no
daemon on the device accepts, counts or punishes anything. Needs raw sockets.
"""

from __future__ import annotations

import ctypes
import random
import socket
import struct
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SYN, ACK = 0x02, 0x10
SO_ATTACH_FILTER = 26
LATE = 1.0
"""Seconds after which an answer counts as lost, as for TCP's own first retransmission."""


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def syn(source: str, target: str, source_port: int, port: int, sequence: int) -> bytes:
    """One TCP segment that asks for a connection."""
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    ends = socket.inet_pton(family, source) + socket.inet_pton(family, target)
    length_and_protocol = struct.pack("!IHBB", 20, 0, 0, socket.IPPROTO_TCP)

    def segment(total: int) -> bytes:
        return struct.pack("!HHIIBBHHH", source_port, port, sequence, 0, 5 << 4, SYN, 64240, total, 0)

    return segment(checksum(ends + length_and_protocol + segment(0)))


def only_to_port(raw: socket.socket, port: int, family: int) -> None:
    """Let the kernel drop everything else: beside a full scan, tens of thousands of answers a second pass by."""
    load, load_after_header, take_header_length, jump_equal, give = 0x28, 0x48, 0xB1, 0x15, 0x06
    # An IPv4 raw socket sees the IP header before the segment, an IPv6 one does not.
    ipv4 = family == socket.AF_INET
    program = [(take_header_length, 0, 0, 0), (load_after_header, 0, 0, 2)] if ipv4 else [(load, 0, 0, 2)]
    program += [(jump_equal, 0, 1, port), (give, 0, 0, 0xFFFF), (give, 0, 0, 0)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    raw.setsockopt(
        socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(program), ctypes.addressof(code))
    )


def count_lost(
    source: str, target: str, ports: list[int], interval: float, over: Callable[[], bool]
) -> tuple[int, int]:
    """Probe ``ports`` in turn every ``interval`` seconds until ``over``. Returns how many probes were sent and lost.

    Raises PermissionError without raw sockets.
    """
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    own_port = random.randrange(20000, 32000)  # below Linux's ephemeral ports: no socket of this host uses it
    waiting: dict[int, float] = {}
    sent = lost = 0
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
        only_to_port(raw, own_port, family)
        following = time.monotonic()
        while not over() or waiting:
            now = time.monotonic()
            if now >= following and not over():
                sequence = random.getrandbits(32)
                raw.sendto(syn(source, target, own_port, ports[sent % len(ports)], sequence), (target, 0))
                waiting[(sequence + 1) & 0xFFFFFFFF] = now
                sent += 1
                following = now + interval
            raw.settimeout(max(0.01, min(following, now + interval) - now))
            try:
                data = raw.recv(256)
            except socket.timeout:  # noqa: UP041  (Python 3.9: not yet an alias of TimeoutError)
                data = b""
            if data:
                header = 4 * (data[0] & 15) if family == socket.AF_INET else 0
                acknowledged, flags = struct.unpack_from("!I", data, header + 8)[0], data[header + 13]
                if flags & (SYN | ACK) == SYN | ACK:
                    waiting.pop(acknowledged, None)
            for late in [ack for ack, when in waiting.items() if time.monotonic() - when > LATE]:
                del waiting[late]
                lost += 1
    return sent, lost
