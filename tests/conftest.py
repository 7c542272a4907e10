"""The lab as a fixture, for every test that needs real devices."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial

import pytest
from hypothesis import settings

from lab.fleet import load
from lab.labs import Lab
from tests.logins import LOGINS


def pytest_configure() -> None:
    """A test run that is told to stop takes its labs and namespaces down like one that is interrupted."""

    def stop(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    # Not so its forked children: a pool ends its workers so, and one that is interrupted under a lock waits for ever. Nor may
    # one be told in the moment before that is settled: it would be forgotten, and the pool would wait.
    mask = partial(signal.pthread_sigmask, mask={signal.SIGTERM})

    def in_child() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        mask(signal.SIG_UNBLOCK)

    os.register_at_fork(
        before=lambda: mask(signal.SIG_BLOCK),
        after_in_parent=lambda: mask(signal.SIG_UNBLOCK),
        after_in_child=in_child,
    )
    # How long an example takes says how busy the machine is.
    settings.register_profile("sallyport", deadline=None)
    settings.load_profile("sallyport")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if LOGINS:
        terminalreporter.section("logins tried")
        total = ", ".join(f"{count} {what}" for what, count in sorted(LOGINS.items()))
        terminalreporter.write_line(f"logins tried: {total}")


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The standard fleet. A lab that already runs under SALLYPORT_LAB is used as it is, and left running."""
    if os.geteuid() != 0:
        pytest.skip("labs need root")
    prefix = os.environ.get("SALLYPORT_LAB", "pytest") + os.environ.get("PYTEST_XDIST_WORKER", "")
    one = Lab(load(), prefix, print)
    found = bool(one.networks())
    one.up([])
    yield one
    if not found:
        one.down()
