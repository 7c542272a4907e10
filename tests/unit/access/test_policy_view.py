"""Who may reach the daemon is said once, in the policy."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.access import policy_view
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import cidrs
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import (
    Defaults,
    Endpoint,
    HostPolicy,
    Rule,
    ServiceSet,
    Verdict,
)

SSH, WEB = ServiceSet(tcp=((22, 22),)), ServiceSet(tcp=((80, 80), (443, 443)))


def rule(services: ServiceSet, source: str = "", verdict: Verdict = "allow") -> Rule:
    endpoint = Endpoint(cidrs.parse([source])) if source else Endpoint()
    return Rule("r", verdict, services, sources=(endpoint,))


def listener(port: int, protocol: str = "tcp", address: str = "0.0.0.0") -> dict[str, Any]:
    return {"protocol": protocol, "address": address, "port": port, "process": "p", "unit": "u.service"}


def test_sources_of_every_rule_that_admits_to_the_port_and_of_no_other() -> None:
    rules = (rule(SSH, "10.0.0.0/8"), rule(ServiceSet(any=True), "fd00::/8"), rule(WEB, "11.0.0.0/8"),
             rule(SSH, "12.0.0.0/8", "deny"), rule(SSH))  # fmt: skip
    policy = HostPolicy("h", inbound=rules)
    assert policy_view.management_sources(policy, 22) == ["10.0.0.0/8", "fd00::/8"]
    assert policy_view.management_sources(policy, 2222) == ["fd00::/8"]


def test_who_may_log_in_is_whom_the_policy_admits_and_nothing_said_is_not_everybody() -> None:
    some = HostPolicy("h", inbound=(rule(SSH, "10.0.0.0/8"), rule(WEB), rule(SSH, "12.0.0.0/8", "deny")))
    assert policy_view.admitted_sources(some, [22]) == ["10.0.0.0/8"]
    assert policy_view.admitted_sources(HostPolicy("h", inbound=(rule(SSH),)), [22]) == []
    assert policy_view.admitted_sources(HostPolicy("h", defaults=Defaults(inbound="allow")), [22]) == []
    assert policy_view.admitted_sources(None, [22]) == []
    with pytest.raises(policy_view.SourceError, match="admits nobody to TCP port 22, 2222 of this device"):
        policy_view.admitted_sources(HostPolicy("h", inbound=(rule(WEB),)), [2222, 22])
    many = HostPolicy("h", inbound=tuple(rule(SSH, f"10.{each}.0.0/17") for each in range(254)))
    with pytest.raises(policy_view.SourceError, match="admits 254 networks to TCP port 22"):
        policy_view.admitted_sources(many, [22])


def test_a_listener_that_no_rule_admits_to_is_named_once_with_its_process_and_unit() -> None:
    policy = HostPolicy("h", inbound=(rule(SSH, "10.0.0.0/8"), rule(WEB)))
    device = {"listening": [listener(22), listener(80), listener(9000), listener(9000, address="::"),
                            listener(80, "udp"), listener(7, address="127.0.0.1"), listener(7, address="::1")]}  # fmt: skip
    assert policy_view.outside(policy, device) == [
        {"listens": "9000/tcp", "process": "p", "unit": "u.service"},
        {"listens": "80/udp", "process": "p", "unit": "u.service"},
    ]
    assert policy_view.outside(HostPolicy("h", defaults=Defaults(inbound="allow")), device) == []


def test_a_site_without_a_policy_is_served_without_one(tmp_path: Any) -> None:
    assert policy_view.of({"inventory_hostname": "h", "inventory_dir": str(tmp_path)}, {}) is None
