# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The judge, nftables, iptables with ipset and plain iptables give the same verdict on every packet."""

from __future__ import annotations

import os

from tests.kernel.device import Device
from tests.kernel.equivalence import BACKENDS, Disagreement, compare

POLICIES = int(os.environ.get("SALLYPORT_KERNEL_POLICIES", "300"))
PACKETS = int(os.environ.get("SALLYPORT_KERNEL_PACKETS", "60"))
FIRST_SEED = int(os.environ.get("SALLYPORT_KERNEL_SEED", "0"))


def test_every_backend_gives_the_verdict_of_the_model_on_every_packet(device: Device) -> None:
    found: list[Disagreement] = []
    sent = delivered = passed = unsupported = fragmented = bridged = led_here = 0
    for seed in range(FIRST_SEED, FIRST_SEED + POLICIES):
        result = compare(device, seed, PACKETS, BACKENDS)
        found += result.disagreements
        sent += result.sent
        delivered += result.delivered
        passed += result.passed
        unsupported += result.unsupported
        fragmented += result.fragmented
        bridged += result.bridged
        led_here += result.led_here
        if len(found) > 20:
            break
    device.bridge_netfilter(False)
    print(
        f"{POLICIES} policies, {delivered} of {sent} packets delivered and judged, {passed} passed;"
        f" {fragmented} came in fragments, {bridged} stayed inside a bridge,"
        f" {led_here} were led to a port of the device's own"
    )
    assert not found, "\n\n".join(map(str, found[:20]))
    assert unsupported < 0.1 * POLICIES, f"{unsupported} renderings were refused"
    assert led_here > 0.02 * delivered, f"only {led_here} packets were led to a port of the device's own"
    assert fragmented > 0.03 * delivered, f"only {fragmented} packets came in fragments"
    assert delivered > 0.9 * sent, (
        f"only {delivered} of {sent} packets reached a hook: the test would say little"
    )
    assert 0.1 * delivered < passed < 0.9 * delivered, (
        f"{passed} of {delivered} passed: the test would say little"
    )


def test_iptables_legacy_gives_the_verdict_of_the_model(device: Device) -> None:
    backends = {name: BACKENDS[name] for name in ("iptables_ipset", "iptables")}
    delivered = 0
    for seed in range(FIRST_SEED, FIRST_SEED + POLICIES // 10):
        result = compare(device, seed, PACKETS, backends, legacy=True)
        delivered += result.delivered
        assert not result.disagreements, "\n\n".join(map(str, result.disagreements))
    assert delivered > PACKETS
