"""A site whose device pulls: its repository with the collection, inventory and policy, on a server that the device asks."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import yaml

from lab.fleet import CHECKOUT, addresses
from lab.labs import Lab
from lab.podman import podman
from tests.updates_site import SERVER, Run, Site

DEVICE = "puller"
BARE = "/srv/site.git"
# What a site takes of a release into its own repository.
COLLECTION = ("filter_plugins", "meta", "playbooks", "plugins", "roles")


class PullSite(Site):
    def __init__(self, lab: Lab, work: Path) -> None:
        super().__init__(lab, work)
        self.tree, self.bare = work / "site", work / "site.git"
        for name in ("alice", "mallory", "deploy"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(work / name)]
            subprocess.run(command, check=True)

    def public(self, name: str) -> str:
        return (self.work / f"{name}.pub").read_text(encoding="utf-8").strip()

    def address(self, host: str) -> str:
        return addresses("lan", self.lab.slot(), self.lab.fleet.devices[host].number)[0]

    @property
    def controller(self) -> str:
        return addresses("lan", self.lab.slot(), 1)[0]

    # The repository

    def git(self, *words: str) -> str:
        environment = {
            **os.environ, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_AUTHOR_NAME": "site",
            "GIT_AUTHOR_EMAIL": "site@example.com", "GIT_COMMITTER_NAME": "site", "GIT_COMMITTER_EMAIL": "site@example.com",
        }  # fmt: skip
        done = subprocess.run(
            ["git", "-c", "gpg.format=ssh", *words], cwd=self.tree, env=environment, capture_output=True, text=True, check=False
        )  # fmt: skip
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout.strip()

    def begin(self) -> None:
        """The server's half, and the site's files: the collection, an inventory of two devices, the lab's policy."""
        self.tree.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")
        subprocess.run(["git", "init", "--quiet", "--bare", str(self.bare)], check=True)
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--", *COLLECTION, "galaxy.yml"], cwd=CHECKOUT, capture_output=True, text=True, check=True
        )  # fmt: skip
        home = self.tree / "collections/ansible_collections/sallyport/iot"
        for name in filter(None, listed.stdout.split("\0")):
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, home / name, follow_symlinks=False)
        shutil.copytree(CHECKOUT / "inventories/lab/policy", self.tree / "inventory/policy")
        lines = f'command="git-upload-pack {BARE}",restrict {self.public("deploy")}'
        self.sh(SERVER, f"umask 077; mkdir -p /root/.ssh; echo '{lines}' >>/root/.ssh/authorized_keys")
        # The device's own key, with which it proves to itself that one can still log in.
        own = "/root/.ssh/id_ed25519"
        self.sh(
            DEVICE,
            f"umask 077; mkdir -p /root/.ssh; [ -e {own} ] || ssh-keygen -q -t ed25519 -N '' -f {own}; cat {own}.pub >>/root/.ssh/authorized_keys",
        )
        keys = [
            (self.lab.state / "operator.pub").read_text(encoding="utf-8").strip(),
            f'from="127.0.0.1,::1" {self.sh(DEVICE, f"cat {own}.pub").strip()}',
        ]
        variables = {
            "ssh_authorized_keys": keys,
            "ansible_user": "root",
            "sallyport_controllers": [self.controller],
            "sallyport_loopback": "login",
        }
        hosts = {DEVICE: None, "another": {"ansible_host": "198.51.100.2"}}
        inventory = {"all": {"children": {"devices": {"hosts": hosts, "vars": variables}}}}
        (self.tree / "inventory/hosts.yml").write_text(yaml.safe_dump(inventory), encoding="utf-8")
        self.commit("as it began")

    def commit(self, text: str, by: str | None = "alice") -> str:
        self.git("add", "--all")
        sign = ["-c", f"user.signingKey={self.work / by}"] if by else []
        self.git(
            *sign, "commit", "--quiet", "--allow-empty", "-m", text, "--gpg-sign" if by else "--no-gpg-sign"
        )
        return self.git("rev-parse", "HEAD")

    def push(self, what: str = "HEAD") -> None:
        self.git("push", "--quiet", "--force", str(self.bare), f"{what}:refs/heads/main")
        self.sh(SERVER, f"rm -rf {BARE}")
        podman("cp", str(self.bare), f"{self.lab.container(SERVER)}:{BARE}")
        self.sh(SERVER, f"chown -R root: {BARE}")

    def revision(self, text: str, by: str | None = "alice") -> str:
        found = self.commit(text, by)
        self.push()
        return found

    # The device

    def told(self, *arguments: str, pull: dict[str, Any] | None = None, **variables: Any) -> Run:
        """The controller's one word to the device, before it is switched off."""
        server = self.address(SERVER)
        host_key = self.sh(SERVER, "cut -d ' ' -f 1,2 /etc/ssh/ssh_host_ed25519_key.pub").strip()
        source = {
            "url": f"ssh://root@{server}{BARE}",
            "signers": f"alice@example.com {self.public('alice')}",
            "ssh_key": (self.work / "deploy").read_text(encoding="utf-8"),
            "known_hosts": f"{server} {host_key}",
            **(pull or {}),
        }
        values = {
            "agent": "pull",
            "mode": "automatic",
            "pull": source,
            "window": "any",
            "jitter": 0,
            "every": 86400,
            "health_seconds": 4,
            **variables,
        }
        extra = {f"update_agent_{name}": value for name, value in values.items()}
        return self.play(
            "tests/lab/playbooks/updates.yml", "sallyport.iot.update_agent", "--limit", DEVICE, *arguments, **extra
        )  # fmt: skip

    def turn_once(self) -> dict[str, Any]:
        return self._turn(DEVICE)

    def generations(self) -> list[int]:
        return sorted(int(name) for name in self.sh(DEVICE, "ls /var/lib/sallyport/generation").split())

    def switch_off_the_controller(self) -> None:
        """Nothing of the device reaches it any more."""
        self.sh(DEVICE, f"ip route add blackhole {self.controller}")

    def switch_on_the_controller(self) -> None:
        self.sh(DEVICE, f"ip route del blackhole {self.controller}")

    def controller_reaches_the_device(self) -> bool:
        try:
            with socket.create_connection((self.address(DEVICE), 22), 2) as connection:
                return connection.recv(8).startswith(b"SSH-")
        except OSError:
            return False
