#!/usr/bin/env python3
# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a converged run of the roles ssh, legacy_services and credentials costs on one lab device, above Ansible's start.

usage: bench.py LAB_PREFIX [DEVICE ...]     (the lab must run: lab/lab up --prefix LAB_PREFIX; default: debian12 vendor)

Each turn is a pair, one right after the other: a play without tasks, and the three roles over a connection of their own. The
figure is the difference of a pair; the machine's load is shown beside it. Afterwards the device is hardened.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[3]
TOOLS = Path(sys.executable).parent
TURNS = 7
_ROLES = ("ssh", "legacy_services", "credentials")


class Bench:
    """One device, and a folder for what the runs leave."""

    def __init__(self, prefix: str, device: str, folder: Path) -> None:
        self.device = device
        self.folder = folder
        self.runs = 0
        self.inventory = folder / "inventory.sh"
        listing = CHECKOUT / ".sallyport" / "lab" / prefix / "inventory.json"
        self.inventory.write_text(f"#!/bin/sh\ncat '{listing}'\n", encoding="utf-8")
        self.inventory.chmod(0o700)

    def play(self, roles: tuple[str, ...]) -> tuple[float, float, list[dict[str, Any]]]:
        """Seconds of the whole ansible-playbook, of the controller's processor, and what its tasks said. Each has a
        connection of its own.
        """
        self.runs += 1
        book = self.folder / "play.yml"
        play = {
            "hosts": self.device,
            "gather_facts": False,
            "roles": [f"sallyport.iot.{name}" for name in roles],
        }
        book.write_text(json.dumps([play]), encoding="utf-8")
        results = self.folder / f"results-{self.runs}"
        control = self.folder / f"c{self.runs}"
        command = [
            str(TOOLS / "ansible-playbook"), "-i", str(self.inventory), str(book),
            "-e", f"credentials_record_directory={self.folder}/records",
        ]  # fmt: skip
        began, before = time.monotonic(), _processor()
        done = subprocess.run(
            command, cwd=CHECKOUT, capture_output=True, text=True, check=False,
            env={**os.environ, "ANSIBLE_CALLBACK_PLUGINS": str(CHECKOUT / "tests/lab/callbacks"),
                 "ANSIBLE_CALLBACKS_ENABLED": "results", "SALLYPORT_TEST_RESULTS": str(results),
                 "ANSIBLE_SSH_CONTROL_PATH_DIR": str(control)},
        )  # fmt: skip
        spent, worked = time.monotonic() - began, _processor() - before
        if done.returncode:
            raise SystemExit(done.stdout[-3000:] + done.stderr[-1000:])
        lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
        return spent, worked, [json.loads(line) for line in lines]


def _processor() -> float:
    """Processor time of all children so far: what a busy machine distorts least."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> int:
    prefix, devices = sys.argv[1], sys.argv[2:] or ["debian12", "vendor"]
    for device in devices:
        with tempfile.TemporaryDirectory(prefix="sallyport-bench-") as name:
            bench = Bench(prefix, device, Path(name))
            bench.play(_ROLES)
            above: list[float] = []
            work: list[float] = []
            for _ in range(TURNS):
                start, idle, _ = bench.play(())
                whole, busy, results = bench.play(_ROLES)
                changed = [one["action"] for one in results if one["result"].get("changed")]
                if changed:
                    raise SystemExit(f"{device} is not converged: {', '.join(changed)} changed something")
                above.append(whole - start)
                work.append(busy - idle)
            asked = sum(int(one["result"].get("exchanges", 0)) for one in results)
            print(
                f"{device:10} {len(_ROLES)} roles converged: best {min(above):.2f} s, median {statistics.median(above):.2f} s "
                f"above Ansible's start of {start:.2f} s; of the controller's processor {min(work):.2f} s, median "
                f"{statistics.median(work):.2f} s ({asked} exchanges and the probe; load {os.getloadavg()[0]:.1f})",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
