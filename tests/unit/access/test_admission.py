"""What the people of a site mean for one device: blocks in the right order, and never a way past the operator's."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.access import (
    admission,
    openssh,
    options,
    sshd_config,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.access.algorithms import Algorithms
from ansible_collections.sallyport.iot.plugins.plugin_utils.access.second_factor import Answers
from ansible_collections.sallyport.iot.plugins.plugin_utils.access.ssh_plan import Refused

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJTxY7WWw3MsgWv+4L0jukRWO3TumLgCvMX4HmTPoyAF me"
OTHER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA other"
TOKEN = (
    "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIJTxY7WWw3MsgWv+4L0jukRWO3TumLgCvMX4HmTPoyAF"
    "AAAABHNzaDo="
)
LISTS = Algorithms({"kex": ("a",)}, ("ssh-ed25519", "sk-ssh-ed25519@openssh.com"), (), ())
ANSWERS = Answers(groups=frozenset({"tech"}), pam="@include common-auth\n", module="/m", enrolled=frozenset())
ZONES = ["10.0.0.0/8"]


def device(version: str = "9.2p1", **more: Any) -> dict[str, Any]:
    accounts = [
        {"name": name, "uid": uid, "gid": uid, "home": "/h", "authorized_keys": 0, "shell": shell, "password": "none"}
        for name, uid, shell in (("root", 0, "/bin/sh"), ("alice", 1, "/bin/sh"), ("bob", 2, "/bin/sh"), ("svc", 3, "/usr/sbin/nologin"))
    ]  # fmt: skip
    return {
        "login_user": "root",
        "connection": {"client": "192.0.2.9", "client_port": 1, "server": "192.0.2.1", "server_port": 22},
        "accounts": accounts,
        "files": {"/etc/ssh/sshd_config": "Include /etc/ssh/sshd_config.d/*.conf\n"},
        "ssh": {"server": "openssh", "version": version, "unit": "ssh.service", "binary": "/usr/sbin/sshd",
                "host_keys": [], "config": {"usepam": ["yes"]}},
        **more,
    }  # fmt: skip


def resolve(where: str, texts: Sequence[str]) -> Sequence[str]:
    return list(texts)


def drop_in(
    one: dict[str, Any] | None = None,
    answers: Answers = ANSWERS,
    default: Sequence[str] = ZONES,
    **values: Any,
) -> str:
    plan = made(one, answers, default, **values)
    return next(str(entry["content"]) for entry in plan.files if entry["dest"] == sshd_config.DROP_IN)


def made(
    one: dict[str, Any] | None = None,
    answers: Answers = ANSWERS,
    default: Sequence[str] = ZONES,
    **values: Any,
) -> Any:
    one = one or device()
    wanted = admission.with_login_keys(one, options.parse({"authorized_keys": [KEY], **values}))
    admitted = admission.admit(one, wanted, answers, resolve, default)
    return openssh.plan(one, wanted, LISTS, {}, "Managed by Sallyport", admitted, answers)


def test_nobody_but_those_named_and_the_operator_from_where_the_policy_says() -> None:
    text = drop_in(users=[{"name": "alice", "keys": [OTHER]}, {"name": "bob", "from": ["172.16.0.0/12"]}])
    block = text[text.index("Match User *") :]
    assert "AllowUsers root@10.0.0.0/8 root@192.0.2.9/32 alice@10.0.0.0/8 bob@172.16.0.0/12\n" in block
    assert "AllowUsers" not in text[: text.index("Match")]


def test_the_operator_is_admitted_from_anywhere_where_no_policy_says_otherwise() -> None:
    assert "    AllowUsers root alice\n" in drop_in(default=[], users=[{"name": "alice"}])


def test_members_of_a_group_get_in_beside_the_people() -> None:
    text = drop_in(groups=[{"name": "tech", "from": ["10.1.0.0/16"]}])
    assert "Match Group tech\n    AllowUsers *@10.1.0.0/16\n" in text


def test_long_lists_take_several_lines() -> None:
    default = [f"10.{number}.0.0/16" for number in range(100)]
    lines = [
        line
        for line in drop_in(default=default, users=[{"name": "alice"}]).splitlines()
        if "AllowUsers" in line
    ]
    assert len(lines) == 6 and max(map(len, lines)) < 1200


def test_what_somebody_may_do_stands_in_a_block_of_his_own() -> None:
    text = drop_in(users=[{"name": "alice", "command": "/usr/bin/uptime -p", "forwarding": True}])
    block = text.partition("Match User alice\n")[2]
    assert block.startswith("    ForceCommand /usr/bin/uptime -p\n    AllowTcpForwarding yes\n")


def test_only_people_are_idle_and_what_sessions_get_already_they_go_on_getting() -> None:
    assert "Match User *,!root\n    SetEnv TMOUT=600\n" in drop_in(idle_timeout=600)
    one = device()
    one["ssh"]["config"]["setenv"] = ["A=1", "B=x y", "TMOUT=5"]
    assert '    SetEnv A=1 "B=x y" TMOUT=600\n' in drop_in(one, idle_timeout=600)


def test_codes_are_asked_for_by_name_and_the_automation_is_bound_to_its_keys_and_sources() -> None:
    text = drop_in(users=[{"name": "alice", "keys": [OTHER], "second_factor": "totp"}])
    before, _, alice = text.partition("Match User alice\n")
    assert alice.startswith(
        "    AuthenticationMethods publickey,keyboard-interactive\n    KbdInteractiveAuthentication yes\n"
    )
    assert "\nAuthenticationMethods publickey\n" in before and "KbdInteractiveAuthentication no\n" in before
    assert (
        "Match User root Address 10.0.0.0/8,192.0.2.9/32\n    AuthenticationMethods publickey\n"
        "    AuthorizedKeysFile /etc/ssh/authorized_keys.d/%u\n"
    ) in before


def test_before_8_7_pam_asks_through_another_option_that_no_block_can_hold() -> None:
    old = drop_in(device("8.4p1"), users=[{"name": "alice", "keys": [OTHER], "second_factor": "totp"}])
    assert "ChallengeResponseAuthentication yes\n" in old[: old.index("Match")]
    assert "ChallengeResponseAuthentication no\n" in drop_in(device("8.4p1"), users=[{"name": "alice"}])


def test_tokens_must_verify_their_user_and_no_other_key_counts() -> None:
    text = drop_in(users=[{"name": "alice", "keys": [TOKEN], "second_factor": "fido2"}])
    block = text.partition("Match User alice\n")[2]
    assert block.startswith(
        "    PubkeyAuthOptions verify-required\n    PubkeyAcceptedAlgorithms sk-ssh-ed25519@openssh.com\n"
    )
    plan = made(users=[{"name": "alice", "keys": [TOKEN]}], second_factor="fido2")
    keys = next(entry for entry in plan.files if entry["dest"].endswith("/alice"))
    assert keys["content"] == f"# Managed by Sallyport\nverify-required {TOKEN}\n"


def test_in_the_main_file_blocks_stand_at_the_end_and_settings_on_top() -> None:
    one = device(files={"/etc/ssh/sshd_config": "UsePAM yes\nPasswordAuthentication yes"})
    plan = made(one, users=[{"name": "alice"}])
    text = next(str(entry["content"]) for entry in plan.files if entry["dest"] == sshd_config.MAIN)
    assert text.startswith(sshd_config.BEGIN) and text.endswith(f"{sshd_config.END_MATCH}\n")
    assert text.index("PasswordAuthentication yes") < text.index("Match User *")
    again = made({**one, "files": {sshd_config.MAIN: text}}, users=[{"name": "alice"}])
    assert text == next(str(entry["content"]) for entry in again.files if entry["dest"] == sshd_config.MAIN)
    assert again.notes == plan.notes
    assert sshd_config.without_block(text) == "UsePAM yes\nPasswordAuthentication yes\n"


def test_who_is_no_longer_named_loses_keys_principals_and_secret() -> None:
    answers = Answers(
        ours=("/etc/ssh/authorized_keys.d/bob", "/etc/ssh/authorized_keys.d/root", "/etc/ssh/sallyport/principals/bob"),
        enrolled=frozenset({"bob"}), pam="x\n",
    )  # fmt: skip
    gone = {
        entry["dest"]
        for entry in made(answers=answers, users=[{"name": "alice"}]).files
        if entry.get("state") == "absent"
    }
    assert gone == {
        "/etc/ssh/authorized_keys.d/bob",
        "/etc/ssh/sallyport/principals/bob",
        "/var/lib/sallyport-totp/bob",
    }


def test_who_is_enrolled_is_not_enrolled_again_unless_asked() -> None:
    values: dict[str, Any] = {"users": [{"name": "alice", "keys": [OTHER], "second_factor": "totp"}]}
    there = Answers(**{**ANSWERS.__dict__, "enrolled": frozenset({"alice"})})
    for answers, more, who in (
        (ANSWERS, {}, ["alice"]),
        (there, {}, []),
        (there, {"enrol_again": ["alice"]}, ["alice"]),
    ):
        wanted = options.parse({"authorized_keys": [KEY], **values, **more})
        admitted = admission.admit(device(), wanted, answers, resolve, ZONES)
        assert admitted is not None and admitted.enrol() == who


def test_a_secret_of_the_sites_own_goes_to_devices_that_have_another_and_is_never_made_anew() -> None:
    users = [{"name": "alice", "keys": [OTHER], "second_factor": "totp", "totp_secret": "A" * 32}]
    digest = hashlib.sha256(b"salt" + b"A" * 32).hexdigest()
    for digests, given in (
        ({}, {"alice": "A" * 32}),
        ({"alice": "0" * 64}, {"alice": "A" * 32}),
        ({"alice": digest}, {}),
    ):
        there = replace(ANSWERS, enrolled=frozenset(digests), digests=digests, salt="salt")
        wanted = options.parse({"authorized_keys": [KEY], "users": users})
        admitted = admission.admit(device(), wanted, there, resolve, ZONES)
        assert admitted is not None and admitted.enrol() == [] and admitted.given() == given
    again = options.parse({"authorized_keys": [KEY], "users": users, "enrol_again": ["alice"]})
    with pytest.raises(Refused, match="the secret of alice is the site's own"):
        admission.admit(device(), again, ANSWERS, resolve, ZONES)


@pytest.mark.parametrize(
    ("one", "values", "text"),
    [
        ({}, {"users": [{"name": "carol"}]}, r"ssh_users\[0\].name: there is no account carol on this device"),
        ({}, {"users": [{"name": "svc"}]}, "the shell of svc is /usr/sbin/nologin"),
        ({}, {"groups": [{"name": "nobodys"}]}, r"ssh_groups\[0\].name: there is no group nobodys"),
        ({}, {"users": [{"name": "root", "from": ["10.0.0.0/8"]}]}, "this controller comes from 192.0.2.9, which is in none"),
        ({}, {"users": [{"name": "root", "second_factor": "totp"}]}, "root is the account that Ansible logs in with, and it can"),
        ({}, {"users": [{"name": "root", "command": "id"}]}, r"ssh_users\[0\].command: root is the account"),
        ({}, {"users": [{"name": "alice"}], "second_factor": "totp", "password_authentication": True}, "a second factor is worth"),
        ({}, {"users": [{"name": "alice", "keys": [KEY]}], "second_factor": "fido2"}, r"ssh_users\[0\].keys\[0\]: expected a FIDO2"),
        ({}, {"users": [{"name": "alice"}, {"name": "bob", "second_factor": "totp"}], "groups": [{"name": "tech"}]},
         "members of tech would get in without the second factor"),
        ({}, {"users": [{"name": "alice"}], "enrol_again": ["bob"]}, "ssh_enrol_again: bob has no second_factor: totp"),
        ({"version": "8.4p1"}, {"idle_timeout": 600}, "OpenSSH 8.4p1 cannot give people a time-out"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_by_name(one: dict[str, Any], values: dict[str, Any], text: str) -> None:
    with pytest.raises(Refused, match=text):
        made(device(**one), **values)


def test_a_locked_account_is_refused_only_where_sshd_takes_it_for_no_login() -> None:
    one = device()
    one["accounts"][1]["password"] = "locked"
    assert drop_in(one, users=[{"name": "alice"}])
    one["ssh"]["config"]["usepam"] = ["no"]
    with pytest.raises(Refused, match="the password of alice is locked with a !"):
        drop_in(one, users=[{"name": "alice"}])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["-D", "-f", "/etc/ssh/other"], "reads /etc/ssh/other and not /etc/ssh/sshd_config"),
        (["-D", "-o", "PasswordAuthentication=yes"], "started with -o PasswordAuthentication=yes"),
        (["-D", "-oPermitRootLogin yes"], "started with -o PermitRootLogin yes"),
    ],
)
def test_a_daemon_whose_command_line_wins_is_refused(arguments: list[str], text: str) -> None:
    one = device()
    one["ssh"]["arguments"] = arguments
    with pytest.raises(Refused, match=text):
        made(one)
    one["ssh"]["arguments"] = ["-D", "-oPort=22", "-f", "/etc/ssh/sshd_config"]
    assert made(one).files


def test_a_second_daemon_is_named_and_left_alone() -> None:
    one = device(listening=[
        {"process": "sshd", "unit": "ssh.service", "port": 22, "protocol": "tcp", "address": "0.0.0.0"},
        {"process": "sshd", "unit": "ssh-oob.service", "port": 2222, "protocol": "tcp", "address": "0.0.0.0"},
    ])  # fmt: skip
    assert (
        "sshd listens on port 2222 too (ssh-oob.service); it is a daemon of its own, and was left alone"
        in made(one).notes
    )


def test_blocks_of_the_device_that_would_undo_ours_are_named() -> None:
    files = {
        sshd_config.MAIN: "Include /etc/ssh/sshd_config.d/*.conf\nMatch User bob\n  AllowUsers bob\n  AuthenticationMethods publickey\n"
    }
    notes = made(
        device(files=files), users=[{"name": "alice", "second_factor": "totp", "keys": [OTHER]}]
    ).notes
    assert "/etc/ssh/sshd_config line 3: the block 'Match User bob' keeps allowusers bob" in notes
    assert any("keeps authenticationmethods publickey" in note for note in notes)


CODES = [{"name": "alice", "second_factor": "totp", "keys": [OTHER]}]


def second_sshd(
    command: str, unit: str = "sshd-admin.service", process: str = "sshd", address: str = "0.0.0.0"
) -> dict[str, Any]:
    return device(
        listening=[{"process": process, "unit": unit, "port": 2222, "pid": 7, "protocol": "tcp", "address": address}],
        processes=[{"pid": 7, "ppid": 1, "name": process, "command": command}],
    )  # fmt: skip


@pytest.mark.parametrize(
    "one",
    [
        second_sshd("/usr/sbin/sshd -D -f /etc/ssh/sshd_admin"),
        second_sshd("sshd: /usr/sbin/sshd -f /etc/ssh/sshd_admin [listener] 0 of 10-100 startups", ""),
        second_sshd("/sbin/init", "sshd-admin.socket", "systemd"),
    ],
    ids=["unit", "no unit", "socket"],
)
def test_codes_are_refused_where_a_second_sshd_would_take_one_for_a_password(one: dict[str, Any]) -> None:
    with pytest.raises(Refused, match=r"a second sshd listens on port 2222 .* a code alone would do"):
        made(one, users=CODES)
    assert made(one, users=[{"name": "alice"}]).files


@pytest.mark.parametrize(
    "one",
    [
        second_sshd("/usr/sbin/sshd -D -f /etc/ssh/sshd_admin -o UsePAM=no"),
        second_sshd("dropbear -F -p 2222", process="dropbear"),
        second_sshd("sshd: alice@notty", "session-4.scope", address="127.0.0.1"),
    ],
    ids=["without PAM", "dropbear", "a session that forwards"],
)
def test_a_daemon_that_never_asks_pam_and_a_session_do_not_stand_in_the_way_of_codes(
    one: dict[str, Any],
) -> None:
    assert made(one, users=CODES).files


@pytest.mark.parametrize(
    "methods", ["any", "password", "publickey,keyboard-interactive keyboard-interactive"]
)
def test_codes_are_refused_where_a_block_or_an_option_asks_for_no_key(methods: str) -> None:
    text = f"Include /etc/ssh/sshd_config.d/*.conf\nMatch User bob\n  AuthenticationMethods {methods}\n"
    with pytest.raises(Refused, match=r"sshd_config line 3 \(Match User bob\) says AuthenticationMethods"):
        made(device(files={sshd_config.MAIN: text}), users=CODES)
    with pytest.raises(Refused, match=r"ssh_options\.AuthenticationMethods says"):
        made(users=CODES, options={"AuthenticationMethods": methods})


def test_a_certificate_is_no_only_way_in_where_a_power_cut_takes_the_time_away() -> None:
    ca = {"authorized_keys": [], "trusted_user_ca": [OTHER]}
    users = [{"name": "root", "principals": ["ops"]}, {"name": "alice", "principals": ["alice"]}]
    lost = replace(ANSWERS, keeps_time=False)
    with pytest.raises(Refused, match="root would get in by certificate alone"):
        made(answers=lost, users=users, **ca)
    assert made(users=users, **ca).files
    notes = made(answers=lost, users=users, **{**ca, "authorized_keys": [KEY]}).notes
    assert [note.split()[0] for note in notes if "by certificate alone" in note] == ["alice"]


def test_what_one_secret_on_all_devices_means_is_said() -> None:
    users = [{**CODES[0], "totp_secret": "A" * 32}]
    assert any("opens every other with the same secret" in note for note in made(users=users).notes)
    assert not any("the same secret" in note for note in made(users=CODES).notes)
