# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The comparison with the kernel notices renderers that are broken the way renderers get broken."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.kernel.device import Device
from tests.kernel.equivalence import BACKENDS, compare

MOST_SEEDS = 60
PACKETS = 120


def _substitute(pattern: str, replacement: str | Callable[[re.Match[str]], str]) -> Callable[[str], str]:
    return lambda text: re.sub(pattern, replacement, text, flags=re.MULTILINE)


def _one_more(match: re.Match[str]) -> str:
    return f"{match[1]}{int(match[2]) + 1 if match[2] != '65535' else 65535}"


MUTATIONS: dict[str, tuple[str, str, Callable[[str], str]]] = {
    # name: (backend, file, what is done to it)
    "nft: a port range ends one later": (
        "nftables",
        "nft",
        _substitute(r"(dport (?:\{ )?\d+-)(\d+)", _one_more),
    ),
    "nft: destination ports are left out": (
        "nftables",
        "nft",
        _substitute(r"(tcp|udp|sctp) dport (\{[^}]*\}|[\d-]+) (?=.*comment)", r"meta l4proto \1 "),
    ),
    "nft: IPv6 is forgotten": (
        "nftables",
        "nft",
        _substitute(r"^\t\t.*(ip6 saddr|ip6 daddr).*comment.*\n", ""),
    ),
    "nft: IPv6 is let through": (
        "nftables",
        "nft",
        _substitute(r'^(\t\tiif "lo" accept)', r"\1\n\t\tmeta nfproto ipv6 accept"),
    ),
    "nft: anti-spoofing is skipped": ("nftables", "nft", _substitute(r"^.*jump check_antispoof\n", "")),
    "nft: blocklists are skipped": ("nftables", "nft", _substitute(r"^.*@block[46]_.*\n", "")),
    "nft: translated flows count as direct ones": (
        "nftables",
        "nft",
        _substitute(r"^.*ct status dnat.*\n", ""),
    ),
    "nft: published flows are judged by the translated port": (
        "nftables",
        "nft",
        _substitute(r"ct original proto-dst", "th dport"),
    ),
    "nft: flows that are led to a port of our own count as direct ones": (
        "nftables",
        "nft",
        _substitute(r"(chain input \{\n(?:\t\t.*\n)*?)\t\tct status dnat .*\n", r"\1"),
    ),
    "iptables: flows that are led to a port of our own count as direct ones": (
        "iptables",
        "v4",
        _substitute(r"^-A SALLYPORT-INPUT -m conntrack --ctstate DNAT .*\n", ""),
    ),
    "nft: neighbour discovery from beyond the link": (
        "nftables",
        "nft",
        _substitute(r" ip6 hoplimit 255", ""),
    ),
    "nft: invalid packets pass": ("nftables", "nft", _substitute(r"^.*ct state invalid .*\n", "")),
    "nft: TCP without SYN starts a flow": (
        "nftables",
        "nft",
        _substitute(r"^\t\ttcp flags & \(fin\|syn\|rst\|ack\) != syn .*\n", ""),
    ),
    "nft: pings ignore their sources": (
        "nftables",
        "nft",
        _substitute(r"^\t\t.*(icmp type 8|icmpv6 type 128) (accept|goto judge_ping)$", r"\t\t\1 \2"),
    ),
    "ipset: a port range ends one later": (
        "iptables_ipset",
        "v4",
        _substitute(r"(--dport \d+:)(\d+)", _one_more),
    ),
    "ipset: the first prefix of every set is lost": (
        "iptables_ipset",
        "sets",
        _substitute(r"^(create .*-n .*)\nadd .*\n", r"\1\n"),
    ),
    "ipset: interfaces are left out": (
        "iptables_ipset",
        "v4",
        _substitute(r" -i (lan0|wan0|cbr0) (?=.*comment)", " "),
    ),
    "iptables: destination ports are left out": (
        "iptables",
        "v6",
        _substitute(r"-p (tcp|udp) (--dport|-m multiport --dports) \S+ (?=-[jg])", r"-p \1 "),
    ),
    "iptables: IPv6 has no rules": ("iptables", "v6", _substitute(r"^-A .*\n", "")),
    "iptables: a jump where only a goto permits": (
        "iptables",
        "v4",
        _substitute(r"-g SALLYPORT-(PUBLISHED|FORWARD2|CONTAINER-OUT)", r"-j SALLYPORT-\1"),
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_renderer_is_caught(device: Device, name: str) -> None:
    backend, file, change = MUTATIONS[name]

    def broken(policy):  # type: ignore[no-untyped-def]
        files = BACKENDS[backend](policy)
        return {**files, file: change(files[file])}

    for seed in range(MOST_SEEDS):
        if compare(device, seed, PACKETS, {backend: broken}).disagreements:
            return
    pytest.fail(f"{MOST_SEEDS} policies of {PACKETS} packets did not notice: {name}")
