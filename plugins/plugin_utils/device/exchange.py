# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The only road to a device: one POSIX sh program on standard input, one framed reply.

A ``sh -s`` whose input is cut runs what has arrived. So the whole program is the body of one function, whose
definition and call are one group in braces: cut at any byte, the shell has read no whole command, and nothing runs,
not even a word that the cut made of the function's name. The reply is framed by a nonce. A reply without its closing frame says nothing about the device, whatever the return code was: one
connection plugin drops standard input and returns 0, and login shells print noise of their own.

Programs use two helpers to answer, both defined by the frame:

``say KEY VALUE...``  one record on one line
``blob KEY``          one record of many lines, read from standard input

Everything else that a program or its children print goes to standard error.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError

_HOST_KEY = ("Host key verification failed", "IDENTIFICATION HAS CHANGED", "Host Key checking is enabled")
# What stands around the words that matter: Ansible's own introduction, and ssh's notes and drawings.
_INTRODUCTION = re.compile(
    r"""^(?:Failed to connect to the host via ssh: |Data could not be sent to remote host "[^"]*"\. """
    r"""Make sure this host can be reached over ssh: )"""
)
_NOISE = re.compile(
    r"^(?:Warning: Permanently added .*|@+|@ +WARNING: .*@|IT IS POSSIBLE .*|Someone could be .*)$"
)
_TERMINAL = re.compile(r"-[46AaCfGgKkMNnqsTvXxYy]*t+|(?i:(?:-o)?RequestTTY\s*[= ]\s*(?:yes|force|auto))")
_NEEDS_VALUE = re.compile(r"-[46AaCfGgKkMNnqsTtvXxYy]*[BbcDEeFIiJLlmOoPpQRSWw]")
_PREAMBLE = r"""
exec 3>&1 1>&2
LC_ALL=C; export LC_ALL
PATH="${PATH:-}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"; export PATH
say() { printf '%s\n' "$*" >&3; }
blob() {
  printf 'blob %s\n' "$1" >&3
  while IFS= read -r _line; do printf '|%s\n' "$_line" >&3; done
  if [ -n "$_line" ]; then printf '\\%s\n' "$_line" >&3; fi
}
""".strip("\n")


class ExchangeError(AnsibleError):
    """The device did not answer as it must. The message says what was expected, what came, and what to do."""


@dataclass(frozen=True)
class Reply:
    """What the device said, in order.

    ``records`` holds (key, value); bytes that are not UTF-8 are surrogate escapes. ``errors`` is what the program
    and its tools printed besides, never interpreted.
    """

    records: tuple[tuple[str, str], ...]
    status: int
    errors: str = ""
    _index: dict[str, list[str]] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        for key, value in self.records:
            self._index.setdefault(key, []).append(value)

    def get(self, key: str, default: str = "") -> str:
        """The last value of ``key``."""
        return self._index.get(key, [default])[-1]

    def all(self, key: str) -> list[str]:
        """Every value of ``key``, in order."""
        return list(self._index.get(key, []))

    def __contains__(self, key: str) -> bool:
        return key in self._index


def frame(program: bytes | str, nonce: str) -> bytes:
    """The payload for ``/bin/sh``: one group that defines a function with ``program`` as its body, and calls it."""
    body = program.encode("utf-8", "surrogateescape") if isinstance(program, str) else program
    name = b"sallyport_" + nonce.encode()
    return b"\n".join(
        (
            b"{",
            name + b"() {",
            b"printf '%s\\n' " + nonce.encode() + b"-begin",
            b"(",
            _PREAMBLE.encode(),
            b"set -eu",
            body,
            b")",
            b"printf '%s %s\\n' " + nonce.encode() + b'-end "$?"',
            # Tools of the program must not read the payload.
            b"} </dev/null",
            name,
            b"}\n",
        )
    )


def parse(stdout: str, nonce: str) -> tuple[list[tuple[str, str]], int] | None:
    """The records and exit status between the frames, or None where the closing frame is missing."""
    lines = stdout.split("\n")
    begin, end = f"{nonce}-begin", f"{nonce}-end "
    # A login shell may print without a final newline in front of the frame.
    start = next((i for i, line in enumerate(lines) if line.endswith(begin)), None)
    if start is None:
        return None
    # A blob is a list of its lines until the end: a text that grows line by line is copied whole for each of them.
    records: list[tuple[str, list[str]]] = []
    in_blob = False
    for raw in lines[start + 1 :]:
        line = raw.rstrip("\r")
        if line.startswith(end):
            status = line[len(end) :]
            told = [(key, "".join(pieces)) for key, pieces in records]
            return (told, int(status)) if status.isdigit() else None
        if in_blob and line[:1] in ("|", "\\"):
            records[-1][1].append(raw[1:] + ("\n" if line[0] == "|" else ""))
            continue
        key, _, value = line.partition(" ")
        in_blob = key == "blob"
        records.append((value, []) if in_blob else (key, [value]))
    return None


# Ansible's introduction of what ssh said, with nothing after it.
_WORDLESS = re.compile(r"\b(over|via) ssh:\s*$", re.IGNORECASE)


def _said(message: str) -> str:
    """The words of a failed connection that tell why, on one line."""
    lines = (line.strip() for line in _INTRODUCTION.sub("", message.strip()).splitlines())
    return " ".join(line for line in lines if line and not _NOISE.match(line))


class Exchange:
    """Runs programs on the device of one action plugin's task.

    Args:
        action: the running action plugin; its connection and become settings are used as they are.
    """

    next_key: Path | None = None
    """The private key that logs in after the change, where the change replaces the one of this play."""

    def __init__(self, action: Any) -> None:
        self._action = action
        self._connection = action._connection
        self.count = 0
        task = action._task
        if task.delegate_to:
            raise ExchangeError(
                f"{task.action} was delegated to {task.delegate_to!r}: it would change that machine in the name of "
                f"another one. Run it on the device itself, in a play whose hosts name the device."
            )
        # Only newer releases of ansible-core look themselves, and end the worker where an option lacks its value.
        for name in ("ssh_args", "ssh_common_args", "ssh_extra_args") if self.transport == "ssh" else ():
            self._refuse_terminal(name, str(self._connection.get_option(name) or ""))

    def _refuse_terminal(self, name: str, arguments: str) -> None:
        try:
            words = shlex.split(arguments)
        except ValueError as error:
            raise ExchangeError(f"{name} of this host cannot be read ({error}): {arguments}") from None
        if words and _NEEDS_VALUE.fullmatch(words[-1]):
            raise ExchangeError(
                f"{name} of this host end in an option without its value: {arguments}. Given as -e {name}=... they end at the "
                "first space: give them in a file, or as JSON."
            )
        if any(_TERMINAL.fullmatch(word) for word in words):
            raise ExchangeError(
                "this connection asks for a terminal (RequestTTY or -t in the ssh arguments), which cannot carry a "
                "program on standard input. Remove it from ssh_args, ssh_common_args and ssh_extra_args."
            )

    @property
    def transport(self) -> str:
        """The short name of the connection plugin."""
        return str(self._connection.transport).rpartition(".")[2]

    def run(self, program: bytes | str) -> Reply:
        """Run ``program`` on the device and return its reply.

        Raises:
            AnsibleConnectionFailure: the device cannot be reached, or refuses the login.
            ExchangeError: it was reached, but no whole reply came back.
        """
        nonce = secrets.token_hex(12)
        payload = frame(program, nonce)
        self.count += 1
        with self._pipelined(), self._watched():
            try:
                result = self._action._low_level_execute_command(
                    "/bin/sh", in_data=payload, sudoable=True, encoding_errors="surrogateescape"
                )
            except AnsibleConnectionFailure as error:
                raise AnsibleConnectionFailure(self._advise_login(str(error))) from None
            except AnsibleError as error:
                if "pipelining" in str(error):  # the words of connections that know that they cannot
                    raise ExchangeError(
                        f"the connection {self.transport!r} does not carry standard input, which the program for the "
                        f"device needs: use ansible.builtin.ssh. The connection said: {error}"
                    ) from None
                raise ExchangeError(self._advise_become(str(error))) from None
        parsed = parse(result["stdout"], nonce)
        if parsed is None:
            raise ExchangeError(self._no_reply(result))
        records, status = parsed
        return Reply(tuple(records), status, result["stderr"])

    def ask(self, program: bytes | str) -> Reply:
        """The same for a program that only asks: it is asked once more where ssh ended without saying why.

        A shared connection that comes to its end (ControlPersist) takes along who has just begun to use it, without a word.
        """
        try:
            return self.run(program)
        except AnsibleConnectionFailure as error:
            if not _WORDLESS.search(str(error)):
                raise
            return self.run(program)

    @contextlib.contextmanager
    def as_new_connection(self, known_hosts: str = "", timeout: int = 0) -> Iterator[None]:
        """Within this block exchanges open a connection of their own, sharing nothing with an earlier one.

        Args:
            known_hosts: a file of host keys that alone is to be believed, else the site's own settings.
            timeout: seconds for the connection to open; 0 for the site's own.
        """
        if self.transport != "ssh":
            yield
            return
        connection = self._connection
        saved = {name: connection.get_option(name) for name in ("ssh_args", "ssh_extra_args", "timeout")}
        # The first value of an option wins for ssh, so ours stand first; -S on the command line beats a
        # ControlPath from anywhere, sites that force multiplexing included.
        first = "-o ControlMaster=no -o ControlPath=none -o ServerAliveInterval=5 -o ServerAliveCountMax=4"
        if known_hosts:
            first += (
                f" -o UserKnownHostsFile={shlex.quote(known_hosts)} -o GlobalKnownHostsFile=/dev/null"
                " -o StrictHostKeyChecking=yes"
            )
        try:
            connection.set_option("ssh_args", f"{first} {saved['ssh_args'] or ''}".strip())
            connection.set_option("ssh_extra_args", f"{saved['ssh_extra_args'] or ''} -S none".strip())
            if timeout:
                connection.set_option("timeout", timeout)
            yield
        finally:
            for name, value in saved.items():
                connection.set_option(name, value)

    def forget_connection(self) -> None:
        """End the shared connection: it may lead to a daemon whose settings are no longer in force."""
        if self.transport == "ssh":
            with contextlib.suppress(AnsibleError, OSError):
                self._connection.reset()

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """A link that dies while an answer is awaited would hold ssh, and the run, for hours: notice it in a minute.

        Not sooner: on a slow line a large payload alone keeps the answers waiting. Last of all arguments, so that what
        the site says there counts.
        """
        if self.transport != "ssh":
            yield
            return
        saved = self._connection.get_option("ssh_extra_args")
        watch = "-o ServerAliveInterval=10 -o ServerAliveCountMax=6"
        self._connection.set_option("ssh_extra_args", f"{saved or ''} {watch}".strip())
        try:
            yield
        finally:
            self._connection.set_option("ssh_extra_args", saved)

    @contextlib.contextmanager
    def _pipelined(self) -> Iterator[None]:
        """``local`` with a become password hangs unless its pipelining option is set."""
        if self.transport != "local":
            yield
            return
        saved = self._connection.get_option("pipelining")
        self._connection.set_option("pipelining", True)
        try:
            yield
        finally:
            self._connection.set_option("pipelining", saved)

    def _advise_login(self, message: str) -> str:
        text = _said(message)
        if "privilege escalation" in text:
            return self._advise_become(message)
        if any(sign in message for sign in _HOST_KEY):
            address = self._connection.get_option("host") or "its address"
            advice = (
                "the device's host key is not one that this controller knows for it, so nothing was sent. If the device "
                f"was replaced or reset: ssh-keygen -R {address}, then connect once by hand and compare the fingerprint"
            )
            if "Host Key checking is enabled" in text:  # Ansible's words for it, which speak of passwords
                return f"{advice}."
        elif "username contains invalid characters" in text:
            advice = (
                "ssh on this controller refuses the login name, whoever has it: it must not hold quotes, ; & < > | ( ) { } "
                "or control characters. Log in with another account (ansible_user)"
            )
        elif (
            "Permission denied" in text
            or "Authentication failure" in text
            or "Invalid/incorrect password" in text
        ):
            advice = (
                "the device answers but refuses the login: check ansible_user, ansible_password and "
                "ansible_ssh_private_key_file for this host"
            )
        else:
            advice = "the device does not answer: check ansible_host, ansible_port, its power and its network"
        return f"{advice}. The connection said: {text}"

    def _advise_become(self, message: str) -> str:
        text = _said(message)
        if any(sign in message for sign in _HOST_KEY):  # sshpass gives up before ssh can say so
            return self._advise_login(message)
        if "password" in text.lower() or "privilege" in text.lower() or "escalation" in text.lower():
            return (
                "the login works but root was not gained: check ansible_become_method and ansible_become_password for "
                f"this host. The connection said: {text}"
            )
        return text

    def _no_reply(self, result: dict[str, Any]) -> str:
        errors = result["stderr"].strip()
        lowered = f"{errors} {result['stdout']}".lower()
        if "doas: authentication" in lowered:
            why = (
                "doas wants a password for this user, and takes it from a terminal only, which cannot carry the program. "
                "Permit the user with nopass in the device's doas.conf, or use sudo or su"
            )
        elif result["rc"] == 137:
            why = (
                "the program was killed on the device while it was read or ran (return code 137): where nobody did that, "
                "the kernel did, because memory ran out"
            )
        elif "must have a tty" in lowered or "tty is required" in lowered or "no tty" in lowered:
            why = (
                "the device wants a terminal before it grants root (requiretty in sudoers, or doas with a password), and "
                "a terminal cannot carry the program. Remove requiretty for this user, or use doas with nopass"
            )
        elif (
            "password is required" in lowered
            or "permission denied" in lowered
            or "not in the sudoers" in lowered
            or "doas: operation not permitted" in lowered
            or "su: incorrect password" in lowered  # BusyBox
            or "su: authentication failure" in lowered
        ):
            why = "root was not gained: check ansible_become_method and ansible_become_password for this host"
        else:
            why = (
                f"the program was sent but no whole reply came back over the connection {self.transport!r}. Either it "
                "broke on the way, or it does not carry standard input (use ansible.builtin.ssh), or the login shell "
                "is not a POSIX shell"
            )
        tail = (errors or result["stdout"].strip())[-600:]
        return f"{why}. Return code {result['rc']}" + (
            f"; the device said: {tail}" if tail else "; the device said nothing"
        )
