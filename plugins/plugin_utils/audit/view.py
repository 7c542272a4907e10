# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What the policy lets one vantage reach on one device."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from datetime import date
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.audit.compare import Allowed
from ansible_collections.sallyport.iot.plugins.plugin_utils.audit.plan import ports, size
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import exposure
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import HostPolicy, ServiceSet

WIDEST_SERVICE = 1024
"""A service of more ports than this says nothing about what should listen on one of them."""


def allowed_for(
    policy: HostPolicy,
    services: Mapping[str, ServiceSet],
    source: str,
    target: str,
    interface: str,
    on: date,
) -> Allowed:
    """What passes from ``source`` to ``target``. ``services`` is the policy's table, built-in ones included."""
    exposed = exposure.for_vantage(policy, source, interface, target, on)
    family = f"ipv{ipaddress.ip_address(target).version}"
    admitted = {"tcp": frozenset(ports(exposed["tcp"])), "udp": frozenset(ports(exposed["udp"]))}
    names: dict[tuple[str, int], tuple[str, ...]] = {}
    for name, service in services.items():
        for protocol, held in (("tcp", service.tcp), ("udp", service.udp)):
            if size(held) <= WIDEST_SERVICE:
                for port in ports(held) & admitted[protocol]:
                    names[protocol, port] = (*names.get((protocol, port), ()), name)
    return Allowed(
        admitted,
        {protocol: frozenset(ports(exposed["rejected"].get(protocol, ()))) for protocol in ("tcp", "udp")},
        {
            protocol: frozenset(
                entry.port
                for entry in policy.nat.publish
                if entry.protocol == protocol and entry.to_family == family
            )
            for protocol in ("tcp", "udp")
        },
        names,
    )


def footnotes(policy: HostPolicy) -> list[str]:
    """What the scan did not or could not judge, in words."""
    notes = []
    if policy.traps and policy.traps.tcp:
        count = len(ports(policy.traps.tcp))
        notes.append(f"{count} trap ports were left alone: touching one bans the vantage")
    for rule in policy.inbound:
        if rule.rate is not None and rule.verdict == "allow":
            notes.append(f"rule '{rule.name}' is rate limited; its ports were scanned below that rate")
    return notes


def interface_towards(device: Mapping[str, Any], source: str, target: str) -> str:
    """The device's interface by which packets from ``source`` to ``target`` come in; empty where it is not known.

    The one that is on the source's own network, else the one that has the target address.
    """
    on_link = holding = ""
    for interface in device.get("interfaces", ()):
        for text in interface["addresses"]:
            own = ipaddress.ip_interface(text.partition("%")[0])
            if own.ip == ipaddress.ip_address(target):
                holding = str(interface["name"])
            if (
                own.version == ipaddress.ip_address(source).version
                and ipaddress.ip_address(source) in own.network
            ):
                on_link = str(interface["name"])
    return on_link or holding
