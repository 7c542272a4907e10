# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""One change on one chamber, broken at one point, and what became of it. Run in a process that ``isolate`` prepared."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible_collections.sallyport.iot.plugins.plugin_utils.device import generations, payload
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.commit import CommitError
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply, frame, parse
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.transaction import (
    Confirm,
    File,
    Transaction,
)

from tests.faults.chamber import (
    PATH,
    STATE,
    Chamber,
    ChamberExchange,
    Replayed,
    check_image,
    make_image,
    wait_until,
)

FACTORY = {
    "/etc/inittab": ("::sysinit:/etc/rc\n::respawn:/sbin/getty\n", 0o644, 0),
    "/etc/passwd": ("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n", 0o644, 0),
    "/etc/group": ("root:x:0:\nuser:x:1000:\n", 0o644, 0),
    "/etc/one": ("old one\n", 0o644, 0),
    "/etc/gone": ("to go\n" * 3000, 0o640, 0),
    "/etc/pointer": ("-> one", 0, 0),
    "/etc/users": ("old secret\n", 0o600, 1000),
}
CHANGE = Transaction(
    name="trial",
    files=(
        File("/etc/one", content=b"new one\n", mode="0600"),
        File("/etc/made/deep/two", content=b"two\n" * 3000),
        File("/etc/gone", kind="absent"),
        File("/etc/pointer", kind="link", target="made/deep/two"),
        File("/etc/users", content=b"new secret\n", mode="0640", owner="1000", group="1000", secret=True),
    ),
    activate=("cat /etc/one >/run/live",),
    verify=("[ -f /etc/made/deep/two ]", "[ ! -e /etc/gone ]"),
    live=("cat /run/live",),
    confirm=Confirm(seconds=3),
)
SCENARIOS = ("confirmed", "abandoned", "factory")
"""``factory``: the change was confirmed before, and is now taken back for good."""

STAGE_FROM, CONFIRM_FROM = "10.0.0.1 1111 10.0.0.2 22", "10.0.0.1 2222 10.0.0.2 22"
# What a controller does on a device, session by session; roles for crashpoint stand behind -s.
_DRIVER = """
cd /tmp
SSH_CONNECTION='@stage' sh -s stage <stage >reply.stage 2>errors.stage
[ "${2:-}" = confirm ] || exit 0
tries=0
while [ "$tries" -lt 60 ]; do
  tries=$((tries + 1))
  SSH_CONNECTION='@confirm' sh -s confirm <confirm >reply.confirm 2>errors.confirm
  if grep -q -e '^confirmed' -e '^reverted' -e '^unknown' -e '^unfinished' reply.confirm; then break; fi
  sleep 0.2
done
if [ -f clear ] && grep -q '^confirmed' reply.confirm; then
  SSH_CONNECTION='@confirm' sh -s clear <clear >reply.clear 2>errors.clear
fi
"""
_FOLDERS = ("/etc/made", "/etc/made/deep")
_NONCE = "0" * 24
_SESSION = "driver,stage,arm,confirm,clear"


@dataclass(frozen=True)
class Setting:
    """Where and what: everything that a trial needs besides the point. ``template`` is the device before the change."""

    shell: str
    medium: str
    scenario: str
    crashpoint: Path
    tools: Path
    template: Path
    work: Path


@dataclass(frozen=True)
class Point:
    """One side of one call, and for a power cut the medium at that instant."""

    role: str
    number: int
    when: str
    medium: str
    what: str

    def __str__(self) -> str:
        return f"{self.when} call {self.number} of {self.role}: {self.what}"


def own(function: Callable[..., list[str]], setting: Setting, *arguments: Any) -> list[str]:
    """Run a trial in a work folder of this process."""
    return function(replace(setting, work=setting.work / str(os.getpid())), *arguments)


def prepare(template: Path, shell: str, tools: Path, scenario: str) -> None:
    """Make the image from which all trials of a scenario start."""
    make_image(template, FACTORY)
    if scenario != "factory":
        return
    chamber = Chamber(template, shell, "default", tools, template.with_suffix(".root"))
    try:
        _start_services(chamber)
        chamber.commit(CHANGE)
        wait_until(lambda: not _running(chamber))
        chamber.sh("sync")
    finally:
        chamber.close()


def record(setting: Setting, how: str = "") -> list[Point]:
    """Run the scenario unharmed and return all its points; with ``how`` the media are kept in work/media."""
    media = setting.work / f"media-{how}"
    media.mkdir(parents=True, exist_ok=True)
    image = _fresh(setting, "record")
    chamber = Chamber(image, setting.shell, setting.medium, setting.tools, setting.work / "record.root")
    try:
        mode = ["cut", str(image), str(media), how] if how else ["record"]
        log = _drive(chamber, setting, mode)
        reply = _replies(chamber)
        expected = "reverted" if setting.scenario == "abandoned" else "confirmed"
        if reply != ("" if setting.scenario == "abandoned" else "confirmed") or chamber.pending():
            raise RuntimeError(
                f"the unharmed run was not {expected}: {reply!r}\n{_words(chamber)}\n{log[-2000:]}"
            )
        problems = _judge(chamber, setting, may_be_old=setting.scenario == "abandoned", may_be_new=True)
        if problems:
            raise RuntimeError(f"the unharmed run: {problems}")
    finally:
        chamber.close()
        image.unlink()
    points = []
    for line in log.splitlines():
        role, number, when, medium, what = line.split(" ", 4)
        points.append(Point(role, int(number), when, medium, what))
    return points


def unharmed(setting: Setting) -> list[str]:
    """Run the scenario to its end; what is wrong with the outcome, given where the confirmation came from."""
    image = _fresh(setting, "unharmed")
    chamber = Chamber(image, setting.shell, setting.medium, setting.tools, setting.work / "unharmed.root")
    try:
        _drive(chamber, setting, ["record"])
        proved = setting.scenario != "abandoned" and CONFIRM_FROM != STAGE_FROM
        return _judge(chamber, setting, may_be_old=not proved, may_be_new=proved)
    finally:
        chamber.close()
        image.unlink()


def kill(setting: Setting, point: Point, session: bool) -> list[str]:
    """Kill the process that makes the call (or the whole session), let the device settle, run again."""
    image = _fresh(setting, "kill")
    chamber = Chamber(image, setting.shell, setting.medium, setting.tools, setting.work / "kill.root")
    try:
        mode = ["session" if session else "kill", point.role, str(point.number), point.when]
        log = _drive(chamber, setting, [*mode, _SESSION] if session else mode)
        if "injected" not in log:
            # A guard that found its work done has no such call in this run; every other role always has it.
            return [] if point.role in ("guard", "guards") else [f"never reached: {point}"]
        reply = _replies(chamber)
        problems = _judge(
            chamber, setting, may_be_old=reply != "confirmed", may_be_new=reply != "reverted", settled=False
        )
        return problems + _run_again(chamber, setting)
    finally:
        chamber.close()
        image.unlink()


def fill(setting: Setting, point: Point, scarce: str) -> list[str]:
    """From this point on no block, or no inode, is left; when the device has settled there is room again, and a next run."""
    image = _fresh(setting, "fill")
    chamber = Chamber(image, setting.shell, setting.medium, setting.tools, setting.work / "fill.root")
    try:
        transaction = _transaction(chamber, setting)
        asked = ChamberExchange(chamber).run(payload.query(transaction, []))
        log = _drive(chamber, setting, ["fill", point.role, str(point.number), point.when, scarce])
        if "injected" not in log:
            return [] if point.role in ("guard1", "guard2", "guard", "run") else [f"never reached: {point}"]
        heard = _heard(chamber)
        unfinished = any("unfinished" in reply for reply in heard) or (
            len(heard) > 2 and heard[2].status != 0
        )
        confirmed = unfinished or any("confirmed" in reply for reply in heard)
        problems = _judge(chamber, setting, may_be_old=not confirmed, may_be_new=confirmed, settled=False)
        if chamber.pending() and not unfinished:
            problems.append("still pending, with nobody left to end it")
        # A refusal is the last that the controller hears; it does not try to confirm.
        said = _told(chamber, transaction, [asked, *heard[: 1 if heard[0].status else 3]])
        wanted = "is full" if scarce == "blocks" else "has no inodes left"
        if (unfinished or not confirmed) and wanted not in said:
            problems.append(f"the controller does not say why: {said}\n{_words(chamber)}")
        for path in chamber.root.glob("fill*"):
            path.unlink()
        return problems + _run_again(chamber, setting)
    finally:
        chamber.close()
        image.unlink()


def _heard(chamber: Chamber) -> list[Reply]:
    """The last replies to the stage, the confirmation and the last step to factory, as the controller reads them."""
    replies = []
    for name in ("stage", "confirm", "clear"):
        path = chamber.root / f"tmp/reply.{name}"
        parsed = parse(path.read_text(errors="replace"), _NONCE) if path.exists() else None
        if parsed:
            errors = (chamber.root / f"tmp/errors.{name}").read_text(errors="replace")
            replies.append(Reply(tuple(parsed[0]), parsed[1], errors))
    return replies


def _told(chamber: Chamber, transaction: Transaction, heard: list[Reply]) -> str:
    """What the operator reads: the controller's code on what it heard, and on the device as it is now."""
    exchange = Replayed(chamber, heard)
    try:
        return str(chamber.commit(transaction, exchange=exchange))
    except AnsibleError as error:
        return str(error)


def cut(setting: Setting, medium: Path, must_be: str, again: bool = True) -> list[str]:
    """Power comes back on a device with this medium; ``must_be`` old, new or either. ``again``: then a next run."""
    if must_be == "contradiction":
        return ["the medium that a confirmed change leaves is the same as one from before the verdict"]
    setting.work.mkdir(parents=True, exist_ok=True)
    image = setting.work / "cut.img"
    shutil.copy(medium, image)
    problem = check_image(image)
    if problem:
        return [problem]
    chamber = Chamber(image, setting.shell, setting.medium, setting.tools, setting.work / "cut.root")
    try:
        hooked = chamber.boot()
        _start_services(chamber)
        # A cut before the first boot line was written leaves the rubbish to the next run.
        problems = [f"left over after the boot: {name}" for name in chamber.leftovers() if hooked]
        problems += _judge(
            chamber, setting, may_be_old=must_be != "new", may_be_new=must_be != "old", settled=hooked
        )
        return problems + (_run_again(chamber, setting) if again else [])
    finally:
        chamber.close()
        image.unlink()


def must_be(points: list[Point]) -> dict[str, str]:
    """For every medium of a recording what a boot from it must lead to."""
    verdict = next(
        (
            i
            for i, point in enumerate(points)
            if point.what.endswith("/tx/open /var/lib/sallyport/armed/tx/confirmed")
        ),
        len(points),
    )
    # The confirming program goes on with its first other call once the flush of the verdict is over.
    done = next(
        (i for i, p in enumerate(points) if i > verdict + 1 and p.role == "confirm" and not _is_flush(p)),
        len(points),
    )
    wanted: dict[str, str] = {}
    for index, point in enumerate(points):
        here = "old" if index <= verdict else "new" if index >= done else "either"
        before = wanted.get(point.medium, "either")
        if {before, here} == {"old", "new"}:
            # The same bytes on the medium before the verdict and after its flush: the flush did nothing.
            here = "contradiction"
        wanted[point.medium] = here if before == "either" else before if here == "either" else here
    return wanted


def _is_flush(point: Point) -> bool:
    return point.what.split(" ")[0] in ("sync", "syncfs", "fsync", "fdatasync")


@contextlib.contextmanager
def fresh(setting: Setting, name: str) -> Iterator[Chamber]:
    """A device as it was before the change, running."""
    image = _fresh(setting, name)
    chamber = Chamber(image, setting.shell, setting.medium, setting.tools, setting.work / f"{name}.root")
    try:
        _start_services(chamber)
        yield chamber
    finally:
        chamber.close()
        image.unlink()


def old(chamber: Chamber, setting: Setting) -> list[str]:
    """What is not as it was before the change."""
    return _judge(chamber, setting, may_be_old=True, may_be_new=False)


def next_run(chamber: Chamber, setting: Setting) -> list[str]:
    """What a run of the change leaves to be desired."""
    return _run_again(chamber, setting)


def processes(chamber: Chamber) -> list[str]:
    """Numbers of the device program's processes, as the device sees them."""
    return [number for number, _ in _programs(chamber)]


def _fresh(setting: Setting, name: str) -> Path:
    setting.work.mkdir(parents=True, exist_ok=True)
    image = setting.work / f"{name}.img"
    shutil.copy(setting.template, image)
    return image


def _transaction(chamber: Chamber, setting: Setting) -> Transaction:
    if setting.scenario != "factory":
        return CHANGE
    known = generations.parse(ChamberExchange(chamber).run(generations.listing(STATE)))
    return generations.way_back(known, 0, state_dir=STATE, seconds=3)


def _start_services(chamber: Chamber) -> None:
    """What a boot does with the files that it finds."""
    chamber.sh("cat /etc/one >/run/live")


def _drive(chamber: Chamber, setting: Setting, mode: list[str]) -> str:
    """The scenario under crashpoint; its log."""
    _start_services(chamber)
    transaction = _transaction(chamber, setting)
    changed = list(enumerate(transaction.files, 1))
    stage = payload.stage(
        transaction, "0123456789abcdef", changed, install=setting.scenario != "factory", arm=True,
        by="trial", when="2026-01-01T00:00:00Z",
    )  # fmt: skip
    confirm = payload.call(STATE, "confirm", "0123456789abcdef", "no", "ssh")
    tmp = chamber.root / "tmp"
    (tmp / "stage").write_bytes(frame(stage, _NONCE))
    (tmp / "confirm").write_bytes(frame(confirm, _NONCE))
    if transaction.factory:
        (tmp / "clear").write_bytes(frame(generations.clear(STATE), _NONCE))
    (tmp / "driver").write_text(_DRIVER.replace("@stage", STAGE_FROM).replace("@confirm", CONFIRM_FROM))
    log = setting.work / "log"
    words = [] if setting.scenario == "abandoned" else ["confirm"]
    with open(tmp / "driver", "rb") as script:
        done = subprocess.run(
            [str(setting.crashpoint), str(chamber.root), str(log), *mode, "--", "/bin/sh", "-s", "driver", *words],
            stdin=script, capture_output=True, text=True, check=False, timeout=90,
            env={"PATH": PATH},
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"crashpoint: status {done.returncode}: {done.stderr}\n{log.read_text()[-1500:]}")
    return log.read_text()


def _replies(chamber: Chamber) -> str:
    """What the controller heard: confirmed, reverted, or nothing certain."""
    path = chamber.root / "tmp/reply.confirm"
    parsed = parse(path.read_text(errors="replace"), _NONCE) if path.exists() else None
    keys = [key for key, _ in parsed[0]] if parsed else []
    return next((word for word in ("confirmed", "reverted") if word in keys), "")


def _words(chamber: Chamber) -> str:
    parts = []
    for path in sorted((chamber.root / "tmp").glob("[er]*.*")):
        parts.append(f"{path.name}: {path.read_text(errors='replace')[-800:]}")
    return "\n".join(parts)


def _states(setting: Setting) -> dict[str, dict[str, tuple[str, ...]]]:
    """The device before and after the change, both derived from what was asked for, not from a run."""
    old: dict[str, tuple[str, ...]] = {}
    for path, (content, mode, owner) in FACTORY.items():
        old[path] = (
            ("link", content[3:])
            if content.startswith("-> ")
            else ("file", f"{mode:04o}", f"{owner}:{owner}", content)
        )
    new = dict(old)
    for item in CHANGE.files:
        new.pop(item.dest, None)
        if item.kind == "link":
            new[item.dest] = ("link", item.target)
        elif item.kind == "file":
            owner = "0" if item.owner == "root" else item.owner
            new[item.dest] = ("file", item.mode, f"{owner}:{owner}", item.content.decode())
    for folder in _FOLDERS:
        new[folder] = ("folder", "0755", "0:0")
    return {"old": new, "new": old} if setting.scenario == "factory" else {"old": old, "new": new}


def _judge(
    chamber: Chamber, setting: Setting, *, may_be_old: bool, may_be_new: bool, settled: bool = True
) -> list[str]:
    """Files and live state are wholly old or wholly new, as far as either is allowed."""
    found = chamber.snapshot()
    loose = set()
    if not settled:
        # A killed program's temporary files, and empty folders for new files, may wait for the next run.
        loose = {path for path in found if ".sallyport-" in path} | set(_FOLDERS)
    visible = {path: what for path, what in found.items() if path not in loose}
    states = {
        name: {path: what for path, what in state.items() if path not in loose}
        for name, state in _states(setting).items()
    }
    is_one = [name for name, state in states.items() if state == visible]
    if not is_one:
        nearest = states["old"] if may_be_old else states["new"]
        differing = sorted(path for path in {*visible, *nearest} if visible.get(path) != nearest.get(path))
        shown = [
            f"{path}: {str(visible.get(path))[:80]}, not {str(nearest.get(path))[:80]}" for path in differing
        ]
        return [f"a mixture: {'; '.join(shown)}"]
    problems = []
    if is_one == ["old"] and not may_be_old:
        problems.append("the old state, though the controller was told that the new one is confirmed")
    if is_one == ["new"] and not may_be_new:
        problems.append("the new state, though nobody confirmed it")
    live = (chamber.root / "run/live").read_text()
    if live != visible["/etc/one"][3]:
        problems.append(f"files are {is_one[0]}, but the live state is {live!r}")
    return problems


def _running(chamber: Chamber) -> list[str]:
    """Command lines of the device program's processes that are still there."""
    return [words for _, words in _programs(chamber)]


def _programs(chamber: Chamber) -> list[tuple[str, str]]:
    found = []
    for path in (chamber.root / "proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if f"{STATE}/device".encode() in words:
            found.append((path.parent.name, b" ".join(words).decode()))
    return found


def _run_again(chamber: Chamber, setting: Setting) -> list[str]:
    """The next run converges by itself, and leaves nothing over."""
    if setting.scenario == "factory":
        known = generations.parse(ChamberExchange(chamber).run(generations.listing(STATE)))
        transaction = _transaction(chamber, setting) if known else None
        if not known:
            ChamberExchange(chamber).run(generations.clear(STATE))
    else:
        transaction = CHANGE
    if transaction is not None:
        try:
            result = chamber.commit(transaction)
        except CommitError as error:
            return [f"the next run failed: {error}"]
        if result["state"] not in ("confirmed", "unchanged"):
            return [f"the next run ended as {result}"]
    if not wait_until(lambda: not _running(chamber)):
        return [f"still running: {_running(chamber)}"]
    left = chamber.leftovers() if setting.scenario != "factory" else chamber.traces()
    problems = [f"left over after the next run: {name}" for name in left]
    found = _judge(chamber, setting, may_be_old=False, may_be_new=True)
    return problems + [f"after the next run: {problem}" for problem in found]
