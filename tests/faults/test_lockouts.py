"""Lock-outs that no syntax check can see, on real devices: each is taken back with the true reason, the device ends as
it began, and a plain ssh gets in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.on_devices import Devices

_SSHD = "/etc/ssh/sshd_config.d/00-trial.conf"  # before the factory's own: the first value wins
_RESTART_SSHD = ["/usr/sbin/sshd -t", "systemctl restart ssh"]
_RESTART_DROPBEAR = [
    "kill -HUP 1",
    "kill $(ps -o pid,ppid,args | sed -n 's|^ *\\([0-9]*\\) *1 /usr/sbin/dropbear.*|\\1|p')",
]


def _sshd(text: str) -> dict[str, Any]:
    return {
        "files": [{"dest": _SSHD, "content": text}],
        "activate": _RESTART_SSHD,
        "confirm": {"seconds": 6, "new_daemon": True},
    }


def _inittab(devices: Devices, arguments: str) -> dict[str, Any]:
    """dropbear respawned with other arguments; `` without any line at all."""
    text = devices.inside("vendor", "cat /etc/inittab")
    line = f"::respawn:/usr/sbin/dropbear {arguments}\n" if arguments else ""
    changed, count = re.subn(r"::respawn:/usr/sbin/dropbear .*\n", line, text)
    assert count == 1, text
    return {
        "files": [{"dest": "/etc/inittab", "content": changed}],
        "activate": _RESTART_DROPBEAR,
        "confirm": {"seconds": 6, "new_daemon": True},
    }


_MARK = [{"dest": "/etc/trial", "content": "a change, so that there is one\n"}]
_DROP = "table inet trial {\n chain in { type filter hook input priority 0; policy drop; ct state established accept; }\n}\n"
_DEBIAN = {
    "a firewall that drops the operator": (
        {
            "files": [{"dest": "/etc/trial.nft", "content": _DROP, "check": 'nft -c -f "$1"'}],
            "activate": ["nft -f /etc/trial.nft"],
            "revert": ["nft destroy table inet trial 2>/dev/null || nft delete table inet trial 2>/dev/null || :"],
        },
        "no confirmation came within 6 seconds",
    ),
    "PermitRootLogin no where root is the only login": (_sshd("PermitRootLogin no\n"), "no confirmation came"),
    "AllowUsers without the operator": (_sshd("AllowUsers nobody\n"), "no confirmation came"),
    "sshd on a port that the operator does not use": (_sshd("Port 2222\n"), "no confirmation came"),
    "a listen address that is not there": (_sshd("ListenAddress 10.99.99.99\n"), "no confirmation came|activate: status"),
    "an activation that hangs": ({"files": _MARK, "activate": ["sleep 1000"], "revert": ["true"]}, "not finished after 6 seconds"),
    "an activation that stops the daemon": (
        {"files": _MARK, "activate": ["systemctl stop ssh"], "revert": ["systemctl start ssh"]}, "no confirmation came",
    ),
    "an activation that fails after it has stopped the daemon": (
        {"files": _MARK, "activate": ["systemctl stop ssh", "echo why it failed >&2; exit 3"], "revert": ["systemctl start ssh"]},
        "status 3 from: echo .*why it failed",
    ),
    "a verification that fails": ({"files": _MARK, "activate": ["true"], "verify": ["[ -e /nowhere ]"]}, "verify: status 1"),
    "a changed sshd_config that no daemon has read": (
        {**_sshd("AllowUsers nobody\n"), "activate": ["true"]}, "never read the new files",
    ),
}  # fmt: skip


@pytest.fixture
def debian(devices: Devices) -> Iterator[Devices]:
    with devices.as_it_began("debian12"):
        yield devices


@pytest.fixture
def vendor(devices: Devices) -> Iterator[Devices]:
    with devices.as_it_began("vendor"):
        yield devices


@pytest.fixture
def operator(devices: Devices) -> Iterator[Devices]:
    with devices.as_it_began("operator"):
        yield devices


def _is_taken_back(result: dict[str, Any], reason: str) -> None:
    assert result["failed"] and result["state"] == "reverted" and not result["changed"], result
    assert re.search(reason, result["msg"], re.S), result["msg"]


@pytest.mark.parametrize("what", _DEBIAN)
def test_a_lock_out_on_debian_is_taken_back(what: str, debian: Devices) -> None:
    arguments, reason = _DEBIAN[what]
    _is_taken_back(debian.commit("debian12", **{"confirm": {"seconds": 6}, **arguments}), reason)


@pytest.mark.parametrize("host", ["debian12", "vendor"])
def test_a_key_file_that_the_daemon_refuses_for_its_mode_is_taken_back(host: str, devices: Devices) -> None:
    with devices.as_it_began(host):
        public = devices.variables(host)["ssh_authorized_keys"][0] + "\n"
        keyed = {"ansible_password": "", "ansible_ssh_extra_args": "-o PasswordAuthentication=no"}
        file = {"dest": "/root/.ssh/authorized_keys", "content": public, "mode": "0600"}
        there = devices.inside(host, "[ -e /root/.ssh/authorized_keys ] && echo there || :")
        good = devices.commit(host, files=[file], confirm={"seconds": 20}, variables=keyed if there else {})
        assert good["state"] in ("confirmed", "unchanged"), good
        try:
            bad = devices.commit(
                host, files=[{**file, "mode": "0666"}], confirm={"seconds": 6}, variables=keyed
            )
            _is_taken_back(bad, "no confirmation came")
            mode = devices.inside(host, "ls -l /root/.ssh/authorized_keys").split()[0]
            assert mode.startswith("-rw-------"), mode
        finally:
            devices.rollback(host, to="factory")


def test_sudo_that_no_longer_works_is_taken_back(operator: Devices) -> None:
    result = operator.commit(
        "operator",
        files=[
            {
                "dest": "/etc/sudoers.d/zz-trial",
                "content": "ops ALL=(ALL) !ALL\n",
                "mode": "0440",
                "check": 'visudo -c -f "$1"',
            }
        ],
        confirm={"seconds": 6},
    )
    _is_taken_back(result, "no confirmation came")
    assert "root was not gained" in result["msg"], result["msg"]


def test_a_file_that_its_check_refuses_changes_nothing(debian: Devices) -> None:
    result = debian.commit(
        "debian12",
        files=[
            {
                "dest": "/etc/trial.nft",
                "content": "table inet trial {\n nonsense\n}\n",
                "check": 'nft -c -f "$1"',
            }
        ],
        activate=["false"],
    )
    assert result["failed"] and result["state"] == "refused", result
    assert "/etc/trial.nft was refused" in result["msg"] and "nonsense" in result["msg"], result["msg"]


_VENDOR = {
    "dropbear on a port that the operator does not use": ("-F -E -R -p 2222", "no confirmation came"),
    "no root login where root is the only login": ("-F -E -R -w", "no confirmation came"),
    "keys only, without a key": ("-F -E -R -s", "no confirmation came"),
    "dropbear that does not start": ("-F -E -R -p 10.99.99.99:22", "no confirmation came"),
    "no dropbear at all": ("", "no confirmation came"),
}


@pytest.mark.parametrize("what", _VENDOR)
def test_a_lock_out_by_dropbear_is_taken_back(what: str, vendor: Devices) -> None:
    arguments, reason = _VENDOR[what]
    _is_taken_back(vendor.commit("vendor", **_inittab(vendor, arguments)), reason)


def test_a_firewall_that_drops_the_operator_of_the_gateway_is_taken_back(vendor: Devices) -> None:
    script = (
        "set -e\niptables -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\niptables -P INPUT DROP\n"
    )
    result = vendor.commit(
        "vendor",
        files=[{"dest": "/etc/trial.sh", "content": script, "mode": "0700"}],
        activate=["sh /etc/trial.sh"],
        revert=[
            "iptables -P INPUT ACCEPT",
            "iptables -D INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT || :",
        ],
        confirm={"seconds": 6},
    )
    _is_taken_back(result, "no confirmation came")


def test_an_activation_that_hangs_on_the_gateway_is_taken_back(vendor: Devices) -> None:
    result = vendor.commit(
        "vendor", files=_MARK, activate=["while :; do sleep 1; done"], revert=["true"], confirm={"seconds": 6}
    )
    _is_taken_back(result, "not finished after 6 seconds")
