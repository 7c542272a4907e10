# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Where the device keeps its files, whether they outlive a reboot, and how much room there is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.facts.text import clean, number

_IN_MEMORY = ("tmpfs", "ramfs", "rootfs")
# Where Docker, Podman, CRI-O, containerd and LXC keep what a container writes.
_ENGINE = re.compile(r"/(overlay2?|overlayfs|snapshots|containers|containerd|docker|lxc|lxd|incus)/")


@dataclass(frozen=True)
class Mount:
    """One line of mountinfo. ``options`` are those of the mount and of its file system."""

    point: str
    fstype: str
    source: str
    options: tuple[str, ...]

    @property
    def read_only(self) -> bool:
        return "ro" in self.options or (self.fstype == "overlay" and not self.upper)

    @property
    def upper(self) -> str:
        return next((option[9:] for option in self.options if option.startswith("upperdir=")), "")


def mounts(text: str) -> list[Mount]:
    """The mounts in order; a later one hides an earlier one at the same place."""
    found = []
    for line in text.split("\n"):
        words = line.split(" ")
        if "-" not in words[6:]:
            continue
        dash = words.index("-", 6)
        if len(words) < dash + 4:
            continue
        options = (*words[5].split(","), *words[dash + 3].split(","))
        found.append(
            Mount(
                _path(words[4]),
                clean(words[dash + 1]),
                _path(words[dash + 2]),
                tuple(_path(o) for o in options),
            )
        )
    return found


def place(path: str, table: list[Mount]) -> Mount | None:
    """The mount that ``path`` lies on."""
    best: Mount | None = None
    for mount in table:
        inside = PurePosixPath(path).is_relative_to(mount.point)
        if inside and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def volatile(mount: Mount, table: list[Mount], container: bool) -> bool:
    """Does a write here vanish at reboot? In memory, and on an overlay whose upper directory is there.

    An upper directory that no visible mount holds is one of two things. A container engine keeps it on the
    machine outside: fine. Otherwise whatever mounted the root hid it, as boot scripts do with one in memory;
    it counts as lost until it can be seen, for a device that forgets its hardening is open again.
    """
    if mount.fstype in _IN_MEMORY:
        return True
    if mount.fstype != "overlay" or not mount.upper:
        return False
    below = place(mount.upper, [other for other in table if other.point != "/" or other.fstype != "overlay"])
    if below is not None:
        return below.fstype in _IN_MEMORY
    return not (container and _ENGINE.search(mount.upper))


def root(reply: Reply) -> dict[str, Any]:
    """The root file system."""
    table = mounts(reply.get("mountinfo"))
    mount = place("/", table)
    if mount is None:
        return {"device": "", "fstype": "", "read_only": False, "volatile": False, "noexec": False}
    return {
        "device": mount.source,
        "fstype": mount.fstype,
        "read_only": mount.read_only,
        "volatile": volatile(mount, _seen_by_init(reply, table), _in_container(reply)),
        "noexec": "noexec" in mount.options,
    }


def state_dir(reply: Reply) -> dict[str, Any]:
    """The directory that holds Sallyport's state. ``free_kb`` and ``free_inodes`` 0 mean not known."""
    table = mounts(reply.get("mountinfo"))
    path = clean(reply.get("state_dir"))
    mount = place(path or "/", table)
    free_kb = free_inodes = 0
    numbers = [number(word) for word in reply.get("statfs").split()]
    if len(numbers) == 3:
        free_kb, free_inodes = numbers[0] * numbers[1] // 1024, numbers[2]
    else:
        free_kb, free_inodes = _df(reply.get("df")), _df(reply.get("df_inodes"))
    return {
        "path": path,
        "fstype": mount.fstype if mount else "",
        "read_only": mount.read_only if mount else False,
        "volatile": volatile(mount, _seen_by_init(reply, table), _in_container(reply)) if mount else False,
        "noexec": "noexec" in mount.options if mount else False,
        "free_kb": free_kb,
        "free_inodes": free_inodes,
    }


def memory(reply: Reply) -> dict[str, int]:
    """Kilobytes. ``limit_kb`` is the tightest limit of our control groups, 0 where there is none."""
    values: dict[str, int] = {}
    for record in reply.all("memory"):
        key, _, value = record.partition(" ")
        values[key.rstrip(":")] = number(value.strip())
    total = values.get("MemTotal", 0)
    # Kernels before 3.14 give no estimate of their own.
    rough = values.get("MemFree", 0) + values.get("Buffers", 0) + values.get("Cached", 0)
    limits = [number(text) // 1024 for text in reply.all("memory_limit") if number(text)]
    below = [limit for limit in limits if not total or limit < total]
    return {
        "total_kb": total,
        "available_kb": values.get("MemAvailable", rough),
        "limit_kb": min(below, default=0),
    }


def _seen_by_init(reply: Reply, table: list[Mount]) -> list[Mount]:
    return mounts(reply.get("mountinfo_init")) or table


def _in_container(reply: Reply) -> bool:
    return any(reply.all("container"))


def _df(line: str) -> int:
    """The fourth column, counted from the right: the device name may hold spaces."""
    words = line.split()
    at = next((index for index, word in enumerate(words) if re.fullmatch(r"\d+%|-", word) and index >= 3), 0)
    return number(words[at - 1]) if at else 0


def _path(text: str) -> str:
    """mountinfo writes spaces, tabs, newlines and backslashes as octal."""
    return clean(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text))
