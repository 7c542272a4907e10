"""A new slot is tried: it is confirmed, or the old one comes back; by the device's own judgement, or by the bootloader's."""

from __future__ import annotations

from conftest import DEVICES

from tests.images_site import DEAD, Images
from tests.updates_site import shown

ONE, TWO = DEVICES


def test_a_mode_and_a_window_hold_it_back(site: Images) -> None:
    for device in DEVICES:
        site.offer(device, "3.0", site.image("3.0"))
    downloads = {device: site.downloads(device) for device in DEVICES}
    hour = int(site.sh(TWO, "date +%H"))
    closed = f"{(hour + 3) % 24:02d}:00-{(hour + 4) % 24:02d}:00"
    done = site.swupdate(each={ONE: {"mode": "notify"}, TWO: {"window": closed}})
    assert done.status == 0, done.output[-3000:]
    said = site.turn(*DEVICES)
    assert said[ONE]["result"] == "ok" and "only tells" in said[ONE]["message"], shown(said)
    assert said[TWO]["result"] == "waiting" and "window" in said[TWO]["message"], shown(said)
    assert all(one["pending"][0].startswith("panel-os 2.0 3.0 update ") for one in said.values()), shown(said)
    findings, line = site.judged(ONE)
    assert "not automatic (notify)" in findings["opted_out"]
    assert "pending panel-os 2.0 to 3.0 (update, " in line, line
    assert downloads == {device: site.downloads(device) for device in DEVICES}


def test_it_is_installed_and_waits_for_a_restart_where_none_may_happen(site: Images) -> None:
    done = site.swupdate(reboot="never")
    assert done.status == 0, done.output[-3000:]
    before = {device: site.start(device) for device in DEVICES}
    for _ in (1, 2):
        for device, said in site.turn(*DEVICES).items():
            assert (
                said["result"] == "waiting"
                and "once the device has started with it: panel-os 3.0" in said["message"]
            )
            assert said["reboot"] == ["needed"] and site.start(device) == before[device], shown(said)
            assert site.env(device)["slot"] == "a" and site.slot(device) == "b" and site.open(device)
            # A refusal is past once something better has gone in.
            assert "refused" not in said, shown(said)
    for device in DEVICES:
        assert site.installations(device) == ["2.0", "3.0"]
    # What another role sets up while it waits goes along too, or the new slot would be as open as its vendor made it.
    done = site.play("tests/lab/playbooks/access.yml", "sallyport.iot.ssh", "--tags", "ssh", "--limit", ONE)
    assert done.status == 0 and done.of[ONE]["state"] == "confirmed", done.output[-3000:]
    closed = [one["dest"] for one in done.of[ONE]["files"] if one["change"] != "removed"]
    assert (
        closed and site.sh(ONE, f"ls {' '.join(f'/slots/a{path}' for path in closed)} 2>/dev/null || :") == ""
    )
    site.turn(ONE)
    for path in closed:
        site.sh(ONE, f"cmp {path} /slots/a{path}")
    site.all(site.cut, DEVICES)
    for device, said in site.turn(*DEVICES).items():
        assert said["result"] == "ok" and said["installed"][0].startswith("panel-os 3.0 "), shown(said)
        assert (
            site.slot(device) == "a"
            and site.version_of(device) == "3.0"
            and site.env(device)["upgrade_available"] == "0"
        )
        assert site.closed(device) == "success" and not site.open(device)
    assert site.swupdate().status == 0


def test_an_image_that_harms_goes_back_and_does_not_come_again(site: Images) -> None:
    for device in DEVICES:
        site.offer(device, "4.0", site.image("4.0", DEAD))
    for device, said in site.tried(*DEVICES).items():
        assert (
            said["result"] == "waiting" and site.slot(device) == "b" and site.version_of(device) == "4.0"
        ), shown(said)
    for device, said in site.tried(*DEVICES).items():
        assert said["result"] == "rolled_back" and "panel.service" in said["message"], shown(said)
        assert site.slot(device) == "a" and site.version_of(device) == "3.0"
        assert site.sh(device, "systemctl is-active panel.service") == "active\n"
    for said in site.turn(*DEVICES).values():
        assert said["result"] == "rolled_back" and said["back"] == ["panel-os"], shown(said)
        assert said["held"][0].startswith("panel-os 4.0 ") and "installed" not in said
    for device, said in site.turn(*DEVICES).items():
        assert said["result"] == "ok" and site.closed(device) == "failure" and not site.open(device), shown(
            said
        )
    findings, line = site.judged(ONE)
    assert "panel-os 4.0 harmed this device and is held" in findings["held"] and "held panel-os 4.0" in line
    installed = {device: site.installations(device) for device in DEVICES}
    for device in DEVICES:
        site.offer(device, "4.0", site.image("4.0", DEAD))
    for device, said in site.turn(*DEVICES).items():
        assert (
            said["message"].startswith("nothing to install")
            and site.installations(device) == installed[device]
        )


def test_one_that_is_never_confirmed_is_left_by_the_bootloader(site: Images) -> None:
    """It starts again and again before anybody can judge it, as one that hangs does."""
    site.offer(ONE, "5.0", site.image("5.0"))
    # And the server says of the other one's image what it is not.
    site.offer(TWO, "5.1", site.image("5.1", says="5.0"))
    site.tried(*DEVICES)
    assert site.slot(ONE) == site.slot(TWO) == "b"
    for _ in (1, 2):
        site.cut(ONE)
    assert site.slot(ONE) == "a" and site.version_of(ONE) == "3.0"
    (said,) = site.turn(ONE).values()
    assert said["result"] == "rolled_back" and "it was not confirmed" in said["message"], shown(said)
    assert said["held"][-1].startswith("panel-os 5.0 "), shown(said)
    (said,) = site.tried(TWO).values()
    assert (
        said["result"] == "rolled_back" and "panel-os 5.0 has started, and 5.1 was meant" in said["message"]
    ), shown(said)
    assert site.slot(TWO) == "a" and site.version_of(TWO) == "3.0"
    for device, said in site.turn(*DEVICES).items():
        assert site.closed(device) == "failure", shown(said)


def test_a_power_cut_while_it_is_written_leaves_what_runs_and_it_comes_again(site: Images) -> None:
    for device in DEVICES:
        site.offer(device, "6.0", site.image("6.0"))
    # Half way: its server takes its time.
    site.slow(True)
    for device in DEVICES:
        site.sh(device, "systemctl start --no-block sallyport-update.service")
        site.wait(
            lambda device=device: site.held_up(device), 60, lambda device=device: shown(site.status(device))
        )  # type: ignore[misc]
    site.all(site.cut, DEVICES)
    site.slow(False)
    for device in DEVICES:
        assert site.slot(device) == "a" and site.version_of(device) == "3.0"
    site.tried(*DEVICES)
    for device, said in site.turn(*DEVICES).items():
        assert said["result"] == "ok" and site.version_of(device) == "6.0" and site.slot(device) == "b", (
            shown(said)
        )
        assert site.closed(device) == "success"


def test_what_the_server_takes_back_does_not_go_in(site: Images) -> None:
    downloads = {device: site.downloads(device) for device in DEVICES}
    for device in DEVICES:
        site.offer(device, "7.0", site.image("7.0"), cancel=True)
    for device, said in site.turn(*DEVICES).items():
        assert said["result"] == "ok" and not site.open(device) and "pending" not in said, shown(said)
        assert site.downloads(device) == downloads[device] and site.version_of(device) == "6.0"
