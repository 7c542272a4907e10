"""Logins as people try them: from both networks, with keys, certificates, codes and tokens; shared by the scenarios."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import os
import re
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.fleet import CHECKOUT, addresses
from lab.labs import Lab
from lab.podman import podman

TOOLS = Path(sys.executable).parent
PLAYBOOK = CHECKOUT / "tests/lab/playbooks/access.yml"
OPENSSH = ("debian11", "debian12", "debian13")
LOGINS: Counter[str] = Counter()
"""How many were let in, and how many were not, for the end of the run."""


@dataclass(frozen=True)
class Run:
    """One ansible-playbook of the ssh role: what it printed, and each device's result."""

    status: int
    output: str
    of: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Try:
    """One login: whether it got in, and what ssh and the other side said."""

    got_in: bool
    text: str

    @property
    def refused(self) -> bool:
        """Turned away at the door, and not by chance (a lost connection, a broken key file)."""
        return not self.got_in and "Permission denied" in self.text


class Doors:
    """The devices, and people before them.

    Places are the operator's controller (on the management network, ``home``) and the two vantage points. Logins from a
    vantage point run in its network, with the keys of this machine.
    """

    def __init__(self, lab: Lab, work: Path) -> None:
        self.lab = lab
        self.work = work
        self.runs = 0
        self.asked = 0

    # What is done

    def play(
        self,
        limit: str,
        variables: dict[str, Any],
        *arguments: str,
        playbook: Path = PLAYBOOK,
        **environment: str,
    ) -> Run:
        """The ssh role, or another playbook, on the devices of ``limit`` (names, by comma)."""
        self.runs += 1
        results = self.work / f"results-{self.runs}.jsonl"
        extra = self.work / f"variables-{self.runs}.json"
        extra.write_text(json.dumps(variables), encoding="utf-8")
        tags = ["--tags", "ssh"] if playbook == PLAYBOOK else []
        done = subprocess.run(
            [str(TOOLS / "ansible-playbook"), "-i", "inventories/lab", str(playbook), *tags,
             "--limit", limit, "-e", f"@{extra}", *arguments],
            cwd=CHECKOUT, capture_output=True, text=True, timeout=300, check=False,
            env={
                **os.environ, "SALLYPORT_LAB": self.lab.prefix, "SALLYPORT_TEST_RESULTS": str(results),
                "ANSIBLE_CALLBACK_PLUGINS": str(CHECKOUT / "tests/lab/callbacks"),
                "ANSIBLE_CALLBACKS_ENABLED": "results", "ANSIBLE_NOCOLOR": "1", **environment,
            },
        )  # fmt: skip
        lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
        found = [json.loads(line) for line in lines]
        of = {one["host"]: one["result"] for one in found if one["action"] == "sallyport.iot.ssh"}
        return Run(done.returncode, done.stdout + done.stderr, of)

    def apply(self, limit: str, variables: dict[str, Any], *arguments: str) -> Run:
        """The same; it must succeed on every device."""
        done = self.play(limit, variables, *arguments)
        assert done.status == 0 and set(done.of) == set(limit.split(",")), done.output[-4000:]
        return done

    def sh(self, device: str, text: str) -> str:
        """Run sh on a device, past its SSH."""
        return podman("exec", self.lab.container(device), "/bin/sh", "-c", text, check=False)

    def account(self, device: str, name: str, groups: str = "") -> None:
        """An account with no password and a shell."""
        extra = f"-G {groups}" if groups else ""
        self.sh(device, f"id {name} 2>/dev/null || useradd -m -s /bin/bash {extra} -p '*' {name}")

    # Who comes

    def key(self, name: str, kind: str = "ed25519") -> Path:
        """A key pair of that name, made when it is first asked for."""
        path = self.work / f"key-{name}"
        if not path.exists():
            subprocess.run(
                ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", name, "-f", str(path)], check=True
            )
        return path

    def public(self, name: str, kind: str = "ed25519") -> str:
        self.key(name, kind)
        return (self.work / f"key-{name}.pub").read_text(encoding="utf-8").strip()

    def give(self, name: str, public: str) -> None:
        """A public key whose private half is elsewhere."""
        (self.work / f"key-{name}").touch()
        (self.work / f"key-{name}.pub").write_text(public, encoding="utf-8")

    def certificate(self, authority: str, key: str, *options: str) -> Path:
        """A certificate for ``key``, signed by the key ``authority``."""
        self.asked += 1
        copy = self.work / f"signed-{self.asked}"
        copy.with_suffix(".pub").write_text(self.public(key) + "\n", encoding="utf-8")
        subprocess.run(
            ["ssh-keygen", "-q", "-s", str(self.key(authority)), *options, str(copy.with_suffix(".pub"))],
            check=True,
        )
        return self.work / f"signed-{self.asked}-cert.pub"

    @property
    def operator(self) -> Path:
        return self.lab.state / "operator"

    # What is tried

    def address(self, device: str, network: str = "lan", family: int = 0) -> str:
        return addresses(network, self.lab.slot(), self.lab.fleet.devices[device].number)[family]

    def controller(self, device: str) -> str:
        """This machine's address, as a device sees it."""
        known = f"HostKeyAlias={self.address(device)}"
        said = self.ssh(
            device, "root", "-o", known, key=self.operator, command='echo "$SSH_CLIENT"',
            known_hosts=str(self.lab.state / "known_hosts"),
        )  # fmt: skip
        assert said.got_in, said.text
        return said.text.split()[0]

    def within(self, place: str) -> list[str]:
        """The words before a command that run it in a place's network."""
        if place == "home":
            return []
        pid = podman("inspect", "--format", "{{.State.Pid}}", self.lab.container(place)).strip()
        return ["nsenter", "-t", pid, "-n"]

    def ssh(
        self,
        device: str,
        user: str,
        *words: str,
        key: Path | None = None,
        certificate: Path | None = None,
        place: str = "home",
        code: str | None = None,
        agent: Path | None = None,
        known_hosts: str = "/dev/null",
        command: str = "id -un",
        family: int = 0,
        port: int = 22,
        timeout: float = 30,
    ) -> Try:
        """One login; ``got_in`` is whether the command's output came back."""
        network = "wan" if place == "vantage-wan" else "lan"
        options = [
            f"UserKnownHostsFile={known_hosts}", "GlobalKnownHostsFile=/dev/null", "ControlPath=none", "ConnectTimeout=10",
            f"StrictHostKeyChecking={'no' if known_hosts == '/dev/null' else 'yes'}", "NumberOfPasswordPrompts=1",
        ]  # fmt: skip
        if agent is None:
            options.append("IdentitiesOnly=yes")
        if key:
            options.append(f"IdentityFile={key}")
        if certificate:
            options.append(f"CertificateFile={certificate}")
        if code is None:
            options.append("BatchMode=yes")
        flags = [word for option in options for word in ("-o", option)]
        target = f"{user}@{self.address(device, network, family)}"
        environment = {
            key: value for key, value in os.environ.items() if key not in ("SSH_AUTH_SOCK", "DISPLAY")
        }
        if agent:
            environment["SSH_AUTH_SOCK"] = str(agent)
        if code is not None:
            answer = self.work / "askpass"
            if not answer.exists():
                answer.write_text('#!/bin/sh\nprintf "%s\\n" "$ANSWER"\n', encoding="utf-8")
                answer.chmod(0o700)
            environment |= {"SSH_ASKPASS": str(answer), "SSH_ASKPASS_REQUIRE": "force", "ANSWER": code}
        try:
            done = subprocess.run(
                [*self.within(place), "ssh", "-F", "none", "-p", str(port), *flags, *words, target, command],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False, env=environment,
            )  # fmt: skip
        except subprocess.TimeoutExpired as late:
            return Try(counted(False), f"no end after {timeout} s: {late.stderr!r}")
        text = done.stdout + done.stderr
        return Try(counted(done.returncode == 0 and bool(done.stdout.strip())), text)

    def operator_gets_in(self, device: str, **how: Any) -> bool:
        """The operator, with the key and the host keys of the lab, over a connection of its own."""
        known = str(self.lab.state / "known_hosts")
        # The file knows each device by its first address.
        alias = ("-o", f"HostKeyAlias={self.address(device)}")
        return self.ssh(device, "root", *alias, key=self.operator, known_hosts=known, **how).got_in


def counted(got_in: bool) -> bool:
    """The same; and one login more in ``LOGINS``."""
    LOGINS["let in" if got_in else "turned away"] += 1
    return got_in


def code(secret: str, now: float | None = None, step: int = 0) -> str:
    """The six digits of RFC 6238 for this instant, or some steps of 30 s away."""
    counter = int((time.time() if now is None else now) // 30) + step
    digest = hmac.new(base64.b32decode(secret), struct.pack(">Q", counter), hashlib.sha1).digest()
    at = digest[-1] & 15
    return f"{(int.from_bytes(digest[at : at + 4], 'big') & 0x7FFFFFFF) % 1_000_000:06d}"


class Console:
    """A terminal of a device on which a program asks: what it says, and what is typed once it has said it."""

    def __init__(self, container: str, *words: str) -> None:
        self._terminal, inside = os.openpty()
        self._process = subprocess.Popen(
            ["podman", "exec", "-i", "-t", container, *words],
            stdin=inside, stdout=inside, stderr=inside, start_new_session=True,
        )  # fmt: skip
        os.close(inside)
        self.text = ""
        """All that it has said."""

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._terminal)
        self._process.kill()
        self._process.wait()

    def until(self, pattern: str, seconds: float = 30) -> str:
        """What it says from now on, up to the first match of ``pattern``."""
        said, end = "", time.monotonic() + seconds
        while not re.search(pattern, said):
            left = end - time.monotonic()
            if left <= 0 or not select.select([self._terminal], [], [], left)[0]:
                raise AssertionError(f"no {pattern!r} within {seconds} s, but {said!r} after {self.text!r}")
            try:
                more = os.read(self._terminal, 4096).decode(errors="replace")
            except OSError:  # the other end is closed
                more = ""
            if not more:
                raise AssertionError(f"it ended before {pattern!r}: {said!r} after {self.text!r}")
            said += more
            self.text += more
        return said

    def type(self, line: str) -> None:
        """One line, with Enter."""
        os.write(self._terminal, f"{line}\n".encode())


def log_in(container: str, user: str, password: str) -> bool:
    """Whether the device's ``login`` lets somebody in, as at a console: by a command that only a shell can answer."""
    with Console(container, "login") as console:
        console.until(r"login: $")
        console.type(user)
        console.until(r"[Pp]assword: ?$")
        console.type(password)
        said = console.until(r"[Ii]ncorrect|[#$] (\x1b\[6n)?$|[Aa]ccount.*locked")
        if not re.search(r"[#$] ", said):
            return counted(False)
        console.type("echo in $((40 + 2)); exit")
        console.until(r"in 42\r?\n")
        return counted(True)


class Token:
    """A FIDO2 token as an ssh-agent sees it: signs as one does, with or without having verified its user.

    The signature is what sshd judges, and it is the real thing: over the hash of the application, flags, a counter and
    the hash of the message. Only the hardware is missing.
    """

    APPLICATION = b"ssh:"
    KIND = b"sk-ssh-ed25519@openssh.com"

    def __init__(self) -> None:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        self._key = Ed25519PrivateKey.generate()
        raw = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.blob = _string(self.KIND) + _string(raw) + _string(self.APPLICATION)
        self.counter = 0

    @property
    def public(self) -> str:
        return f"{self.KIND.decode()} {base64.b64encode(self.blob).decode()} token"

    def sign(self, message: bytes, *, verified: bool) -> bytes:
        """The user touched it (bit 0), and gave PIN or finger (bit 2) or not."""
        self.counter += 1
        flags = struct.pack(">BI", 5 if verified else 1, self.counter)
        signed = hashlib.sha256(self.APPLICATION).digest() + flags + hashlib.sha256(message).digest()
        return _string(self.KIND) + _string(self._key.sign(signed)) + flags

    @contextlib.contextmanager
    def agent(self, path: Path, *, verified: bool = True) -> Iterator[Path]:
        """An agent that holds this token, at that socket."""
        path.unlink(missing_ok=True)
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        server.bind(str(path))
        server.listen(4)

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    while request := _message(client):
                        client.sendall(_string(self._answer(request, verified)))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield path
        finally:
            server.shutdown(socket.SHUT_RDWR)
            server.close()
            thread.join(5)

    def _answer(self, request: bytes, verified: bool) -> bytes:
        if request[0] == 11:  # who is there?
            return struct.pack(">BI", 12, 1) + _string(self.blob) + _string(b"token")
        if request[0] == 13:  # sign
            size = struct.unpack(">I", request[1:5])[0]
            rest = request[5 + size :]
            length = struct.unpack(">I", rest[:4])[0]
            return b"\x0e" + _string(self.sign(rest[4 : 4 + length], verified=verified))
        return b"\x05"


def _string(content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + content


def _message(client: socket.socket) -> bytes:
    head = _exactly(client, 4)
    return _exactly(client, struct.unpack(">I", head)[0]) if head else b""


def _exactly(client: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        try:
            part = client.recv(size - len(got))
        except OSError:
            return b""
        if not part:
            return b""
        got += part
    return got
