# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""New passwords go to the operator encrypted, before any device has them.

One ansible-vault file for each device. It is written beside its place first, and takes its place when the
device has confirmed: a controller that dies in between leaves both, and no password is ever known to the
device alone.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml

KEY = "sallyport_passwords"


class HandoverError(RuntimeError):
    """Passwords could not be kept for the operator; nothing may be changed then."""


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
        self._pending = directory / f"{host}.yml.new"
        self._encrypt = encrypt
        self._decrypt = decrypt

    def prepare(self, passwords: Mapping[str, str]) -> None:
        """Write what will hold if the change is confirmed: what is kept already, and these.

        Raises:
            HandoverError: the file cannot be read, decrypted or written.
        """
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
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
        os.replace(self._pending, self.path)

    def discard(self) -> None:
        """The device is as it was: what was prepared does not count."""
        with contextlib.suppress(OSError):
            self._pending.unlink()

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
