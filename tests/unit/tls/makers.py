"""Certificates of any age and kind, for tests."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.tls import certificates, options
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

NOW = datetime(2027, 1, 15, 12, tzinfo=timezone.utc)


def authority(
    *,
    ca: bool = True,
    days: int = 3650,
    strict: bool = True,
    signs: bool = True,
    identifier: bytes = b"",
    name: str = "Test CA",
    key: Any = None,
) -> tuple[str, str]:
    """A root, and its key; not ``strict``, it has no more than openssl wants of one."""
    key = key or certificates.load_key(certificates.new_key("ecdsa"))
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    called = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(called)
        .issuer_name(called)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(days=30))
        .not_valid_after(NOW + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if strict:
        purposes = {"key_cert_sign": signs, "crl_sign": True, "digital_signature": False}
        others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
        purposes |= dict.fromkeys((*others, "encipher_only", "decipher_only"), False)
        own = (
            x509.SubjectKeyIdentifier(identifier)
            if identifier
            else x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        )
        builder = builder.add_extension(x509.KeyUsage(**purposes), critical=True)
        builder = builder.add_extension(own, critical=False)
    made = builder.sign(key, certificates._hash(key))
    return made.public_bytes(serialization.Encoding.PEM).decode(), pem


CA, CA_KEY = authority()


def pair(*names: str, days: int = 90, now: datetime = NOW, kind: str = "ecdsa") -> tuple[str, str]:
    """A certificate of the test CA, and its key."""
    key = certificates.new_key(kind)
    csr = certificates.request(key, names)
    return certificates.issue(CA, CA_KEY, csr, names, days=days, now=now), key


def crl(ca: str, ca_key: str, *serials: int, age: float = 2, days: float = 7) -> str:
    """A CA's list of revoked certificates, ``age`` days old, and good for ``days`` more."""
    builder = x509.CertificateRevocationListBuilder().issuer_name(
        x509.load_pem_x509_certificate(ca.encode()).subject
    )
    builder = builder.last_update(NOW - timedelta(days=age)).next_update(NOW + timedelta(days=days))
    for serial in serials:
        revoked = (
            x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW - timedelta(days=3))
        )
        builder = builder.add_revoked_certificate(revoked.build())
    made = builder.sign(certificates.load_key(ca_key), hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM).decode()


def wanted(**changed: Any) -> options.Wanted:
    """The role's variables with these ones changed."""
    defaults = {name: spec["default"] for name, spec in options.SPEC.items()}
    return options.parse({**defaults, **changed}, NOW)
