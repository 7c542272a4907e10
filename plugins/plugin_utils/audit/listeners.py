# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Who may listen where: what the device says is listening, against what is known or declared to.

A policy admits ports, not programs. A port that it admits is still wrong when a program answers there that nobody
put there. So each listener on an admitted port must be usual for the service that the policy names, or be declared
by the site in ``audit_listeners``, and on systemd it must be run by the system and not from somebody's login.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from ansible_collections.sallyport.iot.plugins.module_utils.ports import parse_ports

WEB = ("nginx", "lighttpd", "apache2", "httpd", "caddy", "haproxy", "uhttpd", "thttpd", "boa", "mini_httpd")

USUAL: Mapping[str, tuple[str, ...]] = {
    "ssh": ("sshd", "dropbear"),
    "http": WEB,
    "https": WEB,
    "mqtt": ("mosquitto", "emqx", "vernemq"),
    "mqtts": ("mosquitto", "emqx", "vernemq"),
    "dns": ("dnsmasq", "named", "unbound", "systemd-resolve", "aardvark-dns"),
    "ntp": ("chronyd", "ntpd", "openntpd"),
    "snmp": ("snmpd",),
    "syslog-tls": ("rsyslogd", "syslog-ng"),
    "dhcp": ("dnsmasq", "dhcpd", "udhcpd", "kea-dhcp4"),
    "mdns": ("avahi-daemon", "systemd-resolve"),
}
"""Programs that are expected behind a service that the policy names."""

SUPERVISORS = ("systemd", "init")
"""They hold the socket of a unit that starts on demand; the unit's name says whose it is."""


def local_only(address: str) -> bool:
    """Whether a socket bound to this address cannot be reached over the network."""
    plain = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(plain, "ipv4_mapped", None)
    return bool((mapped or plain).is_loopback)


def reaches(listener: Mapping[str, Any], target: str) -> bool:
    """Whether a connection to ``target`` may end at this listener.

    A socket on ``::`` may serve IPv4 too; whether it does is not visible in the listing, so it counts for both.
    """
    bound = ipaddress.ip_address(str(listener["address"]).partition("%")[0])
    wanted = ipaddress.ip_address(target)
    bound = getattr(bound, "ipv4_mapped", None) or bound
    if bound.is_unspecified:
        return bound.version == 6 or wanted.version == 4
    return bound == wanted


def serves(listener: Mapping[str, Any], target: str) -> bool:
    """Whether a connection to ``target`` surely ends at this listener: as ``reaches``, without the doubt."""
    return reaches(listener, target) and (":" in str(listener["address"])) == (":" in target)


def on_port(
    listening: Iterable[Mapping[str, Any]], protocol: str, port: int, target: str
) -> list[Mapping[str, Any]]:
    """The listeners that a connection to ``target`` may end at."""
    return [
        entry
        for entry in listening
        if entry["protocol"] == protocol and int(entry["port"]) == port and reaches(entry, target)
    ]


def objection(
    listener: Mapping[str, Any],
    services: Iterable[str],
    declared: Sequence[Mapping[str, Any]],
    init: str,
) -> str:
    """Why this listener should not be there; empty when it is known.

    ``services`` are the names by which the policy admits the port, ``declared`` is the site's ``audit_listeners``:
    ``{process, tcp, udp, unit}``, where process and unit may hold ``*`` and ports are ``80`` or ``"80,8000-8010"``.
    """
    process, unit = str(listener.get("process", "")), str(listener.get("unit", ""))
    if not process:
        return "the device does not show which program it is"
    for entry in declared:
        ports = parse_ports(str(entry.get(str(listener["protocol"]), "")))
        if (
            int(listener["port"]) in ports
            and fnmatchcase(process, str(entry.get("process", "*")))
            and fnmatchcase(unit, str(entry.get("unit", "*")))
        ):
            return ""
    if init == "systemd" and not unit.endswith((".service", ".socket")):
        return f"it was started from {unit or 'outside systemd'}, not by the system"
    known = {name for service in services for name in USUAL.get(service, ())}
    if process in known or (process in SUPERVISORS and unit.endswith(".socket") and unit_of(unit) in known):
        return ""
    return "it is not among the programs that are known or declared to serve there"


def unit_of(unit: str) -> str:
    """The daemon that a socket unit usually starts: ``ssh.socket`` is sshd's."""
    name = unit.partition(".")[0].partition("@")[0]
    return {"ssh": "sshd"}.get(name, name)
