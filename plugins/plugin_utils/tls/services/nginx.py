# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""nginx: the TLS front, and port 80 for redirects and challenges.

Until there is a certificate, and where no redirect is wanted, port 80 goes on showing what it showed: a server of this
role's answers challenges for the names and hands everything else to nginx's own default server.
"""

from __future__ import annotations

from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.tls import mozilla
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls.options import WEBROOT, Wanted
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls.services.base import (
    Plan,
    Refused,
    Site,
    again,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls.services.paths import (
    BANNER,
    CERT,
    CLIENT_CA,
    CLIENT_CRL,
    KEY,
    NGINX,
    NGINX_DEFAULT,
    NGINX_KEPT,
)

_PASSED_FROM = "127.0.0.2"
_PASSED_FOR = "X-Sallyport-Client"
FILE = NGINX
DROP = again("reload-or-restart", "nginx")


def add(plan: Plan, site: Site) -> None:
    wanted = site.wanted
    if site.pair:
        site.refuse_strangers(
            wanted.port,
            "nginx",
            wanted_for="nginx is to have as the TLS front",
            otherwise="set tls_port to another one",
        )
    if _challenged(site) or _redirects(site):
        site.refuse_strangers(
            80,
            "nginx",
            wanted_for="nginx needs for " + ("challenges" if _challenged(site) else "the redirect"),
            otherwise="set tls_challenge: dns" if _challenged(site) else "set tls_redirect: false",
        )
    if _redirects(site) and site.plain_sites and not wanted.upstream:
        raise Refused(
            f"nginx shows something of its own on port 80 ({', '.join(site.plain_sites)}), which the redirect would hide and the TLS "
            "front does not show. Have it listen on 127.0.0.1:8080 and set tls_upstream: 127.0.0.1:8080, or set "
            "tls_redirect: false"
        )
    plan.files.append({"dest": NGINX, "content": text(site), "mode": "0644"})
    plan.files += default_site(site, off=_redirects(site) or _certbots_port(wanted))
    plan.check.append(
        # The staged files judged by themselves: nginx -t alone would read what is live.
        "folder=$(mktemp -d)\ntrap 'rm -rf \"$folder\"' EXIT\n"
        f'sed -e "s|{CERT};|$(staged {CERT});|" -e "s|{KEY};|$(staged {KEY});|" '
        f'-e "s|{CLIENT_CA};|$(staged {CLIENT_CA});|" -e "s|{CLIENT_CRL};|$(staged {CLIENT_CRL});|" '
        f'"$(staged {NGINX})" >"$folder/server"\n'
        "printf 'pid %s/nginx.pid; error_log stderr; events {} http { access_log off; include %s/server; }\\n' "
        '"$folder" "$folder" >"$folder/nginx"\n'
        'nginx -t -q -c "$folder/nginx"'
    )
    plan.services["nginx"] = wanted.port if site.pair else 0


def default_site(site: Site, *, off: bool) -> list[dict[str, Any]]:
    """nginx's default site, while the redirect has its place: two servers cannot both be the default one of port 80."""
    there, kept = _as_it_is(site, NGINX_DEFAULT), _as_it_is(site, NGINX_KEPT)
    if off:
        keep = there or kept
        return [{"dest": NGINX_DEFAULT, "state": "absent"}, *([{"dest": NGINX_KEPT, **keep}] if keep else [])]
    if not kept:
        return []
    # Somebody may have put one there meanwhile: theirs stays.
    back = [] if there else [{"dest": NGINX_DEFAULT, **kept}]
    return [*back, {"dest": NGINX_KEPT, "state": "absent"}]


def _as_it_is(site: Site, path: str) -> dict[str, Any]:
    """A file as an entry of a change, or nothing where there is none."""
    if path in site.links:
        return {"link": site.links[path]}
    return {"content": site.texts[path], "mode": "0644"} if path in site.texts else {}


def _challenged(site: Site) -> bool:
    """Whether nginx is to answer challenges on port 80: not where the site's own web server does, from a folder of its own."""
    wanted = site.wanted
    elsewhere = wanted.challenge == "webroot" and wanted.webroot != WEBROOT and site.strangers(80, "nginx")
    return wanted.mode == "device" and wanted.challenge in ("webroot", "nginx") and not elsewhere


def _certbots_port(wanted: Wanted) -> bool:
    """Whether certbot on the device needs port 80 for itself at each renewal."""
    return wanted.mode == "device" and wanted.challenge == "standalone" and wanted.http_port == 80


def _redirects(site: Site) -> bool:
    return site.wanted.redirect and site.pair and not _certbots_port(site.wanted)


def text(site: Site) -> str:
    lines = _port_80(site)
    head = ""
    if site.pair:
        lines += _front(site)
        head = _MAPS if site.wanted.upstream else ""
    return BANNER + head + "\n".join(lines) + "\n"


def _port_80(site: Site) -> list[str]:
    wanted = site.wanted
    challenge = [
        "    location ^~ /.well-known/acme-challenge/ {",
        f"        root {wanted.webroot};",
        "        default_type text/plain;",
        "    }",
    ]
    if _redirects(site):
        port = "" if wanted.port == 443 else f":{wanted.port}"
        rest = [f"    location / {{ return 301 https://$host{port}$request_uri; }}"]
        default = " default_server"
    elif _challenged(site):
        rest = [
            "    # What is not a challenge goes where it went before: to the default server of this port.",
            "    location / {",
            "        if ($http_x_sallyport) { return 404; }",
            "        proxy_pass http://127.0.0.1:80;",
            # From 127.0.0.1 itself, pages that are for the device alone (allow 127.0.0.1) would be everybody's.
            f"        proxy_bind {_PASSED_FROM};",
            f"        proxy_set_header {_PASSED_FOR} $remote_addr;",
            "        proxy_set_header Host 127.0.0.1;",
            "        proxy_set_header X-Sallyport passed;",
            "        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",
            "        client_max_body_size 0;",
            "    }",
        ]
        default = ""
    else:
        return []
    # Whom the default server lets in, and what it logs, goes by who asks, not by who hands it on.
    lines = (
        [f"set_real_ip_from {_PASSED_FROM};", f"real_ip_header {_PASSED_FOR};"]
        if not default and "nginx_realip" in site.has
        else []
    )
    lines += ["server {", f"    listen 80{default};"]
    lines += [f"    listen [::]:80{default};"] if site.six else []
    lines += [f"    server_name {_names(wanted)};", "    server_tokens off;"]
    return [*lines, *(challenge if _challenged(site) else []), *rest, "}"]


def _names(wanted: Wanted) -> str:
    return " ".join(wanted.names) or "_"


# HTTP/1.0 has no Host; a device's web interface may need the port in it.
_MAPS = (
    "map $http_upgrade $connection_upgrade_sallyport {\n    default upgrade;\n    '' '';\n}\n"
    "map $http_host $host_sallyport {\n    default $http_host;\n    '' $host;\n}\n"
)


def _front(site: Site) -> list[str]:
    wanted = site.wanted
    newer = site.known("nginx") >= (1, 25, 1)
    listen = f"{wanted.port} ssl" + ("" if newer else " http2") + " default_server;"
    lines = ["server {", f"    listen {listen}"]
    lines += [f"    listen [::]:{listen}"] if site.six else []
    lines += ["    http2 on;"] if newer else []
    lines += [f"    server_name {_names(wanted)};", "    server_tokens off;"]
    lines += [f"    ssl_certificate {CERT};", f"    ssl_certificate_key {KEY};"]
    # A session that goes on is not asked for its certificate again: who is revoked would stay in for as long.
    resume = not wanted.client_ca
    lines += [
        f"    {line}" for line in mozilla.nginx(wanted.profile, site.has.get("openssl", ""), resume=resume)
    ]
    # Compressed answers that echo what was asked leak their secrets by their length (BREACH).
    lines += ["    gzip off;", "    add_header X-Content-Type-Options nosniff always;"]
    if site.ocsp:
        lines += ["    ssl_stapling on;", "    ssl_stapling_verify on;"]
    if wanted.client_ca:
        lines += [f"    ssl_client_certificate {CLIENT_CA};", "    ssl_verify_client on;"]
        lines += [f"    ssl_crl {CLIENT_CRL};"] if wanted.client_crl else []
    if wanted.hsts:
        lines.append(f'    add_header Strict-Transport-Security "max-age={wanted.hsts}" always;')
    if wanted.upstream:
        lines += [
            "    # How large an upload may be, and how long an answer may take, is the web interface's own business.",
            "    client_max_body_size 0;",
            "    location / {",
            f"        proxy_pass http://{wanted.upstream};",
            "        proxy_http_version 1.1;",
            "        proxy_request_buffering off;",
            "        proxy_read_timeout 1h;",
            "        proxy_send_timeout 1h;",
            "        proxy_set_header Host $host_sallyport;",
            "        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",
            "        proxy_set_header X-Forwarded-Proto https;",
            "        proxy_set_header Upgrade $http_upgrade;",
            "        proxy_set_header Connection $connection_upgrade_sallyport;",
            "    }",
        ]
    else:
        lines += [f"    root {wanted.root};", "    location / { try_files $uri $uri/ =404; }"]
    return [*lines, "}"]
