# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What Ansible knows, as the arguments that loading a policy takes.

A host's addresses are ``sallyport_addresses`` where that is set, else ``ansible_host`` and the inventory name as
far as they are addresses.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timezone
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import cidrs
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.layers import PREFIX


@dataclass(frozen=True, slots=True)
class Inputs:
    """The arguments of ``load_host`` that come from Ansible."""

    policy_dir: str | None
    host: str
    groups: tuple[str, ...]
    inventory: Mapping[str, Sequence[str]]
    group_members: Mapping[str, Sequence[str]]
    variables: Mapping[str, Any]
    controller: tuple[str, ...]
    management_ports: tuple[int, ...]
    known_hosts: frozenset[str]
    known_groups: frozenset[str]


def from_hostvars(hostvars: Mapping[str, Mapping[str, Any]], host: str) -> Inputs:
    """Read what is needed for ``host`` from Ansible's ``hostvars``."""
    own = hostvars[host]
    groups: Mapping[str, Sequence[str]] = own.get("groups") or {}
    members = {str(name): tuple(map(str, hosts)) for name, hosts in groups.items()}
    return Inputs(
        policy_dir=policy_dir(own),
        host=host,
        groups=group_order(hostvars, host, own.get("group_names") or (), members),
        inventory={name: addresses(hostvars[name], name) for name in hostvars},
        group_members=members,
        variables={str(name): own[name] for name in own if str(name).startswith(PREFIX)},
        controller=tuple(str(one) for one in own.get("sallyport_controllers") or ()),
        management_ports=(_port(own),),
        known_hosts=frozenset(map(str, hostvars)),
        known_groups=frozenset(members),
    )


def policy_dir(own: Mapping[str, Any]) -> str | None:
    """``sallyport_policy_dir``, else ``policy`` beside the inventory; None where only variables are used."""
    said = own.get("sallyport_policy_dir")
    if said:
        return str(said)
    beside = os.path.join(str(own.get("inventory_dir") or "."), "policy")
    if os.path.isdir(beside):
        return beside
    # With layers from variables there need be no folder; without any, the missing file is named.
    return None if any(str(name).startswith(PREFIX) for name in own) else beside


def addresses(own: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The addresses of an inventory host; a name that is no address stands for itself, so that it can be named."""
    said = own.get("sallyport_addresses")
    if said:
        return tuple(map(str, [said] if isinstance(said, str) else said))
    found = [str(text) for text in (own.get("ansible_host"), name) if text]
    literal = [text for text in found if is_address(text)]
    return tuple(literal[:1] or found[:1])


def is_address(text: str) -> bool:
    """Whether ``text`` is one IPv4 or IPv6 address."""
    try:
        _family, first, last = cidrs.parse_one(text)
    except cidrs.NotACidr:
        return False
    return first == last and "/" not in text


def group_order(
    hostvars: Any, host: str, names: Iterable[str], members: Mapping[str, Sequence[str]]
) -> tuple[str, ...]:
    """The host's groups as Ansible merges them: by depth, then name, ``all`` first.

    The depth is only known to the inventory behind hostvars. Where that cannot be reached, a group with more hosts
    counts as nearer to the top.
    """
    inventory = getattr(hostvars, "_inventory", None)
    try:
        from ansible.inventory.helpers import sort_groups

        return tuple(str(group.name) for group in sort_groups(inventory.get_host(host).get_groups()))  # type: ignore[union-attr]
    except (AttributeError, ImportError, TypeError):
        rest = sorted(set(map(str, names)) - {"all"}, key=lambda name: (-len(members.get(name, ())), name))
        return ("all", *rest)


def _port(own: Mapping[str, Any]) -> int:
    try:
        return int(own.get("ansible_port") or own.get("ansible_ssh_port") or 22)
    except (TypeError, ValueError):
        return 22


def today() -> date:
    """The controller's day in UTC, by which rules end."""
    return datetime.now(timezone.utc).date()
