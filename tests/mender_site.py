"""The site of tests/images_site.py, whose devices are led by Mender's client, and the server that offers them artefacts."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.labs import Lab
from lab.podman import podman
from tests import swu
from tests.images_site import GOOD, SOFTWARE, WHERE, Images
from tests.mender_artifact import artefact, signer
from tests.updates_site import Run

PORT = 8444
FOLDER = "/srv/mender"
DEVICE = "slots12"


class Artefacts(Images):
    """One device with two slots, since Debian 13 has no client of Mender's."""

    def __init__(self, lab: Lab, work: Path) -> None:
        super().__init__(lab, work)
        self.key, self.foreign = signer(), signer()  # type: ignore[assignment]
        self.deployments = 0

    def source(self) -> dict[str, Any]:
        return {"agent": "mender", "reboot": "window"}

    # The server

    def serve(self, devices: tuple[str, ...] = (DEVICE,)) -> None:
        del devices
        self.put(self.program("mender.py"), FOLDER)
        command = f"echo $$ >{FOLDER}/pid; exec python3 {FOLDER}/mender.py {FOLDER} {PORT}"
        podman("exec", "--detach", self.lab.container(WHERE), "sh", "-c", command)
        self.wait(lambda: self.sh(WHERE, f"ss -Hltn sport = :{PORT}") != "", 30, lambda: "the server does not listen")  # fmt: skip

    def stop(self) -> None:
        self.sh(WHERE, f"kill $(cat {FOLDER}/pid)")

    def accept(self, *identities: Mapping[str, str]) -> None:
        self.put({"accepted.json": json.dumps(identities)}, FOLDER)

    def artefact(self, version: str, panel: str = GOOD, **how: Any) -> bytes:
        """Software for a slot, signed if nothing else is said; ``says`` is the version that it calls itself once it runs."""
        private = how.pop("private", self.key[1])
        says = how.pop("says", version)
        files = {
            "etc/artifact_info": f"artifact_name={SOFTWARE}-{says}\n", "etc/sw-versions": f"{SOFTWARE} {says}\n", "bin/panel": panel,
        }  # fmt: skip
        return artefact(f"{SOFTWARE}-{version}", {"system.tar.gz": swu.tree(files)}, private, **how)

    def folder(self, version: str, text: str) -> bytes:
        """An application for the module ``directory`` that Debian's client comes with: it counts at once."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            member = tarfile.TarInfo("text")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
        payload = {"update.tar": out.getvalue(), "dest_dir": "/srv/application\n"}
        return artefact(f"{SOFTWARE}-{version}", payload, self.key[1], kind="directory")

    def deploy(
        self, version: str, data: bytes, promised: str = "", *, aborted: bool = False, **how: Any
    ) -> str:
        """One more deployment; ``promised`` is what the server calls it. Its number comes back."""
        self.deployments += 1
        number = f"deployment-{self.deployments}"
        deployment = {
            "id": number, "name": f"{SOFTWARE}-{promised or version}", "file": f"{number}.mender", "types": ["panel"],
            "aborted": aborted, **how,
        }  # fmt: skip
        self.put({f"{number}.mender": data, "deployment.json": json.dumps(deployment)}, FOLDER)
        return number

    def requests(self) -> list[dict[str, Any]]:
        return [
            json.loads(line)
            for line in self.sh(WHERE, f"cat {FOLDER}/log.jsonl 2>/dev/null || :").splitlines()
        ]

    def heard(self, number: str) -> tuple[list[str], str]:
        """What the device has told of a deployment: its states, first to last, and why it failed."""
        mine = [one for one in self.requests() if f"/{number}/" in one["path"] and one["method"] == "PUT"]
        bodies = [json.loads(one["body"]) for one in mine]
        states = [body["status"] for body in bodies if "status" in body]
        return states, " ".join(line["message"] for body in bodies for line in body.get("messages", ()))

    def over(self, number: str) -> bool:
        """Whether it is done with that deployment."""
        states, _ = self.heard(number)
        return bool(states) and states[-1] in ("success", "failure", "already-installed")

    def fetched(self) -> int:
        """How often an artefact has been fetched whole."""
        return sum(one["path"].startswith("/files/") and not one["range"] for one in self.requests())

    # The device

    def menders(self, *arguments: str, options: Mapping[str, Any] | None = None, **variables: Any) -> Run:
        """The role on the device, with Mender's client."""
        variables = {"health_seconds": 2, **variables}
        mender = {
            "url": f"https://{self.address}:{PORT}", "ca": self.ca, "signers": self.key[0], "device_type": "panel",
            "name": SOFTWARE, "slots": {"a": "/slots/a", "b": "/slots/b"}, "running": "cat /run/slot", **(options or {}),
        }  # fmt: skip
        given = {key: value for key, value in mender.items() if value is not None}
        return self.agent(*arguments, "--limit", DEVICE, per={DEVICE: {"mender": given}}, **variables)

    def serial(self) -> dict[str, str]:
        """Who the device says that it is."""
        return {"serial": self.sh(DEVICE, "cat /sys/class/net/eth0/address").strip()}

    def state(self) -> tuple[str, str, str, list[str], str]:
        """Which slot runs, what it says it is, which start this is, what has been written into slots, and the bootloader's word."""
        text = self.sh(
            DEVICE,
            f"cat /run/slot; sed -n 's/^artifact_name={SOFTWARE}-//p' /etc/mender/artifact_info; cut -d ' ' -f 22 /proc/1/stat; "
            "cat /data/artefacts 2>/dev/null | tr '\\n' ' '; echo; fw_printenv",
        )
        slot, version, start, written, env = text.split("\n", 4)
        return slot, version, start, written.split(), env

    def run(self) -> dict[str, Any]:
        """One run that ends without a start; systemd does not count how many there have been."""
        self.sh(
            DEVICE,
            "systemctl reset-failed sallyport-update.service 2>/dev/null || :; systemctl start sallyport-update.service || :",
        )
        return self.status(DEVICE)

    def restarted(self) -> dict[str, Any]:
        """One run that ends with a start of the device; what it wrote down before."""
        self.sh(DEVICE, "systemctl reset-failed sallyport-update.service 2>/dev/null || :")
        before = self.start(DEVICE)
        # The start can come before podman has heard that this has ended.
        command = [
            "podman",
            "exec",
            self.lab.container(DEVICE),
            "systemctl",
            "start",
            "--no-block",
            "sallyport-update.service",
        ]
        subprocess.run(command, capture_output=True, timeout=60, check=False)
        self.settled(DEVICE, before)
        return self.status(DEVICE)
