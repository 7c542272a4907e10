"""Who may log in over OpenSSH, from where, to do what: tried with keys and passwords from three places."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from tests.logins import OPENSSH, Doors


@dataclass
class Admitted:
    doors: Doors
    variables: dict[str, Any]
    predicted: dict[str, dict[str, Any]]
    done: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def admitted(doors: Doors) -> Admitted:
    """alice from where the policy says, bob from elsewhere, carol to run one command, dave by his group, mallory not."""
    for device in OPENSSH:
        doors.sh(device, "getent group technicians >/dev/null || groupadd technicians")
        for name in ("alice", "bob", "carol", "mallory"):
            doors.account(device, name)
        doors.account(device, "dave", "technicians")
        # Keys of their own, as people put them there.
        for name in ("dave", "mallory"):
            doors.sh(
                device,
                f"install -d -m 700 -o {name} /home/{name}/.ssh; "
                f"echo '{doors.public(name)}' >/home/{name}/.ssh/authorized_keys; chown {name} /home/{name}/.ssh/*",
            )
        doors.sh(device, "echo mallory:Nobody-Guesses-This-7 | chpasswd; passwd -d alice")
    variables = {
        "ssh_users": [
            {
                "name": "alice",
                "keys": [doors.public("alice"), doors.public("alice-rsa", "rsa")],
                "forwarding": True,
            },
            {"name": "bob", "keys": [doors.public("bob")], "from": ["public"]},
            {
                "name": "carol",
                "keys": [doors.public("carol")],
                "command": "echo only this; echo $SSH_ORIGINAL_COMMAND",
            },
        ],
        "ssh_groups": [{"name": "technicians", "from": ["mgmt"]}],
        "ssh_idle_timeout": 10,  # OpenSSH 9.2 and later
    }
    # What a device listed before may not stay in force.
    doors.sh(
        "debian12",
        "echo 'AllowUsers root mallory' >/etc/ssh/sshd_config.d/50-vendor.conf; systemctl restart ssh",
    )
    old = {**variables, "ssh_idle_timeout": 0}
    predicted, done = {}, {}
    for limit, values in (("debian11", old), ("debian12,debian13", variables)):
        predicted.update(doors.apply(limit, values, "--check", "--diff").of)
        done.update(doors.apply(limit, values).of)
    return Admitted(doors, variables, predicted, done)


def test_check_mode_predicted_exactly_what_the_run_did(admitted: Admitted) -> None:
    for device in OPENSSH:
        said, made = admitted.predicted[device], admitted.done[device]
        assert said["state"] == "would_change" and made["state"] == "confirmed"
        assert said["files"] == made["files"] and said["notes"] == made["notes"]
        assert {"dest": "/etc/ssh/authorized_keys.d/alice", "change": "created"} in made["files"]


def test_the_result_says_who_may_come_from_where(admitted: Admitted) -> None:
    notes = admitted.done["debian13"]["notes"]
    assert "alice may log in from 198.51.100.0/25, fd00:db8:1::/48" in notes
    assert "bob may log in from 198.51.100.128/25, fd00:db8:2::/48" in notes
    assert "group technicians may log in from 198.51.100.0/25, fd00:db8:1::/48" in notes


@pytest.mark.parametrize("device", OPENSSH)
@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
def test_the_right_key_gets_in_from_the_right_network_and_from_no_other(
    admitted: Admitted, device: str, family: int
) -> None:
    doors = admitted.doors
    alice, bob = doors.key("alice"), doors.key("bob")
    assert doors.ssh(device, "alice", key=alice, family=family).got_in
    assert doors.ssh(device, "bob", key=bob, place="vantage-wan", family=family).got_in
    for user, key, place in (("alice", alice, "vantage-wan"), ("bob", bob, "vantage-lan")):
        tried = doors.ssh(device, user, key=key, place=place, family=family)
        # OpenSSH 10 may shut the door on a source that failed before.
        assert not tried.got_in and (tried.refused or device == "debian13"), tried.text


@pytest.mark.parametrize("device", OPENSSH)
def test_members_of_a_group_get_in_with_their_own_keys_and_others_do_not(
    admitted: Admitted, device: str
) -> None:
    doors = admitted.doors
    assert doors.ssh(device, "dave", key=doors.key("dave")).got_in
    assert doors.ssh(device, "mallory", key=doors.key("mallory")).refused
    assert doors.ssh(device, "alice", key=doors.key("mallory")).refused
    assert doors.ssh(device, "alice", key=doors.key("alice-rsa")).got_in


@pytest.mark.parametrize("device", OPENSSH)
def test_passwords_right_and_empty_and_the_operator_from_elsewhere_stay_out(
    admitted: Admitted, device: str
) -> None:
    doors = admitted.doors
    for user, password in (("mallory", "Nobody-Guesses-This-7"), ("alice", "")):
        tried = doors.ssh(device, user, code=password, place="vantage-lan")
        assert tried.refused and "(publickey)" in tried.text, tried.text
    tried = doors.ssh(device, "root", key=doors.operator, place="vantage-wan")
    assert not tried.got_in and (tried.refused or device == "debian13"), tried.text
    assert doors.operator_gets_in(device) and doors.operator_gets_in(device, family=1)


@pytest.mark.parametrize("device", OPENSSH)
def test_a_forced_command_is_all_that_its_user_gets(admitted: Admitted, device: str) -> None:
    doors = admitted.doors
    tried = doors.ssh(device, "carol", key=doors.key("carol"), command="cat /etc/passwd")
    assert tried.got_in and "only this\ncat /etc/passwd\n" in tried.text and "root:x:0" not in tried.text


@pytest.mark.parametrize("device", OPENSSH)
def test_ports_are_forwarded_for_whom_it_was_asked_and_for_nobody_else(
    admitted: Admitted, device: str
) -> None:
    doors = admitted.doors
    banners = {}
    for user in ("alice", "dave"):
        done = subprocess.run(
            ["ssh", "-F", "none", "-o", "UserKnownHostsFile=/dev/null", "-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes",
             "-o", "IdentitiesOnly=yes", "-i", str(doors.key(user)), "-W", "127.0.0.1:22", f"{user}@{doors.address(device)}"],
            input="\n", capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        banners[user] = done.stdout.startswith("SSH-2.0-") or "administratively prohibited" not in done.stderr
    assert banners == {"alice": True, "dave": False}


def test_shells_that_people_leave_alone_end_and_that_of_the_automation_does_not(admitted: Admitted) -> None:
    doors = admitted.doors
    asked = [(device, user) for device in ("debian12", "debian13") for user in ("alice", "root")]
    shells = {}
    for device, user in asked:
        key = doors.operator if user == "root" else doors.key(user)
        shells[device, user] = subprocess.Popen(
            ["ssh", "-F", "none", "-tt", "-o", "UserKnownHostsFile=/dev/null", "-o", "StrictHostKeyChecking=no",
             "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-i", str(key), f"{user}@{doors.address(device)}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
    for (_, user), shell in shells.items():
        if user == "alice":
            shell.wait(timeout=40)
    said = {
        who: shell.communicate("echo $((40+2)) here; exit\n", timeout=40)[0]
        for who, shell in shells.items()
        if who[1] == "root"
    }
    assert all("42 here" in text for text in said.values()), said
    for (device, user), shell in shells.items():
        if user == "alice":
            assert shell.stdout is not None and "auto-logout" in shell.stdout.read(), device


def test_guesses_from_the_management_network_never_shut_the_operator_out(admitted: Admitted) -> None:
    """OpenSSH 10 punishes sources. Ours may fail as often as it likes; a stranger's may not."""
    doors = admitted.doors
    for _ in range(6):
        assert doors.ssh("debian13", "root", key=doors.key("mallory")).refused
    assert doors.operator_gets_in("debian13")
    stranger = [doors.ssh("debian13", "bob", key=doors.key("mallory"), place="vantage-wan") for _ in range(6)]
    assert not any(one.got_in for one in stranger)
    last = doors.ssh("debian13", "bob", key=doors.key("bob"), place="vantage-wan")
    assert not last.got_in and not last.refused, last.text
    assert doors.operator_gets_in("debian13")


def test_one_source_cannot_use_up_the_places_of_those_who_have_not_logged_in(admitted: Admitted) -> None:
    doors = admitted.doors
    program = (
        "import socket,sys\n"
        f"held=[socket.create_connection(({doors.address('debian12')!r},22),5) for _ in range(40)]\n"
        "print(sum(one.recv(4)==b'SSH-' for one in held), flush=True)\n"
        "sys.stdin.read()\n"
    )
    words = [*doors.within("vantage-lan"), sys.executable, "-c", program]
    crowd = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert crowd.stdout is not None and crowd.stdout.readline() == "10\n"
        assert all(doors.operator_gets_in("debian12") for _ in range(4))
    finally:
        crowd.communicate("", timeout=30)


def test_a_second_run_changes_nothing(admitted: Admitted) -> None:
    again = admitted.doors.apply("debian12,debian13", admitted.variables)
    for device, result in again.of.items():
        assert not result["changed"] and result["exchanges"] <= 2, (device, json.dumps(result))


def test_whoever_is_no_longer_named_is_out_with_the_next_run_and_keeps_no_key(admitted: Admitted) -> None:
    doors = admitted.doors
    fewer = {**admitted.variables, "ssh_users": admitted.variables["ssh_users"][:1], "ssh_groups": []}
    result = doors.apply("debian13", fewer).of["debian13"]
    assert {"dest": "/etc/ssh/authorized_keys.d/carol", "change": "removed"} in result["files"]
    assert doors.ssh("debian13", "carol", key=doors.key("carol")).refused
    assert doors.ssh("debian13", "dave", key=doors.key("dave")).refused
    assert doors.ssh("debian13", "alice", key=doors.key("alice")).got_in
    result = doors.apply("debian13", {}).of["debian13"]
    assert {"dest": "/etc/ssh/authorized_keys.d/alice", "change": "removed"} in result["files"]
    assert doors.ssh("debian13", "alice", key=doors.key("alice")).refused
    assert not doors.apply("debian13", {}).of["debian13"]["changed"]


@pytest.mark.parametrize(
    ("device", "variables", "text"),
    [
        ("debian12", {"ssh_users": [{"name": "nobody-here"}]}, r"ssh_users[0].name: there is no account nobody-here"),
        ("debian12", {"ssh_users": [{"name": "alice", "from": ["mgnt"]}]},
         "ssh_users[0].from[0]: expected a CIDR or a zone of the policy, found 'mgnt'"),
        ("debian12", {"ssh_users": [{"name": "root", "from": ["public"]}]}, "ssh_users[0].from: this controller comes from"),
        ("debian11", {"ssh_idle_timeout": 600}, "OpenSSH 8.4p1 cannot give people a time-out of their own"),
        ("vendor", {"ssh_users": [{"name": "root"}]}, "ssh_users: dropbear can neither limit who logs in from where"),
        ("vendor", {"ssh_revoked_keys": [{"fingerprint": "SHA256:" + "A" * 43}]}, "ssh_revoked_keys: dropbear knows no revocation"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name_and_nothing_changes(
    doors: Doors, device: str, variables: dict[str, Any], text: str
) -> None:
    listing = (
        "find /etc/ssh /etc/pam.d /etc/dropbear /root/.ssh /etc/inittab -type f 2>/dev/null | xargs md5sum"
    )
    doors.ssh(device, "root")  # dropbear makes its host key when the first client comes
    before = doors.sh(device, listing)
    run = doors.play(device, variables)
    assert run.status == 2 and run.of[device]["state"] == "refused" and text in run.of[device]["msg"], (
        run.output[-2000:]
    )
    assert doors.sh(device, listing) == before
