# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What each service of a device is told so that it serves the certificate, and the plain listener behind it moved to
loopback. Pure: what the device said in, files and commands out; one module for each service.

Every service reads the same pair, /etc/sallyport/tls/{fullchain,privkey}.pem, or a copy of its own where it cannot
read root's files; deploy.sh makes the copies and has them loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.access import shell
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls import mozilla
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls.options import Wanted
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls.services import (
    httpd,
    lighttpd,
    mosquitto,
    nginx,
    stunnel,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls.services.base import (
    Plan,
    Refused,
    Site,
    ended,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls.services.paths import (
    BANNER,
    CERT,
    CLIENT_CA,
    CLIENT_CRL,
    DEPLOY,
    HOME,
    INITTAB,
    KEY,
    LIGHTTPD,
    LIGHTTPD_MAIN,
    LINEAGE,
    MOSQUITTO,
    MOSQUITTO_MAIN,
    NEXT_KEY,
    NEXT_REQUEST,
    NGINX,
    NGINX_DEFAULT,
    NGINX_KEPT,
    SERVICES,
    SOURCE,
    STUNNEL,
)

__all__ = [
    "BANNER", "CERT", "CLIENT_CA", "CLIENT_CRL", "DEPLOY", "HOME", "INITTAB", "KEY", "LIGHTTPD", "LIGHTTPD_MAIN", "LINEAGE",
    "MOSQUITTO", "MOSQUITTO_MAIN", "NEXT_KEY", "NEXT_REQUEST", "NGINX", "NGINX_DEFAULT", "NGINX_KEPT", "SERVICES", "SOURCE", "STUNNEL", "Plan", "Refused",
    "deploy_program", "front", "plan",
]  # fmt: skip

_OF: Mapping[str, ModuleType] = {
    "nginx": nginx,
    "mosquitto": mosquitto,
    "lighttpd": lighttpd,
    "stunnel": stunnel,
}
"""Each has FILE, which is this role's, and DROP: sh, after that file went, with which it serves without the certificate, and
its own copy of the key goes."""


def deploy_program() -> str:
    """What stays on the device, without the comments that only its readers need."""
    lines = (Path(__file__).parents[1] / "deploy.sh").read_text(encoding="utf-8").splitlines(keepends=True)
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
    links: Mapping[str, str] | None = None,
    plain_sites: Iterable[str] = (),
    served: Iterable[str] = (),
) -> Plan:
    """Everything but the pair.

    Args:
        has: program -> its version's words, as the device said.
        pair: whether a certificate is (or comes) there; without one only what an HTTP-01 challenge needs is set up.
        ocsp: whether that certificate names a responder.
        texts: path -> content of files that may be edited.
        links: path -> target of those that are links.
        plain_sites: files of nginx, besides the default site and ours, with a server on port 80.
        served: services that have the certificate now; those that are no longer wanted give it back.

    Raises:
        Refused: with a pair, whatever this device cannot have.
    """
    result = Plan()
    try:
        mozilla.check(wanted.profile, has.get("openssl", ""))
    except mozilla.ProfileError as error:
        raise Refused(str(error)) from None
    chosen = front(wanted, has)
    stay = {chosen, "mosquitto" if wanted.mosquitto_port else "", "lighttpd" if wanted.lighttpd_port else ""}
    # Without a pair nobody serves for the moment; that takes nothing from those who will again.
    gone = [name for name in served if pair and name in _OF and name not in stay]
    site = Site(
        wanted, device, has, texts, links or {}, pair=pair, ocsp=ocsp, plain_sites=tuple(plain_sites), leaving=gone
    )  # fmt: skip
    for dest, text in ((CLIENT_CA, wanted.client_ca), (CLIENT_CRL, wanted.client_crl)):
        # What is no longer wanted must not be judged by the audit: nobody renews it.
        entry = (
            {"dest": dest, "content": ended(text), "mode": "0644"}
            if text
            else {"dest": dest, "state": "absent"}
        )
        result.files.append(entry)
    if chosen == "nginx":
        nginx.add(result, site)
    elif chosen == "stunnel" and pair:
        stunnel.add(result, site)
    if wanted.mosquitto_port and pair:
        mosquitto.add(result, site)
    if wanted.lighttpd_port and pair:
        lighttpd.add(result, site)
    _refuse_one_port_for_two(result)
    local = bool(chosen != "none" and wanted.upstream and wanted.plain == "local" and pair)
    if local:
        _refuse_what_cannot_be_moved(site)
        result.verify.append(shell.nobody_beyond_loopback(wanted.upstream_port))
    httpd.add(result, site, local=local)
    lighttpd.main_file(result, site, local=local)
    lines = "".join(f"{name} {port}\n" for name, port in result.services.items())
    result.files += [
        {"dest": DEPLOY, "content": deploy_program(), "mode": "0755", "check": 'sh -n "$1"'},
        {"dest": SERVICES, "content": lines, "mode": "0644"},
    ]
    result.files += [{"dest": _OF[name].FILE, "state": "absent"} for name in gone]
    if "nginx" in gone:
        result.files += nginx.default_site(site, off=False)
    # Who goes may leave its port to who comes.
    result.activate += [*(_OF[name].DROP for name in gone), f"/bin/sh {DEPLOY} reload"]
    result.revert.append(_revert(result.services))
    return result


def _refuse_one_port_for_two(result: Plan) -> None:
    for name, port in result.services.items():
        others = [one for one, its in result.services.items() if one != name and its == port]
        if port and others:
            raise Refused(
                f"{name} and {others[0]} would both listen on port {port}: set tls_port, tls_mosquitto_port or "
                "tls_lighttpd_port to another one, or tls_front: none"
            )


def _refuse_what_cannot_be_moved(site: Site) -> None:
    """The plain listener behind the front is to be nobody's but the front's."""
    upstream, port = site.wanted.upstream, site.wanted.upstream_port
    holders = site.holders(port)
    if not holders or (holders == ["lighttpd"] and lighttpd.moves(site)):
        return
    why = "this role does not know how to move it"
    if set(holders) <= set(httpd.NAMES) and site.inittab is not None:
        if httpd.starts(httpd.original(site.inittab), upstream):
            return
        why = f"{INITTAB} has no line that starts an httpd on this port (a script may), so this role cannot move it"
    raise Refused(
        f"{', '.join(holders)} listens on port {port} beyond loopback, so the plain interface would stay open beside the "
        f"TLS front, and {why}. Bind it to 127.0.0.1, or set tls_plain: leave"
    )


def _revert(services: Iterable[str]) -> str:
    """Services that had the certificate before read what they had; those that did not give it back.

    Going back to before the first generation takes the device's program and its list too, then every key of this role's.
    One service that does not come back must not keep the others from it.
    """
    lines = ["failed=0", f"if [ -f {DEPLOY} ]; then /bin/sh {DEPLOY} reload || failed=1; fi"]
    for name in services:
        lines += [f"grep -qs '^{name} ' {SERVICES} || {{", f"{_OF[name].DROP}", "} || failed=1"]
    lines += [
        f"if [ ! -f {DEPLOY} ]; then",
        f"  rm -f {HOME}/status {HOME}/*.old {HOME}/*.pem {HOME}/*.loaded",
        "fi",
    ]
    lines.append('[ "$failed" = 0 ]')
    return "\n".join(lines)
