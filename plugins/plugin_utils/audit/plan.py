# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a vantage has to scan on one device, and how carefully."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.sallyport.iot.plugins.module_utils.ports import format_ports
from ansible_collections.sallyport.iot.plugins.plugin_utils.audit.listeners import local_only
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import HostPolicy, Intervals

UDP_PORTS = (
    *(
        19,
        53,
        67,
        69,
        111,
        123,
        137,
        138,
        161,
        162,
        177,
        389,
        427,
        443,
        500,
        514,
        520,
        623,
        1194,
        1434,
        1604,
        1645,
    ),
    *(
        1701,
        1812,
        1900,
        2049,
        2302,
        3283,
        3478,
        3702,
        4500,
        5000,
        5060,
        5093,
        5351,
        5353,
        5683,
        5684,
        7547,
        9987,
    ),
    *(10001, 11211, 17185, 20000, 27015, 30718, 32414, 33434, 34964, 37810, 44818, 47808, 50000, 51820),
)
"""Where devices answer without being asked to: management, discovery, amplifiers, industrial protocols."""

MOST_NAMED = 256
"""A rule that admits more ports of one protocol than this has none of them scanned for its own sake."""


def scan_plan(policy: HostPolicy | None, device: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``sallyport.iot.scan`` that follow from the policy and from what probe saw.

    ``device`` is ``sallyport_device``, or empty where probe failed. They do not depend on the vantage: a port that
    some other zone may reach only slowly is scanned slowly from everywhere.
    """
    listening = [entry for entry in device.get("listening", ()) if not local_only(entry["address"])]
    udp = {int(entry["port"]) for entry in listening if entry["protocol"] == "udp"} | set(UDP_PORTS)
    tcp = {int(entry["port"]) for entry in listening if entry["protocol"] == "tcp"}
    traps: set[int] = set()
    paced: list[dict[str, Any]] = []
    if policy is not None:
        for rule in policy.inbound:
            if rule.verdict == "allow":
                udp |= ports(rule.services.udp) if size(rule.services.udp) <= MOST_NAMED else set()
                tcp |= ports(rule.services.tcp) if size(rule.services.tcp) <= MOST_NAMED else set()
        # A scan that touches a trap bans its own vantage: nothing else would be seen after that.
        traps = ports(policy.traps.tcp) if policy.traps else set()
        paced = _paced(policy, udp, traps)
    return {
        "careful_tcp": sorted(tcp - traps),
        "udp_ports": sorted(udp),
        "excluded_tcp": format_ports(traps),
        "paced": paced,
    }


def _paced(policy: HostPolicy, udp: set[int], traps: set[int]) -> list[dict[str, Any]]:
    """One group of ports for each rate; a port under several rates belongs to the slowest."""
    groups = []
    taken_tcp, taken_udp = set(traps), set[int]()
    limited = [rule for rule in policy.inbound if rule.verdict == "allow" and rule.rate is not None]
    for rule in sorted(limited, key=lambda rule: rule.rate.count / rule.rate.seconds if rule.rate else 0.0):
        rate = rule.rate
        if rate is None:
            continue
        everything = rule.services.any
        tcp = (set(range(1, 65536)) if everything else ports(rule.services.tcp)) - taken_tcp
        limited_udp = (udp if everything else ports(rule.services.udp) & udp) - taken_udp
        taken_tcp |= tcp
        taken_udp |= limited_udp
        if tcp or limited_udp:
            groups.append(
                {
                    "name": rule.name,
                    "tcp": format_ports(tcp),
                    "udp": format_ports(limited_udp),
                    "per_second": rate.count / rate.seconds,
                    "burst": rate.burst,
                }
            )
    return groups


def ports(intervals: Intervals) -> set[int]:
    """The integers of port intervals."""
    return {port for first, last in intervals for port in range(first, last + 1)}


def size(intervals: Intervals) -> int:
    """How many integers the intervals hold."""
    return sum(last - first + 1 for first, last in intervals)
