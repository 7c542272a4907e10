"""The settings for each release, and what is refused because somebody would be locked out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.access import openssh, options, sshd_config
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


def test_a_file_of_sshd_that_could_not_be_read_is_refused_by_name() -> None:
    for path in (sshd_config.MAIN, f"{sshd_config.DROP_IN_DIR}/50-vendor.conf"):
        one = {**device(), "files_omitted": {path: "is not UTF-8", "/etc/inittab": "is not UTF-8"}}
        with pytest.raises(
            Refused, match=f"{path} is not UTF-8, so what it says to sshd cannot be respected"
        ):
            openssh.plan(one, SshOptions(authorized_keys=(KEY,)), LISTS, {}, "ours")


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
        ({"authorized_keys": ["ssh-ed25519 AAAA"]}, r"ssh_authorized_keys\[0\]: expected one line"),
        (
            {"authorized_keys": [KEY.replace("oyAF me", "")]},
            r"ssh_authorized_keys\[0\]: expected one line",
        ),
        (
            {"authorized_keys": [KEY.replace("ssh-ed25519", "ssh-rsa")]},
            r"ssh_authorized_keys\[0\]: expected one line",
        ),
        ({"authorized_keys": [f'from="10.0.0.0/8",command="/bin/false" {KEY}']}, "runs one command only"),
        ({"authorized_keys": [f'Expiry-Time="20261128" {KEY}']}, "this key ends at a time"),
        ({"authorized_keys": [f"host.example {KEY}"]}, "sshd knows no option 'host.example'"),
        (
            {"host_certificates": ["x"]},
            r"ssh_host_certificates\[0\]: expected one line of an OpenSSH certificate, found 'x'",
        ),
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


def test_an_operators_key_may_have_options_that_keep_its_login_whole() -> None:
    lines = [KEY, f'from="10.0.0.0/8,!10.1.0.0/16",no-pty,environment="A=b, c" {KEY}', f"restrict,pty {KEY}"]
    assert options.parse({"authorized_keys": lines}).authorized_keys == tuple(lines)


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
name = re.search("host=([^,]+)", " ".join(arguments))[1]
values, inside = {{"maxsessions": "1", "maxauthtries": "1"}}, True
for line in open(arguments[arguments.index("-f") + 1]):
    keyword, _, value = line.strip().partition(" ")
    if keyword == "Match":
        pattern = value.split('"')[1]
        if value.startswith("Host"):
            inside = fnmatch.fnmatchcase(name, pattern)
            continue
        try:
            inside = client in ipaddress.ip_network(pattern)
        except ValueError:
            inside = fnmatch.fnmatchcase(str(client), pattern)
    elif inside:
        values[keyword.lower()] = value
for each in values.items():
    print(*each)
"""


def asked(tmp_path: Path, said: str, *site: str, name: str = "192.0.2.9") -> str:
    """What the check of a login as root from 192.0.2.9 says to sshd's account of its settings; "" where it lets in."""
    (tmp_path / "said").write_text(said)
    sshd = tmp_path / "sshd"
    sshd.write_text(FAKE_SSHD.format(python=sys.executable, said=tmp_path / "said"))
    sshd.chmod(0o755)
    one = {**device(), "connection": {"client": "192.0.2.9", "server": "192.0.2.1", "server_port": 22}}
    command = openssh._effective(str(sshd), one, "root", name='"$client"')
    text = f"set -eu\nclient={name}\neffective=$({command})\n" + openssh._lets_in(
        command, one, "root", True, site
    )
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
        ("allowusers root@*.example.org", "AllowUsers does not name it"),
        ("denyusers root@192.0.2.?", "DenyUsers shuts it out by the address"),
        ("refuseconnection yes", "RefuseConnection ends its connection"),
        ("maxstartups 0:100:0", "MaxStartups 0:100:0 lets nobody come"),
        ("sshdsessionpath /nowhere", "sshdsessionpath /nowhere is not there"),
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
        "refuseconnection no\nmaxstartups 10:30:100\nsshdauthpath /bin/sh",
    ],
)
def test_what_does_not_shut_the_operator_out_is_let_through(tmp_path: Path, said: str) -> None:
    assert asked(tmp_path, said) == ""


def test_names_of_clients_count_as_far_as_sshd_knows_them(tmp_path: Path) -> None:
    assert asked(tmp_path, "allowusers root@*.example.org", name="ops.example.org") == ""
    assert "AllowUsers does not name it" in asked(
        tmp_path, "allowusers root@!192.0.2.0/24,*.example.org", name="ops.example.org"
    )
    assert "DenyUsers" in asked(tmp_path, "denyusers root@ops.*", name="ops.example.org")


@pytest.mark.parametrize(
    ("dns", "hosts", "back", "name"),
    [
        ("yes", "192.0.2.9  Ops.Example.org ops", "192.0.2.9\tSTREAM ops.example.org", "ops.example.org"),
        ("yes", "192.0.2.9  ops.example.org", "192.0.2.99\tSTREAM ops.example.org", "192.0.2.9"),
        ("yes", "", "192.0.2.9\tSTREAM", "192.0.2.9"),
        ("no", "192.0.2.9  ops.example.org", "192.0.2.9\tSTREAM ops.example.org", "192.0.2.9"),
    ],
)
def test_a_client_has_the_name_that_leads_back_to_its_address_and_only_where_sshd_asks_for_names(
    tmp_path: Path, dns: str, hosts: str, back: str, name: str
) -> None:
    getent = tmp_path / "getent"
    getent.write_text(
        f'#!/bin/sh\nanswer() {{ [ -n "$1" ] && printf \'%s\\n\' "$1"; }}\n'
        f'case "$1 $2" in "hosts 192.0.2.9") answer "{hosts}" ;; "ahosts ops.example.org") answer "{back}" ;; *) exit 2 ;; esac\n'
    )
    getent.chmod(0o755)
    one = {**device(), "connection": {"client": "192.0.2.9"}}
    script = openssh._client_name(f"printf 'usedns {dns}'", one)
    done = subprocess.run(
        ["sh", "-euc", f'{script}\necho "$client"'], capture_output=True, text=True, check=True,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == (f"{name}\n", "")


OLD = "AllowUsers root\n"


@pytest.mark.parametrize(
    ("main", "place", "expected"),
    [
        (
            "Port 22\nInclude /etc/ssh/sshd_config.d/*.conf\nRevokedKeys /etc/ssh/sshd_config.d/gone\n",
            sshd_config.DROP_IN,
            "Port 22\nLoginGraceTime 9\nAllowUsers vendor\nRevokedKeys /etc/ssh/sshd_config.d/gone\n",
        ),
        ("include 'sshd_config.d/*.conf'\n", sshd_config.DROP_IN, "LoginGraceTime 9\nAllowUsers vendor\n"),
        ("# none\nInclude=/etc/ssh/sshd_config.d/*.conf\n", sshd_config.MAIN, "# none\nAllowUsers vendor\n"),
    ],
)
def test_what_is_asked_is_the_configuration_as_it_will_be_without_what_an_earlier_run_left(
    tmp_path: Path, main: str, place: str, expected: str
) -> None:
    """By an sshd that only writes down, with its Includes resolved, what it was given."""
    (tmp_path / "ssh/sshd_config.d").mkdir(parents=True)
    etc = f"{tmp_path}/ssh"
    for name, text in {
        "sshd_config": main, "sshd_config.d/00-sallyport.conf": OLD, "sshd_config.d/70-vendor.conf": "AllowUsers vendor\n",
        "sshd_config.d/note": "",
    }.items():  # fmt: skip
        Path(etc, name).write_text(text.replace("/etc/ssh", etc))
    (tmp_path / "new").write_text("LoginGraceTime 9\n")
    sshd = tmp_path / "sshd"
    sshd.write_text(
        f"#!{sys.executable}\nimport glob, re, sys\n"
        "for line in open(sys.argv[3]):\n"
        "    found = re.match(r'include[ =]+[\"\\']?([^\"\\'\\s]+)', line, re.I)\n"
        f"    path = found and (found[1] if found[1][0] == '/' else '{etc}/' + found[1])\n"
        f"    print(*[open(one).read() for one in sorted(glob.glob(path))] if found else [line], sep='', end='', file=open('{tmp_path}/told', 'a'))\n"
        "print(sys.argv[3] + ' line 1: no', file=sys.stderr)\n"
        f"sys.exit('refuse' in open('{tmp_path}/told').read())\n"
    )
    sshd.chmod(0o755)
    script = openssh.whole(str(sshd), place).replace("/etc/ssh", etc)
    staged = (
        f'staged() {{ case "$1" in */00-sallyport.conf) echo {tmp_path}/new ;; *) echo "$1" ;; esac; }}\n'
    )

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-c", f"set -eu\n{staged}{script}"], capture_output=True, text=True, check=False,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )  # fmt: skip

    assert (run().returncode, (tmp_path / "told").read_text()) == (0, expected.replace("/etc/ssh", etc))
    # A complaint names the file as it is called, and nothing is left behind.
    Path(etc, "sshd_config.d/70-vendor.conf").write_text("refuse\n")
    refused = run()
    assert refused.returncode == 1 and refused.stderr == f"{etc}/sshd_config line 1: no\n"
    assert list(tmp_path.glob("tmp.*")) == []


def test_a_drop_in_of_an_earlier_run_goes_once_something_came_to_stand_before_it() -> None:
    one = device()
    one["files"] = {
        sshd_config.MAIN: "PermitRootLogin yes\nInclude sshd_config.d/*.conf\n",
        sshd_config.DROP_IN: OLD,
    }
    plan = openssh.plan(one, SshOptions(authorized_keys=(KEY,)), LISTS, {}, "ours")
    assert {"dest": sshd_config.DROP_IN, "state": "absent"} in plan.files
    assert any(entry["dest"] == sshd_config.MAIN for entry in plan.files)


AS_IT_IS = {
    "permitrootlogin": "yes", "pubkeyauthentication": "yes", "passwordauthentication": "no", "usedns": "no",
    "authorizedkeysfile": ".ssh/authorized_keys /keys/%u", "kbdinteractiveauthentication": "no",
    "trustedusercakeys": "none", "authorizedkeyscommand": "none", "gssapiauthentication": "no",
}  # fmt: skip


def way_back(tmp_path: Path, said: dict[str, str], user: str = "root", password: bool = False) -> str:
    """What is said to a device whose files, as they are, say this; its login has one key in its own home."""
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True, exist_ok=True)
    (home / ".ssh/authorized_keys").write_text(KEY)
    (tmp_path / "said").write_text("".join(f"{key} {value}\n" for key, value in {**AS_IT_IS, **said}.items()))
    sshd = tmp_path / "sshd"
    sshd.write_text(FAKE_SSHD.format(python=sys.executable, said=tmp_path / "said"))
    sshd.chmod(0o755)
    one = {
        **device(user=user),
        "connection": {"client": "192.0.2.9", "server": "192.0.2.1", "server_port": 22},
    }
    one["accounts"] = [{"name": user, "uid": 7, "home": f"{home}/", "password": "set"}]
    text = "set -eu\n" + openssh._way_back(str(sshd), one, user, True, (), password)
    done = subprocess.run(["sh", "-c", text], capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == (done.stderr == ""), done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({"permitrootlogin": "no"}, ": PermitRootLogin no. Correct"),
        ({"permitrootlogin": "forced-commands-only"}, "PermitRootLogin forced-commands-only"),
        ({"pubkeyauthentication": "no"}, ": PubkeyAuthentication no. Correct"),
        ({"authorizedkeysfile": "none"}, ": no key in AuthorizedKeysFile none"),
        ({"authorizedkeysfile": "/nowhere/%u"}, "no key in AuthorizedKeysFile /nowhere/root"),
        ({"allowusers": "bob"}, "AllowUsers does not name it"),
        ({"forcecommand": "/bin/false"}, "ForceCommand /bin/false ends every login"),
        # Passwords are no way in for a controller that has none, or that root is not let in by.
        ({"pubkeyauthentication": "no", "passwordauthentication": "yes"}, "PubkeyAuthentication no"),
    ],
)
def test_what_was_written_and_not_loaded_and_would_shut_the_operator_out_on_the_way_back_is_named(
    tmp_path: Path, said: dict[str, str], text: str
) -> None:
    assert text in way_back(tmp_path, said)


def test_a_password_is_a_way_back_where_the_controller_has_one(tmp_path: Path) -> None:
    said = {"pubkeyauthentication": "no", "passwordauthentication": "yes"}
    assert way_back(tmp_path, said, password=True) == ""
    assert "PubkeyAuthentication no" in way_back(
        tmp_path, {**said, "permitrootlogin": "prohibit-password"}, password=True
    )
    assert way_back(tmp_path, {**said, "permitrootlogin": "no"}, "pi", password=True) == ""
    assert "PermitRootLogin no" in way_back(tmp_path, {**said, "permitrootlogin": "no"}, password=True)


@pytest.mark.parametrize(
    "said",
    [
        {}, {"permitrootlogin": "prohibit-password"}, {"permitrootlogin": "without-password"},
        {"authorizedkeysfile": "/nowhere %h/.ssh/authorized_keys"}, {"authorizedkeysfile": "none", "trustedusercakeys": "/ca"},
        {"authorizedkeysfile": "none", "authorizedkeyscommand": "/bin/keys"}, {"pubkeyauthentication": "no", "gssapiauthentication": "yes"},
    ],
)  # fmt: skip
def test_a_device_whose_files_let_the_operator_in_has_a_way_back(
    tmp_path: Path, said: dict[str, str]
) -> None:
    assert way_back(tmp_path, said) == ""
    if "permitrootlogin" not in said:
        assert way_back(tmp_path, {**said, "permitrootlogin": "no"}, "pi") == ""


SYSTEMCTL = """#!/bin/sh
case "$*" in
  *NeedDaemonReload*help.service) echo yes ;;
  *NeedDaemonReload*) echo no ;;
  *MainPID*) echo "$MAIN" ;;
  *ExecStart*) printf '{ path=/usr/sbin/sshd ; argv[]=%s ; ignore_errors=no ; start_time=[n/a] }\\n' "$STARTS" ;;
  *EnvironmentFiles*) printf '%s (ignore_errors=yes)\\n' "$SOURCE" ;;
  *Environment*) echo 'LANG=C SSHD_OPTS=-o_early' ;;
  *FragmentPath*) printf '/lib/help.service\\n/etc/help.service.d/port.conf\\n' ;;
esac
"""


def loaded(
    tmp_path: Path,
    runs: str,
    source: str,
    starts: str = "/usr/sbin/sshd -D $SSHD_OPTS",
    unit: str = "ssh.service",
) -> str:
    """What is said of a daemon that shows itself so, and whose unit and its file of variables say so."""
    (tmp_path / "systemctl").write_text(SYSTEMCTL)
    (tmp_path / "systemctl").chmod(0o755)
    (tmp_path / "default").write_text(source)
    (tmp_path / "1").mkdir(exist_ok=True)
    (tmp_path / "1/cmdline").write_bytes(runs.encode().replace(b" ", b"\0"))
    script = (
        openssh._is_loaded(unit).replace("/proc/", f"{tmp_path}/").replace("/etc/systemd", f"{tmp_path}/etc")
    )
    done = subprocess.run(
        ["sh", "-euc", script], capture_output=True, text=True, check=False,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "MAIN": "1", "STARTS": starts, "SOURCE": str(tmp_path / "default")},
    )  # fmt: skip
    assert (done.returncode == 0) == (done.stderr == ""), done.stderr
    return done.stderr


LISTENER = "sshd: /usr/sbin/sshd -D{} [listener] 0 of 10-100 startups"


@pytest.mark.parametrize(
    ("runs", "source"),
    [
        (LISTENER.format(""), "SSHD_OPTS=\n"), (LISTENER.format(""), "# none\nSSHD_OPTS=old\nSSHD_OPTS="),
        (LISTENER.format(" -p 2022"), 'SSHD_OPTS="-p  2022"\n'), (LISTENER.format(" -o Port=22 -4"), "SSHD_OPTS='-o Port=22' -4"),
        ("/usr/sbin/sshd -D", "SSHD_OPTS=\n"), ("", "SSHD_OPTS=-p 2022\n"),
    ],
)  # fmt: skip
def test_a_daemon_that_runs_as_its_unit_would_start_it_is_restarted(
    tmp_path: Path, runs: str, source: str
) -> None:
    assert loaded(tmp_path, runs, source) == ""


def test_options_of_a_unit_that_were_never_loaded_are_named(tmp_path: Path) -> None:
    said = loaded(tmp_path, LISTENER.format(""), 'SSHD_OPTS="-p 2222"\n')
    assert "sshd runs as '/usr/sbin/sshd -D', and ssh.service would start '/usr/sbin/sshd -D -p 2222'" in said
    assert str(tmp_path / "default") in said
    assert "would start '/usr/sbin/sshd -D -o_early'" in loaded(tmp_path, LISTENER.format(""), "")
    assert "never loaded" in loaded(tmp_path, LISTENER.format(""), "SSHD_OPTS=", "/usr/sbin/sshd -D -p 2222")
    # What a shell of the unit's starts cannot be compared, and one behind a socket is asked of the socket.
    assert loaded(tmp_path, LISTENER.format(""), "", "/bin/sh -c exec sshd") == ""
    assert loaded(tmp_path, LISTENER.format(""), 'SSHD_OPTS="-p 2222"\n', unit="ssh.socket") == ""


@pytest.mark.parametrize(
    "name", ["ssh.service.d/new.conf", "ssh.service", "ssh.service.d/port.conf", "ssh.service.d/note"]
)
def test_a_file_of_a_unit_in_a_folder_that_systemd_has_not_seen_is_found(tmp_path: Path, name: str) -> None:
    file = tmp_path / "etc/system" / name
    file.parent.mkdir(parents=True)
    file.write_text("[Service]\n")
    said = loaded(tmp_path, LISTENER.format(""), "SSHD_OPTS=")
    # A drop-in of that name is loaded from elsewhere, and a note is none.
    expected = (
        "" if name.endswith(("port.conf", "note")) else f"changed and not loaded ({file}): the next start"
    )
    assert expected in said and bool(expected) == bool(said)
    file.unlink()
    file.symlink_to("/dev/null")
    assert loaded(tmp_path, LISTENER.format(""), "SSHD_OPTS=") == ""


@pytest.mark.parametrize("unit", ["help.service", "help.socket"])
def test_files_of_a_unit_that_systemd_has_not_read_are_named(tmp_path: Path, unit: str) -> None:
    said = loaded(tmp_path, LISTENER.format(""), "SSHD_OPTS=", unit=unit)
    assert (
        "files of help.service were changed and not loaded (/lib/help.service /etc/help.service.d/port.conf"
        in said
    )


def test_where_a_daemon_listens_by_its_command_line_sshd_is_asked_with_it() -> None:
    one = device(
        arguments=[
            "-D",
            "-p",
            "2022",
            "-o",
            "Port=2023",
            "-oAddressFamily inet",
            "-4",
            "-o",
            "PidFile=/x",
            "-E",
            "/log",
        ]
    )
    command = openssh._effective("/usr/sbin/sshd", one, "root")
    assert command.startswith("/usr/sbin/sshd -p 2022 -o Port=2023 -o 'AddressFamily inet' -4 -T -C ")
    assert openssh._effective("/usr/sbin/sshd", device(), "root").startswith("/usr/sbin/sshd -T -C ")


def test_what_an_earlier_run_of_ours_set_was_proved_then() -> None:
    one = device()
    one["files"] = {
        sshd_config.MAIN: f"{sshd_config.BEGIN}\nMaxSessions 0\n{sshd_config.END}\nChrootDirectory /srv\n",
        sshd_config.DROP_IN: "# ours\nMatch all\n    ForceCommand /bin/log\n",
    }
    assert sorted(openssh._ours_before(one)) == ["forcecommand", "maxsessions"]
    plan = openssh.plan(device(), SshOptions(authorized_keys=(KEY,)), LISTS, {}, "ours")
    (check,) = plan.check
    assert check.index("was not loaded yet") < check.index("whole=$(mktemp)")
    assert not any("was not loaded yet" in text for text in plan.verify)


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
