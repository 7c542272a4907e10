# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""While one policy replaces another: nothing that neither permits gets through, nothing that both permit is lost, and no
connection breaks. A prober on wan sends to every port of both families meanwhile."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address
from itertools import islice
from pathlib import Path

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.judge import TCP, UDP, Packet, judge
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import (
    Addresses,
    Blocklist,
    HostPolicy,
    Rule,
    ServiceSet,
)

from tests.kernel.device import ADDRESSES, BRIDGES, UNTRACKED_PORT, Device
from tests.kernel.equivalence import BACKENDS
from tests.kernel.packets import ip_packet
from tests.kernel.streams import Streams

# The legacy tools change the same kernel tables in the same way; what differs is how they ask for it.
SWAPS = dict.fromkeys(BACKENDS, 200) | {"iptables_ipset legacy": 40, "iptables legacy": 40}
if "SALLYPORT_KERNEL_SWAPS" in os.environ:
    SWAPS = dict.fromkeys(SWAPS, int(os.environ["SALLYPORT_KERNEL_SWAPS"]))
_EVERY_PORT = range(1, 65536)
_AT_ONCE = 64
"""Ports of the walk in one round, beside the packets that every round sends."""


def policy(own_port: int) -> HostPolicy:
    """Both permit 80 and forwarding of 81, each a port of its own, and neither anything else."""
    mine = ((80, 80), (own_port, own_port))
    blocked = Addresses(tuple((16 * i + own_port, 16 * i + own_port + 3) for i in range(300)))
    return HostPolicy(
        "device",
        inbound=(Rule(f"web {own_port}", "allow", ServiceSet(tcp=mine, udp=mine)),),
        forward=(Rule(f"through {own_port}", "allow", ServiceSet(tcp=((81, 81),))),),
        blocklists=(Blocklist("some", blocked),),
        bridges=BRIDGES,
    )


OLD, NEW = policy(1000), policy(2000)


def _packets(ports: range | list[int]) -> Iterator[Packet]:
    """From wan to these ports of the device, TCP and UDP, IPv4 and IPv6."""
    for family, at, source in zip(
        ("ipv4", "ipv6"), ADDRESSES["wan0"], ("198.51.100.200", "2001:db8:2::77"), strict=True
    ):
        here = Packet(
            "inbound",
            family,  # type: ignore[arg-type]
            int(ip_address(source)),
            int(ip_address(at.partition("/")[0])),
            TCP,
            source_port=UNTRACKED_PORT,
            in_interface="wan0",
            # Each is judged anew, and connection tracking has no part in it.
            state="untracked",
        )
        for port in ports:
            yield replace(here, port=port)
            yield replace(here, port=port, protocol=UDP)


def _through() -> Iterator[Packet]:
    """What is forwarded from wan to lan."""
    for packet, far in zip(_packets([81]), ("10.77.0.9",) * 2 + ("fd77::9",) * 2, strict=True):
        if packet.protocol == TCP:
            forward = replace(packet, hook="forward", destination=int(ip_address(far)), out_interface="lan0")
            yield from (forward, replace(forward, port=82))


def _expected(packet: Packet) -> bool | None:
    """Whether both policies permit it, neither, or (None) only one."""
    old, new = (judge(one, packet).verdict == "allow" for one in (OLD, NEW))
    return old if old is new else None


@pytest.mark.parametrize("name", SWAPS)
def test_swapping_lets_nothing_through_loses_nothing_and_breaks_no_connection(
    device: Device, tmp_path: Path, name: str
) -> None:
    backend, _, legacy = name.partition(" ")
    for one, of in (("old", OLD), ("new", NEW)):
        (tmp_path / one).mkdir()
        for file, text in BACKENDS[backend](of).items():
            (tmp_path / one / file).write_text(text, encoding="utf-8")
    device.load(BACKENDS[backend](OLD), legacy=bool(legacy))
    always = [(packet, _expected(packet)) for packet in (*_packets([80, 23, 1000, 2000]), *_through())]
    assert {expected for _, expected in always} == {True, False, None}
    walk = iter(_packets(_EVERY_PORT))
    streams = Streams(device, (80, 1000))  # the second one may only be opened under the old policy
    sent, rounds = 0, 0
    swapped = {True: 0, False: 0}
    try:
        with _swapping(device, tmp_path, bool(legacy)) as swapping:
            while swapping.poll() is None:
                further = [(packet, _expected(packet)) for packet in islice(walk, 4 * _AT_ONCE)]
                if not further and _count(tmp_path) >= SWAPS[name]:
                    (tmp_path / "stop").touch()
                shots = [*always, *further]
                wire = [
                    (packet, ip_packet(packet, number)) for number, (packet, _) in enumerate(shots, start=1)
                ]
                seen = device.shoot(wire)
                rounds += 1
                sent += len(shots)
                for number, (packet, expected) in enumerate(shots, start=1):
                    assert number in seen.first, f"never arrived: {packet}"
                    passed = number in seen.last
                    if expected is None:
                        swapped[passed] += 1
                    else:
                        assert passed is expected, (
                            f"{name}, about swap {_count(tmp_path)}: {'passed' if passed else 'lost'}: {packet}"
                        )
                assert not streams.broken, f"{name}, about swap {_count(tmp_path)}: {streams.broken}"
            assert swapping.returncode == 0, swapping.stderr.read() if swapping.stderr else ""
    finally:
        streams.close()
        device.load({}, legacy=bool(legacy))
    swaps = _count(tmp_path)
    print(
        f"{name}: {swaps} swaps, {sent} packets in {rounds} rounds, every port; pieces echoed: {streams.echoed}"
    )
    assert not streams.broken
    # Positive controls: the packets met both policies, again and again, and the connections were in use.
    assert swaps >= SWAPS[name] and not list(walk)
    assert min(swapped.values()) > swaps and min(streams.echoed.values()) > swaps


@contextmanager
def _swapping(device: Device, folder: Path, legacy: bool) -> Iterator[subprocess.Popen[str]]:
    """One policy after the other by the device's own program, until there is a file ``stop``."""
    program = device.directory.parent / "firewall-load"
    script = "mount --bind /usr/sbin/xtables-legacy-multi /usr/sbin/xtables-nft-multi; " if legacy else ""
    script += f'cd "{folder}"; n=0; until [ -e stop ]; do '
    script += "".join(
        f'SALLYPORT_FIREWALL_DIR="{folder}/{one}" sh "{program}" load; n=$((n + 1)); echo "$n" >count; '
        for one in ("new", "old")
    )
    command = ("ip", "netns", "exec", device.inside.name, "sh", "-euc", script + "done")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as swapping:
        try:
            yield swapping
        finally:
            (folder / "stop").touch()


def _count(folder: Path) -> int:
    """How many swaps have been made."""
    try:
        return int((folder / "count").read_text() or "0")
    except FileNotFoundError:
        return 0
