# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Real commits on the lab's devices, and what a plain ssh and a look past ssh say afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lab.labs import Lab
from lab.podman import way_in
from tests.faults.chamber import wait_until

CHECKOUT = Path(__file__).resolve().parents[2]
_PLUGINS = Path(__file__).with_name("plugins")

# Everything that a lock-out could touch. Sallyport's own hook and state may stay after a first contact.
_SNAPSHOT = r"""
PATH=$PATH:/usr/sbin:/sbin:/usr/bin:/bin
ours() { grep -v -e sallyport -e '^/etc/\.updated' -e '^/etc/ld.so.cache' -e '^/etc/systemd/system '; }
find /etc -xdev ! -type l -exec stat -c '%n %a %u %g %F' {} + | sort | ours
find /etc -xdev -type f ! -name inittab -exec md5sum {} + | while read -r sum name; do echo "$name $sum"; done | sort | ours
find /etc -xdev -type l | sort | while IFS= read -r f; do echo "$f -> $(readlink "$f")"; done | ours
[ ! -f /etc/inittab ] || ours </etc/inittab
echo '--- listening'
if command -v ss >/dev/null; then ss -Hltnu | while read -r a b c d e f; do echo "$a $e"; done | sort -u
else netstat -ltnu | while read -r a b c d e; do case $a in tcp*|udp*) echo "$a $d" ;; esac; done | sort -u; fi
echo '--- rules'
if command -v nft >/dev/null; then nft -s list ruleset; fi
for tool in iptables ip6tables; do # a table that was only looked at, and accepts everything, is no rule
  if command -v $tool-save >/dev/null; then
    $tool-save | grep -v -e '^#' -e '^\*' -e '^COMMIT' -e '^:[A-Z]* ACCEPT' || :; fi
done
if command -v ipset >/dev/null; then ipset list -n; fi
echo '--- accounts'
cat /etc/passwd /etc/shadow
echo '--- units'
if command -v systemctl >/dev/null; then systemctl list-unit-files --no-legend --no-pager | grep -v -e sallyport -e transient; fi
"""


class Devices:
    """The devices of a running lab, as an operator's controller uses them."""

    def __init__(self, lab: Lab, ansible: Path | None = None) -> None:
        self.lab = lab
        self.inventory: dict[str, Any] = json.loads((lab.state / "inventory.json").read_text())
        self.playbook_command = ansible or Path(sys.executable).with_name("ansible-playbook")

    def variables(self, host: str) -> dict[str, Any]:
        return {**self.inventory["all"]["vars"], **self.inventory["_meta"]["hostvars"][host]}

    def inside(self, host: str, script: str, check: bool = True) -> str:
        """Run a script on the device past its ssh, as root."""
        done = subprocess.run(
            [*way_in(self.lab.container(host)), "/bin/sh"],
            input=script, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        if check and done.returncode:
            raise RuntimeError(f"{host}: {script}: status {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def snapshot(self, host: str) -> list[str]:
        return self.inside(host, _SNAPSHOT).splitlines()

    def ssh(
        self, host: str, command: str, *options: str, seconds: int = 10, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[str]:
        """A plain ssh, sharing nothing with Ansible's connections."""
        known = self.variables(host)
        words = ["ssh", *options, "-F", "none", "-S", "none", "-o", f"ConnectTimeout={seconds}"]
        words += [
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "LogLevel=ERROR",
        ]
        if not any("IdentityFile" in option for option in options):
            words += ["-o", "PubkeyAuthentication=no"]
        words += [f"{known['ansible_user']}@{known['ansible_host']}", command]
        environment = {**os.environ, "SSHPASS": str(known.get("ansible_password", ""))}
        return subprocess.run(
            ["sshpass", "-e", *words], input=stdin.decode("utf-8", "surrogateescape"), capture_output=True, check=False, env=environment,
            timeout=seconds + 30, encoding="utf-8", errors="surrogateescape",
        )  # fmt: skip

    def answers(self, host: str, *options: str) -> bool:
        """Does the operator still get in, with root's rights?"""
        known = self.variables(host)
        command = "id -u"
        if known.get("ansible_become"):
            password = known.get("ansible_become_password", "")
            command = (
                f"printf '%s\\n' {shlex.quote(password)} | sudo -S -p '' id -u"
                if password
                else "sudo -n id -u"
            )
        return self.ssh(host, command, *options).stdout.strip() == "0"

    def play(
        self, host: str, tasks: list[dict[str, Any]], *arguments: str, variables: dict[str, Any] | None = None,
        environment: dict[str, str] | None = None, within: Sequence[str] = (),
    ) -> tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]]:  # fmt: skip
        """Run tasks in a play of its own, under the command ``within``; what Ansible printed, and each task's result."""
        with tempfile.TemporaryDirectory(prefix="sallyport-play-") as folder:
            steps = []
            for number, task in enumerate(tasks):
                steps.append({**task, "register": f"result_{number}", "ignore_errors": True})
            outcome = Path(folder, "results.json")
            results = ", ".join(f"result_{number}" for number in range(len(tasks)))
            steps.append({
                "trial_results": {"content": "{{ [" + results + "] | to_json }}", "dest": str(outcome)},
                "delegate_to": "localhost", "connection": "local", "become": False, "check_mode": False,
                "vars": {"ansible_become": False, "ansible_connection": "local"},
            })  # fmt: skip
            play = [{"hosts": host, "gather_facts": False, "vars": variables or {}, "tasks": steps}]
            Path(folder, "play.yml").write_text(json.dumps(play))
            Path(folder, "inventory.json").write_text(json.dumps(_static(self.inventory)))
            command = [
                *within,
                str(self.playbook_command),
                "-i",
                f"{folder}/inventory.json",
                f"{folder}/play.yml",
                *arguments,
            ]
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=300, cwd=CHECKOUT,
                env={**os.environ, "ANSIBLE_ACTION_PLUGINS": str(_PLUGINS), **(environment or {})},
            )  # fmt: skip
            if not outcome.exists():
                raise RuntimeError(f"no results: {done.stdout}{done.stderr}")
            return done, json.loads(outcome.read_text())

    def commit(
        self, host: str, *arguments: str, variables: dict[str, Any] | None = None,
        environment: dict[str, str] | None = None, within: Sequence[str] = (), **commit: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """One commit; its result."""
        commit.setdefault("name", "trial")
        _, results = self.play(
            host, [{"sallyport.iot.commit": commit}], *arguments, variables=variables, environment=environment, within=within,
        )  # fmt: skip
        return dict(results[0])

    def rollback(
        self, host: str, variables: dict[str, Any] | None = None, **arguments: Any
    ) -> dict[str, Any]:
        _, results = self.play(host, [{"sallyport.iot.rollback": arguments}], variables=variables)
        return dict(results[0])

    @contextlib.contextmanager
    def as_it_began(self, host: str) -> Iterator[None]:
        """Judge the end of a test here: a device in another state would spoil, and hide, the next lock-out."""
        assert self.answers(host)  # dropbear makes a host key when it is first asked for one
        before = self.snapshot(host)
        yield
        # A daemon that is starting again may need a moment before it listens.
        wait_until(lambda: self.snapshot(host) == before, 10)
        different = {*before} ^ {*self.snapshot(host)}
        assert not different, f"{host} is not as it was: {different}"
        assert self.answers(host), f"the operator cannot log in to {host} any more"
        left = self.inside(host, "ls -d /var/lib/sallyport/armed /var/lib/sallyport/stage.* 2>/dev/null || :")
        assert not left, f"{host}: {left}"


def _static(inventory: dict[str, Any]) -> dict[str, Any]:
    """The lab's inventory in the form of a static file."""
    hosts = inventory["_meta"]["hostvars"]
    children = {
        name: {
            "hosts": dict.fromkeys(group.get("hosts", [])),
            "children": dict.fromkeys(group.get("children", [])),
        }
        for name, group in inventory.items()
        if name not in ("_meta", "all")
    }
    return {"all": {"hosts": hosts, "vars": inventory["all"]["vars"], "children": children}}
