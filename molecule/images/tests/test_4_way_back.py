"""What the role brought goes again, and what the device runs stays."""

from __future__ import annotations

from conftest import DEVICES

from tests.images_site import Images


def test_the_way_back_leaves_nothing_and_keeps_the_slot_that_runs(site: Images) -> None:
    before = {device: (site.slot(device), site.version_of(device)) for device in DEVICES}
    done = site.play(
        "playbooks/rollback.yml", "sallyport.iot.rollback", "--limit", ",".join(DEVICES), to="factory"
    )
    assert done.status == 0, done.output[-4000:]
    for device in DEVICES:
        assert site.version(device, "swupdate") == ""
        left = site.sh(
            device,
            "ls -d /etc/swupdate* /etc/hwrevision /usr/local/lib/sallyport/updates/* /var/lib/sallyport-updates "
            "/etc/systemd/system/swupdate* /etc/systemd/system/sallyport-* 2>/dev/null || :",
        )
        assert left == "", left
        assert (site.slot(device), site.version_of(device)) == before[device]
        env = site.env(device)
        assert (env["slot"], env["upgrade_available"]) == (before[device][0], "0")
