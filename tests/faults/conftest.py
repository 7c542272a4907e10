"""How thorough the fault tests are, and what they counted."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.fleet import load
from lab.labs import Lab
from tests.faults import trial
from tests.faults.chamber import SHELLS, isolate, make_tools
from tests.faults.counted import COUNTED
from tests.faults.on_devices import Devices

_JOBS = int(os.environ.get("SALLYPORT_FAULT_JOBS", "4"))  # trials mostly wait for the device's guards


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


@pytest.fixture(scope="session")
def place() -> Iterator[Path]:
    """A short-lived folder with the tracer and the tools; not pytest's own, which keeps what the last runs left."""
    folder = Path(tempfile.mkdtemp(prefix="sallyport-faults-"))
    source = Path(__file__).with_name("crashpoint.c")
    subprocess.run(["gcc", "-O1", "-Wall", "-Werror", "-o", folder / "crashpoint", source], check=True)
    make_tools(folder / "tools")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _begin() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # how a pool ends its processes
    isolate()


@pytest.fixture(scope="session")
def apart() -> Iterator[Any]:
    """Processes with mounts of their own, for trials side by side."""
    with multiprocessing.get_context("fork").Pool(_JOBS, initializer=_begin) as pool:
        yield pool


@pytest.fixture(scope="session")
def settings(place: Path, apart: Any) -> Callable[[str, str, str], trial.Setting]:
    made: dict[tuple[str, str], Path] = {}

    def get(shell: str, medium: str, scenario: str) -> trial.Setting:
        template = place / f"{shell}-{scenario}.img"
        if (shell, scenario) not in made:
            apart.apply(trial.prepare, (template, shell, place / "tools", scenario))
            made[shell, scenario] = template
        work = place / f"{shell}-{medium}-{scenario}"
        return trial.Setting(shell, medium, scenario, place / "crashpoint", place / "tools", template, work)

    return get


@pytest.fixture
def both_shells(
    settings: Callable[[str, str, str], trial.Setting], apart: Any
) -> Callable[..., dict[str, Any]]:
    """What a trial, and what more it takes, gives with each shell."""

    def run(function: Callable[..., Any], *arguments: Any, scenario: str = "confirmed") -> dict[str, Any]:
        cases = [(settings(shell, "default", scenario), *arguments) for shell in SHELLS]
        return dict(zip(SHELLS, apart.starmap(function, cases), strict=True))

    return run
