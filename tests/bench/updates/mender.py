#!/usr/bin/env python3
# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What Mender's agent costs: disk and memory on a device, a converged run of the role, and how long an artefact takes from deployed to
running and confirmed.

usage: mender.py LAB_PREFIX     (the lab must run, as shipped: lab/lab up --prefix LAB_PREFIX --device slots12)
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
sys.path.insert(1, str(Path(__file__).resolve().parents[3] / ".collections"))

from lab.fleet import load
from lab.labs import Lab
from lab.podman import podman
from tests.images_site import SOFTWARE
from tests.mender_site import DEVICE, Artefacts
from tests.updates_site import Run

TURNS = 5
_EVERY = 10
# One run, from outside, since the device has no Python: its processor time, all its programs together, and the memory of the largest.
_RUN = """
import resource, subprocess, sys
subprocess.run(["nsenter", "-t", sys.argv[1], "-m", "-u", "-i", "-n", "-p", "/bin/sh", "/usr/local/lib/sallyport/updates/run.sh", "update"],
               stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)
"""


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="sallyport-bench-") as name:
        site = Artefacts(Lab(load(), sys.argv[1], print), Path(name))
        site.local_packages(DEVICE)
        site.sh(DEVICE, f"echo artifact_name={SOFTWARE}-1.0 >/system/etc/artifact_info")
        site.serve()
        site.accept(site.serial())
        try:
            _good(site.menders(reboot="never"))
            _footprint(site)
            _converged(site)
            _arrival(site)
        finally:
            site.stop()
    return 0


def _good(done: Run) -> Run:
    if done.status:
        raise SystemExit(done.output[-3000:])
    return done


def _measured(site: Artefacts) -> tuple[float, float]:
    """Seconds of processor, and megabytes."""
    process = podman("inspect", "-f", "{{.State.Pid}}", site.lab.container(DEVICE)).strip()
    said = subprocess.run([sys.executable, "-c", _RUN, process], capture_output=True, text=True, check=True)
    seconds, kilobytes = said.stdout.split()
    return float(seconds), int(kilobytes) / 1024


def _footprint(site: Artefacts) -> None:
    site.run()
    idle = [_measured(site) for _ in range(TURNS)]
    ours = site.sh(
        DEVICE, "du -sk /usr/local/lib/sallyport/updates /var/lib/sallyport-updates | cut -f 1"
    ).split()
    client = int(site.sh(DEVICE, "dpkg-query -W -f '${Installed-Size}' mender-client")) / 1024
    site.deploy("2.0", site.artefact("2.0"))
    busy = _measured(site)
    site.cut(DEVICE)
    site.run()
    print(
        f"disk: ours {ours[0]} kB, its record {ours[1]} kB, mender-client {client:.1f} MB; a run that finds nothing: "
        f"{min(one[0] for one in idle):.2f} s of processor, {max(one[1] for one in idle):.0f} MB in the largest program; one that "
        f"installs: {busy[0]:.2f} s, {busy[1]:.0f} MB (load {os.getloadavg()[0]:.1f})",
        flush=True,
    )


def _converged(site: Artefacts) -> None:
    empty = site.work / "empty.yml"
    empty.write_text(json.dumps([{"hosts": DEVICE, "gather_facts": False, "tasks": []}]), encoding="utf-8")
    above = []
    for _ in range(TURNS):
        began = time.monotonic()
        _good(site.play(str(empty), ""))
        start = time.monotonic() - began
        began = time.monotonic()
        done = _good(site.menders(reboot="never"))
        above.append(time.monotonic() - began - start)
        if done.of[DEVICE]["changed"] or done.of[DEVICE]["exchanges"] != 1:
            raise SystemExit(f"{DEVICE} is not converged: {done.of[DEVICE]['msg']}")
    print(
        f"converged run: best {min(above):.2f} s, median {statistics.median(above):.2f} s above Ansible's start, one exchange and the "
        f"probe (load {os.getloadavg()[0]:.1f})",
        flush=True,
    )


def _arrival(site: Artefacts) -> None:
    _good(site.menders(every=_EVERY))
    taken = []
    for number in range(3, 3 + TURNS):
        began = time.monotonic()
        deployment = site.deploy(f"{number}.0", site.artefact(f"{number}.0"))
        site.wait(lambda deployment=deployment: site.over(deployment), 300, lambda: site.status(DEVICE))  # type: ignore[misc]
        if site.state()[1] != f"{number}.0":
            raise SystemExit(f"{number}.0 has not arrived: {site.status(DEVICE)}")
        taken.append(time.monotonic() - began)
    print(
        f"deployed to running and confirmed, on a device that looks every {_EVERY} s, with its start: best {min(taken):.1f} s, median "
        f"{statistics.median(taken):.1f} s, worst {max(taken):.1f} s (load {os.getloadavg()[0]:.1f})",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
