# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""A device for the kernel tests. They need root, and say so where there is none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.device import Device


@pytest.fixture
def device(whole_run: Device) -> Iterator[Device]:
    """The device, without a firewall at the end whichever one the test left."""
    yield whole_run
    whole_run.load({}, legacy=True)
    whole_run.load({})


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces and raw sockets need root: run the tests as root")
    directory: Path = tmp_path_factory.mktemp("device") / "firewall"
    directory.mkdir()
    made = Device(directory)
    yield made
    made.close()
