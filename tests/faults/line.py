# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""A controller at the end of a bad line: in a network of its own, whose one cable to the lab this process carries.

Every frame passes through here, so the line loses, delays, chokes or ends as it is told, the same on every kernel
(netem is missing from some). What lies at either end is the kernel's own: real TCP, with its real timers.
"""

from __future__ import annotations

import array
import fcntl
import heapq
import os
import random
import selectors
import socket
import struct
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import Any

from lab.fleet import addresses, subnets
from lab.labs import Lab
from tests.kernel.namespace import Namespace, run

_ALL_FRAMES = 3
_OUTGOING = 4
_SIOCETHTOOL = 0x8946
# Checksums, scatter-gather, TCP and generic segmentation: a frame is to be here what it would be on a wire.
_OFFLOADS = (0x17, 0x19, 0x1F, 0x24)
_QUEUE_SECONDS = 4.0
"""What waits longer than this before a narrow line is dropped, as a modem does."""


@dataclass(frozen=True)
class Weather:
    """What the line does to each frame, in both directions."""

    loss: float = 0.0
    """The share that gets lost."""
    delay: float = 0.0
    """Seconds on the way, in each direction."""
    rate: int = 0
    """Bits a second, in each direction; 0 for no limit."""
    down: bool = False


class Line:
    """A controller whose network is ``controller``, with the address of host ``number`` on the lab's lan."""

    def __init__(self, lab: Lab, number: int) -> None:
        self.lab = lab
        self.weather = Weather()
        self.begin()
        self._random = random.Random(20)
        self._stop, self._stopped = os.pipe()
        tag = f"spl{os.getpid()}"
        self._port = f"{tag}p"
        self.controller = Namespace(f"{tag}c")
        self._middle = Namespace(f"{tag}m")
        try:
            self._build(number)
        except BaseException:
            self._remove()
            raise
        self._carrier = threading.Thread(target=self._carry, daemon=True)
        self._carrier.start()

    def _build(self, number: int) -> None:
        middle = self._middle
        middle.sysctl(net__ipv6__conf__default__disable_ipv6=1)
        self.controller.sysctl(net__ipv6__conf__default__accept_dad=0)
        run("ip", "link", "add", self._port, "type", "veth", "peer", "far", "netns", middle.name)
        middle.run("ip", "link", "add", "near", "type", "veth", "peer", "eth0", "netns", self.controller.name)
        with open(f"/proc/sys/net/ipv6/conf/{self._port}/disable_ipv6", "w", encoding="ascii") as file:
            file.write("1")
        _no_offloads(self._port)
        with self.controller.entered():
            _no_offloads("eth0")
        run("ip", "link", "set", self._port, "master", self.lab.bridge("lan"), "up")
        for name in ("near", "far"):
            middle.run("ip", "link", "set", name, "up")
        self.controller.run("ip", "link", "set", "lo", "up")
        self.controller.run("ip", "link", "set", "eth0", "up")
        self._ends = [middle.socket(socket.AF_PACKET, socket.SOCK_RAW) for _ in range(2)]
        for end, name in zip(self._ends, ("near", "far"), strict=True):
            end.bind((name, _ALL_FRAMES))
            end.setblocking(False)
        self.move(number)

    def move(self, number: int) -> None:
        """Give the controller the address of another host, and take away the one it had."""
        self.injected.append(f"the controller is host {number}")
        self.controller.run("ip", "address", "flush", "dev", "eth0")
        slot = self.lab.slot()
        for address, subnet in zip(addresses("lan", slot, number), subnets("lan", slot), strict=True):
            cidr = f"{address}/{subnet.partition('/')[2]}"
            self.controller.run(
                "ip", "address", "add", cidr, "dev", "eth0", *(["nodad"] if ":" in cidr else [])
            )

    def begin(self) -> None:
        """Count from here on."""
        self.carried = self.octets = self.lost = 0
        self.injected: list[str] = []

    def spoil(self, **weather: Any) -> None:
        """From now on the line is like this; with nothing, a good one."""
        self.weather = Weather(**weather)
        if weather:
            self.injected.append(", ".join(f"{key} {value}" for key, value in weather.items()))

    def told(self) -> str:
        """What was injected, for who reads a failure."""
        counts = f"{self.carried} frames ({self.octets} bytes) carried, {self.lost} lost"
        return f"{counts}, injected: {'; then '.join(self.injected) or 'nothing by the line'}"

    def close(self) -> None:
        os.write(self._stopped, b"x")
        self._carrier.join()
        for end in self._ends:
            end.close()
        self._remove()

    def _remove(self) -> None:
        subprocess.run(["ip", "link", "del", self._port], check=False, capture_output=True)
        self.controller.close()
        self._middle.close()
        os.close(self._stop)
        os.close(self._stopped)

    def _carry(self) -> None:
        """Until told to stop: take each frame at one end, and put it to the other when its time has come."""
        on_the_way: list[tuple[float, int, int, bytes]] = []
        free = [0.0, 0.0]  # when each direction has sent what it has
        waiting = selectors.DefaultSelector()
        for way, end in enumerate(self._ends):
            waiting.register(end, selectors.EVENT_READ, way)
        waiting.register(self._stop, selectors.EVENT_READ, None)
        count = 0
        while True:
            pause = max(0.0, on_the_way[0][0] - time.monotonic()) if on_the_way else None
            for key, _ in waiting.select(pause):
                if key.data is None:
                    return
                for frame in _received(self._ends[key.data]):
                    now = time.monotonic()
                    weather = self.weather
                    began = max(now, free[key.data])
                    if (
                        weather.down
                        or self._random.random() < weather.loss
                        or (weather.rate and began - now > _QUEUE_SECONDS)
                    ):
                        self.lost += 1
                        continue
                    if weather.rate:
                        began += len(frame) * 8 / weather.rate
                        free[key.data] = began
                    count += 1  # of two frames with one time the first comes first
                    heapq.heappush(on_the_way, (began + weather.delay, count, 1 - key.data, frame))
            now = time.monotonic()
            while on_the_way and on_the_way[0][0] <= now:
                _, _, way, frame = heapq.heappop(on_the_way)
                self._send(way, frame)

    def _send(self, way: int, frame: bytes) -> None:
        if self.weather.down:
            self.lost += 1
            return
        try:
            self._ends[way].send(frame)
            self.carried += 1
            self.octets += len(frame)
        except OSError:  # the device's side went away, or has no room
            self.lost += 1


def _received(end: socket.socket) -> list[bytes]:
    """All frames that have arrived at one end, without those that were put on it here."""
    frames = []
    while True:
        try:
            frame, where = end.recvfrom(65536)
        except OSError:
            return frames
        if where[2] != _OUTGOING:
            frames.append(frame)


def _no_offloads(interface: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for what in _OFFLOADS:
            value = array.array("B", struct.pack("II", what, 0))
            request = struct.pack("16sP", interface.encode(), value.buffer_info()[0])
            fcntl.ioctl(control, _SIOCETHTOOL, request)
