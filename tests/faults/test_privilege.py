"""Privilege by every road to root, and the connections that cannot carry a program: what works is confirmed, what cannot
work is refused by name with nothing changed."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

from tests.faults.on_devices import CHECKOUT, Devices

_FILE = {"dest": "/etc/trial", "content": "new\n"}
_PLUGINS = Path(__file__).with_name("plugins")
_OWN = {"ANSIBLE_CONNECTION_PLUGINS": str(_PLUGINS), "ANSIBLE_BECOME_PLUGINS": str(_PLUGINS)}
_ADMIN = {
    "debian12": {"ansible_user": "admin", "ansible_password": "password", "ansible_become_password": "admin"},
    "vendor": {"ansible_user": "admin", "ansible_password": "admin", "ansible_become_password": "admin"},
}


@pytest.mark.parametrize("host", ["debian12", "vendor", "operator", "operator-password"])
def test_root_and_sudo_confirm_without_pipelining(host: str, clean: Devices) -> None:
    result = clean.commit(host, files=[_FILE], variables={"ansible_pipelining": False})
    assert result["state"] == "confirmed" and result["confirmed"] == "ssh", result


@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelined", "not pipelined"])
@pytest.mark.parametrize("host", ["debian12", "vendor"])
def test_su_on_debian_and_on_busybox_confirms(host: str, pipelining: bool, clean: Devices) -> None:
    road = {
        **_ADMIN[host],
        "ansible_become": True,
        "ansible_become_method": "su",
        "ansible_pipelining": pipelining,
    }
    result = clean.commit(host, files=[_FILE], variables=road)
    assert result["state"] == "confirmed" and result["confirmed"] == "ssh", result


@pytest.mark.parametrize("host", ["debian12", "vendor"])
def test_su_with_a_wrong_password_is_refused_by_name(host: str, clean: Devices) -> None:
    wrong = {
        **_ADMIN[host], "ansible_become": True, "ansible_become_method": "su", "ansible_become_password": "no",
    }  # fmt: skip
    result = clean.commit(host, files=[_FILE], variables=wrong)
    assert result["failed"] and "root was not gained" in result["msg"], result


def _doas(devices: Devices, rule: str) -> None:
    devices.inside("debian12", f"echo '{rule}' >/etc/doas.conf; chmod 0400 /etc/doas.conf")


def _doas_plugin() -> tuple[str, dict[str, str]]:
    """community.general's plugin where the site has it, else one of the test's own that builds the same command."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-doc")), "-t", "become", "community.general.doas"],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, cwd=CHECKOUT,
    )  # fmt: skip
    return ("community.general.doas", {}) if "become_exe" in done.stdout else ("trial_doas", _OWN)


@pytest.fixture(scope="module")
def doas_package(devices: Devices, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Debian's opendoas on the Debian device; it is in no image, and this machine needs none."""
    folder = tmp_path_factory.mktemp("doas")
    command = ["apt-get", "-o", "APT::Sandbox::User=root", "download", "opendoas"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    packages = list(folder.glob("*.deb"))
    if not packages:
        pytest.skip(f"Debian's package opendoas cannot be had: {done.stderr.strip()[-200:]}")
    container = devices.lab.container("debian12")
    subprocess.run(["podman", "cp", str(packages[0]), f"{container}:/tmp/doas.deb"], check=True)
    devices.inside(
        "debian12", "dpkg-deb --fsys-tarfile /tmp/doas.deb | tar -x -C / ./usr/bin ./etc; rm /tmp/doas.deb"
    )
    if "usage" not in devices.inside("debian12", "doas 2>&1 || :"):
        pytest.skip("this machine's opendoas is built for another Debian than the device's")


@pytest.fixture
def doas(doas_package: None, clean: Devices) -> Iterator[tuple[Devices, dict[str, Any], dict[str, str]]]:
    method, environment = _doas_plugin()
    road = {
        **_ADMIN["debian12"], "ansible_become": True, "ansible_become_method": method, "ansible_become_password": "",
    }  # fmt: skip
    yield clean, road, environment
    clean.inside("debian12", "rm -f /etc/doas.conf")


def test_doas_without_a_password_confirms(doas: tuple[Devices, dict[str, Any], dict[str, str]]) -> None:
    devices, road, environment = doas
    _doas(devices, "permit nopass admin as root")
    result = devices.commit("debian12", files=[_FILE], variables=road, environment=environment)
    assert result["state"] == "confirmed", result


@pytest.mark.parametrize("password", ["", "password"], ids=["not given", "given"])
def test_doas_with_a_password_is_refused_by_name(
    password: str, doas: tuple[Devices, dict[str, Any], dict[str, str]]
) -> None:
    devices, road, environment = doas
    _doas(devices, "permit admin as root")
    result = devices.commit(
        "debian12",
        files=[_FILE],
        variables={**road, "ansible_become_password": password},
        environment=environment,
    )
    assert result["failed"] and "doas wants a password" in result["msg"], result
    assert "nopass" in result["msg"], result["msg"]
    assert not devices.inside("debian12", "ls -d /var/lib/sallyport /etc/trial 2>/dev/null || :")


def test_sudo_that_requires_a_terminal_is_refused_by_name(clean: Devices) -> None:
    clean.inside(
        "operator", "echo 'Defaults:ops requiretty' >/etc/sudoers.d/tty; chmod 0440 /etc/sudoers.d/tty"
    )
    try:
        result = clean.commit("operator", files=[_FILE])
    finally:
        clean.inside("operator", "rm /etc/sudoers.d/tty")
    assert result["failed"] and "requiretty in sudoers" in result["msg"], result
    assert not clean.inside("operator", "ls -d /var/lib/sallyport /etc/trial 2>/dev/null || :")


def test_ssh_arguments_that_ask_for_a_terminal_are_refused_by_name(clean: Devices) -> None:
    result = clean.commit("debian12", files=[_FILE], variables={"ansible_ssh_extra_args": "-tt"})
    assert result["failed"], result
    assert "asks for a terminal" in result["msg"], result["msg"]
    assert not clean.inside("debian12", "ls -d /var/lib/sallyport /etc/trial 2>/dev/null || :")


def test_ssh_arguments_that_end_in_the_middle_are_refused_by_name(clean: Devices) -> None:
    result = clean.commit("debian12", files=[_FILE], variables={"ansible_ssh_common_args": "-o"})
    assert result["failed"] and "end in an option without its value" in result["msg"], result


@pytest.mark.parametrize("kind", ["drops", "refuses"])
def test_a_connection_that_does_not_carry_standard_input_is_refused_by_name(
    kind: str, clean: Devices
) -> None:
    """Some drop it in silence and return 0, others raise an internal error."""
    result = clean.commit(
        "debian12", files=[_FILE], variables={"ansible_connection": f"trial_{kind}"}, environment=_OWN
    )
    assert result["failed"] and f"'trial_{kind}'" in result["msg"], result
    assert "standard input" in result["msg"] and "ansible.builtin.ssh" in result["msg"], result["msg"]


# --- pull mode: the device is its own controller ------------------------------------------------------------------


@pytest.fixture(scope="module")
def puller(devices: Devices) -> Devices:
    """ansible-core and this collection on the device itself; what is compiled stays behind, all of it is optional."""
    with tempfile.TemporaryFile() as handle:
        with tarfile.open(fileobj=handle, mode="w") as archive:
            for name in (
                "ansible-core",
                "jinja2",
                "markupsafe",
                "pyyaml",
                "packaging",
                "resolvelib",
                "netaddr",
            ):
                for file in distribution(name).files or []:
                    if file.parts[0] not in ("..", "ansible_test") and file.suffix not in (".so", ".pyc"):
                        archive.add(file.locate(), f"opt/pull/{file}", filter=_of_root)
            home = "opt/pull/collections/ansible_collections/sallyport/iot"
            for name in ("plugins", "filter_plugins", "roles", "meta", "galaxy.yml"):
                archive.add(CHECKOUT / name, f"{home}/{name}", filter=_of_root)
            for name, module in (("ansible", "adhoc"), ("ansible-playbook", "playbook")):
                script = f"#!/usr/bin/python3\nfrom ansible.cli.{module} import main\nmain()\n".encode()
                member = tarfile.TarInfo(f"opt/pull/bin/{name}")
                member.size, member.mode = len(script), 0o755
                archive.addfile(member, io.BytesIO(script))
        handle.seek(0)
        container = devices.lab.container("operator-password")
        subprocess.run(["podman", "exec", "-i", container, "tar", "-x", "-C", "/"], stdin=handle, check=True)
    return devices


def _of_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.mode |= 0o444
    return member


_TOLD = "'RESULT ' ~ result.state | default('none') ~ ' ' ~ result.confirmed | default('') ~ ' ' ~ result.loopback | default('')"


def _pull(devices: Devices, *variables: str, password: str = "technician", **commit: Any) -> str:
    """Run as the technician, whose sudo asks for a password, with pipelining off; what Ansible printed."""
    commit = {"name": "trial", "files": [_FILE], "confirm": {"seconds": 15}, **commit}
    tasks = [
        {"sallyport.iot.commit": commit, "register": "result", "ignore_errors": True},
        {"ansible.builtin.debug": {"msg": "{{ " + _TOLD + " }} {{ result.msg | default('') }}"}},
    ]
    play = [
        {"hosts": "localhost", "connection": "local", "gather_facts": False, "become": True, "tasks": tasks}
    ]
    devices.inside("operator-password", f"cat >/opt/pull/play.yml <<'EOF'\n{json.dumps(play)}\nEOF\n")
    given = " ".join(f"-e {variable}" for variable in (f"ansible_become_password={password}", *variables))
    script = (
        "cd /tmp && export HOME=/home/technician LC_ALL=C.UTF-8 PYTHONPATH=/opt/pull ANSIBLE_PIPELINING=False NO_COLOR=1 "
        "ANSIBLE_COLLECTIONS_PATH=/opt/pull/collections && "
        f"exec /opt/pull/bin/ansible-playbook -i localhost, /opt/pull/play.yml {given}"
    )
    done = subprocess.run(
        ["podman", "exec", "--user", "technician", devices.lab.container("operator-password"), "/bin/sh", "-c", script],
        capture_output=True, text=True, check=False, timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.fixture
def pull(puller: Devices) -> Iterator[Devices]:
    """The device as it began, before and after, judged past everything that a test does."""
    with puller.as_it_began("operator-password"):
        yield puller
        puller.rollback("operator-password", to="factory")
        puller.inside("operator-password", "rm -rf /etc/trial /home/technician/.ssh")


@pytest.fixture
def keyed(pull: Devices) -> Devices:
    """The technician has a key that logs in over the loopback."""
    pull.inside(
        "operator-password",
        "su technician -c 'mkdir -m 700 ~/.ssh && ssh-keygen -q -t ed25519 -N \"\" -f ~/.ssh/id_ed25519 && cp ~/.ssh/id_ed25519.pub ~/.ssh/authorized_keys'",
    )
    return pull


def test_a_device_that_is_its_own_controller_confirms_by_its_verification(pull: Devices) -> None:
    said = _pull(pull, verify=["true"])
    assert "RESULT confirmed local handshake" in said, said
    assert "RESULT unchanged" in _pull(pull, verify=["true"])
    pull.inside("operator-password", "echo other >/etc/trial")
    said = _pull(pull, verify=["false"])
    assert "RESULT reverted" in said and "verify: status 1" in said, said
    assert pull.inside("operator-password", "cat /etc/trial") == "other\n"
    said = _pull(pull, password="wrong")
    assert "root was not gained" in said, said


def test_its_own_login_over_the_loopback_confirms_where_there_is_a_key(keyed: Devices) -> None:
    said = _pull(keyed, "sallyport_loopback=login")
    assert "RESULT confirmed local login" in said, said


def test_its_own_login_over_the_loopback_confirms_with_a_password_too(pull: Devices) -> None:
    """Beside arguments of a site that would send every ssh to a gateway, or over a connection that is there already."""
    words = "-o ProxyCommand=false -o ControlMaster=auto -o ControlPath=/tmp/%C"
    forced = "'" + json.dumps({"ansible_ssh_common_args": words}) + "'"
    said = _pull(pull, "ansible_password=technician", forced)
    assert "RESULT confirmed local login" in said, said


def test_a_login_that_is_demanded_and_does_not_work_refuses_the_change(pull: Devices) -> None:
    said = _pull(pull, "sallyport_loopback=login")
    assert "RESULT refused" in said and "does not work before the change" in said, said
    assert "Permission denied" in said, said
    assert not pull.inside("operator-password", "ls /etc/trial 2>/dev/null || :")


_SSHD = {"dest": "/etc/ssh/sshd_config.d/00-trial.conf", "content": "AllowUsers nobody\n"}
_DROP = "table inet trial {\n chain in { type filter hook input priority 0; iif lo tcp dport 22 drop; }\n}\n"
_SHUT_OUT: dict[str, tuple[dict[str, Any], str]] = {
    "sshd_config that sshd -t accepts and that lets nobody in": (
        {"files": [_SSHD], "activate": ["/usr/sbin/sshd -t", "systemctl restart ssh"]},
        "the login over the loopback",
    ),
    "sshd_config that no daemon has read": (
        {"files": [_SSHD], "activate": ["/usr/sbin/sshd -t"], "confirm": {"seconds": 15, "new_daemon": True}},
        "never read the new files",
    ),
    "firewall that drops ssh": (
        {
            "files": [{"dest": "/etc/trial.nft", "content": _DROP}],
            "activate": ["nft -f /etc/trial.nft"],
            "revert": ["nft delete table inet trial 2>/dev/null || :"],
        },
        "port 22) worked before the change",
    ),
    "another port": (
        {"files": [{**_SSHD, "content": "Port 2222\n"}], "activate": ["systemctl restart ssh"]},
        "port 22) worked before the change",
    ),
    "daemon that is gone": (
        {"activate": ["systemctl stop ssh"], "revert": ["systemctl start ssh"]},
        "port 22) worked before the change",
    ),
}


@pytest.mark.parametrize("what", _SHUT_OUT)
def test_a_lock_out_of_a_device_that_is_its_own_controller_is_taken_back(what: str, keyed: Devices) -> None:
    commit, reason = _SHUT_OUT[what]
    said = _pull(keyed, **commit)
    assert "RESULT reverted" in said and reason in said, said


@pytest.mark.parametrize("what", ["firewall that drops ssh", "daemon that is gone"])
def test_without_a_key_a_key_exchange_still_shows_that_the_way_in_is_gone(what: str, pull: Devices) -> None:
    said = _pull(pull, **_SHUT_OUT[what][0])
    assert "RESULT reverted" in said and "the handshake over the loopback" in said, said


def test_a_change_that_is_to_close_the_loopback_may_say_so(keyed: Devices) -> None:
    commit, _ = _SHUT_OUT["firewall that drops ssh"]
    said = _pull(keyed, "sallyport_loopback=none", **commit)
    assert "RESULT confirmed local none" in said, said
