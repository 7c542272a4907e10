"""One JSON document, and every other form of the evidence made from it."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from typing import Any

import yaml
from ansible_collections.sallyport.iot.plugins.plugin_utils.audit import evidence
from ansible_collections.sallyport.iot.plugins.plugin_utils.audit.findings import Finding
from ansible_collections.sallyport.iot.plugins.plugin_utils.audit.fleet import shared_host_keys
from ansible_collections.sallyport.iot.plugins.plugin_utils.audit.report import (
    as_html,
    as_junit,
    as_text,
    shorten,
)

EXPOSED = Finding(
    "exposed", "net-exposure", "difference", "answers", "close it", "tcp", "5000", ("wan ipv4", "wan ipv6")
)
SEEN = {
    "tcp": {"open": "22,5000"},
    "udp": {"open": ""},
    "greetings": {"22": {"kind": "ssh"}, "5000": {"kind": "silent"}},
    "admitted": {"tcp": "22", "udp": ""},
}
DEVICE = {
    "reached": True,
    "system": "Debian",
    "vantages": {"wan": {"host": "v", "families": {"ipv4": SEEN, "ipv6": SEEN}, "logins": []}},
}


def document(*findings: Finding, enforced: bool = True, **more: Finding) -> dict[str, Any]:
    devices = {"gw1": DEVICE, "gw2": {**DEVICE, "vantages": {}}}
    found = {"gw1": list(findings), "gw2": list(more.values())}
    return evidence.document("2027-01-31T10:00:00+00:00", enforced, evidence.load_controls(), devices, found)


def test_the_verdict_is_the_worst_of_any_device() -> None:
    doubtful = replace(EXPOSED, weight="not_assessed")
    assert document()["verdict"] == "pass"
    assert document(doubtful)["verdict"] == "not assessed"
    assert document(doubtful, other=EXPOSED)["verdict"] == "differences"


def test_each_control_of_each_device_has_a_result() -> None:
    waived = replace(EXPOSED, waiver={"reason": "x", "until": "2027-02-01"})
    results = document(waived, other=EXPOSED)["devices"]
    assert results["gw1"]["controls"]["net-exposure"] == "waived"
    assert results["gw2"]["controls"]["net-exposure"] == "differences"
    assert results["gw1"]["controls"]["no-telnet"] == "pass"


def test_the_table_shows_what_is_open_and_the_last_line_names_the_hosts() -> None:
    text = as_text(document(EXPOSED))
    assert "wan ipv4+ipv6" in text
    assert "22/tcp ssh, 5000/tcp" in text
    assert "[net-exposure] 5000/tcp answers (from wan ipv4, wan ipv6)" in text
    assert text.splitlines()[-1] == "AUDIT: 1 of 2 devices are as the policy says; differences on: gw1"


def test_the_exposure_alone_lists_no_findings() -> None:
    assert "[net-exposure]" not in as_text(document(EXPOSED, enforced=False))


def test_a_waiver_shows_its_reason_and_its_end_everywhere() -> None:
    waived = document(replace(EXPOSED, waiver={"reason": "OPS-7", "until": "2027-02-01"}))
    for text in (as_text(waived), as_html(waived), as_junit(waived)):
        assert "OPS-7" in text
        assert "2027-02-01" in text


def test_junit_fails_for_a_difference_and_errs_for_what_was_not_assessed() -> None:
    telnet = Finding("telnet", "no-telnet", "not_assessed", "dropped", "again")
    suite = ElementTree.fromstring(as_junit(document(EXPOSED, telnet)).encode())[0]
    assert (suite.get("failures"), suite.get("errors"), suite.get("skipped")) == ("1", "1", "0")
    assert int(suite.get("tests", "0")) == len(suite) == len(evidence.load_controls())


def test_what_a_device_says_cannot_break_a_report() -> None:
    rude = replace(EXPOSED, message="</td><script>\x1b[2J\x00")
    page = as_html(document(rude))
    assert "<script>" not in page
    ElementTree.fromstring(as_junit(document(rude)).encode())
    assert "\x1b" not in as_text(document(rude))


def test_a_long_port_set_is_counted_instead_of_printed() -> None:
    ports = ",".join(str(port) for port in range(1, 400, 2))
    assert shorten(ports).endswith("(200 ports)")
    assert len(shorten(ports)) <= 60


def test_devices_with_a_common_host_key_name_each_other() -> None:
    keys = {
        "a": [
            {"type": "rsa", "public": "ssh-rsa AAA root@a"},
            {"type": "ed25519", "public": "ssh-ed25519 BBB"},
        ],
        "b": [{"type": "rsa", "public": "ssh-rsa AAA root@b"}],
        "c": [{"type": "rsa", "public": "ssh-rsa CCC"}],
    }
    found = shared_host_keys(keys)
    assert set(found) == {"a", "b"}
    assert found["a"][0].message == "has the same SSH host key (rsa) as b"


def test_the_catalogue_names_each_control_once_with_its_provisions() -> None:
    catalogue = yaml.safe_load(evidence.CATALOGUE.read_text(encoding="utf-8"))
    ids = [control["id"] for control in catalogue]
    assert len(ids) == len(set(ids))
    assert all(
        control["provisions"] and control["enforced_by"] and control["proved_by"] for control in catalogue
    )


def test_every_control_that_the_audit_speaks_of_is_in_the_catalogue() -> None:
    from ansible_collections.sallyport.iot.plugins.action import audit_judge
    from ansible_collections.sallyport.iot.plugins.plugin_utils.audit import (
        certificates,
        compare,
        fleet,
        updates,
    )

    spoken = {compare.EXPOSURE, compare.LISTENERS, compare.TELNET, compare.LOGINS, compare.PASSWORDS}
    spoken |= {compare.FIREWALL, fleet.HOST_KEYS, audit_judge.SETTLED}
    spoken |= {certificates.CERTIFICATES, certificates.UNIQUE_KEYS}
    spoken |= {updates.AUTOMATIC, updates.AUTHENTIC, updates.TIMELY}
    assert spoken == {control["id"] for control in evidence.load_controls()}
