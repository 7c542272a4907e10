#!/usr/bin/env python3
# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What the agents for whole images cost: disk and memory on a device, a converged run of the role, and how long an image or artefact
takes from deployed to running and confirmed.

usage: images.py LAB_PREFIX swupdate|mender     (the lab must run, as shipped: lab/lab up --prefix LAB_PREFIX --device slots12)
"""

from __future__ import annotations

import abc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
sys.path.insert(1, str(Path(__file__).resolve().parents[3] / ".collections"))

from lab.fleet import load
from lab.labs import Lab
from lab.podman import podman
from tests.bench.updates.bench import TURNS, converged, good
from tests.images_site import SOFTWARE, Images
from tests.mender_site import DEVICE, Artefacts
from tests.updates_site import Run

_EVERY = 10
# One run, from outside, since the device has no Python: its processor time, all its programs together, and the memory of the largest.
_RUN = """
import resource, subprocess, sys
subprocess.run(["nsenter", "-t", sys.argv[1], "-m", "-u", "-i", "-n", "-p", "/bin/sh", "/usr/local/lib/sallyport/updates/run.sh", "update"],
               stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)
"""


class Bench(abc.ABC):
    """One agent, on one device. A subclass says how it is set up, and what it is offered."""

    site: Images
    packages: tuple[str, ...]

    @abc.abstractmethod
    def role(self, **variables: Any) -> Run:
        """The role with this agent."""

    @abc.abstractmethod
    def offer(self, version: str) -> None:
        """The server offers that version."""

    @abc.abstractmethod
    def told(self) -> bool:
        """Whether the server has heard that the last one is good."""


class Swupdate(Bench):
    packages = ("swupdate", "libubootenv-tool", "curl", "jq")

    def __init__(self, lab: Lab, work: Path) -> None:
        self.site = Images(lab, work)
        self.site.serve((DEVICE,))

    def role(self, **variables: Any) -> Run:
        return self.site.swupdate(health_seconds=2, **variables)

    def offer(self, version: str) -> None:
        self.site.offer(DEVICE, version, self.site.image(version))

    def told(self) -> bool:
        return self.site.closed(DEVICE) == "success"


class Mender(Bench):
    packages = ("mender-client", "libubootenv-tool", "curl", "jq")

    def __init__(self, lab: Lab, work: Path) -> None:
        self.site: Artefacts = Artefacts(lab, work)
        self.site.sh(DEVICE, f"echo artifact_name={SOFTWARE}-1.0 >/system/etc/artifact_info")
        self.site.serve()
        self.site.accept(self.site.serial())
        self.deployment = ""

    def role(self, **variables: Any) -> Run:
        return self.site.menders(**variables)

    def offer(self, version: str) -> None:
        self.deployment = self.site.deploy(version, self.site.artefact(version))

    def told(self) -> bool:
        return self.site.over(self.deployment)


AGENTS = {"swupdate": Swupdate, "mender": Mender}


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="sallyport-bench-") as name:
        bench = AGENTS[sys.argv[2]](Lab(load(), sys.argv[1], print), Path(name))
        bench.site.local_packages(DEVICE)
        try:
            good(bench.role(reboot="never"))
            _footprint(bench)
            converged(bench.site, DEVICE, lambda: bench.role(reboot="never"))
            _arrival(bench)
        finally:
            bench.site.stop()
    return 0


def _measured(bench: Bench) -> tuple[float, float]:
    """Seconds of processor, and megabytes."""
    process = podman("inspect", "-f", "{{.State.Pid}}", bench.site.lab.container(DEVICE)).strip()
    said = subprocess.run([sys.executable, "-c", _RUN, process], capture_output=True, text=True, check=True)
    seconds, kilobytes = said.stdout.split()
    return float(seconds), int(kilobytes) / 1024


def _footprint(bench: Bench) -> None:
    site = bench.site
    site.turn(DEVICE)
    idle = [_measured(bench) for _ in range(TURNS)]
    ours = site.sh(
        DEVICE, "du -sk /usr/local/lib/sallyport/updates /var/lib/sallyport-updates | cut -f 1"
    ).split()
    sizes = {
        name: int(site.sh(DEVICE, f"dpkg-query -W -f '${{Installed-Size}}' {name}")) / 1024
        for name in bench.packages
    }
    bench.offer("2.0")
    busy = _measured(bench)
    site.cut(DEVICE)
    site.turn(DEVICE)
    print(
        f"disk: ours {ours[0]} kB, its record {ours[1]} kB, "
        + ", ".join(f"{name} {size:.1f} MB" for name, size in sizes.items())
        + f"; a run that finds nothing: {min(one[0] for one in idle):.2f} s of processor, {max(one[1] for one in idle):.0f} MB in the "
        f"largest program; one that installs: {busy[0]:.2f} s, {busy[1]:.0f} MB (load {os.getloadavg()[0]:.1f})",
        flush=True,
    )


def _arrival(bench: Bench) -> None:
    site = bench.site
    good(bench.role(every=_EVERY))
    taken = []
    for number in range(3, 3 + TURNS):
        began = time.monotonic()
        bench.offer(f"{number}.0")
        site.wait(bench.told, 300, lambda: site.status(DEVICE))
        if site.version_of(DEVICE) != f"{number}.0":
            raise SystemExit(f"{number}.0 has not arrived: {site.status(DEVICE)}")
        taken.append(time.monotonic() - began)
    print(
        f"deployed to running and confirmed, on a device that looks every {_EVERY} s, with its start: best {min(taken):.1f} s, median "
        f"{statistics.median(taken):.1f} s, worst {max(taken):.1f} s (load {os.getloadavg()[0]:.1f})",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
