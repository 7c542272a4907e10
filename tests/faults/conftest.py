"""How thorough the fault tests are, and what they counted."""

from __future__ import annotations

import os
from collections.abc import Iterator

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
