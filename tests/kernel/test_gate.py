# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""A port that is opened for a challenge: by whom the policy lets, for as long as the kernel says."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.judge import TCP
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import Defaults
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.render.base import Unsupported
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls.services import deploy_program

from tests.kernel.test_behaviour import CLOSED, Firewall, firewall, incoming

__all__ = ["firewall"]
GATED = replace(CLOSED, defaults=Defaults(outbound="deny", gate=((80, 80),)))


def gate(firewall: Firewall, what: str) -> None:
    firewall.device.inside.run("sh", "-s", what, stdin=deploy_program())


def still_open_for(firewall: Firewall, seconds: int) -> None:
    """Opens it for less time than the program does, so that a test sees its end."""
    commands = {
        "nftables": f"nft add element inet sallyport gate '{{ 80 timeout {seconds}s }}'",
        "iptables_ipset": f"ipset -exist add sallyport-gate 80 timeout {seconds}",
    }
    firewall.device.inside.run("sh", "-c", commands[firewall.name])


def test_a_gate_is_closed_opens_on_request_and_is_closed_by_the_kernel(firewall: Firewall) -> None:
    if firewall.name == "iptables":
        with pytest.raises(Unsupported, match="closes by itself"):
            firewall.load(GATED)
        return
    firewall.load(GATED)
    web = {family: incoming(family, TCP, 80) for family in ("ipv4", "ipv6")}
    other = incoming("ipv4", TCP, 81)
    assert not any(firewall.passes(packet) for packet in web.values())
    gate(firewall, "open")
    assert all(firewall.passes(packet) for packet in web.values())
    assert not firewall.passes(other)
    gate(firewall, "close")
    assert not any(firewall.passes(packet) for packet in web.values())
    still_open_for(firewall, 1)
    assert firewall.passes(web["ipv4"])
    deadline = time.monotonic() + 10
    while firewall.passes(web["ipv4"]):
        assert time.monotonic() < deadline, "nobody closed the gate"
        time.sleep(0.1)


def test_only_ports_that_the_policy_names_can_be_opened(firewall: Firewall) -> None:
    if firewall.name == "iptables":
        return
    firewall.load(replace(CLOSED, defaults=Defaults(outbound="deny", gate=((8080, 8080),))))
    gate(firewall, "open")
    assert not firewall.passes(incoming("ipv4", TCP, 80))


def test_an_open_gate_is_no_drift(firewall: Firewall) -> None:
    if firewall.name == "iptables":
        return
    firewall.load(GATED)
    before = firewall.loader("live")
    gate(firewall, "open")
    assert firewall.loader("live") == before
