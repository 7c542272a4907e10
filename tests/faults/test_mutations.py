"""The fault tests can fail: a device program that is broken in a plausible way is caught, each way by a named check.

A missing flush is not among them: any other program's sync flushes this medium too, and would hide it at random.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.device import payload

from tests.faults import trial

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="crash points need root: loop mounts and namespaces"
)
_PROGRAM = Path(payload.__file__).with_name("program.sh").read_text()


def _mutated(*pairs: tuple[str, str]) -> bytes:
    text = _PROGRAM
    for old, new in pairs:
        assert text.count(old) == 1, f"the program has changed: {text.count(old)} times {old!r}"
        text = text.replace(old, new)
    return text.encode()


def _cuts(setting: trial.Setting, program: bytes, argument: str) -> list[str]:
    """The first problem among power cuts at the calls of one role. ``argument``: how, and the role."""
    _use(program)
    how, role = argument.split()
    points = trial.record(setting, how)
    wanted = trial.must_be(points)
    first = {point.medium: point for point in reversed(points)}
    names = [name for name in wanted if first[name].role == role][:30]
    for name in names:
        found = trial.cut(setting, setting.work / f"media-{how}" / name, wanted[name], again=False)
        if found:
            return [f"{first[name]}: {problem}" for problem in found]
    return []


def _kills(setting: trial.Setting, program: bytes, call: str) -> list[str]:
    """The first problem among kills right after one kind of call; by its name, since numbers move with every new call."""
    _use(program)
    points = [point for point in trial.record(setting) if point.when == "after" and str(point).endswith(call)]
    assert points, f"no call of this trial is {call!r}"
    for point in points:
        found = trial.kill(setting, point, session=False)
        if found:
            return [f"{point}: {problem}" for problem in found]
    return []


def _outcome(setting: trial.Setting, program: bytes, confirm_from: str) -> list[str]:
    """What comes of a confirmation over the arming connection, or of one that never comes."""
    _use(program)
    trial.CONFIRM_FROM = confirm_from
    return trial.unharmed(setting)


def _use(program: bytes) -> None:
    payload.device_program = lambda: program


_MUTATIONS: dict[str, tuple[tuple[str, str], str, Callable[..., list[str]], str, tuple[tuple[str, str], ...]]] = {
    "renames before the mark": (
        ('  : >"$TX/open"\n  flush', '  each swap\n  : >"$TX/open"\n  flush'), "abandoned", _cuts, "eager worker", (),
    ),
    "no boot hook": (("  hooked || {", "  : || {"), "abandoned", _cuts, "eager worker", ()),
    "a killed program's lock is for ever": (("attended || {", "attended || : || {"), "abandoned", _kills, "/armed/tx", ()),
    "the old connection accepted": (
        ('if [ "$peer" = "$armed_by" ]', 'if [ "$peer" = never ]'), "confirmed", _outcome, trial.STAGE_FROM, (),
    ),
    "disarmed before any new login": (
        ('    : >"$TX/live"\n', '    mv "$TX/open" "$TX/confirmed"\n    : >"$TX/live"\n'),
        "abandoned", _outcome, trial.CONFIRM_FROM, (),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", _MUTATIONS)
def test_a_program_that_is_broken_is_caught(what: str, settings: Any, apart: Any) -> None:
    mutation, scenario, check, argument, base = _MUTATIONS[what]
    setting = settings("ash", "writeback", scenario)
    setting = replace(setting, work=setting.work / "mutation")
    sound = apart.apply(_once, (check, setting, _mutated(*base), argument))
    assert not sound, f"the sound program fails the same check: {sound}"
    assert apart.apply(_once, (check, setting, _mutated(*base, mutation), argument)), "nobody noticed"


def _once(
    check: Callable[..., list[str]], setting: trial.Setting, program: bytes, argument: str
) -> list[str]:
    """In a child of the pool's process, so that no later trial sees the patch."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            try:
                found = trial.own(check, setting, program, argument)
            except Exception as error:
                found = [repr(error)]
            os.write(writer, "\n".join(found).encode()[:60000])
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as handle:
        text = handle.read().decode()
    assert os.waitpid(child, 0)[1] == 0
    return text.splitlines()
