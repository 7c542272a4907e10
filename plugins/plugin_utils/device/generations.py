# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The confirmed generations of a device: listing them, the way back to one of them, and which may be forgotten.

A generation holds what was there *before* it. So the way back to number N takes every later generation and, for each
file that any of them touched, what the earliest of them found. Pure, but for the sh programs that it composes.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from ansible_collections.sallyport.iot.plugins.plugin_utils.device import hook
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.facts.text import clean
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.payload import quote
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.transaction import (
    Confirm,
    File,
    Transaction,
    shown,
)

FACTORY = 0
_HOST_KEYS = ("/etc/ssh/ssh_host_", "/etc/dropbear/dropbear_")


class GenerationError(ValueError):
    """The wanted generation cannot be gone back to; the message says which ones can."""


@dataclass(frozen=True)
class Generation:
    """One confirmed change.

    ``files`` maps a path to the number under which it is kept; ``kept`` are the numbers whose former content is still
    there; ``made`` are folders that this generation created.
    """

    number: int
    name: str
    when: str
    by: str
    note: str
    files: dict[str, int]
    kept: frozenset[int]
    absent: frozenset[int]
    made: tuple[str, ...]
    pruned: bool


def listing(state_dir: str) -> bytes:
    """The read-only exchange that tells what generations there are."""
    return (
        b"STATE="
        + quote(state_dir)
        + rb"""
for g in "$STATE"/generation/*; do
  [ -f "$g/manifest" ] || continue
  n=${g##*/}
  say generation "$n"
  blob "name $n" <"$g/name"
  blob "label $n" <"$g/label"
  blob "manifest $n" <"$g/manifest"
  [ ! -e "$g/pruned" ] || say pruned "$n"
  for o in "$g"/old/*; do [ ! -e "$o" ] && [ ! -L "$o" ] || say old "$n ${o##*/}"; done
  for m in "$g"/made.*; do [ ! -e "$m" ] || say made "$n ${m##*.}"; done
done
public() {
  if [ "${2#/etc/dropbear/}" != "$2" ]; then dropbearkey -y -f "$STATE/generation/$1/old/$3" 2>/dev/null; else ssh-keygen -y -f "$STATE/generation/$1/old/$3" </dev/null 2>/dev/null; fi | blob "public $1 $2" || :
}
"""
    )


def public_keys(generations: Sequence[Generation]) -> bytes:
    """The part of a program that reports the public halves of host keys that ``generations`` replaced."""
    parts = []
    for generation in generations:
        for path, number in generation.files.items():
            if path.startswith(_HOST_KEYS) and path.endswith("_key") and number in generation.kept:
                parts.append(b"public %d %s %d\n" % (generation.number, quote(path), number))
    return b"".join(parts)


def parse(reply: Reply) -> list[Generation]:
    """The generations in ``reply``, oldest first."""
    old: dict[int, set[str]] = {}
    for line in reply.all("old"):
        owner, _, entry = line.partition(" ")
        old.setdefault(int(owner), set()).add(entry)
    pruned = {int(number) for number in reply.all("pruned")}
    result = []
    for text in reply.all("generation"):
        number = int(text)
        files, folders = _manifest(reply.get(f"manifest {number}"))
        label = [clean(line) for line in (reply.get(f"label {number}") + "\n\n\n").split("\n")]
        entries = old.get(number, set())
        made = {int(line.split()[1]) for line in reply.all("made") if line.split()[0] == text}
        result.append(
            Generation(
                number=number,
                name=clean(reply.get(f"name {number}").strip()),
                when=label[0],
                by=label[1],
                note=label[2],
                files=files,
                kept=frozenset(int(entry) for entry in entries if entry.isdigit()),
                absent=frozenset(int(entry[:-7]) for entry in entries if entry.endswith(".absent")),
                made=tuple(path for index, path in folders.items() if index in made),
                pruned=number in pruned,
            )
        )
    return sorted(result, key=lambda generation: generation.number)


def _manifest(text: str) -> tuple[dict[str, int], dict[int, str]]:
    words = shlex.split(text, comments=False, posix=True)
    files: dict[str, int] = {}
    folders: dict[int, str] = {}
    position = 0
    while position < len(words):
        if words[position] == "entry" and position + 3 < len(words):
            files[words[position + 3]] = int(words[position + 1])
            position += 8 if words[position + 2] == "link" else 7
        elif words[position] == "folder" and position + 2 < len(words):
            folders[int(words[position + 1])] = words[position + 2]
            position += 3
        else:
            position += 1
    return files, folders


def table(generations: Sequence[Generation]) -> str:
    """The list for people: when, what changed, by which run. The newest is last."""
    if not generations:
        return "no generations: Sallyport has not changed anything here"
    rows = [("", "when", "name", "by", "what")]
    for one in generations:
        files = ", ".join(shown(path) for path in sorted(one.files))
        what = ": ".join(text for text in (one.note, files) if text) or "live state repaired"
        rows.append(
            (str(one.number), one.when, one.name, one.by, what + (" (not kept whole)" if one.pruned else ""))
        )
    wide = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        f"{row[0]:>{wide[0]}}  {row[1]:<{wide[1]}}  {row[2]:<{wide[2]}}  {row[3]:<{wide[3]}}  {row[4]}"
        for row in rows
    )


def resolve(generations: Sequence[Generation], wanted: str) -> int:
    """The number that ``wanted`` (``previous``, ``factory`` or a number) means.

    Raises:
        GenerationError: there is no such generation, or it is no longer kept.
    """
    numbers = [generation.number for generation in generations]
    if not numbers:
        raise GenerationError("the device has no generations: Sallyport has not changed anything on it")
    # Behind the oldest that is kept whole, later changes to its files are forgotten: only factory is left there.
    kept = [generation.number for generation in generations if not generation.pruned] or numbers[-1:]
    possible = [number for number in range(kept[0] - 1, kept[-1]) if number != FACTORY]
    if wanted in ("factory", str(FACTORY)):
        return FACTORY
    if wanted == "previous":
        return kept[-1] - 1
    if not wanted.isdigit() or int(wanted) not in possible:
        text = ", ".join(["factory", *(str(number) for number in possible)])
        raise GenerationError(f"there is no way back to {wanted!r}; there is one to: {text}")
    return int(wanted)


def way_back(
    generations: Sequence[Generation],
    to: int,
    *,
    state_dir: str,
    seconds: int,
    host_keys: tuple[str, ...] = (),
) -> Transaction:
    """The transaction that goes back to generation ``to``; 0 leaves the device as it was found."""
    undone = [generation for generation in generations if generation.number > to]
    files: dict[str, File] = {}
    for generation in undone:
        for path, number in generation.files.items():
            if path in files:
                continue
            if number in generation.absent:
                files[path] = File(dest=path, kind="absent")
            elif number in generation.kept:
                files[path] = File(
                    dest=path, kind="keep", secret=True, source=f"generation/{generation.number}/old/{number}"
                )
    made = sorted({path for generation in undone for path in generation.made}, key=len, reverse=True)
    newest_first = [generation.number for generation in reversed(undone)]
    return Transaction(
        name="rollback",
        files=tuple(files.values()),
        activate_from=tuple(f"generation/{number}/revert" for number in newest_first),
        # Not their activate: when this way back is itself undone, their files need not be there any more.
        revert_from=tuple(f"generation/{generation.number}/revert" for generation in undone),
        leaves=tuple(made),
        undone=tuple(sorted({generation.name for generation in undone})),
        confirm=Confirm(seconds=seconds, host_keys=host_keys),
        factory=to == FACTORY,
        state_dir=state_dir,
        note=f"back to {'factory' if to == FACTORY else to}",
    )


def clear(state_dir: str) -> bytes:
    """sh that ends a confirmed way back to factory: nothing of Sallyport stays. Killed, it is run again by the next one."""
    return (
        b"STATE=" + quote(state_dir) + b"\n"
        b'[ -d "$STATE" ] || exit 0\n'
        b'if [ -f "$STATE/device" ]; then [ ! -d "$STATE/armed" ] || sh "$STATE/device" recover "the way back was killed"\n'
        # The lock of one that was killed at the very end: without the program nobody has armed anything.
        b'else rmdir "$STATE/armed" 2>/dev/null || :; fi\n'
        # The lock, as for a change: another controller may be about to begin one, which needs the hook.
        b'mkdir "$STATE/armed" || { say refused "another change is pending"; exit 1; }\n'
        # Rubbish has a name that the next arming sweeps. One rename: all generations are there, or none is.
        b'rm -rf "$STATE/stage.done"; mkdir "$STATE/stage.done"\n'
        b'[ ! -d "$STATE/generation" ] || mv "$STATE/generation" "$STATE/stage.done/generation"\n'
        + hook.remove()
        # By name, whatever else somebody keeps in that folder; the lock last: who takes it then begins anew, and what is
        # removed after that is nobody's any more.
        + b"for name in live reverted device armed; do\n"
        b'[ ! -e "$STATE/$name" ] || mv "$STATE/$name" "$STATE/stage.done/$name"\ndone\n'
        b'rm -rf "$STATE/stage.done"\nrmdir "$STATE" 2>/dev/null || :\n'
    )


def prune(generations: Sequence[Generation], keep: int, state_dir: str) -> bytes:
    """sh that forgets what lies behind the newest ``keep`` generations, but never the way back to factory."""
    full = [generation for generation in generations if not generation.pruned]
    excess = full[: max(0, len(full) - keep)]
    parts = [b"STATE=" + quote(state_dir) + b"\n"]
    seen: set[str] = set()
    names: set[str] = set()
    for generation in generations:
        path = b'"$STATE/generation/%d' % generation.number
        needed = [item for item in generation.files if item not in seen]
        if generation in excess:
            if not needed and generation.name in names:
                parts.append(b"rm -rf " + path + b'"\n')
            else:
                for item, number in generation.files.items():
                    if item in seen:
                        parts.append(b'rm -f %s/old/%d" %s/old/%d.absent"\n' % (path, number, path, number))
                parts.append(b": >" + path + b'/pruned"\n')
        seen.update(generation.files)
        names.add(generation.name)
    parts.append(b'sync -f "$STATE" 2>/dev/null || sync\n')
    return b"".join(parts)
