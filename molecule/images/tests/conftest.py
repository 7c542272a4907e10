"""Devices that are updated as a whole, as shipped. The files are numbered: each goes on where the last one ended."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from lab.fleet import load
from lab.labs import Lab
from tests.conftest import pytest_configure
from tests.images_site import Images

__all__ = ["pytest_configure", "site"]

DEVICES = ("slots12", "slots13")


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    one = Images(Lab(load(), os.environ["SALLYPORT_LAB"], print), tmp_path_factory.mktemp("images"))
    one.serve(DEVICES)
    yield one
    one.stop()
