"""A repository is made, devices are told of it, and what is published there arrives by their own timers."""

from __future__ import annotations

import time

import pytest

from tests.updates_site import DEVICES, SERVER, Run, Site


@pytest.fixture(scope="module")
def made(site: Site) -> Run:
    done = site.play("playbooks/repository.yml", "ansible.builtin.command")
    assert done.status == 0, done.output[-4000:]
    return done


@pytest.fixture(scope="module")
def told(site: Site, made: Run) -> dict[str, Run]:
    """debian12 comes without the agent, and debian13 with a source that lets anything in."""
    site.sh(
        "debian12",
        "DEBIAN_FRONTEND=noninteractive apt-get -q -y purge unattended-upgrades; systemctl daemon-reload",
    )
    site.sh(
        "debian13",
        "echo 'deb [trusted=yes] http://192.0.2.1/ anything main' >/etc/apt/sources.list.d/vendor.list",
    )
    site.sh(SERVER, "sallyport-repository publish ring0 /extra/unattended-upgrades_*.deb")
    site.install(site.build("panel", "1.0"))
    site.publish(site.work / "panel_1.0_all.deb")
    predicted = site.agent("--check", "--diff", every=10)
    done = site.applied(every=10)
    return {"predicted": predicted, "done": done, "again": site.applied(every=10)}


def test_a_repository_that_is_made_again_changes_nothing(site: Site, made: Run) -> None:
    again = site.play("playbooks/repository.yml", "ansible.builtin.command")
    assert again.status == 0 and "changed=0" in again.output, again.output[-3000:]


def test_only_signed_indexes_and_packages_are_served(site: Site, made: Run) -> None:
    served = site.sh(SERVER, "cd /srv/sallyport-repository/public && find . -type f | sed 's|^./||'")
    assert "dists/ring0/InRelease" in served and "sallyport.asc" in served
    assert "gnupg" not in served and "conf" not in served
    assert site.key.read_text(encoding="utf-8").startswith("-----BEGIN PGP PUBLIC KEY BLOCK-----")
    assert site.sh(SERVER, "stat -c %a /srv/sallyport-repository/gnupg").strip() == "700"


@pytest.mark.parametrize("device", DEVICES)
def test_check_mode_predicts_the_first_run_and_the_second_changes_nothing(
    told: dict[str, Run], device: str
) -> None:
    predicted, done, again = (told[key].of[device] for key in ("predicted", "done", "again"))
    assert (predicted["state"], done["state"], again["state"]) == ("would_change", "confirmed", "unchanged")
    assert predicted["files"] == done["files"]
    assert not again["changed"] and again["exchanges"] == 1


def test_an_agent_that_was_missing_is_installed_from_the_sites_own_repository(
    site: Site, told: dict[str, Run]
) -> None:
    assert (
        "unattended-upgrades is installed from the device's sources" in told["done"].of["debian12"]["notes"]
    )
    assert site.version("debian12", "unattended-upgrades")


def test_a_source_that_lets_anything_in_is_mended_and_named(site: Site, told: dict[str, Run]) -> None:
    notes = told["done"].of["debian13"]["notes"]
    assert (
        "/etc/apt/sources.list.d/vendor.list:1: trusted=yes lets in what nobody has signed, or signed long ago"
        in notes
    )
    text = site.sh("debian13", "cat /etc/apt/sources.list.d/vendor.list")
    assert text == "# Sallyport: deb http://192.0.2.1/ anything main\n"


def test_what_is_published_arrives_by_the_devices_own_timers(site: Site, told: dict[str, Run]) -> None:
    site.publish(site.build("panel", "2.0"))
    begun = time.monotonic()
    wanted = dict.fromkeys(DEVICES, "2.0")
    site.wait(lambda: site.versions("panel") == wanted, 300, lambda: {d: site.status(d) for d in DEVICES})
    print(f"published to installed on {len(DEVICES)} devices: {time.monotonic() - begun:.1f} s, every 10 s")
    for device in DEVICES:
        site.wait(
            lambda device=device: any(  # type: ignore[misc]
                line.startswith("panel 2.0 ") for line in site.status(device).get("installed", [])
            ),
            300,
            lambda device=device: site.status(device),  # type: ignore[misc]
        )
        assert site.sh(device, "cat /usr/share/panel/version") == "2.0\n"


def test_the_way_back_of_a_version_is_kept_beside_the_ring(site: Site, told: dict[str, Run]) -> None:
    assert "panel 1.0\n" in site.sh(SERVER, "sallyport-repository list ring0-previous")


def test_from_now_on_the_tests_start_the_runs(site: Site, told: dict[str, Run]) -> None:
    """However long they take: the timers wait for another century."""
    for device in DEVICES:
        site.sh(
            device,
            "mkdir -p /usr/lib/systemd/system/sallyport-update.timer.d && cd /usr/lib/systemd/system/sallyport-update.timer.d && "
            "printf '[Timer]\\nOnActiveSec=\\nOnCalendar=2099-01-01\\n' >test.conf",
        )
    site.applied()
    busy = "systemctl is-active sallyport-update.service || :"
    for device in DEVICES:
        site.wait(
            lambda device=device: "activating" not in site.sh(device, busy), 300, lambda device=device: device
        )
