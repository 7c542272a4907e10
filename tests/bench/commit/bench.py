#!/usr/bin/env python3
# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a commit costs against the same work with builtin copy tasks, in one run on one lab device.

usage: bench.py LAB_PREFIX [DEVICE]     (the lab must run: lab/lab up --prefix LAB_PREFIX --device DEVICE)

Times are of the tasks alone, as the playbook's own clock sees them; each line is the best of three.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[3]
_FILES = 50


def _files(text: str, count: int) -> list[dict[str, str]]:
    return [
        {"dest": f"/etc/bench/{number}.conf", "content": f"{text} {number}\n" * 20, "mode": "0644"}
        for number in range(count)
    ]


def _commit(text: str, count: int) -> dict[str, Any]:
    return {"sallyport.iot.commit": {"name": "bench", "files": _files(text, count), "activate": ["true"]}}


def _copies(text: str, count: int) -> list[dict[str, Any]]:
    return [{"ansible.builtin.copy": item} for item in _files(text, count)]


def main() -> int:
    prefix = sys.argv[1]
    host = sys.argv[2] if len(sys.argv) > 2 else "debian12"
    inventory = CHECKOUT / ".sallyport" / "lab" / prefix / "inventory.json"
    stamp = {"ansible.builtin.set_fact": {"now_{n}": "{{ lookup('pipe', 'date +%s.%N') }}"}}
    warm: list[dict[str, Any]] = [{"ansible.builtin.raw": "mkdir -p /etc/bench /etc/bench2"}]
    blocks: list[tuple[str, list[dict[str, Any]]]] = []
    for turn in range(3):
        blocks += [
            (f"commit, {_FILES} files new", [_commit(f"turn {turn}", _FILES)]),
            (f"commit, {_FILES} files converged", [_commit(f"turn {turn}", _FILES)]),
            ("commit, 1 of them changed", [_one_changed(turn)]),
            ("commit, 1 file converged", [_single("same")]),
        ]
    python = host != "vendor"
    if python:
        blocks += [
            (f"builtin copy, {_FILES} files new", [_moved(task) for task in _copies("copy", _FILES)]),
            (f"builtin copy, {_FILES} files converged", [_moved(task) for task in _copies("copy", _FILES)]),
        ]
    tasks = [*list(warm), _single("same")]
    for number, (_, work) in enumerate(blocks):
        tasks += [_named(stamp, 2 * number), *work, _named(stamp, 2 * number + 1)]
    times = ", ".join(f"now_{number}" for number in range(2 * len(blocks)))
    with tempfile.TemporaryDirectory() as folder:
        outcome = Path(folder, "times")
        write = {"ansible.builtin.copy": {"content": "{{ [" + times + "] | to_json }}", "dest": str(outcome), "mode": "0600"},
                 "delegate_to": "localhost", "vars": {"ansible_connection": "local", "ansible_become": False,
                                                       "ansible_python_interpreter": sys.executable}}  # fmt: skip
        cleanup = {"sallyport.iot.rollback": {"to": "factory"}}
        play = [{"hosts": host, "gather_facts": False, "tasks": [*tasks, write, cleanup]}]
        Path(folder, "play.yml").write_text(json.dumps(play))
        script = Path(folder, "inventory.sh")
        script.write_text(f"#!/bin/sh\ncat '{inventory}'\n")
        script.chmod(0o700)
        done = subprocess.run(
            [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(script), f"{folder}/play.yml"],
            cwd=CHECKOUT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if not outcome.exists():
            print(re.sub(r"\n+", "\n", done.stdout + done.stderr)[-3000:])
            return 1
        stamps = [float(text) for text in json.loads(outcome.read_text())]
    best: dict[str, float] = {}
    for number, (label, _) in enumerate(blocks):
        spent = stamps[2 * number + 1] - stamps[2 * number]
        best[label] = min(spent, best.get(label, spent))
    empty = 0.02  # the clock's own two tasks
    for label, spent in best.items():
        print(f"{label:40} {max(spent - empty, 0):7.2f} s")
    return 0


def _single(text: str) -> dict[str, Any]:
    return {
        "sallyport.iot.commit": {
            "name": "single",
            "files": [{"dest": "/etc/bench-one", "content": text}],
            "activate": ["true"],
        }
    }


def _one_changed(turn: int) -> dict[str, Any]:
    task = _commit(f"turn {turn}", _FILES)
    task["sallyport.iot.commit"]["files"][7]["content"] = f"changed in turn {turn}\n"
    return task


def _moved(task: dict[str, Any]) -> dict[str, Any]:
    item = task["ansible.builtin.copy"]
    return {"ansible.builtin.copy": {**item, "dest": item["dest"].replace("/bench/", "/bench2/")}}


def _named(stamp: dict[str, Any], number: int) -> dict[str, Any]:
    return json.loads(json.dumps(stamp).replace("now_{n}", f"now_{number}"))  # type: ignore[no-any-return]


if __name__ == "__main__":
    sys.exit(main())
