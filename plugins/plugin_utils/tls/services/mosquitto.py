# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""mosquitto: a TLS listener beside those that the broker has, which go on as they are.

allow_anonymous and files of users count for every listener, unless per_listener_settings is true. And a broker without
any listener has one on loopback that lets everybody in, until its configuration names another one. So what there is of
its own decides what may be said here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ansible_collections.sallyport.iot.plugins.plugin_utils.access import shell
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls import certificates, mozilla
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
    MOSQUITTO,
    MOSQUITTO_MAIN,
    MOSQUITTO_PAIR,
)

FILE = MOSQUITTO
# It keeps its sockets when it only reloads.
DROP = f"rm -f {MOSQUITTO_PAIR}.crt {MOSQUITTO_PAIR}.key {HOME}/mosquitto.loaded\n{again('restart', 'mosquitto')}"
_FOLDER = MOSQUITTO.rpartition("/")[0]
_LOCAL = 1883
_USERS = ("password_file", "plugin", "auth_plugin", "global_plugin", "psk_file")
_SECURITY = (*_USERS, "acl_file", "allow_zero_length_clientid", "auto_id_prefix", "plugin_opt", "auth_opt")


@dataclass(frozen=True)
class Own:
    """What the broker's configuration says besides ours."""

    listeners: tuple[int, ...] = ()
    """Ports; none means one on loopback."""
    anonymous: bool | None = None
    """allow_anonymous, where it is said for all listeners."""
    said_in: str = ""
    """Which file says so."""
    per_listener: bool = False
    users: bool = False
    """Whether anything says who may log in by name."""
    security: bool = False
    includes: bool = True
    """Whether it reads the folder that our file goes to."""


def own(texts: Mapping[str, str]) -> Own:
    """The broker's own configuration.

    Args:
        texts: path to content of its files, in the order in which it reads them; others are passed over.
    """
    listeners, anonymous, said_in, words = [], None, "", set()
    per_listener = False
    folders = re.findall(r"^ *include_dir +(\S*?)/* *$", texts.get(MOSQUITTO_MAIN, ""), re.M)
    for path, text in texts.items():
        if path == MOSQUITTO or (path != MOSQUITTO_MAIN and path.rpartition("/")[0] not in folders):
            continue
        for line in text.splitlines():
            word, _, value = line.strip().partition(" ")
            value = value.strip()
            words.add(word)
            if word in ("listener", "port"):
                listeners.append(_port(value))
            elif word == "per_listener_settings":
                per_listener = value == "true"
            elif word == "allow_anonymous":
                anonymous, said_in = value == "true", path
    return Own(
        listeners=tuple(listeners),
        anonymous=anonymous,
        said_in=said_in,
        per_listener=per_listener,
        users=any(word in words for word in _USERS),
        security=any(word.startswith(_SECURITY) for word in words),
        includes=_FOLDER in folders or MOSQUITTO_MAIN not in texts,
    )


def _port(value: str) -> int:
    """0 for a socket that is a file."""
    first = value.partition(" ")[0]
    return int(first) if first.isdigit() else 0


def add(plan: Plan, site: Site) -> None:
    wanted = site.wanted
    port = wanted.mosquitto_port
    if "mosquitto" not in site.has:
        raise Refused(
            "tls_mosquitto_port is set, but this device has no mosquitto. Install it, or set the port to 0"
        )
    site.refuse_strangers(
        port,
        "mosquitto",
        wanted_for="mosquitto is to have for TLS",
        otherwise="set tls_mosquitto_port to another one",
    )
    there = own(site.texts)
    _refuse(site, there)
    lines = _that_stay(site, there)
    lines += [f"listener {port}"]
    lines += [f"certfile {MOSQUITTO_PAIR}.crt", f"keyfile {MOSQUITTO_PAIR}.key"]
    lines += mozilla.mosquitto(wanted.profile)
    if wanted.client_ca:
        lines += [f"cafile {CLIENT_CA}", "require_certificate true", "use_identity_as_username true"]
        lines += [f"crlfile {CLIENT_CRL}"] if wanted.client_crl else []
        lines.append(f"# Another one restarts it, since it reads these once: {_clients(site)}")
    else:
        if there.per_listener or _by_listener(site, there):
            lines.append("allow_anonymous false")
        if there.per_listener or not there.users:
            plan.warnings.append(
                f"nobody can log in at mosquitto's TLS listener, port {port}: "
                + (
                    "no password_file is said for it"
                    if there.per_listener
                    else "the broker has no password_file"
                )
                + ". Set tls_client_ca, or name users in the broker's configuration"
            )
    plan.files.append({"dest": MOSQUITTO, "content": BANNER + "\n".join(lines) + "\n", "mode": "0644"})
    plan.services["mosquitto"] = port
    stay = {("tcp", one) for one in there.listeners or (_LOCAL,)} & {
        (str(one["protocol"]), int(one["port"]))
        for one in site.device.get("listening") or []
        if one.get("process") == "mosquitto"
    }
    if stay:
        plan.verify.append(shell.somebody_listens(stay))


def _refuse(site: Site, there: Own) -> None:
    """Where a TLS listener would let everybody in, or shut out those who come now."""
    if not there.includes:
        raise Refused(
            f"{MOSQUITTO_MAIN} does not read {_FOLDER}, where this role's file would lie. Add: include_dir {_FOLDER}"
        )
    if site.wanted.mosquitto_port in there.listeners:
        raise Refused(
            f"mosquitto has a listener of its own on port {site.wanted.mosquitto_port}. Take it out of its configuration, or "
            "set tls_mosquitto_port to another port"
        )
    if site.wanted.client_ca or there.per_listener:
        return
    if there.anonymous or (there.anonymous is None and _old(site)):
        raise Refused(
            f"mosquitto lets clients in without a name ({there.said_in or 'this version does so by itself'}: allow_anonymous), and "
            "that counts for every listener: the TLS listener would be open to everybody, or, with false, those who come "
            "without a name now would be shut out. Set tls_client_ca, whose certificates the TLS listener then asks for; or "
            "set per_listener_settings true in the broker's configuration, with allow_anonymous below the listener that it is for"
        )
    if not there.listeners and there.anonymous is None and there.security:
        raise Refused(
            "mosquitto has no listener of its own, and so lets every program on this device in without a name on port "
            f"{_LOCAL}; with a TLS listener besides that cannot go on. Say in its configuration whom it is to let in: listener "
            f"{_LOCAL} 127.0.0.1 and allow_anonymous false; or set tls_client_ca"
        )


def _old(site: Site) -> bool:
    """Before version 2 everybody may come unless it is said otherwise."""
    return () < site.known("mosquitto") < (2,)


def _by_listener(site: Site, there: Own) -> bool:
    """Whether ours says for each listener who may come: where nothing else is said, it can."""
    return not there.listeners and there.anonymous is None and not site.wanted.client_ca


def _that_stay(site: Site, there: Own) -> list[str]:
    """The listener that a broker has which names none, as it is: on loopback, before version 2 everywhere."""
    if there.listeners:
        return []
    lines = ["# The broker's own, which it would not have any more once another one is named."]
    if _old(site):
        return [*lines, f"listener {_LOCAL}"]
    addresses = ["127.0.0.1", *(["::1"] if site.six else [])]
    if _by_listener(site, there):
        lines.append("per_listener_settings true")
    elif there.anonymous is None:
        # Who comes by TLS has shown a certificate, and is somebody.
        lines.append("allow_anonymous true")
    for address in addresses:
        lines.append(f"listener {_LOCAL} {address}")
        lines += ["allow_anonymous true"] if _by_listener(site, there) else []
    return lines


def _clients(site: Site) -> str:
    """Changes with the clients' CA and with who is revoked, and not with a list that is only newer."""
    revoked = certificates.revoked(site.wanted.client_crl) if site.wanted.client_crl else ()
    said = "\n".join([site.wanted.client_ca.strip(), *map(str, revoked)])
    return hashlib.sha256(said.encode()).hexdigest()[:16]
