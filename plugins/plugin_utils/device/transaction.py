# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a commit changes: the arguments of ``sallyport.iot.commit``, checked and typed. Nothing here touches a device."""

from __future__ import annotations

import hashlib
import posixpath
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

DEFAULT_STATE_DIR = "/var/lib/sallyport"

Kind = Literal["file", "link", "absent", "keep"]
"""``keep`` is a copy from a generation on the device, with the mode and owner it had there."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_MODE = re.compile(r"0?[0-7]{3,4}")
_OWNER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}")
_FILE_KEYS = {
    "dest", "content", "src", "link", "state", "mode", "owner", "group", "secret", "replaces", "check", "generate",
}  # fmt: skip


class ArgumentError(ValueError):
    """An argument of a commit is wrong; the message says which, what was expected and what was found."""


@dataclass(frozen=True)
class File:
    """One file, link or absence that the device is to have."""

    dest: str
    kind: Kind = "file"
    content: bytes = b""
    target: str = ""
    mode: str = "0644"
    """Octal, or ``keep``: mode and owner of the file that is there, else 0644 and root."""
    owner: str = "root"
    group: str = "root"
    secret: bool = False
    replaces: str = ""
    """SHA-256 that the present file must have, else the commit is refused: somebody changed it meanwhile."""
    check: str = ""
    generate: str = ""
    """sh that writes the content to ``"$1"`` on the device, and a public part to ``"$1.pub"`` if there is one."""
    source: str = ""
    """For ``keep``: the path below the state directory that is copied."""
    follow: bool = True
    """A link at ``dest`` stands for the file that it names, and stays. Else the file takes the link's place."""

    @property
    def folder(self) -> str:
        return posixpath.dirname(self.dest) or "/"


@dataclass(frozen=True)
class Confirm:
    seconds: int = 60
    new_daemon: bool = False
    host_keys: tuple[str, ...] = ()
    """Public host keys (``type base64``) that alone may answer the new connection; none for the site's known_hosts."""


@dataclass(frozen=True)
class Transaction:
    name: str
    files: tuple[File, ...] = ()
    check: tuple[str, ...] = ()
    activate: tuple[str, ...] = ()
    verify: tuple[str, ...] = ()
    revert: tuple[str, ...] = ()
    settle: tuple[str, ...] = ()
    live: tuple[str, ...] = ()
    tell: str = ""
    """sh that changes nothing; what it prints comes with the answer to the first question, as ``told`` in the result."""
    confirm: Confirm = field(default_factory=Confirm)
    keep: int = 10
    state_dir: str = DEFAULT_STATE_DIR
    factory: bool = False
    leaves: tuple[str, ...] = ()
    """Folders to remove after the confirmation where they are empty, deepest first."""
    undone: tuple[str, ...] = ()
    """Names whose generations this transaction takes back."""
    forgets: tuple[str, ...] = ()
    """Paths whose former content no generation may keep once this is confirmed: going back leaves them as they are."""
    forgets_like: tuple[str, ...] = ()
    """The same for paths of a form; ``*`` stands for anything."""
    activate_from: tuple[str, ...] = ()
    revert_from: tuple[str, ...] = ()
    """Lists of commands below the state directory, used in place of ``activate`` and ``revert``."""
    note: str = ""
    """For the list of generations."""

    @property
    def secrets(self) -> tuple[bytes, ...]:
        return tuple(item.content for item in self.files if item.secret and item.content)


def from_arguments(arguments: Mapping[str, Any], sources: Mapping[str, bytes]) -> Transaction:
    """A transaction from the arguments of a task.

    Args:
        arguments: as documented for the action.
        sources: the content of every file that a ``src`` names.

    Raises:
        ArgumentError: naming the argument.
    """
    name = arguments.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ArgumentError(f"name must match {_NAME.pattern}, got {name!r}")
    known = {"name", "files", "confirm", "keep", "state_dir", "note", *_LISTS}
    for key in arguments:
        if key not in known:
            raise ArgumentError(f"{key!r} is no argument of commit; there are {', '.join(sorted(known))}")
    files = tuple(
        _file(item, f"files[{index}]", sources)
        for index, item in enumerate(_sequence(arguments, "files", Mapping))
    )
    seen: set[str] = set()
    for index, item in enumerate(files):
        if item.dest in seen:
            raise ArgumentError(f"files[{index}].dest: {item.dest!r} is named twice")
        seen.add(item.dest)
    lists: dict[str, Any] = {key: tuple(_sequence(arguments, key, str)) for key in _LISTS}
    state_dir = _path(arguments.get("state_dir") or DEFAULT_STATE_DIR, "state_dir")
    if re.search(r"[^A-Za-z0-9/._-]", state_dir):
        raise ArgumentError(
            f"state_dir goes into /etc/inittab: letters, digits and /._- only, got {state_dir!r}"
        )
    for index, item in enumerate(files):
        if item.dest.startswith(f"{state_dir}/") or re.fullmatch(
            r"/etc/systemd/system/(.*/)?sallyport-restore\.service", item.dest
        ):
            raise ArgumentError(
                f"files[{index}].dest: {item.dest} is what takes an unconfirmed change back, and no file of a change; "
                "playbooks/rollback.yml to factory removes it"
            )
    result = Transaction(
        name=name,
        files=files,
        confirm=_confirm(
            arguments.get("confirm") or {}, any(_SSH_READS.fullmatch(item.dest) for item in files)
        ),
        keep=_number(arguments.get("keep", 10), "keep", 1, 1000),
        state_dir=state_dir,
        note=str(arguments.get("note") or ""),
        **lists,
    )
    if not result.files and not result.live:
        raise ArgumentError(
            "there are neither files nor live, so nothing could ever differ and no command would ever run; "
            "give the files to change, or in live the commands that show the state to keep"
        )
    return result


_LISTS = ("check", "activate", "verify", "revert", "settle", "live")


def _sequence(arguments: Mapping[str, Any], key: str, of: type | tuple[type, ...]) -> list[Any]:
    value = arguments.get(key)
    if value is None:
        return []
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Sequence):
        raise ArgumentError(f"{key} must be a list, got {type(value).__name__}")
    for index, item in enumerate(value):
        if not isinstance(item, of):
            raise ArgumentError(
                f"{key}[{index}] must be {'text' if of is str else 'a mapping'}, got {type(item).__name__}"
            )
        if isinstance(item, str) and "\0" in item:
            raise ArgumentError(f"{key}[{index}] has a NUL character in it, which no shell can be given")
    return list(value)


def _path(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.startswith("/"):
        raise ArgumentError(f"{where} must be an absolute path, got {value!r}")
    if "\0" in value or posixpath.normpath(value) != value or value == "/" or value.startswith("//"):
        raise ArgumentError(
            f"{where} must be a normal path without '.', '..', '//' or a final slash, got {value!r}"
        )
    return value


def _number(value: Any, where: str, low: int, high: int) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ArgumentError(f"{where} must be a whole number from {low} to {high}, got {value!r}")
    return value


def _file(item: Mapping[str, Any], where: str, sources: Mapping[str, bytes]) -> File:
    for key in item:
        if key not in _FILE_KEYS:
            raise ArgumentError(
                f"{where}: {key!r} is no key of a file; there are {', '.join(sorted(_FILE_KEYS))}"
            )
    dest = _path(item.get("dest"), f"{where}.dest")
    state = item.get("state") or "present"
    if state not in ("present", "absent"):
        raise ArgumentError(f"{where}.state must be present or absent, got {state!r}")
    for key in ("check", "generate"):
        if "\0" in str(item.get(key) or ""):
            raise ArgumentError(f"{where}.{key} has a NUL character in it, which no shell can be given")
    given = [key for key in ("content", "src", "link", "generate") if item.get(key) is not None]
    if len(given) != (1 if state == "present" else 0):
        raise ArgumentError(
            f"{where} ({dest}) needs exactly one of content, src, link, generate or state: absent, "
            f"got {', '.join(given) or 'none'} with state {state}"
        )
    mode = item.get("mode")
    mode = "0644" if mode is None else mode
    if not isinstance(mode, str) or not (mode == "keep" or _MODE.fullmatch(mode)):
        raise ArgumentError(
            f"{where}.mode must be octal text in quotes such as '0644', or keep, got {mode!r}"
        )
    for key in ("owner", "group"):
        value = item.get(key, "root")
        if not isinstance(value, str) or not _OWNER.fullmatch(value):
            raise ArgumentError(
                f"{where}.{key} must be a user or group name or number as text, got {value!r}"
            )
    result = File(
        dest=dest,
        mode=mode if mode == "keep" else mode.lstrip("0").rjust(4, "0"),
        owner=item.get("owner", "root"),
        group=item.get("group", "root"),
        secret=_flag(item.get("secret", False), f"{where}.secret"),
        replaces=str(item.get("replaces") or ""),
        check=str(item.get("check") or ""),
    )
    if state == "absent":
        return replace(result, kind="absent")
    if "link" in given:
        target = item["link"]
        if not isinstance(target, str) or not target or "\0" in target:
            raise ArgumentError(f"{where}.link must be the target's path, got {target!r}")
        return replace(result, kind="link", target=target)
    if "generate" in given:
        return replace(result, generate=str(item["generate"]), secret=True)
    if "src" in given:
        return replace(result, content=sources[str(item["src"])])
    content = item["content"]
    if not isinstance(content, (str, bytes)):
        raise ArgumentError(f"{where}.content must be text, got {type(content).__name__}")
    return replace(
        result, content=content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape")
    )


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise ArgumentError(f"{where} must be true or false, got {value!r}")
    return value


_SSH_READS = re.compile(
    r"/etc/(ssh/(sshd_config(\.d/.*)?|ssh_host_.*)|(default|conf\.d)/(ssh|sshd|dropbear)|dropbear/.*"
    r"|systemd/system/(ssh|sshd|dropbear)[^/]*(\.d/.*)?)"
)


def _confirm(value: Any, ssh_reads: bool) -> Confirm:
    """``ssh_reads``: the change is of files that an SSH daemon reads at its start, so a new one has to answer."""
    if not isinstance(value, Mapping):
        raise ArgumentError(f"confirm must be a mapping, got {type(value).__name__}")
    for key in value:
        if key not in ("seconds", "new_daemon", "host_keys"):
            raise ArgumentError(f"confirm: {key!r} is no key; there are host_keys, new_daemon, seconds")
    return Confirm(
        seconds=_number(value.get("seconds", 60), "confirm.seconds", 5, 3600),
        new_daemon=_flag(value.get("new_daemon", ssh_reads), "confirm.new_daemon"),
        host_keys=tuple(_sequence(value, "host_keys", str)),
    )


def printable(path: str) -> str:
    """``path`` as valid Unicode: bytes that are not UTF-8 become ``\\xff``."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def shown(path: str) -> str:
    """``path`` for people: on one line, in quotes if anybody could misread it, and with no power over a terminal."""
    text = re.sub(
        r"[^ \S]|[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda m: f"\\x{ord(m[0]):02x}", printable(path)
    )
    return text if re.fullmatch(r"[\w@%+=:./-]+", text) else shlex.quote(text)


def cksum(data: bytes) -> int:
    """The CRC of POSIX ``cksum``, for devices that have no better digest."""
    crc = 0
    length = len(data)
    tail = bytearray()
    while length:
        tail.append(length & 0xFF)
        length >>= 8
    for byte in data + bytes(tail):
        crc = ((crc << 8) & 0xFFFFFFFF) ^ _CRC[(crc >> 24) ^ byte]
    return crc ^ 0xFFFFFFFF


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte << 24
        for _ in range(8):
            crc = ((crc << 1) ^ 0x04C11DB7 if crc & 0x80000000 else crc << 1) & 0xFFFFFFFF
        table.append(crc)
    return tuple(table)


_CRC = _crc_table()


def same_digest(content: bytes, found: str) -> bool:
    """Does the device's digest line (sha256sum, md5sum or cksum; told apart by its form) fit ``content``?"""
    words = found.split()
    if not words:
        return False
    if len(words[0]) == 64:
        return words[0] == hashlib.sha256(content).hexdigest()
    if len(words[0]) == 32 and not words[0].isdigit():
        return words[0] == hashlib.md5(content, usedforsecurity=False).hexdigest()
    return len(words) > 1 and words[0] == str(cksum(content)) and words[1] == str(len(content))
