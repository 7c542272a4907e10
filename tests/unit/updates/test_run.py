"""The program that every agent shares, with an agent of our own behind it: each gate, the way back, and runs that are killed."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates import house

RUN = Path(__file__).parents[3] / "plugins/plugin_utils/updates/run.sh"
SHELLS = {"dash": ["/bin/sh"], "busybox": ["/bin/busybox", "sh"]}
# Versions are files in v/, offers are lines of the file offers: NAME VERSION KIND.
AGENT = """
agent_repair() { if [ -e broken ]; then rm broken; tell "repaired what was broken"; fi; }
agent_refresh() {
    if [ -e forged ]; then refuse signature "somebody else's"; return 1; fi
    if [ -e away ]; then tell "unreachable the source"; return 1; fi
}
agent_pending() {
    while read -r name new kind; do
        old=$(agent_version "$name")
        [ "$old" = "$new" ] || printf '%s %s %s %s\\n' "$name" "$old" "$new" "$kind"
    done <offers
}
agent_needs() { printf '%s %s\\n' "$PWD" "$(cat needs 2>/dev/null || echo 1)"; }
agent_fetch() { if [ -e slow ]; then WINDOW_BEGIN=$(((WINDOW_BEGIN + 720) % 1440)); fi; }
agent_install() {
    while read -r name _ new _; do
        printf '%s' "$new" >"v/$name"
        if [ -e kill ]; then rm kill; : >broken; kill -9 $$; fi
    done <ready
}
agent_version() { cat "v/$1"; }
agent_back() {
    printf '%s' "$2" >"v/$1"
    if [ -e together ]; then while read -r one before _; do printf '%s' "$before" >"v/$one"; done <leaving; fi
}
agent_restart_services() { :; }
agent_holds() { [ -e holds ]; }
agent_wants_reboot() { [ -e reboot-required ]; }
"""
# What it installs counts once the device has started with it: next/ is what the bootloader would start.
TRYING = """
agent_tries() { :; }
this_start() { cat start; }
agent_install() {
    while read -r name _ new _; do
        if [ -e kill-before ]; then rm kill-before; kill -9 $$; fi
        printf '%s' "$new" >"next/$name"
        echo "$new" >>switched
        if [ -e kill ]; then rm kill; kill -9 $$; fi
    done <ready
}
agent_keep() { : >kept; }
agent_back() { printf '%s' "$2" >"next/$1"; echo back >>order; }
agent_wants_reboot() { [ -f trial ] && [ "$(cat trial)" = "$(this_start)" ]; }
"""
SETTINGS: dict[str, Any] = {
    "AGENT": "ours", "MODE": "automatic", "REASON": "", "UNTIL": 0, "RING": "", "EVERY": 60, "WINDOW_BEGIN": 0,
    "WINDOW_LENGTH": 1440, "DELAY": 0, "HEALTH_SECONDS": 1, "LOOKS": 1, "ROLLBACK": "", "REBOOT": "never", "REBOOT_BEGIN": 0,
    "REBOOT_LENGTH": 1440, "RESERVE_KB": 1, "COMMITS": "/nowhere",
}  # fmt: skip


class Chamber:
    """A device's folders, with the tools of this machine."""

    def __init__(self, folder: Path, shell: list[str]) -> None:
        self.shell = shell
        self.here, self.state, self.tools = (folder / name for name in ("here", "state", "bin"))
        for path in (self.here, self.state / "v", self.tools):
            path.mkdir(parents=True)
        text = RUN.read_text(encoding="utf-8")
        for old, new in (
            ("/usr/local/lib/sallyport/updates", str(self.here)),
            ("/var/lib/sallyport-updates", str(self.state)),
            ("PATH=/usr/local/sbin", f"PATH={self.tools}:/usr/local/sbin"),
            ('/bin/sh "$0" turn', f'{" ".join(shell)} "$0" turn'),
            ("healthy 5", "healthy 1"),  # nothing here needs time to get well
            ("/etc/passwd", str(self.state / "passwd")),
            ("/etc/ssh/authorized_keys.d", str(self.state / "keys")),
        ):
            assert old in text
            text = text.replace(old, new)
        (self.here / "run.sh").write_text(text, encoding="utf-8")
        (self.here / "agent.sh").write_text(AGENT, encoding="utf-8")
        self.systemctl(f"cat {self.state}/services")
        self.tool("reboot", f"echo once >>{self.state}/rebooted")
        (self.state / "services").write_text("a.service\nb.service\n", encoding="utf-8")
        self.health("")
        (self.state / "passwd").touch()
        self.settings()
        self.install(panel="1")

    def tries(self) -> None:
        """From now on its agent is one of those that try what they install."""
        (self.here / "agent.sh").write_text(AGENT + TRYING, encoding="utf-8")
        shutil.copytree(self.state / "v", self.state / "next")
        (self.state / "start").write_text("1", encoding="utf-8")
        self.settings(REBOOT="window")

    def starts(self) -> None:
        """The device starts with what its bootloader starts."""
        path = self.state / "start"
        path.write_text(str(int(path.read_text(encoding="utf-8")) + 1), encoding="utf-8")
        shutil.copytree(self.state / "next", self.state / "v", dirs_exist_ok=True)

    def tool(self, name: str, text: str) -> None:
        path = self.tools / name
        path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        path.chmod(0o755)

    def systemctl(self, running: str, about: str = "") -> None:
        """``running`` prints the services that run; ``about`` what systemd says of one, ``$unit``, beside its name."""
        self.tool(
            "systemctl",
            f"""case $* in
    *failed*) cat {self.state}/failures 2>/dev/null || : ;;
    show*) for unit in "$@"; do case $unit in *.service) printf 'Id=%s\\n' "$unit"; {about or ":"}; echo ;; esac; done ;;
    *) {running} ;;
esac""",
        )

    def health(self, text: str) -> None:
        (self.here / "health.sh").write_text(text + "\n", encoding="utf-8")

    def settings(self, **values: Any) -> None:
        lines = "".join(f"{name}='{value}'\n" for name, value in {**SETTINGS, **values}.items())
        (self.here / "settings").write_text(lines, encoding="utf-8")

    def install(self, **versions: str) -> None:
        for name, version in versions.items():
            (self.state / "v" / name).write_text(version, encoding="utf-8")

    def offer(self, *lines: str) -> None:
        (self.state / "offers").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def mark(self, name: str) -> None:
        (self.state / name).touch()

    def version(self, name: str = "panel") -> str:
        return (self.state / "v" / name).read_text(encoding="utf-8")

    def run(self, word: str = "update") -> dict[str, list[str]]:
        done = subprocess.run(
            [*self.shell, str(self.here / "run.sh"), word],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode in (0, 10), (done.returncode, done.stdout, done.stderr)
        found: dict[str, list[str]] = {}
        for line in (self.state / "status").read_text(encoding="utf-8").splitlines():
            key, _, rest = line.partition(" ")
            found.setdefault(key, []).append(rest)
        assert (found["result"][0] in ("ok", "waiting", "unreachable")) == (
            done.returncode == 0
        ) or word == "reboot"
        return found

    @property
    def reboots(self) -> int:
        path = self.state / "rebooted"
        return len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0


@pytest.fixture(params=SHELLS)
def device(request: pytest.FixtureRequest, tmp_path: Path) -> Chamber:
    shell = SHELLS[request.param]
    if not shutil.which(shell[0]):
        pytest.skip(f"no {shell[0]} here")
    return Chamber(tmp_path, shell)


def minute(offset: int) -> int:
    now = time.localtime(time.time() + offset * 60)
    return now.tm_hour * 60 + now.tm_min


def from_now(settings: dict[str, Any]) -> dict[str, Any]:
    """A window's begin is written as minutes from now, and becomes one of the day when the test runs."""
    if "WINDOW_BEGIN" not in settings:
        return settings
    return {**settings, "WINDOW_BEGIN": minute(settings["WINDOW_BEGIN"])}


def test_what_is_offered_goes_in_and_is_written_down(device: Chamber) -> None:
    device.offer("panel 2 security")
    said = device.run()
    assert (
        said["result"] == ["ok"] and said["message"] == ["updates installed: 1"] and device.version() == "2"
    )
    assert said["installed"][0].startswith("panel 2 ") and "pending" not in said
    assert said["checked"] == said["succeeded"] == said["ran"]
    assert device.run()["message"] == ["nothing to install"]


@pytest.mark.parametrize(
    ("settings", "result", "word"),
    [
        ({"MODE": "notify"}, "ok", "only tells"),
        ({"MODE": "manual"}, "ok", "only tells"),
        ({"MODE": "postponed", "UNTIL": 99999999999}, "ok", "postponed"),
        ({"WINDOW_BEGIN": 120, "WINDOW_LENGTH": 60}, "waiting", "window"),
        ({"WINDOW_BEGIN": -60, "WINDOW_LENGTH": 30}, "waiting", "window"),
        ({"DELAY": 3600}, "ok", "nothing to install"),
        ({"RESERVE_KB": 10**12}, "blocked", "nothing was begun"),
    ],
)
def test_a_closed_gate_leaves_the_device_as_it_is(
    device: Chamber, settings: dict[str, Any], result: str, word: str
) -> None:
    device.settings(**from_now(settings))
    device.offer("panel 2 update")
    said = device.run()
    assert said["result"] == [result] and word in said["message"][0] and device.version() == "1"
    assert result == "blocked" or said["pending"][0].startswith("panel 1 2 update ")


@pytest.mark.parametrize(
    "settings",
    [
        {"MODE": "postponed", "UNTIL": 1},
        {"WINDOW_BEGIN": -30, "WINDOW_LENGTH": 120},
        {"WINDOW_BEGIN": -1410, "WINDOW_LENGTH": 1435},
    ],
)
def test_an_open_gate_lets_it_in(device: Chamber, settings: dict[str, Any]) -> None:
    device.settings(**from_now(settings))
    device.offer("panel 2 update")
    assert device.run()["result"] == ["ok"] and device.version() == "2"


def test_a_window_that_closes_while_the_network_is_slow_is_closed(device: Chamber) -> None:
    device.settings(WINDOW_BEGIN=minute(-30), WINDOW_LENGTH=120)
    device.offer("panel 2 update")
    device.mark("slow")
    device.mark("holds")
    said = device.run()
    assert said["result"] == ["waiting"] and "fetched" in said["message"][0] and device.version() == "1"
    # What would be fetched again in the next window, and the next, goes in.
    (device.state / "holds").unlink()
    assert device.run()["result"] == ["ok"] and device.version() == "2"


def test_an_update_that_needs_more_room_than_there_is_is_not_begun(device: Chamber) -> None:
    device.offer("panel 2 update")
    (device.state / "needs").write_text(str(10**12), encoding="utf-8")
    said = device.run()
    assert said["result"] == ["blocked"] and f"{device.state} needs {10**12} kB" in said["message"][0]
    assert device.version() == "1" and said["pending"]


def test_age_counts_from_when_the_device_first_heard_of_a_version(device: Chamber) -> None:
    device.settings(DELAY=3600)
    device.offer("panel 2 update")
    device.run()
    (device.state / "seen").write_text(f"panel 2 {int(time.time()) - 4000}\n", encoding="utf-8")
    assert device.run()["result"] == ["ok"] and device.version() == "2"


@pytest.mark.parametrize("wrong", [100, 4102444800], ids=["1970", "2100"])
def test_what_was_written_down_with_a_wrong_clock_counts_from_the_day_that_it_is_right(
    device: Chamber, wrong: int
) -> None:
    """Nothing is old enough, or proved on this device, because its clock was set; nor does it wait for the year 2100."""
    device.tool("date", f'case $* in +%s) cat {device.state}/clock ;; *) exec /bin/date "$@" ;; esac')
    clock = device.state / "clock"
    clock.write_text(str(wrong), encoding="utf-8")
    device.offer("panel 2 update")
    device.install(other="1")
    device.run()
    device.settings(DELAY=3600)
    device.offer("panel 2 update", "other 2 update")
    assert device.run()["result"] == ["ok"] and device.version("other") == "1"
    right = 1800000000
    clock.write_text(str(right), encoding="utf-8")
    said = device.run()
    assert said["waiting"] == ["other 2 is younger than the delay"] and device.version("other") == "1", said
    assert said["installed"] == [f"panel 2 {right}"]
    clock.write_text(str(right + 3600), encoding="utf-8")
    said = device.run()
    assert device.version("other") == "2" and said["installed"] == [
        f"panel 2 {right}",
        f"other 2 {right + 3600}",
    ], said


def test_what_is_not_believed_is_said_and_the_rest_goes_on(device: Chamber) -> None:
    device.offer("panel 2 update")
    device.mark("forged")
    said = device.run()
    assert said["result"] == ["refused"] and said["refused"] == ["signature somebody else's"]
    assert device.version() == "2" and "checked" not in said


def test_a_source_that_does_not_answer_is_no_success_and_no_failure(device: Chamber) -> None:
    device.offer("panel 2 update")
    device.mark("away")
    said = device.run()
    assert (
        said["result"] == ["unreachable"]
        and said["unreachable"] == ["the source"]
        and device.version() == "2"
    )
    assert "checked" not in said and "succeeded" not in said


def test_what_no_allowed_origin_offers_is_only_told(device: Chamber) -> None:
    device.offer("panel 2 other")
    assert device.run()["pending"][0].startswith("panel 1 2 other ") and device.version() == "1"


@pytest.mark.parametrize("listed", ["panel", ""])
def test_an_update_that_harms_goes_back_where_listed_and_is_held(device: Chamber, listed: str) -> None:
    device.settings(ROLLBACK=listed)
    device.health(f'[ "$(cat {device.state}/v/panel)" != 2 ] || {{ echo it is sick >&2; exit 1; }}')
    device.offer("panel 2 update")
    said = device.run()
    assert said["result"] == ["rolled_back" if listed else "unhealthy"] and "it is sick" in said["message"][0]
    assert device.version() == ("1" if listed else "2") and "installed" not in said
    assert said["held"][0].startswith("panel 2 ")
    device.install(other="1")
    device.offer("panel 2 update", "other 2 update")
    said = device.run()
    # Never that version again; a device that is still sick gets nothing else, one that is well does.
    assert said["result"] == ["ok" if listed else "unhealthy"] and "back" not in said
    assert device.version() == ("1" if listed else "2") and device.version("other") == (
        "2" if listed else "1"
    )
    device.offer("panel 3 update", "other 2 update")
    said = device.run()
    assert device.version() == "3" and "held" not in said, said


def test_what_came_with_it_and_did_no_harm_stays(device: Chamber) -> None:
    device.settings(ROLLBACK="panel")
    device.health(f'[ "$(cat {device.state}/v/panel)" != 2 ] || {{ echo it is sick >&2; exit 1; }}')
    device.install(other="1")
    device.offer("panel 2 update", "other 2 update")
    said = device.run()
    assert said["result"] == ["rolled_back"] and said["back"] == ["panel"]
    assert device.version() == "1" and device.version("other") == "2"
    assert [line.split()[0] for line in said["held"]] == ["panel"]
    assert [line.split()[0] for line in said["installed"]] == ["other"]


def test_what_goes_back_with_another_is_held_and_named_too(device: Chamber) -> None:
    device.settings(ROLLBACK="panel other")
    device.health(f'[ "$(cat {device.state}/v/panel)" != 2 ] || {{ echo it is sick >&2; exit 1; }}')
    device.install(other="1")
    device.mark("together")
    device.offer("other 2 update", "panel 2 update")
    said = device.run()
    assert said["result"] == ["rolled_back"] and sorted(said["back"]) == ["other", "panel"], said
    assert sorted(line.split()[0] for line in said["held"]) == ["other", "panel"] and "installed" not in said


def test_a_check_that_hangs_is_harm(device: Chamber) -> None:
    """As a service does that hangs. What the check has started may outlive it."""
    device.settings(ROLLBACK="panel")
    check = f'[ "$(cat {device.state}/v/panel)" != 2 ] || {{ setsid sleep 20 & wait; }}'
    device.health(house._health([check], 5))
    device.offer("panel 2 update")
    said = device.run()
    assert said["result"] == ["rolled_back"] and device.version() == "1", said
    assert "it has not ended within 5 seconds" in said["message"][0]


def test_a_service_that_stopped_is_harm_too(device: Chamber) -> None:
    device.settings(ROLLBACK="panel")
    device.systemctl(f"echo a.service; [ $(cat {device.state}/v/panel) = 2 ] || echo b.service")
    device.offer("panel 2 update")
    said = device.run()
    assert said["result"] == ["rolled_back"] and "no longer running: b.service" in said["message"][0]


@pytest.mark.parametrize(
    ("gone", "about", "harm"),
    [
        ("b.service", "echo BusName=", True),
        ("b.service", "echo BusName=b; echo WantedBy=multi-user.target", True),
        ("b.service", "echo BusName=b; echo WantedBy=; echo TriggeredBy=b.socket", True),
        ("b.service", "echo BusName=b; echo WantedBy=", False),
        ("b.service", "echo BusName=; echo TriggeredBy=b.timer; echo WantedBy=", False),
        ("b.service", "echo BusName=; echo TriggeredBy=b.timer; echo WantedBy=multi-user.target", True),
        ("b.service", "echo BusName=; echo TriggeredBy=b.socket; echo WantedBy=", True),
        ("sallyport-426c98c7.service", "echo Transient=yes; echo BusName=; echo WantedBy=", False),
        ("b.service", "echo Transient=no; echo WantedBy=", True),
        # Somebody's systemd-run that ended between the two questions: systemd knows nothing of it any more.
        ("sallyport-426c98c7.service", "echo ActiveState=inactive; echo Transient=no; echo WantedBy=", False),
        ("b.service", "echo ActiveState=active; echo Transient=no; echo WantedBy=", True),
        ("vpn@office.service", "echo BusName=", True),
        ("user@0.service", "echo BusName=", False),
        ("telnet@3-10.0.0.1:23-10.0.0.2:5050.service", "echo BusName=", False),
    ],
)
def test_what_comes_and_goes_by_itself_is_no_harm(device: Chamber, gone: str, about: str, harm: bool) -> None:
    device.systemctl(f"echo a.service; [ $(cat {device.state}/v/panel) = 2 ] || echo {gone}", about)
    device.offer("panel 2 update")
    said = device.run()
    assert said["result"] == ["unhealthy" if harm else "ok"], said
    assert (f"no longer running: {gone}" in said["message"][0]) == harm


def test_a_way_back_that_does_not_help_says_what_is_still_wrong(device: Chamber) -> None:
    device.settings(ROLLBACK="panel")
    device.health(
        f'[ "$(cat {device.state}/v/panel)" != 2 ] || echo once >{device.state}/harmed; ! grep once {device.state}/harmed'
    )
    device.offer("panel 2 update")
    said = device.run()
    assert said["result"] == ["unhealthy"] and said["back"] == ["panel"], said
    assert "back to what ran before, which did not help (once): panel; held: panel" in said["message"][0]


@pytest.mark.parametrize(("unit", "harm"), [("b.service", True), ("user@0.service", False)])
def test_a_unit_that_fails_is_harm_and_a_session_is_none(device: Chamber, unit: str, harm: bool) -> None:
    device.health(f'[ "$(cat {device.state}/v/panel)" != 2 ] || echo {unit} >{device.state}/failures')
    device.offer("panel 2 update")
    said = device.run()
    assert said["result"] == ["unhealthy" if harm else "ok"], said
    assert (f"failed: {unit}" in said["message"][0]) == harm


def test_a_service_that_dies_again_and_again_is_harm_though_it_runs_in_between(device: Chamber) -> None:
    device.settings(ROLLBACK="panel", LOOKS=3)
    # At the first look after the update it has just been started once more.
    running = f'[ "$(cat {device.state}/v/panel)" = 1 ] || mkdir {device.state}/looked 2>/dev/null'
    device.systemctl(f"echo a.service; if {running}; then echo b.service; fi")
    device.offer("panel 2 update")
    said = device.run()
    assert said["result"] == ["rolled_back"] and "no longer running: b.service" in said["message"][0]


def test_a_device_that_falls_ill_long_after_the_update_says_so_by_itself(device: Chamber) -> None:
    """Or its ring would take it for one on which the version has proved itself."""
    device.offer("panel 2 update")
    assert device.run()["result"] == ["ok"]
    device.health("echo it is sick >&2; exit 1")
    said = device.run()
    assert said["result"] == ["unhealthy"] and "it is sick" in said["message"][0], said
    # Nor does it wait for a window in silence.
    device.settings(WINDOW_BEGIN=minute(120), WINDOW_LENGTH=60)
    device.offer("panel 3 update")
    said = device.run()
    assert said["result"] == ["unhealthy"] and device.version() == "2", said
    device.health("")
    assert device.run()["result"] == ["waiting"]
    device.settings()
    assert device.run()["result"] == ["ok"]


def test_a_run_that_is_killed_is_said_and_the_next_one_judges_what_it_left(device: Chamber) -> None:
    device.settings(ROLLBACK="panel")
    device.health(f'[ "$(cat {device.state}/v/panel)" != 2 ] || {{ echo it is sick >&2; exit 1; }}')
    device.offer("panel 2 update")
    device.mark("kill")
    said = device.run()
    assert said["result"] == ["failed"] and "broke off" in said["message"][0] and device.version() == "2"
    said = device.run()
    assert said["result"] == ["rolled_back"] and device.version() == "1", said
    assert "what was broken" in said["repaired"] and not (device.state / "working").exists()


def test_a_reboot_happens_where_it_may_and_only_where_it_is_needed(device: Chamber) -> None:
    device.settings(REBOOT="window", REBOOT_BEGIN=minute(120), REBOOT_LENGTH=60)
    device.offer("panel 2 update")
    device.mark("reboot-required")
    assert device.run()["reboot"] == ["needed"] and device.reboots == 0
    device.run("reboot")
    assert device.reboots == 0
    device.settings(REBOOT="window", REBOOT_BEGIN=minute(-10), REBOOT_LENGTH=60)
    device.offer("panel 3 update")
    device.run()
    assert device.reboots == 1
    device.settings(REBOOT="staggered", REBOOT_BEGIN=minute(-10), REBOOT_LENGTH=60)
    device.offer("panel 4 update")
    device.run()
    assert device.reboots == 1  # it has a minute of its own
    device.run("reboot")
    assert device.reboots == 2
    device.settings(REBOOT="never")
    device.run("reboot")
    assert device.reboots == 2
    (device.state / "reboot-required").unlink()
    device.settings(REBOOT="window")
    device.run("reboot")
    assert device.reboots == 2


def test_nothing_restarts_while_a_change_waits_for_its_confirmation(device: Chamber) -> None:
    """It would go back for nothing, and its operator would be cut off in the middle."""
    pending = device.here / "commits/armed/tx"
    pending.mkdir(parents=True)
    device.settings(REBOOT="window", COMMITS=pending.parents[1])
    device.mark("reboot-required")
    assert device.run()["reboot"] == ["needed"] and device.reboots == 0
    device.run("reboot")
    assert device.reboots == 0
    # Its lock alone is what a killed program leaves: nothing waits for that.
    pending.rmdir()
    device.run("reboot")
    assert device.reboots == 1


def test_nothing_goes_in_while_a_change_may_still_be_taken_back(device: Chamber) -> None:
    """Which of the two had harmed would not be known, and a new slot would keep what is taken back here."""
    pending = device.here / "commits/armed/tx"
    pending.mkdir(parents=True)
    device.settings(COMMITS=pending.parents[1])
    device.offer("panel 2 update")
    said = device.run()
    assert (
        said["result"] == ["waiting"]
        and "until another change of this device, an operator's perhaps, is confirmed: 1"
        in said["message"][0]
    )
    assert device.version() == "1"
    pending.rmdir()
    assert device.run()["result"] == ["ok"] and device.version() == "2"


def test_what_is_done_after_the_installation_goes_along_before_the_start(trying: Chamber) -> None:
    path = trying.here / "agent.sh"
    text = path.read_text(encoding="utf-8")
    path.write_text(text + "agent_leave() { echo left >>leaving.log; [ ! -e stuck ]; }\n", encoding="utf-8")
    left = trying.state / "leaving.log"
    begin = minute(120)
    trying.settings(REBOOT="window", REBOOT_BEGIN=begin, REBOOT_LENGTH=1)
    assert trying.run()["result"] == ["waiting"] and not left.exists()
    # Each look while it waits, since its operator may restart it; and a restart of its own.
    trying.run()
    assert left.read_text(encoding="utf-8") == "left\n" and trying.reboots == 0
    trying.settings(REBOOT="window")
    trying.mark("stuck")
    trying.run("reboot")
    assert left.read_text(encoding="utf-8") == "left\n" * 2 and trying.reboots == 0
    (trying.state / "stuck").unlink()
    trying.run("reboot")
    assert trying.reboots == 1
    trying.starts()
    assert trying.run()["result"] == ["ok"]


@pytest.fixture
def trying(device: Chamber) -> Chamber:
    device.tries()
    device.offer("panel 2 update")
    return device


def test_what_harmed_is_remembered_before_it_goes_back_and_leaves_as_soon_as_it_may(trying: Chamber) -> None:
    """Forgotten in a power cut, it would come again; and a change that waits for its confirmation is not cut off."""
    pending = trying.here / "commits/armed/tx"
    trying.run()
    trying.starts()
    trying.tool("sync", f"echo $2 >>{trying.state}/order")
    trying.health("echo it is sick >&2; exit 1")
    trying.settings(REBOOT="window", COMMITS=pending.parents[1])
    pending.mkdir(parents=True)
    said = trying.run()
    assert said["result"] == ["rolled_back"] and trying.reboots == 1, said
    order = (trying.state / "order").read_text(encoding="utf-8").split()
    assert (
        order.index("held.new")
        < order.index("back")
        < order.index("returning.new")
        < order.index("trial.new")
    )
    assert trying.run()["result"] == ["rolled_back"] and trying.reboots == 1
    pending.rmdir()
    trying.run()
    assert trying.reboots == 2
    trying.starts()
    trying.health("")
    said = trying.run()
    assert said["back"] == ["panel"] and "it is sick" in said["message"][0] and trying.version() == "1", said


def test_what_is_tried_counts_after_the_start_and_is_made_to_stay(trying: Chamber) -> None:
    said = trying.run()
    assert said["result"] == ["waiting"] and said["reboot"] == ["needed"] and trying.reboots == 1, said
    assert "installed" not in said and trying.version() == "1" and not (trying.state / "kept").exists()
    # Nothing goes in again while it waits.
    assert trying.run()["message"] == said["message"]
    assert (trying.state / "switched").read_text(encoding="utf-8").split() == ["2"]
    trying.starts()
    said = trying.run()
    assert said["result"] == ["ok"] and said["installed"][0].startswith("panel 2 "), said
    assert (trying.state / "kept").exists() and not (trying.state / "trial").exists() and "reboot" not in said


def test_what_is_tried_and_harms_is_left_at_once_and_held(trying: Chamber) -> None:
    trying.health(f'[ "$(cat {trying.state}/v/panel)" != 2 ] || {{ echo it is sick >&2; exit 1; }}')
    trying.run()
    trying.starts()
    # Its window has closed since: what harms is not left running for a day.
    trying.settings(REBOOT="window", REBOOT_BEGIN=minute(120), REBOOT_LENGTH=60)
    said = trying.run()
    assert said["result"] == ["rolled_back"] and "it is sick" in said["message"][0] and trying.reboots == 2, (
        said
    )
    trying.starts()
    said = trying.run()
    assert (
        said["result"] == ["rolled_back"] and said["back"] == ["panel"] and "it is sick" in said["message"][0]
    ), said
    assert trying.version() == "1" and said["held"][0].startswith("panel 2 ") and "installed" not in said
    assert trying.run()["message"] == ["nothing to install"] and not (trying.state / "kept").exists()


def test_what_was_never_confirmed_and_is_gone_after_a_start_is_held(trying: Chamber) -> None:
    trying.run()
    # The bootloader had tried, and went back by itself.
    (trying.state / "next/panel").write_text("1", encoding="utf-8")
    trying.starts()
    said = trying.run()
    assert said["result"] == ["rolled_back"] and "it was not confirmed" in said["message"][0], said
    assert said["held"][0].startswith("panel 2 ") and not (trying.state / "working").exists()


def test_a_server_that_does_not_answer_changes_nothing_of_why_it_went_back(trying: Chamber) -> None:
    trying.run()
    (trying.state / "next/panel").write_text("1", encoding="utf-8")
    trying.starts()
    agent = trying.here / "agent.sh"
    away = "agent_refresh() { why='could not connect' lost='' name=''; return 1; }\n"
    agent.write_text(agent.read_text(encoding="utf-8") + away, encoding="utf-8")
    said = trying.run()
    assert said["message"] == [
        "after the update: it was not confirmed, and what was there before has started again; back to what ran before: panel"
    ], said


def test_what_starts_and_is_not_what_was_meant_goes_back(trying: Chamber) -> None:
    trying.run()
    (trying.state / "next/panel").write_text("3", encoding="utf-8")
    trying.starts()
    said = trying.run()
    assert (
        said["result"] == ["rolled_back"] and "panel 3 has started, and 2 was meant" in said["message"][0]
    ), said
    trying.starts()
    assert trying.run()["back"] == ["panel"] and trying.version() == "1"


def test_a_way_back_that_brings_the_same_again_is_said(trying: Chamber) -> None:
    trying.health(f'[ "$(cat {trying.state}/v/panel)" != 2 ] || {{ echo it is sick >&2; exit 1; }}')
    trying.run()
    trying.starts()
    trying.run()
    (trying.state / "next/panel").write_text("2", encoding="utf-8")
    trying.starts()
    said = trying.run()
    assert said["result"] == ["failed"] and "was to go back" in said["message"][0], said


@pytest.mark.parametrize("when", ["kill-before", "kill"])
def test_a_trial_whose_run_is_killed_is_judged_or_begun_anew(trying: Chamber, when: str) -> None:
    trying.mark(when)
    assert trying.run()["result"] == ["failed"]
    trying.starts()
    said = trying.run()
    if when == "kill":
        assert said["result"] == ["ok"] and said["installed"][0].startswith("panel 2 "), said
        assert (trying.state / "kept").exists()
    else:
        # As if it had never been: it goes in again, and nobody was told that it had.
        assert (
            said["result"] == ["waiting"] and "held" not in said and not (trying.state / "kept").exists()
        ), said
        trying.starts()
        assert trying.run()["installed"][0].startswith("panel 2 ")


def test_a_device_that_never_restarts_by_itself_waits_for_somebody_who_does(trying: Chamber) -> None:
    trying.settings(REBOOT="never")
    trying.run()
    trying.run("reboot")
    assert trying.reboots == 0 and trying.run()["result"] == ["waiting"]


def test_a_start_makes_only_those_services_missed_that_come_by_themselves(trying: Chamber) -> None:
    """Somebody had started b by hand: after a start it is not there, and that is no harm; a, which is enabled, would be."""
    wanted = "[ $unit = b.service ] || echo WantedBy=multi-user.target"
    trying.systemctl(f"cat {trying.state}/services", wanted)
    trying.run()
    (trying.state / "services").write_text("a.service\n", encoding="utf-8")
    trying.starts()
    assert trying.run()["result"] == ["ok"]
    trying.offer("panel 3 update")
    trying.run()
    (trying.state / "services").write_text("b.service\n", encoding="utf-8")
    trying.starts()
    said = trying.run()
    assert said["result"] == ["rolled_back"] and "no longer running: a.service" in said["message"][0], said


@pytest.mark.parametrize("missing", ["account", "key"])
def test_an_image_that_lets_nobody_in_whom_the_device_let_in_is_left(trying: Chamber, missing: str) -> None:
    for name in ("ops", "keyless"):
        (trying.state / name / ".ssh").mkdir(parents=True)
    key = trying.state / "ops/.ssh/authorized_keys"
    key.write_text("ssh-ed25519 AAAA ops\n", encoding="utf-8")
    accounts = trying.state / "passwd"
    lines = [
        f"{name}:x:{uid}:{uid}::{trying.state}/{name}:/bin/sh\n"
        for uid, name in enumerate(("ops", "keyless"), 1000)
    ]
    accounts.write_text("".join(lines), encoding="utf-8")
    # What nobody gets into by a key is not missed.
    trying.offer("panel 3 update")
    trying.run()
    accounts.write_text(lines[0], encoding="utf-8")
    trying.starts()
    assert trying.run()["result"] == ["ok"]
    trying.offer("panel 4 update")
    trying.run()
    if missing == "account":
        accounts.write_text("", encoding="utf-8")
    else:
        key.unlink()
    trying.starts()
    said = trying.run()
    assert said["result"] == ["rolled_back"] and "nobody's key lets in any more: ops" in said["message"][0], (
        said
    )


def test_a_key_that_a_role_has_put_elsewhere_lets_in_as_well(trying: Chamber) -> None:
    home = trying.state / "ops/.ssh"
    home.mkdir(parents=True)
    (home / "authorized_keys").write_text("ssh-ed25519 AAAA ops\n", encoding="utf-8")
    (trying.state / "passwd").write_text(f"ops:x:1:1::{trying.state}/ops:/bin/sh\n", encoding="utf-8")
    trying.run()
    # The new slot has another /home, and what goes along.
    (home / "authorized_keys").unlink()
    (trying.state / "keys").mkdir()
    (trying.state / "keys/ops").write_text("ssh-ed25519 AAAA ops\n", encoding="utf-8")
    trying.starts()
    assert trying.run()["result"] == ["ok"]
