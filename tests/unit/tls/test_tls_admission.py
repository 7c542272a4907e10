"""A certificate is not delivered to where nobody gets to it, and no CA is asked that could not look."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import (
    Defaults,
    Endpoint,
    HostPolicy,
    Rule,
    ServiceSet,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls import admission

from tests.unit.tls.makers import wanted

ACME: dict[str, Any] = {"mode": "device", "names": ["gw.example"], "acme_agree": True}
OWN = {"upstream": "127.0.0.1:8080"}


def policy(*ports: int, out: tuple[int, ...] = (), **defaults: Any) -> HostPolicy:
    def rule(port: int) -> Rule:
        return Rule(
            "r", "allow", ServiceSet(tcp=((port, port),)), sources=(Endpoint(),), destinations=(Endpoint(),)
        )

    chosen = Defaults(**{"inbound": "drop", "outbound": "drop" if out else "allow", **defaults})
    return HostPolicy("gw", inbound=tuple(map(rule, ports)), outbound=tuple(map(rule, out)), defaults=chosen)


@pytest.mark.parametrize(
    ("there", "site", "services", "message"),
    [
        (None, OWN, {"nginx": 443}, ""),
        (policy(443), OWN, {"nginx": 443}, ""),
        (policy(inbound="allow"), OWN, {"nginx": 443}, ""),
        (policy(80), OWN, {"nginx": 443}, "admits nobody to port 443.*allow: \\[https\\]"),
        (policy(443), {**OWN, "port": 8443}, {"stunnel": 8443}, "allow: \\[tls-8443\\].*tcp: \\[8443\\]"),
        (policy(80), {**OWN, "plain": "leave", "redirect": False}, {"nginx": 443}, ""),
        (policy(80), {}, {"nginx": 443}, "admits nobody to port 443"),
        (policy(80), {}, {"mosquitto": 8883}, ""),
        (policy(443), ACME, {"nginx": 443}, "admits nobody to port 80, to which the CA comes"),
        (policy(443, 80), ACME, {"nginx": 443}, ""),
        (policy(443), {**ACME, "gate": True}, {"nginx": 443}, ""),
        (policy(443), {**ACME, "challenge": "dns", "dns_plugin": "rfc2136"}, {"nginx": 443}, ""),
        (policy(443), {**ACME, "challenge": "standalone", "http_port": 81}, {}, "admits nobody to port 81"),
        (policy(443, 80, out=(443,)), ACME, {"nginx": 443}, ""),
        (
            policy(443, 80, out=(53,)),
            ACME,
            {"nginx": 443},
            "drops what this device would ask of https://acme-v02",
        ),
        (
            policy(443, 80, out=(443,)),
            {**ACME, "acme_directory": "https://[2001:db8::7]:14000/dir"},
            {"nginx": 443},
            "addresses of 2001:db8::7",
        ),
        (policy(443, out=(53,)), {}, {"nginx": 443}, ""),
    ],
)
def test_a_policy_that_keeps_clients_or_the_ca_away_is_named_with_the_rule_that_would_not(
    there: HostPolicy | None, site: dict[str, Any], services: dict[str, int], message: str
) -> None:
    said = admission.refusal(there, wanted(**site), services)
    assert (re.search(message, said) is not None) if message else said == "", said


def test_a_listener_that_nobody_gets_to_is_remarked_upon() -> None:
    (said,) = admission.warnings(policy(443), {"nginx": 443, "mosquitto": 8883})
    assert "mosquitto's TLS port 8883" in said and "allow: [mqtts]" in said
    assert admission.warnings(None, {"mosquitto": 8883}) == []
