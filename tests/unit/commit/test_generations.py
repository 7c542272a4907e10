"""The way back takes what the earliest undone generation found, and forgetting never loses the way to factory."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.generations import (
    Generation,
    GenerationError,
    parse,
    prune,
    resolve,
    table,
    way_back,
)
from hypothesis import given, settings
from hypothesis import strategies as st


def _generation(number: int, files: dict[str, bool], name: str = "trial", pruned: bool = False) -> Generation:
    """``files``: path -> did it exist before?"""
    numbered = {path: index for index, path in enumerate(files, 1)}
    return Generation(
        number=number, name=name, when="", by="", note="", files=numbered, made=(), pruned=pruned,
        kept=frozenset(numbered[path] for path, existed in files.items() if existed),
        absent=frozenset(numbered[path] for path, existed in files.items() if not existed),
    )  # fmt: skip


_histories = st.lists(
    st.lists(st.sampled_from("abcd"), min_size=1, max_size=4, unique=True), min_size=1, max_size=7
)


@given(_histories, st.data())
def test_the_way_back_restores_what_was_there(history: list[list[str]], data: st.DataObject) -> None:
    states: list[dict[str, str]] = [{"a": "0", "b": "0"}]
    known = []
    for number, touched in enumerate(history, 1):
        before = states[-1]
        known.append(_generation(number, {f"/{path}": path in before for path in touched}))
        states.append({**before, **dict.fromkeys(touched, str(number))})
    to = data.draw(st.integers(0, len(history) - 1))
    transaction = way_back(known, to, state_dir="/s", seconds=9)
    result = dict(states[-1])
    for item in transaction.files:
        path = item.dest[1:]
        if item.kind == "absent":
            result.pop(path, None)
        else:
            generation = int(item.source.split("/")[1])
            result[path] = states[generation - 1][path]  # a generation keeps what was there before it
    assert result == states[to]
    assert transaction.factory == (to == 0)
    undone = list(range(len(history), to, -1))
    assert transaction.activate_from == tuple(f"generation/{number}/revert" for number in undone)


def test_the_list_says_when_what_changed_and_by_which_run() -> None:
    one = replace(
        _generation(9, {"/etc/b": True, "/etc/a": True}, "ssh"),
        when="2026-11-22T11:41:03Z", by="ops on desk, harden.yml[4711]", note="ssh role",
    )  # fmt: skip
    lines = table(
        [one, replace(one, number=10, name="firewall", files={}, note="", pruned=True)]
    ).splitlines()
    assert lines[0].split() == ["when", "name", "by", "what"]
    assert (
        lines[1]
        == " 9  2026-11-22T11:41:03Z  ssh       ops on desk, harden.yml[4711]  ssh role: /etc/a, /etc/b"
    )
    assert lines[2].endswith("  live state repaired (not kept whole)")
    assert "has not changed anything" in table([])


def test_what_a_device_says_of_a_generation_is_read_as_it_was_written_and_has_no_power_over_a_terminal() -> (
    None
):
    told = (
        ("generation", "1"),
        ("name 1", "trial\n"),
        ("label 1", "now\nme\x1b[2J\nnote\n"),
        ("manifest 1", "entries() { :\nentry 1 file '/etc/a b' 0644 'root' 'root'\n}\n"),
        ("old", "1 1"),
    )
    (one,) = parse(Reply(told, 0))
    assert (one.name, one.when, one.by, one.note) == ("trial", "now", "me\ufffd[2J", "note")
    assert one.files == {"/etc/a b": 1} and one.kept == {1}


def test_hostile_names_take_one_line_each_in_the_list_and_have_no_power_over_a_terminal() -> None:
    paths = [
        "/etc/a b, 'c'",
        "/etc/two\nlines \x1b[2J",
        "/etc/latin-\udcff",
        "/etc/größe",
        "/etc/$(id)\u2028x",
    ]
    hostile = replace(
        _generation(1, dict.fromkeys(paths, True)), by="me", note="note", when="2026-01-01T00:00:00Z"
    )
    lines = table([hostile]).splitlines()
    assert len(lines) == 2
    assert lines[1].isprintable() and lines[1].isascii() is False
    for text in (
        "'/etc/a b, '\"'\"'c'\"'\"''",
        r"'/etc/two\x0alines \x1b[2J'",
        r"'/etc/latin-\xff'",
        "/etc/größe",
        r"/etc/$(id)\x2028x",
    ):
        assert text in lines[1], (text, lines[1])
    assert "'/etc/größe'" not in lines[1]  # a name that nobody can misread stays as it is


@settings(max_examples=15, deadline=None)
@given(history=_histories, keep=st.integers(1, 4))
def test_forgetting_keeps_the_newest_and_the_way_to_factory(
    history: list[list[str]], keep: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    state = tmp_path_factory.mktemp("state")
    known = [
        _generation(number, {f"/{path}": True for path in touched})
        for number, touched in enumerate(history, 1)
    ]
    for generation in known:
        old = state / "generation" / str(generation.number) / "old"
        old.mkdir(parents=True)
        for path, number in generation.files.items():
            (old / str(number)).write_text(f"{path} before {generation.number}")
    program = prune(known, keep, str(state)).replace(b'sync -f "$STATE" 2>/dev/null || sync\n', b"")
    assert b"sync" not in program
    subprocess.run(["sh", "-eu"], input=program, check=True)
    for generation in known[-keep:]:
        assert all(
            (state / f"generation/{generation.number}/old/{n}").exists() for n in generation.files.values()
        )
    first: dict[str, Path] = {}
    for generation in known:
        for path, number in generation.files.items():
            first.setdefault(path, state / f"generation/{generation.number}/old/{number}")
    assert all(place.exists() for place in first.values()), first


def test_what_can_be_gone_back_to_is_named() -> None:
    # 2 is forgotten wholly: what 3 found is the oldest state that can be had again, besides factory.
    known = [
        _generation(1, {"/a": True}, pruned=True),
        *(_generation(number, {"/a": True}) for number in (3, 4, 5)),
    ]
    assert resolve(known, "previous") == 4
    assert resolve(known, "factory") == 0
    assert resolve(known, "2") == 2
    assert resolve(known, "0") == 0
    for wanted in ("1", "5", "-1", "newest", ""):
        with pytest.raises(GenerationError, match=r"factory, 2, 3, 4$"):
            resolve(known, wanted)
    with pytest.raises(GenerationError, match="no generations"):
        resolve([], "previous")
    assert resolve(known[1:2], "previous") == 2
    assert resolve([_generation(1, {"/a": True})], "previous") == 0
