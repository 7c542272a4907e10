# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""A device made of one loop-mounted ext4 and one shell, in namespaces of its own, for crashes by the hundred.

Its root file system is the image, so the device program's paths, flushes and renames are those of a real device. The
tools come from the machine (dash and coreutils) or from BusyBox alone. Everything here runs as root in a process that
:func:`isolate` has given mounts and process numbers of its own: when that process ends, all of it is gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.device import commit
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import (
    ExchangeError,
    Reply,
    frame,
    parse,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.transaction import Transaction

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="crash points need root: loop mounts and namespaces"
)
SHELLS = ("dash", "ash")
MEDIA = {"default": "", "writeback": "noauto_da_alloc,data=writeback"}
STATE = "/var/lib/sallyport"
PATH = "/run/brisk:/usr/sbin:/usr/bin:/sbin:/bin"
_IMAGE_KB = 6144
_NEWNS, _NEWPID, _NEWNET = 0x00020000, 0x20000000, 0x40000000


def isolate() -> None:
    """Give this process its own mounts, and a network without connections: the device program counts those."""
    _call("unshare", _NEWNS | _NEWNET)
    _run("mount", "--make-rprivate", "/")


def _call(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        raise OSError(ctypes.get_errno(), f"{name}: fault tests need root and namespaces")


def _children_in(number_space: str) -> None:
    """Children of this process get their numbers in its own space again, or in a new one."""
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _call("setns", own, _NEWPID)
    finally:
        os.close(own)
    if number_space == "new":
        _call("unshare", _NEWPID)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def make_tools(folder: Path) -> None:
    """A /usr that holds BusyBox and nothing else, and beside it the sleep of all chambers."""
    for name in ("bin", "sbin", "lib", "lib64"):
        (folder / name).mkdir(parents=True)
    busybox = shutil.which("busybox")
    if not busybox:
        raise RuntimeError("busybox is missing: scripts/setup.sh installs it")
    shutil.copy(busybox, folder / "bin" / "busybox")
    linked = subprocess.run(["ldd", busybox], capture_output=True, text=True, check=False).stdout
    for word in linked.split():
        if word.startswith("/"):
            real = Path(word)
            place = folder / real.relative_to("/usr" if word.startswith("/usr") else "/")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(real, place)
    source = Path(__file__).with_name("brisk_sleep.c")
    _run("gcc", "-O1", "-Wall", "-Werror", "-static", "-o", str(folder / "brisk_sleep"), str(source))
    for applet in subprocess.run(
        [busybox, "--list"], capture_output=True, text=True, check=True
    ).stdout.split():
        if not (folder / "bin" / applet).exists():
            (folder / "bin" / applet).symlink_to("busybox")


def make_image(path: Path, factory: dict[str, tuple[str, int, int]]) -> None:
    """An ext4 image with a root file system's folders and ``factory``: path -> (content or "-> target", mode, owner)."""
    path.touch()
    os.truncate(path, _IMAGE_KB * 1024)
    _run("mkfs.ext4", "-q", "-b", "1024", "-J", "size=1", "-m", "0", "-N", "512", str(path))
    root = path.with_suffix(".mnt")
    root.mkdir()
    _run("mount", "-o", "loop", str(path), str(root))
    try:
        for name in ("etc", "usr", "proc", "dev", "run", "tmp", "var/lib", "root"):
            (root / name).mkdir(parents=True)
        for name in ("bin", "sbin", "lib", "lib64"):
            (root / name).symlink_to(f"usr/{name}")
        for name, (content, mode, owner) in factory.items():
            place = root / name.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            if content.startswith("-> "):
                place.symlink_to(content[3:])
                continue
            place.write_text(content)
            place.chmod(mode)
            os.chown(place, owner, owner)
    finally:
        _run("umount", str(root))
        root.rmdir()


def check_image(path: Path) -> str:
    """Replay the journal and check the file system; what could not be put right, or nothing."""
    done = subprocess.run(["fsck.ext4", "-p", "-f", str(path)], capture_output=True, text=True, check=False)
    return "" if done.returncode < 4 else f"fsck says {done.returncode}: {done.stdout} {done.stderr}"


class Chamber:
    """One device that runs. ``root`` is its root folder as this process sees it."""

    def __init__(self, image: Path, shell: str, medium: str, tools: Path, root: Path) -> None:
        self.root = root
        options = ["loop", "commit=300", *([MEDIA[medium]] if MEDIA[medium] else [])]
        root.mkdir(exist_ok=True)
        _run("mount", "-o", ",".join(options), str(image), str(root))
        _run("mount", "--bind", str(tools) if shell == "ash" else "/usr", f"{root}/usr")
        _run("mount", "--bind", "/dev", f"{root}/dev")
        _run("mount", "-t", "tmpfs", "tmpfs", f"{root}/run")
        _run("mount", "-t", "tmpfs", "tmpfs", f"{root}/tmp")
        (root / "run/brisk").mkdir()
        shutil.copy(tools / "brisk_sleep", root / "run/brisk/sleep")
        # Process 1 of these namespaces is a BusyBox, as the controller's question about the init system expects.
        command = ["chroot", str(root), "/bin/busybox", "sleep", "3600"]
        _children_in("new")
        self._init = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        _run("mount", "-t", "proc", "proc", f"{root}/proc")
        if not wait_until(lambda: os.readlink(f"{root}/proc/1/exe").endswith("busybox")):
            raise RuntimeError("process 1 of the device did not start")

    def sh(self, script: str, *arguments: str, check: bool = True, **environment: str) -> str:
        """Run a script on the device; its output."""
        done = subprocess.run(
            ["chroot", str(self.root), "/bin/sh", "-c", script, "sh", *arguments],
            capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=60,
            env={"PATH": PATH, **environment},
        )  # fmt: skip
        if check and done.returncode:
            raise RuntimeError(f"{script}: status {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def snapshot(self) -> dict[str, tuple[str, ...]]:
        """Everything below /etc: path -> (kind, mode, owner, content or target); without Sallyport's boot line."""
        found: dict[str, tuple[str, ...]] = {}
        for folder, folders, files in os.walk(self.root / "etc"):
            for name in (*folders, *files):
                path = Path(folder, name)
                status = path.lstat()
                key = "/" + str(path.relative_to(self.root))
                owner = f"{status.st_uid}:{status.st_gid}"
                if stat.S_ISLNK(status.st_mode):
                    found[key] = ("link", os.readlink(path))
                elif stat.S_ISDIR(status.st_mode):
                    found[key] = ("folder", f"{status.st_mode & 0o7777:04o}", owner)
                else:
                    text = path.read_text(errors="replace")
                    if key == "/etc/inittab":
                        text = text.removeprefix(f"::sysinit:/bin/sh {STATE}/device boot\n")
                    found[key] = ("file", f"{status.st_mode & 0o7777:04o}", owner, text)
        return found

    def leftovers(self) -> list[str]:
        """What must not be there once no change is pending."""
        found = [str(path) for path in (self.root / "etc").rglob(".sallyport-*")]
        state = self.root / STATE.lstrip("/")
        allowed = {"device", "generation", "live", "reverted"}
        found += [str(path) for path in state.glob("*") if path.name not in allowed]
        found += [str(path) for path in state.glob("generation/*/new")]
        return [name.removeprefix(str(self.root)) for name in found]

    def traces(self) -> list[str]:
        """What must not be there after the way back to factory: anything of Sallyport's."""
        state = self.root / STATE.lstrip("/")
        found = [*self.leftovers(), *(str(path) for path in state.parent.glob(f"{state.name}*"))]
        return found + (
            ["/etc/inittab: the boot line"] if STATE in (self.root / "etc/inittab").read_text() else []
        )

    def pending(self) -> bool:
        return (self.root / STATE.lstrip("/") / "armed").exists()

    def boot(self) -> bool:
        """What BusyBox init does first: Sallyport's boot line, if this device's inittab has it; whether it has."""
        line = (self.root / "etc/inittab").read_text().split("\n")[0]
        if not line.startswith("::sysinit:/bin/sh "):
            return False
        self.sh(line.removeprefix("::sysinit:"))
        return True

    def commit(
        self, transaction: Transaction, *, check_mode: bool = False, exchange: ChamberExchange | None = None,
        **more: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """A whole run of the real controller code."""
        action = SimpleNamespace(
            _task=SimpleNamespace(check_mode=check_mode, diff=False, delegate_to=None),
            _connection=SimpleNamespace(transport="ssh"),
        )
        return commit.run(
            action,
            {"inventory_hostname": "chamber"},
            transaction,
            exchange=exchange or ChamberExchange(self),
            **more,
        )

    def close(self) -> None:
        self._init.kill()  # process 1: takes every other process of the device with it
        self._init.wait()
        _children_in("own")
        for name in (
            "proc",
            "tmp",
            "run",
            "dev",
            "usr",
            "etc/one",
            "var/lib",
            "",
        ):  # the last but one only in some tests
            subprocess.run(["umount", "-l", f"{self.root}/{name}"], capture_output=True, check=False)


class ChamberExchange:
    """The part of Exchange that commit uses, over chroot in place of ssh; each connection has a port of its own."""

    transport = "ssh"

    def __init__(self, chamber: Chamber) -> None:
        self.chamber = chamber
        self.count = 0
        self._port = 40000

    def run(self, program: bytes | str) -> Reply:
        nonce = secrets.token_hex(12)
        self.count += 1
        done = subprocess.run(
            ["chroot", str(self.chamber.root), "/bin/sh"],
            input=frame(program, nonce), capture_output=True, check=False, timeout=60,
            env={"PATH": PATH, "SSH_CONNECTION": f"10.0.0.1 {self._port} 10.0.0.2 22"},
        )  # fmt: skip
        parsed = parse(done.stdout.decode("utf-8", "surrogateescape"), nonce)
        if parsed is None:
            raise ExchangeError(f"no whole reply: {done.stdout!r} {done.stderr!r}")
        return Reply(tuple(parsed[0]), parsed[1], done.stderr.decode(errors="replace"))

    def ask(self, program: bytes | str) -> Reply:
        return self.run(program)

    def forget_connection(self) -> None:
        pass  # none is shared

    @contextlib.contextmanager
    def as_new_connection(self, known_hosts: str = "", timeout: int = 0) -> Iterator[None]:
        del known_hosts, timeout
        before = self._port
        self._port += 1 + self.count
        try:
            yield
        finally:
            self._port = before


class Replayed(ChamberExchange):
    """First what was heard before, then what the device says now."""

    def __init__(self, chamber: Chamber, heard: Sequence[Reply]) -> None:
        super().__init__(chamber)
        self._heard = list(heard)

    def run(self, program: bytes | str) -> Reply:
        return self._heard.pop(0) if self._heard else super().run(program)


def wait_until(condition: Any, seconds: float = 30.0) -> bool:
    """Poll until ``condition()`` holds; whether it did in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
