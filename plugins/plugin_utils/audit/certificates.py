# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What an audit makes of devices' TLS certificates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.audit.findings import Finding

CERTIFICATES = "tls-certificates"
UNIQUE_KEYS = "unique-tls-keys"


def judge_tls(result: Mapping[str, Any]) -> list[Finding]:
    """What ``tls_report`` said of one device. ``result`` is empty or skipped where no certificate is wanted."""
    if result.get("skipped") or not result:
        return []
    verdict = result.get("verdict")
    if not isinstance(verdict, Mapping):
        why = str(result.get("msg", "no answer")).strip()
        remedy = "run harden.yml --tags tls --check and mend what it says"
        return [
            Finding(
                "tls_not_assessed",
                CERTIFICATES,
                "not_assessed",
                f"the certificate could not be judged: {why}",
                remedy,
            )
        ]
    message = str(verdict["message"])
    if verdict["state"] == "failing":
        remedy = "run harden.yml --tags tls; it says why a renewal did not come"
        return [Finding("certificate", CERTIFICATES, "difference", message, remedy)]
    if verdict["state"] == "warning":
        remedy = "run harden.yml --tags tls before it fails"
        return [Finding("certificate_due", CERTIFICATES, "note", message, remedy)]
    return []


def key_of(result: Mapping[str, Any]) -> str:
    """SHA-256 of the device's public key, "" where it has none."""
    certificate = result.get("certificate")
    return str(certificate.get("public_key", "")) if isinstance(certificate, Mapping) else ""


def shared_tls_keys(keys: Mapping[str, str]) -> dict[str, list[Finding]]:
    """Findings for each device whose private key another one has too."""
    owners: dict[str, list[str]] = {}
    for host, key in keys.items():
        if key:
            owners.setdefault(key, []).append(host)
    found: dict[str, list[Finding]] = {}
    for holders in owners.values():
        for host in holders if len(holders) > 1 else ():
            others = ", ".join(sorted(other for other in holders if other != host))
            message = f"has the same TLS private key as {others}"
            remedy = "give each device its own: tls_mode device, controller, or own with tls_ca_certificate"
            found[host] = [Finding("shared_tls_key", UNIQUE_KEYS, "difference", message, remedy)]
    return found
