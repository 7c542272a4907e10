# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""HostPolicy to iptables and ip6tables: the same steps in chains of our own, for both xtables backends.

Filtering stands in ``mangle``: container engines and others put their jumps ahead of everything in ``filter``,
and an ACCEPT there must not overrule a refusal of ours. Permitted is RETURN out of our chain, never ACCEPT. Since
RETURN ends only the innermost jump, whatever can permit is reached by ``-g`` (goto), never by ``-j``.
``REJECT`` exists in ``filter`` alone: such packets carry one mark bit from ``mangle`` to there, and what somebody
accepted on the way is dropped behind it, in ``mangle POSTROUTING`` and, where the kernel has it, ``security INPUT``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.cidrs import prefix_texts
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
    Family,
    HostPolicy,
    Interval,
    Intervals,
    Rate,
    Rule,
    Verdict,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.render.base import (
    RATE_TABLE_SIZE,
    Unsupported,
    address,
    behind_filter,
    clock_plausible,
    comment,
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

OWN = "SALLYPORT-"
REJECT_MARK = "0x20000000/0x20000000"
_PROTOCOLS = {TCP: "tcp", UDP: "udp", SCTP: "sctp", ICMP: "icmp", ICMPV6: "icmpv6"}
_NEW_TCP = "--tcp-flags FIN,SYN,RST,ACK SYN"
_PROXY = "SYNPROXY --sack-perm --timestamp --wscale 7 --mss 1460"
_PORTS_A_LINE = 15
"""What multiport takes; a range counts twice."""


class Vocabulary(ABC):
    """How one kind of device states what plain iptables has no one word for."""

    comments = True

    @abstractmethod
    def addresses(self, family: Family, intervals: Intervals, side: str) -> list[str]:
        """Conditions, any one of which means that ``side`` (``src`` or ``dst``) lies in ``intervals``."""

    @abstractmethod
    def blocked(self, writer: Writer, intervals: Intervals, side: str) -> list[str]:
        """Conditions and verdicts that drop what lies in a large list."""

    @abstractmethod
    def banned(self, family: Family, side: str) -> str:
        """The condition that ``side`` is banned."""

    @abstractmethod
    def opened(self) -> str:
        """The condition that the port stands open for the moment. Raises Unsupported where nothing has time-outs."""

    @abstractmethod
    def ban(self, family: Family, drop: str) -> list[str]:
        """Rules, without chain, that ban the source and fall through; ``drop`` drops where no more bans fit."""


class Writer:
    """One family's file. Chains are named without the common prefix."""

    def __init__(
        self, policy: HostPolicy, family: Family, words: Vocabulary, device: Mapping[str, Any] | None
    ) -> None:
        self.policy = policy
        self.family = family
        self.words = words
        self.clock = clock_plausible(device)
        self.behind_filter = behind_filter(device, "iptables" if family == "ipv4" else "ip6tables")
        self.tables: dict[str, dict[str, list[str]]] = {}
        self.drop = "-j DROP"

    def text(self) -> str:
        """The file, in the form that ``iptables-restore --noflush`` reads."""
        policy = self.policy
        if policy.log.drops:
            self.drop = f"-j {OWN}DROP"
            self.add_chain("mangle", "DROP", [self._log(policy.log.drops, "drop"), "-j DROP"])
        self.add_chain("mangle", "RUNNING", [self.drop])
        self._reject()
        self._antispoof()
        self._input()
        self._forward()
        self._output()
        self._traps()
        self._nat()
        lines = ["# Written by Sallyport; changes here are undone by its next run."]
        for table in sorted(self.tables):
            chains = self.tables[table]
            lines.append(f"*{table}")
            lines += [f":{OWN}{name} - [0:0]" for name in chains]
            for name, rules in chains.items():
                lines += [rule if rule.startswith("#") else f"-A {OWN}{name} {rule}" for rule in rules]
            lines.append("COMMIT")
        return "\n".join((*lines, ""))

    def add_chain(self, table: str, name: str, rules: Iterable[str]) -> list[str]:
        chain = list(rules)
        self.tables.setdefault(table, {})[name] = chain
        return chain

    # The hooks

    def _input(self) -> None:
        policy = self.policy
        chain = self.add_chain(
            "mangle", "INPUT", ["-i lo -j RETURN", *self._before_rules("src", self._essential())]
        )
        if policy.containers_outbound != "drop":
            for names, own in places(policy.container_addresses, self.family):
                for where in self._conditions(Match(self.family, None, names, own)):
                    chain += [f"{where} -p {protocol} --dport 53 -j RETURN" for protocol in ("tcp", "udp")]
        chain.append(f"-m conntrack --ctstate DNAT -g {OWN}PUBLISHED")
        if policy.defaults.gate:
            opened = self.words.opened()
            chain += [f"-p tcp {ports} {opened} -j RETURN" for ports in _ports(policy.defaults.gate)]
        chain += self._rules(policy.inbound, "inbound")
        if policy.traps:
            chain += [f"-p tcp {ports} -g {OWN}TRAP" for ports in _ports(policy.traps.tcp)]
        chain += self._ping()
        chain.append(self._verdict(policy.defaults.inbound))

    def _output(self) -> None:
        policy = self.policy
        chain = self.add_chain("mangle", "OUTPUT", [])
        if policy.traps and policy.traps.proof == "handshake":
            # After a proven handshake the kernel's SYN proxy speaks to us in the client's name, over loopback.
            chain += [
                f"-o lo -p tcp {_NEW_TCP} {ports} -m addrtype ! --src-type LOCAL -g {OWN}BAN"
                for ports in _ports(policy.traps.tcp)
            ]
        chain.append("-o lo -j RETURN")
        chain += self._before_rules("dst", self._essential(outbound=True), outbound=True)
        chain += [f"-o {_interface(name)} -j RETURN" for name in policy.container_bridges]
        chain += self._rules(policy.outbound, "outbound")
        chain.append(self._verdict(policy.defaults.outbound))

    def _forward(self) -> None:
        policy = self.policy
        bridges = [_interface(name) for name in policy.container_bridges]
        chain = self.add_chain("mangle", "FORWARD", [])
        if policy.nat.clamp_mss:
            chain.append("-p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu")
        chain += [f"-i {_interface(name)} -o {_interface(name)} -j RETURN" for name in policy.bridges]
        # Neighbour discovery, MLD and DHCP are of one link: none of it is ever routed.
        if self.family == "ipv4":
            never = ["-p icmp --icmp-type 5 -j DROP"]
        else:
            never = [f"-p icmpv6 --icmpv6-type {one} -j DROP" for one in (133, 134, 135, 136, 137)]
        chain += self._before_rules("src", never)
        if bridges:
            rest = self.add_chain("mangle", "FORWARD2", [])
            chain += [f"-i {one} -o {other} -g {OWN}FORWARD2" for one in bridges for other in bridges]
            chain += [f"-i {one} -g {OWN}CONTAINER-OUT" for one in bridges]
            chain.append(f"-g {OWN}FORWARD2")
            chain = rest
            if policy.containers_outbound == "as_device":
                out = [
                    *self._rules(policy.outbound, "from_container"),
                    self._verdict(policy.defaults.outbound),
                ]
            else:
                out = ["-j RETURN" if policy.containers_outbound == "allow" else self.drop]
            self.add_chain("mangle", "CONTAINER-OUT", out)
            self.add_chain(
                "mangle", "CONTAINER-IN", [*self._rules(policy.forward, "to_container"), self.drop]
            )
        chain.append(f"-m conntrack --ctstate DNAT -g {OWN}PUBLISHED")
        published = self._rules(policy.inbound, "published")
        refuse_long(published)
        self.add_chain("mangle", "PUBLISHED", [*published, self.drop])
        chain += [f"-o {one} -g {OWN}CONTAINER-IN" for one in bridges]
        chain += self._rules(policy.forward, "forward")
        chain.append(self._verdict(policy.defaults.forward))

    def _before_rules(self, side: str, essential: list[str], outbound: bool = False) -> list[str]:
        """Steps 2 to 7."""
        name, errors = ("icmp", (3, 11, 12)) if self.family == "ipv4" else ("icmpv6", (1, 2, 3, 4))
        lines = [
            f"{self.words.banned(self.family, side)} {self.drop}",
            "-m conntrack --ctstate ESTABLISHED -j RETURN",
            *(f"-p {name} --{name}-type {one} -m conntrack --ctstate RELATED -j RETURN" for one in errors),
        ]
        if outbound:
            # The answers of "reject": for connection tracking they belong to a flow that never came to be.
            lines.append("-p tcp --tcp-flags SYN,RST RST -m conntrack --ctstate RELATED -j RETURN")
        lines += essential
        traps = self.policy.traps
        if outbound and traps and traps.proof == "handshake":
            # The SYN proxy's own half of the handshake, which connection tracking knows nothing of.
            for ports in _ports(traps.tcp, "sport"):
                lines.append(
                    f"-p tcp --tcp-flags FIN,SYN,RST,ACK SYN,ACK {ports} -m addrtype --src-type LOCAL -j RETURN"
                )
        lines += [
            f"-p tcp --tcp-flags SYN NONE -g {OWN}RUNNING",
            f"-m conntrack --ctstate INVALID {self.drop}",
            f"-p tcp ! {_NEW_TCP} {self.drop}",
        ]
        if not outbound and self.policy.antispoof:
            lines.append(f"-j {OWN}SPOOF")
        for blocklist in self.policy.blocklists:
            if outbound and not blocklist.both:
                continue
            addresses = family_of(blocklist.addresses, self.family)
            if not addresses:
                continue
            names = () if "*" in blocklist.interfaces else blocklist.interfaces
            ways = [f"{'-o' if outbound else '-i'} {_interface(name)}" for name in names] or [""]
            for rule in self.words.blocked(self, addresses, "dst" if outbound else "src"):
                lines += [self._named(f"{way} {rule}".strip(), blocklist.name) for way in ways]
        return lines

    def _essential(self, outbound: bool = False) -> list[str]:
        """Step 5."""
        if self.family == "ipv4":
            lines = [
                "-p icmp --icmp-type 5 -j DROP",
                "-p 2 -d 224.0.0.0/4 -j RETURN",
                "-p udp --sport 67 --dport 68 -j RETURN",
            ]
            return [*lines, "-p udp --sport 68 --dport 67 -j RETURN"] if outbound else lines
        lines = [f"-p icmpv6 --icmpv6-type {one} -m hl --hl-eq 255 -j RETURN" for one in (133, 134, 135, 136)]
        lines += [f"-p icmpv6 --icmpv6-type {one} -j DROP" for one in (133, 134, 135, 136, 137)]
        lines += [f"-p icmpv6 --icmpv6-type {one} -j RETURN" for one in (130, 131, 132, 143)]
        lines.append("-s fe80::/10 -p udp --sport 547 --dport 546 -j RETURN")
        return [*lines, "-s fe80::/10 -p udp --sport 546 --dport 547 -j RETURN"] if outbound else lines

    def _antispoof(self) -> None:
        if not self.policy.antispoof:
            return
        chain: list[str] = []
        held: Intervals = ()
        for zone in self.policy.antispoof:
            guarded = family_of(spoofable(zone), self.family)
            if not guarded:
                continue
            held = union(held, guarded)
            names = () if "*" in zone.interfaces else zone.interfaces
            chain += [f"{where} -j RETURN" for where in self._conditions(Match(self.family, guarded, names))]
        if held:
            chain += [f"{where} {self.drop}" for where in self._conditions(Match(self.family, held))]
        self.add_chain("mangle", "SPOOF", chain)

    def _reject(self) -> None:
        policy = self.policy
        verdicts = {rule.verdict for rule in (*policy.inbound, *policy.outbound, *policy.forward)}
        verdicts |= {policy.defaults.inbound, policy.defaults.outbound, policy.defaults.forward}
        if "reject" not in verdicts:
            return
        chain = self.add_chain("mangle", "REJECT", [])
        if policy.log.drops:
            chain.append(self._log(policy.log.drops, "reject"))
        chain += [f"-m pkttype --pkt-type {kind} -j DROP" for kind in ("broadcast", "multicast")]
        chain.append(f"-j MARK --set-xmark {REJECT_MARK}")
        self.add_chain("mangle", "POSTROUTING", [f"-m mark --mark {REJECT_MARK} -j DROP"])
        if self.behind_filter:
            self.add_chain("security", "INPUT", [f"-m mark --mark {REJECT_MARK} -j DROP"])
        for hook in ("INPUT", "FORWARD", "OUTPUT"):
            self.add_chain("filter", hook, [f"-m mark --mark {REJECT_MARK} -g {OWN}REJECT"])
        answer = "icmp-admin-prohibited" if self.family == "ipv4" else "icmp6-adm-prohibited"
        self.add_chain(
            "filter",
            "REJECT",
            ["-p tcp -j REJECT --reject-with tcp-reset", f"-j REJECT --reject-with {answer}"],
        )

    def _ping(self) -> list[str]:
        ping = self.policy.defaults.ping
        if not ping:
            return []
        protocol, echo = (ICMP, 8) if self.family == "ipv4" else (ICMPV6, 128)
        lines = []
        for names, source in places(ping.sources, self.family):
            match = Match(
                self.family, source, names, protocols=((protocol, protocol),), ports=((echo, echo),)
            )
            verdict = f"-g {OWN}PING" if ping.rate else "-j RETURN"
            lines += [f"{where} {verdict}" for where in self._conditions(match)]
        if ping.rate:
            self.add_chain("mangle", "PING", [f"{_limit(ping.rate, 'ping')} -j RETURN", self.drop])
        return lines

    def _traps(self) -> None:
        traps = self.policy.traps
        if not traps:
            return
        intervals = family_of(never_banned(self.policy), self.family)
        spared = self._conditions(Match(self.family, intervals)) if intervals else []
        spared_from = [f"{where} {self.drop}" for where in spared]
        ban = [*spared_from, *self.words.ban(self.family, self.drop), self.drop]
        if traps.proof == "syn":
            self.add_chain("mangle", "TRAP", ban)
            return
        self.add_chain("mangle", "BAN", ban)
        proxy = f"-p tcp -m conntrack --ctstate UNTRACKED -j {_PROXY}"
        self.add_chain("mangle", "TRAP", [*spared_from, proxy, self.drop])
        # A port that a rule decides for this source is no trap, and stays under connection tracking.
        decided = [f"{where} -j RETURN" for where in spared]
        for rule in self.policy.inbound:
            for match in on_ports(matches(rule, self.family, "inbound"), TCP, traps.tcp):
                decided += [f"{where} -j RETURN" for where in self._conditions(match)]
        self.add_chain("raw", "TRAP-SYN", [*decided, "-j CT --notrack"])
        # The client's ACK is no known flow: it must reach the SYN proxy before step 6 drops it.
        self.add_chain("mangle", "TRAP-ACK", [*decided, f"-p tcp -j {_PROXY}", self.drop])
        self.add_chain(
            "raw",
            "PREROUTING",
            [
                f"! -i lo -p tcp {_NEW_TCP} {ports} -m addrtype --dst-type LOCAL -j {OWN}TRAP-SYN"
                for ports in _ports(traps.tcp)
            ],
        )
        chain = self.tables["mangle"]["INPUT"]
        at = next(i for i, rule in enumerate(chain) if rule.endswith(f"-g {OWN}RUNNING"))
        for ports in _ports(traps.tcp):
            chain.insert(at, f"-p tcp --tcp-flags FIN,SYN,RST,ACK ACK {ports} -j {OWN}TRAP-ACK")

    def _nat(self) -> None:
        nat = self.policy.nat
        published = [one for one in nat.publish if one.to_family == self.family]
        if published:
            chain = self.add_chain("nat", "PREROUTING", [])
            for publish in published:
                target = address(self.family, publish.to_address)
                target = target if self.family == "ipv4" else f"[{target}]"
                for names, source in places(publish.sources, self.family):
                    for where in self._conditions(Match(self.family, source, names)):
                        rule = f"{where} -m addrtype --dst-type LOCAL -p {publish.protocol} --dport {publish.port}"
                        rule += f" -j DNAT --to-destination {target}:{publish.to_port}"
                        chain.append(self._named(rule.strip(), publish.name))
        if nat.masquerade and self.family == "ipv4":
            # IPv6 is routed, not translated.
            self.add_chain(
                "nat", "POSTROUTING", [f"-o {_interface(name)} -j MASQUERADE" for name in nat.masquerade]
            )

    # Rules

    def _rules(self, rules: tuple[Rule, ...], view: View) -> list[str]:
        """Step 8."""
        lines = []
        for rule in rules:
            verdict = (
                f"-g {OWN}{self._rate(rule, rule.rate, view)}" if rule.rate else self._verdict(rule.verdict)
            )
            until = self._until(rule)
            note = ""
            if rule.log and (rule.verdict == "allow" or not self.policy.log.drops):
                note = self._log(self.policy.log.drops or Rate(10, 60), "rule")
            if not self.words.comments:
                lines.append(f"# {comment(rule.name)}")
            for match in matches(rule, self.family, view):
                for where in self._conditions(match, original=view == "published"):
                    text = f"{where} {until}".strip()
                    if note:
                        lines.append(f"{text} {note}".strip())
                    lines.append(self._named(f"{text} {verdict}".strip(), rule.name))
        return lines

    def _named(self, rule: str, name: str) -> str:
        return f'{rule} -m comment --comment "{comment(name)}"' if self.words.comments else rule

    def _until(self, rule: Rule) -> str:
        if not (rule.until and rule.on_device and self.clock):
            return ""
        if rule.until > date(2038, 1, 18):
            raise Unsupported(
                f"Rule {rule.name!r} ends on {rule.until}, but iptables knows no date after 2038-01-18.",
                "Choose an earlier date, or leave on_device out: the rule then leaves with the first run after it.",
            )
        return f"-m time --datestop {rule.until}T23:59:59"

    def _rate(self, rule: Rule, rate: Rate, view: View) -> str:
        """The chain that lets a source's flows pass up to the rate; a full table drops new sources."""
        key = short_hash(SECTIONS[view], rule.name, rate)
        name = f"RATE-{key}"
        if rate.count / rate.seconds > 1_000_000 or rate.burst > 1_000_000:
            raise Unsupported(
                f"Rule {rule.name!r} limits to {rate_text(rate)} burst {rate.burst}; hashlimit counts to 1000000.",
                "Choose a lower rate.",
            )
        mask = 32 if self.family == "ipv4" else 64
        within = (
            f"-m hashlimit --hashlimit-upto {rate_text(rate)} --hashlimit-burst {rate.burst}"
            f" --hashlimit-mode srcip --hashlimit-srcmask {mask} --hashlimit-name sp{key}"
            f" --hashlimit-htable-max {RATE_TABLE_SIZE} --hashlimit-htable-expire {refill_seconds(rate) * 1000}"
        )
        self.add_chain("mangle", name, [f"{within} -j RETURN", self.drop])
        return name

    def _verdict(self, verdict: Verdict) -> str:
        return {"allow": "-j RETURN", "deny": self.drop, "reject": f"-g {OWN}REJECT"}[verdict]

    def _log(self, rate: Rate, what: str) -> str:
        log = self.policy.log
        prefix = f"{log.prefix} {what}: "
        if log.group is not None:
            return f'{_limit(rate, "log")} -j NFLOG --nflog-group {log.group} --nflog-prefix "{prefix}"'
        return f'{_limit(rate, "log")} -j LOG --log-prefix "{prefix}"'

    # Conditions

    def _conditions(self, match: Match, original: bool = False) -> list[str]:
        """``match`` as option texts, any of which may match."""
        sources = [""]
        if match.source is not None:
            sources = self.words.addresses(self.family, match.source, "src")
        destinations = [""]
        if match.destination is not None and original:
            destinations = [
                f"-m conntrack --ctorigdst {text}" for text in prefix_texts(self.family, match.destination)
            ]
        elif match.destination is not None:
            destinations = self.words.addresses(self.family, match.destination, "dst")
        ways_in = [f"-i {_interface(name)}" for name in match.in_interfaces] or [""]
        ways_out = [f"-o {_interface(name)}" for name in match.out_interfaces] or [""]
        return [
            " ".join(part for part in (way_in, way_out, source, destination, service) if part)
            for way_in in ways_in
            for way_out in ways_out
            for source in sources
            for destination in destinations
            for service in self._services(match, original)
        ]

    def _services(self, match: Match, original: bool) -> list[str]:
        if match.protocols is None:
            return [""]
        if match.ports is None:
            numbers = [one for first, last in match.protocols for one in range(first, last + 1)]
            if 0 in numbers:
                raise Unsupported(
                    "IP protocol 0 cannot be told from any protocol by iptables.",
                    "Leave protocol 0 out of the rule, or name the protocols that are meant.",
                )
            return [f"-p {one}" for one in numbers]
        protocol = _PROTOCOLS[match.protocol]
        if match.protocol in (ICMP, ICMPV6):
            types = [one for first, last in match.ports for one in range(first, last + 1)]
            if match.protocol == ICMP and 255 in types:
                raise Unsupported(
                    "ICMP type 255 means any type to iptables.",
                    "Leave type 255, which nothing uses, out of the rule.",
                )
            return [f"-p {protocol} --{protocol}-type {one}" for one in types]
        if original:
            return [f"-p {protocol} -m conntrack --ctorigdstport {_range(port)}" for port in match.ports]
        return [f"-p {protocol} {ports}" for ports in _ports(match.ports)]


def _interface(name: str) -> str:
    return interface(name[:-1] or "*") + "+" if name.endswith("*") and len(name) > 1 else interface(name)


def _range(port: Interval) -> str:
    return str(port[0]) if port[0] == port[1] else f"{port[0]}:{port[1]}"


def _ports(intervals: Intervals, side: str = "dport") -> list[str]:
    """Options that match the ports, as many as one line takes in each."""
    if len(intervals) == 1:
        return [f"--{side} {_range(intervals[0])}"]
    lines: list[list[str]] = [[]]
    room = _PORTS_A_LINE
    for port in intervals:
        cost = 1 if port[0] == port[1] else 2
        if cost > room:
            lines.append([])
            room = _PORTS_A_LINE
        lines[-1].append(_range(port))
        room -= cost
    return [f"-m multiport --{side}s {','.join(line)}" for line in lines]


def _limit(rate: Rate, what: str) -> str:
    if rate.count / rate.seconds > 10_000 or rate.burst > 10_000:
        raise Unsupported(
            f"The {what} rate {rate_text(rate)} burst {rate.burst} is more than iptables counts (10000/second).",
            "Choose a lower rate.",
        )
    return f"-m limit --limit {rate_text(rate)} --limit-burst {rate.burst}"
