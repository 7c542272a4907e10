"""Client certificates, a broker, a second web server: who gets in and who does not."""

from __future__ import annotations

import ssl
import threading
from datetime import datetime, timedelta, timezone

import pytest
from acme import authority, certificate, pem
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from fleet import DEVICES, Fleet, until

from lab.fleet import CHECKOUT

CA, CA_KEY = authority("Fleet CA")  # of servers and clients


def client(name: str) -> tuple[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    return certificate(name, key, CA, CA_KEY), pem(key)


GOOD, LOST = client("panel-1"), client("panel-2")


def revoked(*pairs: tuple[str, str]) -> str:
    now = datetime.now(timezone.utc)
    ca = x509.load_pem_x509_certificate(CA.encode())
    builder = x509.CertificateRevocationListBuilder().issuer_name(ca.subject)
    builder = builder.last_update(now - timedelta(hours=1)).next_update(now + timedelta(days=7))
    for pair in pairs:
        serial = x509.load_pem_x509_certificate(pair[0].encode()).serial_number
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        builder = builder.add_revoked_certificate(entry)
    key = serialization.load_pem_private_key(CA_KEY.encode(), None)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()  # type: ignore[arg-type]


SITE = {
    "mode": "own",
    "ca_certificate": CA,
    "ca_key": CA_KEY,
    "client_ca": CA,
    "also_client": "{{ inventory_hostname == 'tls13' }}",
    "mosquitto_port": "{{ 8883 if inventory_hostname == 'tls12' else 0 }}",
    # On one device it serves by itself; it has given up root when it reloads.
    "front": "{{ 'none' if inventory_hostname == 'tls13' else 'auto' }}",
    "lighttpd_port": "{{ 443 if inventory_hostname == 'tls13' else 0 }}",
    "upstream": "{{ '127.0.0.1:80' if inventory_hostname == 'tlsvendor' else '' }}",
}


COPIES = {"tls12": "/etc/mosquitto/certs/sallyport.key", "tls13": "/etc/lighttpd/sallyport/privkey.pem"}


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


WEB = tuple((device, 443) for device in DEVICES)
ALL = ":".join(DEVICES)
BIG = 64 << 20
DEFAULT = "/etc/nginx/sites-available/default"


def as_shipped(path: str) -> str:
    return (CHECKOUT / "lab/images/vendor/root" / path).read_text(encoding="utf-8")


SENSORS = "/etc/mosquitto/conf.d/default.conf"
ANOTHER, ANOTHER_KEY = authority("Another fleet CA")


def test_a_client_with_a_certificate_gets_in_and_one_without_does_not(fleet: Fleet) -> None:
    fleet.sh(
        "tls12", f"printf 'listener 1883\\nallow_anonymous true\\n' >{SENSORS}; systemctl restart mosquitto"
    )
    assert until(lambda: fleet.plain("tls12", 1883))
    run = fleet.play("tls12", **{**SITE, "client_ca": ""})
    assert run["tls12"]["state"] == "refused" and f"({SENSORS}: allow_anonymous)" in run["tls12"]["msg"], (
        run.output
    )
    run = fleet.play(ALL, **SITE, client_crl=revoked())
    assert run.status == 0, run.output
    for device, port in WEB:
        assert answer(fleet, device, port, GOOD) == "page", (device, port)
        assert answer(fleet, device, port, LOST) == "page", (device, port)
        assert answer(fleet, device, port, None) != "page", (device, port)
    assert mqtt(fleet, GOOD) == b"\x20\x02\x00\x00"
    assert fleet.mqtt("tls12") == "20020000", (
        "sensors without a name are shut out of the listener that they had"
    )
    with pytest.raises((ssl.SSLError, ConnectionError)):
        assert mqtt(fleet, None) == b"", "the broker answered a client without a certificate"
        raise ConnectionError


def test_a_device_is_a_client_of_the_broker_where_that_is_wanted(fleet: Fleet) -> None:
    def pair(device: str) -> tuple[str, str]:
        folder = "/etc/sallyport/tls"
        return fleet.sh(device, f"cat {folder}/fullchain.pem"), fleet.sh(device, f"cat {folder}/privkey.pem")

    assert mqtt(fleet, pair("tls13")) == b"\x20\x02\x00\x00"
    with pytest.raises((ssl.SSLError, ConnectionError)):
        assert mqtt(fleet, pair("tls11")) == b"", "the broker took a server's certificate for a client's"
        raise ConnectionError


def test_a_lighttpd_that_would_then_serve_nothing_is_refused_by_its_version(fleet: Fleet) -> None:
    before = fleet.served_with("tls11", CA, 443, GOOD)
    run = fleet.play("tls11", **{**SITE, "lighttpd_port": 8443}, client_crl=revoked())
    assert run["tls11"]["state"] == "refused" and "lighttpd is 1.4.59" in run["tls11"]["msg"], run.output
    assert fleet.served_with("tls11", CA, 443, GOOD) == before


def test_a_revoked_client_is_out_after_the_next_run(fleet: Fleet) -> None:
    run = fleet.play(ALL, **SITE, client_crl=revoked(LOST))
    assert run.status == 0, run.output
    for device, port in WEB:
        assert answer(fleet, device, port, GOOD) == "page", (device, port)
        assert answer(fleet, device, port, LOST) != "page", (device, port)
    assert mqtt(fleet, GOOD) == b"\x20\x02\x00\x00"
    with pytest.raises((ssl.SSLError, ConnectionError)):
        assert mqtt(fleet, LOST) == b"", "the broker answered a revoked client"
        raise ConnectionError


def test_another_ca_of_clients_counts_at_a_broker_that_runs(fleet: Fleet) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    theirs = certificate("panel-3", key, ANOTHER, ANOTHER_KEY), pem(key)
    run = fleet.play("tls12", **{**SITE, "client_ca": ANOTHER})
    assert run.status == 0, run.output
    assert mqtt(fleet, theirs) == b"\x20\x02\x00\x00"
    with pytest.raises((ssl.SSLError, ConnectionError)):
        assert mqtt(fleet, GOOD) == b"", "the broker goes on with the CA of before"
        raise ConnectionError
    assert answer(fleet, "tls12", 443, GOOD) != "page" and answer(fleet, "tls12", 443, theirs) == "page"
    run = fleet.play("tls12", **SITE, client_crl=revoked(LOST))
    assert run.status == 0 and mqtt(fleet, GOOD) == b"\x20\x02\x00\x00", run.output


def test_no_two_devices_have_the_same_key(fleet: Fleet) -> None:
    keys = [fleet.sh(device, "cat /etc/sallyport/tls/privkey.pem") for device in DEVICES]
    assert len(set(keys)) == len(DEVICES)
    for device, path in COPIES.items():
        assert fleet.sh(device, f"stat -c %a {path}").strip() == "600"


class Download(threading.Thread):
    """A client that takes its time until it is told to hurry."""

    def __init__(self, fleet: Fleet, device: str, port: int) -> None:
        super().__init__(daemon=True)
        self.client = fleet.connect(device, CA, port, pair=GOOD)
        self.client.sendall(f"GET /big HTTP/1.0\r\nHost: {device}.lab\r\n\r\n".encode())
        self.hurry, self.taken = threading.Event(), 0

    def run(self) -> None:
        with self.client:
            while block := self.client.recv(16384):
                self.taken += len(block)
                self.hurry.wait(0.2)


def test_a_renewed_certificate_reaches_every_service_and_ends_nothing_that_is_under_way(fleet: Fleet) -> None:
    everywhere = (*WEB, ("tls12", 8883))
    for device in DEVICES:
        folder = "/www" if device == "tlsvendor" else "/var/www/html"
        fleet.sh(device, f"dd if=/dev/zero of={folder}/big bs=1048576 seek={BIG >> 20} count=0 2>/dev/null")
    before = {place: fleet.served_with(*place[:1], CA, place[1], GOOD) for place in everywhere}
    downloads = {place: Download(fleet, *place) for place in WEB}
    for download in downloads.values():
        download.start()
    with fleet.connect("tls12", CA, 8883, pair=GOOD) as broker:
        broker.sendall(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01y")
        assert broker.recv(4) == b"\x20\x02\x00\x00"
        assert until(lambda: all(download.taken for download in downloads.values()))
        names = ["{{ inventory_hostname }}.lab", "{{ inventory_hostname }}.panel.lab"]
        run = fleet.play(ALL, **SITE, client_crl=revoked(LOST), names=names)
        assert run.status == 0, run.output
        for place, fingerprint in before.items():
            assert fleet.served_with(place[0], CA, place[1], GOOD) != fingerprint, place
        for place, download in downloads.items():
            assert download.is_alive() and download.taken < BIG, (
                f"{place} was over before the certificate came"
            )
            download.hurry.set()
        for place, download in downloads.items():
            download.join(60)
            assert download.taken > BIG, f"{place} ended after {download.taken} of {BIG} bytes"
        broker.sendall(b"\xc0\x00")
        assert broker.recv(2) == b"\xd0\x00", "the session ended with the renewal"


def test_what_a_devices_own_openssl_refuses_is_not_served_and_the_old_certificate_is(fleet: Fleet) -> None:
    """A key of 1024 bits: every library here finds it too small."""
    everywhere = (*WEB, ("tls12", 8883))
    before = {place: fleet.served_with(place[0], CA, place[1], GOOD) for place in everywhere}
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    weak = certificate("weak", key, CA, CA_KEY, names=("*.lab",))  # type: ignore[arg-type]
    values = {**SITE, "ca_certificate": "", "ca_key": "", "also_client": False, "client_crl": revoked(LOST)}
    # There nginx would be the first to refuse it.
    values["front"] = "{{ 'none' if inventory_hostname in ['tls12', 'tls13'] else 'auto' }}"
    run = fleet.play(ALL, **values, certificate=weak, private_key=pem(key))  # type: ignore[arg-type]
    for device, service in (
        ("tls11", "nginx"),
        ("tls12", "mosquitto"),
        ("tls13", "lighttpd"),
        ("tlsvendor", "stunnel"),
    ):
        assert run[device]["failed"] and service in run[device]["msg"], run.output
    for place, fingerprint in before.items():
        assert fleet.served_with(place[0], CA, place[1], GOOD) == fingerprint, place


def test_a_service_that_is_no_longer_wanted_gives_its_certificate_back_and_gets_it_again(
    fleet: Fleet,
) -> None:
    given_up = {
        "mosquitto_port": 0,
        "lighttpd_port": 0,
        "front": "{{ 'none' if inventory_hostname != 'tls12' else 'auto' }}",
        "upstream": "",
    }
    run = fleet.play(ALL, **{**SITE, **given_up}, client_crl=revoked(LOST))
    assert run.status == 0, run.output
    assert not fleet.plain("tls12", 8883) and answer(fleet, "tls12", 443, GOOD) == "page"
    for device in ("tls11", "tls13", "tlsvendor"):
        assert not fleet.plain(device, 443), device
        assert "Gateway" in fleet.page(device, fleet.address(device)), (
            f"the plain page of {device} is gone too"
        )
    assert fleet.sh("tls11", "readlink /etc/nginx/sites-enabled/default").strip() == DEFAULT
    assert fleet.sh("tlsvendor", "grep -v sallyport/device /etc/inittab") == as_shipped("etc/inittab")
    assert fleet.sh("tlsvendor", "pidof stunnel4 || :") == ""
    for device, path in COPIES.items():
        assert fleet.sh(device, f"ls {path} 2>/dev/null || :") == "", "its copy of the key is still there"
    run = fleet.play(ALL, playbook="playbooks/rollback.yml", action="rollback", to="previous")
    assert run.status == 0, run.output
    assert mqtt(fleet, GOOD) == b"\x20\x02\x00\x00" and not fleet.plain("tlsvendor")
    for device in DEVICES:
        assert answer(fleet, device, 443, GOOD) == "page", device


def test_the_way_back_brings_the_plain_interface_again_and_leaves_no_key(fleet: Fleet) -> None:
    fleet.sh("tls12", f"rm {SENSORS}")
    run = fleet.play(
        "tlsvendor:tls12:tls13", playbook="playbooks/rollback.yml", action="rollback", to="factory"
    )
    assert run.status == 0, run.output
    for device, port in (
        ("tlsvendor", 443),
        ("tls12", 443),
        ("tls13", 443),
        ("tls12", 8883),
    ):
        assert not fleet.plain(device, port), (device, port)
    for device in ("tlsvendor", "tls12", "tls13"):
        assert fleet.plain(device)
        kept = f"find /etc/sallyport/tls {COPIES.get(device, '')} -type f 2>/dev/null || :"
        assert fleet.sh(device, kept) == ""
        hooked = "grep -ls sallyport/tls/deploy /etc/letsencrypt/renewal/*.conf || :"
        assert fleet.sh(device, hooked) == "", "certbot would call a program that is gone"
    assert "Managed by Sallyport" not in fleet.sh("tls12", "cat /etc/nginx/conf.d/* 2>/dev/null || :")
