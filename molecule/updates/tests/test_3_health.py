"""An update that harms a device goes back where the operator said so, is held elsewhere, and stops its ring."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.updates_site import DEVICES, SERVER, Site, shown

LISTED = ("debian11", "debian12")
UNIT = """[Unit]
Description=The site's own service
[Service]
ExecStart={command}
[Install]
WantedBy=multi-user.target
"""
START = "systemctl daemon-reload; systemctl enable -q pump; systemctl restart pump || :"
GOOD, BAD = UNIT.format(command="/bin/sleep infinity"), UNIT.format(command="/bin/false")


def gauge(site: Site, version: str) -> Path:
    return site.build("gauge", version, depends=f"pump (= {version})")


@pytest.fixture(scope="module")
def harmed(site: Site) -> dict[str, dict[str, object]]:
    """Version 2 of a service does not start. Another package needs the service in the very version of its own."""
    for version, unit in (("1.0", GOOD), ("2.0", BAD)):
        files = [site.build("pump", version, unit=unit, postinst=START), gauge(site, version)]
        if version == "1.0":
            site.install(*files)
        site.publish(*files)
    # Once more, as after an upload that was cut: what was before stays what was before.
    site.publish(*files)
    assert (
        site.sh(SERVER, "sallyport-repository list ring0-previous | grep -E '^(gauge|pump) '")
        == "gauge 1.0\npump 1.0\n"
    )
    done = site.applied(per={device: {"rollback": ["gauge", "pump"]} for device in LISTED})
    assert all(one["state"] == "confirmed" for device, one in done.of.items() if device in LISTED)
    return site.turn()


def test_where_it_is_listed_it_goes_back_and_runs_again(
    site: Site, harmed: dict[str, dict[str, object]]
) -> None:
    for device in LISTED:
        said = harmed[device]
        assert said["result"] == "rolled_back" and "pump.service" in str(said["message"]), shown(said)
        assert sorted(said["back"]) == ["gauge", "pump"], shown(said)
        assert site.version(device, "pump") == site.version(device, "gauge") == "1.0"
        assert site.sh(device, "systemctl is-active pump").strip() == "active"


def test_elsewhere_it_is_held_and_the_device_says_that_it_is_not_well(
    site: Site, harmed: dict[str, dict[str, object]]
) -> None:
    said = harmed["debian13"]
    assert said["result"] == "unhealthy", shown(said)
    assert sorted(str(said["message"]).partition("held:")[2].split()) == ["gauge", "pump"], shown(said)
    assert site.version("debian13", "pump") == site.version("debian13", "gauge") == "2.0"


def test_what_harmed_a_device_is_not_tried_there_again(
    site: Site, harmed: dict[str, dict[str, object]]
) -> None:
    again = site.turn()
    for device in LISTED:
        assert again[device]["result"] == "ok" and site.version(device, "pump") == "1.0", shown(again[device])
        assert any(line.startswith("pump 2.0 ") for line in again[device]["held"]), shown(again[device])


def test_a_device_that_is_not_well_installs_nothing_else(
    site: Site, harmed: dict[str, dict[str, object]]
) -> None:
    site.sh("debian13", "systemctl reset-failed pump || :")
    site.applied(
        per={
            **{device: {"rollback": ["gauge", "pump"]} for device in LISTED},
            "debian13": {"health": ["systemctl -q is-active pump"]},
        }
    )
    site.publish(site.build("panel", "6.0"))
    said = site.turn()
    assert said["debian13"]["result"] == "unhealthy", shown(said["debian13"])
    assert "update_agent_health[0] failed" in said["debian13"]["message"], shown(said["debian13"])
    assert site.versions("panel") == {"debian11": "6.0", "debian12": "6.0", "debian13": "4.0"}


def test_the_ring_stops_and_the_next_one_is_not_offered_it(
    site: Site, harmed: dict[str, dict[str, object]]
) -> None:
    done = site.promote()
    assert done.status == 2, done.output[-3000:]
    result = done.of[SERVER]
    assert "pump=2.0" in result["stopped"] and "3 of 3 devices failed" in result["stopped"]["pump=2.0"], (
        result
    )
    assert "the ring ring0 stops" in result["msg"]
    assert "pump" not in site.sh(SERVER, "sallyport-repository list ring1")


def test_a_version_that_mends_it_is_taken_by_sick_and_well(
    site: Site, harmed: dict[str, dict[str, object]]
) -> None:
    site.publish(site.build("pump", "3.0", unit=GOOD, postinst=START), gauge(site, "3.0"))
    for device, said in site.turn().items():
        assert said["result"] == "ok" and "held" not in said, shown({device: said})
    assert site.versions("pump") == site.versions("gauge") == dict.fromkeys(DEVICES, "3.0")


def test_what_has_proved_itself_moves_on_as_that_very_version(
    site: Site, harmed: dict[str, dict[str, object]]
) -> None:
    site.turn()
    early = site.promote(soak=86400)
    assert early.status == 0 and "pump=3.0" in early.of[SERVER]["waiting"], early.output[-3000:]
    predicted = site.promote("--check")
    assert "pump=3.0" in predicted.of[SERVER]["moved"]
    assert "pump" not in site.sh(SERVER, "sallyport-repository list ring1")
    done = site.promote()
    assert done.status == 0 and {"pump=3.0", "panel=6.0"} <= set(done.of[SERVER]["moved"]), done.output[
        -3000:
    ]
    assert "pump 3.0\n" in site.sh(SERVER, "sallyport-repository list ring1")
    again = site.promote()
    assert again.status == 0 and not again.of[SERVER]["changed"]
    wrong = site.promote(ring="rign0")
    assert wrong.status == 2 and "there is no suite rign0" in wrong.of[SERVER]["msg"], wrong.output[-3000:]


def test_what_was_published_by_mistake_is_withdrawn(site: Site, harmed: dict[str, dict[str, object]]) -> None:
    older = site.build("pump", "2.5", unit=GOOD)
    with pytest.raises(AssertionError, match=r"ring0 offers a newer one than pump 2\.5"):
        site.publish(older)
    site.sh(SERVER, "sallyport-repository withdraw ring0 pump")
    assert "pump 2.0\n" in site.sh(SERVER, "sallyport-repository list ring0")
    site.publish(site.work / "pump_3.0_all.deb")
