# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The update agents. Each is one folder: ``__init__.py`` with an :class:`~.base.Agent`, and ``agent.sh``, its half on the device.

A new agent is one more folder, and one more name in ``AGENTS``; in ``AUTOMATIC`` where a device may get it without being told.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents.aws_greengrass import AwsGreengrass
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents.azure_iot_edge import AzureIotEdge
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents.base import (
    Agent,
    NoAgent,
    Unsupported,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents.mender import Mender
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents.pull import Pull
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents.swupdate import Swupdate
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents.unattended_upgrades import (
    UnattendedUpgrades,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.settings import Settings

AUTOMATIC: tuple[Agent, ...] = (UnattendedUpgrades(),)
AGENTS: tuple[Agent, ...] = (*AUTOMATIC, AwsGreengrass(), AzureIotEdge(), Mender(), Pull(), Swupdate())
NONE = "none"


def choose(wanted: str, device: Mapping[str, Any], settings: Settings) -> Agent | None:
    """The agent for a device; None where it is taken out and could have none anyway.

    Raises:
        NoAgent: no agent suits the device.
        Unsupported: the wanted one does not.
    """
    reasons = []
    for agent in AGENTS if wanted != "auto" else AUTOMATIC:
        if wanted not in ("auto", agent.name):
            continue
        why = agent.unsuited(device)
        if not why:
            return agent
        reasons.append(f"{agent.name}: {why}")
    if settings.mode == "manual" and wanted in ("auto", *(agent.name for agent in AUTOMATIC)):
        return None
    raise (NoAgent if wanted == "auto" else Unsupported)(
        f"no update agent suits this device ({'; '.join(reasons)}). If it is updated in another way, say so: "
        "update_agent_mode: manual, with update_agent_reason"
    )
