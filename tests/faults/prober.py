# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Somebody on wan who knocks at a device's ports all the time, from before its link comes up, and notes each answer.

He lives in a network of his own, whose kernel answers the device's questions for his address. What he sends is put on
the wire as it is, to the device's fixed link address: nothing waits for an answer, and no neighbour's cache is stale.
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
import threading
from collections import Counter
from ipaddress import ip_address

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.judge import TCP, UDP, Packet

from lab.fleet import addresses, mac, subnets
from lab.labs import Lab
from tests.kernel.namespace import Namespace, run
from tests.kernel.packets import ip_packet

TCP_PORTS = (21, 22, 23, 80, 161, 443, 502, 1883, 5000, 8080, 31337, 65535)
UDP_PORTS = (53, 69, 161, 1900, 5353, 65535)
_ALL_FRAMES = 3
_OUTGOING = 4
_PAUSE = 0.01


class Prober:
    """Host ``own`` of wan, which knocks at one device while this is used as a context."""

    def __init__(self, lab: Lab, device: str, own: int) -> None:
        self.sent = 0
        self.answers: Counter[tuple[str, str, int]] = Counter()
        """How often a port answered: (family, protocol, port)."""
        slot, number = lab.slot(), lab.fleet.devices[device].number
        self._ours = bytes.fromhex(mac("wan", slot, own).replace(":", ""))
        self._theirs = bytes.fromhex(mac("wan", slot, number).replace(":", ""))
        self._device = addresses("wan", slot, number)
        self._own = addresses("wan", slot, own)
        tag = f"spb{os.getpid()}n{own}"
        self._space = Namespace(tag)
        self._stop = threading.Event()
        try:
            run("ip", "link", "add", tag, "type", "veth", "peer", "eth0", "netns", self._space.name)
            run("ip", "link", "set", tag, "master", lab.bridge("wan"), "up")
            self._space.run("ip", "link", "set", "eth0", "address", self._ours.hex(":"), "up")
            for address, subnet in zip(self._own, subnets("wan", slot), strict=True):
                cidr = f"{address}/{subnet.partition('/')[2]}"
                nodad = ["nodad"] if ":" in cidr else []
                self._space.run("ip", "address", "add", cidr, "dev", "eth0", *nodad)
            self._wire = self._space.socket(socket.AF_PACKET, socket.SOCK_RAW)
        except BaseException:
            self._space.close()
            raise
        self._wire.bind(("eth0", _ALL_FRAMES))
        self._wire.settimeout(_PAUSE)
        self._threads = [threading.Thread(target=one, daemon=True) for one in (self._knock, self._listen)]

    def __enter__(self) -> Prober:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._wire.close()
        self._space.close()

    def answered(self, *but: int) -> dict[tuple[str, str, int], int]:
        """What answered, without these TCP ports."""
        return {key: count for key, count in self.answers.items() if key[1] != "tcp" or key[2] not in but}

    def _knock(self) -> None:
        """Every port of both families, again and again, each time from another port of his own."""
        for number in itertools.count(1):
            if self._stop.wait(_PAUSE):
                return
            for family, own, device, kind in zip(
                ("ipv4", "ipv6"), self._own, self._device, (b"\x08\x00", b"\x86\xdd"), strict=True
            ):
                for protocol, port in (
                    *((TCP, port) for port in TCP_PORTS),
                    *((UDP, port) for port in UDP_PORTS),
                ):
                    packet = Packet(
                        "inbound",
                        family,  # type: ignore[arg-type]
                        int(ip_address(own)),
                        int(ip_address(device)),
                        protocol,
                        port,
                        20000 + number % 40000,
                    )
                    try:
                        self._wire.send(
                            self._theirs + self._ours + kind + ip_packet(packet, number % 65535 + 1)
                        )
                    except OSError:
                        continue  # the bridge has no way to the device at the moment
                    self.sent += 1

    def _listen(self) -> None:
        while not self._stop.is_set():
            try:
                frame, where = self._wire.recvfrom(2048)
            except TimeoutError:
                continue
            # What the device says of itself to everybody is no answer.
            if where[2] != _OUTGOING and frame[:12] == self._ours + self._theirs:
                self._note(frame[12:14], frame[14:])

    def _note(self, kind: bytes, ip: bytes) -> None:
        if kind == b"\x08\x00":
            family, protocol, body = "IPv4", ip[9], ip[(ip[0] & 15) * 4 :]
            refused, quoted = protocol == 1 and body[:1] == b"\x03", body[8:]
            header = (quoted[0] & 15) * 4 if refused and quoted else 0
            inner = quoted[9:10]
        elif kind == b"\x86\xdd":
            family, protocol, body = "IPv6", ip[6], ip[40:]
            refused, quoted = protocol == 58 and body[:1] == b"\x01", body[8:]
            header, inner = 40, quoted[6:7]
        else:
            return
        if refused and len(quoted) >= header + 4:  # "nobody listens here" tells as much as an answer
            name = {b"\x06": "tcp", b"\x11": "udp"}.get(inner, "other")
            self.answers[family, name, struct.unpack_from(">H", quoted, header + 2)[0]] += 1
        elif protocol in (TCP, UDP):
            name = "tcp" if protocol == TCP else "udp"
            self.answers[family, name, struct.unpack_from(">H", body)[0]] += 1
