"""Every state-changing system call of the device program, stopped right before and right after: as the death of the
process, as the death of the controller's session, as a power cut, and as the moment from which on the medium is full."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest

from tests.faults import trial
from tests.faults.chamber import MEDIA, SHELLS, needs_root
from tests.faults.counted import COUNTED

pytestmark = needs_root
_SAMPLE = int(os.environ.get("SALLYPORT_FAULT_SAMPLE", "8"))


def _chosen(items: Sequence[Any], thorough: bool, sample: int = _SAMPLE) -> list[Any]:
    """All of them, or some that lie evenly spread."""
    step = 1 if thorough else max(1, len(items) // sample)
    return list(items[step // 2 :: step])


def _all(
    apart: Any, function: Callable[..., list[str]], cases: Sequence[tuple[str, tuple[Any, ...]]]
) -> list[str]:
    """Run every case; a line for each that has problems, beginning with what was injected."""
    running = [
        (what, apart.apply_async(partial(trial.own, function), arguments)) for what, arguments in cases
    ]
    found = []
    for what, result in running:
        try:
            problems = result.get(timeout=600)
        except Exception as error:  # a trial that breaks is a finding too, and must name its point
            problems = [repr(error)]
        found += [f"{what}:\n    " + "\n    ".join(problems)] if problems else []
    return found


@pytest.mark.parametrize("scenario", trial.SCENARIOS)
@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("session", [False, True], ids=["process", "session"])
def test_killed_at_any_call_the_device_is_old_or_new_and_the_next_run_converges(
    shell: str, scenario: str, session: bool, settings: Any, apart: Any, thorough: bool
) -> None:
    setting = settings(shell, "default", scenario)
    points = apart.apply(trial.record, (setting,))
    victims = [point for point in points if not session or point.role in ("stage", "arm", "confirm", "clear")]
    chosen = _chosen(victims, thorough)
    kind = "session" if session else "process"
    cases = [(f"{kind} killed {point}", (setting, point, session)) for point in chosen]
    problems = _all(apart, trial.kill, cases)
    COUNTED.append(f"{kind} killed, {shell}, {scenario}: {len(chosen)} of {len(victims)} points")
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("how", ["lazy", "noise", "eager"])
@pytest.mark.parametrize("scenario", trial.SCENARIOS)
@pytest.mark.parametrize("medium", MEDIA)
@pytest.mark.parametrize("shell", SHELLS)
def test_power_cut_at_any_call_boots_into_old_or_new_and_the_next_run_converges(
    shell: str, medium: str, scenario: str, how: str, settings: Any, apart: Any, thorough: bool
) -> None:
    if not thorough and (shell, medium) not in (("dash", "writeback"), ("ash", "writeback")):
        pytest.skip("a sample keeps to the medium that forgives least; --faults=full takes both")
    setting = settings(shell, medium, scenario)
    points = apart.apply(trial.record, (setting, how))
    wanted = trial.must_be(points)
    first = {point.medium: point for point in reversed(points)}
    media = _chosen(list(wanted), thorough)
    folder = setting.work / f"media-{how}"
    cases = [
        (f"power cut ({how}) {first[name]}, must be {wanted[name]}", (setting, folder / name, wanted[name]))
        for name in media
    ]
    problems = _all(apart, trial.cut, cases)
    shutil.rmtree(folder)
    COUNTED.append(
        f"power cut, {shell}, {medium}, {scenario}, {how}: {len(points)} points on {len(wanted)} different media, "
        f"{len(media)} booted"
    )
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("scarce", ["blocks", "inodes"])
@pytest.mark.parametrize("scenario", trial.SCENARIOS)
@pytest.mark.parametrize("shell", SHELLS)
def test_full_from_any_call_on_the_device_is_old_or_new_says_why_and_the_next_run_converges(
    shell: str, scenario: str, scarce: str, settings: Any, apart: Any, thorough: bool
) -> None:
    setting = settings(shell, "default", scenario)
    points = [point for point in apart.apply(trial.record, (setting,)) if point.when == "before"]
    chosen = _chosen(points, thorough, _SAMPLE // 2)
    cases = [(f"no {scarce} left from {point} on", (setting, point, scarce)) for point in chosen]
    problems = _all(apart, trial.fill, cases)
    COUNTED.append(f"no {scarce} left, {shell}, {scenario}: {len(chosen)} of {len(points)} points")
    assert not problems, "\n".join(problems)
