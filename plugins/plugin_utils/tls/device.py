# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a device is asked about its certificate, and what follows from the answer."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls import certificates, services
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls.certificates import (
    Certificate,
    CertificateError,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls.options import Wanted

# A certificate is dated by the CA's clock, and a client's differs from it: an hour is what CAs backdate by.
CLOCK_TOLERANCE = 3600
INTERRUPTED = "it was interrupted"
"""As deploy.sh says it of a pair that was put in place, while it is not known whether any service has it."""
LIVE = "/etc/letsencrypt/live"

_QUERY = r"""
say epoch "$(date +%s)"
have() { command -v "$1" >/dev/null 2>&1; }
has() { say has "$1 $(shift; "$@" 2>&1 | head -n 1)"; }
have nginx && has nginx nginx -v
have openssl && has openssl openssl version
have certbot && has certbot certbot --version
have mosquitto && has mosquitto mosquitto -h
have lighttpd && has lighttpd lighttpd -v
[ ! -f /usr/lib/lighttpd/mod_openssl.so ] || say has "lighttpd_tls yes"
if have stunnel4 || have stunnel; then say has "stunnel 5"; fi
show() { [ ! -f "$2" ] || blob "$1" <"$2"; }
show certificate "$HOME_/fullchain.pem"
show status "$HOME_/status"
show source "$HOME_/source"
show services "$HOME_/services"
show lineage "$LIVE/fullchain.pem"
show renewal "$RENEWAL"
show text /etc/lighttpd/lighttpd.conf
if [ -f "$HOME_/privkey.pem" ]; then
  say key "$(ls -l "$HOME_/privkey.pem" | { read -r mode _ owner _; printf '%s %s' "$mode" "$owner"; })"
  if have openssl; then say key_public "$(openssl pkey -in "$HOME_/privkey.pem" -pubout -outform DER 2>/dev/null | openssl dgst -sha256 -r 2>/dev/null | cut -d ' ' -f 1)"; fi
fi
if { have nft && nft list set inet sallyport gate; } >/dev/null 2>&1 || { have ipset && ipset list -t sallyport-gate; } >/dev/null 2>&1; then
  say gate yes
fi
[ ! -f "$LIVE/privkey.pem" ] || say lineage_key yes
exit 0
"""


@dataclass(frozen=True)
class Found:
    """What the device has."""

    epoch: int
    has: Mapping[str, str]
    texts: Mapping[str, str]
    certificate: Certificate | None
    pem: str
    key: bool
    """Whether the private key is there, and is the certificate's as far as the device can tell."""
    key_open: bool
    """Whether anybody but root may read the key."""
    status: str
    lineage: Certificate | None
    renewal: str
    gate: bool
    """Whether the firewall in force has a gate that can be opened for a challenge."""
    source: str
    """Where the certificate came from, as the last delivery wrote it down."""
    served: tuple[str, ...]
    """Services that have it."""


def query(wanted: Wanted) -> str:
    """The read-only exchange. Private keys are looked at on the device, never sent."""
    name = wanted.name.replace("*.", "")
    return (
        f"HOME_={shlex.quote(services.HOME)}\nLIVE={shlex.quote(f'{LIVE}/{name}')}\n"
        f"RENEWAL={shlex.quote(f'/etc/letsencrypt/renewal/{name}.conf')}\n{_QUERY}"
    )


def read(reply: Reply) -> Found:
    has = {name: words for name, _, words in (line.partition(" ") for line in reply.all("has"))}
    pem = reply.get("certificate")
    certificate = _maybe(pem)
    public = reply.get("key_public")
    return Found(
        epoch=int(reply.get("epoch") or 0),
        has=has,
        texts={services.LIGHTTPD_MAIN: reply.get("text")} if "text" in reply else {},
        certificate=certificate,
        pem=pem,
        key="key" in reply and (not public or certificate is None or public == certificate.public_key),
        key_open="key" in reply and not reply.get("key").startswith("-rw------- root"),
        status=reply.get("status").strip(),
        lineage=_maybe(reply.get("lineage")) if "lineage_key" in reply else None,
        renewal=reply.get("renewal"),
        gate="gate" in reply,
        source=reply.get("source").strip(),
        served=tuple(line.split()[0] for line in reply.get("services").splitlines() if line.strip()),
    )


def _maybe(pem: str) -> Certificate | None:
    try:
        return certificates.describe(pem)
    except CertificateError:
        return None


def clock_problem(found: Found, now: float) -> str:
    """Why this device's clock cannot be trusted with certificates; empty when it can."""
    apart = found.epoch - round(now)
    if abs(apart) <= CLOCK_TOLERANCE:
        return ""
    shown = datetime.fromtimestamp(found.epoch, timezone.utc).strftime("%Y-%m-%d %H:%M")
    return (
        f"its clock says {shown} UTC, {abs(apart)} s {'ahead of' if apart > 0 else 'behind'} this controller's: every "
        "certificate would seem expired or not yet valid, and an attempt would be wasted at the CA. Set the time first: "
        "role time_sync (time_sync_servers), and time_sync_floor for a device without a clock battery"
    )


def why_new(certificate: Certificate | None, wanted: Wanted, now: datetime, *, key: bool) -> str:
    """Why a certificate must be had; empty when the one there will do."""
    if certificate is None:
        return "there is none"
    if not key:
        return "its private key is missing or another one's"
    if set(certificate.names) != set(wanted.names):
        return f"it is for {', '.join(certificate.names) or 'no name'}, wanted is {', '.join(wanted.names)}"
    if certificate.not_after <= now:
        return f"it expired on {certificate.not_after:%Y-%m-%d %H:%M} UTC"
    lifetime = certificate.not_after - certificate.not_before
    # Short-lived certificates would always be "due": for them the last third of their life counts, as for certbot.
    left = certificate.not_after - now
    if left.total_seconds() < min(wanted.renew_days * 86400.0, lifetime.total_seconds() / 3):
        return f"it expires on {certificate.not_after:%Y-%m-%d %H:%M} UTC"
    return ""


def judge(found: Found, wanted: Wanted, now: datetime) -> dict[str, Any]:
    """For the audit: ``ok``, ``warning`` or ``failing``, and why."""
    certificate = found.certificate
    if certificate is None:
        return {"state": "failing", "message": f"{services.CERT} is missing or no certificate"}
    if not found.key:
        return {"state": "failing", "message": "the private key is missing, or is not the certificate's"}
    if found.key_open:
        return {"state": "failing", "message": f"{services.KEY} can be read by others than root"}
    if certificate.not_after <= now:
        return {
            "state": "failing",
            "message": f"the certificate expired on {certificate.not_after:%Y-%m-%d %H:%M} UTC",
        }
    lifetime = (certificate.not_after - certificate.not_before).total_seconds()
    left = (certificate.not_after - now).total_seconds()
    until = f"{certificate.not_after:%Y-%m-%d %H:%M} UTC"
    # A certificate that renews never gets this old: it is due at a third of its life or at renew_days.
    if left < min(wanted.fail_days * 86400.0, lifetime / 9):
        return {"state": "failing", "message": f"the certificate expires on {until} and was not renewed"}
    if found.status.startswith("failed "):
        reason = found.status.split(" ", 2)[2] if found.status.count(" ") > 1 else ""
        return {"state": "failing", "message": f"the last deployment failed: {reason}"}
    if left < min(wanted.warn_days * 86400.0, lifetime / 4):
        return {
            "state": "warning",
            "message": f"the certificate expires on {until}; it should have been renewed by now",
        }
    return {"state": "ok", "message": f"valid until {until}"}
