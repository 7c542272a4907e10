#!/usr/bin/env python3
# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What the pull agent costs: disk and memory on a device, a run that finds nothing, and how long a signed revision takes from
published to applied, and drift until it is mended.

usage: pull.py LAB_PREFIX     (the lab must run, as shipped: lab/lab up --prefix LAB_PREFIX --device repository --device puller)

Each run applies harden.yml, whole, by the device's own Ansible. Afterwards the device follows a repository that has gone.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from lab.fleet import load
from lab.labs import Lab
from tests.bench.updates.bench import RUN, TURNS
from tests.pull_site import DEVICE, PullSite

_OURS = "du -sk /usr/local/lib/sallyport/updates /var/lib/sallyport-updates"
_PACKAGES = "dpkg-query -W -f '${Package} ${Installed-Size}\\n' git ansible-core"


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="sallyport-bench-") as name:
        site = PullSite(Lab(load(), sys.argv[1], print), Path(name))
        site.begin()
        done = site.told()
        if done.status:
            raise SystemExit(done.output[-3000:])
        first = _turn(site, "hardened")
        _footprint(site)
        _revisions(site, first)
    return 0


def _turn(site: PullSite, text: str = "") -> float:
    """Seconds from a revision's publication, or from drift, until the device has it."""
    if text:
        site.revision(text)
    begun = time.monotonic()
    said = site.turn_once()
    taken = time.monotonic() - begun
    if said["result"] != "ok":
        raise SystemExit(f"{said['result']}: {said['message']}\n{said['log']}")
    return taken


def _footprint(site: PullSite) -> None:
    ours, state = (int(line.split()[0]) for line in site.sh(DEVICE, _OURS).splitlines())
    packages = dict(line.split() for line in site.sh(DEVICE, _PACKAGES).splitlines())
    runs = [site.sh(DEVICE, f"python3 - <<'END'\n{RUN}\nEND").split() for _ in range(TURNS)]
    said = site.status(DEVICE)["message"]
    if said != "nothing to install":
        raise SystemExit(f"a run that was to find nothing: {said}")
    seconds, memory = min(float(run[0]) for run in runs), max(int(run[1]) for run in runs)
    brought = ", ".join(f"{name} {int(size) / 1024:.1f} MB" for name, size in packages.items())
    print(
        f"disk: ours {ours} kB, the site's repository and files {state / 1024:.1f} MB, {brought}; a run that finds nothing: "
        f"{seconds:.2f} s of processor, {memory / 1024:.0f} MB of memory in the largest program (best of {TURNS}; "
        f"load {os.getloadavg()[0]:.1f})",
        flush=True,
    )


def _revisions(site: PullSite, first: float) -> None:
    drift, same = [], []
    for number in range(TURNS):
        site.sh(DEVICE, "nft flush ruleset")
        drift.append(_turn(site))
        same.append(_turn(site, f"revision {number}"))
    print(
        f"published to applied: the first revision {first:.1f} s; one that changes nothing on the device, median "
        f"{statistics.median(same):.1f} s, worst {max(same):.1f} s; drift until mended, median {statistics.median(drift):.1f} s, worst "
        f"{max(drift):.1f} s, each from the timer on (load {os.getloadavg()[0]:.1f})",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
