"""The operator's own certificates: a fleet CA, and one certificate from vault."""

from __future__ import annotations

import ssl

import pytest
from acme import authority, certificate, pem
from cryptography.hazmat.primitives.asymmetric import ec
from fleet import DEVICES, Fleet

CA, CA_KEY = authority("Fleet CA")
OWN = {"mode": "own", "ca_certificate": CA, "ca_key": CA_KEY}
VENDOR = {"upstream": "127.0.0.1:80"}
UPSTREAM = "{{ '127.0.0.1:80' if inventory_hostname == 'tlsvendor' else '' }}"


def test_a_site_without_tls_variables_gets_nothing(fleet: Fleet) -> None:
    run = fleet.play("devices")
    for device in DEVICES:
        assert run[device]["state"] == "unchanged" and run[device]["exchanges"] == 0
        assert fleet.sh(device, "ls /etc/sallyport 2>/dev/null || :") == ""


def test_check_mode_says_what_would_come_and_touches_nothing(fleet: Fleet) -> None:
    with fleet.untouched(*DEVICES):
        run = fleet.play("devices", "--check", "--diff", **OWN, upstream=UPSTREAM)
    for device in DEVICES:
        assert run[device]["state"] == "would_change" and run[device]["reason"] == "there is none"


def test_the_fleets_ca_signs_a_key_that_never_left_the_device(fleet: Fleet) -> None:
    run = fleet.play("tls12", "--diff", "-vvv", **OWN)
    assert run.status == 0, run.output
    assert run["tls12"]["key_made"] == "device" and run["tls12"]["verdict"]["state"] == "ok"
    key = fleet.sh("tls12", "cat /etc/sallyport/tls/privkey.pem").splitlines()[1]
    assert key not in run.output
    assert fleet.sh("tls12", "stat -c '%a %U' /etc/sallyport/tls/privkey.pem").split() == ["600", "root"]
    assert fleet.sh("tls12", "ls /etc/sallyport/tls/privkey.next 2>/dev/null || :") == ""
    assert "<h1>Gateway</h1>" in fleet.get("tls12", CA)


def test_a_second_run_changes_nothing(fleet: Fleet) -> None:
    run = fleet.play("tls12", **OWN)
    assert run.status == 0 and run["tls12"]["state"] == "unchanged", run.output
    assert run["tls12"]["exchanges"] == 2


def test_a_client_that_trusts_another_ca_and_one_of_tls_1_1_do_not_connect(fleet: Fleet) -> None:
    other, _ = authority("Another CA")
    with pytest.raises(ssl.SSLCertVerificationError):
        fleet.get("tls12", other)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        fleet.get("tls12", CA, highest=ssl.TLSVersion.TLSv1_1)
    assert "Gateway" in fleet.get("tls12", CA, highest=ssl.TLSVersion.TLSv1_2)


def test_the_gateway_without_openssl_gets_its_key_from_the_controller_and_a_front_before_httpd(
    fleet: Fleet,
) -> None:
    assert fleet.plain("tlsvendor")
    run = fleet.play("tlsvendor", "--diff", "-vvv", **OWN, **VENDOR)
    assert run.status == 0, run.output
    assert run["tlsvendor"]["key_made"] == "controller"
    key = fleet.sh("tlsvendor", "cat /etc/sallyport/tls/privkey.pem").splitlines()[1]
    assert key not in run.output
    assert "Gateway" in fleet.get("tlsvendor", CA)
    assert not fleet.plain("tlsvendor"), "the plain interface still answers from the network"
    look = "du -s /run; grep -c stunnel /var/log/messages || :"
    written = fleet.sh("tlsvendor", look)
    for _ in range(20):
        fleet.get("tlsvendor", CA)
    assert fleet.sh("tlsvendor", look) == written, "each connection leaves something in memory"
    again = fleet.play("tlsvendor", **OWN, **VENDOR)
    assert again["tlsvendor"]["state"] == "unchanged", again.output


def test_a_certificate_and_key_from_vault_are_served_as_they_are(fleet: Fleet) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    made = certificate("tls13", key, CA, CA_KEY, names=("tls13.lab",))
    run = fleet.play("tls13", "--diff", "-vvv", mode="own", certificate=made, private_key=pem(key))
    assert run.status == 0, run.output
    assert pem(key).splitlines()[1] not in run.output
    assert "Gateway" in fleet.get("tls13", CA)


def test_a_pair_that_does_not_fit_is_refused_before_the_device_is_touched(fleet: Fleet) -> None:
    before = fleet.served("tls13")
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    made = certificate("tls13", key, CA, CA_KEY, names=("tls13.lab",))
    run = fleet.play("tls13", mode="own", certificate=made, private_key=pem(other))
    assert run["tls13"]["state"] == "refused" and "is not the certificate's" in run["tls13"]["msg"]
    expired = certificate("tls13", key, CA, CA_KEY, names=("tls13.lab",), days=-0.01)
    run = fleet.play("tls13", mode="own", certificate=expired, private_key=pem(key))
    assert "expired on" in run["tls13"]["msg"]
    assert fleet.served("tls13") == before
