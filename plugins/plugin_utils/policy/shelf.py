# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Long lists, read and written out once for all hosts of a run, and for the next run.

Ansible works on each host in a process of its own, which forgets what it made. So a list that was read, and the
text that a backend made of it, are kept in the user's cache folder under the digest of all that they were made from:
the content of the list, and the code that made them. What is kept is plain numbers and text, and nothing in it is ever
executed. A folder or file that somebody else could have written is not used, nor a file that is cut short or stands
under another name than its own. Files come by rename, so that processes side by side never see half of one. Without
the shelf everything works, slower.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import tempfile
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import V4_MAX, Addresses, Intervals
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.pause import no_collector

_MAGIC = b"sallyport shelf 2\n"
_SMALL = 1 << 16
"""Files below this are read faster than they are looked up."""
_LONG = 4000
"""Sets of fewer intervals are written out faster than their text is looked up."""
_KEEP = 64
_KEEP_BYTES = 256 << 20
"""The shelf holds no more than so many files and bytes; what was not used for longest goes first."""
_MAKERS = ("cidrs.py", "intervals.py", "shelf.py")


def digest(raw: bytes) -> str:
    """The name of a list on the shelf, from the content of its file."""
    return _name(b"list", raw)


def fetch(name: str, size: int) -> Addresses | None:
    """The addresses kept under ``name``, None where there are none. ``size`` is that of the list's file."""
    body = _get(name) if size >= _SMALL else None
    return None if body is None else _unpack(body)


def keep(name: str, size: int, addresses: Addresses) -> None:
    """Put ``addresses`` on the shelf under ``name``, and take off what is too much."""
    if size >= _SMALL:
        _put(name, _pack(addresses))


def text(of: str, count: int, kind: str, maker: str, make: Callable[[], str]) -> str:
    """What ``make`` writes of a set of addresses, made once.

    Args:
        of: the digest of the set.
        count: how many intervals it has.
        kind: tells texts that the same code makes of the same set from each other.
        maker: the file of the code that ``make`` consists of, besides what reads and writes addresses.
    """
    if count < _LONG:
        return make()
    name = _name(b"text", of.encode(), kind.encode(), _code(maker))
    kept = _get(name)
    if kept is not None:
        return kept.decode("utf-8")
    made = make()
    _put(name, made.encode("utf-8"))
    return made


def pack(intervals: Intervals) -> bytes:
    """The bounds of ``intervals`` as bytes: of four bytes each where all of them fit, else of sixteen."""
    flat = list(chain.from_iterable(intervals))
    if not flat or flat[-1] <= V4_MAX:
        return struct.pack(f">{len(flat)}I", *flat)
    return b"".join([number.to_bytes(16, "big") for number in flat])


_digests: dict[int, tuple[Intervals, str]] = {}
"""Of sets that came from the shelf as packed bytes: packing them again would cost more than all else."""


def content(intervals: Intervals) -> str:
    """SHA-256 of a set of addresses."""
    known = _digests.get(id(intervals))
    # The set is held here too, so that nothing else can come to stand at its place in memory.
    return known[1] if known else hashlib.sha256(pack(intervals)).hexdigest()


def _name(kind: bytes, *parts: bytes) -> str:
    made = hashlib.sha256(_MAGIC)
    for part in (kind, *map(_code, _MAKERS), *parts):
        made.update(b"%d\n" % len(part))
        made.update(part)
    return made.hexdigest()


@lru_cache(maxsize=16)
def _code(file: str) -> bytes:
    """The digest of a source file: what other code made is not used."""
    try:
        with open(os.path.join(os.path.dirname(__file__), file), "rb") as source:
            return hashlib.sha256(source.read()).digest()
    except OSError:
        # Compiled code only, which cannot be told apart: nothing is found, and what is put there is found by no one.
        return os.urandom(32)


def _get(name: str) -> bytes | None:
    folder = _folder()
    if folder is None:
        return None
    try:
        with open(os.path.join(folder, name), "rb") as file:
            info = os.fstat(file.fileno())
            if info.st_uid != os.geteuid() or info.st_mode & 0o022:
                return None
            raw = file.read()
            os.utime(file.fileno())
    except OSError:
        return None
    start = _head(name)
    body, seal = raw[len(start) : -32], raw[-32:]
    whole = raw.startswith(start) and hashlib.sha256(start + body).digest() == seal
    return body if whole else None


def _put(name: str, body: bytes) -> None:
    folder = _folder()
    if folder is None:
        return
    start = _head(name)
    # A full or read-only disk only costs time.
    with contextlib.suppress(OSError):
        handle, path = tempfile.mkstemp(dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(start + body + hashlib.sha256(start + body).digest())
            os.replace(path, os.path.join(folder, name))
        except OSError:
            os.unlink(path)
            raise
        _tidy(folder)


def _tidy(folder: str) -> None:
    kept = []
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):  # another process was first
            info = entry.stat(follow_symlinks=False)
            kept.append((info.st_mtime_ns, info.st_size, entry.path))
    size = 0
    for count, (_used, more, path) in enumerate(sorted(kept, reverse=True), 1):
        size += more
        if count > _KEEP or (size > _KEEP_BYTES and count > 1):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


def _head(name: str) -> bytes:
    return _MAGIC + name.encode() + b"\n"


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
    six = b"".join([number.to_bytes(16, "big") for pair in addresses.v6 for number in pair])
    return struct.pack(">I", 2 * len(addresses.v4)) + pack(addresses.v4) + six


@no_collector()
def _unpack(body: bytes) -> Addresses:
    (count,) = struct.unpack_from(">I", body)
    four = struct.unpack_from(f">{count}I", body, 4)
    numbers = [left << 64 | right for left, right in struct.iter_unpack(">QQ", body[4 + 4 * count :])]
    found = Addresses(_pairs(four), _pairs(numbers))
    if len(_digests) >= _KEEP:
        _digests.clear()
    _digests[id(found.v4)] = found.v4, hashlib.sha256(body[4 : 4 + 4 * count]).hexdigest()
    return found


def _pairs(numbers: Sequence[int]) -> Intervals:
    return tuple(zip(numbers[0::2], numbers[1::2], strict=True))
