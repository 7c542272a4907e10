"""The fleet as shipped, and people before its doors. The files are numbered: each goes on where the last one ended."""

from __future__ import annotations

import os

import pytest

from lab.fleet import load
from lab.labs import Lab
from tests.conftest import pytest_configure, pytest_terminal_summary
from tests.logins import Doors

__all__ = ["doors", "pytest_configure", "pytest_terminal_summary"]


@pytest.fixture(scope="session")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Doors:
    return Doors(Lab(load(), os.environ["SALLYPORT_LAB"], print), tmp_path_factory.mktemp("mfa"))
