"""What scanners make of the settings: Mozilla's own description of its profiles, and testssl."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
from acme import authority
from fleet import DEVICES, TOOLS, Fleet

CA, CA_KEY = authority("Fleet CA")
SITE = {
    "mode": "own",
    "names": ["{{ inventory_hostname }}.lab", "{{ ansible_host }}"],  # scanners come by address
    "ca_certificate": CA,
    "ca_key": CA_KEY,
    "upstream": "{{ '127.0.0.1:80' if inventory_hostname == 'tlsvendor' else '' }}",
    "mosquitto_port": "{{ 8883 if inventory_hostname == 'tls12' else 0 }}",
    "lighttpd_port": "{{ 8443 if inventory_hostname in ['tls11', 'tls13'] else 0 }}",
}
# mosquitto 2.0 has no setting for curves: with what OpenSSL offers by itself come two that Mozilla does not list. Neither is
# weak; anything else that its listener does not have from the profile fails.
MQTT = 8883
LISTENERS = [*((device, 443) for device in DEVICES), ("tls12", MQTT), ("tls11", 8443), ("tls13", 8443)]
SSLYZE = TOOLS / "../scanners/bin/sslyze"
# Of the lab, not of the settings: nobody trusts its CA, no name leads there, no CA revokes.
LABS = {
    "cert_trust",
    "cert_chain_of_trust",
    "cert_revocation",
    "cert_notRevoked",
    "overall_grade",
    "DNS_CAArecord",
}
# testssl calls it HIGH that the server does not choose the cipher. Mozilla's intermediate profile wants it so
# (server_preferred_order is false): all its suites are good, and a phone without AES instructions knows best to take ChaCha20.
ACCEPTED = {"cipher_order"}


@pytest.fixture(scope="module", params=["intermediate", "modern"])
def profile(fleet: Fleet, request: pytest.FixtureRequest) -> str:
    run = fleet.play(":".join(DEVICES), **SITE, profile=request.param)
    assert run.status == 0, run.output
    return str(request.param)


def test_sslyze_finds_mozillas_profile_on_every_device(fleet: Fleet, profile: str) -> None:
    roots = fleet.work / "roots.pem"
    roots.write_text(CA, encoding="utf-8")
    command = [str(SSLYZE), f"--mozilla_config={profile}", "--certinfo_ca_file", str(roots)]
    command += [f"{fleet.address(device)}:{port}" for device, port in LISTENERS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    said = done.stdout.partition("COMPLIANCE AGAINST TLS CONFIGURATION")[2]
    found = dict(re.findall(r"^    (\S+): ((?:OK|FAILED|ERROR)\b.*(?:\n        .*)*)", said, re.M))
    for device, port in LISTENERS:
        verdict = found[f"{fleet.address(device)}:{port}"]
        if port == MQTT:
            assert re.fullmatch(r"FAILED - Not compliant\.\n +\* tls_curves: .*", verdict), said
            assert set(re.findall(r"'(\w+)'", verdict)) == {"X448", "secp521r1"}, verdict
        else:
            assert verdict.startswith("OK - Compliant"), f"{device}:{port}\n{done.stdout[-9000:]}"


def test_programs_on_the_device_come_to_its_broker_as_before(fleet: Fleet, profile: str) -> None:
    """It names no listener: then it has one on loopback, until another one is named."""
    assert fleet.mqtt("tls12") == "20020000", profile


def test_testssl_finds_nothing_above_low(fleet: Fleet, profile: str) -> None:
    if profile == "modern":
        pytest.skip("half a minute, and a subset of what the intermediate profile shows")
    file = fleet.work / "testssl.json"
    command = ["testssl", "--quiet", "--color", "0", "--nodns", "min", "--fast", "--severity", "MEDIUM"]
    command += ["--jsonfile", str(file), f"{fleet.address('tls12')}:443"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    findings = json.loads(file.read_text(encoding="utf-8"))
    assert findings is not None, done.stdout
    # WARN is what it could not find out; without a single rated finding it would have found out nothing.
    rated = [one for one in findings if one["severity"] in ("MEDIUM", "HIGH", "CRITICAL")]
    assert {one["id"] for one in rated} & LABS, done.stdout
    left = [one for one in rated if one["id"].split(" ")[0] not in LABS | ACCEPTED]
    assert left == [], left
