# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Large block lists, read once for all hosts of a run.

Ansible works on each host in a process of its own, which forgets what it read. So a list that was read is kept in
the user's cache folder under the digest of its file's content, as plain numbers: nothing in it is ever executed, and
a folder or file that somebody else could have written is not used. Without the shelf everything works, slower.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import tempfile

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import Addresses

_MAGIC = b"sallyport list 1\n"
_SMALL = 1 << 16
"""Files below this are read faster than they are looked up."""
_KEEP = 32


def digest(raw: bytes) -> str:
    """The name of a list on the shelf."""
    return hashlib.sha256(_MAGIC + raw).hexdigest()


def fetch(name: str, size: int) -> Addresses | None:
    """The addresses kept under ``name``, None where there are none. ``size`` is that of the list's file."""
    if size < _SMALL:
        return None
    folder = _folder()
    if folder is None:
        return None
    try:
        with open(os.path.join(folder, name), "rb") as file:
            info = os.fstat(file.fileno())
            if info.st_uid != os.geteuid() or info.st_mode & 0o022:
                return None
            raw = file.read()
    except OSError:
        return None
    return _unpack(raw)


def keep(name: str, size: int, addresses: Addresses) -> None:
    """Put ``addresses`` on the shelf under ``name``, and take the oldest off when it is full."""
    folder = _folder() if size >= _SMALL else None
    if folder is None:
        return
    # A full or read-only disk only costs time.
    with contextlib.suppress(OSError):
        handle, path = tempfile.mkstemp(dir=folder)
        with os.fdopen(handle, "wb") as file:
            file.write(_pack(addresses))
        os.replace(path, os.path.join(folder, name))
        kept = sorted((entry.stat().st_mtime_ns, entry.path) for entry in os.scandir(folder))
        for _age, old in kept[:-_KEEP]:
            os.unlink(old)


def _folder() -> str | None:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    if not os.path.isabs(home):
        return None
    folder = os.path.join(home, "sallyport", "lists")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        info = os.lstat(folder)
    except OSError:
        return None
    return folder if info.st_uid == os.geteuid() and not info.st_mode & 0o022 else None


def _pack(addresses: Addresses) -> bytes:
    four = [number for pair in addresses.v4 for number in pair]
    six = b"".join(number.to_bytes(16, "big") for pair in addresses.v6 for number in pair)
    body = _MAGIC + struct.pack(f">I{len(four)}I", len(four), *four) + six
    return body + hashlib.sha256(body).digest()


def _unpack(raw: bytes) -> Addresses | None:
    """None for a file that was cut short."""
    body, seal = raw[:-32], raw[-32:]
    if not body.startswith(_MAGIC) or hashlib.sha256(body).digest() != seal:
        return None
    start = len(_MAGIC)
    (count,) = struct.unpack_from(">I", body, start)
    four = struct.unpack_from(f">{count}I", body, start + 4)
    six = body[start + 4 + 4 * count :]
    numbers = [int.from_bytes(six[place : place + 16], "big") for place in range(0, len(six), 16)]
    return Addresses(
        tuple(zip(four[0::2], four[1::2], strict=True)),
        tuple(zip(numbers[0::2], numbers[1::2], strict=True)),
    )
