# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""certbot on the controller, for devices that cannot reach a CA or be reached by one.

It is given a signing request, so it never has a private key. It keeps its account, and an answer of the CA until a device
has taken it: a delivery that fails costs no second order. What is delivered lies on the device, and the next run sees there
when it is due.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from ansible_collections.sallyport.iot.plugins.plugin_utils.tls import certbot, certificates
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls import device as devices
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls.options import Wanted

_TIMEOUT = 600
_HOOK = '/usr/bin/env "$SALLYPORT_HOOK"'
"""certbot takes the first word for the program: a path with a space in it would not be found."""
_DEBIANS_ROOTS = "/etc/ssl/certs/ca-certificates.crt"


class NotIssued(Exception):
    """The CA gave no certificate. The message says why, and what to do."""


class _UnknownAccount(NotIssued):
    """The CA does not know the account that this controller has there."""


def issue(wanted: Wanted, csr: str, now: datetime) -> str:
    """The certificate with its chain for this request: the CA's, or what it answered to the same request before."""
    home = Path(wanted.controller_dir).expanduser()
    answer = _answer(home, wanted, csr)
    kept = _still_good(answer, wanted, now)
    if kept:
        return kept
    pem = _ask(wanted, csr, home)
    answer.parent.mkdir(exist_ok=True, mode=0o700)
    _forget(home, now)
    _write(answer.with_suffix(".new"), pem, 0o600)
    answer.with_suffix(".new").rename(answer)
    return pem


def delivered(wanted: Wanted, public_key: str) -> None:
    """The device has what was issued for this key."""
    for path in _answers(Path(wanted.controller_dir).expanduser()).glob(f"{public_key}.*"):
        path.unlink(missing_ok=True)


def _answers(home: Path) -> Path:
    return home / "undelivered"


def _answer(home: Path, wanted: Wanted, csr: str) -> Path:
    """Where the answer to this request is kept: for this key, these names and this CA."""
    asked = hashlib.sha256("\n".join([wanted.acme_directory, *sorted(wanted.names)]).encode()).hexdigest()
    return _answers(home) / f"{certificates.requested(csr)}.{asked[:16]}.pem"


def _still_good(answer: Path, wanted: Wanted, now: datetime) -> str:
    """An earlier answer that has not to be renewed yet, "" where there is none."""
    try:
        pem = answer.read_text(encoding="ascii")
        return "" if devices.due(certificates.describe(pem), wanted, now) else pem
    except (OSError, ValueError):
        return ""


def _forget(home: Path, now: datetime) -> None:
    """Answers that nobody fetched before they expired."""
    for path in _answers(home).glob("*.pem"):
        try:
            if certificates.describe(path.read_bytes()).not_after > now:
                continue
        except (OSError, ValueError):
            pass
        path.unlink(missing_ok=True)


def _ask(wanted: Wanted, csr: str, home: Path) -> str:
    """By certbot, in folders of its own."""
    program = shutil.which("certbot")
    if program is None:
        raise NotIssued(
            "tls_mode is controller, and certbot was not found on this controller. Install it (Debian: apt-get install "
            "certbot; or pip install certbot into the environment that Ansible runs from)"
        )
    (home / "accounts").mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(prefix="sallyport-acme-", dir=_place_for_programs(home)) as folder:
        work = Path(folder)
        if wanted.dns_hook:
            _write(work / "hook", wanted.dns_hook.rstrip() + "\n", 0o700)
        secret = _write(work / "dns", wanted.dns_credentials, 0o600) if wanted.dns_credentials else ""
        text = certbot.ini(wanted, webroot=wanted.webroot, hook=_HOOK, credentials=secret, deploy=False)
        settings = _write(work / "ini", text, 0o600)
        _write(work / "request", csr, 0o600)
        if wanted.acme_root:
            _write(work / "roots", f"{_public_roots()}\n{wanted.acme_root}", 0o600)
        # Every run has folders of its own, so that many devices are served at once; only the account is shared.
        (work / "config").mkdir(mode=0o700)
        (work / "config" / "accounts").symlink_to(home / "accounts")
        words = ["-c", settings, "--config-dir", str(work / "config"), "--work-dir", str(work / "work")]
        words += ["--logs-dir", str(work / "logs")]
        environment = {**os.environ, "SALLYPORT_HOOK": str(work / "hook")}
        if wanted.acme_root:
            environment["REQUESTS_CA_BUNDLE"] = str(work / "roots")
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


def _place_for_programs(home: Path) -> str:
    """Where temporary folders go, unless nothing there may be run."""
    usual = tempfile.gettempdir()
    return str(home) if os.statvfs(usual).f_flag & os.ST_NOEXEC else usual


def _public_roots() -> str:
    """What this controller trusts anyhow, "" where it says nowhere: hooks and plugins speak to others than the CA too."""
    for place in (
        os.environ.get("REQUESTS_CA_BUNDLE"),
        ssl.get_default_verify_paths().cafile,
        _DEBIANS_ROOTS,
    ):
        if place and Path(place).is_file():
            return Path(place).read_text(encoding="utf-8", errors="replace")
    return ""


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
