# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Network namespaces of one test run, and sockets inside them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000


class Namespace:
    """One named network namespace; ``close`` removes it and everything in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        run("ip", "netns", "add", name)

    def close(self) -> None:
        subprocess.run(("ip", "netns", "del", self.name), check=False, capture_output=True)

    def run(self, *command: str, stdin: str = "") -> str:
        """Run a command inside; its output, or an AssertionError that shows what it said."""
        return run("ip", "netns", "exec", self.name, *command, stdin=stdin)

    def processes(self, name: str) -> list[int]:
        """The processes inside that run a program of this name."""
        found = []
        for word in run("ip", "netns", "pids", self.name).split():
            with contextlib.suppress(OSError), open(f"/proc/{word}/comm", encoding="utf-8") as file:
                if file.read().strip() == name:
                    found.append(int(word))
        return found

    def sysctl(self, **values: int | str) -> None:
        with self.entered():
            for key, value in values.items():
                with open("/proc/sys/" + key.replace("__", "/"), "w", encoding="ascii") as file:
                    file.write(str(value))

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This thread, inside. Sockets opened here stay here."""
        with open("/proc/thread-self/ns/net", "rb") as home, open(f"/run/netns/{self.name}", "rb") as there:
            _setns(there.fileno())
            try:
                yield
            finally:
                _setns(home.fileno())

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        with self.entered():
            return socket.socket(family, kind, protocol)


def run(*command: str, stdin: str = "") -> str:
    done = subprocess.run(command, input=stdin, text=True, capture_output=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def _setns(descriptor: int) -> None:
    if _LIBC.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "setns")
