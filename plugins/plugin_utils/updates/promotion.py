# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Which versions may move from one ring to the next: what the devices of the ring say decides. Pure.

The repository is the memory: what it offers in the two rings, and what each device wrote down, is all there is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

State = Literal["move", "wait", "stop"]


@dataclass(frozen=True)
class Rules:
    """When a version has proved itself.

    Attributes:
        soak: seconds that it must have been healthy on a device.
        threshold: percent of the ring's devices that may fail, or not answer.
        minimum: devices on which it must have proved itself.
    """

    soak: int
    threshold: int
    minimum: int


@dataclass(frozen=True)
class Verdict:
    name: str
    version: str
    state: State
    why: str

    @property
    def exact(self) -> str:
        return f"{self.name}={self.version}"


def read_listing(text: str) -> set[tuple[str, str]]:
    """``NAME VERSION`` lines as the repository's own program prints them: of one name there may be several, one for each
    architecture.
    """
    lines = (line.partition(" ") for line in text.splitlines())
    return {(name, version) for name, _, version in lines if version}


def decide(
    ring: str,
    offered: Collection[tuple[str, str]],
    beyond: Collection[tuple[str, str]],
    records: Mapping[str, Mapping[str, Any] | None],
    rules: Rules,
) -> list[Verdict]:
    """A verdict for each version that ``ring`` offers and the next ring does not.

    Args:
        offered, beyond: names and versions in this ring and in the next.
        records: what each device said, None for one that did not answer; devices of other rings do not count.
    """
    silent = sorted(host for host, record in records.items() if record is None)
    devices = {host: one for host, one in records.items() if one is not None and one["ring"] == ring}
    return [
        _judge(name, version, devices, silent, rules) for name, version in sorted(set(offered) - set(beyond))
    ]


def _judge(
    name: str,
    version: str,
    devices: Mapping[str, Mapping[str, Any]],
    silent: list[str],
    rules: Rules,
) -> Verdict:
    standings: dict[str, list[str]] = {"bad": [], "good": [], "young": [], "": []}
    for host, record in sorted(devices.items()):
        standings[_standing(name, version, record, rules.soak)].append(host)
    bad, good, young = standings["bad"], standings["good"], standings["young"]
    concerned = len(bad) + len(good) + len(young)
    if bad and len(bad) * 100 > rules.threshold * concerned:
        return Verdict(
            name,
            version,
            "stop",
            f"{len(bad)} of {concerned} devices failed ({', '.join(bad)}), and {rules.threshold} % may",
        )
    doubtful = len(bad) + len(silent)
    if silent and doubtful * 100 > rules.threshold * (concerned + len(silent)):
        return Verdict(
            name, version, "wait", f"no answer from {', '.join(silent)}: they may be what it harmed"
        )
    if young:
        return Verdict(name, version, "wait", f"not proved for {rules.soak} s yet on {', '.join(young)}")
    if len(good) < rules.minimum:
        return Verdict(
            name, version, "wait", f"proved on {len(good)} devices, and {rules.minimum} are asked for"
        )
    return Verdict(name, version, "move", f"healthy on {len(good)} of {concerned} devices")


def _standing(name: str, version: str, record: Mapping[str, Any], soak: int) -> str:
    """``bad``, ``good``, ``young`` (not yet, or not for long enough) or "" where the device has no such package."""
    if any(one["name"] == name and one["version"] == version for one in record["held"]):
        return "bad"
    for one in record["installed"]:
        if one["name"] == name and one["version"] == version:
            if record["result"] in ("failed", "unhealthy", "rolled_back"):
                return "bad"
            # A later run must have looked at it: a device that died an hour after the update never says so itself.
            return "good" if record["ran"] - one["since"] >= soak else "young"
    return "young" if any(one["name"] == name for one in record["pending"]) else ""
