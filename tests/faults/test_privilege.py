"""Privilege by every road to root, and the connections that cannot carry a program: what works is confirmed, what cannot
work is refused by name with nothing changed."""

from __future__ import annotations

import os
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


@pytest.fixture(params=["as installed", *os.environ.get("SALLYPORT_CORES", "").split()])
def clean(
    request: pytest.FixtureRequest, devices: Devices, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Devices]:
    """The devices, driven by the ansible-core of this environment, and by others that SALLYPORT_CORES names.

    For example SALLYPORT_CORES='2.17=/usr/bin/python3.10 2.21=/usr/bin/python3.13'.
    """
    one = devices
    if request.param != "as installed":
        one = Devices(devices.lab, other_core(request.param, tmp_path_factory) / "ansible-playbook")
    yield one
    for host in ("debian12", "vendor", "operator", "operator-password"):
        left = "ls -d /var/lib/sallyport /etc/trial* 2>/dev/null || :"
        if devices.inside(host, left):
            one.rollback(host, to="factory")
            assert not devices.inside(host, left), host


_CORES: dict[str, Path] = {}


def other_core(asked: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of another ansible-core, in an environment of its own."""
    if asked not in _CORES:
        core, _, python = asked.partition("=")
        folder = tmp_path_factory.mktemp("core") / "venv"
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
        pip = [str(folder / "bin/pip"), "install", "--quiet", "--no-input"]
        subprocess.run([*pip, f"ansible-core=={core}.*", "netaddr"], check=True, capture_output=True)
        _CORES[asked] = folder / "bin"
    return _CORES[asked]


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
    assert "asks for a terminal" in result["msg"] or "no whole reply" in result["msg"], result["msg"]
    assert not clean.inside("debian12", "ls -d /var/lib/sallyport /etc/trial 2>/dev/null || :")


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
        handle.seek(0)
        container = devices.lab.container("operator-password")
        subprocess.run(["podman", "exec", "-i", container, "tar", "-x", "-C", "/"], stdin=handle, check=True)
    return devices


def _of_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.mode |= 0o444
    return member


_PULL = """\
- hosts: localhost
  connection: local
  gather_facts: false
  become: true
  tasks:
    - sallyport.iot.commit:
        name: trial
        files: [{dest: /etc/trial, content: "new\\n"}]
        verify: ["@verify"]
      register: result
      ignore_errors: true
    - ansible.builtin.debug: {msg: "{{ 'RESULT ' ~ result.state | default('none') ~ ' ' ~ result.confirmed | default('') }} {{ result.msg | default('') }}"}
"""


def _pull(devices: Devices, verify: str, password: str = "technician") -> str:
    """Run as the technician, whose sudo asks for a password, with pipelining off; what Ansible printed."""
    devices.inside(
        "operator-password", f"cat >/opt/pull/play.yml <<'EOF'\n{_PULL.replace('@verify', verify)}EOF\n"
    )
    script = (
        "cd /tmp && export HOME=/home/technician LC_ALL=C.UTF-8 PYTHONPATH=/opt/pull ANSIBLE_PIPELINING=False NO_COLOR=1 "
        "ANSIBLE_COLLECTIONS_PATH=/opt/pull/collections && "
        f"exec python3 -c 'from ansible.cli.playbook import main; main()' -i localhost, /opt/pull/play.yml -e ansible_become_password={password}"
    )
    done = subprocess.run(
        ["podman", "exec", "--user", "technician", devices.lab.container("operator-password"), "/bin/sh", "-c", script],
        capture_output=True, text=True, check=False, timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done.stdout + done.stderr


def test_a_device_that_is_its_own_controller_confirms_by_its_verification(puller: Devices) -> None:
    try:
        said = _pull(puller, "true")
        assert "RESULT confirmed local" in said, said
        assert "RESULT unchanged" in _pull(puller, "true")
        puller.inside("operator-password", "echo other >/etc/trial")
        said = _pull(puller, "false")
        assert "RESULT reverted" in said and "verify: status 1" in said, said
        assert puller.inside("operator-password", "cat /etc/trial") == "other\n"
        said = _pull(puller, "true", "wrong")
        assert "root was not gained" in said, said
    finally:
        puller.rollback("operator-password", to="factory")
