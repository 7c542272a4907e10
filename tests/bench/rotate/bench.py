#!/usr/bin/env python3
# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""How many seconds a rotation takes: the whole playbook for the lab's fleet, and each device by itself.

usage: bench.py LAB_PREFIX [TURNS]     (the lab must run: lab/lab up --prefix LAB_PREFIX)

Every turn rotates to a key of its own and gives root of every device a password to replace. Afterwards the lab's operator key
works no more: reset the lab, or take it down.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[3]
TOOLS = Path(sys.executable).parent


def main() -> int:
    prefix = sys.argv[1]
    turns = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    inventory = CHECKOUT / ".sallyport" / "lab" / prefix / "inventory.json"
    listed = json.loads(inventory.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="sallyport-bench-") as name:
        folder = Path(name)
        script = folder / "inventory.sh"
        script.write_text(f"#!/bin/sh\ncat '{inventory}'\n")
        script.chmod(0o700)
        (folder / "vault").write_text("bench\n")
        key = listed["all"]["vars"]["ansible_ssh_private_key_file"]
        for turn in range(1, turns + 1):
            new = folder / f"key-{turn}"
            command = [
                str(TOOLS / "ansible-playbook"), "-i", str(script), "playbooks/rotate.yml", "-e", f"rotate_key={new}",
                "-e", f"ansible_ssh_private_key_file={key}", "-e", f"credentials_vault_directory={folder}/passwords",
                "--vault-password-file", str(folder / "vault"),
            ]  # fmt: skip
            began = time.monotonic()
            results = folder / f"results-{turn}"
            done = subprocess.run(
                command, cwd=CHECKOUT, capture_output=True, text=True, check=False,
                env={**os.environ, "ANSIBLE_CALLBACK_PLUGINS": str(CHECKOUT / "tests/lab/callbacks"),
                     "ANSIBLE_CALLBACKS_ENABLED": "results", "SALLYPORT_TEST_RESULTS": str(results)},
            )  # fmt: skip
            whole = time.monotonic() - began
            if done.returncode:
                print(done.stdout[-3000:] + done.stderr[-1000:])
                return 1
            lines = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
            each = {one["host"]: one["result"]["seconds"] for one in lines if "seconds" in one["result"]}
            shown = ", ".join(f"{host} {seconds} s" for host, seconds in sorted(each.items()))
            print(
                f"turn {turn}: {whole:5.1f} s for {len(each)} devices, Ansible's start included ({shown})",
                flush=True,
            )
            key = str(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
