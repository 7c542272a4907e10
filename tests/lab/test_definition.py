"""The lab's definition, without starting anything."""

from __future__ import annotations

import dataclasses
import ipaddress
import itertools

import pytest

from lab import fleet, images


def test_no_two_labs_and_no_two_devices_share_an_address() -> None:
    definition = fleet.load()
    seen: dict[str, tuple[int, str]] = {}
    devices = [device for device in definition.devices.values() if not device.in_place_of]
    for slot, device in itertools.product(range(fleet.SLOTS), devices):
        for network in device.networks:
            for address in fleet.addresses(network, slot, device.number):
                assert seen.setdefault(address, (slot, device.name)) == (slot, device.name), address


def test_every_address_lies_in_the_ranges_that_the_labs_policy_names() -> None:
    ranges = {
        "lan": [ipaddress.ip_network("198.51.100.0/25"), ipaddress.ip_network("fd00:db8:1::/48")],
        "wan": [ipaddress.ip_network("198.51.100.128/25"), ipaddress.ip_network("fd00:db8:2::/48")],
    }
    for network, slot, number in itertools.product(fleet.NETWORKS, range(fleet.SLOTS), (1, 14)):
        for address in map(ipaddress.ip_address, fleet.addresses(network, slot, number)):
            assert any(address in wide for wide in ranges[network] if wide.version == address.version), (
                address
            )


def test_variants_start_only_when_named_and_vantage_points_always() -> None:
    definition = fleet.load()
    standard = {device.name for device in definition.choose([])}
    assert {"debian11", "debian12", "debian13", "vendor", "vantage-lan", "vantage-wan"} == standard
    assert {device.name for device in definition.choose(["vendor"])} == {
        "vendor",
        "vantage-lan",
        "vantage-wan",
    }


def test_a_device_and_the_one_it_takes_the_place_of_are_refused_together() -> None:
    with pytest.raises(fleet.LabError, match="tls11 and debian11"):
        fleet.load().choose(["debian11", "tls11"])


def test_an_unknown_device_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(fleet.LabError, match=r"no device is called debian9; lab/fleet\.toml has debian11, "):
        fleet.load().choose(["debian9"])


@pytest.mark.parametrize("prefix", ["", "two-words", "Upper", "9lives", "a" * 16, "a b", "x;y"])
def test_a_prefix_that_could_touch_another_lab_or_a_shell_is_refused(prefix: str) -> None:
    with pytest.raises(fleet.LabError, match="prefix"):
        fleet.check_prefix(prefix)


def test_an_images_name_changes_with_its_packages_and_its_passwords() -> None:
    definition = fleet.load()
    image = definition.images["debian12"]
    names = {
        images.reference(definition, image),
        images.reference(definition, dataclasses.replace(image, packages=(*image.packages, "tmux"))),
        images.reference(definition, dataclasses.replace(image, accounts={"root": "other"})),
    }
    assert len(names) == 3
