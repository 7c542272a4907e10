"""A device is told once whom to believe. From then on it needs no controller."""

from __future__ import annotations

import time

import pytest

from tests.pull_site import DEVICE, SERVER, PullSite
from tests.updates_site import Run

TABLES = "nft list tables"


@pytest.fixture(scope="module")
def told(site: PullSite) -> dict[str, Run]:
    site.begin()
    predicted = site.told("--check", "--diff", every=10)
    done = site.told(every=10)
    assert done.status == 0, done.output[-4000:]
    return {"predicted": predicted, "done": done, "again": site.told(every=10)}


def test_check_mode_predicts_the_first_run_and_the_second_changes_nothing(told: dict[str, Run]) -> None:
    predicted, done, again = (told[key].of[DEVICE] for key in ("predicted", "done", "again"))
    assert (predicted["state"], done["state"], again["state"]) == ("would_change", "confirmed", "unchanged")
    assert predicted["files"] == done["files"] and again["exchanges"] == 1
    assert "PRIVATE KEY" not in "".join(run.output for run in told.values())


def test_who_asks_the_server_can_do_nothing_else(site: PullSite, told: dict[str, Run]) -> None:
    """Another program in its place tries what it may."""
    program = "/usr/local/lib/sallyport/updates/pull/fetch.sh"
    tries = (
        "id -un; cat /etc/shadow || echo shadow is closed; ls /var/lib/sallyport || echo generations are closed; "
        "touch /var/lib/sallyport-updates/status || echo status is closed; touch /usr/x || echo system is closed; "
        "ls /var/lib/sallyport-updates/pull/given; touch /var/lib/sallyport-updates/pull/incoming/mine && echo its folder is open || echo its folder is closed"
    )
    site.sh(DEVICE, "systemctl stop sallyport-update.timer")
    said = site.turn_once()  # there is no repository yet
    assert said["result"] == "unreachable" and said["unreachable"], said
    site.sh(DEVICE, f"mv {program} /root/fetch.sh")
    site.sh(DEVICE, f"printf '%s\\n' '#!/bin/sh' '{tries}' >{program}")
    try:
        site.sh(DEVICE, "systemctl start sallyport-pull@fetch.service")
        # The journal may be behind what it is told.
        journal = "journalctl -q -o cat -u sallyport-pull@fetch.service"
        site.wait(lambda: "its folder is" in site.sh(DEVICE, journal), 300, lambda: site.sh(DEVICE, journal))
        said = site.sh(DEVICE, journal)
    finally:
        site.sh(DEVICE, f"mv /root/fetch.sh {program}; systemctl start sallyport-update.timer")
    for line in (
        "sallyport-pull",
        "shadow is closed",
        "generations are closed",
        "status is closed",
        "system is closed",
    ):
        assert line in said.splitlines(), said
    assert "its folder is open" in said and "known_hosts" in said, said


def test_a_signed_revision_is_applied_by_the_devices_own_timer_with_the_controller_switched_off(
    site: PullSite, told: dict[str, Run]
) -> None:
    assert site.controller_reaches_the_device()
    site.switch_off_the_controller()
    assert not site.controller_reaches_the_device()
    assert "sallyport" not in site.sh(DEVICE, TABLES)
    revision = site.revision("hardened")
    begun = time.monotonic()
    site.wait(
        lambda: any(
            line.startswith(f"revision {revision} ") for line in site.status(DEVICE).get("installed", [])
        ),
        300,
        lambda: site.status(DEVICE),
    )
    print(f"published to applied: {time.monotonic() - begun:.1f} s, every 10 s")
    assert "sallyport" in site.sh(DEVICE, TABLES)
    assert "passwordauthentication no" in site.sh(DEVICE, "sshd -T")
    assert not site.controller_reaches_the_device()


def test_a_run_that_finds_nothing_changes_nothing(site: PullSite) -> None:
    site.sh(DEVICE, "systemctl stop sallyport-update.timer")
    site.wait(
        lambda: "activating" not in site.sh(DEVICE, "systemctl is-active sallyport-update.service || :"),
        300,
        lambda: site.status(DEVICE),
    )
    before = site.generations()
    said = site.turn_once()
    assert said["result"] == "ok" and said["message"] == "nothing to install", said
    assert site.generations() == before


def test_drift_is_mended_with_the_controller_switched_off(site: PullSite) -> None:
    site.sh(DEVICE, "nft flush ruleset; rm -f /etc/ssh/sshd_config.d/*sallyport*; systemctl reload ssh")
    assert "sallyport" not in site.sh(DEVICE, TABLES)
    said = site.turn_once()
    assert said["result"] == "ok" and any(line.startswith("drift ") for line in said["installed"]), said
    assert "sallyport" in site.sh(DEVICE, TABLES) and "passwordauthentication no" in site.sh(
        DEVICE, "sshd -T"
    )


def test_drift_is_mended_while_the_repository_does_not_answer_either(site: PullSite) -> None:
    site.sh(SERVER, "systemctl stop ssh.socket ssh.service 2>/dev/null || systemctl stop ssh.service")
    try:
        site.sh(DEVICE, "nft flush ruleset")
        said = site.turn_once()
        assert said["result"] == "unreachable" and said["unreachable"], said
        assert "sallyport" in site.sh(DEVICE, TABLES)
    finally:
        site.sh(SERVER, "systemctl start ssh.service")


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ("unsigned", "signature"),
        ("wrongly signed", "signature"),
        ("tampered", "signature"),
        ("older", "downgrade"),
    ],
)
def test_a_revision_that_is_not_to_be_believed_is_refused_and_reported(
    site: PullSite, how: str, kind: str
) -> None:
    """Each would open the device to everybody, if it were applied."""
    good = site.git("rev-parse", "HEAD")
    before = site.generations()
    (site.tree / "inventory/policy/open.yml").write_text("defaults: {inbound: allow}\n", encoding="utf-8")
    if how == "older":
        site.push("HEAD^")
    elif how == "tampered":
        site.commit("tampered")
        text = site.git("cat-file", "commit", "HEAD") + "\n"
        (site.work / "commit").write_text(text.replace("\n\ntampered", "\n\nTampered"), encoding="utf-8")
        site.push(site.git("hash-object", "-t", "commit", "-w", str(site.work / "commit")))
    else:
        site.revision(how, by=None if how == "unsigned" else "mallory")
    site.git("reset", "--quiet", "--hard", good)
    site.git("clean", "-fdq")
    said = site.turn_once()
    site.push()
    assert said["result"] == "refused" and [line.split()[0] for line in said["refused"]] == [kind], said
    assert site.generations() == before
