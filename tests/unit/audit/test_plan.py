"""What is scanned, and how carefully, follows from the policy and from what listens."""

from __future__ import annotations

from typing import Any

from ansible_collections.sallyport.iot.plugins.module_utils.ports import format_ports, parse_ports
from ansible_collections.sallyport.iot.plugins.plugin_utils.audit.plan import UDP_PORTS, scan_plan
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import (
    HostPolicy,
    Rate,
    Rule,
    ServiceSet,
    Traps,
)
from hypothesis import given
from hypothesis import strategies as st


def listener(protocol: str, port: int, address: str = "0.0.0.0") -> dict[str, Any]:
    return {"protocol": protocol, "port": port, "address": address}


def rule(name: str, rate: Rate | None = None, **services: Any) -> Rule:
    return Rule(name, "allow", ServiceSet(**services), rate=rate)


def test_ports_that_listen_or_are_admitted_are_scanned_with_care() -> None:
    policy = HostPolicy("h", inbound=(rule("web", tcp=((443, 443),), udp=((9999, 9999),)),))
    plan = scan_plan(policy, {"listening": [listener("tcp", 22), listener("udp", 7000)]})
    assert plan["careful_tcp"] == [22, 443]
    assert {7000, 9999, *UDP_PORTS} == set(plan["udp_ports"])


def test_what_listens_on_loopback_only_is_no_reference() -> None:
    assert scan_plan(None, {"listening": [listener("tcp", 5432, "::1")]})["careful_tcp"] == []


def test_a_trap_is_never_touched() -> None:
    policy = HostPolicy("h", traps=Traps(tcp=((23, 23), (2323, 2323))))
    plan = scan_plan(policy, {"listening": [listener("tcp", 23)]})
    assert plan["excluded_tcp"] == "23,2323"
    assert plan["careful_tcp"] == []


def test_ports_behind_a_rate_are_scanned_by_themselves_below_it() -> None:
    policy = HostPolicy("h", inbound=(rule("panel", Rate(30, 60, 5), tcp=((8000, 8010),), udp=((53, 53),)),))
    assert scan_plan(policy, {})["paced"] == [
        {"name": "panel", "tcp": "8000-8010", "udp": "53", "per_second": 0.5, "burst": 5}
    ]


def test_a_port_under_two_rates_belongs_to_the_slower() -> None:
    fast = rule("fast", Rate(10, 1), tcp=((80, 81),))
    slow = rule("slow", Rate(1, 60), tcp=((80, 80),))
    groups = {
        group["name"]: group["tcp"] for group in scan_plan(HostPolicy("h", inbound=(fast, slow)), {})["paced"]
    }
    assert groups == {"slow": "80", "fast": "81"}


def test_a_trap_behind_a_rate_is_not_touched_either() -> None:
    policy = HostPolicy("h", inbound=(rule("all", Rate(1, 1), any=True),), traps=Traps(tcp=((23, 23),)))
    (group,) = scan_plan(policy, {})["paced"]
    assert group["tcp"] == "1-22,24-65535"


@given(st.sets(st.integers(1, 65535), max_size=60))
def test_port_sets_survive_as_text(ports: set[int]) -> None:
    assert parse_ports(format_ports(ports)) == ports
