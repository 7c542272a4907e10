# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Random policies, and for each the packets that lie on, just inside and just outside its every edge."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.intervals import merge
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.judge import (
    ICMP,
    ICMPV6,
    SCTP,
    TCP,
    UDP,
    Packet,
    State,
    family_of,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import (
    ANY_ADDRESS,
    Addresses,
    Blocklist,
    Defaults,
    Endpoint,
    Family,
    HostPolicy,
    Intervals,
    Log,
    Ping,
    Rate,
    Rule,
    ServiceSet,
    Traps,
)

from tests.kernel.device import ADDRESSES, BRIDGES, UNTRACKED_PORT, route
from tests.kernel.packets import ACK, FIN, RST, SYN

FAMILIES: tuple[Family, ...] = ("ipv4", "ipv6")
INTERFACES = tuple(ADDRESSES)
PATTERNS = (*INTERFACES, "wwan*", "c*", "lan0*", "eth9")
OTHER_PROTOCOLS = (2, 4, 33, 47, 50, 89, 254)
ICMP_TYPES = (0, 3, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 42, 254)
ICMPV6_TYPES = (0, 1, 2, 3, 4, 127, *range(128, 145), 150, 151, 152, 154, 160, 255)


def _number(text: str) -> int:
    from ipaddress import ip_address

    return int(ip_address(text))


def own_addresses(family: Family) -> list[int]:
    return [_number(pair[family == "ipv6"].partition("/")[0]) for pair in ADDRESSES.values()]


def _routed(family: Family, address: int) -> bool:
    """Whether the device would send to it by one known interface.

    Not so for link-local addresses, and for a network's first address, which every IPv6 router answers itself.
    """
    if family == "ipv4":
        return True
    return address >> 118 != 0xFE80 >> 6 and address not in {one >> 64 << 64 for one in own_addresses("ipv6")}


_BASES = {
    "ipv4": [(_number(a), bits) for a, bits in (("10.77.0.0", 16), ("198.51.100.128", 7), ("100.64.0.0", 16),
             ("172.20.0.0", 16), ("172.21.0.0", 16), ("10.0.0.0", 24), ("203.0.114.0", 8))],
    "ipv6": [(_number(a), bits) for a, bits in (("fd77::", 64), ("2001:db8:2::", 64), ("fd64::", 64), ("fd20::", 64),
             ("fd21::", 64), ("2001:db8:77::", 80), ("fe80::", 64))],
}  # fmt: skip


class Author:
    """Writes policies and packets from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)

    # Policies

    def policy(self) -> HostPolicy:
        random = self.random
        zones = [self.addresses() for _ in range(3)]
        containers = random.random() < 0.6
        traps = None
        if random.random() < 0.4:
            traps = Traps(
                tcp=self.ports(),
                proof=random.choice(("syn", "handshake")),
                never=random.choice(zones),
                size=random.choice((64, 4096)),
            )
        ping = None
        if random.random() < 0.6:
            ping = Ping(self.endpoints(zones), random.choice((None, Rate(1000, 1, 1000))))
        return HostPolicy(
            host="device",
            inbound=self.rules(zones, "inbound", random.randint(0, 4)),
            outbound=self.rules(zones, "outbound", random.randint(0, 3)),
            forward=self.rules(zones, "forward", random.randint(0, 4)),
            containers_outbound=random.choice(("allow", "as_device", "drop")),
            container_bridges=("cbr0", "cbr1") if containers else (),
            container_addresses=self.container_addresses() if containers else (),
            bridges=BRIDGES,
            defaults=Defaults(
                inbound=random.choice(("deny", "deny", "reject", "allow")),
                outbound=random.choice(("allow", "allow", "deny", "reject")),
                forward=random.choice(("deny", "deny", "reject", "allow")),
                ping=ping,
            ),
            blocklists=tuple(
                Blocklist(f"list {i}", self.addresses(), self.interfaces(), random.random() < 0.5)
                for i in range(random.choice((0, 0, 1, 2)))
            ),
            antispoof=tuple(
                Endpoint(random.choice(zones), self.interfaces(1)) for _ in range(random.choice((0, 0, 1, 2)))
            ),
            traps=traps,
            protected=random.choice((Addresses(), zones[0])),
            log=Log(drops=random.choice((None, Rate(10, 60)))),
        )

    def container_addresses(self) -> tuple[Endpoint, ...]:
        return tuple(
            Endpoint(
                Addresses(((_number(v4.partition("/")[0]),) * 2,), ((_number(v6.partition("/")[0]),) * 2,)),
                (name,),
            )
            for name, (v4, v6) in ADDRESSES.items()
            if name.startswith("cbr")
        )

    def addresses(self) -> Addresses:
        only = self.random.choice(("both", "both", "both", "ipv4", "ipv6"))
        return Addresses(
            self.intervals("ipv4") if only != "ipv6" else (), self.intervals("ipv6") if only != "ipv4" else ()
        )

    def intervals(self, family: Family) -> Intervals:
        found = []
        for _ in range(self.random.choice((1, 1, 2, 3))):
            base, bits = self.random.choice(_BASES[family])
            kind = self.random.random()
            if kind < 0.5:
                width = self.random.randint(0, bits)
                first = base + (self.random.getrandbits(bits) >> width << width)
                found.append((first, first + (1 << width) - 1))
            else:
                first = base + self.random.getrandbits(bits)
                last = min(base + (1 << bits) - 1, first + self.random.getrandbits(self.random.randint(1, 9)))
                found.append((first, last))
        return merge(found)

    def ports(self) -> Intervals:
        found = []
        for _ in range(self.random.choice((1, 1, 2, 3, 12))):
            first = self.random.choice((1, 22, 53, 67, 80, 443, 5000, 65534, self.random.randint(1, 65535)))
            found.append((first, min(65535, first + self.random.choice((0, 0, 0, 1, 10, 1000)))))
        return merge(found)

    def interfaces(self, least: int = 0) -> tuple[str, ...]:
        count = max(least, self.random.choice((0, 0, 1, 2)))
        return tuple(self.random.sample(PATTERNS, count))

    def endpoints(self, zones: list[Addresses]) -> tuple[Endpoint, ...]:
        random = self.random
        return tuple(
            Endpoint(random.choice((ANY_ADDRESS, *zones, *zones)), self.interfaces())
            for _ in range(random.choice((1, 1, 2)))
        )

    def services(self) -> ServiceSet:
        random = self.random
        kind = random.choice(
            ("any", "tcp", "tcp", "udp", "udp", "sctp", "icmp", "protocols", "mixed", "mixed")
        )
        types = tuple((one, one) for one in sorted(random.sample(ICMP_TYPES, 2)))
        types6 = tuple((one, one) for one in sorted(random.sample(ICMPV6_TYPES, 2)))
        many = kind == "mixed"
        return ServiceSet(
            any=kind == "any",
            tcp=self.ports() if many or kind == "tcp" else (),
            udp=self.ports() if many or kind == "udp" else (),
            sctp=self.ports() if kind == "sctp" else (),
            icmp=merge(types) if many or kind == "icmp" else (),
            icmpv6=merge(types6) if many or kind == "icmp" else (),
            protocols=merge([(47, 47), random.choice(((50, 51), (89, 89), (6, 6)))])
            if kind == "protocols"
            else (),
        )

    def rules(self, zones: list[Addresses], hook: str, count: int) -> tuple[Rule, ...]:
        random = self.random
        found = []
        for index in range(count):
            verdict = random.choice(("allow", "allow", "allow", "deny", "reject"))
            found.append(
                Rule(
                    name=f"{hook} {index}",
                    verdict=verdict,
                    services=self.services(),
                    sources=self.endpoints(zones) if hook != "outbound" else (Endpoint(),),
                    destinations=self.endpoints(zones)
                    if hook != "inbound" or random.random() < 0.2
                    else (Endpoint(),),
                    rate=Rate(1000, 1, 1000) if verdict == "allow" and random.random() < 0.15 else None,
                    log=random.random() < 0.1,
                )
            )
        return tuple(found)

    # Packets

    def packets(self, policy: HostPolicy, count: int) -> list[tuple[Packet, dict[str, object]]]:
        """What to send, and what ``ip_packet`` needs beside it."""
        return [self.packet(policy) for _ in range(count)]

    def packet(self, policy: HostPolicy) -> tuple[Packet, dict[str, object]]:
        random = self.random
        family = random.choice(FAMILIES)
        if random.random() < 0.2:
            return self.published(policy, family)
        hook = random.choice(("inbound", "inbound", "outbound", "forward", "forward"))
        rules = {
            "inbound": policy.inbound,
            "outbound": policy.outbound,
            "forward": policy.forward + policy.inbound,
        }[hook]
        rule = random.choice(rules) if rules and random.random() < 0.85 else None
        endpoints = list(rule.sources) if rule else []
        endpoints += [Endpoint(one.addresses, one.interfaces) for one in policy.blocklists]
        endpoints += policy.antispoof
        source = self.near(family, [random.choice(endpoints)] if endpoints else [])
        target = self.near(family, list(rule.destinations) if rule else [])
        in_interface = random.choice(INTERFACES)
        if rule and random.random() < 0.6:
            named = [name for one in rule.sources for name in one.interfaces if name in INTERFACES]
            in_interface = random.choice(named) if named else in_interface
        protocol, port = self.service(policy, family, rule)
        extra: dict[str, object] = {}
        state: State = "new"
        syn = True
        if protocol == TCP and random.random() < 0.1:
            flags = random.choice((ACK, FIN | ACK, RST, SYN | ACK, SYN | FIN, SYN | RST, SYN | FIN | ACK))
            extra["flags"] = flags
            syn = False
        source_port = random.choice((67, 68, 547, 546, 40000, 40000, 40000, 40000, UNTRACKED_PORT))
        if source_port == UNTRACKED_PORT and protocol in (TCP, UDP):
            state = "untracked"
        elif protocol in (TCP, UDP, SCTP, ICMP, ICMPV6) and hook != "outbound" and random.random() < 0.05:
            # Checksums are looked at on the way in only.
            extra["spoil"] = True
            state = "invalid"
        if family == "ipv6" and hook != "outbound" and random.random() < 0.1:
            extra["hop_by_hop"] = True
        elif hook != "outbound" and random.random() < 0.1:
            extra["fragmented"] = True
        if hook == "inbound":
            target = random.choice(own_addresses(family))
            if protocol == 2 and family == "ipv4":
                target = _number("224.0.0.22")
        if not _routed(family, target):
            target = _number("2001:db8:77::9")
        out_interface = "" if hook == "inbound" else route(family, target)
        packet = Packet(
            hook=hook,
            family=family,
            source=source,
            destination=target,
            protocol=protocol,
            port=port,
            source_port=source_port if protocol in (TCP, UDP, SCTP) else 0,
            in_interface="" if hook == "outbound" else in_interface,
            out_interface=out_interface,
            state=state,
            syn=syn,
            hop_limit=random.choice((64, 64, 255, 254, 2)),
        )
        if hook == "forward":
            packet = replace(packet, hop_limit=max(2, packet.hop_limit))
        return packet, extra

    def published(self, policy: HostPolicy, family: Family) -> tuple[Packet, dict[str, object]]:
        """A packet that the harness translates, as a container engine does."""
        random = self.random
        rule = random.choice(policy.inbound) if policy.inbound else None
        protocol, port = self.service(policy, family, rule)
        if protocol not in (TCP, UDP, SCTP):
            protocol, port = random.choice((TCP, UDP)), random.choice((22, 80, 443, 5000))
        original = random.choice(own_addresses(family))
        if rule and rule.destinations != (Endpoint(),):
            original = self.near(family, list(rule.destinations))
        named = (
            [name for one in rule.sources for name in one.interfaces if name in INTERFACES] if rule else []
        )
        target = self.near(family, [])
        if not _routed(family, target):
            target = _number("fd20::9")
        translated = random.choice((80, 443, port))
        here = random.random() < 0.3
        if here:
            # To a port of the device's own, and never to the very same one, which would be no translation.
            target = random.choice(own_addresses(family))
            translated = next(one for one in (translated, 443, 80) if one != port)
        packet = Packet(
            hook="inbound" if here else "forward",
            family=family,
            source=self.near(family, list(rule.sources) if rule else []),
            destination=target,
            protocol=protocol,
            port=translated,
            source_port=40000,
            in_interface=random.choice(named)
            if named and random.random() < 0.6
            else random.choice(INTERFACES),
            out_interface="" if here else route(family, target),
            original_destination=original,
            original_port=port,
        )
        extra: dict[str, object] = {"destination": original, "port": port}
        if random.random() < 0.1:
            extra["fragmented"] = True
        return packet, extra

    def bridged(self, count: int) -> list[tuple[Packet, dict[str, object]]]:
        """Packets from one station behind a bridge to another, of which only bridge netfilter knows."""
        random = self.random
        found: list[tuple[Packet, dict[str, object]]] = []
        for _ in range(count):
            family, name = random.choice(FAMILIES), random.choice(BRIDGES)
            text = ADDRESSES[name][family == "ipv6"].partition("/")[0]
            protocol = random.choice((TCP, UDP, SCTP))
            packet = Packet(
                hook="forward",
                family=family,
                source=_number(text) + random.randint(1, 99),
                destination=_number(text) + random.randint(100, 199),
                protocol=protocol,
                port=random.randint(1, 65535),
                source_port=40000,
                in_interface=name,
                out_interface=name,
            )
            found.append((packet, {"bridged": True}))
        return found

    def near(self, family: Family, endpoints: list[Endpoint]) -> int:
        """An address at or beside an edge of one of ``endpoints``, or anywhere."""
        random = self.random
        if endpoints and random.random() < 0.85:
            intervals = family_of(random.choice(endpoints).addresses, family)
            if intervals and intervals[0][1] - intervals[0][0] < 1 << (31 if family == "ipv4" else 127):
                first, last = random.choice(intervals)
                return random.choice(
                    (first, last, first, last, first - 1, last + 1, random.randint(first, last))
                )
        base, bits = random.choice(_BASES[family])
        return base + random.getrandbits(bits)

    def service(self, policy: HostPolicy, family: Family, rule: Rule | None) -> tuple[int, int]:
        random = self.random
        choices: list[tuple[int, int]] = []
        if rule and random.random() < 0.85:
            services = rule.services
            for protocol, intervals in ((TCP, services.tcp), (UDP, services.udp), (SCTP, services.sctp)):
                for first, last in intervals:
                    choices += [
                        (protocol, port) for port in (first - 1, first, last, last + 1) if 0 < port < 65536
                    ]
            wanted = services.icmp if family == "ipv4" else services.icmpv6
            protocol = ICMP if family == "ipv4" else ICMPV6
            choices += [(protocol, one) for one, _ in wanted]
            choices += [(one, 0) for pair in services.protocols for one in pair if one > 17]
        if policy.traps and random.random() < 0.15:
            return TCP, random.choice(policy.traps.tcp)[random.randint(0, 1)]
        if choices:
            return random.choice(choices)
        kind = random.random()
        if kind < 0.35:
            return TCP, random.choice((22, 53, 80, random.randint(1, 65535)))
        if kind < 0.65:
            return UDP, random.choice((53, 67, 68, 546, 547, random.randint(1, 65535)))
        if kind < 0.85:
            return (
                (ICMP, random.choice(ICMP_TYPES))
                if family == "ipv4"
                else (ICMPV6, random.choice(ICMPV6_TYPES))
            )
        return random.choice(OTHER_PROTOCOLS), 0
