# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Which of the device's sources an origin pattern can ever match. A pattern that matches none updates nothing. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

_KEYS = {
    "o": "o", "origin": "o", "l": "l", "label": "l", "a": "a", "archive": "a", "suite": "a", "n": "n", "codename": "n",
    "c": "c", "component": "c", "site": "site",
}  # fmt: skip


def read_policy(text: str) -> list[dict[str, str]]:
    """The releases in the output of ``apt-cache policy``, each with the site that it comes from.

    >>> read_policy("     release v=12,o=Debian,a=stable,n=bookworm,l=Debian,c=main,b=amd64\\n     origin a.example")
    [{'v': '12', 'o': 'Debian', 'a': 'stable', 'n': 'bookworm', 'l': 'Debian', 'c': 'main', 'b': 'amd64', 'site': 'a.example'}]
    """
    found: list[dict[str, str]] = []
    for line in text.splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "release":
            # A comma inside a value has no "x=" behind it.
            found.append(dict(re.findall(r"([a-z]+)=(.*?)(?:,(?=[a-z]+=)|$)", rest)))
        elif word == "origin" and found:
            found[-1].setdefault("site", rest.strip())
    return [one for one in found if one.get("o") or one.get("site")]


def matches(pattern: str, release: Mapping[str, str], codename: str) -> bool:
    """As unattended-upgrades judges it: every key of the pattern, with wildcards."""
    for part in pattern.split(","):
        key, _, value = part.strip().partition("=")
        name = _KEYS.get(key.strip())
        if name is None:
            return False
        value = value.strip().replace("${distro_codename}", codename)
        if not fnmatchcase(release.get(name, ""), value):
            return False
    return True


def idle(patterns: Iterable[str], releases: Iterable[Mapping[str, str]], codename: str) -> bool:
    """Whether no pattern matches any source, so that nothing would ever be updated."""
    known = list(releases)
    return not any(matches(pattern, release, codename) for pattern in patterns for release in known)
