"""Podman, asked and told; and what this machine allows, looked up rather than assumed."""

from __future__ import annotations

import functools
import json
import resource
import shutil
import subprocess
from pathlib import Path
from typing import Any

from lab.fleet import LabError


def podman(
    *arguments: str, stdin: bytes | None = None, check: bool = True, folder: Path | None = None
) -> str:
    """Run podman and return its standard output; LabError with its own words when it fails.

    Args:
        folder: where it runs; what watches a container (conmon) stays there, and leaves a file `oom` when memory ran out.
    """
    done = subprocess.run(["podman", *arguments], input=stdin, capture_output=True, check=False, cwd=folder)
    if check and done.returncode:
        reason = done.stderr.decode(errors="replace").strip() or done.stdout.decode(errors="replace").strip()
        raise LabError(f"podman {' '.join(arguments[:4])} ...: exit {done.returncode}: {reason}")
    return done.stdout.decode(errors="replace")


_WAYS_IN: dict[str, tuple[Path, list[str]]] = {}


def way_in(container: str) -> list[str]:
    """The words before a command that is to run in a container as `podman exec` would run it.

    By runc itself where podman uses it: the same namespaces, groups, capabilities, limits and environment, for a quarter of
    the processor time. Unlike podman it goes on until nobody holds the command's output any more: what stays behind
    as a daemon must not. The command reads standard input, so give it one.
    """
    note, words = _WAYS_IN.get(container, (None, []))
    if note is None or not note.exists():  # one that is put back as shipped is another one of the same name
        asked = podman("inspect", "--format", "{{.OCIRuntime}} {{.Id}} {{.PidFile}}", container, check=False)
        runtime, identity, note_ = (*asked.split(), "", "", "")[:3]
        if runtime != "runc" or not note_:
            return ["podman", "exec", "--interactive", container]
        words = ["runc", "exec", identity]
        _WAYS_IN[container] = (Path(note_), words)
    return words


def run_in(container: str, *command: str, stdin: bytes = b"", check: bool = True) -> str:
    """Run a command in a container by `way_in`; its standard output, and LabError with its own words when it fails."""
    done = subprocess.run(
        [*way_in(container), *command], input=stdin, capture_output=True, check=False, timeout=300
    )
    if check and done.returncode:
        reason = done.stderr.decode(errors="replace").strip() or done.stdout.decode(errors="replace").strip()
        raise LabError(f"{container}: {' '.join(command[:3])} ...: exit {done.returncode}: {reason}")
    return done.stdout.decode(errors="replace")


def succeeds(*arguments: str) -> bool:
    """Whether a podman command ends with 0."""
    return subprocess.run(["podman", *arguments], capture_output=True, check=False).returncode == 0


def listing(*arguments: str) -> list[dict[str, Any]]:
    """The rows of a podman listing."""
    format_ = () if "inspect" in arguments else ("--format", "json")
    rows: list[dict[str, Any]] = json.loads(podman(*arguments, *format_) or "[]") or []
    return rows


@functools.cache
def run_options() -> tuple[str, ...]:
    """What `podman create` needs on this machine for a device with its own init."""
    info = json.loads(podman("info", "--format", "json"))
    options: list[str] = []
    if info["host"]["cgroupVersion"] == "v1" and info["host"]["ociRuntime"]["name"] != "runc":
        # crun refuses hybrid cgroups
        if not shutil.which("runc"):
            raise LabError(
                "this machine has cgroups v1, where only runc starts systemd: apt-get install runc"
            )
        options += ["--runtime", "runc"]
    # Podman asks for limits above the hard ones of a machine without CAP_SYS_RESOURCE, and is refused.
    for name, kind, wanted in (
        ("nofile", resource.RLIMIT_NOFILE, 65536),
        ("nproc", resource.RLIMIT_NPROC, 32768),
    ):
        hard = resource.getrlimit(kind)[1]
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        options.append(f"--ulimit={name}={limit}:{limit}")
    return tuple(options)
