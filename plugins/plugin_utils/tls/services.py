# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What each service of a device is told so that it serves the certificate, and the plain listener behind it moved to
loopback. Pure: what the device said in, files and commands out.

Every service reads the same pair, /etc/sallyport/tls/{fullchain,privkey}.pem, or a copy of its own where it cannot
read root's files; deploy.sh makes the copies and has them loaded.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.access import shell
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls import mozilla
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls.options import WEBROOT, Wanted

HOME = "/etc/sallyport/tls"
CERT = f"{HOME}/fullchain.pem"
KEY = f"{HOME}/privkey.pem"
DEPLOY = f"{HOME}/deploy"
SERVICES = f"{HOME}/services"
SOURCE = f"{HOME}/source"
LINEAGE = f"{HOME}/lineage"
"""Which of certbot's certificates is served; there in mode device only."""
NEXT_KEY = f"{HOME}/privkey.next"
NEXT_REQUEST = f"{HOME}/request.next"
"""For a key that waits on a device without openssl: what the CA is asked for it."""
CLIENT_CA = f"{HOME}/client-ca.pem"
CLIENT_CRL = f"{HOME}/client-crl.pem"
NGINX = "/etc/nginx/conf.d/sallyport-tls.conf"
NGINX_DEFAULT = "/etc/nginx/sites-enabled/default"
MOSQUITTO = "/etc/mosquitto/conf.d/sallyport.conf"
LIGHTTPD = "/etc/lighttpd/conf-enabled/99-sallyport.conf"
LIGHTTPD_MAIN = "/etc/lighttpd/lighttpd.conf"
STUNNEL = f"{HOME}/stunnel.conf"
INITTAB = "/etc/inittab"
_MOSQUITTO_PAIR = "/etc/mosquitto/certs/sallyport"
_LIGHTTPD_PAIR = "/etc/lighttpd/sallyport"
BANNER = "# Managed by Sallyport (role tls); changes here are overwritten\n"
_HTTPD = re.compile(r"^(?P<head>[^:#]*:[^:]*:respawn:\S*httpd)(?P<rest>\s.*)$")
_LIGHTTPD_CLIENTS = (1, 4, 60)
_LIGHTTPD_RELOADS = re.compile(
    r"^\s*server\.(systemd-socket-activation|feature-flags\s*\+=\s*\(\s*\"server\.graceful-[a-z-]+\"[^,()]*\)\s*$)"
)
_OFF = "# switched off by sallyport: "
# By itself a reload waits for what is under way, and ends it after some seconds. So an older process goes on with that, for
# an hour at most, while the next one has the new certificate; it is handed the sockets, so nobody is turned away.
_LIGHTTPD_RELOAD = (
    'server.systemd-socket-activation = "enable"',
    "server.feature-flags += (",
    '  "server.graceful-restart-bg" => "enable",',
    '  "server.graceful-shutdown-timeout" => "3600"',
    ")",
)
_BIND = re.compile(r"^\s*server\.bind\s*[+:]?=")


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


def deploy_program() -> str:
    """What stays on the device, without the comments that only its readers need."""
    lines = (Path(__file__).parent / "deploy.sh").read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join(line for line in lines if not line.lstrip().startswith("# ") or line.startswith("#!"))


def front(wanted: Wanted, has: Mapping[str, str]) -> str:
    """Which program stands in front: nginx, stunnel or none. Refused where the wanted one is missing."""
    if wanted.front == "none":
        return "none"
    if wanted.front != "auto":
        if wanted.front not in has:
            raise Refused(
                f"tls_front is {wanted.front}, which this device does not have. Install it, or set tls_front: none"
            )
        return wanted.front
    for name in ("nginx", "stunnel"):
        if name in has:
            return name
    if wanted.mosquitto_port or wanted.lighttpd_port:
        return "none"
    raise Refused(
        "this device has neither nginx nor stunnel to stand in front of its web interface, and no other service was "
        "named. Install nginx, set tls_mosquitto_port or tls_lighttpd_port, or set tls_front: none to have only the "
        "certificate"
    )


def plan(
    wanted: Wanted,
    device: Mapping[str, Any],
    has: Mapping[str, str],
    *,
    pair: bool,
    ocsp: bool,
    texts: Mapping[str, str],
    served: Iterable[str] = (),
) -> Plan:
    """Everything but the pair.

    Args:
        has: program -> its version's words, as the device said.
        pair: whether a certificate is (or comes) there; without one only what an HTTP-01 challenge needs is set up.
        ocsp: whether that certificate names a responder.
        texts: path -> content of files that may be edited.
        served: services that have the certificate now; those that are no longer wanted give it back.
    """
    result = Plan()
    openssl = has.get("openssl", "")
    try:
        mozilla.check(wanted.profile, openssl)
    except mozilla.ProfileError as error:
        raise Refused(str(error)) from None
    chosen = front(wanted, has)
    for dest, text in ((CLIENT_CA, wanted.client_ca), (CLIENT_CRL, wanted.client_crl)):
        # What is no longer wanted must not be judged by the audit: nobody renews it.
        entry = (
            {"dest": dest, "content": _ended(text), "mode": "0644"}
            if text
            else {"dest": dest, "state": "absent"}
        )
        result.files.append(entry)
    if chosen == "nginx":
        _nginx(result, wanted, device, has, pair=pair, ocsp=ocsp)
    elif chosen == "stunnel" and pair:
        _stunnel(result, wanted, device)
    if wanted.mosquitto_port and pair:
        _mosquitto(result, wanted, has)
    if wanted.lighttpd_port and pair:
        texts = _lighttpd(result, wanted, has, texts)
    if chosen != "none" and wanted.upstream and wanted.plain == "local" and pair:
        _plain_to_loopback(result, wanted, device, texts)
    _inittab(result, wanted, device)
    lines = "".join(f"{name} {port}\n" for name, port in result.services.items())
    result.files += [
        {"dest": DEPLOY, "content": deploy_program(), "mode": "0755", "check": 'sh -n "$1"'},
        {"dest": SERVICES, "content": lines, "mode": "0644"},
    ]
    # Without a pair nobody serves for the moment; that takes nothing from those who will again.
    gone = [name for name in served if pair and name in _OF and name not in result.services]
    result.files += [{"dest": _OF[name].file, "state": "absent"} for name in gone]
    # Who goes may leave its port to who comes.
    result.activate += [*(_OF[name].drop for name in gone), f"/bin/sh {DEPLOY} reload"]
    result.revert.append(_revert(result.services))
    return result


@dataclass(frozen=True)
class _Service:
    """What of a service is this role's, and how it gives that back."""

    file: str
    drop: str
    """sh, after the file went: it serves without the certificate, and its own copy of the key goes."""


def _again(verb: str, unit: str) -> str:
    """A unit that is no longer installed has nothing to give back; one that failed just now is started all the same."""
    return (
        f"if systemctl cat {unit} >/dev/null 2>&1; then\n"
        f"  systemctl reset-failed {unit} 2>/dev/null || :\n  systemctl {verb} {unit}\nfi"
    )


_OF = {
    "nginx": _Service(NGINX, _again("reload-or-restart", "nginx")),
    # These two keep their sockets when they only reload.
    "mosquitto": _Service(
        MOSQUITTO,
        f"rm -f {_MOSQUITTO_PAIR}.crt {_MOSQUITTO_PAIR}.key {HOME}/mosquitto.loaded\n{_again('restart', 'mosquitto')}",
    ),
    "lighttpd": _Service(
        LIGHTTPD, f"rm -rf {_LIGHTTPD_PAIR} {HOME}/lighttpd.loaded\n{_again('restart', 'lighttpd')}"
    ),
    "stunnel": _Service(
        STUNNEL, 'kill -HUP 1\nfor pid in $(pidof stunnel4 stunnel || :); do kill "$pid" || :; done'
    ),
}


def _revert(services: Iterable[str]) -> str:
    """Services that had the certificate before read what they had; those that did not give it back.

    Going back to before the first generation takes the device's program and its list too. One service that does not
    come back must not keep the others from it.
    """
    lines = ["failed=0", f"if [ -f {DEPLOY} ]; then /bin/sh {DEPLOY} reload || failed=1; fi"]
    for name in services:
        lines += [f"grep -qs '^{name} ' {SERVICES} || {{", f"{_OF[name].drop}", "} || failed=1"]
    lines.append(f"[ -f {DEPLOY} ] || rm -f {HOME}/status {HOME}/*.old")
    lines.append('[ "$failed" = 0 ]')
    return "\n".join(lines)


def _ended(text: str) -> str:
    return text.strip() + "\n"


def _has_ipv6(device: Mapping[str, Any]) -> bool:
    return any(
        ":" in address for one in device.get("interfaces") or [] for address in one.get("addresses") or []
    )


def _nginx(
    result: Plan, wanted: Wanted, device: Mapping[str, Any], has: Mapping[str, str], *, pair: bool, ocsp: bool
) -> None:
    six = _has_ipv6(device)
    result.files.append(
        {"dest": NGINX, "content": nginx_text(wanted, has, six=six, pair=pair, ocsp=ocsp), "mode": "0644"}
    )
    if _plain_port(wanted, has):
        # Two servers cannot both be the default one of port 80.
        result.files.append({"dest": NGINX_DEFAULT, "state": "absent"})
    result.check.append(
        # The staged files judged by themselves: nginx -t alone would read what is live.
        "folder=$(mktemp -d)\ntrap 'rm -rf \"$folder\"' EXIT\n"
        f'sed -e "s|{CERT};|$(staged {CERT});|" -e "s|{KEY};|$(staged {KEY});|" '
        f'-e "s|{CLIENT_CA};|$(staged {CLIENT_CA});|" -e "s|{CLIENT_CRL};|$(staged {CLIENT_CRL});|" '
        f'"$(staged {NGINX})" >"$folder/server"\n'
        "printf 'pid %s/nginx.pid; error_log stderr; events {} http { access_log off; include %s/server; }\\n' "
        '"$folder" "$folder" >"$folder/nginx"\n'
        'nginx -t -q -c "$folder/nginx"'
    )
    result.services["nginx"] = wanted.port if pair else 0


def _plain_port(wanted: Wanted, has: Mapping[str, str]) -> bool:
    """Whether nginx is to answer on port 80: to redirect, or for a challenge."""
    del has
    return wanted.redirect or (wanted.mode == "device" and wanted.challenge in ("webroot", "nginx"))


def nginx_text(wanted: Wanted, has: Mapping[str, str], *, six: bool, pair: bool, ocsp: bool) -> str:
    """nginx's file: a redirect with room for challenges, and the TLS front."""
    names = " ".join(wanted.names) or "_"
    lines: list[str] = []
    if _plain_port(wanted, has) and wanted.challenge != "standalone":
        lines += ["server {", "    listen 80 default_server;"]
        lines += ["    listen [::]:80 default_server;"] if six else []
        lines += [f"    server_name {names};", "    server_tokens off;"]
        if wanted.mode == "device" and wanted.challenge in ("webroot", "nginx"):
            lines += [
                "    location ^~ /.well-known/acme-challenge/ {",
                f"        root {WEBROOT};",
                "        default_type text/plain;",
                "    }",
            ]
        port = "" if wanted.port == 443 else f":{wanted.port}"
        answer = f"return 301 https://$host{port}$request_uri;" if wanted.redirect and pair else "return 404;"
        lines += [f"    location / {{ {answer} }}", "}"]
    if pair:
        newer = mozilla.version(has.get("nginx", "")) >= (1, 25, 1)
        listen = f"{wanted.port} ssl" + ("" if newer else " http2") + " default_server;"
        lines += ["server {", f"    listen {listen}"]
        lines += [f"    listen [::]:{listen}"] if six else []
        lines += ["    http2 on;"] if newer else []
        lines += [f"    server_name {names};", "    server_tokens off;"]
        lines += [f"    ssl_certificate {CERT};", f"    ssl_certificate_key {KEY};"]
        lines += [f"    {line}" for line in mozilla.nginx(wanted.profile, has.get("openssl", ""))]
        # Compressed answers that echo what was asked leak their secrets by their length (BREACH).
        lines += ["    gzip off;", "    add_header X-Content-Type-Options nosniff always;"]
        if ocsp:
            lines += ["    ssl_stapling on;", "    ssl_stapling_verify on;"]
        if wanted.client_ca:
            lines += [f"    ssl_client_certificate {CLIENT_CA};", "    ssl_verify_client on;"]
            lines += [f"    ssl_crl {CLIENT_CRL};"] if wanted.client_crl else []
        if wanted.hsts:
            lines.append(f'    add_header Strict-Transport-Security "max-age={wanted.hsts}" always;')
        if wanted.upstream:
            lines += [
                "    location / {",
                f"        proxy_pass http://{wanted.upstream};",
                "        proxy_http_version 1.1;",
                "        proxy_set_header Host $host;",
                "        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",
                "        proxy_set_header X-Forwarded-Proto https;",
                "        proxy_set_header Upgrade $http_upgrade;",
                "        proxy_set_header Connection $connection_upgrade_sallyport;",
                "    }",
            ]
            head = "map $http_upgrade $connection_upgrade_sallyport {\n    default upgrade;\n    '' '';\n}\n"
        else:
            lines += [f"    root {wanted.root};", "    location / { try_files $uri $uri/ =404; }"]
            head = ""
        lines.append("}")
    else:
        head = ""
    return BANNER + head + "\n".join(lines) + "\n"


def _stunnel(result: Plan, wanted: Wanted, device: Mapping[str, Any]) -> None:
    if device.get("init") != "busybox":
        raise Refused(
            "tls_front stunnel is started by /etc/inittab, and this device has systemd. Install nginx"
        )
    if not wanted.upstream:
        raise Refused("tls_front stunnel needs tls_upstream: it serves no files itself")
    lines = [
        "foreground = yes",
        "pid =",
        "syslog = no",
        "output = /run/sallyport-stunnel.log",
        "log = append",
        "debug = 5",
        "[web]",
    ]
    lines += [f"accept = {':::' if _has_ipv6(device) else ''}{wanted.port}", f"connect = {wanted.upstream}"]
    lines += [f"cert = {CERT}", f"key = {KEY}", *mozilla.stunnel(wanted.profile)]
    if wanted.client_ca:
        lines += ["verifyChain = yes", f"CAfile = {CLIENT_CA}"]
        lines += [f"CRLfile = {CLIENT_CRL}"] if wanted.client_crl else []
    result.files.append({"dest": STUNNEL, "content": BANNER + "\n".join(lines) + "\n", "mode": "0644"})
    result.services["stunnel"] = wanted.port
    result.verify.append(shell.somebody_listens([("tcp", wanted.port)]))


def _mosquitto(result: Plan, wanted: Wanted, has: Mapping[str, str]) -> None:
    if "mosquitto" not in has:
        raise Refused(
            "tls_mosquitto_port is set, but this device has no mosquitto. Install it, or set the port to 0"
        )
    lines = [f"listener {wanted.mosquitto_port}"]
    lines += [f"certfile {_MOSQUITTO_PAIR}.crt", f"keyfile {_MOSQUITTO_PAIR}.key"]
    lines += mozilla.mosquitto(wanted.profile)
    if wanted.client_ca:
        lines += [f"cafile {CLIENT_CA}", "require_certificate true", "use_identity_as_username true"]
        lines += [f"crlfile {CLIENT_CRL}"] if wanted.client_crl else []
    else:
        # Who may log in is the broker's own business: this listener adds nobody.
        lines.append("allow_anonymous false")
    result.files.append({"dest": MOSQUITTO, "content": BANNER + "\n".join(lines) + "\n", "mode": "0644"})
    result.services["mosquitto"] = wanted.mosquitto_port


def _lighttpd(
    result: Plan, wanted: Wanted, has: Mapping[str, str], texts: Mapping[str, str]
) -> Mapping[str, str]:
    """Returns ``texts`` with lighttpd's own as it becomes."""
    if "lighttpd" not in has:
        raise Refused(
            "tls_lighttpd_port is set, but this device has no lighttpd. Install it, or set the port to 0"
        )
    known = mozilla.version(has["lighttpd"])
    if wanted.client_ca and known < _LIGHTTPD_CLIENTS:
        raise Refused(
            f"tls_client_ca and tls_lighttpd_port are both set, and this device's lighttpd is {'.'.join(map(str, known))}: "
            "before 1.4.60 it takes the clients' CA for its own chain and then serves nothing. Put nginx in front of it "
            "(tls_upstream), or leave tls_lighttpd_port at 0"
        )
    if "lighttpd_tls" not in has:
        raise Refused(
            "tls_lighttpd_port is set, but this device's lighttpd has no mod_openssl. Install it (Debian: apt-get install "
            "lighttpd-mod-openssl), or set the port to 0"
        )
    lines = [
        'server.modules += ( "mod_openssl" )',
        *_LIGHTTPD_RELOAD,
        f'$SERVER["socket"] == ":{wanted.lighttpd_port}" {{',
    ]
    lines += ['ssl.engine = "enable"', f'ssl.pemfile = "{_LIGHTTPD_PAIR}/fullchain.pem"']
    lines += [f'ssl.privkey = "{_LIGHTTPD_PAIR}/privkey.pem"', *mozilla.lighttpd(wanted.profile)]
    if wanted.client_ca:
        lines += [f'ssl.verifyclient.ca-file = "{CLIENT_CA}"']
        lines += ['ssl.verifyclient.activate = "enable"', 'ssl.verifyclient.enforce = "enable"']
        lines += [f'ssl.verifyclient.ca-crl-file = "{CLIENT_CRL}"'] if wanted.client_crl else []
    lines.append("}")
    result.files.append({"dest": LIGHTTPD, "content": BANNER + "\n".join(lines) + "\n", "mode": "0644"})
    result.services["lighttpd"] = wanted.lighttpd_port
    if LIGHTTPD_MAIN not in texts:
        return texts
    content = lighttpd_without_its_own_way_of_reloading(texts[LIGHTTPD_MAIN])
    result.files.append({"dest": LIGHTTPD_MAIN, "content": content, "mode": "keep"})
    return {**texts, LIGHTTPD_MAIN: content}


def _plain_to_loopback(
    result: Plan, wanted: Wanted, device: Mapping[str, Any], texts: Mapping[str, str]
) -> None:
    """The plain listener behind the front is nobody's but the front's."""
    port = wanted.upstream_port
    holders = sorted(
        {
            str(one.get("process") or "an unknown process")
            for one in device.get("listening") or []
            if one["protocol"] == "tcp" and one["port"] == port and not _loopback(str(one["address"]))
        }
    )
    if not holders or (INITTAB in (device.get("files") or {}) and set(holders) <= {"httpd", "busybox"}):
        return  # init's own are moved in its table
    if holders == ["lighttpd"] and LIGHTTPD_MAIN in texts:
        result.files = [entry for entry in result.files if entry["dest"] != LIGHTTPD_MAIN]
        result.files.append(
            {"dest": LIGHTTPD_MAIN, "content": lighttpd_to_loopback(texts[LIGHTTPD_MAIN]), "mode": "keep"}
        )
        result.activate.insert(0, _again("restart", "lighttpd"))
        result.revert.append(_again("restart", "lighttpd"))
        return
    raise Refused(
        f"{', '.join(holders)} listens on port {port} beyond loopback, so the plain interface would stay open beside the "
        "TLS front, and this role does not know how to move it. Bind it to 127.0.0.1, or set tls_plain: leave"
    )


def _inittab(result: Plan, wanted: Wanted, device: Mapping[str, Any]) -> None:
    """What init starts: the front, and the plain listener on loopback."""
    before = (device.get("files") or {}).get(INITTAB)
    if before is None or "stunnel" not in result.services:
        return
    port = wanted.upstream_port
    text, found = httpd_to_loopback(before, port) if wanted.plain == "local" else (before, False)
    text = _with_stunnel(text)
    result.files.append({"dest": INITTAB, "content": text, "mode": "keep"})
    if text == before:
        return
    # init leaves alone what runs; the next one it starts reads the new line.
    moved = f"\n{shell.stop_holders(['httpd', 'busybox'], [('tcp', port)])}" if found else ""
    result.activate.insert(0, f"kill -HUP 1{moved}")
    result.revert.append(f"kill -HUP 1{moved}")
    if found:
        result.verify.append(shell.somebody_listens([("tcp", port)]))


def httpd_to_loopback(text: str, port: int) -> tuple[str, bool]:
    """inittab with BusyBox httpd on 127.0.0.1, and whether an entry for this port was found."""
    lines, found = [], False
    for line in text.splitlines():
        match = _HTTPD.match(line)
        if match:
            words = shlex.split(match["rest"])
            at = next((i for i, word in enumerate(words) if word == "-p"), None)
            where = words[at + 1] if at is not None and at + 1 < len(words) else "80"
            if where.rpartition(":")[2] == str(port):
                found = True
                if at is not None:
                    words[at + 1] = f"127.0.0.1:{port}"
                else:
                    words += ["-p", f"127.0.0.1:{port}"]
                line = f"{match['head']} {' '.join(words)}"  # noqa: PLW2901 - the line as it is to be, in its place
        lines.append(line)
    return "\n".join(lines) + "\n", found


def _with_stunnel(text: str) -> str:
    line = f"::respawn:/usr/bin/stunnel4 {STUNNEL}"
    return text if line in text.splitlines() else f"{text.rstrip()}\n{line}\n"


def lighttpd_without_its_own_way_of_reloading(text: str) -> str:
    """lighttpd.conf without what it would not take twice (Debian 11's says after how long downloads end)."""
    lines = [f"{_OFF}{line}" if _LIGHTTPD_RELOADS.match(line) else line for line in text.splitlines()]
    return "\n".join(lines) + "\n"


def lighttpd_to_loopback(text: str) -> str:
    """lighttpd.conf bound to 127.0.0.1; Debian's helper that adds an IPv6 socket is switched off."""
    lines = [
        f"{_OFF}{line}"
        if (_BIND.match(line) and "127.0.0.1" not in line)
        or ("use-ipv6" in line and not line.startswith("#"))
        else line
        for line in text.splitlines()
    ]
    if 'server.bind = "127.0.0.1"' not in lines:
        lines.append('server.bind = "127.0.0.1"')
    return "\n".join(lines) + "\n"


def _loopback(address: str) -> bool:
    return address.startswith("127.") or address in ("::1", "localhost")
