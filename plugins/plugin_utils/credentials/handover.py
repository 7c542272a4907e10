# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""New passwords go to the operator before any device has them: into an encrypted file, or to a command of theirs.

One ansible-vault file for each device. It is written beside its place first, and takes its place when the
device has confirmed: a controller that dies in between leaves both, and no password is ever known to the
device alone. A command hears the same three words: prepare, then commit or discard.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import yaml
from ansible.parsing.vault import VaultLib

KEY = "sallyport_passwords"


class HandoverError(RuntimeError):
    """Passwords could not be kept for the operator; nothing may be changed then."""


class Keeper(Protocol):
    """Where new passwords are kept for the operator."""

    where: str
    """In words, for the result."""
    until_then: str
    """In words, where they are between ``prepare`` and ``commit``."""

    def prepare(self, passwords: Mapping[str, str]) -> None:
        """Keep them for now: account -> password. No device has them yet."""

    def commit(self) -> None:
        """The device has them: what was prepared counts."""

    def discard(self) -> None:
        """The device is as it was: what was prepared does not count."""


def concluded(kept_by: Keeper, taken: bool) -> str:
    """The last word to a keeper. What went wrong with it, in words: nothing can be taken back from the device by then.

    Args:
        taken: the device has the new passwords; else it is as it was.
    """
    if not taken:
        kept_by.discard()
        return ""
    try:
        kept_by.commit()
    except (HandoverError, OSError) as error:
        return f"the device has its new passwords, but {error}; they are {kept_by.until_then}"
    return ""


def keeper(action: Any, host: str, directory: str, command: Sequence[str]) -> Keeper | None:
    """The keeper that the variables name; None where they name none.

    Raises:
        HandoverError: they name two, or an encrypted file in a run without a vault password.
    """
    if directory and command:
        raise HandoverError(
            "new passwords are kept in one place: name a vault directory or a command, not both"
        )
    if command:
        return Command(command, host)
    if not directory:
        return None
    secrets = getattr(getattr(action._loader, "_vault", None), "secrets", None)
    if not secrets:
        raise HandoverError(
            "new passwords are kept in encrypted files: give this run a vault password (--vault-password-file)"
        )
    vault = VaultLib(secrets)
    return VaultFile(
        Path(directory).expanduser(),
        host,
        lambda text: bytes(vault.encrypt(text)).decode("ascii"),
        lambda text: bytes(vault.decrypt(text)).decode("utf-8"),
    )


class Command:
    """A command of the operator's, run on the controller with one JSON object on standard input.

    ``{"event": "prepare", "host": ..., "passwords": {account: password}}`` before any device has them, then
    ``commit`` or ``discard`` without passwords. Nothing secret is ever an argument.
    """

    def __init__(self, words: Sequence[str], host: str, seconds: int = 60) -> None:
        self._words = list(words)
        self._host = host
        self._seconds = seconds
        self.where = f"handed to {words[0]}"
        self.until_then = f"what {words[0]} was given with the event prepare"

    def prepare(self, passwords: Mapping[str, str]) -> None:
        self._tell({"event": "prepare", "passwords": dict(passwords)})

    def commit(self) -> None:
        self._tell({"event": "commit"})

    def discard(self) -> None:
        with contextlib.suppress(HandoverError):
            self._tell({"event": "discard"})

    def _tell(self, what: Mapping[str, Any]) -> None:
        try:
            done = subprocess.run(
                self._words,
                input=json.dumps({**what, "host": self._host}),
                capture_output=True,
                text=True,
                timeout=self._seconds,
                check=False,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise HandoverError(
                f"{self._words[0]} could not be run to hand over new passwords: {type(error).__name__}"
            ) from None
        if done.returncode:
            # What it printed may hold what it was given.
            raise HandoverError(
                f"{self._words[0]} did not take the new passwords: status {done.returncode} at {what['event']}"
            )


class VaultFile:
    """The encrypted file of one device.

    Args:
        directory: made with mode 0700 if it is not there.
        host: the device's inventory name.
        encrypt, decrypt: text to vault text and back.
    """

    def __init__(
        self, directory: Path, host: str, encrypt: Callable[[str], str], decrypt: Callable[[str], str]
    ) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.:@-]*", host):
            raise HandoverError(f"the inventory name {host!r} cannot be a file name in {directory}")
        self.path = directory / f"{host}.yml"
        self.where = str(self.path)
        self._pending = directory / f"{host}.yml.new"
        self.until_then = f"in {self._pending}: move it to {self.path}"
        self._encrypt = encrypt
        self._decrypt = decrypt

    def prepare(self, passwords: Mapping[str, str]) -> None:
        """Write what will hold if the change is confirmed: what is kept already, and these.

        Raises:
            HandoverError: the file cannot be read, decrypted or written.
        """
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._keep_what_was_left()
            kept = self._read()
            kept.update(passwords)
            text = self._encrypt(yaml.safe_dump({KEY: kept}, explicit_start=True))
            handle = os.open(self._pending, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise HandoverError(
                f"{self.path}: new passwords could not be kept: {error.strerror}; check the directory"
            ) from error

    def commit(self) -> None:
        """The device has confirmed: what was prepared counts."""
        try:
            os.replace(self._pending, self.path)
        except OSError as error:
            raise HandoverError(f"{self.path} could not be written: {error.strerror}") from error

    def discard(self) -> None:
        """The device is as it was: what was prepared does not count."""
        with contextlib.suppress(OSError):
            self._pending.unlink()

    def _keep_what_was_left(self) -> None:
        """A run that died before its last word may have left the only copy of what its device has."""
        if self._pending.exists():
            number = 1
            while (aside := self._pending.with_name(f"{self._pending.name}.{number}")).exists():
                number += 1
            self._pending.rename(aside)

    def _read(self) -> dict[str, str]:
        if not self.path.exists():
            return {}
        text = self.path.read_text(encoding="utf-8")
        try:
            stored = yaml.safe_load(self._decrypt(text))
        except Exception as error:  # the vault's errors differ between releases of ansible-core
            raise HandoverError(
                f"{self.path} cannot be decrypted with this run's vault password: {type(error).__name__}"
            ) from None
        passwords = stored.get(KEY) if isinstance(stored, dict) else None
        if not isinstance(passwords, dict):
            raise HandoverError(f"{self.path}: expected a mapping {KEY} in it")
        return {str(name): str(value) for name, value in passwords.items()}
