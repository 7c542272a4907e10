# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Find the layers of one host's policy and merge them: built-in services, fleet, groups, host, variables.

Reading files is the only effect. A file is read once for all hosts of a run; what it said is kept until the
file changes.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
import stat
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.language import (
    BROKEN,
    POLICY,
    Entry,
    Reader,
    Said,
    nearest,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import Finding, Where
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.source import (
    MAX_BYTES,
    Node,
    read_text,
    read_value,
    short,
)

VARIABLE = re.compile(r"sallyport_policy__([0-9]{2})_([A-Za-z0-9_]+)\Z", re.ASCII)
PREFIX = "sallyport_policy__"
LAYER_LIKE = re.compile(r"sallyport_policy_(_|[0-9])|sallyport_?policy[0-9]", re.ASCII)
"""What is a layer's name or almost one: nobody may believe in a layer that nothing reads."""
HOOKS = ("inbound", "outbound", "forward")


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer as written: ``entry`` is None where it could not be read at all."""

    source: str
    entry: Entry | None
    findings: tuple[Finding, ...]


Stamp = tuple[int, int, int]
_files: dict[str, tuple[Stamp, Layer]] = {}
_MAX_FILES = 4096


def read_file(path: str, limit: int) -> bytes:
    """At most ``limit`` bytes of a plain file. Raises OSError.

    A pipe or device of that name would never end, or never begin.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is no plain file")
        return file.read(limit)


def stamp(path: str) -> Stamp:
    """What changes when a file does. Raises OSError."""
    info = os.stat(path)
    return info.st_mtime_ns, info.st_size, info.st_ino


def file_layer(path: str) -> Layer:
    """The layer in the file ``path``, from memory where it has not changed. Raises OSError."""
    now = stamp(path)
    known = _files.get(path)
    if known and known[0] == now:
        return known[1]
    raw = read_file(path, MAX_BYTES + 1)
    node, findings = read_text(raw, path)
    layer = _layer(path, node, findings)
    if len(_files) >= _MAX_FILES:
        _files.clear()
    _files[path] = (now, layer)
    return layer


def variable_layer(name: str, value: Any) -> Layer:
    """The layer in the Ansible variable ``name``."""
    return _layer(name, read_value(value, name), [])


def _layer(source: str, node: Node | None, findings: list[Finding]) -> Layer:
    reader = Reader(findings)
    entry = POLICY.read(reader, node, "") if node else BROKEN
    return Layer(source, entry if isinstance(entry, Entry) else None, tuple(reader.findings))


def built_in() -> Layer:
    """Layer 0: the built-in services."""
    return file_layer(os.path.join(os.path.dirname(os.path.abspath(__file__)), "services.yml"))


def layers(
    policy_dir: str | None,
    host: str,
    groups: Sequence[str],
    variables: Mapping[str, Any],
    known_hosts: Collection[str] | None,
    known_groups: Collection[str] | None,
) -> tuple[list[Layer], list[Finding]]:
    """All layers of ``host``, first the weakest, and what is wrong with the files as such."""
    found: list[Layer] = [built_in()]
    findings: list[Finding] = []
    if policy_dir is not None:
        files, problems = _files_of(policy_dir, host, groups)
        found += files
        findings += problems
        findings += stray_files(policy_dir, known_hosts, known_groups)
    for name in sorted(variables):
        if VARIABLE.match(name):
            found.append(variable_layer(name, variables[name]))
        elif LAYER_LIKE.match(name):
            findings.append(
                Finding(
                    "bad-variable",
                    "error",
                    f"`{short(name)}` is almost the name of a policy layer, and nothing would read it",
                    f"rename it to {PREFIX}<two digits>_<name>; layers are merged in name order",
                    Where(name),
                )
            )
    return found, findings


def _files_of(policy_dir: str, host: str, groups: Sequence[str]) -> tuple[list[Layer], list[Finding]]:
    """The layers that are files of ``host``. A folder that cannot be entered is said once, not for each file in it."""
    found: list[Layer] = []
    findings: list[Finding] = []

    def unreadable(what: str, error: OSError, path: str) -> Finding:
        said = f"the {what} cannot be read: {error.strerror}"
        return Finding("unreadable", "error", said, f"make it a readable {what}", Where(path))

    def add(path: str) -> bool:
        try:
            found.append(file_layer(path))
        except FileNotFoundError as error:
            if not os.path.islink(path):
                return False
            # A link that leads nowhere is a layer that is lost, not one that was never written.
            findings.append(unreadable("file", error, path))
        except OSError as error:
            findings.append(unreadable("file", error, path))
        return True

    def enter(path: str) -> bool:
        """Whether there is a folder to look into."""
        try:
            os.listdir(path)
        except OSError as error:
            if not isinstance(error, FileNotFoundError) or os.path.islink(path):
                findings.append(unreadable("folder", error, path))
            return False
        return True

    if not enter(policy_dir) and findings:
        return found, findings
    fleet = os.path.join(policy_dir, "fleet.yml")
    if not add(fleet):
        findings.append(
            Finding(
                "no-fleet",
                "error",
                "there is no fleet.yml, so nothing says what holds for every host",
                "write it (an empty file will do), or set sallyport_policy_dir to where it is",
                Where(fleet),
            )
        )
    for folder, names in (("groups", groups), ("hosts", (host,))):
        if enter(os.path.join(policy_dir, folder)):
            for name in filter(_plain, names):
                add(os.path.join(policy_dir, folder, f"{name}.yml"))
    return found, findings


def stray_files(
    policy_dir: str, known_hosts: Collection[str] | None, known_groups: Collection[str] | None
) -> list[Finding]:
    """Files that no host would ever read, which is what a misspelt name looks like."""
    findings = _misspelt(policy_dir)
    for folder, kind, known in (("groups", "group", known_groups), ("hosts", "host", known_hosts)):
        if known is None:
            continue
        path = os.path.join(policy_dir, folder)
        try:
            names = sorted(os.listdir(path))
        except OSError:
            continue
        for name in names:
            if name.startswith(".") or name.endswith("~"):
                continue
            stem, end = os.path.splitext(name)
            where = Where(os.path.join(path, name))
            if end != ".yml":
                message = f"this is no {kind} file: its name must end in .yml"
                findings.append(Finding("unknown-file", "error", message, "rename or remove it", where))
            elif stem not in known:
                message = f"the inventory has no {kind} `{short(stem)}`"
                remedy = nearest(stem, tuple(known)) if known else "remove the file"
                findings.append(Finding("unknown-file", "error", message, remedy, where))
    return findings


def _misspelt(policy_dir: str) -> list[Finding]:
    """What lies beside fleet.yml under a name that is almost one of ours, and so would be passed over in silence."""
    ours = ("fleet.yml", "groups", "hosts")
    try:
        names = sorted(set(os.listdir(policy_dir)).difference(ours))
    except OSError:
        return []
    findings = []
    for name in names:
        near = difflib.get_close_matches(name, ours, 1, 0.8)
        if near and not name.startswith(".") and not name.endswith("~"):
            where = Where(os.path.join(policy_dir, name))
            message = f"nothing reads `{short(name)}`"
            findings.append(Finding("unknown-file", "error", message, f"did you mean `{near[0]}`?", where))
    return findings


def _plain(name: str) -> bool:
    """Whether ``name`` is a file name of its own and leads nowhere else."""
    return bool(name) and "/" not in name and "\0" not in name and name not in (".", "..")


@dataclass(slots=True)
class Merged:
    """One policy from all layers, entries as written. ``tainted`` names sections in which something broke."""

    zones: dict[str, Entry] = field(default_factory=dict)
    services: dict[str, Entry] = field(default_factory=dict)
    rules: dict[str, list[Entry]] = field(default_factory=lambda: {hook: [] for hook in HOOKS})
    publish: list[Entry] = field(default_factory=list)
    masquerade: list[Said] = field(default_factory=list)
    clamp_mss: bool = False
    blocklists: list[Entry] = field(default_factory=list)
    traps: Entry | None = None
    defaults: dict[str, Any] = field(default_factory=dict)
    log: dict[str, Any] = field(default_factory=dict)
    containers: dict[str, Any] = field(default_factory=dict)
    asserts: list[Entry] = field(default_factory=list)
    tainted: set[str] = field(default_factory=set)
    defaults_at: dict[str, Where] = field(default_factory=dict)


def merge(found: Iterable[Layer], reader: Reader) -> Merged:
    """Merge layers, weakest first; findings go to ``reader``."""
    merged = Merged()
    locked: set[tuple[str, str]] = set()
    for layer in found:
        reader.findings.extend(layer.findings)
        entry = layer.entry
        if entry is None:
            merged.tainted.update((*HOOKS, "zones", "services", "defaults", "blocklists", "traps", "assert"))
            continue
        if entry.broken:
            merged.tainted.update(key for key, value in entry.items() if value is BROKEN)
        for section, table in (("zones", merged.zones), ("services", merged.services)):
            _merge_names(section, table, _map(entry, section), reader, merged)
        for hook in HOOKS:
            _merge_list(hook, merged.rules[hook], _list(entry, hook), reader, merged)
        _merge_list("blocklists", merged.blocklists, _list(entry, "blocklists"), reader, merged)
        nat = _map(entry, "nat")
        if nat:
            _merge_list("nat.publish", merged.publish, _list(nat, "publish"), reader, merged)
            masquerade = nat.get("masquerade", [])
            merged.masquerade += [] if masquerade is BROKEN else masquerade
            if isinstance(nat.get("clamp_mss"), bool):
                merged.clamp_mss = nat["clamp_mss"]
        traps = entry.get("traps")
        if isinstance(traps, Entry) and _may_replace("traps", "traps", merged.traps, traps, reader):
            merged.traps = traps
        for section, keys in (
            ("defaults", merged.defaults),
            ("log", merged.log),
            ("containers", merged.containers),
        ):
            _merge_keys(section, keys, _map(entry, section), locked, reader, merged)
        merged.asserts += [one for one in _list(entry, "assert") if isinstance(one, Entry)]
    return merged


def _map(entry: Entry, key: str) -> Entry:
    value = entry.get(key)
    return value if isinstance(value, Entry) else Entry(entry.where, {})


def _list(entry: Entry, key: str) -> list[Any]:
    value = entry.get(key)
    return value if isinstance(value, list) else []


def _merge_names(section: str, table: dict[str, Entry], new: Entry, reader: Reader, merged: Merged) -> None:
    for name, entry in new.items():
        if not isinstance(entry, Entry):
            # Not even a map: known by name, so that rules that use it are not called wrong too.
            table[name] = Entry(new.at(name), {})
            table[name].broken = True
        elif _may_replace(section, name, table.get(name), entry, reader, new.at(name)):
            table[name] = entry


def _merge_list(section: str, rules: list[Entry], new: list[Any], reader: Reader, merged: Merged) -> None:
    places: dict[str, int] = {str(entry["name"]): place for place, entry in enumerate(rules)}
    for entry in new:
        if not isinstance(entry, Entry) or not isinstance(entry.get("name"), Said):
            merged.tainted.add(section)
            continue
        if entry.broken:
            merged.tainted.add(section)
        name = str(entry["name"])
        place = places.get(name)
        if place is None:
            _may_replace(section, name, None, entry, reader, entry.at("name"))
            places[name] = len(rules)
            rules.append(entry)
        elif _may_replace(section, name, rules[place], entry, reader, entry["name"].where):
            rules[place] = entry


def _may_replace(
    section: str, name: str, old: Entry | None, new: Entry, reader: Reader, where: Where | None = None
) -> bool:
    where = where or new.where
    what = f"`{section}`" if section == name else f"`{short(name)}` in `{section}`"
    if old is None:
        if new.get("override") is True:
            reader.warn(
                "override-of-nothing",
                where,
                f"{what} says `override: true`, but no earlier layer has it",
                "correct the name, or remove `override`",
            )
        return True
    at = f"{old.where.source}:{old.where.line}" if old.where.line else old.where.source
    if old.get("locked") is True:
        reader.add(
            "locked",
            where,
            f"{what} was locked in {at} and must not change",
            "remove this entry, or unlock that one",
        )
        return False
    if new.get("override") is not True:
        reader.add(
            "no-override",
            where,
            f"{what} is already there, from {at}",
            "choose another name, or add `override: true` to replace it whole",
        )
        return False
    return True


def _merge_keys(
    section: str,
    keys: dict[str, Any],
    new: Entry,
    locked: set[tuple[str, str]],
    reader: Reader,
    merged: Merged,
) -> None:
    lock = new.get("locked", False)
    for key, value in new.items():
        if key == "locked":
            continue
        if value is BROKEN or (isinstance(value, Entry) and value.broken):
            merged.tainted.add(section)
            continue
        if (section, key) in locked and keys.get(key) != value:
            reader.add(
                "locked",
                new.at(key),
                f"`{section}.{key}` was locked by an earlier layer and must not change",
                "remove it here, or unlock it there",
            )
            continue
        keys[key] = value
        if section == "defaults":
            merged.defaults_at[key] = new.at(key)
    if lock is True:
        locked.update((section, key) for key in new if key != "locked")
    elif isinstance(lock, list):
        locked.update((section, str(key)) for key in lock)
