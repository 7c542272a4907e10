#!/usr/bin/env python3
# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""An ssh that misbehaves: Ansible's ``ssh_executable``, told by SALLYPORT_TRIAL_SSH what to do with which exchange.

``{"match": TEXT, "do": WHAT, "folder": FOLDER}``: the first exchange whose payload contains TEXT

- ``cut``: loses the end of its answer, from the closing frame on, and says that all went well;
- ``hold``: is sent only when FOLDER/release is there;

and with ``"do": "share"`` every exchange goes over one connection, whatever the arguments ask for.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path


def main(arguments: list[str]) -> int:
    told = json.loads(os.environ["SALLYPORT_TRIAL_SSH"])
    folder = Path(told["folder"])
    if told["do"] == "share":
        alone = arguments.index("-S") if "-S" in arguments else None
        if alone is not None:
            del arguments[alone : alone + 2]
        ours = ["-o", "ControlMaster=auto", "-o", "ControlPersist=30s", "-S", str(folder / "%C")]
        return subprocess.call(["ssh", *ours, *arguments])
    sent = sys.stdin.buffer.read()
    chosen = told["match"].encode() in sent
    if chosen:
        try:
            (folder / "done").touch(exist_ok=False)
        except FileExistsError:
            chosen = False
    if chosen and told["do"] == "hold":
        (folder / "held").touch()
        while not (folder / "release").exists():
            time.sleep(0.05)
    done = subprocess.run(["ssh", *arguments], input=sent, stdout=subprocess.PIPE, check=False)
    answer, status = done.stdout, done.returncode
    if chosen and told["do"] == "cut":
        answer, status = answer[: answer.rindex(b"-end ")], 0
    sys.stdout.buffer.write(answer)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
