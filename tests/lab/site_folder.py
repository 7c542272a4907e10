"""A site's own folder, apart from the checkout: inventory and policy as an operator keeps them, and runs against it."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.fleet import CHECKOUT
from lab.labs import Lab
from lab.podman import podman

TOOLS = Path(sys.executable).parent
EMPTY_RULES = re.compile(r"^#|^\*|^COMMIT$|^:[A-Z]+ ACCEPT$")
KEPT = ("etc", "root", "home", "usr/local", "usr/share", "www", "var/lib/sallyport", "var/spool/cron")


@dataclass(frozen=True)
class Run:
    """One ansible-playbook."""

    status: int
    output: str

    @property
    def summary(self) -> str:
        """What the summary said, "" when it said nothing."""
        return self.output.partition("WHAT WENT WRONG")[2]

    def said_of(self, host: str) -> list[str]:
        """The lines of the summary that begin with this host."""
        return [
            line for line in self.summary.splitlines() if re.match(rf"(.*, )?{re.escape(host)}[,( ]", line)
        ]

    @property
    def again(self) -> list[str]:
        """The command that the summary gives."""
        return shlex.split(re.search(r"^Then again.*?: (ansible-playbook .*)$", self.summary, re.M)[1])  # type: ignore[index]

    def recap(self, host: str) -> dict[str, int]:
        """The counts of this host; {} when it was no part of the run."""
        found = re.search(rf"^{re.escape(host)} +: (.*)$", self.output.partition("PLAY RECAP")[2], re.M)
        return {key: int(count) for key, count in re.findall(r"(\w+)=(\d+)", found[1])} if found else {}


def play(*arguments: str, cwd: Path = CHECKOUT, tools: Path = TOOLS, **environment: str) -> Run:
    """``ansible-playbook`` with these arguments, as a person would start it."""
    done = subprocess.run(
        [str(tools / "ansible-playbook"), *arguments],
        cwd=cwd,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "COLUMNS": "500", **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    return Run(done.returncode, done.stdout + done.stderr)


def differences(before: dict[str, str], after: dict[str, str]) -> dict[str, tuple[str, str]]:
    """What one snapshot has and the other has not, or has otherwise."""
    names = sorted({*before, *after})
    return {
        name: (before.get(name, "absent"), after.get(name, "absent"))
        for name in names
        if before.get(name) != after.get(name)
    }


class Site:
    """Hosts and policy of a running lab, in a folder of their own. ``hosts`` may be changed; ``write`` makes it so."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.folder = folder
        shutil.copytree(CHECKOUT / "inventories/lab/policy", folder / "policy")
        listed = json.loads((lab.state / "inventory.json").read_text(encoding="utf-8"))
        self.vars: dict[str, Any] = listed["all"]["vars"]
        self.hosts: dict[str, dict[str, Any]] = listed["_meta"]["hostvars"]
        self.as_shipped = copy.deepcopy(self.hosts)
        self.groups = {name: listed[name]["hosts"] for name in listed if listed.get(name, {}).get("hosts")}
        self.write()

    def write(self) -> None:
        groups = {
            name: {"hosts": {host: self.hosts[host] for host in self.groups[name]}} for name in self.groups
        }
        vantages = {name: groups.pop(name) for name in ("vantages",) if name in groups}
        tree = {"all": {"vars": self.vars, "children": {"devices": {"children": groups}, **vantages}}}
        (self.folder / "hosts.yml").write_text(json.dumps(tree, indent=1), encoding="utf-8")

    def address(self, host: str) -> str:
        return str(self.hosts[host]["ansible_host"])

    def sh(self, host: str, text: str) -> str:
        """Run sh on a device, past its SSH."""
        return podman("exec", self.lab.container(host), "/bin/sh", "-c", text, check=False)

    def snapshot(self, host: str) -> dict[str, str]:
        """Files with modes, owners and content, the rules and the listening sockets; read from outside the device."""
        pid = podman("inspect", "--format", "{{.State.Pid}}", self.lab.container(host)).strip()
        root = Path("/proc") / pid / "root"
        found = {}
        for top in KEPT:
            for folder, _, names in os.walk(root / top):
                for path in (Path(folder) / name for name in names):
                    about = path.lstat()
                    content = os.readlink(path) if path.is_symlink() else ""
                    if stat.S_ISREG(about.st_mode):
                        content = hashlib.sha256(path.read_bytes()).hexdigest()
                    owner = f"{about.st_mode:o} {about.st_uid}:{about.st_gid}"
                    found[str(path.relative_to(root))] = f"{owner} {content}"
        enter = ["nsenter", "-t", pid, "-n"]
        # By the device's own tool: nft 1.0.6 was seen to crash on a table that 1.1.3 had loaded.
        found["nft"] = self.sh(host, "if command -v nft >/dev/null; then nft -s list ruleset; fi")
        for name, command in {
            "iptables": ["iptables-legacy-save"],
            "ip6tables": ["ip6tables-legacy-save"],
            "listening": ["ss", "-Hlntu"],
        }.items():
            done = subprocess.run([*enter, *command], capture_output=True, text=True, timeout=30, check=True)
            # A table that is there and empty, as listing or probing makes it, says nothing.
            lines = (re.sub(r" \[\d+:\d+\]$", "", line) for line in done.stdout.splitlines())
            found[name] = "\n".join(sorted(line for line in lines if not EMPTY_RULES.search(line)))
        return found
