"""SWUpdate: set up by the role, polled for by the devices' own timers, and one image that goes in once."""

from __future__ import annotations

import pytest
from conftest import DEVICES

from tests.images_site import Images
from tests.updates_site import Run, shown

FIRST = "slots12"


@pytest.fixture(scope="module")
def told(site: Images) -> dict[str, Run]:
    for device in DEVICES:
        site.local_packages(device)
    predicted = site.swupdate("--check", "--diff", every=10)
    done = site.swupdate("--diff", every=10)
    return {"predicted": predicted, "done": done, "again": site.swupdate(every=10)}


@pytest.mark.parametrize("device", DEVICES)
def test_check_mode_predicts_the_first_run_and_the_second_changes_nothing(
    site: Images, told: dict[str, Run], device: str
) -> None:
    predicted, done, again = (told[key].of.get(device, {}) for key in ("predicted", "done", "again"))
    assert predicted.get("state") == "would_change", told["predicted"].output[-4000:]
    assert done.get("state") == "confirmed", told["done"].output[-4000:]
    assert again.get("state") == "unchanged" and again["exchanges"] == 1, told["again"].output[-4000:]
    assert predicted["files"] == done["files"]
    assert "swupdate is installed from the device's sources" in " ".join(done["notes"])
    assert site.tokens[device] not in told["predicted"].output + told["done"].output
    assert (
        site.sh(device, "stat -c '%a %U' /etc/swupdate.cfg /etc/swupdate/sallyport.curl").split()
        == ["600", "root"] * 2
    )


def test_a_signed_image_arrives_by_the_devices_own_timers_and_is_confirmed(
    site: Images, told: dict[str, Run]
) -> None:
    before = {device: site.start(device) for device in DEVICES}
    for device in DEVICES:
        site.offer(device, "2.0", site.image("2.0"))
    for device in DEVICES:
        site.wait(
            lambda device=device: not site.open(device), 120, lambda device=device: shown(site.status(device))
        )  # type: ignore[misc]
        assert site.start(device) != before[device] and site.slot(device) == "b"
        assert site.version_of(device) == "2.0" and site.closed(device) == "success"
        env = site.env(device)
        assert (env["slot"], env["upgrade_available"]) == ("b", "0"), env


def test_it_goes_in_once_however_often_they_ask(site: Images, told: dict[str, Run]) -> None:
    asked = {device: len(site.asked(device)) for device in DEVICES}
    for _ in range(4):
        site.turn(*DEVICES)
    for device in DEVICES:
        assert len(site.asked(device)) >= asked[device] + 4
        assert site.installations(device) == ["2.0"] and site.downloads(device) == 1
        said = site.status(device)
        assert (
            said["result"] == "ok"
            and said["installed"][0].startswith("panel-os 2.0 ")
            and "pending" not in said
        )


def test_the_new_slot_has_what_this_role_set_up(site: Images, told: dict[str, Run]) -> None:
    """A slot that is started without it would never be confirmed."""
    for device in DEVICES:
        for path in ("/usr/local/lib/sallyport/updates/run.sh", "/etc/swupdate.cfg", "/etc/hwrevision"):
            assert site.sh(device, f"cmp {path} /slots/b{path} && stat -c %a {path}") == site.sh(
                device, f"stat -c %a /slots/b{path}"
            )
        assert site.sh(device, "readlink /slots/b/etc/systemd/system/swupdate.socket") == "/dev/null\n"
        # To its operators it is the device that it was.
        site.sh(
            device, 'set -- /etc/ssh/ssh_host_*_key; [ -f "$1" ]; for key; do cmp "$key" "/slots/b$key"; done'
        )


def test_nothing_of_swupdate_runs_between_its_turns(site: Images, told: dict[str, Run]) -> None:
    site.still(DEVICES)
    again = site.swupdate()
    assert again.status == 0 and again.of[DEVICES[0]]["state"] != "refused", again.output[-3000:]
    for device in DEVICES:
        site.idle(device)
        assert site.sh(device, "cat /proc/[0-9]*/comm 2>/dev/null | grep -c swupdate || :").strip() == "0"
        assert site.tokens[device] not in site.sh(
            device, "cat /var/lib/sallyport-updates/* /proc/[0-9]*/cmdline 2>/dev/null || :"
        )


def test_the_audit_says_what_is_there(site: Images, told: dict[str, Run]) -> None:
    findings, line = site.judged(DEVICES[0])
    assert findings == {}
    assert line.startswith("swupdate, automatic: ") and "; last success 0 min ago; pending none" in line, line


def test_a_build_that_takes_what_nobody_signed_is_not_left_in_charge(
    site: Images, told: dict[str, Run]
) -> None:
    """The role asks the very program that would install: one of ours in its place takes everything."""
    device = DEVICES[0]
    site.sh(
        device,
        "mv /usr/bin/swupdate /root/real && printf '#!/bin/sh\\nexit 0\\n' >/usr/bin/swupdate && chmod 755 /usr/bin/swupdate",
    )
    done = site.swupdate(devices=(device,), jitter=1)
    site.sh(device, "mv -f /root/real /usr/bin/swupdate")
    assert done.status == 2 and done.of[device]["state"] == "reverted", done.output[-3000:]
    assert "this build of SWUpdate does not ask for signatures" in done.of[device]["msg"], done.of[device]
    assert "RandomizedDelaySec=0" in site.sh(device, "cat /etc/systemd/system/sallyport-update.timer")
