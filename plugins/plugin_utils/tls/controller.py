# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""certbot on the controller, for devices that cannot reach a CA or be reached by one.

It is given a signing request, so it never has a private key, and keeps nothing but its account: what is delivered lies
on the device, and the next run sees there when it is due.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ansible_collections.sallyport.iot.plugins.plugin_utils.tls import certbot
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls.options import Wanted

_TIMEOUT = 600


class NotIssued(Exception):
    """The CA gave no certificate. The message says why, and what to do."""


class _UnknownAccount(NotIssued):
    """The CA does not know the account that this controller has there."""


def issue(wanted: Wanted, csr: str) -> str:
    """The certificate with its chain for this request."""
    program = shutil.which("certbot")
    if program is None:
        raise NotIssued(
            "tls_mode is controller, and certbot was not found on this controller. Install it (Debian: apt-get install "
            "certbot; or pip install certbot into the environment that Ansible runs from)"
        )
    home = Path(wanted.controller_dir).expanduser()
    (home / "accounts").mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(prefix="sallyport-acme-") as folder:
        work = Path(folder)
        hook = _write(work / "hook", wanted.dns_hook.rstrip() + "\n", 0o700) if wanted.dns_hook else ""
        secret = _write(work / "dns", wanted.dns_credentials, 0o600) if wanted.dns_credentials else ""
        text = certbot.ini(wanted, webroot=wanted.webroot, hook=hook, credentials=secret, deploy=False)
        settings = _write(work / "ini", text, 0o600)
        _write(work / "request", csr, 0o600)
        if wanted.acme_root:
            _write(work / "root", wanted.acme_root, 0o600)
        # Every run has folders of its own, so that many devices are served at once; only the account is shared.
        (work / "config").mkdir(mode=0o700)
        (work / "config" / "accounts").symlink_to(home / "accounts")
        words = ["-c", settings, "--config-dir", str(work / "config"), "--work-dir", str(work / "work")]
        words += ["--logs-dir", str(work / "logs")]
        environment = {**os.environ, **certbot.environment(wanted, str(work / "root"))}
        account = home / "accounts" / certbot.account_folder(wanted)
        with _alone(home):
            if not _known(account):
                _run([program, "register", *words], environment, wanted)
            used = _known(account)
        certonly = [program, "certonly", *words]
        target = work / "fullchain.pem"
        certonly += ["--csr", str(work / "request"), "--fullchain-path", str(target)]
        certonly += ["--cert-path", str(work / "cert.pem"), "--chain-path", str(work / "chain.pem")]
        with _alone(home, wanted.challenge == "standalone"):  # port 80 is there once
            try:
                _run(certonly, environment, wanted)
                return target.read_text(encoding="ascii")
            except _UnknownAccount:
                pass
        # A private CA that was set up anew knows nobody. Whoever comes first registers again.
        with _alone(home):
            if _known(account) == used:
                shutil.rmtree(account)
                _run([program, "register", *words], environment, wanted)
        with _alone(home, wanted.challenge == "standalone"):
            _run(certonly, environment, wanted)
        return target.read_text(encoding="ascii")


def _run(command: list[str], environment: dict[str, str], wanted: Wanted) -> None:
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise NotIssued(f"certbot on the controller had no answer within {_TIMEOUT} s") from None
    if done.returncode:
        log = Path(command[command.index("--logs-dir") + 1]) / "letsencrypt.log"
        text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        said = certbot.really(done.stdout + done.stderr, text)
        if certbot.account_unknown(said):
            raise _UnknownAccount(certbot.explain(said, wanted))
        raise NotIssued(certbot.explain(said, wanted))


def _known(account: Path) -> set[str]:
    """Accounts that this controller has at one directory."""
    return {path.parent.name for path in account.rglob("regr.json")}


def _write(path: Path, text: str, mode: int) -> str:
    path.touch(mode)
    path.chmod(mode)
    path.write_text(text, encoding="utf-8")
    return str(path)


@contextmanager
def _alone(home: Path, wanted: bool = True) -> Iterator[None]:
    """One of this controller's workers at a time."""
    if not wanted:
        yield
        return
    with (home / "lock").open("w", encoding="utf-8") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
