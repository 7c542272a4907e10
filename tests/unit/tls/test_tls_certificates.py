"""What a certificate says, and what does not fit together, is seen before a device is touched."""

from __future__ import annotations

import ipaddress
from datetime import timedelta

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls import certificates
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls.certificates import CertificateError
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed448, ed25519

from tests.unit.tls.makers import CA, CA_KEY, NOW, authority, crl, pair


@pytest.mark.parametrize("kind", ["ecdsa", "rsa"])
def test_the_fleets_ca_issues_what_was_asked_for(kind: str) -> None:
    made, key = pair("gw1.example", "198.51.100.7", days=30, kind=kind)
    leaf = certificates.check_pair(made, key, ["gw1.example", "198.51.100.7"], NOW)
    assert leaf.names == ("gw1.example", "198.51.100.7") and leaf.days_left(NOW) == 30
    assert certificates.signed_by(made, CA) and not certificates.signed_by(made, authority()[0])
    assert leaf.public_key == certificates.requested(certificates.request(key, ["x.example"]))


@pytest.mark.parametrize("kind", ["ecdsa", "rsa"])
def test_strict_clients_trust_what_the_fleets_ca_issues(kind: str) -> None:
    verification = pytest.importorskip("cryptography.x509.verification")
    made, _ = pair("gw1.example", "198.51.100.7", kind=kind)
    store = verification.Store([x509.load_pem_x509_certificate(CA.encode())])
    for subject in (x509.DNSName("gw1.example"), x509.IPAddress(ipaddress.ip_address("198.51.100.7"))):
        verifier = verification.PolicyBuilder().store(store).time(NOW).build_server_verifier(subject)
        assert len(verifier.verify(x509.load_pem_x509_certificate(made.encode()), [])) == 2


def test_a_device_is_a_client_only_where_that_is_wanted() -> None:
    verification = pytest.importorskip("cryptography.x509.verification")
    store = verification.Store([x509.load_pem_x509_certificate(CA.encode())])
    verifier = verification.PolicyBuilder().store(store).time(NOW).build_client_verifier()
    csr = certificates.request(certificates.new_key("ecdsa"), ["gw.example"])
    for client in (True, False):
        made = certificates.issue(CA, CA_KEY, csr, ["gw.example"], days=9, now=NOW, client=client)
        assert certificates.describe(made).client is client
        leaf = x509.load_pem_x509_certificate(made.encode())
        if client:
            assert verifier.verify(leaf, [])
        else:
            with pytest.raises(verification.VerificationError):
                verifier.verify(leaf, [])


def test_what_a_ca_lacks_for_strict_clients_is_named() -> None:
    assert certificates.remarks(CA, NOW, 90) == []
    (remark,) = certificates.remarks(authority(strict=False)[0], NOW, 90)
    assert "keyCertSign" in remark and "subject key identifier" in remark and "docs/tls.md" in remark
    (remark,) = certificates.remarks(authority(days=80)[0], NOW, 90)
    assert "expires on 2027-04-05, and nothing that it signs lives longer" in remark


def test_every_ca_that_is_named_has_a_list_that_is_in_force() -> None:
    one, two = authority(), authority(name="Other CA")
    certificates.check_crl(crl(*one), one[0], NOW)
    certificates.check_crl(crl(*one) + crl(*two), one[0] + two[0], NOW)
    for lists, authorities, message in (
        (crl(*one), one[0] + two[0], "no list of CN=Other CA"),
        (crl(*one) + crl(*two), one[0], "is not signed by"),
        (crl(*one) + crl(*two, days=-1), one[0] + two[0], "was to be renewed on 2027-01-14"),
        ("nothing", one[0], "holds no list"),
    ):
        with pytest.raises(CertificateError, match=message):
            certificates.check_crl(lists, authorities, NOW)


def test_a_ca_with_a_curve_of_edwards_signs_and_keys_that_are_no_text_are_refused() -> None:
    for kind in (ed448.Ed448PrivateKey, ed25519.Ed25519PrivateKey):
        ca, key = authority(key=kind.generate())
        certificates.check_ca(ca, key, NOW)
        csr = certificates.request(certificates.new_key("ecdsa"), ["gw.example"])
        made = certificates.issue(ca, key, csr, ["gw.example"], days=9, now=NOW)
        assert certificates.signed_by(made, ca) and not certificates.signed_by(made, CA)
    for read in (certificates.load_key, certificates.parse):
        with pytest.raises(CertificateError):
            read("\udc80")


def test_a_request_that_waits_is_for_these_names_and_this_kind_of_key() -> None:
    names = ("gw.example", "198.51.100.7")
    csr = certificates.request(certificates.new_key("ecdsa"), names)
    assert certificates.asks_for(csr, names[::-1], "ecdsa")
    assert not certificates.asks_for(csr, names[:1], "ecdsa")
    assert not certificates.asks_for(csr, names, "rsa")
    assert not certificates.asks_for("", names, "ecdsa") and not certificates.asks_for(
        csr[:200], names, "ecdsa"
    )


def test_the_common_name_is_one_of_the_names_or_none() -> None:
    long = f"{'a' * 40}.{'b' * 40}.example"
    assert certificates.common([long, "gw.example"]) == "gw.example"
    assert certificates.common([long]) == ""


def test_a_leaf_names_its_ca_as_that_names_itself() -> None:
    own = b"what this CA calls itself"
    ca, key = authority(identifier=own)
    csr = certificates.request(certificates.new_key("ecdsa"), ["gw.example"])
    leaf = x509.load_pem_x509_certificate(
        certificates.issue(ca, key, csr, ["gw.example"], days=9, now=NOW).encode()
    )
    found = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert found.key_identifier == own


def test_every_pair_has_a_key_of_its_own() -> None:
    assert len({certificates.describe(pair("gw.example")[0]).public_key for _ in range(5)}) == 5


def test_what_does_not_fit_is_named() -> None:
    made, key = pair("gw1.example")
    other = certificates.new_key("ecdsa")
    for certificate, private, names, now, message in (
        (made, other, [], NOW, "is not the certificate's"),
        (made, key, ["gw2.example"], NOW, "is for gw1.example, not for gw2.example"),
        (made, key, [], NOW + timedelta(days=91), "expired on 2027-04-15"),
        (made, key, [], NOW - timedelta(days=1), "is not valid before 2027-01-15"),
        (pair("a.example")[0] + made, key, [], NOW, "is not the certificate's"),
        (made + pair("b.example")[0], key, [], NOW, "the chain is not in order"),
        ("nothing", key, [], NOW, "holds no certificate"),
    ):
        with pytest.raises(CertificateError, match=message):
            certificates.check_pair(certificate, private, names, now)


def test_a_broken_key_is_never_quoted() -> None:
    with pytest.raises(CertificateError) as caught:
        certificates.load_key("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n")
    assert "c2VjcmV0" not in str(caught.value) and caught.value.__cause__ is None


def test_a_ca_that_may_not_sign_or_is_not_its_keys_or_is_old_is_refused() -> None:
    for certificate, key, message in (
        (*authority(ca=False), "basic constraints do not let it sign"),
        (*authority(signs=False), "key usage does not let it sign"),
        (CA, authority()[1], "is not the key"),
        (*authority(days=-1), "expired"),
    ):
        with pytest.raises(CertificateError, match=message):
            certificates.check_ca(certificate, key, NOW)


def test_no_certificate_outlives_its_ca() -> None:
    ca, key = authority(days=10)
    private = certificates.new_key("ecdsa")
    csr = certificates.request(private, ["gw.example"])
    made = certificates.issue(ca, key, csr, ["gw.example"], days=90, now=NOW)
    assert certificates.describe(made).days_left(NOW) == 10


@pytest.mark.parametrize(
    ("names", "name", "covered"),
    [
        (["gw.example"], "gw.example", True),
        (["*.example"], "gw.example", True),
        (["*.example"], "a.gw.example", False),
        (["*.example"], "example", False),
        (["gw.example"], "gw2.example", False),
    ],
)
def test_a_wildcard_stands_for_one_label(names: list[str], name: str, covered: bool) -> None:
    assert certificates.covers(names, name) is covered


@pytest.mark.parametrize(
    "name", ["", "a b", "-x.example", "x..example", "$(reboot)", "a" * 64, "gw.example\n"]
)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(CertificateError):
        certificates.check_name(name)


def test_names_and_addresses_are_taken_as_certificates_hold_them() -> None:
    assert certificates.check_name("GW1.Example") == "gw1.example"
    assert certificates.check_name("2001:DB8::1") == "2001:db8::1"
    assert certificates.check_name("*.plant.example") == "*.plant.example"


def test_requests_are_signed_by_their_own_key() -> None:
    with pytest.raises(CertificateError):
        certificates.requested(
            "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"
        )
    assert CA_KEY not in CA
