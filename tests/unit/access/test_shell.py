"""The snippets for the device, run for real in every shell that a device may have."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.access import shell

SHELLS = [command for command in (["dash"], ["busybox", "sh"]) if shutil.which(command[0])]


@pytest.fixture(params=SHELLS, ids=lambda command: command[0])
def sh(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    yield [*request.param, "-eu", "-c"]


def run(sh: list[str], snippet: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*sh, snippet], capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def listener() -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    code = (
        "import socket,sys,time\ns=socket.create_server(('127.0.0.1',0))\n"
        "print(s.getsockname()[1],flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        yield port, process
        process.kill()


def test_a_listener_is_found_named_and_stopped(
    sh: list[str], listener: tuple[int, subprocess.Popen[bytes]]
) -> None:
    port, process = listener
    name = Path(f"/proc/{process.pid}/comm").read_text().strip()
    assert run(sh, shell.somebody_listens([("tcp", port)], 1)).returncode == 0
    still = run(sh, shell.nobody_listens([("tcp", port)], 0))
    assert still.returncode == 1 and f"process {process.pid} ({name}) still listens" in still.stderr
    assert run(sh, shell.stop_holders(["another"], [("tcp", port)])).returncode == 0
    assert process.poll() is None
    assert run(sh, shell.stop_holders([name], [("tcp", port)])).returncode == 0
    assert process.wait(timeout=20) != 0
    assert run(sh, shell.nobody_listens([("tcp", port)], 10)).returncode == 0
    nobody = run(sh, shell.somebody_listens([("tcp", port)], 0))
    assert nobody.returncode == 1 and f"nobody listens on tcp port {port}" in nobody.stderr


def test_udp_sockets_are_found_too(sh: list[str]) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as one:
        one.bind(("::1", 0))
        assert run(sh, shell.somebody_listens([("udp", one.getsockname()[1])], 0)).returncode == 0


def test_a_daemon_is_only_believed_with_exactly_its_command_line(
    sh: list[str], listener: tuple[int, subprocess.Popen[bytes]]
) -> None:
    port, process = listener
    words = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
    assert len(words) == 4
    wrong = run(sh, shell.runs_as("python", [("tcp", port)], f"{sys.executable} -c other", 0))
    assert wrong.returncode == 1 and "does not run with the command line that boots" in wrong.stderr


def test_what_a_listener_was_started_with_is_told_once(
    sh: list[str], listener: tuple[int, subprocess.Popen[bytes]]
) -> None:
    port, process = listener
    words = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
    told = run(sh, shell.started_as([("tcp", port)]))
    assert told.returncode == 0, told.stderr
    assert told.stdout == f"tcp:{port:04X}\n{b' '.join(words).decode()}\n"
    process.kill()
    process.wait()
    assert run(sh, shell.started_as([("tcp", port)])).stdout == f"tcp:{port:04X}\n"


def test_every_snippet_is_clean_for_shellcheck_and_quotes_what_it_is_given() -> None:
    nasty = "x'; touch /tmp/pwned; '"
    assert "'\"'\"'" in shell.stop_holders([nasty], [("tcp", 1)])
    if shutil.which("shellcheck"):
        text = "#!/bin/sh\nset -eu\n" + shell.nobody_listens([("tcp", 1)])
        done = subprocess.run(["shellcheck", "-"], input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_a_file_whose_name_poses_as_a_socket_makes_nobody_a_listener(
    sh: list[str], listener: tuple[int, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    port, process = listener
    socket_link = next(
        target
        for target in (str(one.readlink()) for one in Path(f"/proc/{process.pid}/fd").iterdir())
        if target.startswith("socket:[")
    )
    (tmp_path / "a").mkdir()
    names = (f"x -> {socket_link}", f"x\nlrwx------ 1 a a 64 Nov  1 00:00 0 -> {socket_link}")
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context((tmp_path / "a" / name).open("w")) for name in names]
        liar = stack.enter_context(
            subprocess.Popen(["sleep", "60"], pass_fds=[one.fileno() for one in opened])
        )
        found = run(sh, f"{shell.HOLDERS}\nholders {shell.ports([('tcp', port)])}").stdout.split()
        liar.kill()
    assert found == [str(process.pid)]


@contextlib.contextmanager
def looped(port: int, more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A shell that starts a listener again whenever it ends."""
    code = f"import socket,time; s=socket.create_server(('127.0.0.1',{port}),reuse_port=True); time.sleep(60)"
    script = f'{more} while :; do "{sys.executable}" -c "{code}"; done'
    with subprocess.Popen(["sh", "-c", script], start_new_session=True) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):  # all of it has ended
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(("more", "ends"), [("", True), ("sleep 60 &", False)])
def test_a_loop_that_starts_a_listener_again_ends_with_it_unless_it_looks_after_others(
    sh: list[str], more: str, ends: bool
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    with looped(port, more) as loop:
        assert run(sh, shell.somebody_listens([("tcp", port)], 30)).returncode == 0
        (pid,) = run(sh, f"{shell.HOLDERS}\nholders {shell.ports([('tcp', port)])}").stdout.split()
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        assert run(sh, shell.stop_holders([name], [("tcp", port)])).returncode == 0
        if ends:
            assert loop.wait(timeout=20) != 0
            assert run(sh, shell.nobody_listens([("tcp", port)], 10)).returncode == 0
        else:
            assert run(sh, shell.somebody_listens([("tcp", port)], 30)).returncode == 0
            assert loop.poll() is None


# The first process of a namespace of its own: shells on terminals, its own and somebody's, and one without a terminal.
FIRST = """
import os, pty, subprocess, sys, time
def shell(parents):
    pid, terminal = pty.fork()
    if pid == 0:
        if parents:
            os.execv("/usr/bin/env", ["env", "perl", "-e", 'system("sh", "-c", "sleep 60; :")'])
        os.execv("/bin/sh", ["sh", "-c", "sleep 60; :"])
    return pid, terminal
own, first = shell(False)
held, second = shell(True)
quiet = subprocess.Popen(["sh", "-c", "sleep 60; :"], start_new_session=True, stdin=subprocess.DEVNULL)
def named(wanted):
    found = {}
    for each in os.listdir("/proc"):
        if each.isdecimal():
            name = open(f"/proc/{each}/comm").read().strip()
            parent = int(open(f"/proc/{each}/stat").read().rpartition(") ")[2].split()[1])
            if name == wanted:
                found[int(each)] = parent
    return found
# What a shell has forked is called like it until it has become the sleep that it runs.
while not {own, quiet.pid} < set(named("sh")) or held not in named("sh").values() or len(named("sleep")) < 3:
    time.sleep(0.05)
subprocess.run(["sh", "-euc", sys.argv[1]], check=True, start_new_session=True)
os.waitpid(own, 0)
left = named("sh")
print(sorted("quiet" if pid == quiet.pid else "held" if parent == held else "another" for pid, parent in left.items()))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a namespace of processes")
def test_only_shells_that_init_itself_put_on_a_terminal_are_ended() -> None:
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", FIRST, shell.END_CONSOLES],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout == "['held', 'quiet']\n", done.stderr
