"""The replies of the lab's devices, recorded over SSH."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply, parse

# The nonce that the recordings were framed with.
NONCE = "feed" * 6


@cache
def recorded(name: str) -> Reply:
    text = (Path(__file__).parent / "replies" / f"{name}.txt").read_bytes().decode("utf-8", "surrogateescape")
    parsed = parse(text, NONCE)
    assert parsed is not None, f"the recording of {name} is cut"
    return Reply(tuple(parsed[0]), parsed[1])
