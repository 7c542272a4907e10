"""The fleet as shipped, with other people's rules on it. The files are numbered: each goes on where the last one ended."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from fleet import DEVICES, FOREIGN_IPTABLES, FOREIGN_NFT, NFT, Fleet

from lab.fleet import load
from lab.labs import Lab
from tests.conftest import pytest_configure

__all__ = ["first_foreign", "fleet", "pytest_configure"]


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    one = Fleet(Lab(load(), os.environ["SALLYPORT_LAB"], print), tmp_path_factory.mktemp("firewall"))
    try:
        one.guests()
        for device in DEVICES:
            one.connect(device)
            one.sh(device, FOREIGN_NFT if device in NFT else FOREIGN_IPTABLES)
        yield one
    finally:
        one.close()


@pytest.fixture(scope="session")
def first_foreign(fleet: Fleet) -> dict[str, str]:
    """Other people's rules before Sallyport came."""
    return {device: fleet.foreign(device) for device in DEVICES}
