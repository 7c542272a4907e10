"""Findings of several vantages become one, and a waiver covers what it names until its day, and no more."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.audit.findings import (
    Finding,
    WaiverError,
    from_dict,
    merge,
    read_waivers,
    verdict,
    waive,
)

TODAY = date(2027, 1, 31)
EXPOSED = Finding(
    "exposed", "net-exposure", "difference", "answers", "close it", "tcp", "5000", ("wan ipv4",)
)
WAIVER = {"control": "net-exposure", "reason": "OPS-7", "until": "2027-01-31"}


def covered(finding: Finding = EXPOSED, on: date = TODAY, **waiver: Any) -> bool:
    first = waive([finding], read_waivers([{**WAIVER, **waiver}]), on)[0]
    return bool(first.waiver)


def test_what_two_vantages_see_alike_is_one_finding() -> None:
    both = merge([EXPOSED, replace(EXPOSED, seen_from=("lan ipv6",)), replace(EXPOSED, ports="6000")])
    assert [(f.ports, f.seen_from) for f in both] == [
        ("5000", ("wan ipv4", "lan ipv6")),
        ("6000", ("wan ipv4",)),
    ]


def test_a_hole_seen_a_little_differently_is_still_one_hole() -> None:
    hole = replace(EXPOSED, kind="let_through", ports="1-9")
    assert [f.ports for f in merge([hole, replace(hole, ports="5-12")])] == ["1-12"]


def test_a_waiver_covers_until_its_last_day() -> None:
    assert covered()
    assert not covered(on=date(2027, 2, 1))


def test_an_expired_waiver_is_noted() -> None:
    _finding, note = waive([EXPOSED], read_waivers([WAIVER]), date(2027, 2, 1))
    assert note.weight == "note"
    assert "expired on 2027-01-31" in note.message


def test_a_waiver_that_covers_nothing_is_noted() -> None:
    (note,) = waive([], read_waivers([WAIVER]), TODAY)
    assert "covers nothing" in note.message


@pytest.mark.parametrize(
    ("narrowing", "expected"),
    [
        ({"ports": "5000"}, True),
        ({"ports": "4000-6000"}, True),
        ({"ports": "5001"}, False),
        ({"protocol": "udp"}, False),
        ({"kind": "lost"}, False),
        ({"from": "wan"}, True),
        ({"from": "wan ipv6"}, False),
        ({"control": "no-telnet"}, False),
        ({"control": "net-*"}, True),
    ],
)
def test_a_waiver_covers_no_more_than_it_names(narrowing: dict[str, str], expected: bool) -> None:
    assert covered(**narrowing) is expected


def test_a_waiver_for_some_of_the_ports_covers_none() -> None:
    assert not covered(replace(EXPOSED, ports="5000-5001"), ports="5000")


@pytest.mark.parametrize(
    ("waivers", "message"),
    [
        ("all", "must be a list, got str"),
        (["x"], r"audit_waivers\[0\] must be a dictionary, got str"),
        ([{**WAIVER, "untill": 1}], "unknown key 'untill'"),
        ([{**WAIVER, "reason": " "}], "has no 'reason'"),
        ([{"control": "x", "reason": "y"}], "has no 'until'"),
        ([{**WAIVER, "until": "soon"}], "is a date such as"),
        ([{**WAIVER, "ports": "ssh"}], "such as 80,8000-8010"),
    ],
)
def test_a_waiver_that_is_not_understood_is_refused(waivers: Any, message: str) -> None:
    with pytest.raises(WaiverError, match=message):
        read_waivers(waivers)


def test_the_verdict_is_the_worst_that_no_waiver_covers() -> None:
    doubtful = replace(EXPOSED, weight="not_assessed")
    note = replace(EXPOSED, weight="note")
    waived = replace(EXPOSED, waiver={"reason": "x", "until": "2027-01-31"})
    assert verdict([note, waived]) == "pass"
    assert verdict([note, doubtful, waived]) == "not assessed"
    assert verdict([doubtful, EXPOSED]) == "differences"


def test_a_finding_survives_its_way_through_json() -> None:
    assert from_dict(EXPOSED.as_dict()) == EXPOSED
