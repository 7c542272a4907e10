"""playbooks/policy.yml as CI runs it: the exit status and what is written, with no device anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FLEET = (
    "zones: {mgmt: {cidrs: [198.51.100.0/25]}}\ninbound: [{name: operators, allow: [ssh], from: [mgmt]}]\n"
)
INVENTORY = """\
all:
  children:
    cameras:
      hosts:
        cam1: {ansible_host: 198.51.100.11}
    deep:
      children:
        cameras:
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "policy/groups").mkdir(parents=True)
    (tmp_path / "hosts.yml").write_text(INVENTORY)
    (tmp_path / "policy/fleet.yml").write_text(FLEET)
    return tmp_path


def ask(site: Path, **extra: object) -> subprocess.CompletedProcess[str]:
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    command = [program, "playbooks/policy.yml", "-i", str(site / "hosts.yml"), "-e", json.dumps(extra)]
    environment = os.environ | {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_LOCAL_TEMP": str(site / "tmp")}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)


def test_check_is_green_on_a_sound_policy_and_red_on_an_error_with_its_place(site: Path) -> None:
    done = ask(site)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 hosts, 0 errors, 0 warnings" in done.stdout
    # Group variables are templates until hostvars give what comes out of them.
    (site / "group_vars").mkdir()
    (site / "group_vars/cameras.yml").write_text(
        "wanted: htps\nsallyport_policy__10_x: {outbound: [{name: up, allow: ['{{ wanted }}']}]}\n"
    )
    done = ask(site)
    assert done.returncode == 2
    assert "sallyport_policy__10_x.outbound[0].allow[0]: error unknown-service" in done.stdout + done.stderr
    assert "did you mean `https`" in done.stdout + done.stderr


def test_groups_merge_by_depth_so_that_the_child_has_the_last_word(site: Path) -> None:
    # By name alone `deep` would come after `cameras`; it is its parent.
    (site / "policy/groups/deep.yml").write_text("defaults: {outbound: drop}\n")
    (site / "policy/groups/cameras.yml").write_text("defaults: {outbound: reject}\n")
    answer = site / "answer.json"
    done = ask(
        site,
        policy_what="explain",
        policy_source="198.51.100.1",
        policy_destination="192.0.2.1",
        policy_service="http",
        policy_hook="outbound",
        policy_form="json",
        policy_path=str(answer),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = json.loads(answer.read_text())["cam1"]
    assert (found["verdict"], found["step"]) == ("reject", "default")


def test_compare_writes_markdown_for_the_review_and_fails_where_told_to(site: Path) -> None:
    (site / "old").mkdir()
    (site / "old/fleet.yml").write_text(FLEET)
    (site / "policy/fleet.yml").write_text(FLEET.replace("[mgmt]}]", "[mgmt, 192.0.2.0/24]}]"))
    review = site / "review.md"
    asked = {"policy_what": "compare", "policy_old": str(site / "old"), "policy_form": "markdown"}
    done = ask(site, **asked, policy_path=str(review))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| gained | ssh | from 192.0.2.0/24 |" in review.read_text()
    assert ask(site, **asked, policy_path=str(review), policy_fail_on="gained").returncode == 2
