# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""lighttpd: a TLS listener of its own, or the plain web interface behind a front."""

from __future__ import annotations

import re

from ansible_collections.sallyport.iot.plugins.plugin_utils.tls import mozilla
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls.services.base import (
    Plan,
    Refused,
    Site,
    again,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls.services.paths import (
    BANNER,
    CLIENT_CA,
    CLIENT_CRL,
    HOME,
    LIGHTTPD,
    LIGHTTPD_MAIN,
    LIGHTTPD_PAIR,
)

FILE = LIGHTTPD
# It keeps its sockets when it only reloads.
DROP = f"rm -rf {LIGHTTPD_PAIR} {HOME}/lighttpd.loaded\n{again('restart', 'lighttpd')}"
_TAKES_CLIENTS = (1, 4, 60)
_RELOADS = re.compile(
    r"^\s*server\.(systemd-socket-activation|feature-flags\s*\+=\s*\(\s*\"server\.graceful-[a-z-]+\"[^,()]*\)\s*$)"
)
_BIND = re.compile(r"^\s*server\.bind\s*[+:]?=")
_PORT = re.compile(r"^\s*server\.port\s*:?=\s*(\d+)", re.M)
_OFF = "# switched off by sallyport: "
_LOCAL = 'server.bind = "127.0.0.1" # by sallyport'
# By itself a reload waits for what is under way, and ends it after some seconds. So an older process goes on with that, for
# an hour at most, while the next one has the new certificate; it is handed the sockets, so nobody is turned away.
_RELOAD = (
    'server.systemd-socket-activation = "enable"',
    "server.feature-flags += (",
    '  "server.graceful-restart-bg" => "enable",',
    '  "server.graceful-shutdown-timeout" => "3600"',
    ")",
)


def add(plan: Plan, site: Site) -> None:
    wanted = site.wanted
    if "lighttpd" not in site.has:
        raise Refused(
            "tls_lighttpd_port is set, but this device has no lighttpd. Install it, or set the port to 0"
        )
    known = site.known("lighttpd")
    if wanted.client_ca and known < _TAKES_CLIENTS:
        raise Refused(
            f"tls_client_ca and tls_lighttpd_port are both set, and this device's lighttpd is {'.'.join(map(str, known))}: "
            "before 1.4.60 it takes the clients' CA for its own chain and then serves nothing. Put nginx in front of it "
            "(tls_upstream), or leave tls_lighttpd_port at 0"
        )
    if "lighttpd_tls" not in site.has:
        raise Refused(
            "tls_lighttpd_port is set, but this device's lighttpd has no mod_openssl. Install it (Debian: apt-get install "
            "lighttpd-mod-openssl), or set the port to 0"
        )
    site.refuse_strangers(
        wanted.lighttpd_port,
        "lighttpd",
        wanted_for="lighttpd is to have for TLS",
        otherwise="set tls_lighttpd_port to another one",
    )
    lines = [
        'server.modules += ( "mod_openssl" )',
        *_RELOAD,
        f'$SERVER["socket"] == ":{wanted.lighttpd_port}" {{',
    ]
    lines += ['ssl.engine = "enable"', f'ssl.pemfile = "{LIGHTTPD_PAIR}/fullchain.pem"']
    lines += [f'ssl.privkey = "{LIGHTTPD_PAIR}/privkey.pem"', *mozilla.lighttpd(wanted.profile)]
    if wanted.client_ca:
        lines += [f'ssl.verifyclient.ca-file = "{CLIENT_CA}"']
        lines += ['ssl.verifyclient.activate = "enable"', 'ssl.verifyclient.enforce = "enable"']
        lines += [f'ssl.verifyclient.ca-crl-file = "{CLIENT_CRL}"'] if wanted.client_crl else []
    lines.append("}")
    plan.files.append({"dest": LIGHTTPD, "content": BANNER + "\n".join(lines) + "\n", "mode": "0644"})
    plan.services["lighttpd"] = wanted.lighttpd_port


def main_file(plan: Plan, site: Site, *, local: bool) -> None:
    """lighttpd.conf as it is to be: with nothing of this role's that is not wanted any more.

    Args:
        local: whether what listens on the upstream's port is to be moved to loopback.
    """
    before = site.texts.get(LIGHTTPD_MAIN)
    if before is None or not site.pair:
        return
    text = original(before)
    if "lighttpd" in plan.services:
        text = without_its_own_way_of_reloading(text)
    behind = local and port(before) == site.wanted.upstream_port
    if behind and (_LOCAL in before or site.holders(site.wanted.upstream_port) == ["lighttpd"]):
        text = to_loopback(text)
    if text == before and original(before) == before:
        return
    plan.files.append({"dest": LIGHTTPD_MAIN, "content": text, "mode": "keep"})
    if (_LOCAL in text) != (_LOCAL in before):
        # It moves before the front comes, and may leave its port to it; it comes back after the front went.
        plan.activate.insert(0, again("restart", "lighttpd"))
        plan.revert.append(again("restart", "lighttpd"))


def moves(site: Site) -> bool:
    """Whether lighttpd is what listens on the upstream's port, and this role knows how to move it."""
    text = site.texts.get(LIGHTTPD_MAIN)
    return text is not None and port(text) == site.wanted.upstream_port


def port(text: str) -> int:
    found = _PORT.findall(text)
    return int(found[-1]) if found else 80


def original(text: str) -> str:
    """lighttpd.conf without what this role did to it."""
    lines = [line.removeprefix(_OFF) for line in text.splitlines() if line != _LOCAL]
    return text if lines == text.splitlines() else "\n".join(lines) + "\n"


def without_its_own_way_of_reloading(text: str) -> str:
    """lighttpd.conf without what it would not take twice (Debian 11's says after how long downloads end)."""
    lines = [f"{_OFF}{line}" if _RELOADS.match(line) else line for line in text.splitlines()]
    return "\n".join(lines) + "\n"


def to_loopback(text: str) -> str:
    """lighttpd.conf bound to 127.0.0.1; Debian's helper that adds an IPv6 socket is switched off."""
    lines, bound = [], False
    for line in text.splitlines():
        if _BIND.match(line) and '"127.0.0.1"' in line:
            bound = True
        elif _BIND.match(line) or ("use-ipv6" in line and not line.lstrip().startswith("#")):
            lines.append(f"{_OFF}{line}")
            continue
        lines.append(line)
    return "\n".join([*lines, *([] if bound else [_LOCAL])]) + "\n"
