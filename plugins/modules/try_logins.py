#!/usr/bin/python
# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Try known default logins on one device over telnet and SSH, from a vantage host that is not the controller.

Runs on the vantage host (Python 3.9 or later). What was refused, what was accepted and what could not be judged are
three different answers: a connection that the device dropped says nothing about a password.
"""

from __future__ import annotations

DOCUMENTATION = r"""
module: try_logins
short_description: Try default logins on one device
version_added: 0.1.0
description:
  - Tries user and password pairs over SSH and telnet and reports which users were let in, never by which password.
  - A server that offers no password method has refused them all, and is asked only once for each account.
  - A dropped or reset connection counts as not assessed, never as refused. OpenSSH 9.8 and later punish failed
    logins by source address, so attempts are bundled, sent one connection after another, and given up when the
    server starts to punish.
  - Set C(no_log) on the task. The pairs may hold a site's own passwords.
requirements:
  - OpenSSH client 8.4 or later on the vantage host
author: The Sallyport authors (@sallyport)
options:
  services:
    description: Where to try.
    type: list
    elements: dict
    required: true
    suboptions:
      kind: {description: The protocol spoken there., type: str, choices: [ssh, telnet], required: true}
      address: {description: The device's address., type: str, required: true}
      port: {description: The TCP port., type: int, required: true}
      software: {description: How the server greeted., type: str, default: ""}
      per_second: {description: New connections a second that the policy lets through; 0 is any., type: float, default: 0}
  pairs:
    description: User and password pairs, likeliest first.
    type: list
    elements: list
    required: true
  never_from:
    description: Addresses of controllers. Where this vantage has one of them, nothing is tried.
    type: list
    elements: str
    default: []
  budget:
    description: Seconds after which the rest counts as not assessed.
    type: int
    default: 60
"""

EXAMPLES = r"""
- name: Try the default logins
  sallyport.iot.try_logins:
    services: [{kind: ssh, address: 198.51.100.20, port: 22, software: SSH-2.0-OpenSSH_9.2p1}]
    pairs: [[root, root], [admin, admin]]
    never_from: ["{{ ansible_facts.sallyport_device.connection.client }}"]
  delegate_to: vantage-wan
  no_log: true
"""

RETURN = r"""
services:
  description: One entry for each of O(services), with what happened there.
  returned: always
  type: list
  elements: dict
  sample:
    - {kind: ssh, address: 198.51.100.20, port: 22, offered: [publickey], accepted: [], refused: 61,
       not_assessed: 0, reason: password login not offered}
"""

import os
import re
import signal
import socket
import stat
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

from ansible.module_utils.basic import AnsibleModule

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing costs 10 ms of start on a small vantage host
    from typing import Any

    Numbered = tuple[int, str, str]
    """Position in the list, user, password."""

PASSWORDS_A_CONNECTION = 5
"""Below OpenSSH's and dropbear's usual limits (6 and 10), so that the server answers each one."""

TELNET_AT_ONCE = 6
"""Conversations side by side: a refusal takes a login program three seconds."""

ATTEMPT_SECONDS = 8
"""A PAM failure delay is 2 to 3 seconds; a slow device adds its hashing."""

CONTINUE = re.compile(r"Authentications that can continue: (.*)")
ACCEPTED = re.compile(r"^(debug1: )?(Authenticated to |Authentication succeeded)", re.MULTILINE)
OPENSSH = re.compile(r"OpenSSH_(\d+)\.(\d+)")

# Each prompt takes the next line. The counter is a file because every prompt is a new process.
ASKPASS = """#!/bin/sh
dir=${0%/*}
n=$(cat "$dir/next")
echo $((n + 1)) >"$dir/next"
sed -n "${n}p" "$dir/passwords"
"""


class Trial:
    """What happened with one service."""

    def __init__(self, service: dict[str, Any], pairs: list[Numbered], end: float) -> None:
        self.service = service
        self.pairs = pairs
        self.end = end
        self.offered: set[str] = set()
        self.accepted: list[int] = []
        self.refused: set[int] = set()
        self.reason = ""

    def left(self) -> float:
        """Seconds left of the budget."""
        return self.end - time.monotonic()

    def result(self) -> dict[str, Any]:
        done = len(self.refused) + len(self.accepted)
        # After a hit the question is answered; the rest was left alone on purpose.
        untried = 0 if self.accepted else len(self.pairs) - done
        return {
            "kind": self.service["kind"],
            "address": self.service["address"],
            "port": self.service["port"],
            "offered": sorted(self.offered),
            "accepted": sorted({user for number, user, _password in self.pairs if number in self.accepted}),
            "refused": len(self.refused),
            "not_assessed": untried,
            "reason": self.reason,
        }


def by_user(pairs: list[Numbered]) -> dict[str, list[Numbered]]:
    """Pairs by user, in the order of first appearance."""
    users: dict[str, list[Numbered]] = {}
    for pair in pairs:
        users.setdefault(pair[1], []).append(pair)
    return users


def bundles(pairs: list[Numbered]) -> list[list[Numbered]]:
    """Pairs in connections: one user each, a few passwords each, users taking turns so that each one's likeliest
    passwords come first."""
    queues = [
        [own[i : i + PASSWORDS_A_CONNECTION] for i in range(0, len(own), PASSWORDS_A_CONNECTION)]
        for own in by_user(pairs).values()
    ]
    longest = max((len(queue) for queue in queues), default=0)
    return [queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)]


# ---------------------------------------------------------------------------------------------------------------- ssh


def supported(kind: str) -> str:
    """All algorithms that this ssh knows, for old devices that know nothing newer. Nothing secret travels: the only
    passwords sent are public knowledge or about to be replaced."""
    listed = subprocess.run(["ssh", "-Q", kind], capture_output=True, text=True, check=False).stdout.split()
    return ",".join(listed)


def ssh_command(service: dict[str, Any], user: str, options: dict[str, str]) -> list[str]:
    """An ssh that obeys no configuration of this host, remembers nothing and asks nobody."""
    fixed = {
        "BatchMode": "no",
        "ConnectTimeout": str(ATTEMPT_SECONDS),
        "ControlMaster": "no",
        "ControlPath": "none",
        "GlobalKnownHostsFile": "/dev/null",
        "GSSAPIAuthentication": "no",
        "HostbasedAuthentication": "no",
        "IdentityAgent": "none",
        "PubkeyAuthentication": "no",
        "StrictHostKeyChecking": "no",
        "UserKnownHostsFile": "/dev/null",
        **{f: supported(k) for f, k in (("Ciphers", "cipher"), ("KexAlgorithms", "kex"), ("MACs", "mac"))},
        "HostKeyAlgorithms": supported("key"),
        **options,
    }
    command = ["ssh", "-F", "none", "-v", "-T", "-p", str(service["port"])]
    for name, value in fixed.items():
        command += ["-o", f"{name}={value}"] if value else []
    # "--" ends the options: a user name of a site's list cannot become one.
    return [*command, "-l", user, "--", service["address"], "exit 0"]


def run_ssh(command: list[str], seconds: float, folder: str | None = None) -> str:
    """What ssh said. It runs in a session of its own: it has no terminal to ask on, and no child outlives it."""
    environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C"}
    if folder is not None:
        environment.update(SSH_ASKPASS=os.path.join(folder, "ask"), SSH_ASKPASS_REQUIRE="force", DISPLAY=":0")
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
        encoding="utf-8",
        errors="replace",
    )
    try:
        return process.communicate(timeout=max(1.0, seconds))[1]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()[1] + "\nno answer in time"


def last_words(said: str) -> str:
    """The last line of ssh that is no debugging."""
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith("debug")]
    return lines[-1][:200] if lines else "the connection ended without a word"


def ask_methods(trial: Trial, user: str) -> set[str] | None:
    """Which login methods the server offers this user; None where it did not say."""
    command = ssh_command(trial.service, user, {"PreferredAuthentications": "none"})
    said = run_ssh(command, min(trial.left(), ATTEMPT_SECONDS + 2))
    if ACCEPTED.search(said):
        trial.accepted.append(next(number for number, name, _password in trial.pairs if name == user))
        trial.reason = f"'{user}' is let in without any password"
        return set()
    found = CONTINUE.search(said)
    if found is None:
        trial.reason = "could not ask for the login methods: " + last_words(said)
        return None
    return set(found[1].strip().split(","))


def try_bundle(trial: Trial, bundle: list[Numbered], method: str) -> bool:
    """Try the passwords of one bundle over one connection. False where the server gave no answer to any of them."""
    with tempfile.TemporaryDirectory(prefix="sallyport-") as folder:
        os.chmod(folder, stat.S_IRWXU)
        for name, text, mode in (
            ("ask", ASKPASS, stat.S_IRWXU),
            ("passwords", "".join(f"{password}\n" for _number, _user, password in bundle), stat.S_IRUSR),
            ("next", "1\n", stat.S_IRUSR | stat.S_IWUSR),
        ):
            path = os.path.join(folder, name)
            with open(
                os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8"
            ) as file:
                file.write(text)
        options = {"PreferredAuthentications": method, "NumberOfPasswordPrompts": str(len(bundle))}
        command = ssh_command(trial.service, bundle[0][1], options)
        said = run_ssh(command, min(trial.left(), ATTEMPT_SECONDS * len(bundle)), folder)
    # The server repeats its methods once before the first password and once after each one that it refused.
    refused = max(0, len(CONTINUE.findall(said)) - 1)
    trial.refused.update(number for number, _user, _password in bundle[:refused])
    if ACCEPTED.search(said) and refused < len(bundle):
        trial.accepted.append(bundle[refused][0])
        return True
    if refused < len(bundle):
        trial.reason = "the server stopped answering: " + last_words(said)
    return refused > 0


def try_ssh(trial: Trial) -> None:
    """Try every pair over SSH, until one is accepted, the server stops answering, or the budget ends."""
    methods: dict[str, str] = {}
    for user, own in by_user(trial.pairs).items():
        offered = ask_methods(trial, user)
        if offered is None or trial.accepted:
            return
        trial.offered |= offered
        usable = [method for method in ("password", "keyboard-interactive") if method in offered]
        if usable:
            methods[user] = usable[0]
        else:
            trial.refused.update(number for number, _user, _password in own)
    if not methods:
        trial.reason = "password login not offered"
        return
    version = OPENSSH.search(trial.service["software"])
    # One connection with five failures takes longer than the 5 s of penalty that it earns, so one after another
    # never adds up to the 15 s at which OpenSSH 9.8 and later shut the source out.
    punishes = version is not None and (int(version[1]), int(version[2])) >= (9, 8)
    waiting = bundles([pair for pair in trial.pairs if pair[1] in methods])
    pause = 1 / trial.service["per_second"] if trial.service["per_second"] else 0.0
    workers = 1 if punishes or pause else 4
    with ThreadPoolExecutor(workers) as pool:
        while waiting and not trial.accepted:
            if trial.left() < ATTEMPT_SECONDS:
                trial.reason = "the time budget ended first"
                return
            time.sleep(pause)  # the policy's own rate for new connections
            now, waiting = waiting[:workers], waiting[workers:]
            answered = list(pool.map(lambda bundle: try_bundle(trial, bundle, methods[bundle[0][1]]), now))
            if not all(answered):
                return
            # A server with a lower limit closes early: what it left unanswered goes into a new connection.
            rest = [[pair for pair in bundle if pair[0] not in trial.refused] for bundle in now]
            waiting = [bundle for bundle in rest if bundle] + waiting
    if not trial.accepted and len(trial.refused) == len(trial.pairs):
        trial.reason = "each one refused"


# ------------------------------------------------------------------------------------------------------------- telnet

# RFC 854: commands, and the two options that make a terminal.
IAC = 255
DONT = 254
DO = 253
WONT = 252
WILL = 251
SB = 250
SE = 240
ECHO = 1
SUPPRESS_GO_AHEAD = 3
LOGIN_PROMPT = re.compile(rb"(?i)(?<!last )(login|user ?name|user)\s*:\s*$")
PASSWORD_PROMPT = re.compile(rb"(?i)password[^\r\n]*:\s*$")
SHELL_PROMPT = re.compile(rb"[#$>%]\s*$")
COUNTED = re.compile(rb"sally42port")
REFUSAL = re.compile(rb"(?i)(incorrect|invalid|denied|failure|bad password|bad salt)")
"""What a login program says to a wrong password; the last is BusyBox before an account whose field is no hash, so that
nothing can ever match: it ends there, at once."""
ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
"""A shell with line editing asks for the cursor's place right behind its prompt."""
QUIET = 0.2
"""Seconds without a byte after which the end of the text is taken for a prompt."""


class Dropped(Exception):
    """The device ended the conversation."""


class Telnet:
    """One telnet conversation. Python 3.13 has no telnetlib."""

    def __init__(self, address: str, port: int) -> None:
        self.socket = socket.create_connection((address, port), timeout=ATTEMPT_SECONDS)
        self.raw = b""

    def close(self) -> None:
        self.socket.close()

    def send(self, text: str) -> None:
        """Send one line."""
        try:
            self.socket.sendall(text.encode().replace(b"\xff", b"\xff\xff") + b"\r\n")
        except OSError as error:
            raise Dropped(str(error)) from error

    def until(self, *patterns: re.Pattern[bytes]) -> int:
        """Read until the text ends in one of the patterns and nothing more comes. Returns the pattern's position;
        -1 when none came in time. Raises Dropped when the device hangs up; its last text is the message."""
        text = b""
        end = time.monotonic() + ATTEMPT_SECONDS
        while True:
            met = next((n for n, pattern in enumerate(patterns) if pattern.search(text)), -1)
            wait = end - time.monotonic()
            if wait <= 0:
                return met
            self.socket.settimeout(min(wait, QUIET) if met >= 0 else wait)
            try:
                more = self.socket.recv(4096)
            except socket.timeout:  # noqa: UP041  (Python 3.9: not yet an alias of TimeoutError)
                return met
            except OSError as error:
                raise Dropped(str(error)) from error
            if not more:
                raise Dropped(text.decode("utf-8", "replace").strip() or "the device closed the connection")
            text = ESCAPES.sub(b"", text + self.negotiate(more).replace(b"\x00", b""))

    def negotiate(self, data: bytes) -> bytes:
        """Take telnet's commands out of what came, and answer them: yes to echo and no go-ahead, no to the rest."""
        self.raw += data
        text, at, raw = bytearray(), 0, self.raw
        while at < len(raw):
            if raw[at] != IAC:
                text.append(raw[at])
                at += 1
                continue
            if at + 1 >= len(raw):
                break
            command = raw[at + 1]
            if command in (WILL, WONT, DO, DONT):
                if at + 2 >= len(raw):
                    break
                self.answer(command, raw[at + 2])
                at += 3
            elif command == SB:
                close = raw.find(bytes((IAC, SE)), at)
                if close < 0:
                    break
                at = close + 2
            else:
                if command == IAC:
                    text.append(IAC)
                at += 2
        self.raw = raw[at:]
        return bytes(text)

    def answer(self, command: int, option: int) -> None:
        """Answer one request. A WONT or DONT needs none."""
        agreed = option in (ECHO, SUPPRESS_GO_AHEAD)
        reply = {WILL: DO if agreed else DONT, DO: WILL if option == SUPPRESS_GO_AHEAD else WONT}.get(command)
        if reply is not None:
            try:
                self.socket.sendall(bytes((IAC, reply, option)))
            except OSError as error:
                raise Dropped(str(error)) from error


def telnet_attempt(conversation: Telnet, user: str, password: str) -> bool:
    """Give one pair at a login prompt that is already there. True when it is let in; False when the login prompt is
    back. Raises Dropped when it ends otherwise."""
    conversation.send(user)
    met = conversation.until(PASSWORD_PROMPT, SHELL_PROMPT, LOGIN_PROMPT)
    if met == 0:
        conversation.send(password)
        met = conversation.until(LOGIN_PROMPT, SHELL_PROMPT)
        if met == 0:
            return False
    elif met == 2:
        return False
    if met < 0:
        raise Dropped("neither a shell nor a new login prompt came")
    # What looks like a prompt may be a line of text: only a shell counts, and only a command line prompts again.
    conversation.send("echo sally$((20+22))port")
    met = conversation.until(LOGIN_PROMPT, COUNTED, SHELL_PROMPT)
    if met < 0:
        raise Dropped("what answered is no shell")
    return met > 0


def telnet_bundle(trial: Trial, bundle: list[Numbered]) -> bool:
    """Try a few pairs over one connection. False where the device gave no answer to any."""
    answered = False
    try:
        conversation = Telnet(trial.service["address"], trial.service["port"])
    except OSError as error:
        trial.reason = f"could not connect: {error}"
        return False
    try:
        if conversation.until(LOGIN_PROMPT) < 0:
            raise Dropped("no login prompt came")
        for number, user, password in bundle:
            try:
                accepted = telnet_attempt(conversation, user, password)
            except Dropped as error:
                if not REFUSAL.search(str(error).encode()):
                    raise
                # Told no, and then hung up on: an answer, and the end of this conversation.
                trial.refused.add(number)
                return True
            answered = True
            if accepted:
                trial.accepted.append(number)
                return True
            trial.refused.add(number)
    except Dropped as error:
        trial.reason = f"the device stopped answering: {error}"
    finally:
        conversation.close()
    return answered


def try_telnet(trial: Trial) -> None:
    """Try every pair over telnet, until one is accepted, the device stops answering, or the budget ends."""
    pause = 1 / trial.service["per_second"] if trial.service["per_second"] else 0.0
    workers = 1 if pause else TELNET_AT_ONCE
    # Three failures are what most login programs take before they hang up.
    waiting = [trial.pairs[i : i + 3] for i in range(0, len(trial.pairs), 3)]
    with ThreadPoolExecutor(TELNET_AT_ONCE) as pool:
        while waiting and not trial.accepted:
            if trial.left() < 3 * ATTEMPT_SECONDS:
                trial.reason = "the time budget ended first"
                return
            time.sleep(pause)  # the policy's own rate for new connections
            now, waiting = waiting[:workers], waiting[workers:]
            answered = list(pool.map(lambda bundle: telnet_bundle(trial, bundle), now))
            if not all(answered):
                # A telnetd lets one or two callers wait, so a busy one loses some of ours that come at once: that says
                # nothing yet. One that does not answer a single caller has stopped.
                if workers == 1:
                    return
                workers = 1
            rest = [[pair for pair in bundle if pair[0] not in trial.refused] for bundle in now]
            waiting = [bundle for bundle in rest if bundle] + waiting
    if not trial.accepted and len(trial.refused) == len(trial.pairs):
        trial.reason = "each one refused"


# --------------------------------------------------------------------------------------------------------------- main


def local_address(address: str) -> str:
    """The address that this host uses towards ``address``; empty where there is no route. Sends nothing."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def try_service(
    service: dict[str, Any], pairs: list[Numbered], never_from: set[str], end: float
) -> dict[str, Any]:
    trial = Trial(service, pairs, end)
    if local_address(service["address"]) in never_from:
        trial.reason = "this vantage has the controller's own address, which failed logins would get punished"
    elif service["kind"] == "ssh":
        try_ssh(trial)
    else:
        try_telnet(trial)
    return trial.result()


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "services": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "kind": {"type": "str", "choices": ["ssh", "telnet"], "required": True},
                    "address": {"type": "str", "required": True},
                    "port": {"type": "int", "required": True},
                    "software": {"type": "str", "default": ""},
                    "per_second": {"type": "float", "default": 0},
                },
            },
            # Masking every "root" and "admin" in the result would make it unreadable; the task has no_log instead.
            "pairs": {"type": "list", "elements": "list", "required": True, "no_log": False},
            "never_from": {"type": "list", "elements": "str", "default": []},
            "budget": {"type": "int", "default": 60},
        },
        supports_check_mode=True,  # it changes nothing
    )
    pairs = [
        (number, str(user), str(password)) for number, (user, password) in enumerate(module.params["pairs"])
    ]
    end = time.monotonic() + module.params["budget"]
    never_from = set(module.params["never_from"])
    with ThreadPoolExecutor(max(1, len(module.params["services"]))) as pool:
        jobs = [pool.submit(try_service, s, pairs, never_from, end) for s in module.params["services"]]
        services = [job.result() for job in jobs]
    module.exit_json(changed=False, services=services)


if __name__ == "__main__":
    main()
