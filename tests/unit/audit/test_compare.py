"""What a vantage saw against what the policy admits: every way to differ is named, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.audit.compare import (
    Allowed,
    Device,
    compare,
    judge_firewall,
    judge_logins,
    judge_passwords,
)

ADDRESS = {"ipv4": "198.51.100.20", "ipv6": "fd00:db8:1::20"}
NGINX = {
    "protocol": "tcp",
    "family": "ipv4",
    "address": "0.0.0.0",
    "port": 80,
    "pid": 7,
    "process": "nginx",
    "unit": "nginx.service",
}
ALLOWED = Allowed(
    {"tcp": frozenset({80, 443}), "udp": frozenset({123})},
    services={("tcp", 80): ("http",), ("tcp", 443): ("https",), ("udp", 123): ("ntp",)},
)


def seen(
    opened: str = "80",
    closed: str = "443",
    filtered: str = "1-79,81-442,444-65535",
    unknown: str = "",
    family: str = "ipv4",
    udp: dict[str, str] | None = None,
    **more: Any,
) -> dict[str, Any]:
    quiet = {"open": "", "closed": "", "filtered": "", "silent": "53,123", "unknown": ""}
    return {
        "address": ADDRESS[family],
        "source": "198.51.100.5",
        "error": "",
        "tcp": {"open": opened, "closed": closed, "filtered": filtered, "unknown": unknown},
        "udp": {**quiet, **(udp or {})},
        "greetings": {},
        **more,
    }


def judged(
    what: dict[str, Any],
    *listening: dict[str, Any],
    allowed: Allowed | None = ALLOWED,
    declared: tuple[dict[str, Any], ...] = (),
) -> list[tuple[str, str, str]]:
    device = Device(listening or (NGINX,), "systemd", declared)
    return [(f.kind, f.protocol, f.ports) for f in compare(allowed, device, what, "lan ipv4")]


def test_a_device_that_shows_what_the_policy_admits_has_no_findings() -> None:
    assert judged(seen()) == []


def test_an_open_port_that_the_policy_does_not_admit_is_exposed() -> None:
    assert judged(seen(opened="80,5000", filtered="1-79,81-442,444-4999,5001-65535")) == [
        ("exposed", "tcp", "5000")
    ]


def test_a_refusal_where_the_policy_is_silent_shows_a_missing_rule() -> None:
    assert judged(seen(closed="443,8000-8001", filtered="")) == [("let_through", "tcp", "8000-8001")]


def test_a_refusal_is_right_where_the_policy_rejects() -> None:
    rejecting = Allowed(ALLOWED.admitted, {"tcp": frozenset({8000})}, services=ALLOWED.services)
    assert judged(seen(closed="443,8000"), allowed=rejecting) == []


def test_silence_on_an_admitted_port_is_a_lost_rule_even_where_nothing_listens() -> None:
    assert judged(seen(closed="", filtered="1-79,81-65535")) == [("lost", "tcp", "443")]


def test_a_refusal_although_something_listens_is_a_foreign_rule() -> None:
    assert judged(seen(opened="", closed="80,443")) == [("refused", "tcp", "80")]


def test_a_port_that_answers_without_any_listener_is_hidden() -> None:
    assert judged(seen(opened="80,443", closed="")) == [("hidden_listener", "tcp", "443")]


def test_a_published_port_needs_no_listener_of_its_own() -> None:
    published = Allowed(
        ALLOWED.admitted, published={"tcp": frozenset({443})}, services=dict(ALLOWED.services)
    )
    assert judged(seen(opened="80,443", closed=""), allowed=published) == []


def test_a_rogue_program_on_an_admitted_port_is_named_with_its_pid() -> None:
    rogue = {**NGINX, "port": 443, "process": "nc", "pid": 99, "unit": "ssh.service"}
    findings = compare(
        ALLOWED, Device((NGINX, rogue), "systemd"), seen(opened="80,443", closed=""), "wan ipv4"
    )
    assert [(f.kind, f.ports, f.weight) for f in findings] == [("undeclared_listener", "443", "difference")]
    assert "nc (pid 99)" in findings[0].message
    assert 'audit_listeners: [{process: nc, tcp: "443"}]' in findings[0].remedy


def test_a_known_program_that_somebody_started_by_hand_is_still_an_intruder() -> None:
    by_hand = {**NGINX, "port": 443, "unit": "session-3.scope"}
    assert judged(seen(opened="80,443", closed=""), NGINX, by_hand) == [("undeclared_listener", "tcp", "443")]


def test_a_declared_program_is_welcome_on_its_declared_port_only() -> None:
    panel = {**NGINX, "port": 443, "process": "panel", "unit": "panel.service"}
    here = seen(opened="80,443", closed="")
    assert judged(here, NGINX, panel, declared=({"process": "panel", "tcp": "443"},)) == []
    assert judged(here, NGINX, panel, declared=({"process": "panel", "tcp": 8443},)) != []


def test_a_rogue_udp_listener_is_found_although_it_never_answers() -> None:
    rogue = {**NGINX, "protocol": "udp", "port": 123, "process": "nc", "unit": "x.service"}
    assert judged(seen(), NGINX, rogue) == [("undeclared_listener", "udp", "123")]


def test_silence_on_an_admitted_udp_port_says_nothing() -> None:
    assert judged(seen(udp={"silent": "123"})) == []


def test_an_answer_on_a_udp_port_that_is_not_admitted_is_exposed() -> None:
    assert judged(seen(udp={"silent": "123", "open": "161", "closed": "53"})) == [
        ("exposed", "udp", "161"),
        ("let_through", "udp", "53"),
    ]


def test_a_listener_on_loopback_does_not_count() -> None:
    local = {**NGINX, "port": 443, "process": "nc", "address": "127.0.0.1"}
    assert judged(seen(), NGINX, local) == []


def test_a_listener_on_another_address_of_the_device_does_not_count() -> None:
    elsewhere = {**NGINX, "port": 443, "process": "nc", "address": "10.0.0.1"}
    assert judged(seen(), NGINX, elsewhere) == []


def test_a_listener_on_the_ipv6_wildcard_may_serve_ipv4_too() -> None:
    both = {**NGINX, "family": "ipv6", "address": "::"}
    assert judged(seen(), both) == []
    assert judged(seen(opened="", closed="80,443"), both) == []  # bound to IPv6 only


def test_ports_without_a_result_are_not_assessed() -> None:
    findings = compare(
        ALLOWED, Device((NGINX,), "systemd"), seen(filtered="1-79", unknown="81-90"), "wan ipv4"
    )
    assert [(f.kind, f.weight, f.ports) for f in findings] == [("no_result", "not_assessed", "81-90")]


def test_a_scan_that_did_not_finish_is_not_assessed() -> None:
    findings = compare(ALLOWED, Device((NGINX,), "systemd"), seen(error="too slow"), "wan ipv4")
    assert [(f.kind, f.weight) for f in findings] == [("scan_incomplete", "not_assessed")]


@pytest.mark.parametrize(("kind", "weight"), [("telnet", "difference"), ("dropped", "not_assessed")])
def test_a_telnet_greeting_counts_on_any_port(kind: str, weight: str) -> None:
    here = seen(greetings={"80": {"kind": kind, "text": ""}})
    findings = compare(ALLOWED, Device((NGINX,), "systemd"), here, "wan ipv4")
    assert [(f.kind, f.weight, f.ports) for f in findings] == [("telnet", weight, "80")]


def test_without_a_policy_telnet_is_still_found() -> None:
    here = seen(opened="1-100", greetings={"23": {"kind": "telnet", "text": ""}})
    assert judged(here, allowed=None) == [("telnet", "tcp", "23")]


def test_an_unreached_device_is_still_compared_with_the_policy() -> None:
    findings = compare(ALLOWED, Device(None), seen(opened="80,5000"), "wan ipv4")
    assert [(f.kind, f.ports) for f in findings] == [("exposed", "5000")]


TRIAL = {
    "kind": "ssh",
    "address": ADDRESS["ipv6"],
    "port": 22,
    "offered": [],
    "accepted": [],
    "refused": 61,
    "not_assessed": 0,
    "reason": "",
}


def test_refused_logins_are_fine() -> None:
    assert judge_logins([TRIAL], "lan") == []


def test_an_accepted_login_names_the_user_and_where_from() -> None:
    (finding,) = judge_logins([{**TRIAL, "accepted": ["root"]}], "lan")
    assert (finding.weight, finding.seen_from) == ("difference", ("lan ipv6",))
    assert "'root'" in finding.message


def test_a_dropped_login_is_not_assessed_and_never_refused() -> None:
    (finding,) = judge_logins(
        [{**TRIAL, "refused": 5, "not_assessed": 56, "reason": "connection reset"}], "lan"
    )
    assert finding.weight == "not_assessed"
    assert "56 default logins" in finding.message
    assert "connection reset" in finding.message


def test_a_firewall_that_would_change_has_drifted() -> None:
    assert judge_firewall({"state": "unchanged", "files": [], "live": "same"}) == []
    (finding,) = judge_firewall({"state": "would_change", "files": [], "live": "differs"})
    assert finding.weight == "difference"
    assert "the live rules" in finding.message


def test_a_firewall_that_could_not_be_asked_is_not_assessed() -> None:
    (finding,) = judge_firewall({"failed": True, "msg": "no privilege"})
    assert finding.weight == "not_assessed"
    assert "no privilege" in finding.message
    assert judge_firewall({"skipped": True}) == []


def test_a_window_at_boot_is_a_note_and_none_is_nothing() -> None:
    state = {"state": "unchanged", "files": [], "live": "same"}
    early = {"measured": True, "seconds": 0.4, "text": "at boot eth0 was up before the rules"}
    (finding,) = judge_firewall({**state, "boot_window": early})
    assert (finding.kind, finding.weight) == ("boot_window", "note")
    assert finding.message == early["text"]
    assert judge_firewall({**state, "boot_window": {"measured": True, "seconds": 0.0, "text": "none"}}) == []
    unknown = {"measured": False, "seconds": 0.0, "text": "the window at boot is not measured"}
    assert judge_firewall({**state, "boot_window": unknown})[0].message == unknown["text"]
    drifted = judge_firewall({"state": "would_change", "files": [], "live": "differs", "boot_window": early})
    assert [one.weight for one in drifted] == ["note", "difference"]


@pytest.mark.parametrize(
    ("verdict", "weights"),
    [
        ("unique", []),
        ("default", ["difference"]),
        ("empty", ["difference"]),
        ("shared", ["difference"]),
        ("not assessed", ["not_assessed"]),
    ],
)
def test_a_password_hash_is_judged_by_its_verdict(verdict: str, weights: list[str]) -> None:
    found = judge_passwords({"accounts": [{"account": "root", "verdict": verdict, "why": "because"}]})
    assert [f.weight for f in found] == weights
