# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""``sallyport_device`` for action plugins: what this run knows already, or one exchange with the device."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible_collections.sallyport.iot.plugins.plugin_utils.device import probe
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Exchange, ExchangeError

FACT = "sallyport_device"


class NotRoot(AnsibleError):
    """The login works, but has no power to change the device. The message says what to set."""


def recall(task_vars: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the probe of this very run found, or None.

    A fact cache may hold what another run found: that is out of date.
    """
    known = (task_vars.get("ansible_facts") or {}).get(FACT)
    if isinstance(known, dict) and known.get("run") == run_id() and known.get("protocol") == probe.PROTOCOL:
        return known
    return None


def ask(action: Any, exchange: Exchange | None = None) -> dict[str, Any]:
    """Ask the device of a running action plugin's task.

    Raises:
        AnsibleConnectionFailure: the device cannot be reached, or refuses the login.
        ExchangeError: it was reached but its answer is not whole.
    """
    exchange = exchange or Exchange(action)
    reply = exchange.ask(probe.program())
    become = action._connection.become
    try:
        device = probe.device(
            reply,
            remote_user=_remote_user(action, exchange.transport),
            become_method=str(become.name) if become else "",
        )
    except probe.ProbeError as error:
        raise ExchangeError(str(error)) from error
    device["run"] = run_id()
    return device


def require_root(device: Mapping[str, Any]) -> None:
    """Without root a device can be looked at in part, but not changed.

    Raises:
        NotRoot: the login has not become root.
    """
    if device["effective_uid"] != 0:
        user = device["login_user"] or "the login user"
        raise NotRoot(
            f"{user} is not root on this device, and root was not asked for. Set ansible_become: true for this host, "
            f"and ansible_become_method and ansible_become_password where the device needs them."
        )


def run_id() -> str:
    """The same for every task of one ansible-playbook, whose child each worker is, and for no other.

    The number alone comes round again; with the time that the process started it does not.
    """
    parent = os.getppid()
    try:
        started = Path(f"/proc/{parent}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return str(parent)
    return f"{parent}-{started.rpartition(')')[2].split()[19]}"


def _remote_user(action: Any, transport: str) -> str:
    """The account that the controller logs in with; "" where only the device can know."""
    if transport == "local":
        return ""
    try:
        return str(action._connection.get_option("remote_user") or "")
    except (KeyError, AttributeError):
        return str(action._play_context.remote_user or "")
