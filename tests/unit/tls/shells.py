"""What a device would answer to an exchange, by a shell of this machine and folders of the test."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply, parse

SHELLS = (["sh"], ["busybox", "sh"])
_HELPERS = r"""
say() { printf '%s\n' "$*"; }
blob() {
  printf 'blob %s\n' "$1"
  while IFS= read -r _line; do printf '|%s\n' "$_line"; done
}
"""


def answer(shell: list[str], program: str, places: Mapping[str, Path], shims: Path | None = None) -> Reply:
    """``places``: path of the device -> path of the test; ``shims``: a folder that comes first on PATH."""
    for path, place in places.items():
        program = program.replace(path, str(place))
    environment = dict(os.environ)
    if shims:
        environment["PATH"] = f"{shims}:{environment['PATH']}"
    done = subprocess.run(
        [*shell, "-euc", _HELPERS + program], env=environment, capture_output=True, text=True, check=False
    )
    records, status = parse(f"n-begin\n{done.stdout}n-end {done.returncode}\n", "n") or ([], 1)
    return Reply(tuple(records), status, done.stderr)
