"""A small server that speaks hawkBit's interface for devices (DDI): one action for each target, its artefact, and a log of every request.

Runs on a lab's vantage point, alone: ``hawkbit.py FOLDER PORT``. The folder holds server.pem (certificate and key), tokens.json
(target to token), action-TARGET.json (what is to be installed, if anything), artefacts, and log.jsonl, which tests read. While there is a file
``slow``, downloads stop half way.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Lock
from typing import Any

from served import serve

FOLDER = Path(sys.argv[1])
TENANT = "DEFAULT"
LOCK = Lock()


def read(name: str) -> Any:
    path = FOLDER / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


class Handler(BaseHTTPRequestHandler):
    """``/DEFAULT/controller/v1/TARGET/...`` for a target that shows its token, and its downloads."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        target, rest = self._admitted()
        action = read(f"action-{target}.json")
        base = f"https://{self.headers['Host']}/{TENANT}/controller/v1/{target}"
        if not target:
            return
        if rest == []:
            links: dict[str, Any] = {"configData": {"href": f"{base}/configData"}}
            if action:
                # As hawkBit itself: one has a query behind it, the other none.
                word = (
                    f"cancelAction/{action['id']}"
                    if action["cancel"]
                    else f"deploymentBase/{action['id']}?c=1"
                )
                links[word.partition("/")[0]] = {"href": f"{base}/{word}"}
            self._json(200, {"config": {"polling": {"sleep": "00:05:00"}}, "_links": links})
        elif action and rest == ["deploymentBase", str(action["id"])]:
            data = (FOLDER / action["file"]).read_bytes()
            links = {"download": {"href": f"{base}/softwaremodules/1/artifacts/{action['file']}"}}
            hashes = {"sha1": hashlib.sha1(data).hexdigest(), "sha256": hashlib.sha256(data).hexdigest()}
            artefact = {"filename": action["file"], "hashes": hashes, "size": len(data), "_links": links}
            chunk = {
                "part": "os",
                "name": action["name"],
                "version": action["version"],
                "artifacts": [artefact],
            }
            how = {"download": "forced", "update": "forced", "chunks": [chunk]}
            self._json(200, {"id": str(action["id"]), "deployment": how})
        elif action and rest == ["cancelAction", str(action["id"])]:
            self._json(200, {"id": str(action["id"]), "cancelAction": {"stopId": str(action["id"])}})
        elif action and rest[:3] == ["softwaremodules", "1", "artifacts"] and rest[3:] == [action["file"]]:
            self._answer(200, (FOLDER / action["file"]).read_bytes(), "application/octet-stream", target)
        else:
            self._json(404, {})

    def do_POST(self) -> None:
        self._told()

    def do_PUT(self) -> None:
        self._told()

    def _told(self) -> None:
        """What a device says of an action; one that is closed is offered no more."""
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        target, rest = self._admitted(data.decode(errors="replace"))
        if not target:
            return
        action = read(f"action-{target}.json")
        if rest[-1] == "feedback" and action and rest[1] == str(action["id"]):
            status = json.loads(data)["status"]
            if status["execution"] == "closed":
                (FOLDER / f"action-{target}.json").unlink()
        self._json(200, {})

    def _admitted(self, body: str = "") -> tuple[str, list[str]]:
        parts = self.path.partition("?")[0].strip("/").split("/")
        target = parts[3] if parts[:3] == [TENANT, "controller", "v1"] and len(parts) > 3 else ""
        token = (read("tokens.json") or {}).get(target)
        good = bool(token) and self.headers.get("Authorization") == f"TargetToken {token}"
        line = {
            "method": self.command, "target": target, "rest": parts[4:], "body": body, "admitted": good,
            "agent": self.headers.get("User-Agent", ""),
        }  # fmt: skip
        with LOCK, (FOLDER / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        if not good:
            self._json(401, {})
            return "", []
        return target, parts[4:]

    def _json(self, status: int, content: Any) -> None:
        self._answer(status, json.dumps(content).encode(), "application/hal+json;charset=UTF-8")

    def _answer(self, status: int, data: bytes, kind: str, download: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if download and (FOLDER / "slow").exists():
            self.wfile.write(data[: len(data) // 2])
            (FOLDER / f"held-{download}").touch()
            while (FOLDER / "slow").exists():
                time.sleep(0.2)
            data = data[len(data) // 2 :]
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """log.jsonl is the log."""


if __name__ == "__main__":
    serve(Handler)
