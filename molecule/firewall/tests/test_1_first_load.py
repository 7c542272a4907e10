"""The first load, while people are connected."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from fleet import BACKENDS, DEVICES, FAMILIES, Fleet, Flow, Run


@dataclass
class Loaded:
    run: Run
    before: dict[tuple[str, str, str, int], str]
    flows: dict[str, list[Flow]]


def closed_port(fleet: Fleet) -> list[tuple[str, str, str, int]]:
    return [
        (f"vantage-{network}", "", fleet.address(device, network, family), 7001)
        for device in DEVICES
        for network in ("lan", "wan")
        for family in FAMILIES
    ]


@pytest.fixture(scope="module")
def loaded(fleet: Fleet, first_foreign: dict[str, str]) -> Iterator[Loaded]:
    before = fleet.verdicts(closed_port(fleet))
    # To a port that the policy closes: no rule of it can be what keeps these alive.
    flows = {
        device: [
            fleet.flow("vantage-wan", socket.SOCK_STREAM, fleet.address(device, "wan", family), 7001)
            for family in FAMILIES
        ]
        for device in DEVICES
    }
    everyone = [flow for some in flows.values() for flow in some]
    for flow in everyone:
        assert flow.echoes(), flow.name
    with fleet.talking(everyone):
        run = fleet.apply()
    yield Loaded(run, before, flows)
    for flow in everyone:
        flow.close()


def test_everything_was_open_before(loaded: Loaded) -> None:
    assert set(loaded.before.values()) == {"open"}, loaded.before


def test_each_device_has_the_backend_that_it_should(loaded: Loaded) -> None:
    assert {host: result["backend"] for host, result in loaded.run.hosts.items()} == BACKENDS
    assert set(loaded.run.states().values()) == {"confirmed"}


@pytest.mark.parametrize("device", DEVICES)
def test_running_connections_survive_the_first_load(loaded: Loaded, device: str) -> None:
    assert [flow.name for flow in loaded.flows[device] if not flow.echoes()] == []


def test_new_connections_to_the_same_port_are_filtered(fleet: Fleet, loaded: Loaded) -> None:
    after = fleet.verdicts(closed_port(fleet))
    assert {one: verdict for one, verdict in after.items() if verdict != "filtered"} == {}


def test_a_second_run_changes_nothing_and_costs_one_exchange(fleet: Fleet, loaded: Loaded) -> None:
    again = fleet.apply()
    assert set(again.states().values()) == {"unchanged"}, again.hosts
    assert {result["exchanges"] for result in again.hosts.values()} == {1}


@pytest.mark.parametrize("device", DEVICES)
def test_other_peoples_rules_are_as_before(
    fleet: Fleet, loaded: Loaded, first_foreign: dict[str, str], device: str
) -> None:
    assert "30006" in first_foreign[device] and "f2b" in first_foreign[device]
    assert fleet.foreign(device) == first_foreign[device]
