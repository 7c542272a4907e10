"""What the lab needs from the machine itself: kernel modules, and room for many systemds. Put back when no lab is left."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path

_INSTANCES = Path("/proc/sys/fs/inotify/max_user_instances")
_WANTED = 2048
_BEFORE = Path("/run/sallyport-lab-inotify")


def prepare() -> None:
    """Before the first container starts."""
    if shutil.which("modprobe"):
        # A container cannot ask for modules by itself. What a kernel has built in or lacks is no error here: the
        # devices' own tools report what is missing.
        tables = [
            f"{ip}table_{name}" for ip in ("ip", "ip6") for name in ("filter", "mangle", "nat", "security")
        ]
        command = ["modprobe", "--all", "--quiet", "nf_tables", "ip_set", *tables]
        subprocess.run(command, capture_output=True, check=False)
    # All containers' root is one user to the kernel, whose default of 128 is used up by about eight systemds: the
    # next one boots for half a minute into a degraded state.
    before = int(_INSTANCES.read_text())
    if before < _WANTED:
        with contextlib.suppress(OSError):  # where it is not ours to set, few devices still fit
            _INSTANCES.write_text(str(_WANTED))
            if not _BEFORE.exists():
                _BEFORE.write_text(str(before))


def restore() -> None:
    """After the last lab of this machine stopped."""
    if _BEFORE.exists():
        _INSTANCES.write_text(_BEFORE.read_text())
        _BEFORE.unlink()
