# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What the services' modules share: the plan that they add to, and what they know of the device."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.tls import mozilla
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls.options import Wanted


class Refused(Exception):
    """Nothing may be changed on this device. The message says why, and what to do."""


@dataclass
class Plan:
    """Files and commands for ``commit``, besides the pair itself."""

    files: list[dict[str, Any]] = field(default_factory=list)
    check: list[str] = field(default_factory=list)
    activate: list[str] = field(default_factory=list)
    verify: list[str] = field(default_factory=list)
    revert: list[str] = field(default_factory=list)
    services: dict[str, int] = field(default_factory=dict)
    """Name to TLS port."""
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Site:
    """What a plan is made from."""

    wanted: Wanted
    device: Mapping[str, Any]
    """``sallyport_device``."""
    has: Mapping[str, str]
    """Program to its version's words, as the device said; stunnel to its path."""
    texts: Mapping[str, str]
    """Path to content of files that may be edited."""
    links: Mapping[str, str]
    """Path to target of those that are links."""
    pair: bool
    """Whether a certificate is (or comes) there."""
    ocsp: bool
    """Whether it names a responder."""
    plain_sites: Collection[str]
    """Files of nginx, besides the default site and ours, with a server on port 80."""
    leaving: Collection[str]
    """Services that give the certificate back with this change, and so their ports."""

    @property
    def six(self) -> bool:
        """Whether the device has IPv6."""
        interfaces = self.device.get("interfaces") or []
        return any(":" in address for one in interfaces for address in one.get("addresses") or [])

    @property
    def inittab(self) -> str | None:
        """What BusyBox init starts; other inits may have such a file and not read it."""
        if self.device.get("init") != "busybox":
            return None
        found = (self.device.get("files") or {}).get("/etc/inittab")
        return None if found is None else str(found)

    def known(self, program: str) -> tuple[int, ...]:
        """A program's version; () where it did not say."""
        return mozilla.version(self.has.get(program, ""))

    def holders(self, port: int) -> list[str]:
        """Who listens on a TCP port for others than the device itself."""
        found = {
            str(one.get("process") or "an unknown process")
            for one in self.device.get("listening") or []
            if one["protocol"] == "tcp" and one["port"] == port and not _loopback(str(one["address"]))
        }
        return sorted(found)

    def strangers(self, port: int, *own: str) -> list[str]:
        """Who else than these programs, and those that leave, is known to listen on a port."""
        theirs = {
            *own,
            *self.leaving,
            "an unknown process",
            *(["stunnel4"] if "stunnel" in self.leaving else []),
        }
        return [name for name in self.holders(port) if name not in theirs]

    def refuse_strangers(self, port: int, *own: str, wanted_for: str, otherwise: str) -> None:
        """A port that somebody else holds is refused before anything is changed, and before a CA is asked."""
        strangers = self.strangers(port, *own)
        if strangers:
            raise Refused(
                f"{', '.join(strangers)} listens on port {port}, which {wanted_for}. Free it, or {otherwise}"
            )


def again(verb: str, unit: str) -> str:
    """A unit that is no longer installed, or that somebody stopped, has nothing to give back; one that failed just now is
    started all the same.
    """
    return (
        f'if systemctl cat {unit} >/dev/null 2>&1 && [ "$(systemctl is-active {unit})" != inactive ]; then\n'
        f"  systemctl reset-failed {unit} 2>/dev/null || :\n  systemctl {verb} {unit}\nfi"
    )


def ended(text: str) -> str:
    return text.strip() + "\n"


def _loopback(address: str) -> bool:
    return address.startswith("127.") or address in ("::1", "localhost")
