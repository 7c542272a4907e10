"""A site whose devices are updated as a whole, and the server that offers them images: both in one lab."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.audit.updates import describe, judge_updates

from lab.fleet import addresses
from lab.labs import Lab
from lab.podman import podman
from tests import swu
from tests.certificates import authority, issued, pair
from tests.updates_site import Run, Site, shown

WHERE = "vantage-lan"
PORT = 8443
FOLDER = "/srv/hawkbit"
SOFTWARE = "panel-os"
GOOD = "#!/bin/sh\nexec sleep infinity\n"
DEAD = "#!/bin/sh\nexit 1\n"


class Images(Site):
    """Devices with two slots; each has a target of its own name, with a token of its own."""

    def __init__(self, lab: Lab, work: Path) -> None:
        super().__init__(lab, work)
        self.address = addresses("lan", lab.slot(), lab.fleet.devices[WHERE].number)[0]
        self.ca, ca_key = authority("The site's own authority")
        self.server = issued(self.address, self.ca, ca_key)
        self.signer, self.stranger = pair("The one who signs"), pair("Somebody else")
        self.actions = 0
        self.last: dict[str, int] = {}
        self.tokens: dict[str, str] = {}

    # The server

    def put(self, files: Mapping[str, bytes | str], folder: str = FOLDER, host: str = WHERE) -> None:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for name, content in files.items():
                data = content.encode() if isinstance(content, str) else content
                member = tarfile.TarInfo(f"{folder.lstrip('/')}/{name}")
                member.size, member.mode, member.mtime = len(data), 0o600, int(time.time())
                archive.addfile(member, io.BytesIO(data))
        podman("cp", "-", f"{self.lab.container(host)}:/", stdin=stream.getvalue())

    def program(self, name: str) -> dict[str, bytes | str]:
        """A server of the lab's, with all that it needs."""
        folder = Path(__file__).parent / "lab"
        programs = {one: (folder / one).read_text(encoding="utf-8") for one in (name, "served.py")}
        return {"server.pem": "".join(self.server), **programs}

    def serve(self, devices: tuple[str, ...]) -> None:
        self.tokens = {device: hashlib.sha256(device.encode()).hexdigest()[:32] for device in devices}
        self.put(self.program("hawkbit.py"))
        self.admit()
        command = f"echo $$ >{FOLDER}/pid; exec python3 {FOLDER}/hawkbit.py {FOLDER} {PORT}"
        podman("exec", "--detach", self.lab.container(WHERE), "sh", "-c", command)
        self.wait(
            lambda: self.sh(WHERE, f"ss -Hltn sport = :{PORT}") != "",
            30,
            lambda: "the server does not listen",
        )

    def admit(self) -> None:
        """Every device's token counts."""
        self.put({"tokens.json": json.dumps(self.tokens)})

    def slow(self, wanted: bool) -> None:
        """Whether downloads stop half way, and wait."""
        self.sh(WHERE, f"{'touch' if wanted else 'rm -f'} {FOLDER}/slow")

    def held_up(self, device: str) -> bool:
        """Whether a download of this device has stopped half way."""
        return self.sh(WHERE, f"ls {FOLDER}/held-{device} 2>/dev/null || :") != ""

    def stop(self) -> None:
        self.sh(WHERE, f"kill $(cat {FOLDER}/pid)")

    def offer(
        self, device: str, version: str, image: bytes, promised: str = "", *, cancel: bool = False
    ) -> None:
        """One more action for a device; ``promised`` is what the server says of its version, ``cancel`` that it is taken back."""
        self.actions += 1
        self.last[device] = self.actions
        name = f"{device}-{self.actions}.swu"
        action = {
            "id": self.actions, "file": name, "name": SOFTWARE, "version": promised or version, "cancel": cancel,
        }  # fmt: skip
        self.put({name: image, f"action-{device}.json": json.dumps(action)})

    def image(self, version: str, panel: str = GOOD, **how: Any) -> bytes:
        """A whole image of that version, signed if nothing else is said; ``panel`` is the program that its device is for."""
        signer = how.pop("signer", self.signer)
        files = {"etc/sw-versions": f"{SOFTWARE} {how.pop('says', version)}\n", "bin/panel": panel}
        return swu.image(version, files, signer, **how)

    def open(self, device: str) -> bool:
        """Whether the server still offers something."""
        return self.sh(WHERE, f"ls {FOLDER}/action-{device}.json 2>/dev/null || :") != ""

    def asked(self, device: str) -> list[dict[str, Any]]:
        """Every request of a device, from the first one on."""
        lines = self.sh(WHERE, f"cat {FOLDER}/log.jsonl 2>/dev/null || :").splitlines()
        return [one for one in map(json.loads, lines) if one["target"] == device]

    def downloads(self, device: str) -> int:
        return sum(one["rest"][:1] == ["softwaremodules"] for one in self.asked(device))

    def closed(self, device: str, action: int = 0) -> str:
        """How the device closed an action, its last one if none is named: success, failure, or nothing yet."""
        mine = [one for one in self.asked(device) if one["rest"][2:] == ["feedback"]]
        wanted = str(action or self.last[device])
        found = [json.loads(one["body"])["status"] for one in mine if one["rest"][1] == wanted]
        return " ".join(status["result"]["finished"] for status in found if status["execution"] == "closed")

    # The devices

    def local_packages(self, device: str) -> None:
        """What waits in /extra becomes the device's only source of packages."""
        self.sh(
            device,
            """cd /extra
for file in *.deb; do
    dpkg-deb -f "$file"
    printf 'Filename: %s\nSize: %s\nSHA256: %s\n\n' "$file" "$(stat -c %s "$file")" "$(sha256sum <"$file" | cut -c 1-64)"
done >Packages
rm -f /etc/apt/sources.list.d/* && printf 'deb [trusted=yes] file:/extra ./\n' >/etc/apt/sources.list""",
        )

    def options(self, device: str, **more: Any) -> dict[str, Any]:
        return {
            "url": f"https://{self.address}:{PORT}", "target_id": device, "token": self.tokens[device], "ca": self.ca,
            "signers": self.signer[0], "hardware": "panel", "revision": "1.2", "name": SOFTWARE,
            "slots": {"a": "/slots/a", "b": "/slots/b"}, "running": "cat /run/slot", **more,
        }  # fmt: skip

    def swupdate(self, *arguments: str, devices: tuple[str, ...] = (), **variables: Any) -> Run:
        """The role on these devices, or on all, with SWUpdate; ``each`` has variables for one device alone."""
        chosen = devices or tuple(self.tokens)
        own = variables.pop("options", {})
        each = variables.pop("each", {})
        per = {device: {"swupdate": self.options(device, **own), **each.get(device, {})} for device in chosen}
        return self.agent(*arguments, "--limit", ",".join(chosen), per=per, **variables)

    def source(self) -> dict[str, Any]:
        return {"agent": "swupdate", "reboot": "window"}

    def judged(self, device: str) -> tuple[dict[str, str], str]:
        """What the audit finds of this device's updates: finding to message; and its line for people."""
        done = self.play(
            "tests/lab/playbooks/update_status.yml", "sallyport.iot.update_status", "--limit", device
        )
        found = judge_updates(done.of[device], 14)
        return {one.kind: one.message for one in found}, describe(done.of[device]["updates"])

    def still(self, devices: Iterable[str]) -> None:
        """From now on the tests start the runs, however long they take: the timers wait for another century."""
        for device in devices:
            self.sh(
                device,
                "mkdir -p /usr/lib/systemd/system/sallyport-update.timer.d && cd /usr/lib/systemd/system/sallyport-update.timer.d && "
                "printf '[Timer]\\nOnActiveSec=\\nOnCalendar=2099-01-01\\n' >test.conf",
            )

    def idle(self, device: str) -> None:
        """Until no run is under way."""
        busy = "systemctl is-active sallyport-update.service || :"
        self.wait(lambda: "activating" not in self.sh(device, busy), 60, lambda: shown(self.status(device)))

    def tried(self, *devices: str) -> dict[str, dict[str, Any]]:
        """One run that ends with a start of the device; what it wrote down before."""

        def one(device: str) -> dict[str, Any]:
            before = self.start(device)
            self.sh(device, "systemctl start --no-block sallyport-update.service")
            self.settled(device, before)
            return self.status(device)

        return self.all(one, devices)

    def env(self, device: str) -> dict[str, str]:
        """The bootloader's environment."""
        lines = self.sh(device, "fw_printenv").splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def slot(self, device: str) -> str:
        return self.sh(device, "cat /run/slot").strip()

    def version_of(self, device: str) -> str:
        return self.sh(device, f"awk '$1 == \"{SOFTWARE}\" {{print $2}}' /etc/sw-versions").strip()

    def installations(self, device: str) -> list[str]:
        """What images have been written, as the device itself has counted."""
        return self.sh(device, "cat /data/installations 2>/dev/null || :").split()

    def start(self, device: str) -> str:
        """Which start of the device this is."""
        return self.sh(device, "cut -d ' ' -f 22 /proc/1/stat").strip()

    def settled(self, device: str, before: str) -> None:
        """Until the device has started again and is done with starting."""

        def up() -> bool:
            text = "cut -d ' ' -f 22 /proc/1/stat; systemctl is-system-running || :"
            done = subprocess.run(
                ["podman", "exec", self.lab.container(device), "/bin/sh", "-c", text],
                capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            said = done.stdout.split()
            return len(said) == 2 and said[0] != before and said[1] in ("running", "degraded")

        self.wait(up, 90, lambda: f"{device} has not started again")

    def cut(self, device: str) -> None:
        """The power goes, and comes back."""
        before = self.start(device)
        self.lab.power_cut(device)
        self.settled(device, before)
