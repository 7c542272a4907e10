"""Somebody meddles with the rules: the next look tells, and the next run puts it right."""

from __future__ import annotations

import pytest
from fleet import DEVICES, FAMILIES, NFT, Fleet

FLUSHED = {
    "nft": "nft flush table inet sallyport",
    "iptables": "for ip in ip ip6; do ${ip}tables -t mangle -F SALLYPORT-INPUT; done",
}
ADDED = {
    "nft": "nft insert rule inet sallyport input tcp dport 7001 accept",
    "iptables": "for ip in ip ip6; do ${ip}tables -t mangle -I SALLYPORT-INPUT -p tcp --dport 7001 -j RETURN; done",
}
REMOVED = {
    "nft": "nft delete chain inet sallyport input",
    "iptables": "for ip in ip ip6; do ${ip}tables -t mangle -D INPUT -j SALLYPORT-INPUT;"
    " ${ip}tables -t mangle -F SALLYPORT-INPUT; ${ip}tables -t mangle -X SALLYPORT-INPUT; done",
}


def closed(fleet: Fleet) -> dict[tuple[str, str, str, int], str]:
    return fleet.verdicts(
        ("vantage-lan", "", fleet.address(device, "lan", family), 7001)
        for device in DEVICES
        for family in FAMILIES
    )


@pytest.mark.parametrize(
    "meddle",
    [
        pytest.param(FLUSHED, id="flushed"),
        pytest.param(ADDED, id="rule-added"),
        pytest.param(REMOVED, id="chain-removed"),
    ],
)
def test_drift_is_found_and_repaired(fleet: Fleet, meddle: dict[str, str]) -> None:
    foreign = {device: fleet.foreign(device) for device in DEVICES}
    assert set(closed(fleet).values()) == {"filtered"}
    for device in DEVICES:
        fleet.sh(device, meddle["nft" if device in NFT else "iptables"])
    assert set(closed(fleet).values()) == {"open"}, "the meddling did nothing"
    look = fleet.apply("--check")
    assert set(look.states().values()) == {"would_change"}, look.hosts
    assert set(closed(fleet).values()) == {"open"}, "check mode changed something"
    repair = fleet.apply()
    assert set(repair.states().values()) == {"confirmed"}, repair.hosts
    assert set(closed(fleet).values()) == {"filtered"}
    assert {device: fleet.foreign(device) for device in DEVICES} == foreign
