"""How thorough the fault tests are, and what they counted."""

from __future__ import annotations

import pytest

COUNTED: list[str] = []


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
