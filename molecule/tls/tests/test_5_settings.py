"""What scanners make of the settings: Mozilla's own description of its profiles, and testssl."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from acme import authority
from fleet import DEVICES, TOOLS, Fleet

CA, CA_KEY = authority("Fleet CA")
SITE = {
    "mode": "own",
    "ca_certificate": CA,
    "ca_key": CA_KEY,
    "upstream": "{{ '127.0.0.1:80' if inventory_hostname == 'tlsvendor' else '' }}",
}
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


@pytest.fixture(scope="module", params=["intermediate", "modern"])
def profile(fleet: Fleet, request: pytest.FixtureRequest) -> str:
    run = fleet.play(":".join(DEVICES), **SITE, profile=request.param)
    assert run.status == 0, run.output
    return str(request.param)


def test_sslyze_finds_mozillas_profile_on_every_device(fleet: Fleet, profile: str) -> None:
    roots = fleet.work / "roots.pem"
    roots.write_text(CA, encoding="utf-8")

    def scan(device: str) -> tuple[str, subprocess.CompletedProcess[str]]:
        command = [str(SSLYZE), f"--mozilla_config={profile}", "--certinfo_ca_file", str(roots)]
        command.append(f"{fleet.address(device)}:443")
        return device, subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    with ThreadPoolExecutor(2) as pool:
        for device, done in pool.map(scan, DEVICES):
            assert done.returncode == 0, f"{device}\n{done.stdout[-3000:]}"


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
    left = [one for one in rated if one["id"].split(" ")[0] not in LABS]
    assert left == [], left
