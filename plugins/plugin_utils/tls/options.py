# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The variables of the role tls, checked and typed. Nothing here touches a device or a CA."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.tls import certificates
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls.certificates import CertificateError

LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"
WEBROOT = "/var/lib/sallyport-acme"
_UPSTREAM = re.compile(r"(127\.\d+\.\d+\.\d+|\[::1\]|localhost):(\d{1,5})")
_PATH = re.compile(r"/[A-Za-z0-9/._-]*")
_PLUGIN = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_URL = re.compile(r"https://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9/._~%-]*)?")

SPEC: dict[str, dict[str, Any]] = {
    "mode": {"type": "str", "default": "none", "choices": ["none", "own", "device", "controller"]},
    "names": {"type": "list", "elements": "str", "default": []},
    "key_type": {"type": "str", "default": "ecdsa", "choices": ["ecdsa", "rsa"]},
    "certificate": {"type": "str", "default": ""},
    "private_key": {"type": "str", "default": "", "no_log": True},
    "ca_certificate": {"type": "str", "default": ""},
    "ca_key": {"type": "str", "default": "", "no_log": True},
    "also_client": {"type": "bool", "default": False},
    "lifetime_days": {"type": "int", "default": 90},
    "renew_days": {"type": "int", "default": 30},
    "renew_jitter": {"type": "int", "default": 43200},
    "acme_directory": {"type": "str", "default": LETS_ENCRYPT},
    "acme_root": {"type": "str", "default": ""},
    "acme_email": {"type": "str", "default": ""},
    "acme_agree": {"type": "bool", "default": False},
    "acme_eab_kid": {"type": "str", "default": ""},
    "acme_eab_key": {"type": "str", "default": "", "no_log": True},
    "challenge": {
        "type": "str",
        "default": "webroot",
        "choices": ["webroot", "standalone", "nginx", "dns"],
    },
    "http_port": {"type": "int", "default": 80},
    "webroot": {"type": "path", "default": WEBROOT},
    "dns_hook": {"type": "str", "default": "", "no_log": True},
    "dns_plugin": {"type": "str", "default": ""},
    "dns_credentials": {"type": "str", "default": "", "no_log": True},
    "dns_propagation": {"type": "int", "default": 0},
    "gate": {"type": "bool", "default": False},
    "controller_dir": {"type": "path", "default": "~/.config/sallyport/acme"},
    "front": {"type": "str", "default": "auto", "choices": ["auto", "nginx", "stunnel", "none"]},
    "port": {"type": "int", "default": 443},
    "upstream": {"type": "str", "default": ""},
    "plain": {"type": "str", "default": "local", "choices": ["local", "leave"]},
    "root": {"type": "path", "default": "/var/www/html"},
    "redirect": {"type": "bool", "default": True},
    "profile": {"type": "str", "default": "intermediate", "choices": ["intermediate", "modern"]},
    "hsts": {"type": "int", "default": 0},
    "client_ca": {"type": "str", "default": ""},
    "client_crl": {"type": "str", "default": ""},
    "mosquitto_port": {"type": "int", "default": 0},
    "lighttpd_port": {"type": "int", "default": 0},
    "warn_days": {"type": "int", "default": 21},
    "fail_days": {"type": "int", "default": 7},
}


class OptionError(ValueError):
    """A variable is wrong. The message names it, what was expected and what was found, never a secret."""


@dataclass(frozen=True)
class Wanted:
    """What the site wants of one device."""

    mode: str
    names: tuple[str, ...]
    key_type: str
    certificate: str
    private_key: str
    ca_certificate: str
    ca_key: str
    also_client: bool
    lifetime_days: int
    renew_days: int
    renew_jitter: int
    acme_directory: str
    acme_root: str
    acme_email: str
    acme_eab_kid: str
    acme_eab_key: str
    challenge: str
    http_port: int
    webroot: str
    dns_hook: str
    dns_plugin: str
    dns_credentials: str
    dns_propagation: int
    gate: bool
    controller_dir: str
    front: str
    port: int
    upstream: str
    plain: str
    root: str
    redirect: bool
    profile: str
    hsts: int
    client_ca: str
    client_crl: str
    mosquitto_port: int
    lighttpd_port: int
    warn_days: int
    fail_days: int

    @property
    def name(self) -> str:
        """What the certificate is called: its first name."""
        return self.names[0] if self.names else ""

    @property
    def acme(self) -> bool:
        return self.mode in ("device", "controller")

    @property
    def upstream_port(self) -> int:
        return int(self.upstream.rpartition(":")[2]) if self.upstream else 0


def parse(arguments: Mapping[str, Any], now: datetime) -> Wanted:
    """The role's arguments. OptionError names the one that is wrong."""
    values = {name: arguments[name] for name in SPEC if name != "acme_agree"}
    try:
        values["names"] = tuple(
            _named(f"tls_names[{index}]", certificates.check_name, name)
            for index, name in enumerate(arguments["names"])
        )
    except CertificateError as error:
        raise OptionError(str(error)) from None
    for name in ("webroot", "root"):
        # As certbot writes it down: a slash more would be another folder at every comparison.
        if values[name].startswith("/"):
            values[name] = "/" + posixpath.normpath(values[name]).lstrip("/")
    wanted = Wanted(**values)
    _check_numbers(wanted)
    if wanted.upstream and not _UPSTREAM.fullmatch(wanted.upstream):
        raise OptionError(
            f"tls_upstream must be a loopback address with a port, as 127.0.0.1:8080, got {wanted.upstream!r}"
        )
    if wanted.upstream and not 0 < wanted.upstream_port <= 65535:
        raise OptionError(f"tls_upstream must have a port up to 65535, got {wanted.upstream!r}")
    _check_ports(wanted)
    for name in ("webroot", "root"):
        if not _PATH.fullmatch(getattr(wanted, name)):
            raise OptionError(f"tls_{name} must be an absolute path of letters, digits and /._-")
    for name in ("certificate", "client_ca", "acme_root", "ca_certificate"):
        if "PRIVATE KEY-----" in getattr(wanted, name):
            raise OptionError(
                f"tls_{name} holds a private key besides, and everybody may read certificates: give the certificates alone, "
                "and the key, where it is wanted, in the variable for it (from vault)"
            )
    if wanted.client_ca:
        _named("tls_client_ca", certificates.parse, wanted.client_ca)
    if wanted.client_crl:
        if not wanted.client_ca:
            raise OptionError("tls_client_crl needs tls_client_ca, whose certificates it takes back")
        _named("", certificates.check_crl, wanted.client_crl, wanted.client_ca, now)
    if wanted.also_client and not wanted.ca_certificate:
        raise OptionError(
            "tls_also_client is for certificates that the fleet's own CA signs (tls_ca_certificate): public CAs give none "
            "for clients"
        )
    if wanted.mode == "own":
        _check_own(wanted, now)
    elif wanted.acme:
        _check_acme(wanted, bool(arguments["acme_agree"]))
    return wanted


def _named(name: str, check: Any, *values: Any) -> Any:
    try:
        return check(*values)
    except CertificateError as error:
        raise OptionError(f"{name}: {error}" if name else str(error)) from None


def _check_numbers(wanted: Wanted) -> None:
    for name in ("port", "http_port", "mosquitto_port", "lighttpd_port"):
        value = getattr(wanted, name)
        if not 0 <= value <= 65535 or (name in ("port", "http_port") and value == 0):
            raise OptionError(f"tls_{name} must be a port, got {value}")
    for name in ("lifetime_days", "renew_days"):
        if getattr(wanted, name) < 1:
            raise OptionError(f"tls_{name} must be 1 or more, got {getattr(wanted, name)}")
    for name in ("renew_jitter", "hsts", "warn_days", "fail_days", "dns_propagation"):
        if getattr(wanted, name) < 0:
            raise OptionError(f"tls_{name} must not be negative, got {getattr(wanted, name)}")
    if wanted.fail_days > wanted.warn_days:
        raise OptionError(
            f"tls_fail_days ({wanted.fail_days}) must not be more than tls_warn_days ({wanted.warn_days})"
        )


def _check_ports(wanted: Wanted) -> None:
    """No two of the services that are wanted on one port."""
    taken: dict[int, str] = {wanted.upstream_port: "upstream"} if wanted.upstream else {}
    for name in ("mosquitto_port", "lighttpd_port", *(["port"] if wanted.front != "none" else [])):
        port = getattr(wanted, name)
        if port and port in taken:
            # Without a front of its own choice a device may have none, and then tls_port is nobody's.
            if name == "port" and wanted.front == "auto" and taken[port] != "upstream":
                continue
            raise OptionError(f"tls_{name} and tls_{taken[port]} are both {port}")
        taken[port] = name


def _check_own(wanted: Wanted, now: datetime) -> None:
    if wanted.ca_certificate or wanted.ca_key:
        if not wanted.ca_certificate or not wanted.ca_key:
            raise OptionError("tls_ca_certificate and tls_ca_key belong together; one of them is missing")
        if wanted.certificate or wanted.private_key:
            raise OptionError(
                "tls_certificate and tls_ca_certificate are both set: give either this device's own certificate, or a "
                "CA that signs one"
            )
        if not wanted.names:
            raise OptionError("tls_names is empty: a certificate of the fleet's CA needs the device's names")
        _named("", certificates.check_ca, wanted.ca_certificate, wanted.ca_key, now)
    elif not wanted.certificate or not wanted.private_key:
        raise OptionError(
            "tls_mode is own: set tls_certificate and tls_private_key (from vault), or tls_ca_certificate and tls_ca_key"
        )
    else:
        _named(
            "tls_certificate",
            certificates.check_pair,
            wanted.certificate,
            wanted.private_key,
            wanted.names,
            now,
        )


def _check_acme(wanted: Wanted, agreed: bool) -> None:
    if not wanted.names:
        raise OptionError(
            f"tls_names is empty: tls_mode {wanted.mode} needs the names that the certificate is for"
        )
    if not agreed:
        raise OptionError(
            f"tls_acme_agree must be true: {wanted.acme_directory} issues only to those who agree to its terms"
        )
    if not _URL.fullmatch(wanted.acme_directory):
        raise OptionError(f"tls_acme_directory must be an https URL, got {wanted.acme_directory!r}")
    if wanted.acme_root:
        _named("tls_acme_root", certificates.parse, wanted.acme_root)
    if bool(wanted.acme_eab_kid) != bool(wanted.acme_eab_key):
        raise OptionError("tls_acme_eab_kid and tls_acme_eab_key belong together; one of them is missing")
    for name in ("acme_email", "acme_eab_kid", "acme_eab_key"):
        if re.search(r"[\s#\"']", getattr(wanted, name)):
            raise OptionError(f"tls_{name} must not hold spaces or quotes")
    if wanted.challenge == "dns":
        _check_dns(wanted)
    if wanted.gate and wanted.challenge == "standalone" and wanted.http_port != 80:
        raise OptionError(
            f"tls_gate opens port 80, and tls_http_port is {wanted.http_port}: admit that port in the policy, or leave it at 80"
        )
    if wanted.challenge != "dns" and any(name.startswith("*.") for name in wanted.names):
        raise OptionError("tls_names has a wildcard, which CAs give only for tls_challenge: dns")
    if wanted.mode == "controller" and wanted.challenge == "nginx":
        raise OptionError(
            "tls_challenge nginx speaks of the device's nginx; with tls_mode controller use dns, standalone or webroot"
        )


def _check_dns(wanted: Wanted) -> None:
    if not wanted.dns_hook and not wanted.dns_plugin:
        raise OptionError(
            "tls_challenge is dns: set tls_dns_plugin to a certbot plugin, or tls_dns_hook to a program (its text) that is "
            "called with `auth` and `cleanup` and puts CERTBOT_VALIDATION into the TXT record of "
            "_acme-challenge.CERTBOT_DOMAIN"
        )
    if wanted.dns_hook and wanted.dns_plugin:
        raise OptionError("tls_dns_hook and tls_dns_plugin are both set: one of them edits the TXT record")
    if wanted.dns_plugin and not _PLUGIN.fullmatch(wanted.dns_plugin):
        raise OptionError(
            f"tls_dns_plugin must be a plugin's name without its dns-, as rfc2136, got {wanted.dns_plugin!r}"
        )
