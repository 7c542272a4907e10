# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""A policy folder as it is, or as it was in a git revision."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

_TIMEOUT = 60


class NoSuchVersion(ValueError):
    """What was named is neither a folder nor a revision that holds the policy."""


@contextmanager
def folder_of(name: str, policy_dir: str) -> Iterator[str]:
    """The folder that ``name`` means: a folder, or ``policy_dir`` in the git revision ``name``.

    A revision is unpacked into a private temporary folder that goes with the context. Raises ``NoSuchVersion``.
    """
    if os.path.isdir(name):
        yield name
        return
    _git(policy_dir, name, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    with tempfile.TemporaryDirectory(prefix="sallyport-policy-") as folder:
        for path, content in _files(policy_dir, name):
            whole = os.path.normpath(os.path.join(folder, path))
            if not whole.startswith(folder + os.sep):
                continue
            os.makedirs(os.path.dirname(whole), exist_ok=True)
            with open(whole, "wb") as file:
                file.write(content)
        yield folder


def _files(policy_dir: str, name: str) -> Iterator[tuple[str, bytes]]:
    """The files of the folder in a revision, as they were committed.

    Not ``git archive``: it obeys a .gitattributes of the revision itself, which may leave layers out.
    """
    # From inside a folder, git lists just that folder.
    listed = _git(policy_dir, name, "ls-tree", "-r", "-z", f"{name}^{{commit}}").decode(
        "utf-8", "surrogateescape"
    )
    paths: list[str] = []
    objects: list[str] = []
    for entry in filter(None, listed.split("\0")):
        about, _tab, path = entry.partition("\t")
        mode, kind, digest = about.split(" ")
        if mode == "120000":
            # It could lead anywhere, and a layer that is passed over would make the answer wrong.
            raise NoSuchVersion(
                f"`{name}` holds the link {path}; in a git revision only plain files can be read"
            )
        if kind == "blob":
            paths.append(path)
            objects.append(digest)
    if not paths:
        raise NoSuchVersion(f"`{name}` is neither a folder nor a git revision that holds {policy_dir}")
    raw = _git(policy_dir, name, "cat-file", "--batch", said="".join(f"{one}\n" for one in objects).encode())
    at = 0
    for path in paths:
        head, _, _ = raw[at : at + 200].partition(b"\n")
        start = at + len(head) + 1
        size = int(head.split(b" ")[2])
        yield path, raw[start : start + size]
        at = start + size + 1


def _git(policy_dir: str, name: str, *arguments: str, said: bytes = b"") -> bytes:
    command = ["git", "-C", policy_dir, *arguments]
    try:
        done = subprocess.run(command, input=said, capture_output=True, timeout=_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoSuchVersion(f"`{name}` is no folder, and git could not be asked for it: {error}") from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else "git does not know it"
        raise NoSuchVersion(
            f"`{name}` is neither a folder nor a git revision that holds {policy_dir}: {reason}"
        )
    return done.stdout
