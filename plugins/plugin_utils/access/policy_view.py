# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What the access roles take from the CIDR policy, so that there is one source of truth with the firewall.

A site may use a role alone, without any policy: then there is nothing to take, and that is no error.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import (
    cidrs,
    fleet,
    intervals,
    layers,
    load,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import Addresses, HostPolicy, Rule

# sshd reads its lists in one line. For penalties a site that names more prefixes than this is served by the controller's
# own address; who may log in is refused.
_MOST_PREFIXES = 200


class SourceError(ValueError):
    """A source is neither a zone of the policy nor a CIDR. The message says what there is."""


def resolved(task_vars: Mapping[str, Any], device: Mapping[str, Any]) -> load.Resolved | None:
    """This host's policy with its zones; None where the site has none."""
    written = os.path.isfile(os.path.join(fleet.folder_of(task_vars), "fleet.yml"))
    if not written and not any(name.startswith(layers.PREFIX) for name in task_vars):
        return None
    return fleet.resolve_host(task_vars, str(task_vars["inventory_hostname"]), None, device)


def of(task_vars: Mapping[str, Any], device: Mapping[str, Any]) -> HostPolicy | None:
    """This host's policy; None where the site has none, or one with errors (the firewall role says which)."""
    found = resolved(task_vars, device)
    return found.policy if found else None


def sources(where: str, texts: Iterable[str], policy: load.Resolved | None) -> list[str]:
    """Zones of the policy and CIDRs as CIDRs, joined.

    Raises:
        SourceError: naming the entry of the variable ``where``.
    """
    found = Addresses()
    for index, text in enumerate(texts):
        zone = policy.zones.get(text) if policy else None
        if zone is not None:
            if intervals.has_all_of_a_family(zone.addresses):
                raise SourceError(
                    f"{where}[{index}]: the zone {text} is known by its interfaces only, which sshd cannot see; "
                    "give it cidrs, or leave from out and let the firewall decide"
                )
            found = intervals.join(found, zone.addresses)
            continue
        try:
            found = intervals.join(found, cidrs.parse([text]))
        except cidrs.NotACidr as error:
            zones = ", ".join(sorted(policy.zones)) if policy else "none, because there is no policy"
            raise SourceError(
                f"{where}[{index}]: expected a CIDR or a zone of the policy, found {text!r} ({error.why}); "
                f"zones are: {zones}"
            ) from None
    return cidrs.texts(found)


def admitted_sources(policy: HostPolicy | None, ports: Iterable[int]) -> list[str]:
    """CIDRs that the policy admits to one of these TCP ports; none where that is everybody, or there is no policy.

    Raises:
        SourceError: nobody is admitted, or so many that sshd's list could not hold them: neither means everybody.
    """
    if policy is None or policy.defaults.inbound == "allow":
        return []
    found = Addresses()
    ports = sorted(set(ports))
    for port in ports:
        for rule in policy.inbound:
            if rule.verdict == "allow" and _covers(rule, "tcp", port):
                for source in rule.sources:
                    if intervals.has_all_of_a_family(source.addresses):
                        return []
                    found = intervals.join(found, source.addresses)
    texts = cidrs.texts(found)
    if not texts:
        raise SourceError(
            f"from, left out in ssh_users or ssh_groups: the policy admits nobody to TCP port {', '.join(map(str, ports))} "
            "of this device, and that is not everybody. Add a rule that allows ssh from your management zone"
        )
    if len(texts) > _MOST_PREFIXES:
        raise SourceError(
            f"from, left out in ssh_users or ssh_groups: the policy admits {len(texts)} networks to TCP port "
            f"{', '.join(map(str, ports))}, and sshd's list is kept to {_MOST_PREFIXES}. Let the ssh rules of the policy name "
            "a zone of fewer networks"
        )
    return texts


def management_sources(policy: HostPolicy, port: int) -> list[str]:
    """CIDRs that the policy admits to this TCP port by name; what is open to everybody is no management zone."""
    found = Addresses()
    for rule in policy.inbound:
        if rule.verdict == "allow" and _covers(rule, "tcp", port):
            for source in rule.sources:
                if not intervals.has_all_of_a_family(source.addresses):
                    found = intervals.join(found, source.addresses)
    texts = cidrs.texts(found)
    return texts if len(texts) <= _MOST_PREFIXES else []


def outside(policy: HostPolicy, device: Mapping[str, Any]) -> list[dict[str, str]]:
    """What listens beyond loopback although the policy admits nobody to it: process, unit and socket."""
    if policy.defaults.inbound == "allow":
        return []
    allowed = [rule for rule in policy.inbound if rule.verdict == "allow"]
    found: dict[tuple[str, int, str, str], dict[str, str]] = {}
    for listener in device.get("listening") or []:
        protocol, port = str(listener["protocol"]), int(listener["port"])
        try:
            if ipaddress.ip_address(str(listener["address"]).partition("%")[0]).is_loopback:
                continue
        except ValueError:
            pass
        if any(_covers(rule, protocol, port) for rule in allowed):
            continue
        process, unit = str(listener.get("process", "")), str(listener.get("unit", ""))
        found[protocol, port, process, unit] = {
            "listens": f"{port}/{protocol}",
            "process": process,
            "unit": unit,
        }
    return [found[key] for key in sorted(found)]


def lets_in(policy: HostPolicy | None, protocol: str, port: int) -> bool:
    """Whether anybody may come to this port; true where there is no policy."""
    if policy is None or policy.defaults.inbound == "allow":
        return True
    return any(rule.verdict == "allow" and _covers(rule, protocol, port) for rule in policy.inbound)


def lets_out(policy: HostPolicy | None, protocol: str, port: int, server: str) -> bool:
    """Whether this device may ask a server, by address or name; true where there is no policy."""
    if policy is None or policy.defaults.outbound == "allow":
        return True
    return any(
        rule.verdict == "allow"
        and _covers(rule, protocol, port)
        # Which address a name has is the device's resolver's business.
        and (not is_address(server) or any(_holds(one.addresses, server) for one in rule.destinations))
        for rule in policy.outbound
    )


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _holds(addresses: Addresses, text: str) -> bool:
    address = ipaddress.ip_address(text)
    return intervals.holds(addresses.v4 if address.version == 4 else addresses.v6, int(address))


def _covers(rule: Rule, protocol: str, port: int) -> bool:
    services = rule.services
    ports = services.tcp if protocol == "tcp" else services.udp
    return services.any or intervals.holds(ports, port)
