# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""While one policy replaces another: nothing that neither permits gets through, nothing that both permit is lost."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.judge import TCP, UDP, Packet
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import (
    Addresses,
    Blocklist,
    HostPolicy,
    Rule,
    ServiceSet,
)

from tests.kernel.device import BRIDGES, UNTRACKED_PORT, Device
from tests.kernel.equivalence import BACKENDS
from tests.kernel.packets import ip_packet
from tests.kernel.test_behaviour import DEVICE4, DEVICE6, PEER4, PEER6

SWAPS = int(os.environ.get("SALLYPORT_KERNEL_SWAPS", "20"))


def policy(own_port: int) -> HostPolicy:
    """Both permit 80 and forwarding of 81, each a port of its own, and neither 23."""
    mine = ((80, 80), (own_port, own_port))
    blocked = Addresses(tuple((16 * i + own_port, 16 * i + own_port + 3) for i in range(300)))
    return HostPolicy(
        "device",
        inbound=(Rule(f"web {own_port}", "allow", ServiceSet(tcp=mine, udp=mine)),),
        forward=(Rule(f"through {own_port}", "allow", ServiceSet(tcp=((81, 81),))),),
        blocklists=(Blocklist("some", blocked),),
        bridges=BRIDGES,
    )


def probes() -> list[tuple[Packet, bool | None]]:
    """Packets, and whether both, neither, or (None) only one of the two policies permits them."""
    found: list[tuple[Packet, bool | None]] = []
    for family, source, target, far in (
        ("ipv4", PEER4, DEVICE4, (10 << 24) + 9),
        ("ipv6", PEER6, DEVICE6, (0x20010DB80077 << 80) + 9),
    ):
        for protocol in (TCP, UDP):
            # Untracked, so that each is judged anew and connection tracking has no part in it.
            here = Packet(
                "inbound",
                family,
                source,
                target,
                protocol,
                80,
                UNTRACKED_PORT,
                in_interface="lan0",
                state="untracked",  # type: ignore[arg-type]
            )
            found += [(here, True), (replace(here, port=23), False), (replace(here, port=1000), None)]
        through = replace(
            found[-1][0], hook="forward", destination=far, protocol=TCP, port=81, out_interface="wan0"
        )
        found += [(through, True), (replace(through, port=82), False)]
    return found


@pytest.mark.parametrize("name", [*BACKENDS, "iptables_ipset legacy", "iptables legacy"])
def test_swapping_lets_nothing_through_and_loses_nothing(device: Device, tmp_path: Path, name: str) -> None:
    backend, _, legacy = name.partition(" ")
    directories = []
    for port in (1000, 2000):
        directory = tmp_path / str(port)
        directory.mkdir()
        for file, text in BACKENDS[backend](policy(port)).items():
            (directory / file).write_text(text, encoding="utf-8")
        directories.append(directory)
    device.load(BACKENDS[backend](policy(1000)), legacy=bool(legacy))
    program = device.directory.parent / "firewall-load"
    bind = "mount --bind /usr/sbin/xtables-legacy-multi /usr/sbin/xtables-nft-multi; " if legacy else ""
    script = bind + f'n=0; while [ "$n" -lt {SWAPS} ]; do n=$((n + 1)); '
    script += "".join(
        f'SALLYPORT_FIREWALL_DIR="{one}" sh "{program}" load; ' for one in reversed(directories)
    )
    shots = probes()
    wire = [(packet, ip_packet(packet, number)) for number, (packet, _) in enumerate(shots, start=1)]
    rounds = 0
    swapped = {True: 0, False: 0}
    command = ("ip", "netns", "exec", device.inside.name, "sh", "-euc", script + "done")
    try:
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as swapping:
            while swapping.poll() is None:
                seen = device.shoot(wire)
                rounds += 1
                for number, (packet, expected) in enumerate(shots, start=1):
                    assert number in seen.first, f"never arrived: {packet}"
                    passed = number in seen.last
                    if expected is None:
                        swapped[passed] += 1
                    else:
                        assert passed is expected, (
                            f"round {rounds}: {'passed' if passed else 'lost'}: {packet}"
                        )
            assert swapping.returncode == 0, swapping.stderr.read() if swapping.stderr else ""
    finally:
        device.load({}, legacy=bool(legacy))
    print(f"{name}: {2 * SWAPS} swaps, {rounds * len(shots)} packets")
    # Positive control: packets met both policies, so they were there during the swaps.
    assert min(swapped.values()) > 0 and rounds > 2 * SWAPS
