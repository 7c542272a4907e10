# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What an update agent is: the interface between what the operator wants and one way of updating devices."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.settings import Settings

FOLDER = "/usr/local/lib/sallyport/updates"
STATE = "/var/lib/sallyport-updates"
SETTINGS, AGENT = f"{FOLDER}/settings", f"{FOLDER}/agent.sh"


class Unsupported(Exception):
    """A device cannot have what is asked for. The message says why and what to do."""


class NoAgent(Unsupported):
    """Nobody asked for a certain agent, and none suits the device."""


@dataclass(frozen=True)
class Found:
    """What the device said to the one question that the role asks.

    Attributes:
        texts: text files, by path.
        digests: SHA-256 of the role's own files, by path.
        modes: ``mode owner group`` of the same, as ``ls -l`` prints them.
        links: targets of the role's own links.
        answers: everything else, by name.
    """

    texts: Mapping[str, str] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    modes: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    answers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """What an agent adds to the files and commands that all agents share.

    Attributes:
        files: entries as the access roles' driver takes them.
        shell: sh variables for ``agent.sh``.
        check, activate, verify, revert: sh commands of the commit.
        units: services that run as long as the device is as wanted.
        notes: for the result.
        warnings: for the operator's eye.
        slow: seconds that activation may take beyond a second or two.
    """

    files: tuple[Mapping[str, Any], ...] = ()
    shell: Mapping[str, str] = field(default_factory=dict)
    check: tuple[str, ...] = ()
    activate: tuple[str, ...] = ()
    verify: tuple[str, ...] = ()
    revert: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    slow: int = 0


class Agent(abc.ABC):
    """One way of updating. ``agent.sh`` in the same folder defines for ``run.sh``:

    ``agent_repair``            finish what an interrupted run left; 1 where that is impossible
    ``agent_refresh``           ask the sources, verify what they say; 1 where one did not answer or was not believed
    ``agent_pending``           print ``NAME INSTALLED OFFERED security|update|other``
    ``agent_needs``             print ``PATH KB`` for what stands in ``ready``
    ``agent_fetch``             fetch and verify it; what is not whole leaves ``ready``; keep what to go back to
    ``agent_install``           install what stands in ``ready``, and nothing else
    ``agent_version NAME``      print what is installed
    ``agent_back NAME VERSION`` go back to it
    ``agent_restart_services``  so that nothing runs what is no longer there
    ``agent_wants_reboot``      whether the last update needs one
    ``agent_mends``             whether what is pending may be what a sick device needs; no, where it is not defined
    ``agent_holds``             whether what was fetched is still there in the next run; no, where it is not defined

    and where what it installs counts only once the device has started with it:

    ``agent_tries``             true; ``agent_install`` then only makes it what starts next, ``agent_version`` is what runs
    ``agent_keep``              it has started, and is healthy: make it stay
    ``agent_leave``             what is to be done at the latest before that start; nothing, where it is not defined
    """

    name: str
    folder: Path
    own: tuple[str, ...] = ()
    """Paths that no other agent has: they go when another one takes its place."""

    def program(self) -> str:
        """The agent's half on the device."""
        return (self.folder / "agent.sh").read_text(encoding="utf-8")

    @abc.abstractmethod
    def unsuited(self, device: Mapping[str, Any]) -> str:
        """Why a device cannot have this agent; "" where it can."""

    @abc.abstractmethod
    def question(self) -> str:
        """sh that says what ``plan`` wants to know, read-only and quick."""

    @abc.abstractmethod
    def plan(self, settings: Settings, device: Mapping[str, Any], found: Found) -> Part:
        """Files and commands for this device. Raises Unsupported."""
