# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""TCP connections to the device that somebody uses all the time, over a cable that the harness leaves alone."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterable

from tests.kernel.device import Device
from tests.kernel.namespace import Namespace

HERE = {socket.AF_INET: "10.78.0.1", socket.AF_INET6: "fd78::1"}
THERE = {socket.AF_INET: "10.78.0.2", socket.AF_INET6: "fd78::2"}
_CHUNK = 2048
_STALLED_SECONDS = 20


class Streams:
    """One connection to each port in each family, opened now; each sends a numbered piece and waits for its echo."""

    def __init__(self, device: Device, ports: Iterable[int]) -> None:
        self.echoed: dict[str, int] = {}
        self.broken: list[str] = []
        self._stop = threading.Event()
        self._far = Namespace(f"sps{os.getpid()}")
        self._device = device
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        try:
            self._plug_in()
            for family in HERE:
                for port in ports:
                    self._open(family, port)
        except BaseException:
            self.close()
            raise
        for thread in self._threads:
            thread.start()

    def _plug_in(self) -> None:
        inside = self._device.inside
        inside.run("ip", "link", "add", "quiet0", "type", "veth", "peer", "eth0", "netns", self._far.name)
        for space, name, at in ((inside, "quiet0", HERE), (self._far, "eth0", THERE)):
            space.run("ip", "address", "add", f"{at[socket.AF_INET]}/24", "dev", name)
            space.run("ip", "address", "add", f"{at[socket.AF_INET6]}/64", "dev", name, "nodad")
            space.run("ip", "link", "set", name, "up")

    def _open(self, family: socket.AddressFamily, port: int) -> None:
        name = f"{'IPv4' if family is socket.AF_INET else 'IPv6'} port {port}"
        listening = self._device.inside.socket(family, socket.SOCK_STREAM)
        listening.bind((HERE[family], port))
        listening.listen(1)
        asking = self._far.socket(family, socket.SOCK_STREAM)
        self._sockets += [listening, asking]
        for one in (listening, asking):
            one.settimeout(_STALLED_SECONDS)
        asking.connect((HERE[family], port))
        answering, _ = listening.accept()
        answering.settimeout(_STALLED_SECONDS)
        self._sockets.append(answering)
        self.echoed[name] = 0
        self._threads += [
            threading.Thread(target=self._answer, args=(answering,), daemon=True),
            threading.Thread(target=self._ask, args=(name, asking), daemon=True),
        ]

    def _answer(self, connection: socket.socket) -> None:
        try:
            while piece := connection.recv(65536):
                connection.sendall(piece)
        except OSError:
            pass  # the other end tells what happened

    def _ask(self, name: str, connection: socket.socket) -> None:
        try:
            while not self._stop.is_set():
                piece = self.echoed[name].to_bytes(8, "big") * (_CHUNK // 8)
                connection.sendall(piece)
                back = b""
                while len(back) < len(piece):
                    part = connection.recv(65536)
                    if not part:
                        raise ConnectionError("the device closed it")
                    back += part
                if back != piece:
                    raise ConnectionError(f"sent {piece[:8]!r}, came back {back[:8]!r}")
                self.echoed[name] += 1
                time.sleep(0.002)  # leave the processor to whoever swaps
            connection.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.broken.append(f"{name}, after {self.echoed[name]} pieces: {error!r}")

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            if thread.ident:
                thread.join()
        for one in self._sockets:
            one.close()
        self._far.close()
