"""A site with a server that playbooks/repository.yml makes a repository, and devices that update from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from lab.fleet import CHECKOUT, addresses
from lab.labs import Lab
from lab.podman import podman

TOOLS = Path(sys.executable).parent
DEVICES = ("debian11", "debian12", "debian13")
SERVER = "repository"
DEFAULTS = yaml.safe_load((CHECKOUT / "roles/update_agent/defaults/main.yml").read_text(encoding="utf-8"))
PUBLIC = "/srv/sallyport-repository/public"
GNUPG = "/srv/sallyport-repository/gnupg"


@dataclass(frozen=True)
class Run:
    """One ansible-playbook: what it printed, and each host's result of the action that was asked for."""

    status: int
    output: str
    of: dict[str, dict[str, Any]]


class Site:
    def __init__(self, lab: Lab, work: Path) -> None:
        self.lab = lab
        self.work = work
        self.runs = 0
        self.key = work / "update-repository.asc"

    # The controller

    def play(self, playbook: str, action: str, *arguments: str, **variables: Any) -> Run:
        self.runs += 1
        results = self.work / f"results-{self.runs}.jsonl"
        extra = self.work / f"variables-{self.runs}.json"
        extra.write_text(
            json.dumps({"update_repository_key_file": str(self.key), **variables}), encoding="utf-8"
        )
        done = subprocess.run(
            [str(TOOLS / "ansible-playbook"), "-i", "inventories/lab", playbook, "-e", f"@{extra}", *arguments],
            cwd=CHECKOUT, capture_output=True, text=True, timeout=600, check=False,
            env={
                **os.environ, "SALLYPORT_LAB": self.lab.prefix, "SALLYPORT_TEST_RESULTS": str(results),
                "ANSIBLE_CALLBACK_PLUGINS": str(CHECKOUT / "tests/lab/callbacks"),
                "ANSIBLE_CALLBACKS_ENABLED": "results", "ANSIBLE_NOCOLOR": "1", "ANSIBLE_PIPELINING": "1",
            },
        )  # fmt: skip
        lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
        found = [json.loads(line) for line in lines]
        of = {one["host"]: one["result"] for one in found if one["action"] == action}
        return Run(done.returncode, done.stdout + done.stderr, of)

    def agent(
        self, *arguments: str, per: Mapping[str, Mapping[str, Any]] | None = None, **variables: Any
    ) -> Run:
        """The role, with this site's repository and no wait for anything. ``per`` gives hosts values of their own."""
        values = {
            "mode": "automatic",
            "window": "any",
            "jitter": 0,
            # Where a test starts the runs itself, no timer comes between.
            "every": 86400,
            "health_seconds": 4,
            **self.source(),
            **variables,
        }
        extra: dict[str, Any] = {f"update_agent_{name}": value for name, value in values.items()}
        for host, own in (per or {}).items():
            for name, value in own.items():
                default = extra.get(f"update_agent_{name}", DEFAULTS[f"update_agent_{name}"])
                table = default if isinstance(default, _Table) else _Table(default)
                table.values[host] = value
                extra[f"update_agent_{name}"] = table
        for name, value in list(extra.items()):
            if isinstance(value, _Table):
                extra[f"table_{name}"] = value.values
                extra[f"other_{name}"] = value.default
                extra[name] = f"{{{{ table_{name}[inventory_hostname] | default(other_{name}) }}}}"
        return self.play("tests/lab/playbooks/updates.yml", "sallyport.iot.update_agent", *arguments, **extra)

    def source(self) -> dict[str, Any]:
        """Where its updates come from."""
        key = self.key.read_text(encoding="utf-8")
        return {"repository": {"uri": self.uri, "key": key, "exclusive": True}, "ring": "ring0"}

    def applied(self, **how: Any) -> Run:
        done = self.agent(**how)
        assert done.status == 0 and set(done.of) == set(DEVICES), done.output[-4000:]
        return done

    def promote(self, *arguments: str, **variables: Any) -> Run:
        given = {"ring": "ring0", "to": "ring1", "soak": 0, **variables}
        return self.play("playbooks/promote.yml", "sallyport.iot.update_promote", *arguments, **given)

    @property
    def uri(self) -> str:
        number = self.lab.fleet.devices[SERVER].number
        return f"http://{addresses('lan', self.lab.slot(), number)[0]}/"

    # The server

    def sh(self, host: str, text: str) -> str:
        """Run sh on a host, past its SSH; it must succeed."""
        done = subprocess.run(
            ["podman", "exec", self.lab.container(host), "/bin/sh", "-euc", text],
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{host}: {text}\n{done.stdout}{done.stderr}"
        return done.stdout

    def build(
        self, name: str, version: str, files: Mapping[str, str] = MappingProxyType({}), **scripts: str
    ) -> Path:
        """A package. ``scripts`` are maintainer scripts; ``unit`` is a service of its name, or of ``unit_name``;
        ``kilobytes`` its size; ``depends`` what it needs; ``files`` are programs.
        """
        root = self.work / f"{name}-{version}"
        control = root / "DEBIAN"
        control.mkdir(parents=True)
        unit, size = scripts.pop("unit", ""), int(scripts.pop("kilobytes", "0"))
        unit_name = scripts.pop("unit_name", name)
        depends = scripts.pop("depends", "")
        folder = root / "usr/share" / name
        folder.mkdir(parents=True)
        (folder / "version").write_text(f"{version}\n", encoding="utf-8")
        (folder / "data").write_bytes(os.urandom(size * 1024))
        if unit:
            place = root / "lib/systemd/system"
            place.mkdir(parents=True)
            (place / f"{unit_name}.service").write_text(unit, encoding="utf-8")
        for where, text in files.items():
            path = root / where
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            path.chmod(0o755)
        for script, text in scripts.items():
            path = control / script
            path.write_text(f"#!/bin/sh\nset -e\n{text}\n", encoding="utf-8")
            path.chmod(0o755)
        (control / "control").write_text(
            f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: Site <site@example.com>\n"
            f"Installed-Size: {size + 8}\n"
            + (f"Depends: {depends}\n" if depends else "")
            + f"Description: {name} of the site\n",
            encoding="utf-8",
        )
        path = self.work / f"{name}_{version}_all.deb"
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "--build", str(root), str(path)],
            check=True,
            capture_output=True,
        )
        return path

    def publish(self, *packages: Path, suite: str = "ring0") -> None:
        for path in packages:
            podman("cp", str(path), f"{self.lab.container(SERVER)}:/root/{path.name}")
        names = " ".join(f"/root/{path.name}" for path in packages)
        self.sh(SERVER, f"sallyport-repository publish {suite} {names}")

    def install(self, *packages: Path, devices: Iterable[str] = DEVICES) -> None:
        """As the factory did it."""

        def put(device: str) -> None:
            for path in packages:
                podman("cp", str(path), f"{self.lab.container(device)}:/root/{path.name}")
                self.sh(device, f"dpkg -i /root/{path.name}")

        self.all(put, devices)

    # The devices

    def all(self, work: Callable[[str], Any], devices: Iterable[str] = DEVICES) -> dict[str, Any]:
        names = list(devices)
        with ThreadPoolExecutor(max_workers=3) as pool:
            return dict(zip(names, pool.map(work, names), strict=True))

    def turn(self, *devices: str) -> dict[str, dict[str, Any]]:
        """One run of the agent, by its own unit, on these devices or on all; what each one wrote down."""
        return self.all(self._turn, devices or DEVICES)

    def _turn(self, device: str) -> dict[str, Any]:
        self.sh(device, "systemctl start sallyport-update.service || :")
        return self.status(device)

    def status(self, device: str) -> dict[str, Any]:
        text = self.sh(device, "cat /var/lib/sallyport-updates/status 2>/dev/null || :")
        found: dict[str, Any] = {}
        for line in text.splitlines():
            word, _, rest = line.partition(" ")
            found.setdefault(word, []).append(rest)
        found["result"], found["message"] = (found.get(key, [""])[0] for key in ("result", "message"))
        found["log"] = self.sh(
            device,
            "journalctl -q -n 12 -o cat -u sallyport-update; tail -n 15 /var/lib/sallyport-updates/*.log 2>/dev/null || :",
        )
        return found

    def version(self, device: str, name: str) -> str:
        return self.sh(device, f"dpkg-query -W -f '${{Version}}' {name} 2>/dev/null || :")

    def versions(self, name: str, devices: Iterable[str] = DEVICES) -> dict[str, str]:
        return self.all(lambda device: self.version(device, name), devices)

    def wait(self, what: Callable[[], bool], seconds: float, why: Callable[[], Any]) -> None:
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, why()
            time.sleep(0.5)


def shown(said: Any) -> str:
    """What a device wrote down, whole: pytest shortens what is no text."""
    return json.dumps(said, indent=1, default=str)


class _Table:
    """A variable that some hosts have a value of their own for."""

    def __init__(self, default: Any) -> None:
        self.default = default
        self.values: dict[str, Any] = {}
