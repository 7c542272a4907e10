# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What the runtimes of the cloud vendors have in common. Their packages come from the operator's own repository, so that apt
verifies signatures and checksums, and rings, pins, health and the way back are those of every package; what is added here is
their installation, configuration, certificates and sandbox.
"""

from __future__ import annotations

import abc
import re
import shlex
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents.base import (
    AGENT,
    SETTINGS,
    Found,
    Part,
    Unsupported,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents.unattended_upgrades import (
    INSTALL_SECONDS,
    UnattendedUpgrades,
    install,
    uninstall,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.settings import Settings, SettingsError
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

MANAGED = "# Managed by Sallyport: role update_agent.\n"
# What no runtime needs: each adds what it can do without besides.
SANDBOX = (
    "ProtectSystem=strict",
    "ProtectHome=yes",
    "PrivateTmp=yes",
    "ProtectClock=yes",
    "ProtectHostname=yes",
    "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    "LockPersonality=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "RestrictNamespaces=yes",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
    "SystemCallArchitectures=native",
)
_BROUGHT = "brought-runtime"
_APPLY_SECONDS = 180
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
_PATH = re.compile(r"/[A-Za-z0-9._/-]+")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_NAME = re.compile(r"[a-z_][a-z0-9_-]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_QUESTION = r"""
dpkg-query -W -f '${db:Status-Status} ${Package}\n' 2>/dev/null | sed -n 's/^installed //p' | blob packages
say running $(for unit in %s; do if systemctl -q is-active "$unit"; then printf '%%s ' "$unit"; fi; done)
say users $(for user in %s; do if id "$user" >/dev/null 2>&1; then printf '%%s ' "$user"; fi; done)
"""


class Options:
    """One agent's own variable, read key by key; every complaint names the key."""

    def __init__(self, settings: Settings, variable: str, known: Iterable[str]) -> None:
        self.variable = f"update_agent_{variable}"
        self.values = {
            key: value for key, value in settings.options.get(variable, {}).items() if value is not None
        }
        for key in self.values:
            if key not in known:
                raise SettingsError(
                    f"{self.variable}.{key}: there is no such key; expected {', '.join(known)}"
                )

    def text(self, key: str, default: str | None = None) -> str:
        """One line of text; an error where there is none and no default."""
        value = str(self.values.get(key) or (default if default is not None else "")).strip()
        if not value and default is None:
            raise SettingsError(f"{self.variable}.{key}: expected, and missing")
        if _CONTROL.search(value):
            raise SettingsError(f"{self.variable}.{key}: expected one line of text, found {value!r}")
        return value

    def host(self, key: str, default: str | None = None) -> str:
        value = self.text(key, default)
        if value and not _HOST.fullmatch(value):
            raise SettingsError(f"{self.variable}.{key}: expected a host name, found {value!r}")
        return value

    def name(self, key: str, default: str) -> str:
        value = self.text(key, default)
        if not _NAME.fullmatch(value):
            raise SettingsError(
                f"{self.variable}.{key}: expected the name of a user or group, found {value!r}"
            )
        return value

    def path(self, key: str, default: str) -> str:
        value = self.text(key, default)
        if not _PATH.fullmatch(value) or "/../" in f"{value}/" or value.rstrip("/").count("/") < 2:
            raise SettingsError(
                f"{self.variable}.{key}: expected an absolute path below a folder, of letters, digits and ._-, found {value!r}"
            )
        return value.rstrip("/")

    def packages(self, key: str, default: tuple[str, ...]) -> tuple[str, ...]:
        names = self.lines(key) if key in self.values else default
        for i, name in enumerate(names):
            if not _PACKAGE.fullmatch(name):
                raise SettingsError(
                    f"{self.variable}.{key}[{i}]: expected the name of a package, found {name!r}"
                )
        return tuple(names)

    def lines(self, key: str) -> tuple[str, ...]:
        found = self.values.get(key) or ()
        if isinstance(found, str) or not isinstance(found, (list, tuple)):
            raise SettingsError(f"{self.variable}.{key}: expected a list, found {type(found).__name__}")
        for i, line in enumerate(found):
            if _CONTROL.search(str(line)):
                raise SettingsError(f"{self.variable}.{key}[{i}]: expected one line of text, found {line!r}")
        return tuple(str(line) for line in found)

    def paths(self, key: str) -> tuple[str, ...]:
        found = self.lines(key)
        for i, path in enumerate(found):
            if not _PATH.fullmatch(path) or "/../" in f"{path}/":
                raise SettingsError(
                    f"{self.variable}.{key}[{i}]: expected an absolute path of letters, digits and ._-, found {path!r}"
                )
        return found

    def flag(self, key: str, default: bool) -> bool:
        return bool(self.values.get(key, default))

    def mapping(self, key: str) -> Mapping[str, Any]:
        found = self.values.get(key) or {}
        if not isinstance(found, Mapping):
            raise SettingsError(f"{self.variable}.{key}: expected a mapping, found {type(found).__name__}")
        return found

    def pair(self, certificate: str, key: str, required: bool = True) -> tuple[str, str]:
        """A certificate and its private key: PEM text for the role to deliver, or paths where something else put them.

        Text is judged here, before any device is touched: do they belong together, and is it their time?
        """
        mine, its = (str(self.values.get(name) or "").strip() for name in (certificate, key))
        if not mine and not its and not required:
            return "", ""
        for name, value in ((certificate, mine), (key, its)):
            if not value:
                raise SettingsError(
                    f"{self.variable}.{name}: expected PEM text, or the path of a file on the device; it is missing"
                )
            if value.startswith("/") and not _PATH.fullmatch(value):
                raise SettingsError(
                    f"{self.variable}.{name}: expected a path of letters, digits and ._/-, found {value!r}"
                )
        if mine.startswith("/") != its.startswith("/"):
            raise SettingsError(
                f"{self.variable}: {certificate} and {key} are either both PEM text or both paths on the device"
            )
        if not mine.startswith("/"):
            self._judge(certificate, mine, key, its)
        return mine, its

    def authority(self, key: str, required: bool = True) -> str:
        """Certificates to trust: PEM text, or a path on the device."""
        value = str(self.values.get(key) or "").strip()
        if not value and not required:
            return ""
        if value.startswith("/") and _PATH.fullmatch(value):
            return value
        self._certificate(key, value)
        return value

    def _certificate(self, name: str, text: str) -> x509.Certificate:
        try:
            return x509.load_pem_x509_certificate(text.encode())
        except ValueError:
            raise SettingsError(
                f"{self.variable}.{name}: expected a certificate in PEM (-----BEGIN CERTIFICATE-----), or the path of a file on "
                f"the device; found {text[:30]!r}"
            ) from None

    def _judge(self, certificate: str, mine: str, key: str, its: str) -> None:
        found = self._certificate(certificate, mine)
        try:
            private = load_pem_private_key(its.encode(), password=None)
        except (ValueError, TypeError):
            # What it was is nobody's to read.
            raise SettingsError(
                f"{self.variable}.{key}: expected a private key in PEM without a passphrase, or the path of a file on the device"
            ) from None
        form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if found.public_key().public_bytes(*form) != private.public_key().public_bytes(*form):
            raise SettingsError(f"{self.variable}: {key} is not the key of {certificate}")
        now = datetime.now(timezone.utc)
        begin, end = _validity(found)
        if not begin <= now < end:
            raise SettingsError(
                f"{self.variable}.{certificate}: it is valid from {begin:%Y-%m-%d} to {end:%Y-%m-%d}, and today is {now:%Y-%m-%d}"
            )


def _validity(found: x509.Certificate) -> tuple[datetime, datetime]:
    """cryptography 42 and later tell times with their zone; earlier ones mean UTC."""
    if hasattr(found, "not_valid_after_utc"):
        return found.not_valid_before_utc, found.not_valid_after_utc
    return tuple(  # type: ignore[return-value]
        time.replace(tzinfo=timezone.utc) for time in (found.not_valid_before, found.not_valid_after)
    )


class Runtime(UnattendedUpgrades, abc.ABC):
    """A vendor's runtime beside the packages of the system, both kept patched by the same runs."""

    units: tuple[str, ...]
    users: tuple[str, ...] = ()
    guard: str

    def program(self) -> str:
        halves = (folder / "agent.sh" for folder in (UnattendedUpgrades.folder, self.folder))
        return "\n".join(half.read_text(encoding="utf-8") for half in halves)

    def question(self) -> str:
        return super().question() + _QUESTION % (" ".join(self.units), " ".join(self.users) or "root")

    @abc.abstractmethod
    def runtime(self, settings: Settings, found: Found) -> tuple[tuple[str, ...], Part]:
        """Names of its packages, and what it adds. Raises SettingsError, Unsupported."""

    def plan(self, settings: Settings, device: Mapping[str, Any], found: Found) -> Part:
        names, own = self.runtime(settings, found)
        base = super().plan(settings, device, found)
        absent = [name for name in names if name not in found.answers.get("packages", "").split()]
        if absent and not settings.install:
            raise Unsupported(
                f"{', '.join(absent)} is not installed. Let the role install it (update_agent_install: true), or put it into the image"
            )
        notes = (f"{', '.join(absent)} is installed from the device's sources",) if absent else ()
        return Part(
            files=(*base.files, *own.files),
            shell={**base.shell, "ROLLBACK": " ".join(dict.fromkeys((*settings.rollback, *names))), **own.shell},
            check=(*base.check, *own.check),
            activate=(
                *base.activate,
                *((install(names, _BROUGHT),) if absent else ()),
                f". {SETTINGS}; . {AGENT}; runtime_apply",
            ),
            verify=(*base.verify, *own.verify),
            revert=(_REVERT.format(guard=shlex.quote(self.guard), units=" ".join(self.units)), *own.revert,
                    uninstall(self.guard, _BROUGHT), *base.revert),
            units=self.units,
            notes=(*base.notes, *own.notes, *notes),
            warnings=(*base.warnings, *own.warnings),
            slow=INSTALL_SECONDS if absent else max(base.slow, _APPLY_SECONDS),
        )  # fmt: skip


# Back to another state of this agent it is applied again; back to none, nothing is left to run. A configuration that was there
# before this role came is somebody else's, and stays as it was.
_REVERT = (
    "if grep -q '^runtime_apply' "
    + AGENT
    + " 2>/dev/null; then . "
    + SETTINGS
    + "; . "
    + AGENT
    + "; runtime_apply || :\n"
    "elif [ -e {guard} ]; then systemctl try-restart {units} || :\n"
    # Its file may have gone already: then it can be stopped, and not be disabled.
    "else for word in stop disable reset-failed; do systemctl -q $word {units} 2>/dev/null || :; done; fi"
)


def delivered(path: str, content: str, owner: str = "root", secret: bool = False) -> dict[str, Any]:
    """A file with a certificate or a key."""
    return {
        "dest": path, "content": content + "\n", "mode": "0400" if secret else "0644", "owner": owner, "secret": secret,
    }  # fmt: skip


def present(paths: Iterable[str], variable: str) -> tuple[str, ...]:
    """Checks that files which something else put there are there, and private where they have to be."""
    return tuple(
        f"[ -s {shlex.quote(path)} ] || {{ echo {shlex.quote(f'{variable}: {path} is not on the device')} >&2; exit 1; }}"
        for path in paths
    )
