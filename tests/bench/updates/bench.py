#!/usr/bin/env python3
# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What the update agent costs: disk and memory on a device, a converged run of the role, and how long a package takes from
published to installed.

usage: bench.py LAB_PREFIX     (the lab must run, as shipped:
    lab/lab up --prefix LAB_PREFIX --device repository --device debian11 --device debian12 --device debian13)

A converged run is the difference of a pair, one right after the other: a play without tasks, and the role. Afterwards the devices
follow the lab's repository.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from lab.fleet import load
from lab.labs import Lab
from tests.updates_site import DEVICES, SERVER, Run, Site

TURNS = 5
_EVERY = 10
# The processor time of one run, all its programs together, and the memory of the largest of them.
RUN = """
import resource, subprocess
subprocess.run(["/bin/sh", "/usr/local/lib/sallyport/updates/run.sh", "update"], stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)
"""
_OURS = "du -sk /usr/local/lib/sallyport/updates /var/lib/sallyport-updates"
_PACKAGES = "dpkg-query -W -f '${Package} ${Installed-Size}\\n' unattended-upgrades python3-apt"


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="sallyport-bench-") as name:
        site = Site(Lab(load(), sys.argv[1], print), Path(name))
        good(site.play("playbooks/repository.yml", "ansible.builtin.command"))
        site.install(site.build("panel", "1.0"))
        site.publish(site.work / "panel_1.0_all.deb")
        good(site.agent())
        site.turn()
        _footprint(site)
        converged(site, "devices", site.agent)
        _arrival(site)
    return 0


def good(done: Run) -> Run:
    if done.status:
        raise SystemExit(done.output[-3000:])
    return done


def _footprint(site: Site) -> None:
    for device in DEVICES:
        ours, record = (int(line.split()[0]) for line in site.sh(device, _OURS).splitlines())
        packages = dict(line.split() for line in site.sh(device, _PACKAGES).splitlines())
        runs = [site.sh(device, f"python3 - <<'END'\n{RUN}\nEND").split() for _ in range(TURNS)]
        seconds, memory = min(float(run[0]) for run in runs), max(int(run[1]) for run in runs)
        brought = ", ".join(f"{name} {int(size) / 1024:.1f} MB" for name, size in packages.items())
        print(
            f"{device:10} disk: ours {ours} kB, its record {record} kB, {brought}; a run that finds nothing: {seconds:.2f} s of "
            f"processor, {memory / 1024:.0f} MB of memory at most (best of {TURNS}; load {os.getloadavg()[0]:.1f})",
            flush=True,
        )


def converged(site: Site, hosts: str, role: Callable[[], Run]) -> None:
    """What a run of the role costs that finds everything as it is wanted."""
    empty = site.work / "empty.yml"
    empty.write_text(json.dumps([{"hosts": hosts, "gather_facts": False, "tasks": []}]), encoding="utf-8")
    above = []
    for _ in range(TURNS):
        began = time.monotonic()
        good(site.play(str(empty), ""))
        start = time.monotonic() - began
        began = time.monotonic()
        done = good(role())
        above.append(time.monotonic() - began - start)
        for device, result in done.of.items():
            if result["changed"] or result["exchanges"] != 1:
                raise SystemExit(f"{device} is not converged: {result['msg']}")
    print(
        f"converged run, devices: {len(done.of)}: best {min(above):.2f} s, median {statistics.median(above):.2f} s above Ansible's "
        f"start, one exchange each and the probe (load {os.getloadavg()[0]:.1f})",
        flush=True,
    )


def _arrival(site: Site) -> None:
    good(site.agent(every=_EVERY))
    taken = []
    for number in range(2, 2 + TURNS):
        package = site.build("panel", f"{number}.0")
        began = time.monotonic()
        site.publish(package)
        wanted = dict.fromkeys(DEVICES, f"{number}.0")
        site.wait(lambda wanted=wanted: site.versions("panel") == wanted, 300, lambda: site.all(site.status))  # type: ignore[misc]
        taken.append(time.monotonic() - began)
    print(
        f"published on {SERVER} to installed on {len(DEVICES)} devices that look every {_EVERY} s: best {min(taken):.1f} s, median "
        f"{statistics.median(taken):.1f} s, worst {max(taken):.1f} s (load {os.getloadavg()[0]:.1f})",
        flush=True,
    )
    good(site.agent())


if __name__ == "__main__":
    sys.exit(main())
