# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What the access roles' action plugins share: the device's facts, and one commit with its result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.commit import CommitError
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.commit import run as commit
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Exchange
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.transaction import (
    Confirm,
    File,
    Transaction,
)

FACT = "sallyport_device"


def device_of(task_vars: Mapping[str, Any]) -> dict[str, Any]:
    """The device as ``probe`` found it in this run.

    Raises:
        AnsibleActionFail: probe has not run for this host.
    """
    device = (task_vars.get("ansible_facts") or {}).get(FACT) or task_vars.get(FACT)
    if not isinstance(device, dict) or not device:
        raise AnsibleActionFail(
            "nothing is known of this device yet; run sallyport.iot.probe first (the role does it by itself)"
        )
    return device


def fleet_host_keys(task_vars: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Host keys of all other devices of which this run knows them, by inventory name."""
    own = task_vars.get("inventory_hostname")
    hostvars = task_vars.get("hostvars") or {}
    result: dict[str, list[Mapping[str, Any]]] = {}
    for name in task_vars.get("ansible_play_hosts_all") or []:
        if name == own or name not in hostvars:
            continue
        theirs = hostvars[name].get(FACT)
        if isinstance(theirs, Mapping):
            result[str(name)] = list(theirs.get("ssh", {}).get("host_keys") or [])
    return result


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
    *,
    confirm: Confirm,
    note: str = "",
    commands: Mapping[str, Iterable[str]] | None = None,
) -> Transaction:
    """A transaction from parts; ``commands`` holds check, activate, verify, revert, settle and live."""
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
        confirm=confirm,
        note=note,
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
        return {**error.result, "failed": True, "changed": False, "msg": str(error)}
