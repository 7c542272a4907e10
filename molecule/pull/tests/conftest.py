"""A server and a device, as shipped. The files are numbered: each goes on where the last one ended."""

from __future__ import annotations

import os

import pytest

from lab.fleet import load
from lab.labs import Lab
from tests.conftest import pytest_configure
from tests.pull_site import PullSite

__all__ = ["pytest_configure", "site"]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> PullSite:
    return PullSite(Lab(load(), os.environ["SALLYPORT_LAB"], print), tmp_path_factory.mktemp("pull"))
