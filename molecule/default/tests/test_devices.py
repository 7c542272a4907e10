"""What holds on every device of the lab after harden.yml and a power cut."""

from __future__ import annotations

import re

import pytest
from testinfra.host import Host


def is_busybox(host: Host) -> bool:
    return host.run("test -d /run/systemd/system").rc != 0


def listening(host: Host) -> set[int]:
    """TCP ports in state LISTEN, from /proc: ss and netstat are not everywhere."""
    lines = host.check_output("cat /proc/net/tcp /proc/net/tcp6").splitlines()
    return {int(line.split()[1].rpartition(":")[2], 16) for line in lines if line.split()[3:4] == ["0A"]}


def test_the_operator_still_gets_in(host: Host) -> None:
    assert host.check_output("id -u") == "0"


@pytest.mark.parametrize("port", [21, 23, 2323])
def test_nothing_listens_for_telnet_or_ftp_after_a_power_cut(host: Host, port: int) -> None:
    assert port not in listening(host)


def test_the_firewall_was_loaded_at_boot(host: Host) -> None:
    rules = host.check_output("sh /etc/sallyport/firewall-load live")
    assert "sallyport" in rules.lower(), rules


def test_the_daemon_takes_no_passwords(host: Host) -> None:
    if is_busybox(host):
        arguments = host.check_output("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
        assert re.search(r"dropbear .*-s", arguments), arguments
    else:
        assert "passwordauthentication no" in host.check_output("sshd -T")


def test_no_change_is_left_pending(host: Host) -> None:
    assert host.run("test -e /var/lib/sallyport/armed").rc != 0
    assert host.check_output("find /etc -name '.sallyport-*' 2>/dev/null | head -n 5") == ""


def test_every_generation_is_kept_with_its_name(host: Host) -> None:
    names = host.check_output("cat /var/lib/sallyport/generation/*/name").split()
    assert {"firewall", "ssh", "legacy_services", "credentials"} <= set(names)


def test_apt_takes_packages_of_debian_from_debian_alone(host: Host) -> None:
    if is_busybox(host):
        pytest.skip("no packages here")
    said = host.run("apt-cache policy")
    assert said.rc == 0 and not said.stderr, said.stderr  # apt understands them
    lines = [
        line
        for line in host.check_output("cat /etc/apt/sources.list").splitlines()
        if line.startswith("deb ")
    ]
    assert lines and all(
        "signed-by=/usr/share/keyrings/debian-archive-keyring.gpg" in line for line in lines
    ), lines
