"""Every classic way to be locked out by hardening, set on one device: the operator is still in at the end of each run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.logins import Doors

DEVICE = "debian12"
FILE = "/etc/ssh/sshd_config.d/70-trap.conf"
EARLY = "/etc/ssh/sshd_config.d/05-trap.conf"
"""Before the factory's own, so that it counts once it is loaded."""


@pytest.fixture
def trapped(doors: Doors) -> Iterator[Doors]:
    """The device's own files are changed and not loaded, as a vendor's update or a colleague leaves them."""
    doors.sh(DEVICE, "rm -f /etc/ssh/sshd_config.d/50-vendor.conf")
    yield doors
    doors.sh(
        DEVICE,
        f"rm -rf {FILE} /etc/systemd/system/ssh.service.d; usermod -p '*' root; echo SSHD_OPTS= >/etc/default/ssh; "
        "systemctl daemon-reload",
    )
    assert doors.operator_gets_in(DEVICE)


@pytest.mark.parametrize(
    ("trap", "text"),
    [
        ("echo 'AllowGroups nobodys' >{file}", "AllowGroups names no group of it"),
        ("echo 'DenyGroups root' >{file}", "DenyGroups root shuts it out"),
        ("echo 'AllowUsers admin' >{file}", "AllowUsers does not name it"),
        ("echo 'AllowUsers root@192.0.2.*' >{file}", "AllowUsers does not name it"),
        ("echo 'AllowUsers root@198.18.0.0/15' >{file}", "AllowUsers does not name it"),
        ("echo 'AllowUsers root@!10.0.0.0/8,localhos?' >{file}", "AllowUsers does not name it"),
        ("echo 'DenyUsers ro*' >{file}", "DenyUsers ro* shuts it out"),
        ("echo 'DenyUsers root@0.0.0.0/0' >{file}", "DenyUsers shuts it out by the address"),
        ("echo 'ForceCommand /bin/false' >{file}", "ForceCommand /bin/false ends every login"),
        ("echo 'MaxSessions 0' >{file}", "MaxSessions 0 gives it no session"),
        ("echo 'ChrootDirectory /nowhere' >{file}", "ChrootDirectory /nowhere takes its files away"),
        ("echo 'RevokedKeys /missing' >{file}", "RevokedKeys /missing is not there"),
        ("printf 'Match all\\nPermitRootLogin yes\\n' >{file}", "permitrootlogin=yes"),
        ("echo 'Port 2222' >{file}", "it would not listen on"),
        ("echo 'ListenAddress 127.0.0.1' >{file}", "it would not listen on"),
        ("echo 'AuthenticationMethods publickey,keyboard-interactive' >{file}", "keyboard-interactive"),
        ("passwd -l root; echo 'UsePAM no' >{file}", "with UsePAM no sshd takes that for no login at all"),
        ("echo 'NoSuchOption yes' >{file}", "Bad configuration option"),
        ("echo 'SSHD_OPTS=\"-p 2222\"' >/etc/default/ssh", "ssh.service would start '/usr/sbin/sshd -D -p 2222', which was never loaded"),
        (
            "mkdir -p /etc/systemd/system/ssh.service.d; "
            "printf '[Service]\\nExecStart=\\nExecStart=/usr/sbin/sshd -D -p 2222\\n' >/etc/systemd/system/ssh.service.d/port.conf",
            "files of ssh.service were changed and not loaded",
        ),
    ],
    ids=["allowgroups", "denygroups", "allowusers", "allowusers-host", "allowusers-cidr", "allowusers-name", "denyusers",
         "denyusers-cidr", "forcecommand", "maxsessions", "chroot", "revokedkeys", "match-all", "port", "listen", "methods", "locked", "broken", "variables", "unit"],
)  # fmt: skip
def test_what_our_restart_would_bring_alive_is_found_before_and_named(
    trapped: Doors, trap: str, text: str
) -> None:
    trapped.sh(DEVICE, trap.format(file=FILE))
    before = trapped.sh(
        DEVICE, "systemctl show -P MainPID ssh; ls /etc/ssh/sshd_config.d /etc/ssh/authorized_keys.d"
    )
    # One changed setting, so that there is something to do on a device that an earlier test hardened.
    run = trapped.play(DEVICE, {"ssh_login_grace_time": 25, "ssh_max_auth_tries": 3})
    assert run.status == 2 and run.of[DEVICE]["state"] == "refused" and text in run.of[DEVICE]["msg"], (
        run.output[-2500:]
    )
    after = trapped.sh(
        DEVICE, "systemctl show -P MainPID ssh; ls /etc/ssh/sshd_config.d /etc/ssh/authorized_keys.d"
    )
    assert after == before


def test_what_an_earlier_run_said_hides_nothing_of_what_comes_alive_once_it_is_gone(trapped: Doors) -> None:
    """A list of people of ours replaces the device's own; the run that drops ours has to see the device's own."""
    trapped.account(DEVICE, "alice")
    people = {"ssh_users": [{"name": "alice", "keys": [trapped.public("alice")]}]}
    trapped.apply(DEVICE, people)
    trapped.sh(DEVICE, f"echo 'AllowUsers alice' >{FILE}; systemctl restart ssh")
    assert trapped.operator_gets_in(DEVICE)
    run = trapped.play(DEVICE, {})
    assert run.status == 2 and run.of[DEVICE]["state"] == "refused", run.output[-2500:]
    assert "AllowUsers does not name it. Correct them on the device" in run.of[DEVICE]["msg"]
    assert trapped.operator_gets_in(DEVICE) and trapped.ssh(DEVICE, "alice", key=trapped.key("alice")).got_in
    trapped.sh(DEVICE, f"rm {FILE}")
    assert trapped.apply(DEVICE, {}).of[DEVICE]["state"] == "confirmed"


def test_a_drop_in_of_ours_goes_when_the_main_file_comes_to_speak_first(trapped: Doors) -> None:
    trapped.account(DEVICE, "alice")
    trapped.apply(DEVICE, {"ssh_users": [{"name": "alice", "keys": [trapped.public("alice")]}]})
    trapped.sh(
        DEVICE,
        "cp -p /etc/ssh/sshd_config /etc/ssh/sshd_config.d/00-sallyport.conf /root; "
        "sed -i '1iMaxAuthTries 99' /etc/ssh/sshd_config",
    )
    done = trapped.apply(DEVICE, {}).of[DEVICE]
    removed = {"dest": "/etc/ssh/sshd_config.d/00-sallyport.conf", "change": "removed"}
    assert removed in done["files"], done["files"]
    effective = trapped.sh(DEVICE, "sshd -T")
    assert "maxauthtries 4" in effective and "allowusers" not in effective
    assert not trapped.apply(DEVICE, {}).of[DEVICE]["changed"]
    trapped.sh(
        DEVICE,
        "mv /root/sshd_config /etc/ssh; mv /root/00-sallyport.conf /etc/ssh/sshd_config.d; systemctl restart ssh",
    )


def test_a_controller_that_is_let_in_by_its_name_is_known_by_it(trapped: Doors) -> None:
    trapped.apply(DEVICE, {"ssh_login_grace_time": 22})
    trapped.sh(
        DEVICE, f"cp /etc/hosts /root/hosts; printf 'UseDNS yes\\nAllowUsers root@*.example.org\\n' >{FILE}"
    )
    run = trapped.play(DEVICE, {"ssh_login_grace_time": 23})
    assert run.of[DEVICE]["state"] == "refused" and "AllowUsers does not name it" in run.of[DEVICE]["msg"]
    trapped.sh(DEVICE, f"echo '{trapped.controller(DEVICE)} ops.example.org' >>/etc/hosts")
    assert trapped.apply(DEVICE, {"ssh_login_grace_time": 23}).of[DEVICE]["state"] == "confirmed"
    assert trapped.operator_gets_in(DEVICE)
    trapped.sh(DEVICE, f"cat /root/hosts >/etc/hosts; rm {FILE}; systemctl restart ssh")


def test_a_newer_release_that_would_refuse_the_connection_itself_is_asked_that_too(trapped: Doors) -> None:
    trapped.apply("debian13", {})
    trapped.sh("debian13", f"echo 'RefuseConnection yes' >{FILE}")
    run = trapped.play("debian13", {"ssh_login_grace_time": 21})
    assert run.of["debian13"]["state"] == "refused", run.output[-2500:]
    assert "RefuseConnection ends its connection" in run.of["debian13"]["msg"]
    trapped.sh("debian13", f"rm {FILE}")
    assert trapped.operator_gets_in("debian13")


@pytest.mark.parametrize(
    ("trap", "text"),
    [
        ("PermitRootLogin no", ": PermitRootLogin no. Correct it on the device"),
        ("PubkeyAuthentication no", ": PubkeyAuthentication no. Correct it on the device"),
        ("AuthorizedKeysFile none", ": no key in AuthorizedKeysFile none. Correct it on the device"),
    ],
)
def test_what_ours_would_hide_and_the_way_back_would_load_is_found_before(
    trapped: Doors, trap: str, text: str
) -> None:
    """On a device that no run has changed: with ours gone again, what somebody wrote meanwhile is what counts."""
    operator = trapped.operator.with_suffix(".pub").read_text(encoding="utf-8").strip()
    trapped.sh(
        DEVICE,
        f"mkdir -p -m 700 /root/.ssh; echo '{operator}' >/root/.ssh/authorized_keys; "
        f"mv /etc/ssh/sshd_config.d/00-sallyport.conf /root; systemctl restart ssh; echo '{trap}' >{EARLY}",
    )
    before = trapped.sh(DEVICE, "systemctl show -P MainPID ssh; ls /etc/ssh/sshd_config.d")
    run = trapped.play(DEVICE, {})
    assert run.of[DEVICE]["state"] == "refused" and text in run.of[DEVICE]["msg"], run.output[-2500:]
    assert trapped.sh(DEVICE, "systemctl show -P MainPID ssh; ls /etc/ssh/sshd_config.d") == before
    assert trapped.operator_gets_in(DEVICE)
    trapped.sh(
        DEVICE, f"rm {EARLY}; mv /root/00-sallyport.conf /etc/ssh/sshd_config.d; systemctl restart ssh"
    )


def test_all_that_ours_overrides_at_once_does_no_harm(trapped: Doors) -> None:
    """No way in but root's, keys in a home that sshd does not trust, one place for newcomers, addresses by name."""
    address, six = trapped.address(DEVICE), trapped.address(DEVICE, family=1)
    trapped.sh(
        DEVICE,
        f"printf '%s\\n' 'PermitRootLogin no' 'PubkeyAuthentication no' 'MaxStartups 1:100:1' 'MaxAuthTries 1' "
        f"'AuthorizedKeysFile /nowhere' 'ListenAddress {address}' 'ListenAddress {six}' 'LoginGraceTime 1' >{FILE}; "
        "mkdir -p /root/.ssh; chmod 777 /root /root/.ssh",
    )
    result = trapped.apply(DEVICE, {"ssh_login_grace_time": 40}).of[DEVICE]
    assert result["state"] == "confirmed"
    assert trapped.operator_gets_in(DEVICE) and trapped.operator_gets_in(DEVICE, family=1)
    listening = trapped.sh(DEVICE, "ss -Hlnt 'sport = :22'").split()
    assert f"{address}:22" in listening and f"[{six}]:22" in listening and "0.0.0.0:22" not in listening
    trapped.sh(DEVICE, "chmod 700 /root /root/.ssh")


# Every classic trap, as it stands in the way of one run: what the run says of it, and how its advice is followed.
CLASSICS = [
    ("methods with a space between them are alternatives", "", {"ssh_options": {}}),
    ("root is the login of this inventory", "", {"ssh_permit_root_login": "auto"}),
    (
        "so that key has to be known",
        "",
        {"ssh_authorized_keys": None, "ssh_authorized_keys_exclusive": None},
    ),
    ("with UsePAM no sshd takes that for no login at all", "usermod -p '*' root", {}),
    ("this device's clock differs from the controller's by", "rm /usr/local/bin/date", {}),
    ("AllowGroups names no group of it", f"sed -i /AllowGroups/d {EARLY}", {}),
    (
        "would shut out the login of root as soon as sshd starts again",
        f"sed -i /PermitRootLogin/d {EARLY}",
        {},
    ),
    ("it would not listen on", f"sed -i /Port/d {EARLY}", {}),
    ("it would not listen on", f"sed -i /ListenAddress/d {EARLY}", {}),
]


def test_all_classic_traps_at_once_are_named_one_by_one_and_the_operator_is_in_after_every_run(
    trapped: Doors,
) -> None:
    """Over IPv6, which a lone ``ListenAddress 0.0.0.0`` would lose; the daemon has not loaded its files yet."""
    trapped.account(DEVICE, "alice")
    operator = trapped.operator.with_suffix(".pub").read_text(encoding="utf-8").strip()
    trapped.sh(
        DEVICE,
        f"mkdir -p -m 700 /root/.ssh; echo '{operator}' >/root/.ssh/authorized_keys; "
        "rm -f /etc/ssh/sshd_config.d/00-sallyport.conf /etc/ssh/authorized_keys.d/*; systemctl restart ssh; "
        "printf '%s\\n' 'PermitRootLogin no' 'AllowGroups nobodys' 'UsePAM no' 'Port 2222' 'ListenAddress 0.0.0.0' "
        f"'PasswordAuthentication no' 'MaxStartups 1:100:1' 'MaxAuthTries 1' 'LoginGraceTime 1' >{EARLY}; passwd -l root; "
        "printf '#!/bin/sh\\necho 86400\\n' >/usr/local/bin/date; chmod 755 /usr/local/bin/date",
    )
    variables: dict[str, Any] = {
        "ansible_host": trapped.address(DEVICE, family=1),
        # The lab's file knows each device by its first address.
        "ansible_ssh_extra_args": f"-o HostKeyAlias={trapped.address(DEVICE)}",
        "ssh_options": {"AuthenticationMethods": "publickey, keyboard-interactive"},
        "ssh_permit_root_login": "no",
        "ssh_authorized_keys": [],
        "ssh_authorized_keys_exclusive": True,
        "ssh_users": [{"name": "alice", "keys": [trapped.public("alice")], "second_factor": "totp"}],
        "ssh_enrolment_directory": str(trapped.work / "traps"),
    }
    left = list(CLASSICS)
    while left:
        run = trapped.play(DEVICE, variables)
        result = run.of[DEVICE]
        assert run.status == 2 and result["state"] == "refused", (left, run.output[-2500:])
        named = next((one for one in left if one[0] in result["msg"]), None)
        assert named, result["msg"]
        left.remove(named)
        assert trapped.operator_gets_in(DEVICE) and trapped.operator_gets_in(DEVICE, family=1)
        trapped.sh(DEVICE, named[1] or "true")
        variables = {key: value for key, value in {**variables, **named[2]}.items() if value is not None}
    done = trapped.apply(DEVICE, variables).of[DEVICE]
    assert done["state"] == "confirmed"
    assert trapped.operator_gets_in(DEVICE) and trapped.operator_gets_in(DEVICE, family=1)
    # What our settings override, the places for newcomers among them, stands in the device's own file still.
    assert "MaxStartups 1:100:1" in trapped.sh(DEVICE, f"cat {EARLY}")
    assert not trapped.apply(DEVICE, variables).of[DEVICE]["changed"]
    trapped.lab.power_cut(DEVICE)
    assert trapped.operator_gets_in(DEVICE) and trapped.operator_gets_in(DEVICE, family=1)
    assert trapped.ssh(DEVICE, "alice", key=trapped.key("alice")).refused
    trapped.sh(DEVICE, f"rm -f {EARLY}; systemctl restart ssh")


def test_a_second_daemon_on_a_port_of_its_own_is_named_and_goes_on(trapped: Doors) -> None:
    trapped.sh(
        DEVICE,
        "printf '%s\\n' 'Port 2222' 'PidFile none' 'HostKey /etc/ssh/ssh_host_ed25519_key' >/etc/ssh/oob; "
        "printf '%s\\n' '[Service]' 'ExecStart=/usr/sbin/sshd -D -f /etc/ssh/oob' 'RuntimeDirectory=sshd-oob' "
        ">/etc/systemd/system/ssh-oob.service; systemctl daemon-reload; systemctl start ssh-oob",
    )
    before = trapped.sh(DEVICE, "md5sum /etc/ssh/oob; systemctl show -P MainPID ssh-oob")
    result = trapped.apply(DEVICE, {"ssh_login_grace_time": 35}).of[DEVICE]
    assert any("sshd listens on port 2222 too (ssh-oob.service)" in note for note in result["notes"]), result[
        "notes"
    ]
    assert trapped.sh(DEVICE, "md5sum /etc/ssh/oob; systemctl show -P MainPID ssh-oob") == before
    trapped.sh(
        DEVICE,
        "systemctl stop ssh-oob; rm /etc/systemd/system/ssh-oob.service /etc/ssh/oob; systemctl daemon-reload",
    )
