"""Client certificates, a broker, a second web server: who gets in and who does not."""

from __future__ import annotations

import ssl
from datetime import datetime, timedelta, timezone

import pytest
from acme import authority, certificate, pem
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fleet import Fleet

CA, CA_KEY = authority("Fleet CA")
CLIENTS, CLIENTS_KEY = authority("Clients CA")


def client(name: str) -> tuple[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    return certificate(name, key, CLIENTS, CLIENTS_KEY), pem(key)


GOOD, LOST = client("panel-1"), client("panel-2")


def revoked(*pairs: tuple[str, str]) -> str:
    now = datetime.now(timezone.utc)
    ca = x509.load_pem_x509_certificate(CLIENTS.encode())
    builder = x509.CertificateRevocationListBuilder().issuer_name(ca.subject)
    builder = builder.last_update(now - timedelta(hours=1)).next_update(now + timedelta(days=7))
    for pair in pairs:
        serial = x509.load_pem_x509_certificate(pair[0].encode()).serial_number
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        builder = builder.add_revoked_certificate(entry)
    key = serialization.load_pem_private_key(CLIENTS_KEY.encode(), None)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()  # type: ignore[arg-type]


SITE = {
    "mode": "own",
    "ca_certificate": CA,
    "ca_key": CA_KEY,
    "client_ca": CLIENTS,
    "mosquitto_port": "{{ 8883 if inventory_hostname == 'tls12' else 0 }}",
    "upstream": "{{ '127.0.0.1:80' if inventory_hostname == 'tlsvendor' else '' }}",
}


def mqtt(fleet: Fleet, pair: tuple[str, str] | None) -> bytes:
    """The broker's answer to CONNECT."""
    with fleet.connect("tls12", CA, 8883, pair=pair) as broker:
        broker.sendall(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01x")
        return broker.recv(4)


def answer(fleet: Fleet, device: str, port: int, pair: tuple[str, str] | None) -> str:
    """The page, or the first line of what came instead."""
    try:
        page = fleet.get(device, CA, port, pair=pair)
    except (ssl.SSLError, ConnectionError) as error:
        return f"refused: {error}"
    return "page" if "Gateway" in page else page.splitlines()[0]


WEB = (("tls11", 443), ("tls12", 443), ("tlsvendor", 443))


def test_a_client_with_a_certificate_gets_in_and_one_without_does_not(fleet: Fleet) -> None:
    run = fleet.play("tls11:tls12:tlsvendor", **SITE, client_crl=revoked())
    assert run.status == 0, run.output
    for device, port in WEB:
        assert answer(fleet, device, port, GOOD) == "page", (device, port)
        assert answer(fleet, device, port, LOST) == "page", (device, port)
        assert answer(fleet, device, port, None) != "page", (device, port)
    assert mqtt(fleet, GOOD) == b"\x20\x02\x00\x00"
    with pytest.raises((ssl.SSLError, ConnectionError)):
        assert mqtt(fleet, None) == b"", "the broker answered a client without a certificate"
        raise ConnectionError
    again = fleet.play("tls11:tls12:tlsvendor", **SITE, client_crl=revoked())
    assert all(not again[device]["failed"] for device in ("tls11", "tls12", "tlsvendor")), again.output


def test_a_revoked_client_is_out_after_the_next_run(fleet: Fleet) -> None:
    run = fleet.play("tls11:tls12:tlsvendor", **SITE, client_crl=revoked(LOST))
    assert run.status == 0, run.output
    for device, port in WEB:
        assert answer(fleet, device, port, GOOD) == "page", (device, port)
        assert answer(fleet, device, port, LOST) != "page", (device, port)
    assert mqtt(fleet, GOOD) == b"\x20\x02\x00\x00"
    with pytest.raises((ssl.SSLError, ConnectionError)):
        assert mqtt(fleet, LOST) == b"", "the broker answered a revoked client"
        raise ConnectionError


def test_no_two_devices_have_the_same_key(fleet: Fleet) -> None:
    keys = [
        fleet.sh(device, "cat /etc/sallyport/tls/privkey.pem") for device in ("tls11", "tls12", "tlsvendor")
    ]
    assert len(set(keys)) == 3
    for path in ("tls12:/etc/mosquitto/certs/sallyport.key",):
        device, _, file = path.partition(":")
        assert fleet.sh(device, f"stat -c %a {file}").strip() == "600"


def test_a_renewed_certificate_reaches_the_broker_without_ending_a_session(fleet: Fleet) -> None:
    before = fleet.served_with("tls12", CA, 8883, GOOD)
    with fleet.connect("tls12", CA, 8883, pair=GOOD) as broker:
        broker.sendall(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01y")
        assert broker.recv(4) == b"\x20\x02\x00\x00"
        run = fleet.play("tls12", **SITE, client_crl=revoked(LOST), names=["tls12.lab", "broker.lab"])
        assert run.status == 0, run.output
        assert fleet.served_with("tls12", CA, 8883, GOOD) != before
        broker.sendall(b"\xc0\x00")
        assert broker.recv(2) == b"\xd0\x00", "the session ended with the renewal"


def test_the_way_back_brings_the_plain_interface_again(fleet: Fleet) -> None:
    assert not fleet.plain("tlsvendor")
    run = fleet.play("tlsvendor:tls12", playbook="playbooks/rollback.yml", action="rollback", to="factory")
    assert run.status == 0, run.output
    assert fleet.plain("tlsvendor") and not fleet.plain("tlsvendor", 443)
    assert fleet.plain("tls12") and not fleet.plain("tls12", 443)
    assert "Managed by Sallyport" not in fleet.sh("tls12", "cat /etc/nginx/conf.d/* 2>/dev/null || :")
