"""The inventories that come with the project: their policies are sound for every device they name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.fleet import resolve_host

from lab.fleet import CHECKOUT, NETWORKS, addresses, load

EXAMPLE = CHECKOUT / "inventories" / "example"


def members(groups: dict[str, Any], name: str) -> set[str]:
    """The hosts of a group and of the groups below it."""
    group = groups.get(name, {})
    return set(group.get("hosts", ())).union(*(members(groups, child) for child in group.get("children", ())))


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    command = [str(Path(sys.executable).with_name("ansible-inventory")), "-i", str(EXAMPLE), "--list"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert "WARNING" not in done.stderr, done.stderr
    groups = json.loads(done.stdout)
    hostvars = groups.pop("_meta")["hostvars"]
    names = {name: members(groups, name) for name in groups}
    for host, variables in hostvars.items():
        variables["group_names"] = sorted(name for name in names if name != "all" and host in names[name])
    return {"hostvars": hostvars, "groups": {name: sorted(hosts) for name, hosts in names.items()}}


@pytest.mark.parametrize("host", ["line1", "line2", "cell1"])
def test_the_example_policy_is_sound_for_each_of_its_devices(example: dict[str, Any], host: str) -> None:
    device = {"connection": {"client": "198.18.10.9", "client_port": 50000, "server_port": 22}}
    resolved = resolve_host(example, host, str(EXAMPLE / "policy"), device)
    assert [str(finding) for finding in resolved.findings] == []


def test_the_examples_group_and_host_layers_reach_only_their_own(example: dict[str, Any]) -> None:
    rules = {}
    for host in ("line1", "line2", "cell1"):
        resolved = resolve_host(example, host, str(EXAMPLE / "policy"), None)
        assert resolved.policy is not None
        rules[host] = [rule.name for rule in resolved.policy.inbound]
    assert rules["cell1"] == ["operators"]
    assert rules["line2"] == ["operators", "wall panels"]
    assert rules["line1"] == ["operators", "wall panels", "acceptance tests"]


@pytest.mark.parametrize("slot", [0, 7])
@pytest.mark.parametrize("network", NETWORKS)
def test_the_labs_policy_admits_its_controller_on_lan_and_refuses_it_on_wan(slot: int, network: str) -> None:
    device = load().devices["debian12"]
    controller, own = addresses(network, slot, 1)[0], addresses(network, slot, device.number)[0]
    names = {"all": [device.name], "devices": [device.name], "debian": [device.name]}
    variables = {"ansible_host": own, "group_names": ["debian", "devices"]}
    found = {
        "connection": {"client": controller, "client_port": 50000, "server": own, "server_port": 22},
        "interfaces": [
            {
                "name": f"eth{index}",
                "kind": "physical",
                "addresses": [f"{address}/28" for address in addresses(each, slot, device.number)[:1]],
            }
            for index, each in enumerate(NETWORKS)
        ],
    }
    tasks = {"hostvars": {device.name: variables}, "groups": names}
    folder = str(CHECKOUT / "inventories" / "lab" / "policy")
    errors = resolve_host(tasks, device.name, folder, found).errors
    assert bool(errors) == (network == "wan"), errors
