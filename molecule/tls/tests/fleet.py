"""Devices with web servers, the operator's runs, and clients that look at what is served."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acme import Acme

from lab.fleet import CHECKOUT, addresses
from lab.labs import Lab
from lab.podman import listing, podman

DEBIAN = ("tls11", "tls12", "tls13")
DEVICES = (*DEBIAN, "tlsvendor")
TOOLS = Path(sys.executable).parent
FAKETIME = "/usr/lib/$(uname -m)-linux-gnu/faketime/libfaketime.so.1"
# What a run could leave on a device: not what the kernel shows as files, nor logs and the host keys that dropbear makes for
# its first visitor.
_TREE = (
    (
        "find / -xdev ( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp -o -path /var/tmp -o -path /var/log "
        "-o -path /usr/lib -o -path /usr/share -o -path /root/.ansible -o -path /etc/dropbear ) -prune -o -exec stat -c '%n %f %u:%g %s %Y' {} +"
    )
    .replace("( ", "\\( ")
    .replace(" )", " \\)")
)
# By their first packet: connections that were there before, such as Ansible's own, have no beginning that this could see.
_WATCH = """table inet watch {
  counter seen {
  }
  chain out {
    type filter hook output priority 0;
    oifname != "lo" tcp flags & (syn | ack) == syn counter name seen
    oifname != "lo" meta l4proto udp ct direction original counter name seen
  }
}
"""


@dataclass
class Run:
    """One ansible-playbook: what it printed, and the result of the role's action on each host."""

    status: int
    output: str
    results: dict[str, dict[str, Any]]
    seconds: float

    def __getitem__(self, host: str) -> dict[str, Any]:
        assert host in self.results, self.output
        return self.results[host]


def until(check: Callable[[], bool], seconds: float = 20) -> bool:
    """Whether a condition comes true in time."""
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


class Fleet:
    def __init__(self, lab: Lab, acme: Acme, work: Path) -> None:
        self.lab, self.acme, self.work = lab, acme, work
        self.runs = 0

    def address(self, device: str) -> str:
        return addresses("lan", self.lab.slot(), self.lab.fleet.devices[device].number)[0]

    def name(self, device: str) -> str:
        return f"{device}.lab"

    def sh(self, device: str, text: str, check: bool = True) -> str:
        return podman("exec", self.lab.container(device), "/bin/sh", "-c", text, check=check)

    @contextmanager
    def untouched(self, *devices: str) -> Iterator[None]:
        """Afterwards these devices' files are what they were, and none of them has begun to talk to anybody."""
        inside = {device: self._inside(device) for device in devices}
        before = {device: set(self.sh(device, _TREE).splitlines()) for device in devices}
        for enter in inside.values():
            subprocess.run([*enter, "nft", "-f", "-"], input=_WATCH, text=True, check=True)
        try:
            yield
            for device, enter in inside.items():
                show = [*enter, "nft", "list", "counter", "inet", "watch", "seen"]
                counted = subprocess.run(show, capture_output=True, text=True, check=True).stdout
                assert "packets 0 bytes 0" in counted, f"{device} began a connection: {counted}"
                changed = before[device] ^ set(self.sh(device, _TREE).splitlines())
                assert not changed, f"{device}: {sorted(changed)}"
        finally:
            for enter in inside.values():
                subprocess.run([*enter, "nft", "delete", "table", "inet", "watch"], check=True)

    def _inside(self, device: str) -> list[str]:
        (row,) = listing("inspect", self.lab.container(device))
        return ["nsenter", "-t", str(row["State"]["Pid"]), "-n"]

    def play(
        self,
        limit: str,
        *arguments: str,
        action: str = "tls",
        playbook: str = "molecule/tls/converge.yml",
        environment: dict[str, str] | None = None,
        **variables: Any,
    ) -> Run:
        """Run the role on some devices; variables are the role's, without `tls_`."""
        self.runs += 1
        results, values = self.work / f"results-{self.runs}.jsonl", self.work / f"vars-{self.runs}.json"
        prefix = "tls_" if playbook.endswith("converge.yml") else ""
        values.write_text(json.dumps({f"{prefix}{k}": v for k, v in variables.items()}), encoding="utf-8")
        began = time.monotonic()
        done = subprocess.run(
            [str(TOOLS / "ansible-playbook"), "-i", "inventories/lab", playbook, "--limit", limit,
             "-e", f"@{values}", *arguments],
            cwd=CHECKOUT, capture_output=True, text=True, timeout=600, check=False,
            env={
                **os.environ, "SALLYPORT_LAB": self.lab.prefix, "SALLYPORT_TEST_RESULTS": str(results),
                "ANSIBLE_CALLBACK_PLUGINS": str(CHECKOUT / "tests/lab/callbacks"),
                "ANSIBLE_CALLBACKS_ENABLED": "results", "ANSIBLE_NOCOLOR": "1",
                "PATH": f"{TOOLS}:{os.environ['PATH']}", **(environment or {}),
            },
        )  # fmt: skip
        lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
        entries = [json.loads(line) for line in lines]
        found = {
            e["host"]: {**e["result"], "failed": e["status"] != "ok"}
            for e in entries
            if e["action"] == f"sallyport.iot.{action}"
        }
        return Run(done.returncode, done.stdout + done.stderr, found, time.monotonic() - began)

    def audit(self) -> dict[str, Any]:
        """Variables of an audit that asks nobody for passwords and scans nothing: what counts here are certificates."""
        places: dict[str, list[str]] = {"lan": [], "wan": []}
        return {
            "audit_logins": False,
            "audit_addresses": places,
            "audit_report_dir": str(self.work / "report"),
        }

    def from_acme(self) -> dict[str, Any]:
        """Variables of a site whose CA is the lab's."""
        return {"acme_directory": self.acme.directory, "acme_root": self.acme.root}

    def connect(
        self,
        device: str,
        roots: str,
        port: int = 443,
        *,
        pair: tuple[str, str] | None = None,
        highest: ssl.TLSVersion | None = None,
        name: str = "",
    ) -> ssl.SSLSocket:
        """A client that trusts these roots only, and that the name must be right for."""
        context = ssl.create_default_context(cadata=roots)
        if highest:
            context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
            context.maximum_version = highest
            context.set_ciphers("ALL:@SECLEVEL=0")
        if pair:
            file = self.work / "client.pem"
            file.write_text("".join(pair), encoding="utf-8")
            context.load_cert_chain(str(file))
        raw = socket.create_connection((self.address(device), port), timeout=10)
        return context.wrap_socket(raw, server_hostname=name or self.name(device))

    def get(self, device: str, roots: str, port: int = 443, **options: Any) -> str:
        """The whole answer to GET / over TLS."""
        with self.connect(device, roots, port, **options) as client:
            client.sendall(f"GET / HTTP/1.0\r\nHost: {self.name(device)}\r\n\r\n".encode())
            answer = b""
            while block := client.recv(65536):
                answer += block
        return answer.decode()

    def served(self, device: str, port: int = 443) -> str:
        """Fingerprint of what a client gets."""
        der = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((self.address(device), port), timeout=10))
        return hashlib.sha256(der).hexdigest()

    def served_with(self, device: str, roots: str, port: int, pair: tuple[str, str]) -> str:
        """The same where a client certificate is asked for."""
        with self.connect(device, roots, port, pair=pair) as client:
            return hashlib.sha256(client.getpeercert(binary_form=True) or b"").hexdigest()

    def redirected(self, device: str, path: str) -> str:
        """Where a browser that asks without TLS is sent."""
        asked = http.client.HTTPConnection(self.address(device), 80, timeout=10)
        asked.request("GET", path, headers={"Host": self.name(device)})
        answer = asked.getresponse()
        assert answer.status == 301, answer.status
        return str(answer.getheader("Location"))

    def page(self, device: str, host: str, path: str = "/") -> str:
        """What a browser that asks for it without TLS is shown."""
        asked = http.client.HTTPConnection(self.address(device), 80, timeout=10)
        asked.request("GET", path, headers={"Host": host})
        return asked.getresponse().read().decode()

    def mqtt(self, device: str, port: int = 1883) -> str:
        """The broker's answer to CONNECT without a name, from the device itself: in hexadecimal digits."""
        hello = r"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01z"
        ask = f's = socket.create_connection(("127.0.0.1", {port}), 10); s.sendall(b"{hello}"); print(s.recv(4).hex())'
        return self.sh(device, f"python3 -c 'import socket; {ask}'").strip()

    def plain(self, device: str, port: int = 80) -> bool:
        """Whether a TCP port answers from the network."""
        try:
            socket.create_connection((self.address(device), port), timeout=3).close()
        except OSError:
            return False
        return True
