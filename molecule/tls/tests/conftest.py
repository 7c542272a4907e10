"""The devices as shipped, and an ACME server beside them. The files are numbered: each goes on where the last one ended."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from acme import Acme
from fleet import DEVICES, Fleet

from lab.fleet import load
from lab.labs import Lab
from tests.conftest import pytest_configure

__all__ = ["fleet", "pytest_configure"]


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    lab = Lab(load(), os.environ["SALLYPORT_LAB"], print)
    acme = Acme(lab)
    one = Fleet(lab, acme, tmp_path_factory.mktemp("tls"))
    acme.names = {one.name(device): one.address(device) for device in DEVICES}
    acme.start()
    yield one
    acme.stop()
