# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Receives what nft rules with ``log group N`` copy to us: (prefix, packet from its IP header on)."""

from __future__ import annotations

import socket
import struct

from tests.kernel.namespace import Namespace

_NETLINK_NETFILTER = 12
_ULOG = 4
_SO_RCVBUFFORCE = 33
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")


class Nflog:
    def __init__(self, namespace: Namespace, group: int) -> None:
        self._socket = namespace.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 << 20)
        self._socket.bind((0, 0))
        # Command "bind to this group", then: copy 120 bytes, hand over every packet at once.
        self._configure(group, 1, struct.pack("=B", 1))
        self._configure(group, 2, struct.pack(">IBx", 120, 2))
        self._configure(group, 5, struct.pack(">I", 1))
        self._socket.settimeout(5)

    def _configure(self, group: int, kind: int, value: bytes) -> None:
        attribute = _ATTRIBUTE.pack(4 + len(value), kind) + value
        attribute += b"\0" * (-len(attribute) % 4)
        body = struct.pack(">BBH", 0, 0, group) + attribute
        self._socket.send(_HEADER.pack(16 + len(body), _ULOG << 8 | 1, 1 | 4, 1, 0) + body)
        answer = self._socket.recv(65536)
        error = struct.unpack_from("=i", answer, 16)[0]
        assert error == 0, f"NFLOG refused setting {kind}: {error}"

    def receive(self) -> list[tuple[str, bytes]]:
        """What one datagram brings; waits for it, and raises TimeoutError when nothing comes."""
        data = self._socket.recv(1 << 17)
        found = []
        offset = 0
        while offset + 16 <= len(data):
            length, kind = _HEADER.unpack_from(data, offset)[:2]
            if kind == _ULOG << 8:
                found.append(_packet(data[offset + 20 : offset + length]))
            offset += length + 3 & ~3
        return found

    def close(self) -> None:
        self._socket.close()


def _packet(data: bytes) -> tuple[str, bytes]:
    prefix, payload = "", b""
    offset = 0
    while offset + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        value = data[offset + 4 : offset + length]
        if kind == 9:
            payload = value
        elif kind == 10:
            prefix = value.rstrip(b"\0").decode()
        offset += length + 3 & ~3
    return prefix, payload
