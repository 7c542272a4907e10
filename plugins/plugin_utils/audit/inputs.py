# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What an audit takes from the run: facts, vantages, policy. The only part of it that knows Ansible's variables."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.fleet import resolve_host
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.load import Resolved

GROUP = "vantages"


def vantages(
    task_vars: Mapping[str, Any], addresses: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], list[str]]:
    """The vantages that see this device: ``[{host, name, addresses: {family: address}}]``, and what is missing.

    The vantage named ``lan`` (variable ``audit_vantage`` of a host in the group ``vantages``) scans the addresses
    ``audit_addresses.lan`` of the device. An empty list there says that it is not to be reached from there.
    """
    hosts = list(task_vars["groups"].get(GROUP, ()))
    if not hosts:
        return [], [
            f"the inventory has no group '{GROUP}': add a host to it from which devices may be scanned"
        ]
    places, missing = [], []
    for host in hosts:
        name = str(task_vars["hostvars"][host].get("audit_vantage", host))
        if name not in addresses:
            missing.append(
                f"audit_addresses has no entry '{name}' for vantage {host} (an empty list skips it)"
            )
            continue
        by_family = {}
        for text in addresses[name] or ():
            try:
                by_family[f"ipv{ipaddress.ip_address(str(text)).version}"] = str(text)
            except ValueError:
                missing.append(f"audit_addresses.{name} holds {str(text)!r}, which is not an address")
        if by_family:
            places.append({"host": host, "name": name, "addresses": by_family})
    # Devices of one run begin at different vantages, so that none is idle while the other is flooded.
    order = list(task_vars.get("ansible_play_hosts_all", ()))
    turn = order.index(task_vars["inventory_hostname"]) if task_vars["inventory_hostname"] in order else 0
    turn %= max(1, len(places))
    return places[turn:] + places[:turn], missing


def read_policy(task_vars: Mapping[str, Any], device: Mapping[str, Any]) -> tuple[Resolved, str]:
    """The host's policy, and why it cannot be used (empty when it can)."""
    resolved = resolve_host(task_vars, str(task_vars["inventory_hostname"]), None, device or None)
    errors = [
        f"{one.where.source}{f':{one.where.line}' if one.where.line else ''}: {one.message}"
        for one in resolved.errors
    ]
    return resolved, f"the policy has errors: {'; '.join(errors)}" if errors else ""
