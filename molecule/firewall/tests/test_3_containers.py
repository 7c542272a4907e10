"""A container engine comes to the devices: its published ports obey, and so does the way straight to its boxes."""

from __future__ import annotations

import socket

import pytest
from fleet import DEVICES, FAMILIES, KEPT, TALKER, Fleet, Run, banned_as, box_address, guest

LAN, WAN = "vantage-lan", "vantage-wan"
PUBLISHED = {(LAN, 8080): "open", (WAN, 8080): "filtered", (LAN, 8090): "filtered", (WAN, 8090): "filtered"}
STRANGERS = (201, 202, 203)
STRAIGHT = {
    (LAN, 8081): "open",
    (WAN, 8081): "filtered",
    (LAN, 8082): "filtered",
    (WAN, 8082): "filtered",
    (LAN, 80): "filtered",
    (WAN, 80): "filtered",
}


def ways(fleet: Fleet) -> dict[tuple[str, str, str, int], str]:
    """Every way to every box, and what the policy says of it."""
    asked = {}
    for device in DEVICES:
        for family in FAMILIES:
            for (place, port), verdict in PUBLISHED.items():
                own = fleet.address(device, place.removeprefix("vantage-"), family)
                asked[place, "", own, port] = verdict
            for (place, port), verdict in STRAIGHT.items():
                asked[place, "", box_address(device, family), port] = verdict
    return asked


@pytest.fixture(scope="module")
def engines(fleet: Fleet) -> dict[str, str]:
    """Engines on all devices, and what is foreign from now on."""
    for device in DEVICES:
        fleet.engine(device)
    return {device: fleet.foreign(device) for device in DEVICES}


@pytest.fixture(scope="module")
def change(fleet: Fleet, engines: dict[str, str]) -> Run:
    """The next run sees the bridges, and the policy has become another one too. Before it, one guest is banned."""
    for device in DEVICES:
        for number in (KEPT, *STRANGERS):
            for family in FAMILIES:
                fleet.loader(device, "ban", banned_as(number, family), "600")
    return fleet.apply(policy={"services": {"late": {"tcp": [7003]}}, "inbound": [LATE]})


LATE = {"name": "late", "allow": ["late"], "from": ["guests"]}


def test_a_new_bridge_is_a_change(change: Run) -> None:
    assert set(change.states().values()) == {"confirmed"}, change.hosts


def test_published_ports_and_the_straight_way_obey_the_policy(fleet: Fleet, change: Run) -> None:
    asked = ways(fleet)
    seen = fleet.verdicts(asked)
    assert {one: verdict for one, verdict in seen.items() if verdict != asked[one]} == {}


@pytest.mark.parametrize("device", DEVICES)
def test_a_box_reaches_out(fleet: Fleet, change: Run, device: str) -> None:
    place = fleet.boxes[device]
    heard = fleet.places[LAN].socket(socket.AF_INET6, socket.SOCK_STREAM)
    heard.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    heard.bind(("::", 0))
    heard.listen()
    try:
        for family, kind in (("ipv4", socket.AF_INET), ("ipv6", socket.AF_INET6)):
            client = place.socket(kind, socket.SOCK_STREAM)
            client.settimeout(10)
            client.connect((fleet.address("vantage-lan", "lan", family), heard.getsockname()[1]))
            client.close()
    finally:
        heard.close()


@pytest.mark.parametrize("device", DEVICES)
def test_the_engines_rules_are_as_before(
    fleet: Fleet, engines: dict[str, str], change: Run, device: str
) -> None:
    assert "8080" in engines[device]
    assert fleet.foreign(device) == engines[device]


@pytest.mark.parametrize("device", DEVICES)
def test_a_ban_outlives_a_change_of_policy(fleet: Fleet, change: Run, device: str) -> None:
    banned = guest(KEPT, "ipv4")
    everybody = {banned_as(number, family) for number in (KEPT, *STRANGERS) for family in FAMILIES}
    assert everybody <= fleet.banned(device)
    asked = (WAN, banned, fleet.address(device, "wan", "ipv4"), 7000)
    assert fleet.verdicts([asked])[asked] == "filtered"
    fleet.loader(device, "lift", banned)
    assert fleet.verdicts([asked])[asked] == "open"


def test_without_the_policy_every_box_would_answer(fleet: Fleet, change: Run) -> None:
    """The positive control: it is not the way that is broken."""
    for device in DEVICES:
        fleet.loader(device, "remove")
    try:
        seen = fleet.verdicts(ways(fleet))
        assert {one: verdict for one, verdict in seen.items() if verdict != "open"} == {}
    finally:
        for device in DEVICES:
            fleet.loader(device, "load")


def test_a_running_connection_survives_a_change(fleet: Fleet, change: Run) -> None:
    """Back to the scenario's own policy, under connections that it lets in."""
    flows = [
        fleet.flow(WAN, socket.SOCK_STREAM, fleet.address(device, "wan", family), 7000, guest(TALKER, family))
        for device in DEVICES
        for family in FAMILIES
    ]
    with fleet.talking(flows):
        again = fleet.apply()
    assert set(again.states().values()) == {"confirmed"}, again.hosts
    assert [flow.name for flow in flows if not flow.echoes()] == []
    for flow in flows:
        flow.close()
