# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The files that carry second factors to their people: written once, for the operator's eyes only.

A file is written beside its place before the device has the secret and takes its place with the confirmation: a
controller that dies in between leaves something to read, and no secret is ever known to the device alone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from ansible_collections.sallyport.iot.plugins.plugin_utils.access import qr, second_factor


class EnrolmentError(RuntimeError):
    """A secret could not be kept for its user; the device must not get it then."""


class Enrolment:
    """One user's secret for one device.

    Args:
        directory: made with mode 0700 if it is not there.
        host: the device's inventory name.
    """

    def __init__(self, directory: Path, host: str, user: str) -> None:
        if "/" in host or host.startswith(".") or not host.isprintable():
            raise EnrolmentError(f"the inventory name {host!r} cannot be part of a file name in {directory}")
        self.host, self.user = host, user
        self.secret = second_factor.new_secret()
        self.emergency = second_factor.new_emergency_codes()
        self.path = directory / host / f"{user}.txt"
        self._pending = directory / host / f"{user}.txt.new"

    def device_file(self) -> str:
        """What the device gets."""
        return second_factor.secret_file(self.secret, self.emergency)

    def text(self) -> str:
        """What the user gets: to be scanned, or typed."""
        address = second_factor.uri(self.host, self.user, self.secret)
        grouped = " ".join(self.secret[at : at + 4] for at in range(0, len(self.secret), 4))
        codes = "".join(f"  {code}\n" for code in self.emergency)
        return (
            f"Second factor of {self.user} on {self.host}\n\n"
            f"Scan this with an authenticator app:\n\n{qr.draw(qr.encode(address))}\n"
            f"or type the key (time-based, 6 digits, 30 seconds):\n\n  {grouped}\n\n"
            f"as a link:\n\n  {address}\n\n"
            f"Emergency codes, each counts once:\n\n{codes}\n"
            "Hand this over and delete it: nobody needs it again, and a lost factor is made anew by "
            f'-e \'{{"ssh_enrol_again": ["{self.user}"]}}\'.\n'
        )

    def prepare(self) -> None:
        """Write what will hold if the change is confirmed.

        Raises:
            EnrolmentError: the file cannot be written.
        """
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                self._pending.unlink()
            handle = os.open(self._pending, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(self.text())
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise EnrolmentError(
                f"{self.path}: the second factor of {self.user} could not be kept for handing over: {error.strerror}; "
                "set ssh_enrolment_directory to a directory of this controller that you can write"
            ) from error

    def concluded(self) -> str:
        """The device has confirmed. What went wrong here, in words: there nothing can be taken back any more."""
        try:
            os.replace(self._pending, self.path)
        except OSError as error:
            return (
                f"{self.host} has the new second factor of {self.user}, but {self.path} could not be written "
                f"({error.strerror}): it is in {self._pending}"
            )
        return ""

    def discard(self) -> None:
        """The device is as it was."""
        with contextlib.suppress(OSError):
            self._pending.unlink()


def discard_all(enrolments: Iterable[Enrolment]) -> None:
    """None of them counts."""
    for one in enrolments:
        one.discard()
