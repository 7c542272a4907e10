# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a device is asked about its certificate, and what follows from the answer."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls import certbot, certificates, services
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls.certificates import (
    Certificate,
    CertificateError,
    Span,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls.options import Wanted

# A certificate is dated by the CA's clock, and a client's differs from it: an hour is what CAs backdate by.
CLOCK_TOLERANCE = 3600
INTERRUPTED = "it was interrupted"
"""As deploy.sh says it of a pair that was put in place, while it is not known whether any service has it."""
LIVE = "/etc/letsencrypt/live"
FLEET_CA = "fleet CA"
_UNTIL = f"{FLEET_CA} until "

_QUERY = r"""
say epoch "$(date +%s)"
have() { command -v "$1" >/dev/null 2>&1; }
has() { say has "$1 $(shift; "$@" 2>&1 | head -n 1)"; }
have nginx && has nginx nginx -v
# A second real_ip_header beside the site's own would keep nginx from starting, and one beside its set_real_ip_from would be
# believed of the site's proxies too.
if have nginx && nginx -V 2>&1 | grep -q http_realip_module &&
  ! grep -rEs '^[^#]*(real_ip_header|set_real_ip_from)' /etc/nginx | grep -v '^/etc/nginx/[^:]*/sallyport-tls.conf:' | grep -q .; then
  say has "nginx_realip yes"
fi
have openssl && has openssl openssl version
have certbot && has certbot certbot --version
have mosquitto && has mosquitto mosquitto -h
have lighttpd && has lighttpd lighttpd -v
[ ! -f /usr/lib/lighttpd/mod_openssl.so ] || say has "lighttpd_tls yes"
if have stunnel4 || have stunnel; then say has "stunnel $(command -v stunnel4 || command -v stunnel)"; fi
show() { [ ! -f "$2" ] || blob "$1" <"$2"; }
show certificate "$HOME_/fullchain.pem"
show status "$HOME_/status"
show source "$HOME_/source"
show services "$HOME_/services"
show still "$HOME_/still"
show request "$HOME_/request.next"
show client_ca "$HOME_/client-ca.pem"
show client_crl "$HOME_/client-crl.pem"
show recorded "$HOME_/lineage"
[ ! -f "$HOME_/deploy" ] || say here yes
for trace in $TRACES; do [ ! -e "$trace" ] || say trace "$trace"; done
text() { [ ! -f "$1" ] || { say text_of "$1"; blob text <"$1"; }; }
as_it_is() { if [ -L "$1" ]; then say link "$1 $(readlink "$1")"; else text "$1"; fi; }
text /etc/lighttpd/lighttpd.conf
as_it_is /etc/nginx/sites-enabled/default
as_it_is "$HOME_/nginx-default"
for file in /etc/nginx/sites-enabled/* /etc/nginx/conf.d/*.conf; do
  case $file in */default | */sallyport-tls.conf) continue ;; esac
  if grep -Eqs '^[^#]*listen[[:space:]]+([[]::[]]:|[*]:|0[.]0[.]0[.]0:)?80[[:space:];]' "$file"; then say plain_site "$file"; fi
done
# Of a broker's configuration only what decides who gets in: a bridge's password stays where it is.
main=/etc/mosquitto/mosquitto.conf
for file in $main $([ ! -f $main ] || sed -n 's|^ *include_dir  *\(.*[^/ ]\)/* *$|\1/*.conf|p' $main); do
  [ -f "$file" ] || continue
  say text_of "$file"
  { grep -E '^ *(listener|port|include_dir|per_listener_settings|allow_anonymous|allow_zero_length_clientid|auto_id_prefix|[a-z_]*_file|[a-z_]*plugin|acl_[a-z_]*) ' "$file" || :; } | blob text
done
if [ -f "$HOME_/privkey.pem" ]; then
  say key "$(ls -l "$HOME_/privkey.pem" | { read -r mode _ owner _; printf '%s %s' "$mode" "$owner"; })"
  if have openssl; then say key_public "$(openssl pkey -in "$HOME_/privkey.pem" -pubout -outform DER 2>/dev/null | openssl dgst -sha256 -r 2>/dev/null | cut -d ' ' -f 1)"; fi
fi
if { have nft && nft list set inet sallyport gate; } >/dev/null 2>&1 || { have ipset && ipset list -t sallyport-gate; } >/dev/null 2>&1; then
  say gate yes
fi
for conf in /etc/letsencrypt/renewal/*.conf; do
  [ -f "$conf" ] || continue
  name=${conf##*/}
  name=${name%.conf}
  case $name in *[!A-Za-z0-9._-]*) continue ;; esac
  [ "$name" = "$NAME" ] || grep -q "^renew_hook *= */bin/sh $HOME_/deploy certbot" "$conf" || continue
  blob "renewal $name" <"$conf"
  say lineage "$name"
  if [ -f "$LIVE/$name/privkey.pem" ]; then show "issued $name" "$LIVE/$name/fullchain.pem"; fi
done
if systemctl cat certbot.timer >/dev/null 2>&1; then say renews timer; elif [ -f /etc/cron.d/certbot ]; then say renews cron; fi
exit 0
"""


@dataclass(frozen=True)
class Lineage:
    """One of certbot's certificates, through all its renewals."""

    issued: Certificate | None = None
    renewal: str = ""
    """How certbot renews it, as it wrote down itself."""


@dataclass(frozen=True)
class Found:
    """What the device has."""

    epoch: int
    has: Mapping[str, str]
    texts: Mapping[str, str]
    links: Mapping[str, str]
    certificate: Certificate | None
    pem: str
    key: bool
    """Whether the private key is there, and is the certificate's as far as the device can tell."""
    key_open: bool
    """Whether anybody but root may read the key."""
    status: str
    here: bool
    """Whether this role has served a certificate here."""
    lineages: Mapping[str, Lineage]
    """Those that would be handed to this role's services, and the one that is called by the site's first name."""
    recorded: str
    """The one of them that is served, as the last run wrote it down."""
    traces: tuple[str, ...]
    """Files with which certbot issues here."""
    still: str
    """What it keeps in mind of the last issue: ``in_mind``."""
    request: str
    """What waits to be asked of a CA for a key that waits, where the device has no openssl."""
    client_ca: str
    client_crl: str
    gate: bool
    """Whether the firewall in force has a gate that can be opened for a challenge."""
    source: str
    """Where the certificate came from, as the last delivery wrote it down."""
    plain_sites: tuple[str, ...]
    """Files of nginx, besides the default site and ours, with a server on port 80."""
    served: tuple[str, ...]
    """Services that have it."""
    renews: str
    """What starts certbot for renewals there: its timer, cron, or nothing."""


def query(wanted: Wanted) -> str:
    """The read-only exchange. Private keys are looked at on the device, never sent."""
    return (
        f"HOME_={shlex.quote(services.HOME)}\nLIVE={shlex.quote(LIVE)}\nNAME={shlex.quote(certbot.lineage(wanted))}\n"
        f"TRACES={shlex.quote(' '.join(certbot.TRACES))}\n{_QUERY}"
    )


def read(reply: Reply) -> Found:
    has = {name: words for name, _, words in (line.partition(" ") for line in reply.all("has"))}
    pem = reply.get("certificate")
    certificate = _maybe(pem)
    public = reply.get("key_public")
    return Found(
        epoch=int(reply.get("epoch") or 0),
        has=has,
        texts=dict(zip(reply.all("text_of"), reply.all("text"), strict=True)),
        links={path: target for path, _, target in (line.partition(" ") for line in reply.all("link"))},
        certificate=certificate,
        pem=pem,
        key="key" in reply and (not public or certificate is None or public == certificate.public_key),
        key_open="key" in reply and not reply.get("key").startswith("-rw------- root"),
        status=reply.get("status").strip(),
        here="here" in reply or certificate is not None,
        lineages={
            name: Lineage(_maybe(reply.get(f"issued {name}")), reply.get(f"renewal {name}"))
            for name in reply.all("lineage")
        },
        recorded=reply.get("recorded").strip(),
        traces=tuple(reply.all("trace")),
        still=reply.get("still").strip(),
        request=reply.get("request"),
        client_ca=reply.get("client_ca"),
        client_crl=reply.get("client_crl"),
        gate="gate" in reply,
        source=reply.get("source").strip(),
        plain_sites=tuple(reply.all("plain_site")),
        served=tuple(line.split()[0] for line in reply.get("services").splitlines() if line.strip()),
        renews=reply.get("renews"),
    )


def _maybe(pem: str) -> Certificate | None:
    try:
        return certificates.describe(pem)
    except CertificateError:
        return None


def lineage(found: Found, wanted: Wanted) -> str:
    """What certbot on this device calls the certificate that is served, or is to call a first one.

    Not by the first name: names in another order, and a device that was renamed, would leave one behind that renews besides.
    """
    if found.recorded in found.lineages:
        return found.recorded
    served = found.certificate.fingerprint if found.certificate else ""
    same = [name for name, one in found.lineages.items() if one.issued and _same_names(one.issued, wanted)]
    same.sort(key=lambda name: found.lineages[name].issued.fingerprint != served)  # type: ignore[union-attr]
    return (same or [certbot.lineage(wanted)])[0]


def left_behind(found: Found, keep: str = "") -> dict[str, str]:
    """Path -> content for what certbot would go on renewing for this role's services although nobody wants it."""
    return {
        certbot.renewal(name): certbot.disarmed(one.renewal)
        for name, one in found.lineages.items()
        if name != keep and certbot.armed(one.renewal)
    }


def _same_names(certificate: Certificate, wanted: Wanted) -> bool:
    return set(certificate.names) == set(wanted.names)


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


def why_new(
    certificate: Certificate | None, wanted: Wanted, now: datetime, *, key: bool, still: str = ""
) -> str:
    """Why a certificate must be had; empty when the one there will do.

    Args:
        still: what this said right after the last issue. A CA that adds a name is asked for no other certificate; for one
            that leaves a name out, or is of no use otherwise, the same reason comes again, and the caller does not ask either.
    """
    if certificate is None:
        return "there is none"
    if not key:
        return "its private key is missing or another one's"
    reason = ""
    if not _same_names(certificate, wanted):
        reason = f"it is for {', '.join(sorted(certificate.names)) or 'no name'}, wanted is {', '.join(sorted(wanted.names))}"
    elif certificate.kind != wanted.key_type:
        reason = f"its key is {certificate.kind}, wanted is {wanted.key_type}"
    if reason and reason != still:
        return reason
    if certificate.not_after <= now:
        return f"it expired on {certificate.not_after:%Y-%m-%d %H:%M} UTC"
    if due(certificate, wanted, now):
        return f"it expires on {certificate.not_after:%Y-%m-%d %H:%M} UTC"
    return "" if set(wanted.names) < set(certificate.names) else reason


def due(certificate: Certificate, wanted: Wanted, now: datetime) -> bool:
    """Whether it is to be renewed, or has expired."""
    lifetime = certificate.not_after - certificate.not_before
    # Short-lived certificates would always be "due": for them the last third of their life counts, as for certbot.
    left = certificate.not_after - now
    return left.total_seconds() < min(wanted.renew_days * 86400.0, lifetime.total_seconds() / 3)


def in_mind(wanted: Wanted, reason: str) -> str:
    """What the device keeps of a reason that still holds: of this CA, asked in this way, and no other."""
    return f"{wanted.mode} {wanted.acme_directory} {reason}" if reason else ""


def still_so(found: Found, wanted: Wanted) -> str:
    """The reason that held right after the last issue, if that was by the same CA in the same way."""
    of_it = in_mind(wanted, " ").rstrip() + " "
    return found.still[len(of_it) :] if wanted.acme and found.still.startswith(of_it) else ""


def not_asked_again(reason: str) -> str:
    """For a reason that held right after the last issue: another order would bring the same."""
    return (
        f"a certificate was issued, and this is as it was before: {reason}. The CA is not asked for the same again before it "
        f"is due. Set the variables to what this CA gives (tls_names), or mend the CA and remove {certbot.STILL} on the device"
    )


def judge(found: Found, wanted: Wanted, now: datetime) -> dict[str, Any]:
    """For the audit: ``ok``, ``warning`` or ``failing``, and why."""
    certificate = found.certificate
    if certificate is None:
        return _verdict("failing", f"{services.CERT} is missing or no certificate")
    if not found.key:
        return _verdict("failing", "the private key is missing, or is not the certificate's")
    if found.key_open:
        return _verdict("failing", f"{services.KEY} can be read by others than root")
    until = _day(certificate.not_after)
    if certificate.not_after <= now:
        return _verdict("failing", f"the certificate expired on {until}")
    others = [(left, what) for left, what in _others(found, wanted, now) if left != "ok"]
    # A certificate that renews never gets this old: it is due at a third of its life or at renew_days.
    left = _left(certificate.not_before, certificate.not_after, wanted, now)
    if left == "failing":
        return _verdict(left, f"the certificate expires on {until} and was not renewed")
    if found.status.startswith("failed "):
        reason = found.status.split(" ", 2)[2] if found.status.count(" ") > 1 else ""
        return _verdict("failing", f"the last deployment failed: {reason}")
    missing = [name for name in wanted.names if not certificates.covers(certificate.names, name)]
    if missing:
        return _verdict("failing", f"the certificate is not for {', '.join(missing)}")
    for state, what in others:
        if state == "failing":
            return _verdict(state, what)
    if left == "warning":
        return _verdict(left, f"the certificate expires on {until}; it should have been renewed by now")
    for state, what in others:
        return _verdict(state, what)
    return _verdict("ok", f"valid until {until}")


def _others(found: Found, wanted: Wanted, now: datetime) -> Iterator[tuple[str, str]]:
    """What ends besides the certificate: state and words for each."""
    for name, last in _ends(found, wanted):
        state = _left(None, last, wanted, now)
        yield state, f"{name} {'expired' if last <= now else 'expires'} on {_day(last)}"
    for span in _spans(certificates.revocations, found.client_crl):
        yield (
            _left(span.first, span.last, wanted, now),
            f"the list of clients that {span.name} revoked is to be renewed by {_day(span.last)} (tls_client_crl): with an "
            "old one every client is refused",
        )


def _ends(found: Found, wanted: Wanted) -> Iterator[tuple[str, datetime]]:
    """CAs, and when each ends."""
    for span in _spans(certificates.spans, found.pem)[1:]:
        yield f"{span.name}, who signed the certificate,", span.last
    for span in _spans(certificates.spans, found.client_ca):
        yield f"{span.name}, whose clients are let in (tls_client_ca),", span.last
    if found.source.startswith(_UNTIL):
        yield "the fleet's CA (tls_ca_certificate)", datetime.fromisoformat(found.source[len(_UNTIL) :])


def _spans(read: Any, pem: str) -> list[Span]:
    try:
        return list(read(pem)) if pem.strip() else []
    except CertificateError:
        return []


def _left(first: datetime | None, last: datetime, wanted: Wanted, now: datetime) -> str:
    """How an end that is so near is judged; what lives for a short time only is near it later."""
    lifetime = (last - first).total_seconds() if first else float("inf")
    left = (last - now).total_seconds()
    if left <= 0 or left < min(wanted.fail_days * 86400.0, lifetime / 9):
        return "failing"
    return "warning" if left < min(wanted.warn_days * 86400.0, lifetime / 4) else "ok"


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _verdict(state: str, message: str) -> dict[str, Any]:
    return {"state": state, "message": message}


def source(wanted: Wanted) -> str:
    """Where a delivered certificate comes from: another place is a reason to have a new one.

    With the end of a CA that only the site has: the audit asks the device alone.
    """
    if wanted.mode == "controller":
        return f"controller {wanted.acme_directory}"
    if wanted.ca_certificate:
        return f"{_UNTIL}{certificates.spans(wanted.ca_certificate)[0].last.isoformat()}"
    return "operator"
