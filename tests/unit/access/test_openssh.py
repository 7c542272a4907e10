"""The settings for each release, and what is refused because somebody would be locked out."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.access import openssh, options
from ansible_collections.sallyport.iot.plugins.plugin_utils.access.algorithms import Algorithms
from ansible_collections.sallyport.iot.plugins.plugin_utils.access.options import OptionError, SshOptions
from ansible_collections.sallyport.iot.plugins.plugin_utils.access.ssh_plan import Refused

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJTxY7WWw3MsgWv+4L0jukRWO3TumLgCvMX4HmTPoyAF me"
LISTS = Algorithms({"kex": ("a", "b")}, ("ssh-ed25519",), (), ())


def device(version: str = "9.2p1", user: str = "root", **ssh: Any) -> dict[str, Any]:
    return {
        "login_user": user,
        "connection": {"client": "fe80::1%eth0", "client_port": 1, "server": "fe80::2%eth0", "server_port": 22},
        "accounts": [
            {"name": "root", "uid": 0, "gid": 0, "home": "/root", "authorized_keys": 0},
            {"name": "pi", "uid": 1000, "gid": 1000, "home": "/home/pi", "authorized_keys": 1},
        ],
        "files": {"/etc/ssh/sshd_config": "Include /etc/ssh/sshd_config.d/*.conf\n"},
        "ssh": {"server": "openssh", "version": version, "unit": "ssh.service", "socket_activated": False,
                "binary": "/usr/sbin/sshd", "host_keys": [], "config": {}, **ssh},
    }  # fmt: skip


def settings(version: str, user: str = "root", **wanted: Any) -> dict[str, str]:
    return dict(openssh.settings(device(version, user), SshOptions(authorized_keys=(KEY,), **wanted), LISTS))


def test_each_release_gets_only_options_that_it_knows() -> None:
    old, middle, new = settings("8.4p1"), settings("9.2p1"), settings("10.0p2")
    assert "PubkeyAcceptedKeyTypes" in old and "PubkeyAcceptedAlgorithms" not in old
    assert old["ChallengeResponseAuthentication"] == "no" and "RequiredRSASize" not in old
    assert "PubkeyAcceptedAlgorithms" in middle and "PerSourcePenaltyExemptList" not in middle
    assert "ChallengeResponseAuthentication" not in middle and middle["RequiredRSASize"] == "2048"
    assert new["PerSourcePenaltyExemptList"] == "fe80::1"


def test_root_is_only_shut_out_where_somebody_else_logs_in() -> None:
    assert settings("9.2p1")["PermitRootLogin"] == "prohibit-password"
    assert settings("9.2p1", "pi")["PermitRootLogin"] == "no"


def test_keys_in_home_directories_go_on_counting_unless_ours_are_to_be_alone() -> None:
    assert settings("9.2p1")["AuthorizedKeysFile"] == ".ssh/authorized_keys /etc/ssh/authorized_keys.d/%u"
    assert (
        settings("9.2p1", authorized_keys_exclusive=True)["AuthorizedKeysFile"]
        == "/etc/ssh/authorized_keys.d/%u"
    )


def test_a_second_run_keeps_the_key_files_as_they_are() -> None:
    first = settings("9.2p1")["AuthorizedKeysFile"]
    again = device(config={"authorizedkeysfile": [first]})
    assert (
        dict(openssh.settings(again, SshOptions(authorized_keys=(KEY,)), LISTS))["AuthorizedKeysFile"]
        == first
    )


def test_an_option_of_the_site_wins_over_the_role_and_stands_once() -> None:
    assert settings("9.2p1", options={"maxauthtries": "9"})["maxauthtries"] == "9"
    assert "MaxAuthTries" not in settings("9.2p1", options={"maxauthtries": "9"})


@pytest.mark.parametrize(
    ("user", "wanted", "text"),
    [
        ("root", SshOptions(), "root has no key on this device"),
        ("pi", SshOptions(authorized_keys_exclusive=True), "pi has no key on this device"),
        (
            "root",
            SshOptions(authorized_keys=(KEY,), permit_root_login="no"),
            "root is the login of this inventory",
        ),
        ("pi", SshOptions(allow_users=("root",)), "ssh_allow_users leaves out pi"),
        ("ldap", SshOptions(authorized_keys=(KEY,)), "'ldap' is not among the accounts"),
    ],
)
def test_what_would_lock_the_operator_out_is_refused(user: str, wanted: SshOptions, text: str) -> None:
    with pytest.raises(Refused, match=text):
        openssh.plan(device(user=user), wanted, LISTS, {}, "ours")


def test_a_user_with_a_key_of_his_own_needs_none_from_us() -> None:
    plan = openssh.plan(device(user="pi"), SshOptions(), LISTS, {}, "ours")
    assert [entry["dest"] for entry in plan.files] == ["/etc/ssh/sshd_config.d/00-sallyport.conf"]


def test_a_daemon_that_no_unit_starts_is_refused() -> None:
    with pytest.raises(Refused, match="runs without a systemd unit"):
        openssh.plan(device(unit=""), SshOptions(authorized_keys=(KEY,)), LISTS, {}, "ours")


def test_the_daemon_is_restarted_never_reloaded() -> None:
    plan = openssh.plan(device(), SshOptions(authorized_keys=(KEY,)), LISTS, {}, "ours")
    assert plan.activate == ["systemctl restart ssh.service"] and plan.new_daemon


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"authorized_keys": ["ssh-ed25519 nonsense"]}, r"ssh_authorized_keys\[0\]: expected one line"),
        ({"authorized_keys": [KEY + "\nssh-rsa AAAA"]}, r"ssh_authorized_keys\[0\]"),
        ({"authorized_keys": KEY}, "ssh_authorized_keys: expected a list of text, found str"),
        ({"allow_users": ["a b"]}, r"ssh_allow_users\[0\]: expected the name of an account, found 'a b'"),
        ({"exempt_sources": ["10.0.0.1/8"]}, r"ssh_exempt_sources\[0\]: expected a CIDR"),
        ({"max_auth_tries": 1}, "ssh_max_auth_tries: expected a whole number from 2 to 100, found 1"),
        ({"options": {"X11Forwarding": True}}, "ssh_options.X11Forwarding: expected text or a number"),
        ({"options": {"Match": "User x"}}, "a block cannot be an option"),
        ({"permit_root_login": "maybe"}, "ssh_permit_root_login: expected auto"),
        ({"spelling": 1}, "unknown option 'spelling'"),
    ],
)
def test_wrong_variables_are_named_with_what_was_expected(values: dict[str, Any], text: str) -> None:
    with pytest.raises(OptionError, match=text):
        options.parse(values)


def test_a_controller_within_a_management_zone_is_not_named_by_itself() -> None:
    one = {**device("10.0p2"), "connection": {"client": "10.1.2.3"}}
    assert openssh.exemptions(one, SshOptions(exempt_sources=("10.1.0.0/16",))) == ["10.1.0.0/16"]
    assert openssh.exemptions(one, SshOptions(exempt_sources=("fd00::/8",))) == ["10.1.2.3", "fd00::/8"]


def test_behind_a_socket_only_the_service_is_restarted_and_the_socket_is_left_alone() -> None:
    one = device(unit="ssh.socket", socket_activated=True)
    plan = openssh.plan(one, SshOptions(authorized_keys=(KEY,)), LISTS, {}, "ours")
    assert plan.activate == plan.revert == ["systemctl try-restart ssh.service"]
