"""The variants are the traps that they claim to be."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.fleet import addresses
from lab.labs import Lab
from lab.podman import podman, run_in

NAMES = ["operator", "operator-password", "volatile", "poor", "ownlink", "ownlink-vendor"]


@pytest.fixture(scope="module")
def variants(lab: Lab) -> Iterator[Lab]:
    """A lab of its own, so that the standard fleet's stays what the other tests expect."""
    one = Lab(lab.fleet, "v" + lab.prefix[:13], print)
    one.up(NAMES)
    yield one
    one.down()


def sh(lab: Lab, name: str, command: str) -> str:
    return run_in(lab.container(name), "/bin/sh", "-c", command, check=False).strip()


def test_on_the_operators_device_root_has_no_login_and_sudo_asks_one_of_two_for_a_password(
    variants: Lab,
) -> None:
    settings = sh(
        variants, "operator", "sshd -T; loginctl show-user 2>/dev/null; cat /etc/systemd/logind.conf.d/*"
    )
    assert "permitrootlogin no" in settings and "KillUserProcesses=yes" in settings
    assert sh(variants, "operator", "setpriv --reuid ops --regid ops --init-groups sudo -n id -u") == "0"
    assert (
        sh(variants, "operator", "setpriv --reuid technician --regid technician --init-groups sudo -n id -u")
        == ""
    )
    assert sh(variants, "operator", "passwd --status root").split()[1] == "L"


def test_a_volatile_root_forgets_in_a_power_cut(variants: Lab) -> None:
    sh(variants, "volatile", "echo written >/root/mark; sync")
    assert sh(variants, "volatile", "cat /root/mark; stat -f -c %T /mnt") == "written\ntmpfs"
    variants.power_cut("volatile")
    assert sh(variants, "volatile", "cat /root/mark 2>/dev/null || echo gone") == "gone"


def test_the_poor_gateway_has_one_checksum_tool_and_none_of_the_comforts(variants: Lab) -> None:
    wanted = "base64 sha256sum cksum setsid timeout nohup mktemp stat find ipset md5sum"
    assert sh(variants, "poor", f"for tool in {wanted}; do command -v $tool; done") == "/usr/bin/md5sum"


@pytest.mark.parametrize("name", ["ownlink", "ownlink-vendor"])
def test_a_device_with_its_own_links_is_plugged_into_links_that_are_down(variants: Lab, name: str) -> None:
    podman("kill", "--signal=KILL", variants.container(name))
    podman("wait", variants.container(name))
    podman("init", variants.container(name))
    variants.plug_in(variants.fleet.devices[name])
    process = podman("inspect", "--format", "{{.State.Pid}}", variants.container(name)).strip()
    links = variants.inside(process, "ip", "-brief", "address", "show", "up")
    assert [line.split()[0] for line in links.splitlines()] in (["lo"], [])
    podman("start", variants.container(name))
    variants.wait(variants.fleet.devices[name])
    where = addresses("wan", variants.slot(), variants.fleet.devices[name].number)
    shown = sh(variants, name, "ip address show dev eth1")
    assert all(address in shown for address in where)
