"""A device that is its own controller: where its daemon listens, whether a change is live, whether a daemon has read it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.device import loopback
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply, frame, parse

SHELLS = {"dash": ["dash"], "ash": ["busybox", "ash"], "bash": ["bash", "--posix"]}


@pytest.mark.parametrize(
    ("told", "door"),
    [
        ("0.0.0.0:22", loopback.Door("127.0.0.1", 22)),
        ("[::]:2222", loopback.Door("::1", 2222)),
        ("198.51.100.7:22", loopback.Door("198.51.100.7", 22)),
        ("[fd00:db8::7]:22", loopback.Door("fd00:db8::7", 22)),
        ("[fe80::1%eth0]:22", None),  # not without its interface
        ("gateway.example:22", None),
        ("0.0.0.0:", None),
        ("", None),
    ],
)
def test_a_daemon_is_knocked_at_where_it_was_told_to_listen(told: str, door: loopback.Door | None) -> None:
    assert loopback.listening(told) == door


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """A process with an SSH daemon's name that listens; its port, and when it was started."""
    named = tmp_path / "sshd-trial"
    named.symlink_to(shutil.which("python3") or sys.executable)
    program = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    with subprocess.Popen(
        [str(named), "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        port = int(process.stdout.readline())
        started = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]
        yield port, int(started)
        process.kill()


def _asked(shell: str, folder: Path, port: int) -> Reply:
    head = f"TX='{folder}' ID='mine' PORT={port:04X}\n".encode()
    done = subprocess.run(
        SHELLS[shell], input=frame(head + loopback._LIVE, "0" * 24), capture_output=True, check=False
    )
    parsed = parse(done.stdout.decode(), "0" * 24)
    assert parsed is not None and parsed[1] == 0, done
    return Reply(tuple(parsed[0]), 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="other people's sockets are root's to see")
@pytest.mark.parametrize("shell", SHELLS)
def test_a_change_is_live_and_the_daemon_that_listens_is_younger_or_older(
    shell: str, daemon: tuple[int, int], tmp_path: Path
) -> None:
    port, started = daemon
    assert "live" not in _asked(shell, tmp_path, port)  # nothing is pending
    (tmp_path / "id").write_text("another\n")
    (tmp_path / "live").touch()
    assert "live" not in _asked(shell, tmp_path, port)  # somebody else's change
    (tmp_path / "id").write_text("mine\n")
    for began, old in ((started, False), (started + 1, True), (started - 1, False)):
        (tmp_path / "worker").write_text(f"1 {began}\n")
        reply = _asked(shell, tmp_path, port)
        assert "live" in reply and ("old_daemon" in reply) == old, (began, started, reply)
    assert "old_daemon" not in _asked(shell, tmp_path, 0)  # nobody asked for a new daemon


@pytest.mark.parametrize(
    ("says", "why"),
    [
        (b"SSH-2.0-trial\r\n", ""),
        (b"a line of a site\r\nSSH-2.0-trial\r\n", ""),
        (b"Not allowed at this time\r\n", "Not allowed at this time"),
        (b"HTTP/1.0 400 \xff\r\n", "no SSH daemon answers"),
        (b"", "no SSH daemon answers"),
    ],
)
def test_only_an_ssh_daemon_is_taken_for_one(says: bytes, why: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        door = loopback.Door("127.0.0.1", server.getsockname()[1])

        def answer() -> None:
            with server.accept()[0] as connection:
                connection.sendall(says)

        thread = threading.Thread(target=answer)
        thread.start()
        if why:
            with pytest.raises(loopback.Unproven, match=why):
                loopback._banner(door, 10)
        else:
            loopback._banner(door, 10)
        thread.join()
