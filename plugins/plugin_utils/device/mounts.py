# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Where files lie on a device, and whether a change there could be taken back after a power cut. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

VOLATILE = frozenset({"tmpfs", "ramfs"})


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of /proc/mounts."""

    point: str
    kind: str
    options: tuple[str, ...]

    def option(self, name: str) -> str:
        """The value of ``name=value``, or nothing."""
        return next((word[len(name) + 1 :] for word in self.options if word.startswith(f"{name}=")), "")


def parse(lines: Iterable[str]) -> list[Mount]:
    """Mounts from lines of "point type options", in the order of /proc/mounts."""
    found = []
    for line in lines:
        point, _, rest = line.partition(" ")
        kind, _, options = rest.partition(" ")
        found.append(Mount(unescape(point), kind, tuple(options.split(","))))
    return found


def unescape(path: str) -> str:
    """/proc/mounts writes space, tab, newline and backslash as octal."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def holding(path: str, mounts: Sequence[Mount]) -> Mount:
    """The mount that ``path`` lies on; of several at one point the last, which covers the others."""
    best = Mount("/", "unknown", ())
    for mount in mounts:
        below = path == mount.point or path.startswith(mount.point.rstrip("/") + "/")
        if below and len(mount.point) >= len(best.point):
            best = mount
    return best


def why_not(state_dir: str, mounts: Sequence[Mount]) -> str:
    """Why the pending change would not outlast a power cut in ``state_dir``; nothing where it would."""
    state = holding(state_dir, mounts)
    if state.kind in VOLATILE:
        return (
            f"{state_dir} lies on {state.kind} ({state.point}), which forgets everything at a power cut: an "
            "unconfirmed change could not be taken back. Set state_dir to a folder on persistent storage."
        )
    if "ro" in state.options or state.kind == "squashfs":
        return (
            f"{state_dir} is on a read-only file system ({state.point}, {state.kind}). Remount it writable for the "
            "run, or set state_dir."
        )
    # Inside a container the upper directory is the host's path and says nothing here; where it is a path of this
    # device, its file system decides.
    upper = state.option("upperdir") if state.kind == "overlay" else ""
    below = holding(upper, mounts) if upper else state
    if below.kind in VOLATILE:
        return (
            f"the root is an overlay whose upper directory {upper} lies on {below.kind}: every change is lost at "
            "reboot, and the protection against lock-out with it. Make the change in the image, or mount "
            "persistent storage."
        )
    return ""


def too_late(paths: Iterable[str], mounts: Sequence[Mount]) -> str:
    """Why BusyBox init could not take back a change of ``paths``; nothing where it could.

    Its first line runs before anything but the root is mounted.
    """
    for path in paths:
        mount = holding(path, mounts)
        if mount.point != "/":
            return (
                f"{path} lies on {mount.point} ({mount.kind}), which BusyBox init mounts only after its first line has "
                "run: an unconfirmed change there could not be taken back at boot. Keep it on the root file system."
            )
    return ""
