"""Refused, accepted and dropped are three different answers, over telnet and over SSH."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.modules import try_logins
from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials.defaults import (
    default_pairs,
    pairs_for,
)

PAIRS = [(0, "root", "one"), (1, "root", "two"), (2, "admin", "three"), (3, "admin", "four")]


def login_program(
    passwords: dict[str, str], shell: Callable[[str], str], tries: int = 3
) -> Callable[[socket.socket], None]:
    """Speaks as BusyBox telnetd and login do: negotiation, prompts, three tries, then a shell."""

    def talk(connection: socket.socket) -> None:
        lines = connection.makefile("rb")

        def ask(prompt: str) -> str:
            connection.sendall(prompt.encode())
            line = lines.readline()
            while line[:1] == b"\xff":  # the client's answers to the negotiation
                line = line[3:]
            return line.decode().strip()

        connection.sendall(b"\xff\xfd\x01\xff\xfd\x1f\xff\xfb\x01\xff\xfb\x03\r\n")
        for _ in range(tries):
            user = ask("gateway login: ")
            if not user:
                return
            if passwords.get(user) == ask("Password: "):
                command = ask("\r\nBuilt-in shell (ash)\r\n~ # \x1b[6n")
                connection.sendall(shell(command).encode())
                lines.readline()
                return
            connection.sendall(b"\r\nLogin incorrect\r\n")

    return talk


def ash(command: str) -> str:
    return command.replace("$((20+22))", "42").removeprefix("echo ") + "\r\n~ # "


@contextmanager
def device(talk: Callable[[socket.socket], None]) -> Iterator[dict[str, Any]]:
    """A telnet service on loopback that serves any number of connections."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve(connection: socket.socket) -> None:
            with connection, suppress(OSError):  # the client hung up
                talk(connection)

        def accept() -> None:
            while True:
                try:
                    connection, _peer = listening.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        address, port = listening.getsockname()
        yield {"kind": "telnet", "address": address, "port": port, "software": "", "per_second": 0}
        listening.shutdown(socket.SHUT_RDWR)


def tried(service: dict[str, Any], never_from: frozenset[str] = frozenset()) -> dict[str, Any]:
    return try_logins.try_service(service, PAIRS, set(never_from), time.monotonic() + 60)


def test_a_telnet_login_that_refuses_each_pair_has_refused_them() -> None:
    with device(login_program({}, ash)) as service:
        result = tried(service)
    assert (result["accepted"], result["refused"], result["not_assessed"]) == ([], 4, 0)


def test_a_telnet_login_that_lets_in_names_the_user() -> None:
    with device(login_program({"admin": "four"}, ash)) as service:
        result = tried(service)
    assert (result["accepted"], result["not_assessed"]) == (["admin"], 0)


def test_a_menu_instead_of_a_shell_is_a_way_in_too() -> None:
    with device(login_program({"root": "two"}, lambda _command: "unknown command\r\nconfig> ")) as service:
        assert tried(service)["accepted"] == ["root"]


def test_a_telnet_daemon_that_loses_callers_who_come_at_once_is_asked_by_one_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A busy device: its telnetd has a queue of one, and who found it full hears nothing."""
    monkeypatch.setattr(try_logins, "ATTEMPT_SECONDS", 1)
    busy = threading.Lock()
    talk = login_program({"root": "two"}, ash)
    lost = []

    def one_at_a_time(connection: socket.socket) -> None:
        if not busy.acquire(blocking=False):
            lost.append(connection.recv(1))  # until the caller gives up
            return
        try:
            talk(connection)
        finally:
            busy.release()

    # Enough pairs for two conversations at once; the right one may be in either.
    pairs = [*((9 + number, "root", f"wrong {number}") for number in range(3)), *PAIRS]
    with device(one_at_a_time) as service:
        result = try_logins.try_service(service, pairs, set(), time.monotonic() + 60)
    assert result["accepted"] == ["root"] and lost


def test_a_telnet_daemon_that_hangs_up_proves_nothing() -> None:
    with device(lambda connection: connection.sendall(b"gateway login: ")) as service:
        result = tried(service)
    assert (result["accepted"], result["refused"], result["not_assessed"]) == ([], 0, 4)
    assert "stopped answering" in result["reason"]


def test_a_refusal_followed_by_hanging_up_is_a_refusal() -> None:
    def once(connection: socket.socket) -> None:
        login_program({}, ash, tries=1)(connection)

    with device(once) as service:
        result = tried(service)
    assert (result["refused"], result["not_assessed"]) == (4, 0)


def test_an_account_that_busybox_cannot_judge_does_not_end_the_trial_for_the_others() -> None:
    def talk(connection: socket.socket) -> None:
        lines = connection.makefile("rb")
        connection.sendall(b"gateway login: ")
        user = lines.readline().strip()
        connection.sendall(b"Password: ")
        password = lines.readline().strip()
        if user == b"root":  # "*" in its field: crypt(3) gives nothing, and login ends
            connection.sendall(b"\r\nlogin: bad salt\r\n")
        elif password == b"four":
            connection.sendall(b"\r\n~ # ")
            connection.sendall(ash(lines.readline().decode().strip()).encode())
            lines.readline()
        else:
            connection.sendall(b"\r\nLogin incorrect\r\n")

    # More than are tried at once, so that the trial must go on behind them.
    pairs = [*((9 + number, "root", f"wrong {number}") for number in range(18)), *PAIRS]
    with device(talk) as service:
        result = try_logins.try_service(service, pairs, set(), time.monotonic() + 60)
    assert (result["accepted"], result["not_assessed"]) == (["admin"], 0)


def test_nothing_is_tried_from_the_address_of_the_controller() -> None:
    with device(login_program({"root": "one"}, ash)) as service:
        result = tried(service, frozenset({"127.0.0.1"}))
    assert (result["accepted"], result["not_assessed"]) == ([], 4)
    assert "controller" in result["reason"]


SSH = {
    "kind": "ssh",
    "address": "127.0.0.1",
    "port": 22,
    "software": "SSH-2.0-OpenSSH_9.2p1",
    "per_second": 0,
}
OFFER = "debug1: Authentications that can continue: publickey,password\n"


def over_ssh(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[list[str], str | None], str], **service: Any
) -> dict[str, Any]:
    """``answer`` stands for the ssh program: it gets the command and the folder with the passwords."""
    monkeypatch.setattr(try_logins, "run_ssh", lambda command, _seconds, folder=None: answer(command, folder))
    monkeypatch.setattr(try_logins, "supported", lambda _kind: "")
    return tried({**SSH, **service})


def prompts(command: list[str]) -> int:
    return next(int(o.partition("=")[2]) for o in command if o.startswith("NumberOfPasswordPrompts="))


def test_a_server_without_passwords_has_refused_all_pairs_in_one_question(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def keys_only(command: list[str], folder: str | None) -> str:
        asked.append(folder)
        return (
            "debug1: Authentications that can continue: publickey\nroot@x: Permission denied (publickey).\n"
        )

    result = over_ssh(monkeypatch, keys_only)
    assert (result["refused"], result["not_assessed"]) == (4, 0)
    assert result["reason"] == "password login not offered"
    assert asked == [None, None]  # one question for each account, no password sent


def test_a_server_that_refuses_each_password_is_counted_by_its_own_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = over_ssh(monkeypatch, lambda command, folder: OFFER * (1 + (prompts(command) if folder else 0)))
    assert (result["accepted"], result["refused"], result["not_assessed"]) == ([], 4, 0)


def test_the_password_after_the_last_refusal_is_the_one_that_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def second(command: list[str], folder: str | None) -> str:
        if folder and "admin" in command:
            return OFFER * 2 + 'Authenticated to 127.0.0.1 ([127.0.0.1]:22) using "password".\n'
        return OFFER * (1 + (prompts(command) if folder else 0))

    assert over_ssh(monkeypatch, second)["accepted"] == ["admin"]


def test_a_connection_that_is_dropped_is_never_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def dropped(_command: list[str], folder: str | None) -> str:
        return OFFER if folder is None else "kex_exchange_identification: Connection reset by peer\n"

    result = over_ssh(monkeypatch, dropped)
    assert (result["refused"], result["not_assessed"]) == (0, 4)
    assert "Connection reset by peer" in result["reason"]


def test_a_server_that_does_not_name_its_methods_is_not_assessed(monkeypatch: pytest.MonkeyPatch) -> None:
    result = over_ssh(
        monkeypatch, lambda _command, _folder: "ssh: connect to host x port 22: Connection timed out\n"
    )
    assert (result["refused"], result["not_assessed"]) == (0, 4)


def test_a_server_with_a_lower_limit_gets_the_rest_over_new_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def one_each(_command: list[str], folder: str | None) -> str:
        return (
            OFFER if folder is None else OFFER * 2 + "Received disconnect: Too many authentication failures\n"
        )

    result = over_ssh(monkeypatch, one_each)
    assert (result["refused"], result["not_assessed"]) == (4, 0)


@pytest.mark.parametrize(("software", "at_once"), [("SSH-2.0-OpenSSH_9.7", 2), ("SSH-2.0-OpenSSH_10.0p2", 1)])
def test_a_server_that_punishes_sees_one_connection_at_a_time(
    monkeypatch: pytest.MonkeyPatch, software: str, at_once: int
) -> None:
    lock = threading.Lock()
    both = threading.Barrier(2, timeout=0.5)
    now, most = 0, 0

    def count(command: list[str], folder: str | None) -> str:
        nonlocal now, most
        if folder is None:
            return OFFER
        with lock:
            now += 1
            most = max(most, now)
        with suppress(threading.BrokenBarrierError):  # nobody else came: one at a time
            both.wait()
        with lock:
            now -= 1
        return OFFER * (1 + prompts(command))

    over_ssh(monkeypatch, count, software=software)
    assert most == at_once


def test_no_password_is_on_a_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []

    def note(command: list[str], folder: str | None) -> str:
        lines.extend(command)
        return OFFER * (1 + (prompts(command) if folder else 0))

    over_ssh(monkeypatch, note)
    assert not {password for _number, _user, password in PAIRS} & set(lines)


def test_a_user_name_cannot_become_an_option() -> None:
    command = try_logins.ssh_command(SSH, "-oProxyCommand=x", {})
    assert command[command.index("-l") + 1] == "-oProxyCommand=x"
    assert command[-3] == "--"


def test_the_list_has_all_pairs_and_asks_only_for_accounts_that_exist() -> None:
    assert len(default_pairs()) == 61
    assert {user for user, _password in pairs_for(["root"])} == {"root"}
    assert pairs_for(["root", "admin"])[0] in (["root", "root"], ["admin", "admin"])


def test_a_sites_own_pairs_come_first() -> None:
    own = [{"user": "root", "password": "acme"}]
    assert pairs_for(["root"], own)[0] == ["root", "acme"]
