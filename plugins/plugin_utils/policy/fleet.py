# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""One host's policy from the variables of a running task: the only part of the policy that knows Ansible."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.device import inquiry
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import layers, load, model

RULES = "/etc/sallyport/firewall/rules"
"""On the device: the fingerprints of the rules that it was given last."""


class Addresses(Mapping[str, tuple[str, ...]]):
    """The addresses of inventory hosts, looked up when asked for: a large inventory is costly to read whole.

    ``sallyport_addresses`` of a host counts if it is set, else ``ansible_host``. What is no address is given all the
    same: whoever needs it must say so, since a zone with fewer members than were named is another zone.

    One of these serves one task, in which nothing changes: what was looked up for one host is there for the next.
    """

    def __init__(self, hostvars: Mapping[str, Any]) -> None:
        self._hostvars = hostvars
        self._known: dict[str, tuple[str, ...]] = {}
        self.joined: dict[tuple[str, ...], model.Addresses] = {}
        """The addresses of all members of a zone, by the hosts and groups that it names."""

    def __getitem__(self, host: str) -> tuple[str, ...]:
        if host in self._known:
            return self._known[host]
        if host not in self._hostvars:
            raise KeyError(host)
        variables = self._hostvars[host]
        given = _listed(variables.get("sallyport_addresses"))
        self._known[host] = tuple(given or [str(variables.get("ansible_host") or host)])
        return self._known[host]

    def __iter__(self) -> Iterator[str]:
        return iter(self._hostvars)

    def __len__(self) -> int:
        return len(self._hostvars)


def resolve_host(
    task_vars: Mapping[str, Any],
    host: str,
    policy_dir: str | None,
    device: Mapping[str, Any] | None,
    known: Addresses | None = None,
) -> load.Resolved:
    """The policy of ``host``, with everything that the run knows about it.

    Args:
        task_vars: the variables of the running task; with ``hostvars`` for other hosts.
        policy_dir: the folder of the policy's files; None for the host's own ``sallyport_policy_dir``, else the
            folder ``policy`` beside its inventory.
        device: what probe found, None where it was not asked.
        known: the addresses of the inventory, for tasks that ask for many hosts.
    """
    hostvars = task_vars["hostvars"]
    own = task_vars if task_vars.get("inventory_hostname") == host else hostvars[host]
    connection = (device or {}).get("connection") or {}
    # Task variables hold templates as they were written; hostvars give what comes out of them.
    final = hostvars[host]
    port = connection.get("server_port") or _port(final.get("ansible_port"))
    controllers = _listed(final.get("sallyport_controllers"))
    if connection.get("client"):
        controllers.insert(0, str(connection["client"]))
    groups = task_vars.get("groups") or {}
    known = Addresses(hostvars) if known is None else known
    brokers = [
        address
        for name in _listed(final.get("sallyport_brokers"))
        for member in groups.get(name, (name,))
        for address in known.get(member, (member,))
    ]
    folder = policy_dir or folder_of(final)
    names = [name for name in own if layers.LAYER_LIKE.match(name)]
    variables = {name: final[name] if name in final else own[name] for name in names}
    if variables and folder == _usual(final) and not os.path.lexists(folder):
        # Variables alone may be the policy, but a folder that somebody named must be there.
        folder = ""
    return load.load_host(
        folder or None,
        host,
        groups=_groups_by_depth(hostvars, host, own),
        inventory=known,
        group_members={name: tuple(members) for name, members in groups.items()},
        variables=variables,
        device=device,
        controller=tuple(controllers),
        brokers=tuple(brokers),
        management_ports=(int(port),),
        now=datetime.now(timezone.utc).date(),
        known_hosts=set(hostvars),
        known_groups=set(groups),
        previous_rules=_previous(device),
        list_dirs=_listed(final.get("sallyport_list_dirs")),
    )


def folder_of(variables: Mapping[str, Any]) -> str:
    """Where a host's policy lies: what the firewall role would load is what is checked and audited."""
    for name in ("firewall_policy_dir", "sallyport_policy_dir"):
        given = str(variables.get(name) or "")
        if given and "{{" not in given:
            return given
    return _usual(variables)


def _usual(variables: Mapping[str, Any]) -> str:
    return os.path.join(str(variables.get("inventory_dir") or "."), "policy")


def device_of(variables: Mapping[str, Any]) -> dict[str, Any] | None:
    """What probe found in this run, or None; what a fact cache holds of another run is out of date."""
    return inquiry.recall(variables)


def _previous(device: Mapping[str, Any] | None) -> set[str] | None:
    """The rules that the device has now; None where that cannot be known."""
    if device is None or RULES in (device.get("files_omitted") or ()):
        return None
    return set(str((device.get("files") or {}).get(RULES, "")).split())


def _groups_by_depth(hostvars: Any, host: str, own: Mapping[str, Any]) -> list[str]:
    """The host's groups, parents before children, then by name: the order in which Ansible merges them.

    ``ansible_group_priority`` decides between depth and name, as it does for variables.
    """
    names = [str(name) for name in own.get("group_names") or ()]
    # Depth is known to the inventory only; without it (a plain mapping in tests) the names decide.
    inventory = getattr(hostvars, "_inventory", None)
    order = {name: (group.depth, group.priority) for name, group in getattr(inventory, "groups", {}).items()}
    return [
        "all",
        *sorted((name for name in names if name != "all"), key=lambda name: (*order.get(name, (1, 1)), name)),
    ]


def _listed(given: Any) -> list[str]:
    """A variable that is a list of texts, or one text."""
    if given is None or given == "":
        return []
    return [str(one) for one in given] if isinstance(given, (list, tuple)) else [str(given)]


def _port(given: Any) -> int:
    """``ansible_port``; what is no number leaves the usual one, and ssh says what it thinks of it."""
    text = str(given or "")
    return int(text) if text.isdecimal() and text.isascii() and 0 < int(text) < 65536 else 22
