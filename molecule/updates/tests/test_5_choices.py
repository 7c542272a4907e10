"""Devices that are taken out, postponed, pinned, blocked, out of their window or told to wait stay where they are."""

from __future__ import annotations

import datetime
import time
from typing import Any

import pytest

from lab.podman import podman
from tests.updates_site import SERVER, Site, shown

FAR = "2099-01-31"


def window(site: Site, device: str, hours: int) -> str:
    """A window of an hour that begins so many hours from the device's own now."""
    at = datetime.datetime.strptime(site.sh(device, "date +%H:%M").strip(), "%H:%M")
    begin = at + datetime.timedelta(hours=hours, minutes=-5)
    return f"{begin:%H:%M}-{begin + datetime.timedelta(hours=1):%H:%M}"


def test_who_is_out_told_or_postponed_stays_and_says_so(site: Site) -> None:
    before = site.versions("panel")
    site.publish(site.build("panel", "7.0"))
    done = site.applied(
        per={
            "debian11": {"mode": "manual", "reason": "certified as it is"},
            "debian12": {"mode": "postponed", "until": FAR},
            "debian13": {"mode": "notify"},
        }
    )
    assert done.of["debian11"]["mode"] == "manual"
    assert site.sh("debian11", "systemctl is-active sallyport-update.timer || :").strip() == "inactive"
    assert "REASON='certified as it is'" in site.sh(
        "debian11", "cat /usr/local/lib/sallyport/updates/settings"
    )
    said = site.turn()
    for device, word in (("debian12", "postponed"), ("debian13", "only tells"), ("debian11", "only tells")):
        assert said[device]["result"] == "ok" and word in said[device]["message"], said[device]
        assert any(
            line.startswith(f"panel {before[device]} 7.0 update ") for line in said[device]["pending"]
        ), said[device]
    assert site.versions("panel") == before


def test_who_is_pinned_blocked_or_out_of_the_window_stays(site: Site) -> None:
    before = site.versions("panel")
    site.applied(
        per={
            "debian11": {"pins": [{"package": "panel", "version": before["debian11"]}]},
            "debian12": {"blocked": ["panel"]},
            "debian13": {"window": window(site, "debian13", 3)},
        }
    )
    said = site.turn()
    assert said["debian11"]["result"] == said["debian12"]["result"] == "ok", shown(said)
    assert any(" other " in line for line in said["debian12"]["pending"]), shown(said["debian12"])
    assert said["debian13"]["result"] == "waiting" and "window" in said["debian13"]["message"], shown(
        said["debian13"]
    )
    assert site.versions("panel") == before


@pytest.fixture(scope="module")
def rebooting(site: Site) -> dict[str, Any]:
    """Version 8 needs a reboot. What `reboot` would do is written down instead."""
    shim = "printf '#!/bin/sh\\necho once >>/root/rebooted\\n' >/usr/local/sbin/reboot; chmod 755 /usr/local/sbin/reboot"
    site.all(lambda device: site.sh(device, shim))
    site.publish(site.build("panel", "8.0", postinst="touch /run/reboot-required"))
    far = window(site, "debian13", 3)
    site.applied(
        per={
            "debian11": {"delay_days": 1, "reboot": "window"},
            "debian12": {"reboot": "window", "reboot_window": window(site, "debian12", 0)},
            "debian13": {"reboot": "window", "reboot_window": far},
        }
    )
    return {"said": site.turn(), "far": far}


def test_a_version_that_is_too_young_waits(site: Site, rebooting: dict[str, Any]) -> None:
    said = rebooting["said"]["debian11"]
    assert said["result"] == "ok" and "panel 8.0 is younger than the delay" in said["waiting"], shown(said)
    assert site.version("debian11", "panel") != "8.0"


def rebooted(site: Site, device: str) -> int:
    return site.sh(device, "cat /root/rebooted 2>/dev/null || :").count("once")


def test_a_reboot_happens_in_its_window_and_only_there(site: Site, rebooting: dict[str, Any]) -> None:
    for device in ("debian12", "debian13"):
        assert site.version(device, "panel") == "8.0", shown(rebooting["said"][device])
        assert rebooting["said"][device]["reboot"] == ["needed"]
    assert [rebooted(site, device) for device in ("debian11", "debian12", "debian13")] == [0, 1, 0]
    # Its timer waits for the window, and the program refuses outside of it whoever calls.
    begin = rebooting["far"][:5]
    when = site.sh("debian13", "systemctl show -P NextElapseUSecRealtime sallyport-reboot.timer")
    minute = int(begin[:2]) * 60 + int(begin[3:])
    at = [int(part) for part in when.split()[2].split(":")[:2]]
    assert 0 <= (at[0] * 60 + at[1] - minute) % 1440 <= 6, (when, begin)
    site.sh("debian13", "systemctl start sallyport-reboot.service")
    assert rebooted(site, "debian13") == 0
    site.sh("debian12", "systemctl start sallyport-reboot.service")
    assert rebooted(site, "debian12") == 2
    proxy = f"{site.uri.rstrip('/').replace('://', '://site:Very-Secret-9@')}:9"
    done = site.applied(
        per={"debian11": {"reboot": "window"}, "debian12": {"reboot": "never"}, "debian13": {"proxy": proxy}}
    )
    assert "Very-Secret-9" not in done.output
    site.sh("debian12", "/bin/sh /usr/local/lib/sallyport/updates/run.sh reboot")
    assert rebooted(site, "debian12") == 2


def test_a_device_that_really_reboots_comes_back_without_the_need_and_does_it_once(
    site: Site, rebooting: dict[str, Any]
) -> None:
    device = "debian11"
    container = site.lab.container(device)

    def started() -> str:
        return podman(
            "exec", container, "systemctl", "show", "-P", "UserspaceTimestampMonotonic", check=False
        ).strip()

    before = started()
    site.sh(device, "rm /usr/local/sbin/reboot; systemctl start --no-block sallyport-update.service")
    site.wait(lambda: started() not in ("", before), 300, lambda: site.status(device))
    after = started()
    assert site.version(device, "panel") == "8.0" and site.status(device)["reboot"] == ["needed"]
    (said,) = site.turn(device).values()
    assert said["result"] == "ok" and "reboot" not in said, shown(said)
    site.sh(device, "systemctl start sallyport-reboot.service")
    assert started() == after


def test_a_proxy_is_used_and_its_password_is_nobodys_to_read(site: Site, rebooting: dict[str, Any]) -> None:
    """Nobody answers there, so nothing arrives past it."""
    config = "/etc/apt/apt.conf.d/zzz-sallyport-updates"
    assert site.sh("debian13", f"stat -c %a {config}; grep -c Very-Secret-9 {config}") == "600\n2\n"
    checked = site.status("debian13")["checked"]
    (said,) = site.turn("debian13").values()
    assert any(":9" in line for line in said["unreachable"]), shown(said)
    assert said["checked"] == checked and "Very-Secret-9" not in "".join(said["unreachable"])


def test_a_ring_of_a_public_mirror_is_an_error_that_says_so(site: Site) -> None:
    key = site.key.read_text(encoding="utf-8")
    done = site.agent(repository={"uri": "http://deb.debian.org/debian", "key": key})
    assert done.status == 2
    for result in done.of.values():
        assert result["state"] == "refused" and "public mirror, which has no rings" in result["msg"], result


def test_what_a_device_says_is_read_as_evidence(site: Site) -> None:
    done = site.play(
        "playbooks/promote.yml", "sallyport.iot.update_status", ring="ring0", to="ring1", soak=86400
    )
    record = done.of["debian12"]["updates"]
    assert (
        record["agent"] == "unattended-upgrades" and record["ring"] == "ring0" and record["timer"] == "active"
    )
    assert record["checked"] and record["succeeded"] and record["reboot_needed"]
    assert SERVER not in done.of


def test_the_way_back_leaves_nothing_and_brings_the_sources_again(site: Site) -> None:
    before = time.monotonic()
    done = site.play(
        "playbooks/rollback.yml", "sallyport.iot.rollback", "--limit", "debian12,debian13", to="factory"
    )
    assert done.status == 0, done.output[-4000:]
    for device in ("debian12", "debian13"):
        left = "ls -d /usr/local/lib/sallyport /var/lib/sallyport* /etc/apt/*/*sallyport* /etc/systemd/system/*sallyport* 2>/dev/null || :"
        assert site.sh(device, left) == ""
        assert site.sh(device, "systemctl list-timers --all --no-legend 'sallyport*'") == ""
    # What the role brought went with it.
    assert site.version("debian12", "unattended-upgrades") == ""
    assert (
        site.sh("debian13", "cat /etc/apt/sources.list.d/vendor.list")
        == "deb [trusted=yes] http://192.0.2.1/ anything main\n"
    )
    print(f"way back: {time.monotonic() - before:.1f} s")
