"""Revisions that are signed and harm all the same: each goes back by itself, without a controller. And the way out."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from lab.fleet import CHECKOUT
from tests.pull_site import DEVICE, SERVER, PullSite
from tests.updates_site import TOOLS

CLOSED = "/etc/ssh/sshd_config.d/00-nobody.conf"
# A site's own task, by the collection's own commit: nobody may log in any more.
LOCK_OUT = f"""
- hosts: devices
  gather_facts: false
  tasks:
    - sallyport.iot.commit:
        name: greeting
        files: [{{dest: /etc/issue.net, content: "Closed\\n"}}]
        activate: ["true"]
    - sallyport.iot.commit:
        name: nobody
        files: [{{dest: {CLOSED}, content: "AllowUsers nobody\\n"}}]
        activate: ["systemctl restart ssh"]
        confirm: {{seconds: 20}}
"""


def harmful(site: PullSite) -> dict[str, Any]:
    """The revision is published and met; then one that takes it back."""
    site.revision("harmful")
    said = site.turn_once()
    site.git("revert", "--no-gpg-sign", "--no-edit", "HEAD")
    site.git(
        "-c", f"user.signingKey={site.work / 'alice'}", "commit", "--quiet", "--amend", "--gpg-sign", "--no-edit"
    )  # fmt: skip
    site.push()
    return said


def test_a_revision_that_would_lock_everybody_out_goes_back_whole_and_is_held(site: PullSite) -> None:
    before = site.sh(DEVICE, "sha256sum /etc/issue.net; sshd -T | sort")
    playbooks = site.tree / "collections/ansible_collections/sallyport/iot/playbooks"
    harden = playbooks / "harden.yml"
    harden.write_text(harden.read_text(encoding="utf-8") + LOCK_OUT, encoding="utf-8")
    said = harmful(site)
    assert said["result"] == "rolled_back" and "loopback" in said["message"], said
    (held,) = said["held"]
    assert held.startswith(f"revision {site.git('rev-parse', 'HEAD^')} "), said
    assert any(
        line.startswith(f"revision {site.git('rev-parse', 'HEAD~2')} ") for line in said["installed"]
    ), said
    # The change that had been confirmed before went back with it.
    assert site.sh(DEVICE, "sha256sum /etc/issue.net; sshd -T | sort") == before
    assert site.sh(DEVICE, f"ls {CLOSED} 2>/dev/null || echo gone").strip() == "gone"


def test_a_newer_revision_ends_the_hold(site: PullSite) -> None:
    said = site.turn_once()
    assert said["result"] == "ok" and "held" not in said, said


def test_a_revision_that_cuts_the_device_off_from_its_repository_goes_back(site: PullSite) -> None:
    policy = site.tree / "inventory/policy/fleet.yml"
    text = policy.read_text(encoding="utf-8")
    closed = text.replace("outbound: allow", "outbound: reject")
    assert closed != text
    policy.write_text(closed, encoding="utf-8")
    said = harmful(site)
    assert said["result"] == "rolled_back" and "answered before, and does not any more" in said["message"], (
        said
    )
    said = site.turn_once()
    assert said["result"] == "ok" and "held" not in said, said


def test_the_controller_reads_what_happened_when_it_is_back(site: PullSite) -> None:
    site.switch_on_the_controller()
    assert site.controller_reaches_the_device()
    done = subprocess.run(
        [str(TOOLS / "ansible"), "-i", "inventories/lab", DEVICE, "-m", "sallyport.iot.update_status"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={
            **os.environ,
            "SALLYPORT_LAB": site.lab.prefix,
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_FORCE_COLOR": "false",
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
        },
    )
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads(done.stdout.partition("=>")[2])["updates"]
    assert (
        record["agent"] == "pull"
        and record["mode"] == "automatic"
        and record["ring"] == "main"
        and record["result"] == "ok"
    )
    assert record["checked"] and record["succeeded"] and not record["held"] and not record["refused"]
    installed = {one["name"]: one["version"] for one in record["installed"]}
    assert installed["revision"] == site.git("rev-parse", "HEAD")


def test_a_device_that_is_taken_out_asks_nobody_any_more(site: PullSite) -> None:
    done = site.told(mode="manual", reason="certified as it is")
    assert done.of[DEVICE]["state"] == "confirmed", done.output[-3000:]
    assert site.sh(DEVICE, "systemctl is-active sallyport-update.timer || :").strip() == "inactive"


def test_the_way_back_leaves_nothing_of_it(site: PullSite) -> None:
    done = site.play("playbooks/rollback.yml", "sallyport.iot.rollback", "--limit", DEVICE, to="factory")
    assert done.status == 0, done.output[-4000:]
    left = "ls -d /usr/local/lib/sallyport /var/lib/sallyport* /etc/systemd/system/*sallyport* /root/.cache /root/.ansible 2>/dev/null || :"
    assert site.sh(DEVICE, left) == ""
    assert site.sh(DEVICE, "id -u sallyport-pull 2>/dev/null || echo nobody").strip() == "nobody"
    units = "systemctl list-units --all --no-legend 'sallyport-pull*' 'sallyport-update*'"
    assert "sallyport" not in site.sh(DEVICE, f"{units}; nft list tables")
    assert site.sh(DEVICE, "command -v ansible-playbook").strip()  # it was there before
    assert SERVER not in done.of
