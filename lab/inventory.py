"""The lab as an Ansible inventory: written when the lab starts, printed by inventories/lab/hosts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lab.fleet import NETWORKS, Device, addresses


def write(state: Path, prefix: str, slot: int, devices: list[Device], control: Path) -> None:
    """Put inventory.json into the lab's state folder."""
    groups: dict[str, Any] = {
        "devices": {"children": []},
        "vantages": {"hosts": []},
        "unmanaged": {"children": ["update_repository"]},  # servers, which no playbook takes for a device
        "update_repository": {"hosts": []},
    }
    for device in devices:
        groups.setdefault(device.group, {"hosts": []})["hosts"].append(device.name)
        is_device = device.group not in ("vantages", "update_repository")
        if is_device and device.group not in groups["devices"]["children"]:
            groups["devices"]["children"].append(device.group)
    # Host keys of a lab are new at each start: they are kept in the lab's own file, and leave with it.
    options = [f"UserKnownHostsFile={state / 'known_hosts'}", "GlobalKnownHostsFile=/dev/null"]
    options += ["StrictHostKeyChecking=accept-new", "IdentitiesOnly=yes"]
    options += [
        "ServerAliveInterval=5",
        "ServerAliveCountMax=3",
    ]  # a device that lost power ends its master soon
    common = {
        "lab_prefix": prefix,
        "lab_controller": {network: list(addresses(network, slot, 1)) for network in NETWORKS},
        "ansible_ssh_private_key_file": str(state / "operator"),
        "ansible_control_path_dir": str(control),
        "ansible_ssh_common_args": " ".join(f"-o {option}" for option in options),
        "audit_rate": 20000,  # the network is this machine's own
        "audit_report_dir": str(state / "report"),
        "update_agent_mode": "manual",
        "update_agent_reason": "no network of the lab has a way out, so no source could ever answer",
        "ssh_authorized_keys": [(state / "operator.pub").read_text(encoding="utf-8").strip()],
    }
    hosts = {device.name: _host(device, slot) for device in devices}
    data = {"_meta": {"hostvars": hosts}, "all": {"vars": common, "children": sorted(groups)}, **groups}
    path = state / "inventory.json"
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    fresh.chmod(0o600)
    fresh.replace(path)


def _host(device: Device, slot: int) -> dict[str, Any]:
    where = {network: list(addresses(network, slot, device.number)) for network in device.networks}
    variables: dict[str, Any] = {
        "ansible_host": where[device.networks[0]][0],
        "ansible_user": device.login,
        "audit_addresses": where,
    }
    if device.group == "vantages":
        variables["audit_vantage"] = device.networks[0]
    else:
        variables["ansible_password"] = device.image.accounts[device.login]
    if device.group == "busybox":
        variables["ansible_ssh_transfer_method"] = "piped"  # it has neither sftp nor scp
        variables["update_agent_mode"] = "manual"
        variables["update_agent_reason"] = "its vendor replaces the firmware as a whole"
    return {**variables, **device.variables}
