"""Replies of real devices, recorded over SSH from the lab, and small ones made by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.device import probe
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply

from tests.unit.probe.recordings import recorded


@pytest.fixture(scope="session")
def devices() -> dict[str, dict[str, Any]]:
    return {
        name: probe.device(recorded(name), remote_user="root")
        for name in ("vendor", "debian11", "debian12", "debian13")
    }


@pytest.fixture
def reply() -> Callable[..., Reply]:
    """A whole reply of the given records, each (key, value), behind the ones that no reply lacks."""

    def make(*records: tuple[str, str]) -> Reply:
        return Reply((("protocol", "1"), ("uid", "0"), *records, ("complete", "")), 0)

    return make
