"""What leaked is forgotten by every generation with the verdict, however the power fails around it: a way back must not
bring it again, and a change that is taken back must forget nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.device import generations, payload
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.transaction import File, Transaction

from tests.faults import trial
from tests.faults.chamber import SHELLS, STATE, Chamber, ChamberExchange, needs_root, wait_until
from tests.faults.counted import COUNTED

pytestmark = needs_root
FORGETS = ("/etc/users", "/etc/it's new")
ROTATION = Transaction(
    name="rotate",
    files=tuple(File(path, content=b"unknown to all\n", mode="0600", secret=True) for path in FORGETS),
    forgets=FORGETS,
    confirm=trial.CHANGE.confirm,
)
LEAKED = ("old secret", "new secret")
"""What the factory and a change before the rotation had in /etc/users."""


def _kept(chamber: Chamber) -> str:
    """All that generations hold, names and contents."""
    return chamber.sh(f"cd {STATE}/generation; find . | sort; cat */old/* 2>/dev/null", check=False)


def _whole(chamber: Chamber) -> None:
    """Nothing fails."""
    chamber.commit(ROTATION)


def _cut_after_the_verdict(chamber: Chamber) -> None:
    """All processes die between the rename that decides and all that comes after it; then the device boots."""
    _armed(chamber)
    chamber.sh(f"mv {STATE}/armed/tx/open {STATE}/armed/tx/confirmed")
    _cut(chamber)


def _armed(chamber: Chamber) -> None:
    changed = list(enumerate(ROTATION.files, 1))
    program = payload.stage(
        ROTATION, "00000000000000ff", changed, install=True, arm=True, by="trial", when="2026-01-01T00:00:00Z"
    )
    reply = ChamberExchange(chamber).run(program)
    assert "armed" in reply, reply
    assert wait_until((chamber.root / f"{STATE}/armed/tx/live".lstrip("/")).exists)
    # The guards, stopped in the middle of it, decide nothing any more.
    chamber.sh(f"kill -STOP {' '.join(trial.processes(chamber))}")


def _cut(chamber: Chamber) -> None:
    for _ in range(50):
        pids = trial.processes(chamber)
        if not pids:
            break
        chamber.sh(f"kill -9 {' '.join(pids)} 2>/dev/null || :")
    assert chamber.boot()


def _after(setting: trial.Setting, how: Callable[[Chamber], None]) -> list[str]:
    with trial.fresh(setting, "forget") as chamber:
        chamber.commit(trial.CHANGE)
        if "old secret" not in (before := _kept(chamber)):
            return [f"nothing to forget: {before}"]
        how(chamber)
        problems = [f"{text!r} is still kept:\n{_kept(chamber)}" for text in LEAKED if text in _kept(chamber)]
        if "new one" in _kept(chamber) or "old one" not in _kept(chamber):
            problems.append(f"what a way back needs of other files is gone:\n{_kept(chamber)}")
        problems += _way_back(chamber)
        return problems


def _way_back(chamber: Chamber) -> list[str]:
    known = generations.parse(ChamberExchange(chamber).run(generations.listing(STATE)))
    chamber.commit(generations.way_back(known, 0, state_dir=STATE, seconds=3))
    found = chamber.snapshot()
    problems = [] if found["/etc/one"][3] == "old one\n" else ["the way back to factory did not work"]
    for path in FORGETS:
        if found.get(path, ("",) * 4)[3] != "unknown to all\n":
            problems.append(f"{path} is no longer what the rotation made: {found.get(path)}")
    return problems


def _not_confirmed(setting: trial.Setting) -> list[str]:
    with trial.fresh(setting, "remember") as chamber:
        chamber.commit(trial.CHANGE)
        before = _kept(chamber)
        _armed(chamber)
        _cut(chamber)
        problems = [] if _kept(chamber) == before else [f"forgotten too early:\n{_kept(chamber)}"]
        if "new secret" not in (chamber.root / "etc/users").read_text():
            problems.append("the old password did not come back")
        return problems


@pytest.mark.parametrize("how", [_whole, _cut_after_the_verdict], ids=["whole", "power cut"])
def test_no_generation_keeps_what_leaked_once_the_rotation_is_decided(
    how: Callable[[Chamber], None],
    both_shells: Callable[..., dict[str, Any]],
) -> None:
    for shell, problems in both_shells(_after, how).items():
        assert not problems, f"{shell}: {problems}"
    COUNTED.append(f"rotation, {how.__name__.strip('_')}, {' and '.join(SHELLS)}: nothing kept that leaked")


def test_a_rotation_that_is_taken_back_at_boot_has_forgotten_nothing(
    both_shells: Callable[..., dict[str, Any]],
) -> None:
    for shell, problems in both_shells(_not_confirmed).items():
        assert not problems, f"{shell}: {problems}"


def _of_a_form(setting: trial.Setting) -> list[str]:
    with trial.fresh(setting, "forms") as chamber:
        chamber.commit(trial.CHANGE)
        before = _kept(chamber)
        chamber.commit(replace(ROTATION, forgets=(), forgets_like=("/etc/on*",)))
        after = _kept(chamber)
        problems = [] if "old one" in before and "old one" not in after else [f"kept:\n{after}"]
        return problems if LEAKED[0] in after else [*problems, f"more than asked for is gone:\n{after}"]


def test_files_of_a_form_are_forgotten_though_no_change_names_them(
    both_shells: Callable[..., dict[str, Any]],
) -> None:
    for shell, problems in both_shells(_of_a_form).items():
        assert not problems, f"{shell}: {problems}"


def _in_place_of_a_link(setting: trial.Setting) -> list[str]:
    with trial.fresh(setting, "link") as chamber:
        chamber.sh("echo theirs >/etc/elsewhere; ln -s /etc/elsewhere /etc/link")
        keys = File("/etc/link", content=b"ours\n", mode="0600", follow=False)
        chamber.commit(Transaction(name="keys", files=(keys,), confirm=trial.CHANGE.confirm))
        found = chamber.sh("cat /etc/link /etc/elsewhere; if [ -L /etc/link ]; then echo still a link; fi")
        return [] if found == "ours\ntheirs\n" else [found]


def test_a_file_that_follows_no_link_takes_its_place_and_leaves_where_it_leads_alone(
    both_shells: Callable[..., dict[str, Any]],
) -> None:
    for shell, problems in both_shells(_in_place_of_a_link).items():
        assert not problems, f"{shell}: {problems}"


def test_a_change_that_forgets_nothing_carries_nothing_for_it() -> None:
    changed = list(enumerate(ROTATION.files, 1))
    text = payload.manifest(replace(ROTATION, forgets=()), "ff", changed, ["/etc"])
    assert b"generation" not in text and b"generation" in payload.manifest(ROTATION, "ff", changed, ["/etc"])
