"""The power goes and comes back: the rules are there before anybody looks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from fleet import DEVICES, FAMILIES, Fleet

EXPECTED = {
    ("vantage-lan", 22): "open",
    ("vantage-wan", 22): "filtered",
    ("vantage-lan", 7000): "open",
    ("vantage-wan", 7000): "open",
    ("vantage-lan", 7001): "filtered",
    ("vantage-wan", 7001): "filtered",
    ("vantage-lan", 8080): "open",
    ("vantage-wan", 8080): "filtered",
}


@pytest.fixture(scope="module")
def rebooted(fleet: Fleet) -> dict[str, str]:
    """What was live before the cut. Engines start again by themselves, after the network."""
    live = {device: fleet.loader(device, "live") for device in DEVICES}
    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(fleet.lab.power_cut, DEVICES))
    for device in DEVICES:
        fleet.connect(device)
        fleet.engine(device)
    return live


@pytest.mark.parametrize("device", DEVICES)
def test_the_live_rules_are_the_same(fleet: Fleet, rebooted: dict[str, str], device: str) -> None:
    assert fleet.loader(device, "live") == rebooted[device]


def test_traffic_is_judged_as_before(fleet: Fleet, rebooted: dict[str, str]) -> None:
    asked = {
        (place, "", fleet.address(device, place.removeprefix("vantage-"), family), port): verdict
        for device in DEVICES
        for family in FAMILIES
        for (place, port), verdict in EXPECTED.items()
    }
    seen = fleet.verdicts(asked)
    assert {one: verdict for one, verdict in seen.items() if verdict != asked[one]} == {}


def test_the_next_run_finds_nothing_to_do(fleet: Fleet, rebooted: dict[str, str]) -> None:
    again = fleet.apply()
    assert set(again.states().values()) == {"unchanged"}, again.hosts
