# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The controller's half of commit: ask what is there, send what differs, come back over a new connection, confirm.

The device's half is program.sh; docs/commit.md draws both. Roles' action plugins call :func:`run` with a
:class:`Transaction` when its content must not travel through task arguments.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from ansible import context
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.utils.display import Display
from ansible_collections.sallyport.iot.plugins.plugin_utils.device import (
    generations,
    hook,
    loopback,
    mounts,
    payload,
    room,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import (
    Exchange,
    ExchangeError,
    Reply,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.transaction import (
    File,
    Transaction,
    printable,
    same_digest,
    shown,
)

_SYMBOLIC = re.compile(r"[-dl]([rwxsStT-]{9})")


class CommitError(AnsibleError):
    """A commit was refused or taken back. ``result`` is what the task reports besides the message."""

    def __init__(self, message: str, **result: Any) -> None:
        super().__init__(message)
        self.result = result


@dataclass(frozen=True)
class Found:
    """What the device has where one file of the transaction is to be."""

    kind: str
    digest: str = ""
    mode: str = ""
    owners: tuple[str, ...] = ()
    size: int = 0
    target: str = ""
    real: str = ""
    content: str = ""


def run(
    action: Any,
    task_vars: dict[str, Any],
    transaction: Transaction,
    *,
    exchange: Exchange | None = None,
    before_arming: Callable[[dict[str, str]], None] = lambda public: None,
) -> dict[str, Any]:
    """Make ``transaction`` true on the device of ``action``'s task, and return the task's result.

    Args:
        before_arming: called with destination -> public part of all generated files once they are staged, before
            anything live changes. What it raises ends the change with nothing done.

    Raises:
        CommitError: refused (nothing changed) or reverted (the device is as it was).
        ExchangeError, AnsibleConnectionFailure: the device was lost before anything was sent.
    """
    driver = _Driver(action, task_vars, transaction, exchange or Exchange(action), before_arming)
    with _quiet_connection() if transaction.secrets else contextlib.nullcontext():
        return driver.run()


@contextlib.contextmanager
def _quiet_connection() -> Iterator[None]:
    """With -vvv the ssh connection prints every reply as it came, and a check may have quoted a secret file."""
    display = Display()
    saved = display.verbosity
    display.verbosity = min(saved, 2)
    try:
        yield
    finally:
        display.verbosity = saved


class _Driver:
    def __init__(
        self,
        action: Any,
        task_vars: dict[str, Any],
        transaction: Transaction,
        exchange: Exchange,
        before_arming: Callable[[dict[str, str]], None],
    ) -> None:
        self.before_arming = before_arming
        self.action = action
        self.task_vars = task_vars
        self.wanted = transaction
        self.exchange = exchange
        self.host = str(task_vars.get("inventory_hostname", "this host"))
        self.check_mode = bool(action._task.check_mode)
        self.with_diff = bool(action._task.diff)
        self.started_with = exchange.count
        self.loopback: loopback.Loopback | None = None
        self.needs: list[room.Need] = []
        self.size = 0
        self.armed = False

    def run(self) -> dict[str, Any]:
        reply = self._query()  # one that carries no standard input says so, and why
        if self.exchange.transport not in ("ssh", "local"):
            raise self._refused(
                f"the connection {self.exchange.transport!r} leads to the device by another road than SSH: whether an operator "
                "still gets in could not be proved over it. Use ansible.builtin.ssh, or local on the device itself."
            )
        reply = self._wait_for_others(reply)
        found = self._judge(reply)
        self._keep_hook(reply)
        changed = self._changed(found)
        live = reply.get("live", "same")
        result: dict[str, Any] = {
            "changed": bool(changed) or live != "same",
            "files": [{"dest": printable(item.dest), "change": change} for _, item, change in changed],
            "live": live,
        }
        if self.wanted.tell:
            result["told"] = reply.get("told")
        if self.with_diff:
            result["diff"] = self._diff(changed, found, live)
        if not result["changed"]:
            return self._result(result, "unchanged", "nothing to do: files and live state are as wanted")
        for index, item in enumerate(self.wanted.files):
            if item.replaces and not (
                found[index].kind == "file" and found[index].digest.split()[:1] == [item.replaces]
            ):
                raise self._refused(
                    f"{shown(item.dest)} is not the file that this change was made for; somebody changed it. Run again."
                )
        if self.check_mode:
            return self._result(result, "would_change", self._summary(changed, live))
        identity = secrets.token_hex(8)
        if self.exchange.transport == "local":
            self.loopback = self._look_over_loopback(result)
            result["loopback"] = self.loopback.level
        sizes = [(item, found[index].size) for index, item, _ in changed]
        self.needs = room.needs(self.wanted.state_dir, sizes, mounts.parse(reply.all("mount")))
        self._send(identity, reply, [(index + 1, item) for index, item, _ in changed], result)
        result["generation"] = self._confirm(identity, result)
        if self.wanted.factory:
            result["generation"] = self._leave(result)
        else:
            self._prune(reply)
        result["confirmed"] = "local" if self.exchange.transport == "local" else "ssh"
        return self._result(result, "confirmed", self._summary(changed, live))

    # --- what is there --------------------------------------------------------------------------------------

    def _query(self) -> Reply:
        show = []
        if self.with_diff:
            show = [
                index
                for index, item in enumerate(self.wanted.files)
                if item.kind in ("file", "absent")
                and not item.secret
                and len(item.content) <= payload.SHOWN_BYTES
            ]
        more = b""
        if sum(len(item.content) for item in self.wanted.files) > room.LARGE:
            more = room.MEMORY
        sweep = not self.check_mode
        reply = self.exchange.ask(payload.query(self.wanted, show, sweep=sweep) + more)
        if reply.status == 0 and payload.looked_at(reply) is None:
            reply = self.exchange.ask(payload.query(self.wanted, show, together=1, sweep=sweep) + more)
        if reply.status != 0:
            raise self._refused(
                f"the device could not be examined: {self._scrub(reply.errors.strip()[-600:])}"
            )
        return reply

    def _wait_for_others(self, reply: Reply) -> Reply:
        """A pending change of a dead or another controller ends by itself; wait for that, or end it if nobody does."""
        waited = time.monotonic()
        while "pending" in reply:
            identity, who, name = (reply.get("pending") + "  ").split(" ", 2)
            if self.check_mode:
                raise self._refused(
                    f"an unconfirmed change ({name.strip() or identity}) is pending; it ends by itself. Run again."
                )
            if who == "nobody":
                if "program" not in reply:
                    self.exchange.run(payload.reinstall(self.wanted.state_dir))
                self.exchange.run(
                    payload.call(
                        self.wanted.state_dir,
                        "recover",
                        "the program that made the change was killed, and its timer too",
                    )
                )
            elif time.monotonic() - waited > 2 * 3600 + 60:
                raise self._refused(f"another change ({name.strip()}) is still pending after two hours")
            else:
                if time.monotonic() - waited > self.wanted.confirm.seconds * 2 + 30:
                    raise self._refused(
                        f"another controller's change ({name.strip()}, {identity}) is pending on this device; it ends by itself. "
                        "Run again when it has."
                    )
                time.sleep(1)
            if time.monotonic() - waited > self.wanted.confirm.seconds * 2 + 60:
                raise self._refused(f"the pending change {identity} could not be ended")
            reply = self._query()
        return reply

    def _judge(self, reply: Reply) -> list[Found]:
        """Refuse what cannot be promised, by name, before anything is sent."""
        if reply.get("uid") != "0":
            raise self._refused(
                f"root is needed on the device, but the login has uid {reply.get('uid') or 'unknown'}. Set ansible_become: true (and "
                "ansible_become_method, ansible_become_password) for this host."
            )
        init = reply.get("init")
        if init not in ("systemd", "busybox"):
            raise self._refused(
                f"the init system is {init!r} ({reply.get('pid1') or 'pid 1 unknown'}): an unconfirmed change could not be taken back "
                "at boot. Supported are systemd and BusyBox init with an /etc/inittab."
            )
        found_mounts = mounts.parse(reply.all("mount"))
        points = {mount.point for mount in found_mounts}
        places = {
            folder: reply.get(f"place {index}") or folder
            for index, folder in enumerate(payload.places(self.wanted))
        }
        state = places[self.wanted.state_dir]
        problem = mounts.why_not(state, found_mounts)
        if problem:
            led = f" ({self.wanted.state_dir} leads there)" if state != self.wanted.state_dir else ""
            raise self._refused(problem + led)
        if "stranger" in reply:
            raise self._refused(
                f"state_dir {self.wanted.state_dir} holds {shown(reply.get('stranger'))}, which is not Sallyport's: only root can read "
                f"that folder once it is used. Give it one of its own, such as {self.wanted.state_dir}/sallyport."
            )
        kinds = _keyed(reply.all("kind"))
        digests, metas = payload.looked_at(reply) or ({}, {})
        found = []
        for index, item in enumerate(self.wanted.files):
            key = str(index)
            kind = kinds.get(key, "unknown")
            mode, owners, size = _meta(metas.get(key, ""))
            here = Found(
                kind=kind,
                digest=digests.get(key, ""),
                mode=mode,
                owners=owners,
                size=size,
                target=reply.get(f"target {key}"),
                real=reply.get(f"real {key}"),
                content=reply.get(f"content {key}"),
            )
            if kind in ("directory", "special", "unknown", "dangling"):
                what = {
                    "directory": "a directory",
                    "special": "no regular file",
                    "dangling": "a link that leads nowhere",
                }
                raise self._refused(
                    f"{shown(item.dest)} is {what.get(kind, 'not readable')}; a file was expected there, or nothing."
                )
            if (here.real or _lies(item.dest, places)) in points:
                raise self._refused(
                    f"{shown(item.dest)} is a mount point: it cannot be replaced by a rename. Change it where it is mounted from."
                )
            found.append(here)
        lie = [
            here.real or _lies(item.dest, places) for item, here in zip(self.wanted.files, found, strict=True)
        ]
        if init == "busybox":
            problem = mounts.too_late((state, _lies(hook.INITTAB, places), *lie), found_mounts)
            if problem:
                raise self._refused(problem)
        twice = [path for path, times in Counter(lie).items() if times > 1]
        if twice:
            raise self._refused(
                f"two of the files are one on this device, {shown(twice[0])}: links lead there. Name it once."
            )
        # A link that stands for a file is kept; the file that it names is what changes.
        real = {
            item.dest: here.real for item, here in zip(self.wanted.files, found, strict=True) if here.real
        }
        self.wanted = replace(
            self.wanted,
            files=tuple(
                _as_found(replace(item, dest=here.real) if here.real else item, here)
                for item, here in zip(self.wanted.files, found, strict=True)
            ),
            forgets=(*self.wanted.forgets, *(real[path] for path in self.wanted.forgets if path in real)),
        )
        return found

    def _keep_hook(self, reply: Reply) -> None:
        """Whatever a role wants in /etc/inittab, the line that takes back unconfirmed changes stays first."""
        if reply.get("init") != "busybox":
            return
        line = hook.line(self.wanted.state_dir)
        self.wanted = replace(
            self.wanted,
            files=tuple(
                replace(item, content=line + item.content.replace(line, b""))
                if item.dest == hook.INITTAB and item.kind == "file"
                else item
                for item in self.wanted.files
            ),
        )

    def _changed(self, found: Sequence[Found]) -> list[tuple[int, File, str]]:
        changed = []
        for index, (item, here) in enumerate(zip(self.wanted.files, found, strict=True)):
            change = _difference(item, here)
            if change:
                changed.append((index, item, change))
        return changed

    def _diff(
        self, changed: Sequence[tuple[int, File, str]], found: Sequence[Found], live: str
    ) -> list[dict[str, str]]:
        diff = []
        for index, item, change in changed:
            here = found[index]
            header = {
                "before_header": f"{shown(item.dest)} ({here.kind})",
                "after_header": f"{shown(item.dest)} ({change})",
            }
            if item.secret or len(item.content) > payload.SHOWN_BYTES or here.size > payload.SHOWN_BYTES:
                why = "secret" if item.secret else "too large to show"
                diff.append({**header, "before": f"({why}, {here.kind})\n", "after": f"({why}, {change})\n"})
                continue
            before = (
                here.content
                if here.kind == "file"
                else f"link to {shown(here.target)}\n"
                if here.kind == "link"
                else ""
            )
            after = (
                item.content.decode("utf-8", "replace")
                if item.kind == "file"
                else f"link to {shown(item.target)}\n"
                if item.kind == "link"
                else ""
            )
            if change == "mode":
                before, after = (
                    f"{' '.join((here.mode, *here.owners[:2]))}\n",
                    f"{item.mode} {item.owner} {item.group}\n",
                )
            diff.append({**header, "before": self._scrub(before), "after": self._scrub(after)})
        if live != "same":
            diff.append(
                {
                    "before_header": f"live state of {self.wanted.name}",
                    "after_header": f"live state of {self.wanted.name}",
                    "before": "not what the last confirmed change left\n"
                    if live == "differs"
                    else "never confirmed\n",
                    "after": "loaded again from the files\n",
                }
            )
        return diff

    # --- the change -------------------------------------------------------------------------------------------

    def _send(
        self, identity: str, reply: Reply, changed: list[tuple[int, File]], result: dict[str, Any]
    ) -> None:
        install = not same_digest(payload.device_program(), reply.get("program"))
        generates = any(item.generate for _, item in changed)
        program = payload.stage(
            self.wanted, identity, changed, install=install, arm=not generates, by=self._who(), when=_now(),
            first=room.refusal(self.needs),
        )  # fmt: skip
        self.size = len(program)
        problem = room.too_large(reply, self.size)
        if problem:
            raise self._refused(problem, result)
        answer = self._exchange_or_unknown(program, result)
        if answer is None:
            return
        self._check_refusal(answer, identity, changed, result)
        if generates:
            result["public"] = {
                item.dest: answer.get(f"public {number}").strip() for number, item in changed if item.generate
            }
            keys = tuple(value for value in result["public"].values() if value)
            self.wanted = replace(
                self.wanted,
                confirm=replace(self.wanted.confirm, host_keys=(*self.wanted.confirm.host_keys, *keys)),
            )
            self.before_arming(result["public"])
            answer = self._exchange_or_unknown(payload.arm(self.wanted, identity), result)
            if answer is not None:
                self._check_refusal(answer, identity, changed, result)

    def _exchange_or_unknown(self, program: bytes, result: dict[str, Any]) -> Reply | None:
        """None where the device was lost on the way: whether it began is asked for over a new connection."""
        try:
            return self.exchange.run(program)
        except (AnsibleConnectionFailure, ExchangeError) as error:
            result["tried"] = [self._scrub(str(error))]
            return None

    def _check_refusal(
        self, answer: Reply, identity: str, changed: Sequence[tuple[int, File]], result: dict[str, Any]
    ) -> None:
        if "refused" not in answer and answer.status == 0:
            self.armed = self.armed or "armed" in answer
            return
        text = self._scrub(answer.get("refused"))
        output = self._scrub(answer.get("output").strip())
        if text == "room":
            raise self._refused(room.shortage(answer, self.needs), result)
        by_number = {str(number): item for number, item in changed}
        for number, item in by_number.items():
            output = re.sub(
                rf"\S*/stage\.{identity}/new/{number}\b", shown(item.dest).replace("\\", "\\\\"), output
            )
        label, _, status = text.partition(" ")
        if label in by_number and status.isdigit():
            item = by_number[label]
            raise self._refused(
                f"{shown(item.dest)} was refused by its check (status {status}): {output or 'no output'}",
                result,
            )
        if label == "all" and status.isdigit():
            raise self._refused(
                f"the staged files were refused by a check (status {status}): {output or 'no output'}", result
            )
        errors = self._scrub(answer.errors.strip()[-800:])
        said = (
            text
            or f"the device could not stage the change (status {answer.status}): {errors or 'no message'}"
        )
        lacking = self._lacking()
        if lacking:
            raise self._refused(f"{lacking} The device said: {said}", result)
        if "o space left" in errors or "Disk quota" in errors:
            places = ", ".join(sorted({self.wanted.state_dir, *(item.folder for _, item in changed)}))
            said += f". Free space or inodes where these lie: {places}"
        if "Read-only file system" in errors:
            raise self._refused(
                f"a file system is read-only: {errors}. Remount it writable for the run.", result
            )
        raise self._refused(said, result)

    def _lacking(self, killed: bool = False) -> str:
        """What the device has too little of, as far as it can still tell; asked only where something failed.

        Args:
            killed: a program on the device was killed: the kernel does that where memory runs out.
        """
        try:
            reply = self.exchange.run(room.ask(self.needs) + room.MEMORY)
        except (AnsibleConnectionFailure, ExchangeError):
            return ""
        short = room.shortage(reply, self.needs) or room.too_large(reply, self.size, ample=True)
        if short or not killed:
            return short
        there = room.memory_kb(reply)
        return (
            "status 137 is a kill: where nobody else did that, the kernel did because memory ran out"
            + (f"; {there} kB can be had in all" if there else "")
            + "."
        )

    def _look_over_loopback(self, result: dict[str, Any]) -> loopback.Loopback:
        asked = str(self.action._templar.template(self.task_vars.get(loopback.VARIABLE, "auto")))
        try:
            return loopback.Loopback(
                self.action, self.task_vars, self.exchange, asked, min(10, self.wanted.confirm.seconds // 3)
            )
        except ExchangeError as error:
            raise self._refused(str(error), result) from None

    def _ready(self, identity: str) -> bool:
        """May the confirmation be sent? A device that is its own controller shows its way in first."""
        if self.loopback is None:
            return True
        return self.loopback.prove(self.wanted.state_dir, identity, self.wanted.confirm.new_daemon)

    def _confirm(self, identity: str, result: dict[str, Any]) -> int:
        """Come back over a new connection until the device says confirmed or reverted; returns the generation.

        The device ends an unconfirmed change by itself. So the only question is how long to keep asking: the time
        for the activation, the time for the confirmation, and as much again to hear what became of it.
        """
        wanted = self.wanted.confirm
        over = "local" if self.exchange.transport == "local" else "ssh"
        program = payload.call(
            self.wanted.state_dir, "confirm", identity, "yes" if wanted.new_daemon else "no", over
        )
        what_became = payload.call(self.wanted.state_dir, "outcome", identity)
        tried: list[str] = result.get("tried", [])
        began = time.monotonic()
        patience = 3 * wanted.seconds + 60
        denied_since = 0.0
        with tempfile.TemporaryDirectory(prefix="sallyport-") as folder:
            known_hosts = self._known_hosts(folder)
            while time.monotonic() - began < patience:
                # The first new connection proves the way in; once time is up any connection may bring the reason.
                try:
                    with self.exchange.as_new_connection(known_hosts, timeout=min(10, wanted.seconds)):
                        reply = self.exchange.run(program if self._ready(identity) else what_became)
                except (AnsibleConnectionFailure, ExchangeError) as error:
                    _note(tried, self._scrub(str(error)))
                    late = time.monotonic() - began > wanted.seconds
                    outcome = self._ask(identity) if late else None
                    if outcome is None:
                        time.sleep(1)
                        continue
                    reply = outcome
                if "confirmed" in reply:
                    if "settle_failed" in reply:
                        raise CommitError(
                            f"{self.host}: confirmed, but the last step failed: {self._scrub(reply.get('settle_failed')).strip()}. Run again.",
                            **self._facts({**result, "changed": True}, "confirmed"),
                        )
                    return int(reply.get("confirmed"))
                if "unfinished" in reply:
                    raise CommitError(
                        f"{self.host}: confirmed, but the device could not finish its records: "
                        f"{self._lacking() or self._scrub(reply.errors.strip()[-400:])} Run again.",
                        **self._facts({**result, "changed": True}, "confirmed"),
                    )
                if "reverted" in reply:
                    reason = self._scrub(self._without_old_secrets(reply.get("reason")).strip())
                    raise self._reverted(self._explained(reason, tried), tried, result)
                if "unknown" in reply and self.armed:
                    lacking = self._lacking()
                    why = (
                        f"{lacking} A device without room for a record takes a change back; run again."
                        if lacking
                        else f"{self.wanted.state_dir} was emptied by somebody, and the way back with it, or changes of others have "
                        "followed. Run again: it finds out what is there. Files named .sallyport-* beside those of the change are "
                        "copies of theirs."
                    )
                    raise CommitError(
                        f"{self.host}: {self.wanted.name} began, and the device has no record of what became of it: {why}",
                        **self._facts({**result, "changed": True}, "lost"),
                    )
                if "unknown" in reply:
                    raise self._refused(
                        f"the device does not know of this change: it did not begin, and nothing was changed. {self._lacking()}"
                        + (f" What went wrong on the way: {'; '.join(tried)}" if tried else " Run again."),
                        result,
                    )
                if "denied" in reply:
                    why = {
                        "same_connection": "the confirmation came over the connection that made the change; a new one is required. "
                        "Something (a ProxyCommand, a wrapper as ssh_executable) shares connections",
                        "no_session": "the device cannot see which connection the confirmation came over",
                        "old_daemon": "the daemon that answered was started before the change: it never read the new files",
                    }.get(reply.get("denied"), reply.get("denied"))
                    _note(tried, why)
                    denied_since = denied_since or time.monotonic()
                elif reply.status != 0:
                    _note(
                        tried,
                        self._scrub(f"the device could not confirm (status {reply.status}): {reply.errors}"),
                    )
                time.sleep(1 if denied_since else 0.2)
        raise self._reverted("", tried, result)

    def _leave(self, result: dict[str, Any]) -> int:
        """The way back to factory is confirmed: take Sallyport's own files and its boot hook away."""
        try:
            answer = self.exchange.run(generations.clear(self.wanted.state_dir))
            problem = "" if answer.status == 0 else answer.get("refused") or answer.errors.strip()[-600:]
        except (AnsibleConnectionFailure, ExchangeError) as error:
            problem = str(error)
        if problem:
            raise CommitError(
                f"{self.host}: the device is as it was found, but Sallyport's own files are still on it: {self._lacking() or self._scrub(problem) + '.'} Run again.",
                **self._facts({**result, "changed": True}, "confirmed"),
            )
        return generations.FACTORY

    def _explained(self, reason: str, tried: Sequence[str]) -> str:
        """The device's reason, and what it lacks where that may be behind it: a full disk takes no reason."""
        words = " ".join((reason, *tried))
        killed = "status 137" in words or "Killed" in words
        full = any(sign in words for sign in ("o space left", "I/O error", "could not confirm"))
        lacking = self._lacking(killed) if killed or full or not reason else ""
        return f"{reason or 'the device could not write down why.'} {lacking}".strip()

    def _prune(self, before: Reply) -> None:
        """Forget old generations, some at a time: most commits shall not pay an exchange for it."""
        count = int(before.get("generations", "0")) + 1
        if count <= self.wanted.keep + 5:
            return
        listed = self.exchange.run(generations.listing(self.wanted.state_dir))
        self.exchange.run(
            generations.prune(generations.parse(listed), self.wanted.keep, self.wanted.state_dir)
        )

    def _ask(self, identity: str) -> Reply | None:
        """What became of the change, over whatever connection still works; None while nobody can say."""
        try:
            reply = self.exchange.run(payload.call(self.wanted.state_dir, "outcome", identity))
        except (AnsibleConnectionFailure, ExchangeError):
            return None
        return reply if "reverted" in reply or "confirmed" in reply else None

    def _known_hosts(self, folder: str) -> str:
        if not self.wanted.confirm.host_keys or self.exchange.transport != "ssh":
            return ""
        path = os.path.join(folder, "known_hosts")
        with open(path, "w", encoding="utf-8") as handle:
            for key in self.wanted.confirm.host_keys:
                words = key.split()
                # For this one device, by whatever name ssh looks it up (HostKeyAlias, HostName and Port of its own files).
                handle.write(f"* {words[0]} {words[1]}\n")
        return path

    # --- what is reported -----------------------------------------------------------------------------------

    def _who(self) -> str:
        try:
            user = getpass.getuser()
        except (KeyError, OSError):
            user = "unknown"
        # The process that forked this worker is the run: all changes of one run show the same number.
        arguments = context.CLIARGS.get("args") or ()
        books = [] if isinstance(arguments, str) else [os.path.basename(str(book)) for book in arguments]
        return f"{user} on {os.uname().nodename}, {' '.join(books) or 'ansible'}[{os.getppid()}]"

    def _scrub(self, text: str) -> str:
        """``text`` without any line or longer word of a secret file: no_log alone does not keep messages quiet."""
        for secret in self.wanted.secrets:
            decoded = secret.decode("utf-8", "surrogateescape")
            pieces = {
                piece
                for line in decoded.splitlines()
                for piece in (line.strip(), *re.split(r"[\s:,=]+", line.strip()))
            }
            # A line may be as short as a PIN; so short a word of a longer one would blacken half of every message.
            lines = {line.strip() for line in decoded.splitlines()}
            long = (piece for piece in pieces if len(piece) >= (4 if piece in lines else 6))
            found = [re.escape(piece) for piece in sorted(long, key=len, reverse=True) if piece in text]
            if found:
                text = re.sub("|".join(found), "(secret)", text)
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")

    def _without_old_secrets(self, reason: str) -> str:
        """What commands of the way back printed may quote what a secret file held before, which nobody here knows."""
        if not any(item.secret for item in self.wanted.files):
            return reason
        before, *after = re.split(r"^(?=revert: status )", reason, flags=re.M)
        return before + "".join(
            f"{text.splitlines()[0]} (its output may quote a secret file and is not shown)\n"
            for text in after
        )

    def _summary(self, changed: Sequence[tuple[int, File, str]], live: str) -> str:
        parts = [f"{change} {shown(item.dest)}" for _, item, change in changed]
        if live != "same" and not changed:
            parts.append(
                "the live state was not what the files say" if live == "differs" else "not confirmed before"
            )
        return ", ".join(parts)

    def _facts(self, result: dict[str, Any], state: str) -> dict[str, Any]:
        return {**result, "state": state, "exchanges": self.exchange.count - self.started_with}

    def _result(self, result: dict[str, Any], state: str, message: str) -> dict[str, Any]:
        result.pop("tried", None)
        return {**self._facts(result, state), "msg": message}

    def _refused(self, why: str, result: dict[str, Any] | None = None) -> CommitError:
        facts = {key: value for key, value in (result or {}).items() if key != "diff"}
        return CommitError(
            f"{self.host}: {self.wanted.name} was refused, nothing was changed: {self._scrub(why)}",
            **self._facts({**facts, "changed": False}, "refused"),
        )

    def _reverted(self, reason: str, tried: Sequence[str], result: dict[str, Any]) -> CommitError:
        self.exchange.forget_connection()
        facts = {key: value for key, value in result.items() if key != "diff"}
        if reason:
            # The files always come first; what the commands of the way back could not do, the next run repairs.
            wrong = re.search(r"^revert: status |could not be restored$", reason, flags=re.M)
            whole = "but not everything came back, run again" if wrong else "the device is as it was"
            text = f"{self.host}: {self.wanted.name} was taken back, {whole}: {reason}"
        else:
            text = (
                f"{self.host}: {self.wanted.name} was not confirmed, and the device could not be asked what became of it. It takes an "
                "unconfirmed change back by itself, also after a power cut; when it can be reached again, run again"
            )
        text = text.rstrip(". ")
        if tried and reason:
            text += ". The way in worked before the change, so look for the cause in the change itself"
        if tried:
            text += ". What was tried: " + "; ".join(dict.fromkeys(tried))
        return CommitError(text, **self._facts({**facts, "changed": False, "tried": list(tried)}, "reverted"))


def _lies(path: str, places: Mapping[str, str]) -> str:
    """Where ``path`` really lies, links among its folders followed."""
    folder, _, name = path.rpartition("/")
    return f"{places.get(folder or '/', folder).rstrip('/')}/{name}"


def _as_found(item: File, here: Found) -> File:
    """``mode: keep`` made definite: mode and owner of the file that is there, else the defaults."""
    if item.mode != "keep":
        return item
    owners = here.owners if len(here.owners) == 4 else ("root", "root", "-", "-")
    # Numbers where they are known: a name may be missing from the device's passwd.
    owner, group = (owners[2], owners[3]) if "-" not in owners[2:] else (owners[0], owners[1])
    return replace(item, mode=here.mode or "0644", owner=owner, group=group)


def _difference(item: File, here: Found) -> str:
    """What would happen to ``here`` to become ``item``: created, updated, removed, mode, or nothing."""
    if item.kind == "absent":
        return "" if here.kind == "none" else "removed"
    if here.kind == "none":
        return "created"
    if item.kind == "keep" or item.generate:
        return "updated"
    if item.kind == "link":
        return "" if here.kind == "link" and here.target == item.target else "updated"
    if here.kind != "file" or not same_digest(item.content, here.digest):
        return "updated"
    if here.mode and here.mode != item.mode:
        return "mode"
    if here.owners and not {item.owner} & {here.owners[0], here.owners[2]}:
        return "mode"
    if here.owners and not {item.group} & {here.owners[1], here.owners[3]}:
        return "mode"
    return ""


def _meta(line: str) -> tuple[str, tuple[str, ...], int]:
    """Mode as four octal digits, (owner, group, uid, gid) and size, from stat or from the long form of ls; or nothing."""
    words = line.split()
    if len(words) < 5:
        return "", (), 0
    size = int(words[5]) if len(words) > 5 and words[5].isdigit() else 0
    if words[0].isdigit():
        return words[0].lstrip("0").rjust(4, "0"), tuple(words[1:5]), size
    symbolic = _SYMBOLIC.match(words[0])
    if not symbolic:
        return "", (), 0
    bits = 0
    for position, letter in enumerate(symbolic[1]):
        if letter not in "-ST":
            bits |= 0o400 >> position
        if letter in "sStT":
            bits |= (0o4000, 0o2000, 0o1000)[position // 3]
    return f"{bits:04o}", tuple(words[1:5]), size


def _keyed(lines: Sequence[str]) -> dict[str, str]:
    pairs = (line.partition(" ") for line in lines)
    return {key: value for key, _, value in pairs}


def _note(tried: list[str], text: str) -> None:
    line = " ".join(text.split())[:400]
    if line not in tried and len(tried) < 6:
        tried.append(line)


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


__all__ = ["CommitError", "run"]
