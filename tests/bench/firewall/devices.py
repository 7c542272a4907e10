#!/usr/bin/env python3
# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a long blocklist costs on the way to real devices, in a lab.

usage: devices.py LAB_PREFIX [--listed 100000] [--hosts 100] [--device NAME ...]

(the lab must run: lab/lab up --prefix LAB_PREFIX)

For each device: the first run (checked, compiled, sent, loaded, confirmed), a converged one, and one with another
rule. What the firewall task took is told by the clock of the playbook, what went to the device by the device's own
count of received bytes. Then the converged task for many hosts, with the list and without it; all of them are the same
device, each with a process and a connection of its own. The cache begins empty and lies in a folder that goes at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[3]
_TOLD = re.compile(r"BENCH (\{.*?\}) HCNEB")


@dataclass
class Run:
    """What one run of the playbook said, host by host, and what it cost this machine."""

    said: dict[str, dict[str, Any]]
    wall: float
    processor: float


class Site:
    def __init__(self, prefix: str, work: Path) -> None:
        self.work = work
        self.known = json.loads((CHECKOUT / ".sallyport/lab" / prefix / "inventory.json").read_text())
        self.policy = work / "policy"
        self.policy.mkdir()
        self.prefix = prefix

    def write(self, listed: int, rule: str = "") -> None:
        """The lab's policy and a list of so many networks, none of which holds an address of the lab."""
        policy = (CHECKOUT / "inventories/lab/policy/fleet.yml").read_text(encoding="utf-8")
        if rule:
            policy = policy.replace("inbound:\n", f"inbound:\n  - {rule}\n", 1)
        if listed:
            policy += "\nblocklists: [{name: long, file: long.netset}]\n"
            (self.policy / "long.netset").write_text("\n".join(networks(listed)) + "\n", encoding="utf-8")
        (self.policy / "fleet.yml").write_text(policy, encoding="utf-8")

    def play(self, hosts: dict[str, str], forks: int = 4) -> Run:
        """The firewall task on ``hosts``: a name in this run, and the lab's name for the device."""
        inventory = {
            "_meta": {
                # The same address many times over: without a path of its own a host would share another one's
                # connection. And a server lets only so many begin at a time (dropbear 5), whose hosts come again.
                "hostvars": {
                    name: self.known["_meta"]["hostvars"][real]
                    | {"ansible_control_path": f"%(directory)s/{name}", "ansible_ssh_retries": 5}
                    for name, real in hosts.items()
                }
            },
            "all": {"hosts": list(hosts)},
        }
        script = self.work / "inventory.sh"
        script.write_text(f"#!/bin/sh\ncat <<'EOF'\n{json.dumps(inventory)}\nEOF\n", encoding="utf-8")
        script.chmod(0o700)
        now = "{{ lookup('pipe', 'date +%s.%N') }}"
        told = (
            "BENCH {{ {'host': inventory_hostname, 'seconds': (after | float) - (before | float), 'state': done.state,"
            " 'exchanges': done.exchanges, 'backend': done.backend, 'files': done.files | map(attribute='dest') | list}"
            " | to_json }} HCNEB"
        )
        play = [
            {
                "hosts": "all",
                "gather_facts": False,
                "strategy": "free",
                "tasks": [
                    {"sallyport.iot.probe": {}},
                    {"ansible.builtin.set_fact": {"before": now}},
                    {"sallyport.iot.firewall": {"policy_dir": str(self.policy)}, "register": "done"},
                    {"ansible.builtin.set_fact": {"after": now}},
                    {"ansible.builtin.debug": {"msg": told}},
                ],
            }
        ]
        (self.work / "play.yml").write_text(json.dumps(play), encoding="utf-8")
        start, paid = time.monotonic(), _children()
        done = subprocess.run(
            [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(script), "-f", str(forks),
             str(self.work / "play.yml")],
            cwd=CHECKOUT, capture_output=True, text=True, check=False,
            env={**os.environ, "XDG_CACHE_HOME": str(self.work / "cache"), "ANSIBLE_HOST_KEY_CHECKING": "False",
                 "ANSIBLE_NOCOLOR": "1"},
        )  # fmt: skip
        wall, processor = time.monotonic() - start, _children() - paid
        # However the callback folds its lines.
        text = " ".join(done.stdout.replace('\\"', '"').split())
        said = {one["host"]: one for one in map(json.loads, _TOLD.findall(text))}
        if set(said) != set(hosts):
            sys.exit(f"no answer of every host:\n{done.stdout[-3000:]}{done.stderr[-2000:]}")
        return Run(said, wall, processor)

    def received(self, device: str) -> int:
        """Bytes that came in by the device's interface to the controller."""
        done = subprocess.run(
            ["podman", "exec", f"{self.prefix}-{device}", "cat", "/sys/class/net/eth0/statistics/rx_bytes"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return int(done.stdout)


def networks(count: int) -> list[str]:
    """Disjoint IPv4 networks, spread over 11.0.0.0 to 190.255.255.255."""
    chance = random.Random(5)
    step = (180 << 24) // count
    texts = []
    for place in range(count):
        length = chance.choice((24, 28, 30, 32, 32, 32)) if step > 512 else 32
        first = (11 << 24) + place * step
        first = (first + 255) // 256 * 256 if step > 512 else first
        texts.append(f"{first >> 24}.{first >> 16 & 255}.{first >> 8 & 255}.{first & 255}/{length}")
    return texts


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("prefix")
    parser.add_argument("--listed", type=int, default=100_000)
    parser.add_argument("--hosts", type=int, default=100, help="0 leaves the fleet out")
    parser.add_argument("--device", action="append", help="default: debian12 and vendor")
    options = parser.parse_args()
    devices = options.device or ["debian12", "vendor"]
    print(
        f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors; {options.listed:,} blocked prefixes"
    )
    print(
        "| device | backend | run | state | exchanges | received | firewall task | files |\n|---|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        site = Site(options.prefix, Path(folder))
        for device in devices:
            for what, rule in (
                ("first", ""),
                ("converged", ""),
                ("converged", ""),
                ("a rule more", "{name: more, allow: [mqtt], from: [mgmt]}"),
            ):
                site.write(options.listed, rule)
                before = site.received(device)
                one = site.play({device: device}).said[device]
                taken = site.received(device) - before
                print(
                    f"| {device} | {one['backend']} | {what} | {one['state']} | {one['exchanges']} | {taken / 1000:,.0f} kB |"
                    f" {one['seconds']:.2f} s | {len(one['files'])} |", flush=True,
                )  # fmt: skip
        if options.hosts:
            device = devices[-1]
            for listed in (options.listed, 0):
                site.write(listed)
                site.play({device: device})
                alone = site.play({device: device})
                many = site.play({f"gw{number}": device for number in range(options.hosts)})
                states = {one["state"] for one in many.said.values()}
                print(
                    f"{listed:,} prefixes: {options.hosts} hosts {'/'.join(states)} in {many.wall:.1f} s, processor time "
                    f"{many.processor:.1f} s ({(many.processor - alone.processor) / (options.hosts - 1):.3f} s for each host more); "
                    f"one host {alone.wall:.1f} s, {alone.processor:.1f} s", flush=True,
                )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
