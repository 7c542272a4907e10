"""What the lab's four devices say, each recorded over a real SSH session."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ARCHITECTURE = Path(__file__).parents[3] / "docs" / "architecture.md"


def sockets(device: dict[str, Any]) -> set[tuple[str, str, int, str]]:
    return {(s["protocol"], s["family"], s["port"], s["process"]) for s in device["listening"]}


def test_every_documented_key_is_there_and_every_key_is_documented(devices: dict[str, Any]) -> None:
    section = ARCHITECTURE.read_text().split("## `sallyport_device`")[1].split("\n## ")[0]
    documented = set()
    for row in re.findall(r"^\| (`.*?) \|", section, re.M):
        documented |= set(re.findall(r"`(\w+)`", row))
    # The run is added where the exchange is made; the names of time servers are described beside their addresses.
    documented -= {"run"}
    for name, device in devices.items():
        assert set(device) - {"ntp_names"} == documented, name


def test_the_gateway_is_told_by_its_own_init_and_server(devices: dict[str, Any]) -> None:
    vendor = devices["vendor"]
    assert vendor["init"] == "busybox"
    assert vendor["python"] == ""
    assert vendor["packages"] == "none", "BusyBox has a dpkg applet, which is no package manager"
    assert vendor["os"]["id"] == "gatewayos"
    assert vendor["units"] == {}
    ssh = vendor["ssh"]
    assert (ssh["server"], ssh["version"], ssh["ports"]) == ("dropbear", "2022.83", [22])
    assert ssh["arguments"] == ["-F", "-E", "-R"]
    assert [(key["type"], key["bits"]) for key in ssh["host_keys"]] == [("ssh-ed25519", 256)]
    assert ssh["host_keys"][0]["public"].startswith("ssh-ed25519 AAAA")


def test_the_gateways_listeners_carry_the_names_of_their_applets(devices: dict[str, Any]) -> None:
    assert sockets(devices["vendor"]) == {
        ("tcp", "ipv4", 22, "dropbear"),
        ("tcp", "ipv6", 22, "dropbear"),
        ("tcp", "ipv6", 23, "telnetd"),
        ("tcp", "ipv6", 80, "httpd"),
        ("tcp", "ipv6", 5000, "httpd"),
        ("udp", "ipv4", 1900, "minissdpd"),
        ("udp", "ipv6", 1900, "minissdpd"),
    }


@pytest.mark.parametrize(
    ("name", "version", "port", "unit"),
    [
        ("debian11", "8.4p1", 23, "inetd.service"),
        ("debian12", "9.2", 2323, "xinetd.service"),
        ("debian13", "10.0p2", 23, "telnet.socket"),
    ],
)
def test_debian_shows_who_waits_for_telnet(
    devices: dict[str, Any], name: str, version: str, port: int, unit: str
) -> None:
    device = devices[name]
    assert device["init"] == "systemd"
    assert device["ssh"]["version"] == version
    assert {s["unit"] for s in device["listening"] if s["port"] == port} == {unit}
    assert device["units"][unit]["active"] == "active"


@pytest.mark.parametrize("name", ["debian11", "debian12", "debian13"])
def test_openssh_tells_its_settings_and_abilities(devices: dict[str, Any], name: str) -> None:
    ssh = devices[name]["ssh"]
    assert ssh["server"] == "openssh"
    assert ssh["unit"] == "ssh.service"
    assert ssh["include_dir"] is True
    assert ssh["config"]["permitrootlogin"] == ["yes"]
    assert ssh["config"]["subsystem"] == ["sftp /usr/lib/openssh/sftp-server"]
    assert "curve25519-sha256" in ssh["supported"]["kex"]
    assert all(ssh["supported"].values())
    assert {key["type"] for key in ssh["host_keys"]} == {"ssh-rsa", "ssh-ed25519", "ecdsa-sha2-nistp256"}
    assert all(key["bits"] >= 256 for key in ssh["host_keys"])


def test_devices_of_one_series_show_their_shared_host_keys(devices: dict[str, Any]) -> None:
    def public(name: str) -> set[str]:
        return {key["public"] for key in devices[name]["ssh"]["host_keys"]}

    assert public("debian11") == public("debian12")
    assert not public("debian13") & public("debian12")


def test_the_kernel_was_asked_what_it_accepts(devices: dict[str, Any]) -> None:
    assert devices["debian12"]["firewall"]["nft"] == {
        "path": "/usr/sbin/nft",
        "version": "1.0.6",
        "variant": "",
        "works": True,
        "error": "",
        "proof": "private",
        "features": ["synproxy", "log", "reject", "fib", "nat"],
    }
    assert devices["vendor"]["firewall"]["iptables"]["variant"] == "legacy"
    assert devices["vendor"]["firewall"]["ipset"]["works"] is True
    assert {"set", "hashlimit", "mangle"} <= set(devices["vendor"]["firewall"]["ip6tables"]["features"])
    assert devices["vendor"]["firewall"]["nft"]["path"] == ""
    assert devices["debian11"]["firewall"]["ip6tables"]["variant"] == "nft"


def test_the_controller_is_known_by_its_address_on_the_device(devices: dict[str, Any]) -> None:
    for device in devices.values():
        connection = device["connection"]
        assert connection["client"].startswith("198.51.100.")
        assert connection["server_port"] == 22
        assert connection["interface"] == "eth0"
        assert connection["client_port"] > 1023


def test_a_containers_overlay_on_disk_is_not_volatile(devices: dict[str, Any]) -> None:
    for device in devices.values():
        assert device["container"] == "podman"
        assert device["root"]["fstype"] == "overlay"
        assert device["root"]["volatile"] is False
        assert device["state_dir"]["free_kb"] > 0
        assert device["state_dir"]["free_inodes"] > 0


def test_default_passwords_are_seen_as_set_with_their_scheme_only(devices: dict[str, Any]) -> None:
    for name, scheme in (("vendor", "md5"), ("debian13", "yescrypt")):
        root = devices[name]["accounts"][0]
        assert (root["name"], root["password"], root["scheme"]) == ("root", "set", scheme)


def test_files_arrive_whole(devices: dict[str, Any]) -> None:
    assert "::respawn:/usr/sbin/dropbear -F -E -R\n" in devices["vendor"]["files"]["/etc/inittab"]
    assert devices["debian12"]["files"]["/etc/ssh/sshd_config.d/10-factory.conf"].endswith("\n")
