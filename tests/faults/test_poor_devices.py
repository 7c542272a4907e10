"""Poor devices: full, read-only, forgetful, short of memory and tools, with a clock that lies or a lock that somebody left.
Each is confirmed, or refused or taken back by name, with the device wholly as it was."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleError
from ansible_collections.sallyport.iot.plugins.plugin_utils.device import payload
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.transaction import File, Transaction

from tests.faults import trial
from tests.faults.chamber import SHELLS, STATE, Chamber, ChamberExchange, needs_root, wait_until
from tests.faults.counted import COUNTED
from tests.faults.on_devices import Devices

pytestmark = needs_root
_FILE = {"dest": "/etc/trial", "content": "new\n"}
_PROGRAM = Path(payload.__file__).with_name("program.sh")
OTHER = Transaction(
    name="other",
    files=(File("/etc/other", content=b"of another controller\n"),),
    confirm=trial.CHANGE.confirm,
)


# --- in the chamber: one small ext4 and one shell -----------------------------------------------------------------

Case = tuple[Callable[[Chamber], str], str, str]


def _full(chamber: Chamber) -> str:
    chamber.sh("cat /dev/zero >/fill 2>/dev/null || :; sync; cat /dev/zero >>/fill 2>/dev/null || :")
    return "rm /fill"


def _almost_full(chamber: Chamber) -> str:
    chamber.sh("head -c 15000 /dev/zero >/spare; sync")
    _full(chamber)
    chamber.sh("rm /spare; sync")
    return "rm /fill"


def _no_inodes(chamber: Chamber) -> str:
    chamber.sh("mkdir /fill; i=0; while true >/fill/$i; do i=$((i + 1)); done 2>/dev/null")
    return "rm -r /fill"


def _outside(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _read_only(chamber: Chamber) -> str:
    _outside("mount", "-o", "remount,ro", str(chamber.root))
    return ""


def _state_in_memory(chamber: Chamber) -> str:
    _outside("mount", "-t", "tmpfs", "tmpfs", f"{chamber.root}/var/lib")
    return ""


def _immutable(chamber: Chamber) -> str:
    _outside("chattr", "+i", f"{chamber.root}/etc/one")
    return ""


def _mount_point(chamber: Chamber) -> str:
    _outside("mount", "--bind", f"{chamber.root}/etc/one", f"{chamber.root}/etc/one")
    return ""


_REFUSED: dict[str, tuple[Callable[[Chamber], str], str]] = {
    "a full disk": (_full, r"the file system of / is full: .* up to \d+ kB there, and \d+ kB are free\. Delete files"),
    "a disk with less room than the change needs": (_almost_full, r"is full: .* up to \d+ kB there, and \d\d kB are free"),
    "no inodes": (_no_inodes, r"no inodes left: .* up to \d+ files there, and \d+ are free\. Delete files"),
    "a read-only root": (_read_only, "read-only file system .* Remount it writable"),
    "a state folder in memory": (_state_in_memory, "lies on tmpfs .*Set state_dir to a folder on persistent storage"),
    "an immutable file": (_immutable, "/etc/one cannot be replaced: it is immutable"),
    "a mount point": (_mount_point, "/etc/one is a mount point"),
}  # fmt: skip


@pytest.mark.parametrize("what", _REFUSED)
def test_a_device_that_cannot_take_the_change_refuses_it_by_name_and_stays_as_it_is(
    what: str,
    both_shells: Callable[..., dict[str, Any]],
) -> None:
    prepare, message = _REFUSED[what]
    for shell, (said, problems) in both_shells(_refused, prepare).items():
        assert re.search(message, said), f"{what}, {shell}: {said}"
        assert not problems, f"{what}, {shell}: {problems}"
    COUNTED.append(f"{what}, {' and '.join(SHELLS)}: refused")


def _refused(setting: trial.Setting, prepare: Callable[[Chamber], str]) -> tuple[str, list[str]]:
    """What the controller says of such a device, and what is wrong with it then and after a next run with room again."""
    with trial.fresh(setting, "poor") as chamber:
        again = prepare(chamber)
        try:
            return str(chamber.commit(trial.CHANGE)), ["it was not refused"]
        except AnsibleError as error:
            said = str(error)
        problems = trial.old(chamber, setting)
        if "nothing was changed" not in said:
            problems.append("the message does not say that nothing was changed")
        if again:
            problems += [f"left over: {name}" for name in chamber.leftovers()]
            chamber.sh(again)
            problems += trial.next_run(chamber, setting)
        return said, problems


# What somebody left behind: -> does the change of the other controller have to be old afterwards?
def _stale_lock(chamber: Chamber) -> None:
    chamber.sh(f"mkdir -p {STATE}/armed")


def _stale_stage(chamber: Chamber) -> None:
    chamber.sh(
        f"mkdir -p {STATE}/stage.0000/new; echo '1 1' >{STATE}/stage.0000/program; echo secret >{STATE}/stage.0000/new/1"
    )


def _unsigned_stage(chamber: Chamber) -> None:
    chamber.sh(f"mkdir -p {STATE}/stage.0000.1.1/new {STATE}/stage.0001/new; : >{STATE}/stage.0001/program")


def _pending(chamber: Chamber) -> None:
    """Another controller's change, armed and not confirmed; its guards are alive."""
    identity = "00000000000000ff"
    program = payload.stage(
        OTHER,
        identity,
        [(1, OTHER.files[0])],
        install=True,
        arm=True,
        by="another",
        when="2026-01-01T00:00:00Z",
    )
    reply = ChamberExchange(chamber).run(program)
    assert "armed" in reply, reply
    assert wait_until((chamber.root / "etc/other").exists)


def _pending_of_nobody(chamber: Chamber) -> None:
    """The same, with every one of its processes killed."""
    _pending(chamber)
    for _ in range(50):
        pids = trial.processes(chamber)
        if not pids:
            return
        chamber.sh(f"kill -9 {' '.join(pids)} 2>/dev/null || :")
    raise AssertionError("still running")


def _pending_without_program(chamber: Chamber) -> None:
    _pending_of_nobody(chamber)
    chamber.sh(f"rm {STATE}/device")


_LEFT: dict[str, Callable[[Chamber], None]] = {
    "an empty lock of a dead controller": _stale_lock,
    "a stage of a dead controller": _stale_stage,
    "a stage of a controller that died before it signed": _unsigned_stage,
    "a pending change of a live controller": _pending,
    "a pending change of a dead controller": _pending_of_nobody,
    "a pending change whose device program is gone": _pending_without_program,
}


@pytest.mark.parametrize("what", _LEFT)
def test_what_another_controller_left_is_ended_or_waited_for_and_the_change_confirmed(
    what: str,
    both_shells: Callable[..., dict[str, Any]],
) -> None:
    for shell, problems in both_shells(_after, _LEFT[what]).items():
        assert not problems, f"{what}, {shell}: {problems}"
    COUNTED.append(f"{what}, {' and '.join(SHELLS)}: ended, then confirmed")


def _after(setting: trial.Setting, prepare: Callable[[Chamber], None]) -> list[str]:
    with trial.fresh(setting, "left") as chamber:
        prepare(chamber)
        problems = trial.next_run(chamber, setting)
        if (chamber.root / "etc/other").exists():
            problems.append("the change that nobody confirmed is still there")
        return problems


def test_what_another_controller_is_just_beginning_is_left_to_it(
    both_shells: Callable[..., dict[str, Any]],
) -> None:
    """Between the folder and its signature lies a moment in which another one may arm; it took the folder away once."""
    for shell, there in both_shells(_beside_one_that_begins).items():
        assert there, shell


def _beside_one_that_begins(setting: trial.Setting) -> bool:
    with trial.fresh(setting, "begins") as chamber:
        # Number 1 is the chamber's own init: a process that lives, as the other controller's shell does.
        began = "read -r line </proc/1/stat; set -- ${line##*) }; shift 19"
        chamber.sh(f"{began}; mkdir -p {STATE}/stage.0000.1.$1/new")
        chamber.commit(trial.CHANGE)
        return bool([*(chamber.root / STATE.lstrip("/")).glob("stage.0000.1.*/new")])


@pytest.mark.parametrize("shell", SHELLS)
def test_a_stage_is_signed_anew_in_one_step(
    shell: str, settings: Callable[[str, str, str], trial.Setting], apart: Any
) -> None:
    """A signature that is just being written is nobody's, and a controller that arms at that moment takes it so."""
    points = apart.apply(trial.record, (settings(shell, "default", "confirmed"),))
    calls = [str(point) for point in points if point.role == "arm" and str(point).endswith("/program")]
    assert calls and all(": rename" in call for call in calls), calls


class _Emptied(ChamberExchange):
    """Somebody empties the state folder right after the change was armed."""

    @contextlib.contextmanager
    def as_new_connection(self, known_hosts: str = "", timeout: int = 0) -> Iterator[None]:
        self.chamber.sh(f"rm -rf {STATE}")
        with super().as_new_connection(known_hosts, timeout):
            yield


def test_a_state_folder_that_is_emptied_under_an_armed_change_is_said_and_the_next_run_converges(
    both_shells: Callable[..., dict[str, Any]],
) -> None:
    for shell, (said, problems) in both_shells(_emptied).items():
        assert "no record of what became of it" in said and "nothing was changed" not in said, (
            f"{shell}: {said}"
        )
        assert not problems, f"{shell}: {problems}"


def _emptied(setting: trial.Setting) -> tuple[str, list[str]]:
    with trial.fresh(setting, "emptied") as chamber:
        try:
            return str(chamber.commit(trial.CHANGE, exchange=_Emptied(chamber))), []
        except AnsibleError as error:
            said = str(error)
        for pid in trial.processes(chamber):
            chamber.sh(f"kill -9 {pid} 2>/dev/null || :")
        chamber.commit(trial.CHANGE)
        again = chamber.commit(trial.CHANGE)["state"]
        return said, [] if again == "unchanged" else [f"the run after the next one is {again}"]


def test_of_eight_controllers_at_once_each_is_confirmed_or_refused_for_another(
    both_shells: Callable[..., dict[str, Any]], thorough: bool
) -> None:
    rounds = 20 if thorough else 2
    for shell, (confirmed, problems) in both_shells(_eight_at_once, rounds).items():
        assert not problems, f"{shell}: {problems}"
        assert confirmed >= rounds, shell
        COUNTED.append(
            f"eight controllers at once, {shell}: {confirmed} of {8 * rounds} confirmed, the others refused"
        )


def _eight_at_once(setting: trial.Setting, rounds: int) -> tuple[int, list[str]]:
    """How many were confirmed, and what is wrong with the device or with what the others were told."""
    confirmed, problems = 0, []
    with trial.fresh(setting, "eight") as chamber:
        for turn in range(rounds):
            text = f"turn {turn}\n"
            for number, said in enumerate(_in_processes(partial(_one_of_many, chamber, text), 8)):
                there = f"/etc/of-{number}"
                made = chamber.root / there.lstrip("/")
                confirmed += said == "confirmed"
                if (said == "confirmed") != (made.exists() and made.read_text() == text):
                    problems.append(f"{there} does not go with: {said}")
                if said != "confirmed" and not re.search("nothing was changed: another change", said):
                    problems.append(said)
            problems += [f"left over: {name}" for name in chamber.leftovers()]
    return confirmed, problems


def _one_of_many(chamber: Chamber, text: str, number: int) -> str:
    change = replace(trial.CHANGE, name=f"of-{number}", files=(File(f"/etc/of-{number}", content=text.encode()),),
                     activate=(), verify=(), live=())  # fmt: skip
    try:
        return str(chamber.commit(change)["state"])
    except AnsibleError as error:
        return str(error)


def _in_processes(function: Callable[[int], str], count: int) -> list[str]:
    """What each of ``count`` processes says; forked, since a process in the chamber's namespaces can start no threads."""
    ends = []
    for number in range(count):
        reading, writing = os.pipe()
        if os.fork() == 0:
            try:
                os.write(writing, function(number).encode()[:4096])
            finally:
                os._exit(0)
        os.close(writing)
        ends.append(reading)
    said = [Path(f"/proc/self/fd/{end}").read_text() for end in ends]
    for end in ends:
        os.close(end)
        os.wait()
    return said


# --- on the lab's devices -----------------------------------------------------------------------------------------


@pytest.fixture
def clean(devices: Devices) -> Iterator[Devices]:
    yield devices
    for host in ("debian12", "vendor", "poor"):
        left = "ls -d /var/lib/sallyport /etc/trial* 2>/dev/null || :"
        if devices.inside(host, left):
            devices.rollback(host, to="factory")
            assert not devices.inside(host, left), host


def test_a_device_without_base64_sha256sum_setsid_and_timeout_confirms_and_takes_back(clean: Devices) -> None:
    missing = "for tool in base64 sha256sum setsid timeout stat mktemp nohup; do command -v $tool; done || :"
    assert not clean.inside("poor", missing)
    result = clean.commit("poor", files=[_FILE])
    assert result["state"] == "confirmed", result
    assert clean.commit("poor", files=[_FILE])["state"] == "unchanged"
    back = clean.commit("poor", files=[{**_FILE, "content": "other\n", "mode": "0600"}], verify=["false"])
    assert back["state"] == "reverted" and "verify: status 1" in back["msg"], back
    assert clean.inside("poor", "cat /etc/trial; ls -l /etc/trial").startswith("new\n-rw-r--r--")


def test_a_root_that_forgets_is_refused_by_name(devices: Devices) -> None:
    result = devices.commit("volatile", files=[_FILE])
    assert result["failed"] and result["state"] == "refused", result
    assert (
        "upper directory /mnt/upper lies on tmpfs" in result["msg"] and "lost at reboot" in result["msg"]
    ), result["msg"]
    assert not devices.inside("volatile", "ls -d /var/lib/sallyport /etc/trial 2>/dev/null || :")


@pytest.mark.parametrize("host", ["debian12", "vendor"])
def test_temporary_folders_that_run_nothing_are_no_hindrance(host: str, clean: Devices) -> None:
    clean.inside(
        host, "for d in /tmp /var/tmp; do mkdir -p $d; mount -t tmpfs -o noexec,mode=1777 tmpfs $d; done"
    )
    try:
        result = clean.commit(host, files=[{**_FILE, "check": 'grep -q new "$1"'}], activate=["true"])
    finally:
        clean.inside(host, "umount /tmp /var/tmp")
    assert result["state"] == "confirmed", result


@pytest.fixture
def short_of_memory(clean: Devices) -> Iterator[Callable[[str], None]]:
    """Limits what the gateway's processes may have together."""
    container = clean.lab.container("vendor")

    def limit(amount: str) -> None:
        _outside("podman", "update", "--memory", amount, "--memory-swap", amount, container)

    yield limit
    limit("4g")


def test_a_list_that_the_memory_cannot_hold_is_refused_with_the_figures(
    clean: Devices, short_of_memory: Callable[[str], None]
) -> None:
    content = "a line of a list of prefixes 198.51.100.0/24\n" * 116_000
    short_of_memory("16m")
    result = clean.commit("vendor", files=[{**_FILE, "content": content}])
    assert result["failed"] and result["state"] == "refused", str(result)[:800]
    assert re.search(
        r"too little memory for a change of \d+ kB: .* up to \d+ kB .* and 16384 kB can be had", result["msg"]
    )
    assert not clean.inside("vendor", "ls -d /var/lib/sallyport /etc/trial 2>/dev/null || :")


def test_an_activation_that_the_memory_cannot_hold_is_taken_back_with_the_reason(
    clean: Devices, short_of_memory: Callable[[str], None]
) -> None:
    short_of_memory("24m")
    greedy = "x=$(head -c 100000000 /dev/zero | tr '\\000' x); test -n \"$x\""
    result = clean.commit(
        "vendor", files=[_FILE], activate=[greedy], revert=["true"], confirm={"seconds": 20}
    )
    assert result["failed"] and result["state"] == "reverted", result
    assert "memory ran out" in result["msg"] and "24576 kB" in result["msg"], result["msg"]
    assert not clean.inside("vendor", "ls -d /etc/trial 2>/dev/null || :")


_DATE = """\
#!/bin/sh
# 1970 when first asked, then a day later each time.
echo asked >>/run/date-asked
n=0; while read -r _; do n=$((n + 86400)); done </run/date-asked
case $* in *%s*) echo $n ;; *) echo 'Thu Jan  1 00:00:00 UTC 1970' ;; esac
"""
_LOCK_OUT = {
    "debian12": {"activate": ["systemctl stop ssh"], "revert": ["systemctl start ssh"]},
    "vendor": {
        "activate": ["iptables -I INPUT -p tcp --dport 22 -j DROP"], "revert": ["iptables -D INPUT -p tcp --dport 22 -j DROP || :"],
    },
}  # fmt: skip


@pytest.mark.parametrize("host", ["debian12", "vendor"])
def test_with_a_clock_in_1970_that_jumps_the_time_to_confirm_is_the_time_that_passes(
    host: str, clean: Devices
) -> None:
    """The machine's clock is not touched: whoever asks the device for the time would get the wrong one, and nobody asks."""
    program = _PROGRAM.read_text()
    assert "/proc/uptime" in program and not re.search(r"\bdate\b|-[no]t \"|-newer|EPOCH|\btouch\b", program)
    clean.inside(
        host,
        f"mv /bin/date /bin/date.real\ncat >/bin/date <<'EOF'\n{_DATE}EOF\nchmod 755 /bin/date; date >/dev/null; rm /run/date-asked",
    )
    try:
        good = clean.commit(host, files=[_FILE])
        bad = clean.commit(
            host, files=[{**_FILE, "content": "other\n"}], confirm={"seconds": 6}, **_LOCK_OUT[host]
        )
        asked = clean.inside(host, "cat /run/date-asked 2>/dev/null || :")
    finally:
        clean.inside(host, "mv /bin/date.real /bin/date; rm -f /run/date-asked")
    assert good["state"] == "confirmed", good
    assert bad["state"] == "reverted" and "no confirmation came within 6 seconds" in bad["msg"], bad
    assert not asked
