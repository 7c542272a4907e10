# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What the controller remembers between runs: which hashes it has judged, without the hashes.

A guess costs up to 50 ms, a list of fifty and a fleet of hundreds would cost minutes in every run. So the
verdict is kept under a digest of the hash, keyed with a secret that never leaves this controller. From a
record nobody can tell a hash, and nobody without the key can tell whether two devices share a password.
Schemes whose salts are short enough to be tried out (DES) are judged afresh every time.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials import hashing
from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials.judge import (
    Verdict,
    digest,
    salt_of,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials.shadow import Account

FORMAT = 1
_NEVER_KEPT = ("des", "bsdi-des", "unknown", "")


@dataclass
class Record:
    """The memory of one controller, one small file for each device.

    Args:
        directory: where it lives; made with mode 0700.
        host: the device's inventory name.
        context: a digest of everything else that a verdict rests on (the lists, the words of the device).
    """

    directory: Path
    host: str
    context: str
    _key: bytes = field(default=b"", repr=False)
    _verdicts: dict[str, Any] = field(default_factory=dict, repr=False)
    _shared: set[str] = field(default_factory=set, repr=False)
    """Marks that another device had too. They stay: the one that is judged last replaces its password, and the others
    must hear of it all the same."""

    def __post_init__(self) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._key = _secret_key(self.directory / "key")
        # Passwords that the inventory knows are part of it: nobody may try them out on what is kept.
        self.context = digest(self._key, "context", self.context)
        stored = _load(self._path(self.host))
        self._shared = set(stored.get("shared", []))
        if stored.get("context") == self.context:
            self._verdicts = stored.get("verdicts", {})

    def known(self, account: Account) -> Verdict | None:
        """The verdict of an earlier run on this very hash; None where there is none."""
        kept = self._verdicts.get(self._digest(account)) if _kept(account) else None
        if not isinstance(kept, dict) or kept.get("account") != account.name:
            return None
        lasting = kept["verdict"] == "shared"
        return Verdict(account.name, account.uid, kept["verdict"], kept["scheme"], kept["why"], lasting)

    def save(self, judged: Iterable[tuple[Account, Verdict]]) -> None:
        """Replace what is remembered of this device.

        Raises:
            OSError: the directory cannot be written.
        """
        verdicts, marks = {}, {}
        for account, verdict in judged:
            if not _kept(account):
                continue
            marks[account.name] = [self._digest(account), self._salt(account)]
            if verdict.verdict in ("unique", "default") or verdict.lasting:
                verdicts[self._digest(account)] = {
                    "account": account.name,
                    "verdict": verdict.verdict,
                    "scheme": verdict.scheme,
                    "why": verdict.why,
                }
        _write(
            self._path(self.host),
            json.dumps(
                {
                    "format": FORMAT,
                    "host": self.host,
                    "context": self.context,
                    "verdicts": verdicts,
                    "marks": marks,
                    "shared": sorted(self._shared),
                }
            ),
        )

    def shared_with(self, accounts: Iterable[Account], others: Iterable[str]) -> Mapping[str, list[str]]:
        """Account of ours -> ``host:account`` of those devices that have the same hash, or the same salt.

        Args:
            others: inventory names to compare with; devices that are long gone must not count.
        """
        mine = {
            account.name: (self._digest(account), self._salt(account))
            for account in accounts
            if _kept(account)
        }
        result: dict[str, list[str]] = {}
        for other, theirs, marks in self._elsewhere(others):
            for name, own in mine.items():
                both = {mark for mark in own if mark} & marks
                if both:
                    result.setdefault(name, []).append(f"{other}:{theirs}" if theirs else other)
                    self._shared |= both
        return result

    def is_new_to(self, others: Iterable[str]) -> bool:
        """Whether a device that was judged after this one has shown that they share a hash or a salt."""
        stored = _load(self._path(self.host))
        mine = {mark for marks in stored.get("marks", {}).values() for mark in marks if mark} - self._shared
        return any(mine & marks for _, _, marks in self._elsewhere(others))

    def _elsewhere(self, others: Iterable[str]) -> Iterator[tuple[str, str, set[str]]]:
        """(device, account, marks) of all other devices; "" for the account of marks that are there no more."""
        for other in sorted(set(others) - {self.host}):
            stored = _load(self._path(other))
            for theirs, marks in stored.get("marks", {}).items():
                yield other, theirs, set(marks)
            gone = set(stored.get("shared", [])) - {
                one for marks in stored.get("marks", {}).values() for one in marks
            }
            if gone:
                yield other, "", gone

    def _digest(self, account: Account) -> str:
        return digest(self._key, "hash", account.field)

    def _salt(self, account: Account) -> str:
        salt = salt_of(account.field)
        return digest(self._key, "salt", salt) if salt else ""

    def _path(self, host: str) -> Path:
        # Inventory names may hold anything, slashes included.
        return self.directory / f"{digest(self._key, 'host', host)[:32]}.json"


def _kept(account: Account) -> bool:
    return hashing.scheme(account.field) not in (*_NEVER_KEPT, "locked", "empty")


def default_directory() -> Path:
    """``$XDG_CACHE_HOME/sallyport/credentials``, or the same below ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "sallyport" / "credentials"


def _secret_key(path: Path) -> bytes:
    # Several forks start at once: whoever links first wins, and all read what won.
    if not path.exists():
        handle, temporary = tempfile.mkstemp(prefix=".key.", dir=path.parent)
        with os.fdopen(handle, "wb") as stream:
            stream.write(secrets.token_bytes(32))
            stream.flush()
            os.fsync(stream.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
        os.unlink(temporary)
    key = path.read_bytes()
    if len(key) != 32:
        raise OSError(f"{path} does not hold a key of 32 bytes; remove {path.parent} and run again")
    return key


def _load(path: Path) -> dict[str, Any]:
    # A record that cannot be read costs a few seconds of guessing, nothing else.
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) and stored.get("format") == FORMAT else {}


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file (mode 0600) beside ``path`` that takes its place, synced, when the block ends well."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
