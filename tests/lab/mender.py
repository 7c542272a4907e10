"""A small server that speaks Mender's interface for devices: who may come in, one deployment, its artefact, and a log of every request.

Runs on a lab's vantage point, alone: ``mender.py FOLDER PORT``. The folder holds server.pem (certificate and key), accepted.json (the
identities that somebody has accepted), deployment.json (what is to be installed, if anything, and whether it is taken back), artefacts, and log.jsonl, which
tests read. Tokens last until ``tokens`` is removed.
"""

from __future__ import annotations

import base64
import json
import secrets
import subprocess
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import parse_qs, urlsplit

from served import serve

FOLDER = Path(sys.argv[1])
LOCK = Lock()
FINAL = ("success", "failure", "already-installed")


def read(name: str) -> Any:
    path = FOLDER / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


class Handler(BaseHTTPRequestHandler):
    """``/api/devices/v1/...`` for a device with a token, and artefacts for whoever has their address."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        where = urlsplit(self.path)
        if where.path.startswith("/files/"):
            self._log("")
            self._file(where.path.rpartition("/")[2], where.query)
            return
        if not self._admitted(""):
            return
        asked = {key: values[0] for key, values in parse_qs(where.query).items()}
        deployment = read("deployment.json")
        if where.path != "/api/devices/v1/deployments/device/deployments/next":
            self._answer(404)
        elif not deployment or asked.get("device_type") not in deployment["types"]:
            self._answer(204)
        else:
            source = {
                "uri": deployment.get("uri") or f"https://{self.headers['Host']}/files/{deployment['file']}?key=$ecret%26",
                "expire": "2099-01-01T00:00:00Z",
            }  # fmt: skip
            artefact = {
                "artifact_name": deployment["name"],
                "source": source,
                "device_types_compatible": deployment["types"],
            }
            self._json({"id": deployment["id"], "artifact": artefact})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._log(body.decode(errors="replace"))
        if self.path != "/api/devices/v1/authentication/auth_requests":
            self._answer(404)
            return
        request = json.loads(body)
        good = self._signed(body, request["pubkey"])
        if not good or json.loads(request["id_data"]) not in (read("accepted.json") or []):
            self._answer(401, b'{"error":"dev auth: unauthorized"}')
            return
        token = ".".join(secrets.token_urlsafe(16) for _ in range(3))
        (FOLDER / "tokens").mkdir(exist_ok=True)
        (FOLDER / "tokens" / token).touch()
        self._answer(200, token.encode(), "application/jwt")

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode(errors="replace")
        if not self._admitted(body):
            return
        deployment = read("deployment.json")
        parts = self.path.split("/")[-2:]
        if not deployment or parts[0] != deployment["id"]:
            self._answer(404)
        elif parts[1] == "status" and deployment["aborted"]:
            (FOLDER / "deployment.json").unlink()
            self._answer(409)
        else:
            if parts[1] == "status" and json.loads(body)["status"] in FINAL:
                (FOLDER / "deployment.json").unlink()
            self._answer(204)

    def _signed(self, body: bytes, key: str) -> bool:
        """Whether whoever asks has the private half of the key that it names."""
        (FOLDER / "asked").write_bytes(body)
        (FOLDER / "key").write_text(key, encoding="utf-8")
        (FOLDER / "signature").write_bytes(base64.b64decode(self.headers.get("X-MEN-Signature", "")))
        command = ["openssl", "dgst", "-sha256", "-verify", "key", "-signature", "signature", "asked"]
        return subprocess.run(command, cwd=FOLDER, capture_output=True, check=False).returncode == 0

    def _log(self, body: str) -> None:
        line = {
            "method": self.command, "path": self.path, "body": body, "range": self.headers.get("Range", ""),
            "token": self.headers.get("Authorization", ""), "agent": self.headers.get("User-Agent", ""),
        }  # fmt: skip
        with LOCK, (FOLDER / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")

    def _admitted(self, body: str) -> bool:
        self._log(body)
        word, _, token = self.headers.get("Authorization", "").partition(" ")
        if word == "Bearer" and token and "/" not in token and (FOLDER / "tokens" / token).exists():
            return True
        self._answer(401)
        return False

    def _file(self, name: str, query: str) -> None:
        path = FOLDER / name
        if query not in ("", "key=$ecret%26") or not path.is_file() or not name.endswith(".mender"):
            self._answer(404)
            return
        data = path.read_bytes()
        begin, _, end = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
        if not end:
            self._answer(200, data, "application/octet-stream")
            return
        part = data[int(begin) : int(end) + 1]
        extra = {"Content-Range": f"bytes {begin}-{int(begin) + len(part) - 1}/{len(data)}"}
        self._answer(206, part, "application/octet-stream", extra)

    def _json(self, content: Any) -> None:
        self._answer(200, json.dumps(content).encode(), "application/json")

    def _answer(
        self, status: int, data: bytes = b"", kind: str = "", extra: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        if kind:
            self.send_header("Content-Type", kind)
        for name, value in (extra or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """log.jsonl is the log."""


if __name__ == "__main__":
    serve(Handler)
