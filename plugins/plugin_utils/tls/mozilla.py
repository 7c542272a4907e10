# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Mozilla's TLS profiles (guideline 5.7) as the settings of each server, by what its version knows."""

from __future__ import annotations

import re

# Of the intermediate list those that need no Diffie-Hellman parameter file: all but the three DHE suites, which only
# clients want that have no elliptic curves.
CIPHERS = ":".join(
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-RSA-CHACHA20-POLY1305",
    )
)
CURVES = "X25519:prime256v1:secp384r1"


class ProfileError(ValueError):
    """This device's programs cannot do what the profile asks for."""


def version(text: str) -> tuple[int, ...]:
    """The first dotted number of a program's words.

    >>> version("nginx version: nginx/1.22.1")
    (1, 22, 1)
    """
    found = re.search(r"\d+(\.\d+)+", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def check(profile: str, openssl: str) -> None:
    """Refuse `modern` where TLS 1.3 is missing."""
    known = version(openssl)
    if known and known < (1, 1, 1) and profile == "modern":
        raise ProfileError(
            f"tls_profile modern needs TLS 1.3, and this device's OpenSSL is {openssl}. Set tls_profile: intermediate"
        )


def nginx(profile: str, openssl: str, *, resume: bool = True) -> list[str]:
    """Directives of a server block.

    Args:
        resume: whether a client may go on with a session of before without showing who it is again.
    """
    known = version(openssl)
    modern_library = not known or known >= (1, 1, 1)
    protocols = "TLSv1.3" if profile == "modern" else "TLSv1.2 TLSv1.3" if modern_library else "TLSv1.2"
    lines = [f"ssl_protocols {protocols};"]
    if profile == "intermediate":
        lines.append(f"ssl_ciphers {CIPHERS};")
    lines += [
        "ssl_prefer_server_ciphers off;",
        f"ssl_ecdh_curve {CURVES};",
        *(
            ["ssl_session_timeout 1d;", "ssl_session_cache shared:sallyport:1m;"]
            if resume
            else ["ssl_session_cache off;"]
        ),
        "ssl_session_tickets off;",
    ]
    return lines


def lighttpd(profile: str) -> list[str]:
    """Lines of a socket's block."""
    lowest = "TLSv1.3" if profile == "modern" else "TLSv1.2"
    return [
        "ssl.openssl.ssl-conf-cmd = (",
        f'  "MinProtocol" => "{lowest}",',
        f'  "CipherString" => "{CIPHERS}",',
        f'  "Curves" => "{CURVES}",',
        '  "Options" => "-ServerPreference,-SessionTicket"',
        ")",
    ]


def mosquitto(profile: str) -> list[str]:
    """Lines of a listener; ``tls_version`` is the lowest that is taken."""
    if profile == "modern":
        return ["tls_version tlsv1.3"]
    return ["tls_version tlsv1.2", f"ciphers {CIPHERS}"]


def stunnel(profile: str) -> list[str]:
    """Lines of a service."""
    if profile == "modern":
        return ["sslVersionMin = TLSv1.3", f"curves = {CURVES}"]
    return ["sslVersionMin = TLSv1.2", f"ciphers = {CIPHERS}", f"curves = {CURVES}"]
