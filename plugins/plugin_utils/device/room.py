# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""How much space a change takes on a device, and what to say where there is less. Pure: numbers in, sh and text out.

A full device refuses with whatever words its tools have ("I/O error" is dash's), or dies without any. So the figures
are asked for, before the change and again where it failed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.sallyport.iot.plugins.plugin_utils.device import mounts, payload
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.transaction import File

_PROGRAM_KB = 32
_PROGRAM_FILES = 24
"""The device program, the marks of a transaction and its folders, on a file system with small blocks."""
_BLOCK_KB = 4
LARGE = 256 * 1024
"""Bytes of content from which on the device's memory is asked for before anything is sent."""
_SHELL_KB = 2048
_SHELL_FOLD = 4
_SHELL_AMPLE_FOLD = 10
"""What a shell takes of memory to read a program: to start, and for each byte. dash and ash 2 to 3.5, bash 8 (measured)."""


@dataclass(frozen=True)
class Need:
    """What a change takes on one file system: at least ``kb``; ``ample_kb`` is enough whatever its blocks are like."""

    point: str
    kb: int
    ample_kb: int
    inodes: int


def needs(
    state_dir: str, files: Iterable[tuple[File, int]], found: Sequence[mounts.Mount], root: str = "/"
) -> list[Need]:
    """What a change of ``files`` takes, by mount point.

    Every file is there twice before the swap: staged below ``state_dir`` and beside its destination.

    Args:
        files: with the size in bytes of what is there now.
    """
    home = mounts.holding(state_dir, found).point or root
    bytes_at: dict[str, int] = {home: 0}
    files_at: dict[str, int] = {home: 0}
    for item, size in files:
        there = mounts.holding(item.dest, found).point or root
        for point, amount in ((home, len(item.content) + size), (there, len(item.content))):
            bytes_at[point] = bytes_at.get(point, 0) + amount
            files_at[point] = files_at.get(point, 0) + 2
    return [
        Need(
            point=point,
            kb=bytes_at[point] // 1024 + (_PROGRAM_KB if point == home else 0),
            ample_kb=bytes_at[point] // 1024
            + _BLOCK_KB * files_at[point]
            + ((_PROGRAM_KB + _BLOCK_KB * _PROGRAM_FILES) if point == home else 0),
            inodes=files_at[point] + (_PROGRAM_FILES if point == home else 0),
        )
        for point in bytes_at
    ]


def ask(wanted: Sequence[Need]) -> bytes:
    """sh that says how much room there is; ``$short`` is ``yes`` where it cannot be enough.

    What a file system keeps back is partly for root, partly for nobody (ext4 has both): it counts as room before the
    change, which must not be refused wrongly, and as none where the change has failed. Without df, or on a file system
    that does not count, nothing is said.
    """
    parts = [
        rb"""
short=''
numbers() { case "$*" in *[!0-9\ ]* | '' | '0 '*) false ;; *) true ;; esac; }
room() { # INDEX POINT KB INODES
  kb='- -' inodes=-
  line=$(df -Pk "$2" 2>/dev/null | { read -r _; read -r _ all used free _; ! numbers "$all $used $free" || echo "$((all - used)) $free"; }) || line=''
  [ -z "$line" ] || kb=$line
  line=$(df -Pi "$2" 2>/dev/null | { read -r _; read -r _ all _ free _; ! numbers "$all $free" || echo "$free"; }) || line=''
  [ -z "$line" ] || inodes=$line
  say room "$1 $kb $inodes"
  kb=${kb%% *}
  if [ "$kb" != - ] && [ "$kb" -lt "$3" ]; then short=yes; fi
  if [ "$inodes" != - ] && [ "$inodes" -lt "$4" ]; then short=yes; fi
}
""".lstrip(b"\n")
    ]
    for index, need in enumerate(wanted):
        parts.append(b"room %d %s %d %d\n" % (index, payload.quote(need.point), need.kb, need.inodes))
    return b"".join(parts)


def refusal(wanted: Sequence[Need]) -> bytes:
    """sh that refuses the change before a byte of it is written."""
    return ask(wanted) + b'[ -z "$short" ] || { say refused room; exit 1; }\n'


def shortage(reply: Reply, wanted: Sequence[Need]) -> str:
    """What there is too little of, with the figures and what to do; nothing where there is enough."""
    found = []
    for line in reply.all("room"):
        index, _, kb, inodes = line.split()
        need = wanted[int(index)]
        if kb.isdigit() and int(kb) < need.ample_kb:
            found.append(
                f"the file system of {need.point} is full: the change and the way back take up to {need.ample_kb} kB "
                f"there, and {kb} kB are free"
            )
        if inodes.isdigit() and int(inodes) < need.inodes:
            found.append(
                f"the file system of {need.point} has no inodes left: the change and the way back take up to {need.inodes} "
                f"files there, and {inodes} are free"
            )
    return "; ".join(found) + ". Delete files there, then run again." if found else ""


MEMORY = rb"""
while read -r key value _; do
  case $key in MemFree: | MemAvailable: | SwapFree:) say memory "$key $value" ;; esac
done </proc/meminfo
for group in /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes; do
  { read -r limit <"$group"; } 2>/dev/null || continue
  case $limit in *[!0-9]* | '') ;; *) say memory "limit: $((limit / 1024))" ;; esac
done
"""
"""sh that says what memory there is, and what a group of processes may use of it where that is less than all."""


def memory_kb(reply: Reply) -> int:
    """Memory that a program may get at most; 0 where the device does not say."""
    known: Mapping[str, str] = dict(line.partition(" ")[::2] for line in reply.all("memory"))
    free = known.get("MemAvailable:") or known.get("MemFree:") or ""
    total = int(free) + int(known.get("SwapFree:") or 0) if free.isdigit() else 0
    limit = known.get("limit:") or ""
    return min((figure for figure in (total, int(limit) if limit.isdigit() else 0) if figure), default=0)


def too_large(reply: Reply, size: int, ample: bool = False) -> str:
    """Why the device's shell cannot read a program of ``size`` bytes; nothing where it can, or where nobody knows.

    Args:
        ample: it has failed to; was that perhaps why?
    """
    need = _SHELL_KB + (_SHELL_AMPLE_FOLD if ample else _SHELL_FOLD) * size // 1024
    there = memory_kb(reply)
    if not there or there >= need:
        return ""
    return (
        f"the device has too little memory for a change of {size // 1024} kB: its shell takes up to {need} kB to read it, "
        f"and {there} kB can be had. Free some (stop what is not needed), or make the change smaller."
    )
