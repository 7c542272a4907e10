# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The way in for action plugins and filters: resolve a host's policy, and render it for its device.

Everything that hosts share (files, block lists, their compilation) is kept in the process, so ask for all hosts in
one process where it matters.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.inputs import from_hostvars, today
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.load import Resolved, gather, load_host
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import Finding

if TYPE_CHECKING:
    from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.render.base import Rendered

__all__ = ["finding_data", "finding_text", "gather", "render_host", "resolve_host", "resolve_hosts"]


def resolve_host(
    hostvars: Mapping[str, Mapping[str, Any]],
    host: str,
    device: Mapping[str, Any] | None = None,
    *,
    controllers: Sequence[str] = (),
    policy_dir: str | None = None,
    now: date | None = None,
    previous_rules: Collection[str] | None = None,
) -> Resolved:
    """Load and check the policy of ``host`` from Ansible's ``hostvars``.

    ``device`` is probe's result; without it, what needs a device is not judged. ``controllers`` are further
    addresses that must get in. ``policy_dir`` replaces the one that the inventory names.
    """
    given = from_hostvars(hostvars, host)
    return load_host(
        policy_dir=policy_dir or given.policy_dir,
        host=host,
        groups=given.groups,
        inventory=given.inventory,
        group_members=given.group_members,
        variables=given.variables,
        device=device,
        controller=(*given.controller, *controllers),
        management_ports=given.management_ports,
        now=now or today(),
        known_hosts=given.known_hosts,
        known_groups=given.known_groups,
        previous_rules=previous_rules,
    )


def resolve_hosts(
    hostvars: Mapping[str, Mapping[str, Any]],
    hosts: Sequence[str],
    devices: Mapping[str, Mapping[str, Any]] | None = None,
    **more: Any,
) -> tuple[list[Resolved], list[Finding]]:
    """``resolve_host`` for many hosts, and all findings, each mistake once with the hosts that it concerns."""
    results = [resolve_host(hostvars, host, (devices or {}).get(host), **more) for host in hosts]
    return results, gather(results)


def render_host(
    resolved: Resolved, device: Mapping[str, Any], backend: str = "auto", memory_kb: int = 0
) -> Rendered:
    """The files and commands of ``resolved`` for its device.

    ``backend`` and ``memory_kb`` are those of ``render.render``.

    Raises ValueError when the policy has errors, and ``render.base.Unsupported`` for what the device cannot do.
    """
    if resolved.policy is None:
        texts = "; ".join(finding_text(one) for one in resolved.errors)
        raise ValueError(f"the policy of {resolved.host} has errors, so nothing is rendered: {texts}")
    from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import render

    return render.render(resolved.policy, device, backend, memory_kb)


def finding_text(one: Finding) -> str:
    """A finding on one line: place, severity and id, what is wrong, what to do."""
    place = f"{one.where.source}:{one.where.line}" if one.where.line else one.where.source or "policy"
    whom = f" [{', '.join(one.hosts)}]" if one.hosts else ""
    return f"{place}: {one.severity} {one.id}: {one.message}; {one.remedy}{whom}"


def finding_data(one: Finding) -> dict[str, Any]:
    """A finding as plain data."""
    return {
        "id": one.id,
        "severity": one.severity,
        "message": one.message,
        "remedy": one.remedy,
        "source": one.where.source,
        "line": one.where.line,
        "text": one.where.text,
        "hosts": list(one.hosts),
    }
