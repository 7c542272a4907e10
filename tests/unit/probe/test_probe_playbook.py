"""The probe as playbooks use it, over Ansible's local connection: one exchange a run, and only this run is believed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).parents[3]
PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - sallyport.iot.probe:
      register: first
    - sallyport.iot.probe:
      register: again
    - sallyport.iot.probe: {refresh: true}
      register: fresh
    - ansible.builtin.copy:
        content: "{{ [first.cached, again.cached, fresh.cached, ansible_facts.sallyport_device] | to_json }}"
        dest: "{{ out }}"
        mode: "0600"
      check_mode: false
      when: first is not changed and again is not changed and fresh is not changed
"""


def play(tmp_path: Path, text: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    book = tmp_path / "play.yml"
    book.write_text(text)
    program = Path(sys.executable).with_name("ansible-playbook")
    command = [
        str(program),
        "-i",
        "device,",
        "-c",
        "local",
        "-e",
        f"out={tmp_path}/out.json",
        str(book),
        *options,
    ]
    python = {"ANSIBLE_PYTHON_INTERPRETER": sys.executable}
    return subprocess.run(
        command,
        cwd=CHECKOUT,
        env={**os.environ, **python, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def result(tmp_path: Path) -> Any:
    return json.loads((tmp_path / "out.json").read_text())


@pytest.mark.parametrize("options", [[], ["--check"]], ids=["run", "check mode"])
def test_a_device_is_asked_once_a_run_unless_told_otherwise(tmp_path: Path, options: list[str]) -> None:
    done = play(tmp_path, PLAY, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    first, again, fresh, device = result(tmp_path)
    assert (first, again, fresh) == (False, True, False)
    assert device["kernel"] == os.uname().release
    assert device["privilege"] == ("root" if os.geteuid() == 0 else "none")
    assert "DEPRECATION" not in done.stderr


def test_what_another_run_left_in_a_fact_cache_is_not_believed(tmp_path: Path) -> None:
    cache = {
        "ANSIBLE_CACHE_PLUGIN": "ansible.builtin.jsonfile",
        "ANSIBLE_CACHE_PLUGIN_CONNECTION": str(tmp_path / "cache"),
    }
    assert play(tmp_path, PLAY, **cache).returncode == 0
    assert list((tmp_path / "cache").iterdir()), "the cache was not used"
    done = play(tmp_path, PLAY, **cache)
    assert done.returncode == 0, done.stdout + done.stderr
    assert result(tmp_path)[0] is False


def test_facts_work_where_a_site_does_not_inject_them(tmp_path: Path) -> None:
    done = play(tmp_path, PLAY, ANSIBLE_INJECT_FACT_VARS="false")
    assert done.returncode == 0, done.stdout + done.stderr
    assert result(tmp_path)[1] is True


def test_another_machine_is_not_described_in_the_name_of_this_one(tmp_path: Path) -> None:
    text = "- hosts: all\n  gather_facts: false\n  tasks:\n    - sallyport.iot.probe:\n      delegate_to: other\n"
    done = play(tmp_path, text)
    assert done.returncode == 2
    assert "was delegated to 'other'" in done.stdout + done.stderr


def test_an_unknown_option_is_refused_by_name(tmp_path: Path) -> None:
    text = "- hosts: all\n  gather_facts: false\n  tasks:\n    - sallyport.iot.probe: {refrsh: true}\n"
    done = play(tmp_path, text)
    assert done.returncode == 2
    assert "refrsh" in done.stdout + done.stderr
