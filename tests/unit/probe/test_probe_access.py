"""Accounts and the SSH server."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.device import probe
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.facts import access
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.facts.processes import Process

Make = Callable[..., Reply]

ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEAn+pyocfAKfSVC7te8AoArfBAzpNJMa+GXTRaiVuDD"


def socket(port: int, pid: int, unit: str = "") -> dict[str, object]:
    return {"protocol": "tcp", "family": "ipv4", "address": "0.0.0.0", "port": port, "pid": pid, "unit": unit}


def test_accounts_are_judged_by_shadow(reply: Make) -> None:
    found = access.accounts(
        reply(
            ("account", "root:0:0:shadow::2:/root:/bin/sh"),
            ("account", "ghost:5:5:shadow::0:/:"),
            ("account", "old:6:6:set:des:0:/home/old:/bin/sh"),
            ("shadow_readable", ""),
            ("shadow", "root:set:yescrypt"),
        )
    )
    assert [(a["name"], a["password"], a["scheme"], a["authorized_keys"]) for a in found] == [
        ("root", "set", "yescrypt", 2),
        ("ghost", "none", "", 0),
        ("old", "set", "des", 0),
    ]
    assert found[1]["shell"] == "/bin/sh", "an empty shell field is a login, not none"


def test_without_shadow_passwords_are_unknown_and_not_absent(reply: Make) -> None:
    found = access.accounts(reply(("account", "root:0:0:shadow::0:/root:/bin/sh")))
    assert found[0]["password"] == ""


def test_a_key_is_measured_and_stripped_of_its_comment() -> None:
    assert access.host_key(f"/etc/ssh/ssh_host_ed25519_key {ED25519} root@factory") == {
        "type": "ssh-ed25519",
        "bits": 256,
        "public": ED25519,
        "path": "/etc/ssh/ssh_host_ed25519_key",
    }


@pytest.mark.parametrize(
    "public", ["", "ssh-rsa", "ssh-rsa not-base64!", "ssh-rsa AAAA", "-----BEGIN KEY-----"]
)
def test_a_key_without_a_public_half_keeps_its_path_and_type_only(public: str) -> None:
    found = access.host_key(f"/etc/ssh/ssh_host_rsa_key {public}".strip())
    assert found is not None
    assert (found["bits"], found["public"]) == (0, "")


def test_a_key_file_with_spaces_in_its_name_is_one_path() -> None:
    found = access.host_key(f"/etc/my keys/host {ED25519}")
    assert found is not None and found["path"] == "/etc/my keys/host"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Include /etc/ssh/sshd_config.d/*.conf\n", True),
        ("include sshd_config.d/*.conf\n", True),
        ('Include "/etc/ssh/sshd_config.d/*"\n', True),
        ("# Include /etc/ssh/sshd_config.d/*.conf\n", False),
        ("Match User x\n  Include /etc/ssh/sshd_config.d/*.conf\n", False),
        ("Include /etc/ssh/other.d/*.conf\n", False),
        ("", False),
    ],
)
def test_drop_ins_count_only_where_everybody_gets_them(text: str, expected: bool) -> None:
    assert access.includes_drop_ins(text) is expected


def test_of_two_servers_the_one_that_the_controller_came_in_by_is_described(reply: Make) -> None:
    running = {5: Process(5, 1, "sshd", ("sshd",)), 6: Process(6, 1, "dropbear", ("dropbear", "-p", "2222"))}
    sockets = [socket(22, 5), socket(2222, 6)]
    answer = reply(("dropbear", "/usr/sbin/dropbear"), ("dropbear_version", "Dropbear v2022.83"))
    found = access.ssh(answer, running, sockets, {}, {}, 2222)
    assert (found["server"], found["version"], found["ports"]) == ("dropbear", "2022.83", [2222])
    assert found["arguments"] == ["-p", "2222"]
    assert access.ssh(answer, running, sockets, {}, {}, 22)["server"] == "openssh"


def test_a_server_behind_a_socket_unit_is_found_by_the_unit(reply: Make) -> None:
    running = {1: Process(1, 0, "systemd", (), "/usr/lib/systemd/systemd", inodes=frozenset({1}))}
    units = {"ssh.socket": {"active": "active"}}
    found = access.ssh(reply(), running, [socket(22, 1, "ssh.socket")], units, {}, 22)
    assert (found["server"], found["socket_activated"], found["unit"]) == ("openssh", True, "ssh.socket")


def test_a_daemon_in_a_container_of_the_device_is_not_the_devices_own(reply: Make) -> None:
    running = {5: Process(5, 4, "sshd"), 7: Process(7, 1, "httpd", inodes=frozenset({3}))}
    assert access.ssh(reply(), running, [socket(80, 7)], {}, {}, 0)["server"] == "none"


def test_without_root_the_server_is_told_by_its_process(reply: Make) -> None:
    running = {5: Process(5, 1, "sshd"), 9: Process(9, 5, "sh", inodes=frozenset({3}))}
    found = access.ssh(Reply((("uid", "1000"),), 0), running, [], {}, {}, 22)
    assert (found["server"], found["ports"]) == ("openssh", [22])


def test_the_arguments_of_sshd_are_read_from_its_own_title(reply: Make) -> None:
    title = "sshd: /usr/sbin/sshd -D -p 2022 [listener] 0 of 10-100 startups"
    running = {5: Process(5, 1, "sshd", (title,))}
    assert access.ssh(reply(), running, [socket(2022, 5)], {}, {}, 2022)["arguments"] == ["-D", "-p", "2022"]


@pytest.mark.parametrize(
    ("uid", "user", "method", "expected"),
    [
        ("0", "root", "", "root"),
        ("0", "root", "sudo", "root"),
        ("0", "op", "ansible.builtin.sudo", "sudo"),
        ("0", "op", "community.general.doas", "doas"),
        ("1000", "op", "", "none"),
    ],
)
def test_privilege_is_what_was_gained_and_not_what_was_asked_for(
    uid: str, user: str, method: str, expected: str
) -> None:
    answer = Reply((("protocol", "1"), ("uid", uid), ("complete", "")), 0)
    assert probe.device(answer, user, method)["privilege"] == expected
