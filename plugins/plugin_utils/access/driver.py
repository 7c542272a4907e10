# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What the access roles' action plugins share: the device's facts, and one commit with its result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.access.second_factor import KEYS_DIR
from ansible_collections.sallyport.iot.plugins.plugin_utils.device import hook, inquiry
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.commit import CommitError
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.commit import run as commit
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Exchange
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.transaction import (
    DEFAULT_STATE_DIR,
    Confirm,
    File,
    Transaction,
)

SETTINGS: dict[str, dict[str, Any]] = {
    "confirm_seconds": {"type": "int", "default": 60},
    "keep": {"type": "int", "default": 10},
    "state_dir": {"type": "path", "default": DEFAULT_STATE_DIR},
}
"""Arguments that every access action has, and hands to ``commit``."""


def device_of(action: Any, task_vars: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """The device as ``probe`` found it in this run; where nobody has asked yet it is asked now, for later tasks too.

    Raises:
        NotRoot: the login has not become root.
    """
    device = inquiry.recall(task_vars)
    if device is None:
        device = inquiry.ask(action)
        result["ansible_facts"] = {inquiry.FACT: device}
    inquiry.require_root(device)
    return device


def with_fresh_facts(
    action: Any,
    result: dict[str, Any],
    device: Mapping[str, Any],
    entries: Iterable[Mapping[str, Any]],
    keys: int = 0,
) -> dict[str, Any]:
    """After a change the next role must see the device as it is now: two roles edit the same inittab.

    In check mode it sees the device as it would be, or its own prediction would be wrong.

    Args:
        device: as it was before.
        entries: files of the change, for the prediction.
        keys: how many keys the login user then has at least.
    """
    if result.get("state") == "confirmed":
        result["ansible_facts"] = {inquiry.FACT: inquiry.ask(action)}
    elif result.get("state") == "would_change":
        texts = {
            entry["dest"]: entry["content"]
            for entry in entries
            if isinstance(entry.get("content"), str)
            and not entry.get("secret")  # facts are shown to everybody
        }
        user = str(device.get("login_user"))
        files = {**(device.get("files") or {}), **texts}
        if hook.INITTAB in files and device.get("init") == "busybox":
            # With the first change the boot hook comes in front.
            line = hook.line(str(action._task.args.get("state_dir") or DEFAULT_STATE_DIR)).decode()
            files[hook.INITTAB] = line + files[hook.INITTAB].replace(line, "")
        predicted = {
            **device,
            "files": files,
            "accounts": [
                {
                    **one,
                    "authorized_keys": max(
                        keys if one["name"] == user else 0,
                        _keys_in(texts.get(f"{KEYS_DIR}/{one['name']}", "")),
                        int(one.get("authorized_keys") or 0),
                    ),
                }
                for one in device.get("accounts") or []
            ],
        }
        result["ansible_facts"] = {inquiry.FACT: predicted}
    return result


def _keys_in(text: str) -> int:
    return sum(1 for line in text.splitlines() if line.strip() and not line.startswith("#"))


def fleet_host_keys(task_vars: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Host keys of all other devices of which this run knows them, by inventory name."""
    own = task_vars.get("inventory_hostname")
    hostvars = task_vars.get("hostvars") or {}
    result: dict[str, list[Mapping[str, Any]]] = {}
    for name in task_vars.get("ansible_play_hosts_all") or []:
        if name == own or name not in hostvars:
            continue
        theirs = inquiry.recall(hostvars[name])
        if isinstance(theirs, Mapping):
            result[str(name)] = list(theirs.get("ssh", {}).get("host_keys") or [])
    return result


def not_compared(task_vars: Mapping[str, Any]) -> str:
    """In words, the hosts of this play of which nobody knows the host keys yet; "" where all are known."""
    hostvars = task_vars.get("hostvars") or {}
    named = [str(name) for name in task_vars.get("ansible_play_hosts_all") or []]
    missing = [name for name in named if name not in hostvars or inquiry.recall(hostvars[name]) is None]
    missing = [name for name in missing if name != task_vars.get("inventory_hostname")]
    if not missing:
        return ""
    shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
    return (
        f"host keys were compared with those of {len(named) - len(missing)} of {len(named)} hosts of this play: {shown} had not "
        "been asked yet. With serial, ask all hosts first (a play with sallyport.iot.probe alone before this one, as "
        "sallyport.iot.harden does), or a key that two devices share stays on the first of them"
    )


def file(entry: Mapping[str, Any]) -> File:
    """One entry of a plan, as ``commit`` wants it."""
    dest = str(entry["dest"])
    if entry.get("state") == "absent":
        return File(dest, kind="absent")
    if "link" in entry:
        return File(dest, kind="link", target=str(entry["link"]))
    content = entry.get("content", "")
    return File(
        dest,
        content=content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape"),
        mode=str(entry.get("mode") or "keep"),
        owner=str(entry.get("owner", "root")),
        group=str(entry.get("group", "root")),
        secret=bool(entry.get("secret", False)) or "generate" in entry,
        replaces=str(entry.get("replaces", "")),
        generate=str(entry.get("generate", "")),
    )


def transaction(
    name: str,
    files: Iterable[File],
    settings: Mapping[str, Any],
    *,
    new_daemon: bool = False,
    host_keys: Iterable[str] = (),
    note: str = "",
    forgets: Iterable[str] = (),
    forgets_like: Iterable[str] = (),
    commands: Mapping[str, Iterable[str]] | None = None,
) -> Transaction:
    """A transaction from parts.

    Args:
        settings: values of ``SETTINGS``.
        forgets, forgets_like: paths whose former content no generation may keep, and forms of such paths.
        commands: check, activate, verify, revert, settle and live.
    """
    lists = {key: tuple(values) for key, values in (commands or {}).items()}
    return Transaction(
        name=name,
        files=tuple(files),
        check=lists.get("check", ()),
        activate=lists.get("activate", ()),
        verify=lists.get("verify", ()),
        revert=lists.get("revert", ()),
        settle=lists.get("settle", ()),
        live=lists.get("live", ()),
        confirm=Confirm(
            seconds=int(settings["confirm_seconds"]), new_daemon=new_daemon, host_keys=tuple(host_keys)
        ),
        keep=int(settings["keep"]),
        state_dir=str(settings["state_dir"]),
        note=note,
        forgets=tuple(forgets),
        forgets_like=tuple(forgets_like),
    )


def run(
    action: Any,
    task_vars: dict[str, Any],
    change: Transaction,
    exchange: Exchange,
    before_arming: Callable[[dict[str, str]], None] = lambda public: None,
) -> dict[str, Any]:
    """The commit's result; a refused or reverted one as a failed result."""
    try:
        return commit(action, task_vars, change, exchange=exchange, before_arming=before_arming)
    except CommitError as error:
        return {"changed": False, **error.result, "failed": True, "msg": str(error)}
