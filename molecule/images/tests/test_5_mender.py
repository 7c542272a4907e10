"""Mender's client on the same device, when SWUpdate has gone: from a server and without one, signed artefacts only, tried and confirmed or
taken back. The tests go on where the last one ended.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from lab.fleet import load
from lab.labs import Lab
from tests.images_site import DEAD, SOFTWARE
from tests.mender_artifact import archive
from tests.mender_site import DEVICE, FOLDER, PORT, WHERE, Artefacts
from tests.updates_site import Run, shown

FRESH = "/usr/lib/systemd/system/sallyport-update.timer.d"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Artefacts]:
    one = Artefacts(Lab(load(), os.environ["SALLYPORT_LAB"], print), tmp_path_factory.mktemp("mender"))
    one.local_packages(DEVICE)
    # As the image's: what runs says so, in its slot. The timers may start runs again.
    one.sh(
        DEVICE,
        f"rm -rf {FRESH} /data/artefacts; echo artifact_name={SOFTWARE}-1.0 >/system/etc/artifact_info",
    )
    one.serve()
    yield one
    one.stop()


@pytest.fixture(scope="module")
def told(site: Artefacts) -> dict[str, Run]:
    predicted = site.menders("--check", "--diff", every=10)
    done = site.menders("--diff", every=10)
    return {"predicted": predicted, "done": done, "again": site.menders(every=10)}


def test_check_mode_predicts_the_first_run_and_the_second_changes_nothing(
    site: Artefacts, told: dict[str, Run]
) -> None:
    predicted, done, again = (told[key].of.get(DEVICE, {}) for key in ("predicted", "done", "again"))
    assert predicted.get("state") == "would_change", told["predicted"].output[-4000:]
    assert done.get("state") == "confirmed", told["done"].output[-4000:]
    assert again.get("state") == "unchanged" and again["exchanges"] == 1, told["again"].output[-4000:]
    assert predicted["files"] == done["files"]
    assert "mender is installed from the device's sources" in " ".join(done["notes"])
    modes = site.sh(DEVICE, "stat -c '%a %U' /etc/mender/mender.conf /etc/mender/sallyport.curl")
    assert modes.split() == ["600", "root"] * 2
    assert site.sh(DEVICE, "systemctl is-enabled mender-client.service || :") == "masked\n"


def test_a_device_that_nobody_has_accepted_is_told_so_and_then_let_in(
    site: Artefacts, told: dict[str, Run]
) -> None:
    said = site.run()
    assert said["result"] == "unreachable", shown(said)
    assert "nobody has accepted it yet" in said["unreachable"][0], shown(said)
    site.accept(site.serial())


def test_a_signed_artefact_arrives_by_the_devices_own_timer_and_is_confirmed(
    site: Artefacts, told: dict[str, Run]
) -> None:
    slot, _, start, *_ = site.state()
    number = site.deploy("2.0", site.artefact("2.0"))
    site.wait(lambda: "rebooting" in site.heard(number)[0], 60, lambda: shown(site.status(DEVICE)))
    site.settled(DEVICE, start)
    # Its timer would judge it too, ten seconds after the start.
    site.run()
    site.wait(lambda: site.over(number), 30, lambda: shown(site.status(DEVICE)))
    assert site.heard(number)[0] == ["downloading", "installing", "rebooting", "success"]
    now, version, _, written, env = site.state()
    assert (
        now != slot and version == "2.0" and written == [f"{SOFTWARE}-2.0"] and "upgrade_available=0" in env
    )
    assert site.sh(DEVICE, "mender show-artifact 2>/dev/null") == f"{SOFTWARE}-2.0\n"
    for path in ("/usr/local/lib/sallyport/updates/run.sh", "/etc/mender/mender.conf"):
        site.sh(DEVICE, f"cmp {path} /system{path}")
    # And nothing of the new slot's own has been written over.
    assert site.sh(DEVICE, "ls /system/etc/mender/artifact_info 2>/dev/null || :") == ""


def test_it_goes_in_once_however_often_it_asks_and_nothing_is_left_of_secrets(
    site: Artefacts, told: dict[str, Run]
) -> None:
    site.still((DEVICE,))
    site.sh(DEVICE, "systemctl daemon-reload; systemctl restart sallyport-update.timer")
    site.idle(DEVICE)
    asked = len(site.requests())
    for _ in range(3):
        assert site.run()["result"] == "ok"
    assert len(site.requests()) >= asked + 3 and site.fetched() == 1
    assert site.state()[3] == [f"{SOFTWARE}-2.0"]
    said = site.status(DEVICE)
    assert said["installed"][0].startswith(f"{SOFTWARE} 2.0 ") and "pending" not in said, shown(said)
    open_to_all = site.sh(
        DEVICE, "grep -lE 'ecret|Bearer' /var/lib/sallyport-updates/* | xargs -r stat -c '%a %n'"
    )
    assert all(line.startswith("600 ") for line in open_to_all.splitlines()), open_to_all
    assert site.sh(DEVICE, "cat /proc/[0-9]*/comm 2>/dev/null | grep -c '^mender' || :").strip() == "0"
    findings, line = site.judged(DEVICE)
    assert findings == {} and line.startswith("mender, automatic: ") and "pending none" in line, line
    # A token that has run out is asked for anew.
    site.sh(WHERE, f"rm -r {FOLDER}/tokens")
    assert site.run()["result"] == "ok"


def test_our_artefacts_are_what_menders_own_tool_calls_valid(site: Artefacts, told: dict[str, Run]) -> None:
    site.put({"good.mender": site.artefact("3.0"), "key": site.key[0]}, "/root", DEVICE)
    assert "validated successfully" in site.sh(
        DEVICE, "mender-artifact validate -k /root/key /root/good.mender"
    )


OTHER = {"system.tar.gz": archive({"bin/panel": "#!/bin/sh\n"})}
CASES: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "unsigned": ("signature", "it is not signed", {"private": None}, "3.0"),
    "signed by somebody else": ("signature", "invalid signature", {"private": "foreign"}, "3.0"),
    "changed with its manifest": (
        "signature",
        "invalid signature",
        {"delivered": OTHER, "rewritten": True},
        "3.0",
    ),
    "tampered": ("tampered", "invalid checksum", {"delivered": OTHER}, "3.0"),
    "for other hardware": ("hardware", "not compatible with device panel", {"types": ["pump"]}, "3.0"),
    "older": ("downgrade", "older than 2.0, which runs", {"version": "1.9"}, "1.9"),
    "older, and called newer": ("downgrade", "it is panel-os-1.9, older than 2.0", {"version": "1.9"}, "3.0"),
    "another one than was promised": ("malformed", "it calls itself panel-os-2.5", {"version": "2.5"}, "3.0"),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_and_told_and_the_device_stays_as_it_is(
    site: Artefacts, told: dict[str, Run], case: str
) -> None:
    kind, words, how, promised = CASES[case]
    how = dict(how)
    if how.get("private") == "foreign":
        how["private"] = site.foreign[1]
    before = site.state()
    number = site.deploy("3.0", site.artefact(how.pop("version", "3.0"), **how), promised)
    said = site.run()
    assert said["result"] == "refused", shown(said)
    assert said["refused"][-1].startswith(f"{kind} {SOFTWARE} {promised}: "), shown(said)
    assert words in said["refused"][-1], shown(said)
    states, reasons = site.heard(number)
    assert states[-1] == "failure" and words in reasons
    assert site.state() == before


def test_an_answer_with_shell_and_curl_in_it_is_only_text(site: Artefacts, told: dict[str, Run]) -> None:
    fetched = site.fetched()
    for how in (
        {"name": f"{SOFTWARE}-$(touch /root/taken)"},
        {"uri": 'https://x.example/"\noutput = "/root/taken'},
        {"uri": "file:///etc/shadow"},
    ):
        number = site.deploy("3.0", site.artefact("3.0"), **how)
        said = site.run()
        assert said["result"] == "refused" and said["refused"][-1].startswith("malformed "), shown(said)
        assert site.heard(number)[0] == ["failure"]
    site.deploy("3.0", site.artefact("3.0"), id="../../etc;reboot")
    said = site.run()
    assert said["refused"][-1] == "malformed an answer that names no deployment", shown(said)
    assert site.sh(DEVICE, "ls /root/taken 2>/dev/null || :") == "" and site.fetched() == fetched


def test_what_the_server_takes_back_does_not_go_in(site: Artefacts, told: dict[str, Run]) -> None:
    fetched, before = site.fetched(), site.state()
    number = site.deploy("3.0", site.artefact("3.0"), aborted=True)
    said = site.run()
    assert "the server has taken it back" in " ".join(said["waiting"]) and site.fetched() == fetched, shown(
        said
    )
    assert site.heard(number)[0] == ["downloading"] and site.state() == before


def test_an_artefact_that_harms_goes_back_and_does_not_come_again(
    site: Artefacts, told: dict[str, Run]
) -> None:
    before = site.state()
    number = site.deploy("4.0", site.artefact("4.0", DEAD))
    assert site.restarted()["result"] == "waiting" and site.state()[1] == "4.0"
    said = site.restarted()
    assert said["result"] == "rolled_back" and "panel.service" in said["message"], shown(said)
    said = site.run()
    assert said["result"] == "rolled_back" and said["held"][0].startswith(f"{SOFTWARE} 4.0 "), shown(said)
    assert site.state()[:2] == before[:2]
    states, reasons = site.heard(number)
    assert states[-1] == "failure" and "panel.service" in reasons
    assert site.sh(DEVICE, "systemctl is-active panel.service") == "active\n"
    written = site.state()[3]
    number = site.deploy("4.0", site.artefact("4.0", DEAD))
    said = site.run()
    assert said["message"].startswith("nothing to install") and site.state()[3] == written, shown(said)
    states, reasons = site.heard(number)
    assert states == ["failure"] and "is held" in reasons
    # And Mender's client has nothing left that anybody could commit.
    assert site.sh(DEVICE, "mender commit 2>/dev/null || echo $?") == "2\n"


def test_one_that_is_never_confirmed_is_left_by_the_bootloader(site: Artefacts, told: dict[str, Run]) -> None:
    before = site.state()
    number = site.deploy("5.0", site.artefact("5.0"))
    site.restarted()
    assert site.state()[1] == "5.0"
    for _ in (1, 2):
        site.cut(DEVICE)
    assert site.state()[:2] == before[:2]
    said = site.run()
    assert said["result"] == "rolled_back" and "it was not confirmed" in said["message"], shown(said)
    states, reasons = site.heard(number)
    assert states[-1] == "failure" and "it was not confirmed" in reasons
    assert "upgrade_available=0" in site.state()[4] and site.state()[:2] == before[:2]


def test_a_client_that_takes_what_nobody_signed_is_not_left_in_charge(
    site: Artefacts, told: dict[str, Run]
) -> None:
    """The role asks the very program that would install: one that knows of no keys takes everything."""
    site.sh(
        DEVICE,
        "mv /usr/bin/mender /root/real && printf '#!/bin/sh\\n[ \"$5\" != show-artifact ] || echo panel-os-2.0\\n' >/usr/bin/mender && "
        "chmod 755 /usr/bin/mender",
    )
    done = site.menders(jitter=1)
    site.sh(DEVICE, "mv -f /root/real /usr/bin/mender")
    assert done.status == 2 and done.of[DEVICE]["state"] == "reverted", done.output[-3000:]
    assert "does not ask for signatures" in done.of[DEVICE]["msg"], done.of[DEVICE]
    # Nor one that looks at a single key, where there are two.
    done = site.menders(options={"signers": site.key[0] + site.foreign[0]})
    assert done.of[DEVICE]["state"] == "reverted", done.output[-3000:]
    assert "does not ask for signatures" in done.of[DEVICE]["msg"], done.of[DEVICE]


def test_what_waits_for_its_window_is_pending_and_not_fetched(site: Artefacts, told: dict[str, Run]) -> None:
    hour = int(site.sh(DEVICE, "date +%H"))
    done = site.menders(window=f"{(hour + 3) % 24:02d}:00-{(hour + 4) % 24:02d}:00")
    assert done.status == 0, done.output[-3000:]
    fetched, number = site.fetched(), site.deploy("5.5", site.artefact("5.5"))
    said = site.run()
    assert said["result"] == "waiting" and said["pending"][0].startswith(f"{SOFTWARE} 2.0 5.5 update "), (
        shown(said)
    )
    assert site.fetched() == fetched and site.heard(number)[0] == []


def test_without_a_server_it_comes_from_a_place_of_the_operators(
    site: Artefacts, told: dict[str, Run]
) -> None:
    """An application, by a module that Debian's client brings: it counts at once, and goes back at once."""
    without = {"url": None, "slots": None, "restart": False}
    site.put({"app.mender": site.folder("6.0", "six")}, "/media", DEVICE)
    done = site.menders(options={**without, "artifact": "/media/app.mender"}, health=["! grep seven /srv/application/text"])  # fmt: skip
    assert done.status == 0, done.output[-3000:]
    start = site.start(DEVICE)
    said = site.run()
    assert said["result"] == "ok" and said["installed"][0].startswith(f"{SOFTWARE} 6.0 "), shown(said)
    assert site.sh(DEVICE, "cat /srv/application/text") == "six"
    assert site.run()["message"] == "nothing to install"
    # The same from an address, as long as nothing newer lies there.
    place = f"https://{site.address}:{PORT}/files/app.mender"
    site.put({"app.mender": site.folder("7.0", "seven")}, FOLDER)
    done = site.menders(options={**without, "artifact": place}, health=["! grep seven /srv/application/text"])
    assert done.status == 0, done.output[-3000:]
    said = site.run()
    assert said["result"] == "rolled_back" and said["back"] == [SOFTWARE], shown(said)
    assert said["held"][-1].startswith(f"{SOFTWARE} 7.0 ") and "update_agent_health[0]" in said["held"][-1]
    assert site.sh(DEVICE, "cat /srv/application/text") == "six"
    fetched = site.fetched()
    assert site.run()["result"] == "ok" and site.fetched() == fetched
    site.put({"app.mender": site.folder("5.9", "five")}, FOLDER)
    said = site.run()
    assert said["refused"][-1].startswith(f"downgrade {SOFTWARE} 5.9: older than 6.0"), shown(said)
    assert site.fetched() == fetched and site.start(DEVICE) == start


def test_the_way_back_leaves_nothing_and_keeps_the_slot_that_runs(
    site: Artefacts, told: dict[str, Run]
) -> None:
    before = site.state()[:2]
    done = site.play("playbooks/rollback.yml", "sallyport.iot.rollback", "--limit", DEVICE, to="factory")
    assert done.status == 0, done.output[-4000:]
    left = site.sh(
        DEVICE,
        "ls -d /etc/mender/mender.conf /etc/mender/sallyport* /data/mender /var/lib/mender /var/lib/sallyport-updates /usr/bin/mender "
        "/usr/local/lib/sallyport/updates/* /etc/systemd/system/mender* /etc/systemd/system/sallyport-* 2>/dev/null || :",
    )
    assert left == "", left
    assert site.state()[:2] == before
