# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Is an account's password one that the world knows?

Guessed on the controller from the hash, with threads (the crypt library works outside Python's lock). Nothing
secret leaves this module: a verdict says that a password is a default one, not which.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import hmac
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials import hashing
from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials.shadow import Account

DEFAULT_LIST = Path(__file__).with_name("default-credentials.csv")


@dataclass(frozen=True)
class Verdict:
    """What is known of one account's password.

    Attributes:
        account: its name.
        uid: its number.
        verdict: ``default``, ``shared`` (another device has the same hash or password), ``empty``, ``locked``, ``unique``
            (none of the guesses) or ``not assessed``.
        scheme: the hash scheme's name.
        why: in words, where there is something to say; never the password.
        lasting: it holds as long as the hash and the inventory stay the same, whatever other devices show.
    """

    account: str
    uid: int
    verdict: str
    scheme: str
    why: str = ""
    lasting: bool = False

    @property
    def usable_by_strangers(self) -> bool:
        """Whether somebody who has only read the list gets in."""
        return self.verdict in ("default", "shared", "empty")


class ListError(ValueError):
    """A list of default credentials cannot be used."""


@functools.lru_cache(maxsize=8)
def load_list(path: Path) -> tuple[tuple[str, str], ...]:
    """(user, password) pairs of a CSV file whose header is ``user,password``.

    Raises:
        ListError: it is missing or has another form.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.reader(line for line in stream if not line.startswith("#")))
    except OSError as error:
        raise ListError(
            f"{path}: the list of default credentials cannot be read: {error.strerror}"
        ) from error
    if not rows or [cell.strip() for cell in rows[0]] != ["user", "password"]:
        raise ListError(f"{path}: expected the header user,password in the first line that is no comment")
    pairs = []
    for number, row in enumerate(rows[1:], 2):
        if not row:
            continue
        if len(row) != 2:
            raise ListError(
                f"{path}: row {number}: expected two fields, found {len(row)}; quote a comma within a "
                "password"
            )
        pairs.append((row[0], row[1]))
    return tuple(dict.fromkeys(pairs))


def candidates(account: str, pairs: Sequence[tuple[str, str]], device_words: Iterable[str]) -> list[str]:
    """Passwords to try, the likeliest first: this user's own defaults, what the device itself says,
    everybody's defaults.
    """
    own = [password for user, password in pairs if user == account]
    printed = list(device_words)
    # The end of a serial number or an address behind the user's name: six letters, as they stand on labels.
    tails = [word for word in printed if len(word) == 6 and any(letter.isdigit() for letter in word)]
    joined = [f"{account}{between}{tail}" for tail in tails for between in ("", "-")]
    words = [account, account.capitalize(), account[::-1], *printed, *joined]
    return list(dict.fromkeys([*own, *words, "", *(password for _, password in pairs)]))


def device_words(device: Mapping[str, object]) -> list[str]:
    """Names and numbers printed on a device, from which lazy factories make passwords."""
    words: list[str] = []
    hostname = str(device.get("hostname") or "")
    if hostname:
        words += [hostname, hostname.lower(), hostname.upper(), hostname.partition(".")[0]]
    for address in (*_texts(device.get("macs")), *_texts(device.get("serials"))):
        bare = address.replace(":", "").replace("-", "")
        words += [
            address,
            address.upper(),
            address.replace(":", "-"),
            address.upper().replace(":", "-"),
            bare,
            bare.upper(),
            bare.lower(),
            bare[-6:].upper(),
            bare[-6:].lower(),
            bare[-8:].upper(),
        ]
    return [word for word in dict.fromkeys(words) if word]


def _texts(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list | tuple) else []


def judge(
    account: Account,
    guesses: Sequence[str],
    workers: int = 0,
    *,
    fleet: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Verdict:
    """The verdict on one account, by guessing.

    Args:
        fleet: passwords that the inventory knows -> the other devices that have them.
    """
    kind = hashing.scheme(account.field)
    if kind == "locked":
        return Verdict(account.name, account.uid, "locked", "")
    if kind == "empty":
        return Verdict(account.name, account.uid, "empty", "", "no password is asked for")
    if kind == "unknown" or not hashing.can_assess(account.field):
        return Verdict(
            account.name,
            account.uid,
            "not assessed",
            kind,
            "this controller's libcrypt cannot compute this hash, or it asks for more time or memory than a guess may cost",
        )
    threads = workers or min(4, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        # In chunks, so that a hit among the first ends the work.
        for start in range(0, len(guesses), threads * 2):
            chunk = guesses[start : start + threads * 2]
            if any(pool.map(lambda guess: hashing.matches(guess, account.field), chunk)):
                return Verdict(
                    account.name,
                    account.uid,
                    "default",
                    kind,
                    "the password is a published default or guessable",
                )
    for password, others in fleet.items():
        if others and hashing.matches(password, account.field):
            why = f"the same password is on {', '.join(others)}, as the inventory says"
            return Verdict(account.name, account.uid, "shared", kind, why, lasting=True)
    return Verdict(account.name, account.uid, "unique", kind)


def digest(secret_key: bytes, *parts: str) -> str:
    """A keyed digest that says whether two things are the same, and nothing else."""
    message = b"\0".join(part.encode("utf-8", "surrogateescape") for part in parts)
    return hmac.new(secret_key, message, hashlib.sha256).hexdigest()


def salt_of(field: str) -> str:
    """The part of a hash that no two devices may share; empty for schemes with salts too short to tell."""
    parts = field.split("$")
    if len(parts) < 4 or len(parts[-2]) < 8:
        return ""
    return "$".join(parts[:-1])


def judge_all(
    accounts: Iterable[Account],
    pairs: Sequence[tuple[str, str]],
    words: Sequence[str],
    *,
    known: Callable[[Account], Verdict | None] = lambda account: None,
    fleet: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> list[Verdict]:
    """Verdicts on every account.

    Args:
        known: gives a verdict of an earlier run for a hash that has not changed since, else None.
        fleet: passwords that the inventory knows -> the other devices that have them.
    """
    return [
        known(account) or judge(account, candidates(account.name, pairs, words), fleet=fleet)
        for account in accounts
    ]
