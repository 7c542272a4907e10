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


def test_a_warning_is_shown_in_a_run_that_changes_devices_too(site: Path) -> None:
    nat = "nat: {publish: [{name: hmi, port: 8443, to: '10.0.0.9:443'}]}\n"
    (site / "policy/fleet.yml").write_text(FLEET + nat)
    (site / "hosts.yml").write_text(INVENTORY.replace("cam1:", "cam2: {}\n        cam1:"))
    (site / "play.yml").write_text(
        "- hosts: all\n  gather_facts: false\n  tasks:\n    - sallyport.iot.policy_check:\n      run_once: true\n"
    )
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(site / "hosts.yml")]
    done = subprocess.run(
        [*command, str(site / "play.yml")], cwd=ROOT, capture_output=True, text=True, check=True,
        env=os.environ | {"COLUMNS": "999"},
    )  # fmt: skip
    shown = " ".join((done.stdout + done.stderr).split())
    assert "[WARNING]" in shown and shown.count("warning publish-closed") == 1, shown


def test_what_hosts_have_in_common_is_worked_out_and_told_once(site: Path) -> None:
    cameras = "\n".join(f"        cam{number}: {{}}" for number in range(2, 9))
    (site / "hosts.yml").write_text(INVENTORY.replace("    deep:", f"{cameras}\n    deep:"))
    (site / "policy/hosts").mkdir()
    more = "inbound: [{name: web, allow: [https]}]\n"
    (site / "policy/hosts/cam3.yml").write_text(more)
    old = site / "old"
    old.mkdir()
    (old / "fleet.yml").write_text(FLEET.replace("[ssh]", "[ssh, http]"))
    for what in ({"policy_what": "exposure"}, {"policy_what": "compare", "policy_old": str(old)}):
        done = ask(site, **what, policy_form="markdown", policy_path=str(site / "answer"))
        assert done.returncode == 0, done.stdout
        headings = [line for line in (site / "answer").read_text().splitlines() if line.startswith("###")]
        assert headings == ["### cam1, cam2, cam4, cam5, cam6 and 2 more", "### cam3"]
        ask(site, **what, policy_form="json", policy_path=str(site / "answer"))
        told = json.loads((site / "answer").read_text())
        names = [one["host"] for one in told] if isinstance(told, list) else list(told)
        assert sorted(names) == [f"cam{number}" for number in range(1, 9)]


def test_an_inventory_without_hosts_is_no_green_check(site: Path) -> None:
    (site / "hosts.yml").write_text("all:\n  hosts: {}\n")
    done = ask(site)
    assert done.returncode == 2
    assert "no host of the inventory is meant" in done.stdout


def test_what_a_run_knows_of_a_host_is_templated_before_it_counts(site: Path) -> None:
    (site / "host_vars").mkdir()
    (site / "host_vars/cam1.yml").write_text(
        "base: 2000\nansible_port: '{{ base + 22 }}'\nsallyport_controllers: '{{ [jump] }}'\njump: 198.51.100.200\n"
    )
    done = ask(site)
    assert done.returncode == 2
    assert "lock out the running controller, 198.51.100.200, on TCP port 2022" in done.stdout, done.stdout
    assert "1 hosts, 1 errors" in done.stdout


def test_a_host_of_a_zone_with_an_address_that_is_none_is_an_error_not_left_out(site: Path) -> None:
    (site / "policy/fleet.yml").write_text(FLEET.replace("}\n", ", cams: {hosts: [cam1]}}\n", 1))
    assert ask(site).returncode == 0
    (site / "host_vars").mkdir()
    for given in ("[198.51.100.11, cam1.example]", "7", "[10.0.0.0/24]"):
        (site / "host_vars/cam1.yml").write_text(f"sallyport_addresses: {given}\n")
        done = ask(site)
        assert done.returncode == 2
        assert "error host-without-address" in done.stdout, done.stdout


def test_a_folder_that_somebody_named_must_be_there_even_beside_variables(site: Path) -> None:
    layer = {"sallyport_policy__10_x": {"outbound": [{"name": "up", "allow": ["https"]}]}}
    assert ask(site, **layer, sallyport_policy_dir=str(site / "polcy")).returncode == 2
    (site / "policy/fleet.yml").unlink()
    (site / "policy/groups").rmdir()
    (site / "policy").rmdir()
    assert ask(site, **layer).returncode == 0
    (site / "policy").touch()
    assert ask(site, **layer).returncode == 2


def test_group_priority_counts_where_depth_is_the_same(site: Path) -> None:
    (site / "hosts.yml").write_text(
        INVENTORY.replace(
            "    deep:", "    zebras: {hosts: {cam1: }, vars: {ansible_group_priority: 0}}\n    deep:"
        ).replace("    deep:\n      children:\n        cameras:\n", "")
    )
    (site / "policy/groups/zebras.yml").write_text("defaults: {outbound: drop}\n")
    (site / "policy/groups/cameras.yml").write_text("defaults: {outbound: reject}\n")
    answer = site / "answer.json"
    asked = {
        "policy_source": "198.51.100.1",
        "policy_service": "http",
        "policy_hook": "outbound",
        "policy_form": "json",
    }
    done = ask(site, policy_what="explain", policy_path=str(answer), **asked)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(answer.read_text())["cam1"][0]["verdict"] == "reject"


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
    # What was wrong before and is mended, or gone, does not stand in the way of the question what changes.
    (site / "old/hosts").mkdir()
    (site / "old/hosts/gone.yml").write_text("inbound: []\n")
    (site / "old/fleet.yml").write_text(FLEET.replace("[mgmt]}]", "[any]}]"))
    done = ask(site, **asked, policy_path=str(review))
    assert done.returncode == 0, done.stdout
    assert "| lost | ssh |" in review.read_text()
    (site / "old/fleet.yml").write_text(FLEET.replace("[mgmt]}]", "[mgnt]}]"))
    assert ask(site, **asked, policy_path=str(review)).returncode == 2
