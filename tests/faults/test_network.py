"""The network misbehaves while a change is made: it is confirmed if the operator still has a way in, and otherwise
taken back with the true reason. Each fault meets a systemd device with OpenSSH and a BusyBox one with dropbear at once."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lab.fleet import addresses
from tests.faults.chamber import wait_until
from tests.faults.counted import COUNTED
from tests.faults.line import Line
from tests.faults.on_devices import Devices

HOSTS = ("debian12", "vendor")
_STATE = "/var/lib/sallyport"
# A step that waits for the test, so that a fault falls on one exact moment; or fails after a minute.
_WAIT = 'touch /run/trial-reached; n=0; until [ -e /run/trial-go ]; do n=$((n + 1)); [ "$n" -lt 600 ]; sleep 0.1; done'
_BETWEEN = str(Path(__file__).with_name("ssh_between.py"))


class Far:
    """Both devices, and a controller whose line to them can be spoilt."""

    def __init__(self, devices: Devices, line: Line, folder: Path) -> None:
        self.devices = devices
        self.line = line
        self.folder = folder
        self.content = ""
        self.within = ("nsenter", f"--net=/run/netns/{line.controller.name}")
        self._pool = ThreadPoolExecutor(2 * len(HOSTS))

    def commit(self, host: str, **commit: Any) -> dict[str, Any]:
        """One commit over the line."""
        variables = {"ansible_control_path_dir": str(self.folder), **commit.pop("variables", {})}
        commit.setdefault("files", [{"dest": "/etc/trial", "content": self.content}])
        return self.devices.commit(host, variables=variables, within=self.within, **commit)

    def begin(self, function: Callable[[str], Any]) -> dict[str, Future[Any]]:
        """Start the same for each host."""
        return {host: self._pool.submit(function, host) for host in HOSTS}

    def begin_on(self, host: str, **commit: Any) -> Future[Any]:
        """Start a commit on one host."""
        return self._pool.submit(lambda: self.commit(host, **commit))

    def each(self, function: Callable[[str], Any]) -> dict[str, Any]:
        """Do the same for each host at once; the results by host."""
        return {host: future.result() for host, future in self.begin(function).items()}

    def begin_and_wait(self, where: str = "activate", **commit: Any) -> dict[str, Future[Any]]:
        """Start a commit on each host, and return when each waits in its activation (or in the check of its files)."""
        if where == "activate":
            commit = {"activate": [_WAIT], "revert": ["true"], **commit}
        else:
            commit = {"check": [_WAIT], "activate": ["true"], **commit}
        running = self.begin(lambda host: self.commit(host, **commit))
        self.until("[ -e /run/trial-reached ]", running)
        return running

    def go(self) -> None:
        self.each(lambda host: self.devices.inside(host, "touch /run/trial-go"))

    def until(
        self, condition: str, running: dict[str, Future[Any]] | None = None, seconds: float = 60
    ) -> None:
        """Until an sh condition holds on every device."""

        def holds(host: str) -> bool:
            ended = running and running[host].done()
            assert not ended, f"{host} never came to {condition}: {running and running[host].result()}"
            return self.devices.inside(host, f"if {condition}; then echo yes; fi").strip() == "yes"

        for host in HOSTS:
            assert wait_until(lambda host=host: holds(host), seconds), (
                f"{host}: not in {seconds} s: {condition}"
            )  # type: ignore[misc]

    def by_ipv6(self, host: str) -> dict[str, str]:
        """An inventory that knows the host by its IPv6 address."""
        lab = self.devices.lab
        return {"ansible_host": addresses("lan", lab.slot(), lab.fleet.devices[host].number)[1]}

    def folder_for(self, host: str) -> Path:
        """A new folder, for notes to and from an ssh that misbehaves."""
        return Path(tempfile.mkdtemp(prefix=f"{host}-", dir=self.folder))

    def kill_sessions(self, how: signal.Signals = signal.SIGKILL) -> int:
        """End every ssh of the controller; how many there were."""
        found = self.line.controller.processes("ssh")
        for process in found:
            with contextlib.suppress(
                ProcessLookupError
            ):  # one that shared the connection of another went with it
                os.kill(process, how)
        return len(found)

    def end(self) -> None:
        self._pool.shutdown()
        self.kill_sessions(signal.SIGTERM)  # shared connections that nobody needs any more


@pytest.fixture(scope="module")
def whole_line(devices: Devices) -> Iterator[Far]:
    """The line, and both devices as they were shipped before and after."""
    line = Line(devices.lab, 12)
    folder = Path(tempfile.mkdtemp(prefix="sallyport-far-"))
    far = Far(devices, line, folder)
    try:
        assert all(
            far.each(devices.answers).values()
        )  # dropbear makes a host key when it is first asked for one
        before = far.each(devices.snapshot)
        yield far
        line.spoil()
        back = far.each(lambda host: devices.rollback(host, to="factory"))
        # Where a selection of tests has changed nothing there is nothing to go back to, and no state either.
        assert {result.get("state", "unchanged") for result in back.values()} <= {"confirmed", "unchanged"}, (
            back
        )
        assert not any(result.get("failed") for result in back.values()), back
        for host, after in far.each(devices.snapshot).items():
            assert not {*before[host]} ^ {*after}, f"{host} is not as it was shipped"
    finally:
        far.end()
        line.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def far(whole_line: Far, request: pytest.FixtureRequest) -> Iterator[Far]:
    """Each test may leave its own file, and nothing else."""
    far, devices, line = whole_line, whole_line.devices, whole_line.line
    far.content = f"of {request.node.name}\n"
    line.begin()
    before = far.each(devices.snapshot)
    yield far
    told = line.told()
    print(f"injected by {request.node.name}: {told}")  # pytest shows it where the test failed
    COUNTED.append(f"{request.node.name.removeprefix('test_')}: {told}")
    line.spoil()
    line.move(12)

    def judge(host: str) -> list[str]:
        devices.inside(host, "rm -f /run/trial-*")
        assert devices.answers(host), f"the operator cannot log in to {host} any more; {told}"
        left = devices.inside(host, f"ls -d {_STATE}/armed {_STATE}/stage.* 2>/dev/null || :")
        assert not left, f"{host}: {left}"
        return [line for line in {*before[host]} ^ {*devices.snapshot(host)} if "/etc/trial" not in line]

    for host, different in far.each(judge).items():
        assert not different, f"{host} is not as it began; {told}: {different}"


def _is(state: str, results: dict[str, Any], reason: str = "") -> None:
    """All of them ended so, for this reason; ``confirmed`` also says that something changed."""
    for host, result in results.items():
        assert result["state"] == state, f"{host}: {result}"
        assert result["changed"] == (state == "confirmed"), f"{host}: {result}"
        assert reason in result["msg"], f"{host}: {result['msg']}"


def _results(running: dict[str, Future[Any]]) -> dict[str, Any]:
    return {host: future.result() for host, future in running.items()}


# --- the link ------------------------------------------------------------------------------------------------


def test_a_link_that_is_down_during_the_confirmation_and_comes_back_in_time_is_confirmed(far: Far) -> None:
    running = far.begin_and_wait()
    far.line.spoil(down=True)
    far.go()
    far.until(f"[ -e {_STATE}/armed/tx/live ]")
    tried = far.line.lost
    assert wait_until(lambda: far.line.lost > tried + 4), "the controller did not try while the link was down"
    far.line.spoil()
    _is("confirmed", _results(running))


def test_a_link_that_stays_down_is_reverted_with_the_devices_own_reason(far: Far) -> None:
    running = far.begin_and_wait(confirm={"seconds": 12})
    far.line.spoil(down=True)
    far.go()
    far.until(f"[ -e {_STATE}/reverted/reason ] && [ ! -e {_STATE}/armed ]")
    assert not any(future.done() for future in running.values())
    far.line.spoil()
    _is("reverted", _results(running), "no confirmation came within 12 seconds")


def test_a_link_that_dies_before_the_device_has_answered_that_it_is_armed_is_reverted(far: Far) -> None:
    running = far.begin_and_wait("check", confirm={"seconds": 6})
    far.line.spoil(down=True)
    far.go()
    far.until(f"[ -e {_STATE}/reverted/reason ] && [ ! -e {_STATE}/armed ]")
    far.line.spoil()
    _is("reverted", _results(running), "no confirmation came within 6 seconds")


def test_a_run_whose_link_never_comes_back_ends_by_itself(far: Far, thorough: bool) -> None:
    """Also where the site has told ssh nothing about dead links."""
    if not thorough:
        pytest.skip("takes two minutes; --faults=full")
    common = far.devices.variables(HOSTS[0])["ansible_ssh_common_args"]
    unwatched = " ".join(re.sub(r"-o ServerAlive\w+=\d+", "", common).split())
    running = far.begin_and_wait(
        "check", confirm={"seconds": 6}, variables={"ansible_ssh_common_args": unwatched}
    )
    far.line.spoil(down=True)
    far.go()
    far.until(f"[ -e {_STATE}/reverted/reason ] && [ ! -e {_STATE}/armed ]")
    results = _results(running)
    far.line.spoil()
    _is("reverted", results, "could not be asked what became of it")


@pytest.mark.parametrize(
    "weather",
    [{"loss": 0.2}, {"rate": 64_000}, {"delay": 0.4}],
    ids=["a fifth is lost", "64 kbit/s", "800 ms there and back"],
)
def test_a_bad_line_is_slow_and_no_lock_out(weather: dict[str, Any], far: Far) -> None:
    far.line.spoil(**weather)
    _is("confirmed", far.each(far.commit))
    assert (far.line.lost > 5) == ("loss" in weather), far.line.told()


# --- addresses -----------------------------------------------------------------------------------------------


def _moving(far: Far, host: str) -> dict[str, Any]:
    """A change that takes the device's IPv4 address away and gives it one in another network."""
    lab = far.devices.lab
    number = lab.fleet.devices[host].number
    old, new = addresses("lan", lab.slot(), number)[0] + "/28", f"10.99.0.{number}/24"
    # May be done again: the way back to factory reverts every generation, the undone ones too.
    move = "ip address add {1} dev eth0 2>/dev/null || :; ip address del {0} dev eth0 2>/dev/null || :"
    return {"activate": [move.format(old, new)], "revert": [move.format(new, old)], "confirm": {"seconds": 8}}


def test_a_device_that_leaves_the_address_of_the_inventory_is_reverted(far: Far) -> None:
    results = far.each(lambda host: far.commit(host, **_moving(far, host)))
    _is("reverted", results, "no confirmation came within 8 seconds")


def test_a_device_that_changes_another_address_is_confirmed_at_the_one_of_the_inventory(far: Far) -> None:
    _is(
        "confirmed",
        far.each(lambda host: far.commit(host, variables=far.by_ipv6(host), **_moving(far, host))),
    )
    back = far.each(lambda host: far.devices.rollback(host, variables=far.by_ipv6(host), to="previous"))
    assert {result["state"] for result in back.values()} == {"confirmed"}, back


def test_a_controller_that_gets_another_address_is_confirmed_from_there(far: Far) -> None:
    running = far.begin_and_wait()
    slot = far.devices.lab.slot()
    far.line.move(14)
    far.go()
    _is("confirmed", _results(running))
    for host in HOSTS:
        newest = f"cat $(ls -dt {_STATE}/generation/*/session | head -n 1)"
        armed_by = far.devices.inside(host, newest).split()[0]
        assert armed_by == addresses("lan", slot, 12)[0], host


# --- the session ---------------------------------------------------------------------------------------------


def test_a_session_that_dies_while_the_change_is_sent_has_changed_nothing(far: Far) -> None:
    content = os.urandom(150_000).hex()  # nothing that ssh could compress below 150 kB
    far.line.spoil(rate=1_000_000)
    for host in HOSTS:  # one after the other: side by side, one could be through before the other has begun
        before = far.line.octets
        running = far.begin_on(host, files=[{"dest": "/etc/trial", "content": content}])
        assert wait_until(lambda before=before: far.line.octets > before + 80_000)  # type: ignore[misc]
        assert far.kill_sessions()
        _is("refused", {host: running.result()}, "it did not begin, and nothing was changed")


def test_a_session_that_ends_while_the_device_checks_leaves_nothing_staged(far: Far) -> None:
    """The device learns of it when it answers; the fixture looks for what is left, before any other run."""
    running = far.begin_and_wait("check")
    assert far.kill_sessions()
    far.line.injected.append("all sessions killed")
    far.go()
    _is("refused", _results(running), "it did not begin, and nothing was changed")


def test_a_change_whose_session_is_lost_while_the_device_checks_it_is_waited_for(far: Far) -> None:
    """The device does not know that the session is gone; who asks in between must not hear that nothing began."""
    running = far.begin_and_wait("check")
    far.line.move(14)  # so that not even the end of the sessions reaches the device
    assert far.kill_sessions()
    far.line.injected.append("all sessions killed")
    before = far.line.octets
    asked = wait_until(
        lambda: far.line.octets > before + 40_000 or any(one.done() for one in running.values())
    )
    assert asked, far.line.told()
    far.go()
    _is("confirmed", _results(running))


@pytest.mark.parametrize("lost", ["the answer to arming", "the answer to the confirmation"])
def test_an_answer_without_its_closing_frame_is_unknown_and_the_outcome_is_asked_for(
    lost: str, far: Far
) -> None:
    match = 'device" arm "$ID"' if "arming" in lost else "'confirm'"
    _is("confirmed", far.each(lambda host: _between(far, host, do="cut", match=match)))


def test_a_question_without_a_whole_answer_ends_before_anything_is_sent(far: Far) -> None:
    results = far.each(lambda host: _between(far, host, do="cut", match="say pid1"))
    for host, result in results.items():
        assert result["failed"] and not result.get("changed"), f"{host}: {result}"
        assert "no whole reply came back" in result["msg"], f"{host}: {result['msg']}"
        assert far.content not in far.devices.inside(host, "cat /etc/trial 2>/dev/null || :"), host


def test_a_confirmation_that_comes_after_the_time_is_told_that_the_device_went_back(far: Far) -> None:
    folders = {host: far.folder_for(host) for host in HOSTS}
    running = far.begin(
        lambda host: _between(far, host, folders[host], do="hold", match="'confirm'", confirm={"seconds": 15})
    )
    try:
        for host, folder in folders.items():
            held = wait_until(lambda folder=folder: (folder / "held").exists(), 60)  # type: ignore[misc]
            assert held, f"{host}: the controller never came to confirm"
        far.until(f"[ -e {_STATE}/reverted/reason ] && [ ! -e {_STATE}/armed ]", running)
    finally:
        for folder in folders.values():
            (folder / "release").touch()
    _is("reverted", _results(running), "no confirmation came within 15 seconds")


def test_a_confirmation_over_the_old_connection_is_denied(far: Far) -> None:
    results = far.each(lambda host: _between(far, host, do="share", confirm={"seconds": 6}))
    _is("reverted", results, "no confirmation came within 6 seconds")
    _is("reverted", results, "over the connection that made the change; a new one is required")


def test_a_site_that_forces_multiplexing_is_confirmed_over_a_new_connection(far: Far) -> None:
    forced = {
        "ansible_ssh_args": f"-o ControlMaster=auto -o ControlPersist=30s -o ControlPath={far.folder}/%C"
    }
    _is("confirmed", far.each(lambda host: far.commit(host, variables=forced)))


def _between(
    far: Far, host: str, folder: Path | None = None, confirm: Any = None, **told: str
) -> dict[str, Any]:
    """A commit through an ssh that misbehaves."""
    folder = folder or far.folder_for(host)
    result = far.commit(
        host,
        variables={"ansible_ssh_executable": _BETWEEN},
        environment={"SALLYPORT_TRIAL_SSH": json.dumps({**told, "folder": str(folder)})},
        **({"confirm": confirm} if confirm else {}),
    )
    assert told["do"] == "share" or (folder / "done").exists(), (
        f"{host}: no exchange was like {told}: {result}"
    )
    return result


# --- login shells --------------------------------------------------------------------------------------------

_NOISE = {
    "lines before and after": ("echo Welcome; echo; echo 'say reverted x'", "echo Goodbye"),
    "no newline": ("printf 'Welcome> '", "printf bye"),
    "megabytes": (
        "yes 'all work and no play' | head -n 100000; yes warning | head -n 100000 >&2",
        "yes bye | head -n 300000",
    ),
}


@contextlib.contextmanager
def _login_shell(far: Far, text: str) -> Iterator[None]:
    """Log in through a shell of the test's own."""
    change = "sed -i 's|^\\(root:.*:\\)[^:]*$|\\1/root/trial-shell|' /etc/passwd"

    def begin(host: str) -> None:
        script = f"cp -p /etc/passwd /root/trial-passwd; cp -p /etc/shells /root/trial-shells; echo /root/trial-shell >>/etc/shells; {change}"
        far.devices.inside(
            host, f"cat >/root/trial-shell <<'END'\n{text}END\nchmod 755 /root/trial-shell\n{script}"
        )

    def end(host: str) -> None:
        far.devices.inside(
            host, "mv /root/trial-passwd /etc/passwd; mv /root/trial-shells /etc/shells; rm /root/trial-shell"
        )

    far.each(begin)
    try:
        yield
    finally:
        far.each(end)


@pytest.mark.parametrize("noise", _NOISE)
def test_what_a_login_shell_prints_of_its_own_is_no_answer(noise: str, far: Far) -> None:
    before, after = _NOISE[noise]
    shell = f'#!/bin/sh\n{before}\n/bin/sh "$@"\ncode=$?\n{after}\nexit "$code"\n'
    with _login_shell(far, shell):
        _is("confirmed", far.each(far.commit))
        again = far.each(far.commit)
        found = {host: (result["state"], result["exchanges"]) for host, result in again.items()}
        assert found == dict.fromkeys(HOSTS, ("unchanged", 1)), again


def test_a_login_shell_that_eats_the_program_is_refused_by_name(far: Far) -> None:
    with _login_shell(far, '#!/bin/sh\ncat >/dev/null\nexec /bin/sh "$@"\n'):
        for host, result in far.each(far.commit).items():
            assert result["failed"] and "does not carry standard input" in result["msg"], f"{host}: {result}"
