"""The probe on the lab's devices, compared with what other tools say there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lab.fleet import CHECKOUT
from lab.labs import Lab
from lab.podman import podman

DEBIAN = ("debian11", "debian12", "debian13")
PLAY = """
- hosts: devices
  gather_facts: false
  tasks:
    - sallyport.iot.probe:
    - ansible.builtin.copy:
        content: "{{ ansible_facts.sallyport_device | to_json }}"
        dest: "{{ out }}/{{ inventory_hostname }}.json"
        mode: "0600"
      connection: local
      vars: {ansible_become: false}
"""


@pytest.fixture(scope="module")
def probed(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("probe")
    (out / "play.yml").write_text(PLAY)
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    done = subprocess.run(
        [program, "-i", "inventories/lab", "-e", f"out={out}", str(out / "play.yml")],
        cwd=CHECKOUT,
        env={**os.environ, "SALLYPORT_LAB": lab.prefix, "ANSIBLE_PYTHON_INTERPRETER": sys.executable},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {path.stem: json.loads(path.read_text()) for path in out.glob("*.json")}


def test_every_device_answers(probed: dict[str, Any]) -> None:
    assert {name: device["init"] for name, device in probed.items()} == {
        "debian11": "systemd",
        "debian12": "systemd",
        "debian13": "systemd",
        "vendor": "busybox",
    }


@pytest.mark.parametrize("name", DEBIAN)
def test_listeners_are_those_that_ss_sees(lab: Lab, probed: dict[str, Any], name: str) -> None:
    listed = podman("exec", lab.container(name), "ss", "-tulnpH")
    seen = set()
    for line in listed.splitlines():
        protocol, _, _, _, local = line.split()[:5]
        pids = [int(pid) for pid in re.findall(r"pid=(\d+)", line)]
        host, _, port = local.rpartition(":")
        family = "ipv6" if "[" in host or host == "*" else "ipv4"
        seen.add((protocol, family, int(port), tuple(pids)))
    found = {(s["protocol"], s["family"], s["port"]): s["pid"] for s in probed[name]["listening"]}
    assert set(found) == {entry[:3] for entry in seen}
    for protocol, family, port, pids in seen:
        assert found[(protocol, family, port)] in pids, (protocol, port)


@pytest.mark.parametrize("name", DEBIAN)
def test_host_keys_are_those_that_the_device_presents(probed: dict[str, Any], name: str) -> None:
    address = probed[name]["connection"]["server"]
    scan = subprocess.run(
        ["ssh-keyscan", "-T", "10", address], capture_output=True, text=True, timeout=60, check=True
    )
    presented = {" ".join(line.split()[1:3]) for line in scan.stdout.splitlines() if not line.startswith("#")}
    assert {key["public"] for key in probed[name]["ssh"]["host_keys"]} == presented


def test_the_gateway_presents_the_key_that_was_read_from_its_file(probed: dict[str, Any]) -> None:
    address = probed["vendor"]["connection"]["server"]
    scan = subprocess.run(
        ["ssh-keyscan", "-T", "10", "-t", "ed25519", address],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    (key,) = probed["vendor"]["ssh"]["host_keys"]
    assert key["public"] in scan.stdout


def test_no_hash_of_a_password_is_in_the_facts(lab: Lab, probed: dict[str, Any]) -> None:
    for name, device in probed.items():
        shadow = podman("exec", lab.container(name), "cat", "/etc/shadow")
        text = json.dumps(device)
        hashes = [line.split(":")[1] for line in shadow.splitlines() if len(line.split(":")[1]) > 12]
        assert hashes, f"{name} has no password, so this proves nothing"
        assert not [one for one in hashes if one in text or one.split("$")[-1] in text], name


@pytest.mark.parametrize("name", (*DEBIAN, "vendor"))
def test_probing_leaves_the_firewall_as_it_was(lab: Lab, probed: dict[str, Any], name: str) -> None:
    listings = ["nft list ruleset", "iptables-save", "ip6tables-save", "ipset list -n"]
    text = podman(
        "exec", lab.container(name), "sh", "-c", "; ".join(f"{one} 2>/dev/null || :" for one in listings)
    )
    assert probed[name]["kernel"]
    assert "sallyport_probe" not in text and "spp_" not in text
