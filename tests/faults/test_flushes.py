"""What must be on the medium before something else begins is flushed first; and a program that has lost any one of its
flushes, or has two steps in the wrong order, is caught by the same check every time.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.device import hook, payload

from tests.faults import order, trial
from tests.faults.chamber import SHELLS
from tests.faults.test_mutations import _mutated, _once

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="crash points need root: loop mounts and namespaces"
)
_SOURCES = {
    "program": Path(payload.__file__).with_name("program.sh").read_text(),
    "install": hook._INSTALL.decode(),
    "remove": hook._REMOVE.decode(),
    "common": hook._COMMON.decode(),
}
_FLUSH = re.compile(r'(?m)(?<=[ ;])flush(?=[ ;\n])(?: "?[$/][\w/.$]*"?)?')


def _flushes() -> list[tuple[str, int]]:
    """Every place that flushes: which text, and where in it. What only systemd needs is not part of a chamber."""
    found = []
    for name, text in _SOURCES.items():
        for match in _FLUSH.finditer(text):
            line = text[text.rfind("\n", 0, match.start()) + 1 : text.find("\n", match.end())]
            if not line.lstrip().startswith("#") and "UNIT" not in line:
                found.append((name, match.start()))
    return [*found, ("stage", 0)]


def _recorded(setting: trial.Setting, text: bytes, where: str) -> list[str]:
    """The rules that a run with ``text`` in place of the source ``where`` does not keep."""
    if where == "program":
        payload.device_program = lambda: text  # type: ignore[assignment]
    elif where == "stage":
        whole = payload.stage
        payload.stage = lambda *a, **k: whole(*a, **k).replace(text, b"")
    else:
        setattr(hook, f"_{where.upper()}", text)
    return order.broken(trial.record(setting), setting.scenario)


@pytest.mark.parametrize("scenario", trial.SCENARIOS)
@pytest.mark.parametrize("shell", SHELLS)
def test_what_must_come_first_is_on_the_medium_first(
    shell: str,
    scenario: str,
    settings: Any,
    apart: Any,
) -> None:
    setting = settings(shell, "default", scenario)
    points = apart.apply(trial.record, (setting,))
    assert not order.broken(points, scenario)


@pytest.mark.parametrize(("where", "at"), _flushes(), ids=str)
def test_a_lost_flush_is_caught(where: str, at: int, settings: Any, apart: Any) -> None:
    if where == "stage":
        text = b'sync -f "$S" 2>/dev/null || sync\n'
    else:
        source = _SOURCES[where]
        match = _FLUSH.match(source, at)
        assert match
        text = (source[:at] + ":" + source[match.end() :]).encode()
    found = []
    for scenario in trial.SCENARIOS:
        setting = settings("ash", "default", scenario)
        found += apart.apply(_once, (_recorded, setting, text, where))
        if found:
            break
    assert found, "nobody noticed"


_SESSION = """  session\n  printf '%s\\n' "$peer" >"$TX/session"\n"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('  : >"$TX/open"\n  flush', '  flush\n  : >"$TX/open"'),
        ("each swap; flush; list activate", "flush; list activate; each swap"),
        (f"  each save\n{_SESSION}  flush", f"{_SESSION}  flush\n  each save"),
    ],
    ids=["mark and flush", "files and activation", "copies and flush"],
)
def test_steps_in_the_wrong_order_are_caught(old: str, new: str, settings: Any, apart: Any) -> None:
    for scenario in ("confirmed", "abandoned"):
        setting = settings("ash", "default", scenario)
        try:
            found = apart.apply(_once, (_recorded, setting, _mutated((old, new)), "program"))
        except RuntimeError as error:
            found = [str(error)]
        if found:
            return
    pytest.fail("nobody noticed")
