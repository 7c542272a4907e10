# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""A policy folder as it is, or as it was in a git revision."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
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
    # From inside a folder, git archives just that folder.
    raw = _git(policy_dir, name, "archive", "--format=tar", f"{name}^{{commit}}")
    with tempfile.TemporaryDirectory(prefix="sallyport-policy-") as folder:
        with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
            for member in archive.getmembers():
                path = os.path.normpath(os.path.join(folder, member.name))
                if not path.startswith(folder + os.sep) or member.isdir():
                    continue
                if not member.isfile():
                    # It could lead anywhere, and a layer that is passed over would make the answer wrong.
                    raise NoSuchVersion(
                        f"`{name}` holds the link {member.name}; in a git revision only plain files can be read"
                    )
                content = archive.extractfile(member)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "wb") as file:
                    file.write(content.read() if content else b"")
        yield folder


def _git(policy_dir: str, name: str, *arguments: str) -> bytes:
    command = ["git", "-C", policy_dir, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoSuchVersion(f"`{name}` is no folder, and git could not be asked for it: {error}") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        reason = said[-1] if said else "git does not know it"
        raise NoSuchVersion(
            f"`{name}` is neither a folder nor a git revision that holds {policy_dir}: {reason}"
        )
    return done.stdout
