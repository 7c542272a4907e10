# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""HostPolicy to nftables: one ``inet`` table of our own, the steps of docs/policy.md "Order" in every hook.

Everything here loads, lists and loads again on nft 0.9.8, 1.0.6 and 1.1.3. ``accept`` ends our base chain only:
whatever else filters on the device keeps its say. Base chains have ``policy accept`` and a last rule, because a
flushed table must not cut off the operator who is about to repair it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import shelf
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.cidrs import span_texts
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.intervals import union
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.judge import (
    ICMP,
    ICMPV6,
    SCTP,
    TCP,
    UDP,
    family_of,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import (
    Blocklist,
    Family,
    HostPolicy,
    Intervals,
    Rate,
    Rule,
    Verdict,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.render.base import (
    BANS_SIZE,
    FAMILIES,
    GATE_SECONDS,
    RATE_TABLE_SIZE,
    address,
    clock_plausible,
    comment,
    content_hash,
    interface,
    never_banned,
    rate_text,
    refill_seconds,
    refuse_long,
    short_hash,
    spoofable,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.render.matches import (
    SECTIONS,
    Match,
    View,
    matches,
    on_ports,
    places,
)

TABLE = "inet sallyport"
INLINE = 64
"""An address set of up to this many intervals stands in its rule; a larger one is a named set."""

LONG = 1000
"""A set of more intervals than this lies in the file of lists."""

_IP = {"ipv4": "ip", "ipv6": "ip6"}
_TYPE = {"ipv4": "ipv4_addr", "ipv6": "ipv6_addr"}
_TRANSPORT = {
    TCP: "tcp dport",
    UDP: "udp dport",
    SCTP: "sctp dport",
    ICMP: "icmp type",
    ICMPV6: "icmpv6 type",
}
_BANNED_AS = {"ipv4": "ip saddr", "ipv6": "ip6 saddr & ffff:ffff:ffff:ffff::"}
_NEW_TCP = "tcp flags & (fin|syn|rst|ack) == syn"


def rulesets(policy: HostPolicy, device: Mapping[str, Any] | None = None) -> dict[str, str]:
    """The files ``nft`` and, where there are long lists, ``nft-lists``, which goes before it.

    Long lists lie in a file of their own so that a changed rule does not send them again. Raises Unsupported for
    what nftables cannot say.
    """
    return _Writer(policy, clock_plausible(device)).files()


def ruleset(policy: HostPolicy, device: Mapping[str, Any] | None = None) -> str:
    """All of it as one text for ``nft -f``."""
    files = rulesets(policy, device)
    return files.get("nft-lists", "") + files["nft"]


class _Writer:
    def __init__(self, policy: HostPolicy, clock: bool) -> None:
        self.policy = policy
        self.clock = clock
        self.sets: dict[str, list[str]] = {}
        self.lists: dict[str, list[str]] = {}
        self.chains: dict[str, list[str]] = {}
        self.drop = "drop"
        size = policy.traps.size if policy.traps else BANS_SIZE
        self.bans = {family: f"bans{family[-1]}_{size}" for family in FAMILIES}
        for family, name in self.bans.items():
            self.sets[name] = [f"type {_TYPE[family]}", f"size {size}", "flags dynamic,timeout"]

    def files(self) -> dict[str, str]:
        policy = self.policy
        if policy.log.drops:
            self.drop = "goto do_drop"
            self.chains["do_drop"] = [self._log(policy.log.drops, "drop"), "drop"]
        # An empty chain: the loader fills it on a first load only, until the change is confirmed.
        self.chains["adopt_running"] = []
        if any(
            rule.verdict == "reject" for rule in (*policy.inbound, *policy.outbound, *policy.forward)
        ) or "reject" in (policy.defaults.inbound, policy.defaults.outbound, policy.defaults.forward):
            # The kernel's own answers keep to unicast too, but only for what it can see is none.
            log = [self._log(policy.log.drops, "reject")] if policy.log.drops else []
            self.chains["do_refuse"] = [
                *log,
                "meta pkttype { broadcast, multicast } drop",
                "meta l4proto tcp reject with tcp reset",
                "reject with icmpx type admin-prohibited",
            ]
        self._antispoof()
        self._input()
        self._output()
        self._forward()
        self._traps()
        self._nat()
        lines = [f"table {TABLE} {{"]
        for name, body in self.chains.items():
            lines += [f"\tchain {name} {{", *(f"\t\t{line}" for line in body), "\t}"]
        files = {"nft-lists": _declared(self.lists)} if self.lists else {}
        return {**files, "nft": "\n".join((_declared(self.sets), *lines, "}", ""))}

    # The hooks

    def _input(self) -> None:
        policy = self.policy
        self.chains["input"] = [
            "type filter hook input priority -10; policy accept;",
            'iif "lo" accept',
            *self._before_rules(_essential(outbound=False), bans_by="saddr"),
        ]
        if policy.containers_outbound != "drop":
            for family in FAMILIES:
                for names, own in places(policy.container_addresses, family):
                    for where in self._conditions(Match(family, None, names, own)):
                        for protocol in ("tcp", "udp"):
                            self.chains["input"].append(f"{where} {protocol} dport 53 accept")
        self.chains["input"].append("ct status dnat goto judge_published")
        if policy.defaults.gate:
            gate = ["type inet_service", "size 16", "flags timeout", f"timeout {GATE_SECONDS}s"]
            self.sets["gate"] = gate
            self.chains["input"].append(f"tcp dport {_ports(policy.defaults.gate)} tcp dport @gate accept")
        self.chains["input"] += self._rules(policy.inbound, "inbound")
        if policy.traps:
            self.chains["input"].append(f"tcp dport {_ports(policy.traps.tcp)} goto at_trap")
        self.chains["input"] += self._ping()
        self.chains["input"].append(self._verdict(policy.defaults.inbound))

    def _output(self) -> None:
        policy = self.policy
        chain = ["type filter hook output priority -10; policy accept;"]
        if policy.traps and policy.traps.proof == "handshake":
            # After a proven handshake the kernel's SYN proxy speaks to us in the client's name, over loopback.
            chain.append(
                f'oif "lo" tcp dport {_ports(policy.traps.tcp)} {_NEW_TCP} fib saddr type != local goto do_ban'
            )
        chain += [
            'oif "lo" accept',
            *self._before_rules(_essential(outbound=True), bans_by="daddr", outbound=True),
        ]
        if policy.container_bridges:
            chain.append(f"oifname {_names(policy.container_bridges)} accept")
        chain += self._rules(policy.outbound, "outbound")
        chain.append(self._verdict(policy.defaults.outbound))
        self.chains["output"] = chain

    def _forward(self) -> None:
        policy = self.policy
        bridges = policy.container_bridges
        chain = ["type filter hook forward priority -10; policy accept;"]
        chain += [f'iifname "{interface(name)}" oifname "{name}" accept' for name in policy.bridges]
        # Neighbour discovery, MLD and DHCP are of one link: none of it is ever routed.
        chain += self._before_rules(
            ("icmpv6 type { 133, 134, 135, 136, 137 } drop", "icmp type 5 drop"), "saddr"
        )
        if bridges:
            chain.append(f"iifname {_names(bridges)} oifname != {_names(bridges)} goto from_container")
            self.chains["from_container"] = {
                "allow": lambda: ["accept"],
                "drop": lambda: [self.drop],
                "as_device": lambda: [
                    *self._rules(policy.outbound, "from_container"),
                    self._verdict(policy.defaults.outbound),
                ],
            }[policy.containers_outbound]()
        published = self._rules(policy.inbound, "published")
        refuse_long(published)
        self.chains["judge_published"] = [*published, self.drop]
        chain.append("ct status dnat goto judge_published")
        if bridges:
            chain.append(f"oifname {_names(bridges)} goto to_container")
            self.chains["to_container"] = [*self._rules(policy.forward, "to_container"), self.drop]
        chain += self._rules(policy.forward, "forward")
        chain.append(self._verdict(policy.defaults.forward))
        self.chains["forward"] = chain

    def _before_rules(self, essential: tuple[str, ...], bans_by: str, outbound: bool = False) -> list[str]:
        """Steps 2 to 7."""
        lines = [
            f"ip {bans_by} @{self.bans['ipv4']} {self.drop}",
            f"ip6 {bans_by} & ffff:ffff:ffff:ffff:: @{self.bans['ipv6']} {self.drop}",
            "ct state established accept",
            "meta nfproto ipv4 ct state related icmp type { 3, 11, 12 } accept",
            "meta nfproto ipv6 ct state related icmpv6 type { 1, 2, 3, 4 } accept",
        ]
        if outbound:
            # The answers of "reject": for connection tracking they belong to a flow that never came to be.
            lines.append("ct state related tcp flags & (syn|rst) == rst accept")
        lines += essential
        traps = self.policy.traps
        if outbound and traps and traps.proof == "handshake":
            # The SYN proxy's own half of the handshake, which connection tracking knows nothing of.
            lines.append(
                f"tcp sport {_ports(traps.tcp)} tcp flags & (fin|syn|rst|ack) == (syn|ack) fib saddr type local accept"
            )
        lines += [
            "tcp flags & syn != syn jump adopt_running",
            f"ct state invalid {self.drop}",
            f"tcp flags & (fin|syn|rst|ack) != syn {self.drop}",
        ]
        if not outbound and self.policy.antispoof:
            lines.append("jump check_antispoof")
        for blocklist in self.policy.blocklists:
            lines += self._blocked(blocklist, outbound)
        return lines

    def _blocked(self, blocklist: Blocklist, outbound: bool) -> list[str]:
        if outbound and not blocklist.both:
            return []
        lines = []
        for family in FAMILIES:
            addresses = family_of(blocklist.addresses, family)
            if not addresses:
                continue
            name = self._named_set(family, addresses, "block")
            names = () if "*" in blocklist.interfaces else blocklist.interfaces
            side = "oifname" if outbound else "iifname"
            for where in _interfaces(side, names):
                text = " ".join(
                    (*where, f"{_IP[family]} {'daddr' if outbound else 'saddr'} @{name} {self.drop}")
                )
                lines.append(f'{text} comment "{comment(blocklist.name)}"')
        return lines

    def _antispoof(self) -> None:
        zones = self.policy.antispoof
        if not zones:
            return
        chain = []
        for family in FAMILIES:
            held: Intervals = ()
            for zone in zones:
                guarded = family_of(spoofable(zone), family)
                if not guarded:
                    continue
                held = union(held, guarded)
                names = () if "*" in zone.interfaces else zone.interfaces
                for where in self._conditions(Match(family, guarded, names)):
                    chain.append(f"{where} return")
            if held:
                chain += [f"{where} {self.drop}" for where in self._conditions(Match(family, held))]
        self.chains["check_antispoof"] = chain

    def _ping(self) -> list[str]:
        ping = self.policy.defaults.ping
        if not ping:
            return []
        lines = []
        for family in FAMILIES:
            protocol, echo = (ICMP, 8) if family == "ipv4" else (ICMPV6, 128)
            for names, source in places(ping.sources, family):
                match = Match(family, source, names, protocols=((protocol, protocol),), ports=((echo, echo),))
                lines += [
                    f"{where} {'goto judge_ping' if ping.rate else 'accept'}"
                    for where in self._conditions(match)
                ]
        if ping.rate:
            self.chains["judge_ping"] = [f"{_limit(ping.rate)} accept", self.drop]
        return lines

    def _traps(self) -> None:
        traps = self.policy.traps
        if not traps:
            return
        never = never_banned(self.policy)
        spared = [
            where
            for family in FAMILIES
            if family_of(never, family)
            for where in self._conditions(Match(family, family_of(never, family)))
        ]
        ban = [
            *(f"{where} {self.drop}" for where in spared),
            # "add" keeps the first time-out and fails when the set is full: then the packet is dropped only.
            *(
                f"add @{self.bans[family]} {{ {_BANNED_AS[family]} timeout {traps.ban_seconds}s }}"
                for family in FAMILIES
            ),
            self.drop,
        ]
        if traps.proof == "syn":
            self.chains["at_trap"] = ban
            return
        self.chains["do_ban"] = ban
        ports = _ports(traps.tcp)
        proxy = "synproxy mss 1460 wscale 7 timestamp sack-perm"
        self.chains["at_trap"] = [
            *(f"{where} {self.drop}" for where in spared),
            f"ct state untracked {proxy}",
            self.drop,
        ]
        # A port that a rule decides for this source is no trap, and stays under connection tracking.
        decided = [f"{where} return" for where in spared]
        for rule in self.policy.inbound:
            for family in FAMILIES:
                for match in on_ports(matches(rule, family, "inbound"), TCP, traps.tcp):
                    decided += [f"{where} return" for where in self._conditions(match)]
        self.chains["trap_syn"] = [*decided, "notrack"]
        # The client's ACK is no known flow: it must reach the SYN proxy before step 6 drops it.
        self.chains["trap_ack"] = [*decided, proxy, self.drop]
        self.chains["trap_prerouting"] = [
            "type filter hook prerouting priority -300; policy accept;",
            f'iif != "lo" fib daddr type local tcp dport {ports} {_NEW_TCP} jump trap_syn',
        ]
        chain = self.chains["input"]
        at = next(i for i, line in enumerate(chain) if line.startswith("ct state invalid"))
        chain.insert(at, f"tcp dport {ports} tcp flags & (fin|syn|rst|ack) == ack jump trap_ack")

    def _nat(self) -> None:
        nat = self.policy.nat
        if nat.publish:
            chain = ["type nat hook prerouting priority -100; policy accept;"]
            for publish in nat.publish:
                family = publish.to_family
                target = address(family, publish.to_address)
                if family == "ipv6":
                    target = f"[{target}]"
                for names, source in places(publish.sources, family):
                    for where in self._conditions(Match(family, source, names)):
                        chain.append(
                            f"{where} fib daddr type local {publish.protocol} dport {publish.port}"
                            f' dnat {_IP[family]} to {target}:{publish.to_port} comment "{comment(publish.name)}"'
                        )
            self.chains["nat_prerouting"] = chain
        if nat.masquerade:
            # IPv6 is routed, not translated.
            self.chains["nat_postrouting"] = [
                "type nat hook postrouting priority 100; policy accept;",
                *(
                    f"meta nfproto ipv4 {where[0]} masquerade"
                    for where in _interfaces("oifname", nat.masquerade)
                ),
            ]
        if nat.clamp_mss:
            self.chains["clamp_mss"] = [
                "type filter hook forward priority -150; policy accept;",
                "tcp flags & (syn|rst) == syn tcp option maxseg size set rt mtu",
            ]

    # Rules

    def _rules(self, rules: tuple[Rule, ...], view: View) -> list[str]:
        """Step 8."""
        lines = []
        for rule in rules:
            verdict = self._verdict(rule.verdict)
            if rule.rate:
                verdict = f"goto {self._rate(rule, rule.rate, view)}"
            note = self._note(rule)
            until = self._until(rule)
            for where in self._both_families(rule, view):
                text = f"{where} {until}".strip()
                if note:
                    lines.append(f"{text} {note}".strip())
                lines.append(f'{text} {verdict} comment "{comment(rule.name)}"'.strip())
        return lines

    def _both_families(self, rule: Rule, view: View) -> list[str]:
        """The conditions of ``rule``, one line for both families where they are the same."""
        original = view == "published"
        v4, v6 = (matches(rule, family, view) for family in FAMILIES)
        lines = []
        for match in v4:
            twin = Match(
                "ipv6",
                match.source,
                match.in_interfaces,
                match.destination,
                match.out_interfaces,
                match.protocols,
                match.ports,
            )
            plain = match.source is None and match.destination is None
            if plain and twin in v6:
                v6.remove(twin)
                lines += self._conditions(match, original, both=True)
            else:
                lines += self._conditions(match, original)
        for match in v6:
            lines += self._conditions(match, original)
        return lines

    def _note(self, rule: Rule) -> str:
        if not rule.log or (rule.verdict != "allow" and self.policy.log.drops):
            return ""
        return self._log(self.policy.log.drops or Rate(10, 60), "rule")

    def _until(self, rule: Rule) -> str:
        if not (rule.until and rule.on_device and self.clock):
            return ""
        return f"meta time < {end_of_day(rule)}"

    def _rate(self, rule: Rule, rate: Rate, view: View) -> str:
        """The chain that lets a source's flows pass up to the rate.

        Accept within the rate, then drop: the other way round, a full table would let everything pass.
        """
        key = short_hash(SECTIONS[view], rule.name, rate)
        name = f"rate_{key}"
        if name not in self.chains:
            chain = []
            for family in FAMILIES:
                table = f"rate{family[-1]}_{key}"
                self.sets[table] = [
                    f"type {_TYPE[family]}",
                    f"size {RATE_TABLE_SIZE}",
                    "flags dynamic,timeout",
                    f"timeout {refill_seconds(rate)}s",
                ]
                chain.append(f"update @{table} {{ {_BANNED_AS[family]} {_limit(rate)} }} accept")
            self.chains[name] = [*chain, self.drop]
        return name

    def _verdict(self, verdict: Verdict) -> str:
        return {"allow": "accept", "deny": self.drop, "reject": "goto do_refuse"}[verdict]

    def _log(self, rate: Rate, what: str) -> str:
        log = self.policy.log
        group = f" group {log.group}" if log.group is not None else ""
        return f'{_limit(rate)} log prefix "{log.prefix} {what}: "{group}'

    # Conditions

    def _conditions(self, match: Match, original: bool = False, both: bool = False) -> list[str]:
        """``match`` as nft text; more than one line only where nft has no one expression for it."""
        start: list[str] = []
        ip = _IP[match.family]
        if not both and match.source is None and (match.destination is None or original):
            start.append(f"meta nfproto {match.family}")
        if match.source is not None:
            start.append(f"{ip} saddr {self._addresses(match.family, match.source)}")
        if match.destination is not None and not original:
            start.append(f"{ip} daddr {self._addresses(match.family, match.destination)}")
        destinations = [""]
        if match.destination is not None and original:
            destinations = [
                f"ct original {ip} daddr {text}" for text in span_texts(match.family, match.destination)
            ]
        return [
            " ".join(part for part in (*ways_in, *ways_out, *start, transport, destination, port) if part)
            for ways_in in _interfaces("iifname", match.in_interfaces)
            for ways_out in _interfaces("oifname", match.out_interfaces)
            for transport, port in _transport(match, original)
            for destination in destinations
        ]

    def _addresses(self, family: Family, intervals: Intervals) -> str:
        if len(intervals) > INLINE:
            return f"@{self._named_set(family, intervals, 'zone')}"
        return _one_or_set(tuple(span_texts(family, intervals)))

    def _named_set(self, family: Family, intervals: Intervals, kind: str) -> str:
        digest = content_hash(intervals)
        name = f"{kind}{family[-1]}_{digest[:10]}"
        sets = self.lists if len(intervals) > LONG else self.sets
        elements = shelf.text(
            digest, len(intervals), family, __file__, lambda: ",\n".join(span_texts(family, intervals))
        )
        sets[name] = [
            f"type {_TYPE[family]}",
            "flags interval",
            f'comment "sha256:{digest}"',
            "elements = {\n" + elements + "\n}",
        ]
        return name


def _declared(sets: Mapping[str, list[str]]) -> str:
    """Sets as commands of their own: nft 0.9.8 crashes on a second table block that holds a set."""
    lines = ["# Written by Sallyport; changes here are undone by its next run.", f"add table {TABLE}"]
    for name, body in sets.items():
        lines += [f"add set {TABLE} {name} {{", *body, "}"]
    return "\n".join((*lines, ""))


def _essential(outbound: bool) -> tuple[str, ...]:
    """Step 5."""
    lines = [
        "icmpv6 type { 133, 134, 135, 136 } ip6 hoplimit 255 accept",
        "icmpv6 type { 133, 134, 135, 136, 137 } drop",
        "icmpv6 type { 130, 131, 132, 143 } accept",
        "icmp type 5 drop",
        "meta l4proto 2 ip daddr 224.0.0.0/4 accept",
        "meta nfproto ipv4 udp sport 67 udp dport 68 accept",
        "ip6 saddr fe80::/10 udp sport 547 udp dport 546 accept",
    ]
    if outbound:
        lines.append("meta nfproto ipv4 udp sport 68 udp dport 67 accept")
        lines.append("ip6 saddr fe80::/10 udp sport 546 udp dport 547 accept")
    return tuple(lines)


def _transport(match: Match, original: bool) -> list[tuple[str, str]]:
    """(protocol condition, port condition) pairs."""
    if match.protocols is None:
        return [("", "")]
    if match.ports is None:
        return [(f"meta l4proto {_ports(match.protocols)}", "")]
    protocol = match.protocol
    if protocol in (ICMP, ICMPV6):
        return [(f"{_TRANSPORT[protocol]} {_types(match.ports)}", "")]
    if not original:
        return [(f"{_TRANSPORT[protocol]} {_ports(match.ports)}", "")]
    # One port or range a rule: nft 1.0.6 and older list maps of original ports wrongly.
    return [(f"meta l4proto {protocol}", f"ct original proto-dst {_range(*port)}") for port in match.ports]


def _interfaces(side: str, names: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Conditions on one side; a pattern needs a line of its own, because old nft takes none in a set."""
    if not names:
        return [()]
    exact = tuple(interface(name) for name in names if not name.endswith("*"))
    lines = [(f"{side} {_names(exact)}",)] if exact else []
    return [*lines, *((f'{side} "{interface(name)}"',) for name in names if name.endswith("*"))]


def _names(names: tuple[str, ...]) -> str:
    return _one_or_set(tuple(f'"{interface(name)}"' for name in names))


def _one_or_set(texts: tuple[str, ...]) -> str:
    return texts[0] if len(texts) == 1 else f"{{ {', '.join(texts)} }}"


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _ports(intervals: Intervals) -> str:
    return _one_or_set(tuple(_range(*interval) for interval in intervals))


def _types(intervals: Intervals) -> str:
    """ICMP types one by one where they are few: nft prints a named one in a range in a way it cannot read."""
    if sum(last - first for first, last in intervals) > 40:
        return _ports(intervals)
    return _one_or_set(tuple(str(one) for first, last in intervals for one in range(first, last + 1)))


def _limit(rate: Rate) -> str:
    return f"limit rate {rate_text(rate)} burst {rate.burst} packets"


def end_of_day(rule: Rule) -> int:
    """The first second, counted from 1970, at which ``rule`` is no longer there: 24:00 UTC of its last day."""
    assert rule.until is not None
    return (rule.until.toordinal() - 719162) * 86400
