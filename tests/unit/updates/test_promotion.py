"""A version moves on when it has proved itself, waits while it may, and stops where it did harm."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates import record
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.promotion import (
    Rules,
    Verdict,
    decide,
    read_listing,
)

SETTINGS = (
    "# Managed\nAGENT=unattended-upgrades\nMODE=automatic\nREASON='it'\"'\"'s so'\nRING=ring0\nEVERY=20\n"
)


def device(status: str, settings: str = SETTINGS, now: int = 1000) -> dict[str, Any]:
    return record.read(
        Reply(
            (("now", str(now)), ("settings", settings), ("status", status), ("timers", "active inactive")), 0
        )
    )


GOOD = device("ran 900\nresult ok\ninstalled panel 2.0 100\n")
YOUNG = device("ran 900\nresult ok\ninstalled panel 2.0 899\n")
PENDING = device("ran 900\nresult waiting\npending panel 1.0 2.0 update 500\n")
HELD = device("ran 900\nresult rolled_back\nheld panel 2.0 800 failed: panel.service\nback panel\n")
ILL = device("ran 900\nresult unhealthy\ninstalled panel 2.0 100\n")
WITHOUT = device("ran 900\nresult ok\n")
DEAD = device("ran 110\nresult ok\ninstalled panel 2.0 100\n")


def verdict(threshold: int = 0, minimum: int = 1, **records: dict[str, Any] | None) -> Verdict:
    (one,) = decide("ring0", {("panel", "2.0")}, {("panel", "1.0")}, records, Rules(500, threshold, minimum))
    return one


def test_a_record_is_read_whole() -> None:
    assert HELD["held"] == [{"name": "panel", "version": "2.0", "since": 800, "why": "failed: panel.service"}]
    assert PENDING["pending"] == [
        {"name": "panel", "installed": "1.0", "offered": "2.0", "kind": "update", "age": 500}
    ]
    assert HELD["back"] == ["panel"] and HELD["reason"] == "it's so" and HELD["timer"] == "active"
    assert device("nonsense\npending x\nran x\n")["pending"] == []
    assert device("", settings="")["agent"] == ""


@pytest.mark.parametrize(
    ("records", "state", "why"),
    [
        ({"a": GOOD, "b": WITHOUT}, "move", "healthy on 1 of 1 devices"),
        ({"a": GOOD, "b": YOUNG}, "wait", "on b"),
        ({"a": GOOD, "b": PENDING}, "wait", "on b"),
        ({"a": GOOD, "b": DEAD}, "wait", "on b"),
        ({"a": GOOD, "b": HELD}, "stop", "1 of 2 devices failed (b), and 0 % may"),
        ({"a": GOOD, "b": ILL}, "stop", "(b)"),
        ({"a": GOOD, "b": None}, "wait", "no answer from b"),
        ({"b": WITHOUT}, "wait", "proved on 0 devices"),
        ({}, "wait", "proved on 0 devices"),
    ],
)
def test_the_ring_decides(records: dict[str, Any], state: str, why: str) -> None:
    one = verdict(**records)
    assert (one.state, one.exact) == (state, "panel=2.0") and why in one.why


def test_a_threshold_lets_some_fail_or_be_silent() -> None:
    assert verdict(threshold=50, a=GOOD, b=HELD).state == "move"
    assert verdict(threshold=49, a=GOOD, b=HELD).state == "stop"
    assert verdict(threshold=50, a=GOOD, b=None).state == "move"
    assert verdict(minimum=2, a=GOOD).state == "wait"


def test_devices_of_other_rings_do_not_count_and_what_moved_is_not_asked_again() -> None:
    other = device("ran 900\nresult ok\nheld panel 2.0 100 bad\n", SETTINGS.replace("ring0", "ring1"))
    assert verdict(a=GOOD, b=other).state == "move"
    assert decide("ring0", {("panel", "2.0")}, {("panel", "2.0")}, {"a": GOOD}, Rules(500, 0, 1)) == []


def test_the_repositorys_listing_is_read() -> None:
    assert read_listing("panel 2.0\nx 1:1-1\n") == {("panel", "2.0"), ("x", "1:1-1")}


def test_each_architectures_version_is_judged_where_they_differ() -> None:
    """One of them is published later, and as text 9.0 comes after 10.0."""
    ten = device("ran 900\nresult ok\ninstalled panel 10.0 100\n")
    offered = read_listing("panel 10.0\npanel 9.0\n")
    found = decide("ring0", offered, {("panel", "9.0")}, {"a": ten}, Rules(500, 0, 1))
    assert [(one.exact, one.state) for one in found] == [("panel=10.0", "move")]
