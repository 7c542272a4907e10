"""The settings for each release, and what is refused because somebody would be locked out."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
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


FAKE_SSHD = """#!{python}
import fnmatch, ipaddress, re, sys
arguments = sys.argv[1:]
if "-f" not in arguments:
    print(open("{said}").read())
    sys.exit()
client = ipaddress.ip_address(re.search("addr=([^,]+)", " ".join(arguments))[1])
values, inside = {{"maxsessions": "1", "maxauthtries": "1"}}, True
for line in open(arguments[arguments.index("-f") + 1]):
    keyword, _, value = line.strip().partition(" ")
    if keyword == "Match":
        pattern = value.split('"')[1]
        try:
            inside = client in ipaddress.ip_network(pattern)
        except ValueError:
            inside = fnmatch.fnmatchcase(str(client), pattern)
    elif inside:
        values[keyword.lower()] = value
for each in values.items():
    print(*each)
"""


def asked(tmp_path: Path, said: str, *site: str) -> str:
    """What the check of a login as root from 192.0.2.9 says to sshd's account of its settings; "" where it lets in."""
    (tmp_path / "said").write_text(said)
    sshd = tmp_path / "sshd"
    sshd.write_text(FAKE_SSHD.format(python=sys.executable, said=tmp_path / "said"))
    sshd.chmod(0o755)
    one = {**device(), "connection": {"client": "192.0.2.9", "server": "192.0.2.1", "server_port": 22}}
    command = openssh._effective(str(sshd), one, "root")
    text = f"set -eu\neffective=$({command})\n" + openssh._lets_in(command, one, "root", True, site)
    done = subprocess.run(["sh", "-c", text], capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == (done.stderr == ""), done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("forcecommand /bin/false", "ForceCommand /bin/false ends every login"),
        ("maxsessions 0", "MaxSessions 0 gives it no session"),
        ("chrootdirectory /nowhere", "ChrootDirectory /nowhere takes its files away"),
        ("revokedkeys /missing", "RevokedKeys /missing is not there"),
        ("allowusers root@10.0.0.0/8", "AllowUsers does not name it"),
        ("allowusers bob\nallowusers root@10.0.0.0/8", "AllowUsers does not name it"),
        ("denyusers root@192.0.2.0/24", "DenyUsers shuts it out by the address"),
        ("usedns no\nallowusers root@localhos?", "AllowUsers does not name it"),
        ("denyusers ro*", r"DenyUsers ro\* shuts it out"),
        ("allowusers bob", "AllowUsers does not name it"),
    ],
)
def test_what_a_restart_would_shut_the_operator_out_by_is_named(tmp_path: Path, said: str, text: str) -> None:
    assert re.search(text, asked(tmp_path, said))


@pytest.mark.parametrize(
    "said",
    [
        "forcecommand none\nmaxsessions 10\nchrootdirectory none\nrevokedkeys none",
        "revokedkeys /etc/ssh/sallyport/revoked",
        "allowusers bob\nallowusers root@192.0.2.0/24",
        "allowusers root@10.0.0.0/8\nallowusers root",
        "denyusers root@10.0.0.0/8\ndenyusers bob",
        "usedns yes\nallowusers root@*.example.org",
    ],
)
def test_what_does_not_shut_the_operator_out_is_let_through(tmp_path: Path, said: str) -> None:
    assert asked(tmp_path, said) == ""


def test_what_the_site_says_itself_is_left_to_the_proof(tmp_path: Path) -> None:
    assert asked(tmp_path, "forcecommand /usr/bin/log-and-run", "forcecommand") == ""


def everybody(*said: tuple[str, str], files: dict[str, str] | None = None, version: str = "9.2p1") -> str:
    """What is said of a configuration that differs from ours in these words."""
    one = device(version)
    one["files"].update(files or {})
    wanted = openssh.settings(one, SshOptions(authorized_keys=(KEY,)), LISTS)
    expected = openssh._for_anybody(wanted, openssh.version(version), one["files"], SshOptions())
    lines = {**{keyword.lower(): value for keyword, value in wanted}, **dict(said)}
    text = "".join(f"{keyword} {value}\n" for keyword, value in lines.items())
    script = openssh._expect(f"printf '%s' '{text}'", expected, "")
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False).stderr


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("permitrootlogin", "yes"), ("kexalgorithms", "a"), ("permitemptypasswords", "yes"),
     ("allowtcpforwarding", "yes"), ("maxauthtries", "100"), ("passwordauthentication", "yes"),
     ("authorizedkeysfile", "/tmp/%u"), ("hostbasedauthentication", "yes")],
)  # fmt: skip
def test_every_setting_of_ours_is_asked_back_and_one_that_somebody_else_won_is_named(
    keyword: str, value: str
) -> None:
    assert everybody() == ""
    assert f"{keyword}={value}" in everybody((keyword, value))
    match = {"/etc/ssh/sshd_config": f"Include sshd_config.d/*.conf\nMatch User bob\n  {keyword} {value}\n"}
    assert everybody((keyword, value), files=match) == "", "named in the notes instead"


def test_sshd_says_the_same_in_other_words() -> None:
    assert everybody(("permitrootlogin", "without-password")) == ""
    assert everybody(("kbdinteractiveauthentication", "yes"), version="8.4p1") == ""


def test_the_plan_asks_back_before_and_after() -> None:
    plan = openssh.plan(device(), SshOptions(authorized_keys=(KEY,)), LISTS, {}, "ours")
    for commands in (plan.check, plan.verify):
        assert any("user=sallyport-nobody" in text and "permitemptypasswords" in text for text in commands)
