"""Dropbear's settings are its command line, and BusyBox init knows no quotes."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.access import dropbear
from ansible_collections.sallyport.iot.plugins.plugin_utils.access.options import SshOptions
from ansible_collections.sallyport.iot.plugins.plugin_utils.access.ssh_plan import Refused

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJTxY7WWw3MsgWv+4L0jukRWO3TumLgCvMX4HmTPoyAF me"
OPTIONS = SshOptions(authorized_keys=(KEY,))
INITTAB = "::sysinit:/etc/init.d/rcS\n::respawn:/usr/sbin/dropbear -F -E -R\n::respawn:/usr/sbin/httpd -f\n"


def device(inittab: str = INITTAB, **files: str) -> dict[str, Any]:
    return {
        "login_user": "root",
        "accounts": [{"name": "root", "uid": 0, "gid": 0, "home": "/root", "authorized_keys": 0}],
        "files": {"/etc/inittab": inittab, **files},
        "ssh": {
            "server": "dropbear",
            "version": "2022.83",
            "ports": [22],
            "unit": "",
            "host_keys": [
                {
                    "type": "ecdsa-sha2-nistp256",
                    "public": "ecdsa-sha2-nistp256 AAAAe",
                    "bits": 256,
                    "path": "/etc/dropbear/e",
                },
                {
                    "type": "ssh-ed25519",
                    "public": "ssh-ed25519 AAAAd",
                    "bits": 256,
                    "path": "/etc/dropbear/d",
                },
            ],
        },
    }


def running(command: str, inittab: str, port: int = 22) -> dict[str, Any]:
    return {
        **device(inittab),
        "connection": {"server_port": port},
        "listening": [{"protocol": "tcp", "port": port, "process": "dropbear", "pid": 7}],
        "processes": [{"pid": 7, "command": command}, {"pid": 8, "command": "dropbear -p 99"}],
    }


@pytest.mark.parametrize(
    "written", ["-p 2222", "-s", "-w", "-p 10.0.0.1:22", "-r /etc/missing", "-c /bin/false"]
)
def test_a_line_that_was_changed_and_never_loaded_is_refused_with_both(written: str) -> None:
    inittab = INITTAB.replace("-F -E -R", f"-F -E -R {written}")
    with pytest.raises(Refused, match=f"runs as 'dropbear -F -E -R'.*{written}.*never loaded"):
        dropbear.plan(running("dropbear -F -E -R", inittab), OPTIONS, {}, "")


def test_our_own_line_takes_the_place_of_a_daemon_started_by_hand_but_never_on_another_port() -> None:
    made = next(
        one["content"]
        for one in dropbear.plan(device(), OPTIONS, {}, "").files
        if one["dest"] == "/etc/inittab"
    )
    assert " -s " in made and dropbear.plan(running("dropbear -R -p 22", made), OPTIONS, {}, "").files
    with pytest.raises(Refused, match="never loaded"):
        dropbear.plan(running("dropbear -R", made.replace(" -E ", " -E -p 2222 ")), OPTIONS, {}, "")


@pytest.mark.parametrize(
    "command", ["/usr/sbin/dropbear -F -E -R", "dropbear -FER -p 22", "dropbear -R -K 60"]
)
def test_a_line_that_runs_is_taken_however_it_is_written(command: str) -> None:
    assert dropbear.plan(running(command, INITTAB), OPTIONS, {}, "").files


def hardened(command: str, **options: Any) -> str:
    wanted = SshOptions(authorized_keys=(KEY,), **options)
    return dropbear.hardened(dropbear.parse(command), wanted, ["/etc/dropbear/k"], (2022, 83)).text()


def test_passwords_forwarding_and_made_up_keys_go_and_the_rest_stays() -> None:
    assert hardened("/usr/sbin/dropbear -F -E -R -B -p 22 -p 2222") == (
        "/usr/sbin/dropbear -F -E -s -j -k -p 22 -p 2222 -r /etc/dropbear/k -T 4"
    )


def test_options_written_together_are_taken_apart() -> None:
    assert hardened("dropbear -FERp22 -K60") == "dropbear -F -E -s -j -k -p 22 -K 60 -r /etc/dropbear/k -T 4"


def test_hardening_twice_is_hardening_once() -> None:
    once = hardened("busybox-wrapper dropbear -F -R")
    assert hardened(once) == once


def test_root_stays_keys_only_where_passwords_are_allowed_for_others() -> None:
    assert " -g " in hardened("dropbear -F", password_authentication=True) + " "
    assert " -s" not in hardened("dropbear -F", password_authentication=True)


@pytest.mark.parametrize("command", ["dropbear -F '$(reboot)'", "dropbear -p", "dropbear -p '1 2'"])
def test_a_line_that_is_not_understood_is_refused(command: str) -> None:
    with pytest.raises(Refused):
        hardened(command)


def test_only_the_line_of_dropbear_changes_and_the_keys_are_added() -> None:
    plan = dropbear.plan(device(), OPTIONS, {}, "# mine\nssh-rsa AAAAold somebody")
    files = {entry["dest"]: entry for entry in plan.files}
    lines = files["/etc/inittab"]["content"].splitlines()
    assert lines[0::2] == INITTAB.splitlines()[0::2]
    assert lines[1] == "::respawn:/usr/sbin/dropbear -F -E -s -j -k -r /etc/dropbear/d -T 4"
    assert files["/root/.ssh/authorized_keys"]["content"] == f"# mine\nssh-rsa AAAAold somebody\n{KEY}\n"
    assert plan.renewals == [] and plan.stays == ["ssh-ed25519 AAAAd"]


def test_a_key_that_is_there_with_another_comment_is_not_added_again() -> None:
    before = KEY.replace(" me", " somebody else") + "\n"
    assert dropbear.merged_keys(before, [KEY], False) == before
    assert dropbear.merged_keys(before, [KEY], True) == f"{KEY}\n"
    # The operator's own key in the options of another is not the operator's key.
    planted = f'command="exec sh # {KEY}" ssh-ed25519 AAAAother\n'
    assert dropbear.merged_keys(planted, [KEY], False) == f"{planted}{KEY}\n"


def test_a_shared_key_is_made_anew_and_the_old_one_is_not_believed() -> None:
    plan = dropbear.plan(device(), OPTIONS, {"AAAAd": ["other"]}, "")
    assert [(item.type, item.path) for item in plan.renewals] == [("ed25519", "/etc/dropbear/d")]
    assert plan.stays == [] and "ssh-ed25519 AAAAd" in plan.gone


@pytest.mark.parametrize(
    ("inittab", "text"),
    [
        ("::sysinit:/etc/init.d/rcS\n", "found: nowhere"),
        (INITTAB + "::respawn:dropbear -F -p 2222\n", "found: /etc/inittab:2, /etc/inittab:4"),
    ],
)
def test_a_start_that_cannot_be_found_is_refused_with_what_was_found(inittab: str, text: str) -> None:
    with pytest.raises(Refused, match=text):
        dropbear.plan(device(inittab), OPTIONS, {}, "")


def test_turning_passwords_off_without_any_key_is_refused() -> None:
    with pytest.raises(Refused, match=r"root has no key on this device.*Set ssh_authorized_keys"):
        dropbear.plan(device(), SshOptions(), {}, "")


def test_root_is_kept_out_where_the_site_says_so_or_somebody_else_logs_in_and_never_by_what_stood_there() -> (
    None
):
    def flags(command: str, login: str = "root", **values: Any) -> list[str]:
        wanted = SshOptions(authorized_keys=(KEY,), **values)
        return list(dropbear.hardened(dropbear.parse(command), wanted, [], (2022, 83), login).flags)

    assert "w" in flags("dropbear -F", permit_root_login="no", login="pi")
    assert "w" in flags("dropbear -F", login="pi")
    assert "w" not in flags("dropbear -F") and "w" not in flags("dropbear -F -w")
    assert "w" not in flags("dropbear -F", login="pi", permit_root_login="prohibit-password")
