"""What is offered, as ssh-audit sees it from a vantage point; and lists that nobody could come back over."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.logins import OPENSSH, TOOLS, Doors

POLICIES = {
    "debian11": "Hardened OpenSSH Server v8.4 (version 4)",
    "debian12": "Hardened Debian 12 (version 3)",
    "debian13": "Hardened Debian 13 (version 1)",
}


def audit(doors: Doors, device: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [*doors.within("vantage-lan"), str(TOOLS / "ssh-audit"), "-n", "--skip-rate-test", *words]
    return subprocess.run(
        [*command, doors.address(device)], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture(scope="module")
def audited(doors: Doors) -> Doors:
    done = doors.apply(",".join(OPENSSH), {"ssh_profile": "ssh-audit"})
    said = "ssh_profile: ssh-audit leaves no key exchange that openssh-8.4 speaks on this device"
    assert {one: any(said in note for note in done.of[one]["notes"]) for one in OPENSSH} == {
        "debian11": False, "debian12": False, "debian13": True,
    }  # fmt: skip
    return doors


@pytest.mark.parametrize("device", ["debian12", "debian13"])
def test_ssh_audits_own_policy_passes(audited: Doors, device: str) -> None:
    done = audit(audited, device, "-P", POLICIES[device])
    assert done.returncode == 0 and "Passed" in done.stdout, done.stdout
    assert audited.operator_gets_in(device)


def test_on_debian_11_the_only_difference_is_the_mark_that_debian_put_back(audited: Doors) -> None:
    done = audit(audited, "debian11", "-P", POLICIES["debian11"], "-j")
    errors = json.loads(done.stdout)["errors"]
    assert [one["mismatched_field"] for one in errors] == ["Key exchanges"], done.stdout
    (kex,) = errors
    assert set(kex["actual"]) - set(kex["expected_required"]) == {"kex-strict-s-v00@openssh.com"}


def test_lists_that_this_controllers_ssh_cannot_speak_are_refused_before_anything_changes(
    doors: Doors, tmp_path: Path
) -> None:
    old = tmp_path / "ssh"
    old.write_text(
        '#!/bin/sh\nif [ "$1 $2" = "-Q kex" ]; then echo curve25519-sha256; else exec ssh "$@"; fi\n',
        encoding="utf-8",
    )
    old.chmod(0o755)
    doors.apply("debian13", {})  # a daemon that runs with the very lists would prove that it speaks them
    before = doors.sh("debian13", "cat /etc/ssh/sshd_config.d/*")
    run = doors.play("debian13", {"ansible_ssh_executable": str(old), "ssh_clients": "openssh-9.0"})
    assert (
        run.status == 2
        and "speaks none of the kex algorithms chosen for this device" in run.of["debian13"]["msg"]
    )
    assert doors.sh("debian13", "cat /etc/ssh/sshd_config.d/*") == before


def test_newer_clients_let_the_older_exchange_go_and_nothing_is_left_to_warn_of(doors: Doors) -> None:
    result = doors.apply("debian13", {"ssh_clients": "openssh-9.0"}).of["debian13"]
    assert not any("kept for" in note for note in result["notes"])
    report = json.loads(audit(doors, "debian13", "-j").stdout)
    complaints = [
        (entry["algorithm"], kind) for part in ("kex", "key", "enc", "mac") for entry in report[part]
        for kind in ("fail", "warn") if entry["notes"].get(kind)
    ]  # fmt: skip
    assert complaints == []
    assert doors.operator_gets_in("debian13")
