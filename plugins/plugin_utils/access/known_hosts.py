# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The operator's known_hosts file: new host keys are added before a change is armed, old ones leave after it
holds.

Between the two steps both are known, so a controller that dies at any instant still believes the device,
whichever key it ends up with. Forks of one run share the file: every edit holds a lock and replaces the file
in one rename.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import hashlib
import hmac
import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.access.host_keys import blob


@dataclass(frozen=True)
class Target:
    """Where ssh looks a device up: the names as written in the file, and the file itself."""

    path: Path
    names: tuple[str, ...]


def command_of(action: Any) -> list[str]:
    """ssh and its arguments as an action's connection uses them, up to the host."""
    get = action._connection.get_option
    words = [str(get("ssh_executable") or "ssh")]
    for name in ("ssh_args", "ssh_common_args", "ssh_extra_args"):
        words += shlex.split(get(name) or "")
    if get("port"):
        words += ["-p", str(get("port"))]
    if get("remote_user"):
        words += ["-l", str(get("remote_user"))]
    return [*words, str(get("host") or action._play_context.remote_addr)]


def resolve(command: Sequence[str]) -> Target | None:
    """Ask ssh itself, with the arguments that Ansible gives it, which file and which name it will use.

    Args:
        command: ssh and its arguments up to and including the host, without a remote command.

    Returns:
        None where ssh would use no file that can be written (such as /dev/null).
    """
    try:
        done = subprocess.run(
            [command[0], "-G", *command[1:]], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    if done.returncode != 0:
        return None
    options: dict[str, str] = {}
    for line in done.stdout.splitlines():
        key, _, value = line.partition(" ")
        options.setdefault(key.lower(), value)
    return target(options)


def target(options: dict[str, str]) -> Target | None:
    """The same from the options that ``ssh -G`` printed."""
    files = options.get("userknownhostsfile", "").split()
    if not files or files[0] in ("none", "/dev/null"):
        return None
    name = options.get("hostkeyalias") or options.get("hostname", "")
    if not name or name == "none":
        return None
    port = options.get("port", "22")
    shown = name if port == "22" or options.get("hostkeyalias") else f"[{name}]:{port}"
    return Target(Path(files[0]).expanduser(), (shown.lower(),))


def names_match(field: str, names: Iterable[str]) -> bool:
    """Whether the first field of a line means one of these names; plain, listed, or hashed."""
    if field.startswith("|1|"):
        try:
            _, _, salt, digest = field.split("|")
            key, want = base64.b64decode(salt, validate=True), base64.b64decode(digest, validate=True)
        except (ValueError, binascii.Error):
            return False
        return any(
            hmac.compare_digest(hmac.new(key, name.encode(), hashlib.sha1).digest(), want) for name in names
        )
    listed = set(field.lower().split(","))
    return any(name in listed for name in names)


def added(text: str, names: Sequence[str], publics: Iterable[str]) -> str:
    """``text`` with a line for each public key (``type base64 [comment]``) that these names do not have yet."""
    known = {
        blob(line)
        for line in text.splitlines()
        if line.split() and not line.startswith(("#", "@")) and names_match(line.split()[0], names)
    }
    lines = [text if not text or text.endswith("\n") else text + "\n"]
    for public in publics:
        words = public.split()
        if len(words) < 2 or not blob(public) or blob(public) in known:
            continue
        known.add(blob(public))
        lines.append(f"{','.join(names)} {words[0]} {words[1]}\n")
    return "".join(lines)


def removed(text: str, names: Sequence[str], blobs: Iterable[str]) -> str:
    """``text`` without the lines that give these names one of these keys."""
    gone = set(blobs)
    kept = []
    for line in text.splitlines(keepends=True):
        words = line.split()
        ours = len(words) > 2 and not line.startswith(("#", "@")) and names_match(words[0], names)
        if not (ours and blob(line) in gone):
            kept.append(line)
    return "".join(kept)


def edit(path: Path, change: Callable[[str], str]) -> bool:
    """Replace the file by what ``change`` makes of it, under a lock. Whether anything changed.

    Raises:
        OSError: the file or its directory cannot be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(path):
        try:
            old = path.read_text(encoding="utf-8", errors="surrogateescape")
            mode = path.stat().st_mode & 0o777
        except FileNotFoundError:
            old, mode = "", 0o600
        new = change(old)
        if new == old:
            return False
        real = Path(os.path.realpath(path))
        handle, temporary = tempfile.mkstemp(prefix=f".{real.name}.", dir=real.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as stream:
                stream.write(new)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(temporary, mode)
            os.replace(temporary, real)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    return True


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    # The lock is a file of its own: the known_hosts file is replaced, so a lock on it would be on a file that
    # is gone.
    with open(path.parent / f".{path.name}.sallyport.lock", "a", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
