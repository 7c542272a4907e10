"""The SSH session dies at every byte of what a commit sends: the shell on the device executes nothing at all."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import subprocess
from collections.abc import Sequence

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.device import payload
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import frame
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.transaction import File, Transaction

from tests.faults.chamber import isolate
from tests.faults.counted import COUNTED
from tests.faults.on_devices import Devices

_NONCE = "c" * 24
_IDENTITY = "0123456789abcdef"
_CHANGE = Transaction(
    "trial",
    (
        File(
            "/etc/trial", content=b"plain lines\n$(touch ran)\n'one' \"two\" `three`\n\0\xff and no newline"
        ),
        File("/etc/trial 'two'", kind="link", target="$(id)"),
    ),
    check=("touch ran",),
    activate=("touch ran", "echo 'END' && true\n"),
    verify=("touch ran",),
    live=("cat /etc/trial",),
)
PAYLOADS = {
    "query": payload.query(_CHANGE, [0]),
    "stage": payload.stage(
        _CHANGE,
        _IDENTITY,
        list(enumerate(_CHANGE.files, 1)),
        install=True,
        arm=True,
        by="somebody",
        when="2026-01-01T00:00:00Z",
    ),
    "confirm": payload.call(_CHANGE.state_dir, "confirm", _IDENTITY, "yes", "ssh"),
}
# With -x a shell says each command that it executes, assignments and its own commands too.
SHELLS = {"dash": ["dash", "-x"], "ash": ["busybox", "ash", "-x"]}
_EXECUTED = re.compile(rb"^\+ .*", re.M)


def _cuts(whole: bytes, every: bool) -> list[int]:
    """Where to cut: at every byte; or at every byte of both ends, and around all that ends a command or a word of sh.

    The last byte is a newline, without which the payload is complete.
    """
    if every:
        return list(range(len(whole) - 1))
    some = {*range(300), *range(len(whole) - 300, len(whole) - 1)}
    some |= {at + step for at, byte in enumerate(whole) if byte in b"\n;&|{}" for step in (0, 1)}
    return sorted(cut for cut in some if 0 <= cut < len(whole) - 1)


def _begin() -> None:
    """A frame that does not hold would run as root on this machine: let it find nothing that it can write to."""
    isolate()
    subprocess.run(["mount", "-o", "remount,bind,ro", "/"], check=True)


def _executed(shell: str, whole: bytes, cuts: Sequence[int]) -> list[str]:
    """What a shell executed of each beginning of ``whole``, or said besides its complaint.

    Not by subprocess, which takes longer than the shell.
    """
    command = SHELLS[shell]
    program = shutil.which(command[0]) or command[0]
    said = os.memfd_create("said", os.MFD_CLOEXEC)
    found = []
    for cut in cuts:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        assert os.write(writing, whole[:cut]) == cut  # a pipe holds 64 kB
        os.close(writing)
        child = os.posix_spawn(
            program, command, {"PATH": os.environ["PATH"]},
            file_actions=[(os.POSIX_SPAWN_DUP2, reading, 0), *((os.POSIX_SPAWN_DUP2, said, to) for to in (1, 2))],
        )  # fmt: skip
        os.close(reading)
        os.waitpid(child, 0)
        text = os.pread(said, 4096, 0)
        os.ftruncate(said, 0)
        os.lseek(said, 0, os.SEEK_SET)
        if _EXECUTED.search(text) or text.count(b"\n") > 1:
            found.append(f"cut after {cut} bytes of {len(whole)}, after {whole[:cut][-50:]!r}: {text!r}")
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="a read-only view of this machine needs root")
@pytest.mark.parametrize("shell", SHELLS)
def test_a_payload_cut_at_any_byte_executes_nothing(shell: str, thorough: bool) -> None:
    with multiprocessing.get_context("fork").Pool(2, initializer=_begin) as pool:
        # Positive control: a command that does run shows.
        harmless = frame("touch ran", _NONCE)
        assert pool.apply(_executed, (shell, harmless, [len(harmless)]))
        for name, program in PAYLOADS.items():
            whole = frame(program, _NONCE)
            assert len(whole) < 65536
            cuts = _cuts(whole, thorough)
            halves = pool.starmap(_executed, [(shell, whole, cuts[half::2]) for half in (0, 1)])
            found = [line for half in halves for line in half]
            COUNTED.append(f"payload cut, {shell}, {name}: {len(cuts)} of {len(whole) - 1} places")
            assert not found, f"{name}, {shell}: {len(found)} cuts, first: " + "\n".join(found[:5])


@pytest.mark.parametrize("host", ["debian12", "vendor"])
def test_a_session_that_dies_in_the_middle_of_a_payload_leaves_nothing_on_the_device(
    host: str, devices: Devices
) -> None:
    """Over ssh, into the device's own shell, as each kind of daemon ends a session."""
    whole = frame(PAYLOADS["stage"], _NONCE)
    cuts = [
        *range(len(whole) // 40, len(whole) - 30, len(whole) // 5),
        *range(len(whole) - 29, len(whole) - 1, 6),
    ]
    assert devices.answers(host)  # dropbear makes a host key when it is first asked for one
    before = devices.snapshot(host)
    for cut in cuts:
        done = devices.ssh(host, "exec /bin/sh -x", stdin=whole[:cut])
        assert not _EXECUTED.search(done.stderr.encode()), f"{host}, cut after {cut} bytes: {done.stderr}"
        assert not done.stdout, f"{host}, cut after {cut} bytes: {done.stdout}"
    COUNTED.append(f"session ended in a payload, {host}: {len(cuts)} places")
    assert devices.snapshot(host) == before
    assert not devices.inside(
        host, "ls -d /var/lib/sallyport/stage.* /var/lib/sallyport/armed 2>/dev/null || :"
    )
