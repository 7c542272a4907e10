# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What apt offers this device, and what of it may go in: NAME INSTALLED OFFERED KIND BYTES KILOBYTES, one a line.

Runs on the device, with the python-apt that unattended-upgrades brings. unattended-upgrades itself tells only after it has
downloaded all of it, which is too late to look for space. KIND is security, update, or other for what no allowed origin
offers, or what is blocked or on hold; BYTES are to download, KILOBYTES to unpack.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

import apt
import apt_pkg

KEYS = {
    "o": "origin", "origin": "origin", "l": "label", "label": "label", "a": "archive", "archive": "archive",
    "suite": "archive", "n": "codename", "codename": "codename", "c": "component", "component": "component",
    "site": "site",
}  # fmt: skip


def values(name: str) -> list[str]:
    """A list of apt's configuration."""
    return [str(value) for value in apt_pkg.config.value_list(f"Unattended-Upgrade::{name}")]


def codename() -> str:
    with open("/etc/os-release", encoding="utf-8") as lines:
        found = dict(line.rstrip("\n").split("=", 1) for line in lines if "=" in line)
    return found.get("VERSION_CODENAME", "").strip('"')


def allowed(version: Any, patterns: list[str]) -> bool:
    """Whether any origin of this version is one of those that may update the device."""
    for origin in version.origins:
        for pattern in patterns:
            parts = [part.strip().partition("=") for part in pattern.split(",")]
            if all(
                key.strip() in KEYS and fnmatchcase(getattr(origin, KEYS[key.strip()]), value.strip())
                for key, _, value in parts
            ):
                return True
    return False


def is_security(version: Any) -> bool:
    return any(
        "security" in f"{origin.label} {origin.archive} {origin.codename}".lower()
        for origin in version.origins
    )


def offers(cache: Any) -> Iterator[tuple[str, str, str, str, int, int]]:
    name = codename()
    patterns = [text.replace("${distro_codename}", name) for text in values("Origins-Pattern")]
    blocked = [re.compile(text) for text in values("Package-Blacklist")]
    for package in cache:
        installed = package.installed
        if installed is None:
            continue
        better = [one for one in package.versions if one > installed and one.policy_priority > 0]
        good = [one for one in better if allowed(one, patterns)]
        best = max(good, default=package.candidate if package.candidate in better else None)
        if best is None:
            continue
        held = package._pkg.selected_state == apt_pkg.SELSTATE_HOLD
        if not good or held or any(pattern.match(package.shortname) for pattern in blocked):
            kind = "other"
        else:
            kind = "security" if is_security(best) else "update"
        yield package.name, installed.version, best.version, kind, best.size, best.installed_size // 1024


def main() -> int:
    for offer in offers(apt.Cache()):
        print(*offer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
