# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What the policy lets happen to a certificate: clients that come for it, the CA that comes to look, the way to the CA.

A site without a policy, or whose policy has errors (the firewall role says which), is asked for nothing here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ansible_collections.sallyport.iot.plugins.plugin_utils.access import policy_view
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import HostPolicy
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls.options import Wanted

_NAMES = {80: "http", 443: "https", 8883: "mqtts"}
"""Services that every policy knows by name."""


def refusal(policy: HostPolicy | None, wanted: Wanted, services: Mapping[str, int]) -> str:
    """Why the policy makes no sense of what is wanted, and the rule that would; empty where it does.

    Args:
        services: name to TLS port.
    """
    port = services.get("nginx") or services.get("stunnel") or 0
    moved = (wanted.upstream and wanted.plain == "local") or (wanted.redirect and "nginx" in services)
    if port and moved and not policy_view.lets_in(policy, "tcp", port):
        return (
            f"the policy admits nobody to port {port}, where this device's web interface would be from now on. Add to inbound: "
            f"{_rule('web interface', port, 'from: [the zone of its users]')}"
        )
    if wanted.mode != "device":
        return ""
    host, ca_port = _server(wanted.acme_directory)
    if not policy_view.lets_out(policy, "tcp", ca_port, host):
        return (
            f"the policy drops what this device would ask of {wanted.acme_directory}. Add to outbound: "
            f"{_rule('certificates', ca_port, f'to: [the addresses of {host}]')}"
        )
    comes = wanted.http_port if wanted.challenge == "standalone" else 80
    if wanted.challenge != "dns" and not wanted.gate and not policy_view.lets_in(policy, "tcp", comes):
        return (
            f"the policy admits nobody to port {comes}, to which the CA comes for tls_challenge {wanted.challenge}. Add to the "
            "policy: defaults: {gate: [80]}, and set tls_gate: true, which opens it for the minutes of a challenge; or "
            f"add to inbound: {_rule('challenges', comes, 'from: [any]')}; or use tls_challenge: dns"
        )
    return ""


def warnings(policy: HostPolicy | None, services: Mapping[str, int]) -> list[str]:
    """Ports at which a certificate is served that nobody gets to."""
    return [
        f"the policy admits nobody to {name}'s TLS port {port}. Add to inbound: "
        f"{_rule(name, port, 'from: [the zone of its clients]')}"
        for name, port in services.items()
        if port and not policy_view.lets_in(policy, "tcp", port)
    ]


def _rule(name: str, port: int, rest: str) -> str:
    service = _NAMES.get(port)
    defined = "" if service else f" (with services: {{tls-{port}: {{tcp: [{port}]}}}})"
    return f"{{name: {name}, allow: [{service or f'tls-{port}'}], {rest}}}{defined}"


def _server(url: str) -> tuple[str, int]:
    """Host and port of a directory's address."""
    match = re.match(r"https://(\[[^\]]*\]|[^/:]*)(?::(\d+))?", url)
    return (match[1].strip("[]"), int(match[2] or 443)) if match else ("", 443)
