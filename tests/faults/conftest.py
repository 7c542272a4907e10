"""How thorough the fault tests are, and what they counted."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.fleet import load
from lab.labs import Lab
from tests.faults.counted import COUNTED
from tests.faults.on_devices import Devices


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--faults",
        choices=("sample", "full"),
        default="sample",
        help="sample: every so many crash points, a few minutes; full: every one (with `pytest tests/faults`)",
    )


@pytest.fixture(scope="session")
def thorough(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--faults", "sample") == "full")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if COUNTED:
        terminalreporter.section("faults injected")
        for line in COUNTED:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def devices() -> Iterator[Devices]:
    """The lab's devices that fault tests need. A lab under SALLYPORT_LAB is used, and left running, if it has them."""
    if os.geteuid() != 0:
        pytest.skip("labs need root")
    prefix = os.environ.get("SALLYPORT_LAB", "faults") + os.environ.get("PYTEST_XDIST_WORKER", "")
    one = Lab(load(), prefix, print)
    found = bool(one.networks())
    one.up(["debian12", "vendor", "operator", "operator-password", "poor", "volatile"])
    yield Devices(one)
    if not found:
        one.down()


@pytest.fixture(params=["as installed", *os.environ.get("SALLYPORT_CORES", "").split()])
def clean(
    request: pytest.FixtureRequest, devices: Devices, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Devices]:
    """The devices, driven by the ansible-core of this environment, and by others that SALLYPORT_CORES names.

    For example SALLYPORT_CORES='2.17=/usr/bin/python3.10 2.21=/usr/bin/python3.13'. What a test leaves is taken back.
    """
    one = devices
    if request.param != "as installed":
        one = Devices(devices.lab, _other_core(request.param, tmp_path_factory) / "ansible-playbook")
    yield one
    for host in ("debian12", "vendor", "operator", "operator-password"):
        left = "ls -d /var/lib/sallyport /etc/trial* 2>/dev/null || :"
        if devices.inside(host, left):
            one.rollback(host, to="factory")
            assert not devices.inside(host, left), host


_CORES: dict[str, Path] = {}


def _other_core(asked: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of another ansible-core, in an environment of its own."""
    if asked not in _CORES:
        core, _, python = asked.partition("=")
        folder = tmp_path_factory.mktemp("core") / "venv"
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
        pip = [str(folder / "bin/pip"), "install", "--quiet", "--no-input"]
        subprocess.run([*pip, f"ansible-core=={core}.*", "netaddr"], check=True, capture_output=True)
        _CORES[asked] = folder / "bin"
    return _CORES[asked]
