"""What a rotation changes, what it ends, and what no generation may bring back."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.access.host_keys import blob
from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials import reading, rotation, shadow
from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials.rotation import KeyFile

OLD, NEW, FRIEND = (
    f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{name} {name}@example" for name in ("old", "new", "friend")
)
ROOT = {"name": "root", "home": "/root"}
OWN = "/etc/ssh/authorized_keys.d/root"
SHELLS = [command for command in (["dash"], ["busybox", "sh"]) if shutil.which(command[0])]


def openssh(*patterns: str) -> dict[str, Any]:
    return {"ssh": {"server": "openssh", "config": {"authorizedkeysfile": [" ".join(patterns)]}}}


HARDENED = openssh("/etc/ssh/authorized_keys.d/%u", ".ssh/authorized_keys", ".ssh/authorized_keys2")


def texts(files: list[Any]) -> dict[str, str]:
    return {one.dest: one.content.decode() if one.kind == "file" else one.kind for one in files}


def test_the_new_key_stands_beside_the_old_one_first_and_alone_afterwards() -> None:
    found = [KeyFile(OWN, "root", f"{OLD}\n")]
    plan = rotation.plan(HARDENED, ROOT, found, NEW, [])
    assert texts(plan.add) == {OWN: f"{OLD}\n{NEW}\n", "/root/.ssh/authorized_keys": f"{NEW}\n"}
    assert texts(plan.replace) == {OWN: f"{NEW}\n", "/root/.ssh/authorized_keys": f"{NEW}\n"}
    assert [one["comment"] for one in plan.removed] == ["old@example"]


def test_keys_of_everybody_go_but_those_that_are_kept() -> None:
    found = [
        KeyFile(OWN, "root", f"# ours\n{OLD}\n"),
        KeyFile("/home/a/.ssh/authorized_keys", "a", f'from="10.0.0.0/8" {FRIEND}\n{OLD}\n'),
        KeyFile("/home/b/.ssh/authorized_keys2", "b", f"{OLD}\n"),
    ]
    plan = rotation.plan(HARDENED, ROOT, found, NEW, [FRIEND])
    after = texts(plan.replace)
    assert after["/home/a/.ssh/authorized_keys"] == f'from="10.0.0.0/8" {FRIEND}\n'
    assert after["/home/b/.ssh/authorized_keys2"] == "absent"
    assert sorted(one["account"] for one in plan.removed) == ["a", "b", "root"]


def test_a_key_that_a_broken_off_run_installed_already_is_not_added_twice() -> None:
    both = f"{OLD}\n{NEW}\n"
    found = [KeyFile(OWN, "root", both), KeyFile("/root/.ssh/authorized_keys", "root", f"{NEW}\n")]
    plan = rotation.plan(HARDENED, ROOT, found, NEW, [])
    assert plan.add == [] and texts(plan.replace)[OWN] == f"{NEW}\n"


def test_dropbear_reads_one_file_and_openwrt_another() -> None:
    vendor = {"ssh": {"server": "dropbear"}, "files": {}}
    plan = rotation.plan(vendor, ROOT, [KeyFile("/root/.ssh/authorized_keys", "root", OLD)], NEW, [])
    assert texts(plan.add) == {"/root/.ssh/authorized_keys": f"{OLD}\n{NEW}\n"}
    openwrt = {"ssh": {"server": "dropbear"}, "files": {rotation.OPENWRT: ""}}
    assert list(texts(rotation.plan(openwrt, ROOT, [], NEW, []).add)) == [rotation.OPENWRT]


@pytest.mark.parametrize("command", SHELLS, ids=lambda words: words[0])
def test_the_files_of_keys_are_found_for_every_account(command: list[str], tmp_path: Path) -> None:
    home = tmp_path / "home of a"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh/authorized_keys").write_text(f"{OLD}\n")
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/a").write_text(f"{FRIEND}\n")
    passwd = tmp_path / "passwd"
    passwd.write_text(
        f"root:x:0:0::/nonexistent:/bin/sh\na:x:1:1::{home}:/bin/sh\nb:x:2:2::{home}/:/bin/sh\n"
    )
    program = rotation.reading(openssh(f"{tmp_path}/keys/%u", ".ssh/authorized_keys"))
    program = program.replace("/etc/passwd", str(passwd))
    helpers = "say() { printf '%s\\n' \"$*\"; }\nblob() { printf 'blob %s\\n' \"$1\"; cat; }\n"
    done = subprocess.run(
        [*command, "-eu", "-c", helpers + program], capture_output=True, text=True, check=True
    )
    assert f"keyfile a {tmp_path}/keys/a\n" in done.stdout and FRIEND in done.stdout
    assert done.stdout.count(f"keyfile a {home}/.ssh/authorized_keys\n") == 1 and done.stdout.count(OLD) == 1


def test_a_change_that_was_due_is_due_no_more_for_passwords_that_were_replaced() -> None:
    passwd = "root:x:0:0::/root:/bin/sh\na:x:1:1::/:/bin/sh\nb:x:2:2::/:/bin/sh\nold:h1:3:3::/:/bin/sh\n"
    hidden = "root:h1:19000:0:99999:7:::\na:h1:0:0:99999:7:::\nb:h1:0:0:99999:7:::\n"
    accounts = shadow.parse(passwd, hidden)
    texts = {shadow.PASSWD: passwd, shadow.SHADOW: hidden}
    made = rotation.new_passwords(accounts, texts, {"root": "h2", "a": "*", "old": "h2"}, 20700)
    assert made[shadow.SHADOW].decode() == (
        "root:h2:20700:0:99999:7:::\na:*:20700:0:99999:7:::\nb:h1:0:0:99999:7:::\n"
    )
    assert made[shadow.PASSWD].decode() == passwd.replace("old:h1", "old:h2")


def test_every_snippet_is_clean_for_shellcheck() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("needs shellcheck")
    device = {**HARDENED, "listening": [{"protocol": "tcp", "port": 22}]}
    for snippet in (
        rotation.end_sessions(device),
        rotation.reading(device),
        reading.trial(device),
        reading.still_becomes(),
    ):
        text = f"#!/bin/sh\nset -eu\nsay() {{ :; }}\nblob() {{ :; }}\n{snippet}\n"
        done = subprocess.run(
            ["shellcheck", "-e", "SC2016,SC2086,SC2317,SC2329", "-"],
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout


def test_the_strongest_scheme_that_everybody_verifies_is_used_and_dropbear_is_never_trusted_with_it() -> None:
    ssh = {"ssh": {"server": "openssh"}}
    assert reading.scheme_for(ssh, ["sha512", "yescrypt"]) == "yescrypt"
    assert reading.scheme_for(ssh, ["sha512"]) == reading.scheme_for(ssh, []) == "sha512"
    assert reading.scheme_for({"ssh": {"server": "dropbear"}}, ["yescrypt"]) == "sha512"


def test_only_passwords_that_the_inventory_gives_to_several_hosts_are_tried_on_others() -> None:
    variables = {
        "ansible_play_hosts_all": ["a", "b", "c"],
        "hostvars": {
            "a": {"ansible_password": "same", "ansible_become_password": "own"},
            "b": {"ansible_ssh_pass": "same"},
            "c": {"ansible_password": "{{ vault }}"},
        },
    }
    assert reading.fleet_passwords(variables, "a") == {"same": ["b"]}
    assert reading.fleet_passwords(variables, "c") == {"same": ["a", "b"]}


def test_the_keys_of_this_test_are_three() -> None:
    assert len({blob(OLD), blob(NEW), blob(FRIEND)}) == 3
