# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The known default logins, as data."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

LIST = Path(__file__).with_name("default-credentials.csv")
COMMON = ("admin", "password", "root", "1234", "12345", "123456", "default", "")


@cache
def default_pairs() -> tuple[tuple[str, str], ...]:
    """(user, password) of the list beside this file, in its order."""
    lines = (line for line in LIST.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    return tuple((row["user"], row["password"]) for row in csv.DictReader(lines))


def pairs_for(users: Iterable[str] | None, extra: Iterable[Mapping[str, Any]] = ()) -> list[list[str]]:
    """Pairs to try on a device, likeliest first: the user name itself and the commonest words before the
    rest.

    ``users`` are the accounts that the device has (others cannot get in whatever the password), None where
    they are not known. ``extra`` are a site's own ``{user, password}``; they come first.
    """
    own = [(str(entry["user"]), str(entry["password"])) for entry in extra]
    known = None if users is None else set(users)

    def likelihood(pair: tuple[str, str]) -> int:
        user, password = pair
        return 0 if password == user else 1 if password in COMMON else 2

    wanted = dict.fromkeys([*own, *sorted(default_pairs(), key=likelihood)])
    return [[user, password] for user, password in wanted if known is None or user in known]
