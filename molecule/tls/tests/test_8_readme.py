"""The playbooks of the role's README, to the letter: what people copy must run."""

from __future__ import annotations

import ssl
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from acme import authority, certificate, pem
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fleet import Fleet

from tests.role_examples import examples

FIRST, SECOND = examples("tls")
CA, CA_KEY = authority("Fleet CA")
PANELS, PANELS_KEY = authority("Panels CA")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A site's own, with what the playbooks read."""
    (tmp_path / "files").mkdir()
    for name, text in (("first", FIRST), ("second", SECOND)):
        (tmp_path / f"{name}.yml").write_text(text, encoding="utf-8")
    return tmp_path


def gateways(folder: Path, device: str) -> list[str]:
    inventory = folder / f"{device}.ini"
    inventory.write_text(f"[gateways]\n{device}\n", encoding="utf-8")
    return ["-i", str(inventory)]


def test_certificates_of_a_sites_own_acme_server(fleet: Fleet, folder: Path) -> None:
    (folder / "files/plant-root.pem").write_text(fleet.acme.root, encoding="utf-8")
    fleet.acme.dns("tls11.plant.example", fleet.address("tls11"))
    fleet.sh("tls11", f"echo '{fleet.acme.address} ca.plant.example' >>/etc/hosts")
    play = {"playbook": str(folder / "first.yml")}
    run = fleet.play("gateways", *gateways(folder, "tls11"), **play)  # type: ignore[arg-type]
    assert run.status == 0 and run["tls11"]["reason"], run.output
    with fleet.connect("tls11", fleet.acme.issuer(), name="tls11.plant.example"):
        assert not fleet.plain("tls11", 8080), "the plain interface still answers from the network"
    asked = fleet.sh("vantage-lan", "cat /tmp/acme.log")
    again = fleet.play("gateways", *gateways(folder, "tls11"), **play)  # type: ignore[arg-type]
    assert again["tls11"]["state"] == "unchanged", again.output
    assert fleet.sh("vantage-lan", "cat /tmp/acme.log") == asked
    dry = fleet.play(
        "gateways",
        *gateways(folder, "tls11"),
        "--tags",
        "tls_dry_run",
        action="tls_dry_run",
        **play,  # type: ignore[arg-type]
    )
    assert dry.status == 0 and dry["tls11"]["msg"] == "the next renewal would work", dry.output


def test_a_fleets_own_ca_and_clients_that_must_show_a_certificate(fleet: Fleet, folder: Path) -> None:
    now = datetime.now(timezone.utc)
    builder = x509.CertificateRevocationListBuilder().issuer_name(
        x509.load_pem_x509_certificate(PANELS.encode()).subject
    )
    builder = builder.last_update(now - timedelta(hours=1)).next_update(now + timedelta(days=7))
    signed = builder.sign(serialization.load_pem_private_key(PANELS_KEY.encode(), None), hashes.SHA256())  # type: ignore[arg-type]
    (folder / "files/panels.crl").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    run = fleet.play(
        "gateways",
        *gateways(folder, "tls12"),
        playbook=str(folder / "second.yml"),
        vault_fleet_ca=CA,
        vault_fleet_ca_key=CA_KEY,
        vault_panels_ca=PANELS,
    )
    assert run.status == 0, run.output
    key = ec.generate_private_key(ec.SECP256R1())
    panel = certificate("panel", key, PANELS, PANELS_KEY), pem(key)
    hello = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01x"
    for port, said, heard in (
        (443, b"GET / HTTP/1.0\r\n\r\n", b"HTTP/1.1 200"),
        (8883, hello, b"\x20\x02\x00\x00"),
    ):
        with fleet.connect("tls12", CA, port, pair=panel, name="tls12.plant.example") as client:
            client.sendall(said)
            assert client.recv(len(heard)) == heard
        try:
            with fleet.connect("tls12", CA, port, name="tls12.plant.example") as client:
                client.sendall(said)
                assert not client.recv(len(heard)).startswith(heard), port
        except (ssl.SSLError, ConnectionError):
            pass
