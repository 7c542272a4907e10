# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a daemon really offers, from its own first message: for daemons whose algorithms are compiled in."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

from ansible_collections.sallyport.iot.plugins.plugin_utils.access import algorithms

_LABELS = {
    "KEX algorithms": "kex",
    "host key algorithms": "hostkeyalgs",
    "ciphers stoc": "cipher",
    "MACs stoc": "mac",
}
# Marks of protocol extensions, which stand among the key exchanges.
_MARKS = ("ext-info-", "kex-strict-", "kexguess2@")


def ask(command: Sequence[str]) -> dict[str, list[str]]:
    """Kind -> names that the daemon offers; empty where it could not be asked.

    The connection ends before any login is tried.

    Args:
        command: ssh and its arguments up to and including the host.
    """
    own = (
        "-o",
        "ControlPath=none",
        "-o",
        "BatchMode=yes",
        "-o",
        "PreferredAuthentications=none",
        "-o",
        "ConnectTimeout=10",
    )
    try:
        done = subprocess.run(
            [command[0], "-vv", *own, *command[1:-1], "-S", "none", command[-1], "true"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return parse(done.stderr)


def parse(text: str) -> dict[str, list[str]]:
    """The same from what ``ssh -vv`` printed."""
    result: dict[str, list[str]] = {}
    theirs = False
    for line in text.splitlines():
        message = line.strip().partition("debug2: ")[2]
        if "KEXINIT proposal" in message:
            theirs = message.startswith("peer server")
            continue
        label, _, names = message.partition(": ")
        if theirs and label in _LABELS and _LABELS[label] not in result:
            result[_LABELS[label]] = [
                name for name in names.strip().split(",") if name and not name.startswith(_MARKS)
            ]
    return result


def weaker(offered: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Kind -> names that this collection would not have chosen."""
    result = {}
    for kind, names in offered.items():
        rest = [name for name in names if name not in algorithms.PREFERRED.get(kind, ())]
        if rest:
            result[kind] = rest
    return result
