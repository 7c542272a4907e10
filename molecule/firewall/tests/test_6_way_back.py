"""Back to an earlier generation, and to where it all began."""

from __future__ import annotations

import pytest
from fleet import DEVICES, FAMILIES, Fleet

OPEN = {
    "services": {"wide": {"tcp": [7001]}},
    "inbound": [{"name": "wide", "allow": ["wide"], "from": ["mgmt"]}],
}


def wide(fleet: Fleet) -> set[str]:
    asked = [
        ("vantage-lan", "", fleet.address(device, "lan", family), 7001)
        for device in DEVICES
        for family in FAMILIES
    ]
    return set(fleet.verdicts(asked).values())


@pytest.fixture(scope="module")
def foreign(fleet: Fleet) -> dict[str, str]:
    return {device: fleet.foreign(device) for device in DEVICES}


def test_the_previous_generation_comes_back_and_other_peoples_rules_stay(
    fleet: Fleet, foreign: dict[str, str]
) -> None:
    fleet.apply(policy=OPEN)
    assert wide(fleet) == {"open"}
    back = fleet.play("playbooks/rollback.yml", "-e", "to=previous")
    assert back.status == 0, back.output[-3000:]
    assert wide(fleet) == {"filtered"}
    assert {device: fleet.foreign(device) for device in DEVICES} == foreign


def test_factory_leaves_nothing_of_ours_and_all_of_theirs(fleet: Fleet, foreign: dict[str, str]) -> None:
    back = fleet.play("playbooks/rollback.yml", "-e", "to=factory")
    assert back.status == 0, back.output[-3000:]
    assert wide(fleet) == {"open"}
    assert {device: fleet.foreign(device) for device in DEVICES} == foreign
    for device in DEVICES:
        left = fleet.sh(
            device,
            "ls -A /etc/sallyport 2>/dev/null || :; ! command -v nft >/dev/null || nft list tables;"
            " ! command -v iptables-save >/dev/null || iptables-save; ! command -v ipset >/dev/null || ipset list -n",
        )
        assert "sallyport" not in left.lower() and "firewall" not in left, left
