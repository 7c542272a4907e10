# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Certificates, keys and requests on the controller, by the `cryptography` that ansible-core itself needs.

Private keys are handed over and back in memory; nothing here writes a file.
"""

from __future__ import annotations

import hashlib
import ipaddress
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.S)
_LIST = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.S)
_NAME = re.compile(r"(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class CertificateError(ValueError):
    """A certificate, key or name is not what it must be. The message says what is wrong, never the key."""


@dataclass(frozen=True)
class Certificate:
    """What matters about a leaf certificate."""

    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    fingerprint: str
    public_key: str
    """SHA-256 of the public key: two devices with the same one share their private key."""
    issuer: str
    serial: str
    ocsp: bool
    """Whether the CA names a responder for stapling."""
    client: bool
    """Whether it says that it is a client's too."""
    kind: str = "other"
    """Its key: ``ecdsa``, ``rsa`` or ``other``."""

    def days_left(self, now: datetime) -> int:
        """Whole days until it expires; negative when it has."""
        return (self.not_after - now) // timedelta(days=1)

    def report(self, now: datetime) -> dict[str, Any]:
        """For results: public facts only."""
        return {
            "names": list(self.names),
            "not_before": self.not_before.isoformat(),
            "not_after": self.not_after.isoformat(),
            "days_left": self.days_left(now),
            "issuer": self.issuer,
            "serial": self.serial,
            "fingerprint": self.fingerprint,
            "public_key": self.public_key,
        }


def check_name(name: str) -> str:
    """The name as certificates hold it. CertificateError when it is neither a host name nor an address."""
    # Whatever stands behind % would be a zone to Python, and a line of its own to a service's configuration.
    if "%" not in name:
        try:
            return str(ipaddress.ip_address(name))
        except ValueError:
            pass
    lowered = name.lower()
    if len(lowered) > 253 or not _NAME.fullmatch(lowered):
        raise CertificateError(f"{name!r} is neither a host name nor an IP address")
    return lowered


def parse(pem: str | bytes) -> list[x509.Certificate]:
    """Every certificate of a PEM text, in its order. CertificateError where there is none."""
    raw = pem.encode("utf-8", "replace") if isinstance(pem, str) else pem
    try:
        found = [x509.load_pem_x509_certificate(block) for block in _BLOCK.findall(raw)]
    except ValueError as error:
        raise CertificateError(f"a certificate cannot be read: {error}") from None
    if not found:
        raise CertificateError("it holds no certificate (-----BEGIN CERTIFICATE-----)")
    return found


def describe(pem: str | bytes) -> Certificate:
    """The first certificate of a PEM text."""
    leaf = parse(pem)[0]
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        texts = [str(value).lower() for value in names.get_values_for_type(x509.DNSName)]
        texts += [str(value) for value in names.get_values_for_type(x509.IPAddress)]
    except x509.ExtensionNotFound:
        texts = []
    return Certificate(
        names=tuple(texts),
        not_before=_utc(leaf, "not_valid_before"),
        not_after=_utc(leaf, "not_valid_after"),
        fingerprint=leaf.fingerprint(hashes.SHA256()).hex(),
        public_key=hashlib.sha256(_spki(leaf.public_key())).hexdigest(),
        issuer=leaf.issuer.rfc4514_string(),
        serial=f"{leaf.serial_number:x}",
        ocsp=_ocsp(leaf),
        client=_client(leaf),
        kind=_kind(leaf.public_key()),
    )


@dataclass(frozen=True)
class Span:
    """Something that is good for a time: who says so, from when and until when."""

    name: str
    first: datetime
    last: datetime


def spans(pem: str | bytes) -> list[Span]:
    """Who each certificate of a PEM text is, and how long it is good."""
    return [
        Span(one.subject.rfc4514_string(), _utc(one, "not_valid_before"), _utc(one, "not_valid_after"))
        for one in parse(pem)
    ]


def revocations(pem: str) -> list[Span]:
    """Whose each list of revoked certificates is, and how long it is good; one without an end is left out."""
    return [
        Span(one.issuer.rfc4514_string(), _utc(one, "last_update"), _utc(one, "next_update"))
        for one in _lists(pem)
        if (getattr(one, "next_update_utc", None) or one.next_update) is not None
    ]


def _lists(pem: str) -> list[x509.CertificateRevocationList]:
    try:
        found = [x509.load_pem_x509_crl(block) for block in _LIST.findall(pem.encode("utf-8", "replace"))]
    except ValueError as error:
        raise CertificateError(f"tls_client_crl cannot be read: {error}") from None
    if not found:
        raise CertificateError("tls_client_crl cannot be read: it holds no list (-----BEGIN X509 CRL-----)")
    return found


def _utc(signed: Any, name: str) -> datetime:
    # The aware form came with cryptography 42; older ones know only the naive one.
    value: datetime = getattr(signed, f"{name}_utc", None) or getattr(signed, name)
    return value.replace(tzinfo=timezone.utc)


def _kind(key: Any) -> str:
    if isinstance(key, rsa.RSAPublicKey):
        return "rsa"
    return "ecdsa" if isinstance(key, ec.EllipticCurvePublicKey) else "other"


def _spki(key: Any) -> bytes:
    raw: bytes = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return raw


def _ocsp(leaf: x509.Certificate) -> bool:
    access = _extension(leaf, x509.AuthorityInformationAccess)
    return access is not None and any(
        item.access_method == AuthorityInformationAccessOID.OCSP for item in access.value
    )


def _client(leaf: x509.Certificate) -> bool:
    usage = _extension(leaf, x509.ExtendedKeyUsage)
    return usage is not None and ExtendedKeyUsageOID.CLIENT_AUTH in usage.value


def load_key(pem: str | bytes) -> Any:
    """A private key. The error never quotes what was given."""
    raw = pem.encode("utf-8", "replace") if isinstance(pem, str) else pem
    try:
        return serialization.load_pem_private_key(raw, None)
    except TypeError:
        raise CertificateError("the private key has a passphrase; give it without one, from vault") from None
    except (
        Exception
    ):  # of whatever kind: the library's own words may quote the key, and none of them may be shown
        raise CertificateError(
            "the private key cannot be read: a PEM text without passphrase is expected"
        ) from None


def check_pair(certificate: str, key: str, names: Sequence[str], now: datetime) -> Certificate:
    """The operator's certificate with its key. CertificateError says what does not fit."""
    chain = parse(certificate)
    leaf = describe(certificate)
    if hashlib.sha256(_spki(load_key(key).public_key())).hexdigest() != leaf.public_key:
        raise CertificateError(
            "the private key is not the certificate's. The device's own certificate must stand first in the chain"
        )
    for child, parent in itertools.pairwise(chain):
        if child.issuer != parent.subject:
            raise CertificateError(
                f"the chain is not in order: {child.subject.rfc4514_string()} was issued by "
                f"{child.issuer.rfc4514_string()}, but {parent.subject.rfc4514_string()} follows"
            )
    if leaf.not_after <= now:
        raise CertificateError(f"the certificate expired on {leaf.not_after:%Y-%m-%d %H:%M} UTC")
    if leaf.not_before > now:
        raise CertificateError(f"the certificate is not valid before {leaf.not_before:%Y-%m-%d %H:%M} UTC")
    missing = [name for name in names if not covers(leaf.names, name)]
    if missing:
        raise CertificateError(
            f"the certificate is for {', '.join(leaf.names) or 'no name'}, not for {', '.join(missing)}"
        )
    return leaf


def covers(names: Iterable[str], wanted: str) -> bool:
    """Whether a certificate with these names is one for ``wanted``; a wildcard stands for one label."""
    rest = wanted.partition(".")[2]
    return any(name == wanted or (name.startswith("*.") and rest and name[2:] == rest) for name in names)


def new_key(kind: str) -> str:
    """A private key as PEM: ``ecdsa`` (P-256) or ``rsa`` (2048)."""
    key: Any = (
        ec.generate_private_key(ec.SECP256R1())
        if kind == "ecdsa"
        else rsa.generate_private_key(public_exponent=65537, key_size=2048)
    )
    raw: bytes = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return raw.decode()


def request(key: str, names: Sequence[str]) -> str:
    """A signing request for these names."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(_subject(names))
    builder = builder.add_extension(_alternative(names), critical=False)
    return builder.sign(load_key(key), _hash(load_key(key))).public_bytes(serialization.Encoding.PEM).decode()


def requested(pem: str) -> str:
    """SHA-256 of the public key of a request whose signature holds."""
    try:
        csr = x509.load_pem_x509_csr(pem.encode())
    except ValueError as error:
        raise CertificateError(f"the device's signing request cannot be read: {error}") from None
    if not csr.is_signature_valid:
        raise CertificateError("the device's signing request is not signed by its own key")
    return hashlib.sha256(_spki(csr.public_key())).hexdigest()


def asks_for(pem: str, names: Iterable[str], kind: str) -> bool:
    """Whether this is a request for exactly these names, with a key of this kind, signed by that key."""
    try:
        requested(pem)
        csr = x509.load_pem_x509_csr(pem.encode())
        wanted = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (CertificateError, ValueError, x509.ExtensionNotFound):
        return False
    return set(wanted) == set(_alternative(tuple(names))) and _kind(csr.public_key()) == kind


def issue(
    ca_certificate: str,
    ca_key: str,
    csr: str,
    names: Sequence[str],
    *,
    days: int,
    now: datetime,
    client: bool = False,
) -> str:
    """A certificate of the fleet's own CA, with the chain up to but without a root.

    Args:
        client: whether the device may show it as a client too, to a broker that asks for one.
    """
    requested(csr)
    asked = x509.load_pem_x509_csr(csr.encode())
    chain = parse(ca_certificate)
    ca, key = chain[0], load_key(ca_key)
    check_ca(ca_certificate, ca_key, now)
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, *([ExtendedKeyUsageOID.CLIENT_AUTH] if client else [])]
    last = min(now + timedelta(days=days), _utc(ca, "not_valid_after"))
    builder = (
        x509.CertificateBuilder()
        .subject_name(_subject(names))
        .issuer_name(ca.subject)
        .public_key(asked.public_key())
        .serial_number(x509.random_serial_number())
        # Clocks differ: a device a little behind must not find it "not yet valid".
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(last)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        # All suites of the profiles have ephemeral keys: the certificate's own key only signs.
        .add_extension(_usage("digital_signature"), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(_alternative(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(asked.public_key()), critical=False)
        .add_extension(_authority(ca), critical=False)
    )
    made = builder.sign(key, _hash(key)).public_bytes(serialization.Encoding.PEM).decode()
    rest = [one for one in chain if one.issuer != one.subject]
    return made + "".join(one.public_bytes(serialization.Encoding.PEM).decode() for one in rest)


def check_ca(certificate: str, key: str, now: datetime) -> None:
    """That a CA's certificate may sign, has not expired and is the key's."""
    ca = parse(certificate)[0]
    constraints, usage = _extension(ca, x509.BasicConstraints), _extension(ca, x509.KeyUsage)
    if constraints is None or not constraints.value.ca:
        raise CertificateError("tls_ca_certificate is no CA: its basic constraints do not let it sign")
    if usage is not None and not usage.value.key_cert_sign:
        raise CertificateError("tls_ca_certificate is no CA: its key usage does not let it sign certificates")
    if _spki(load_key(key).public_key()) != _spki(ca.public_key()):
        raise CertificateError("tls_ca_key is not the key of tls_ca_certificate")
    if _utc(ca, "not_valid_after") <= now:
        raise CertificateError(f"tls_ca_certificate expired on {_utc(ca, 'not_valid_after'):%Y-%m-%d}")


def remarks(authority: str, now: datetime, days: int) -> list[str]:
    """What the site should know of its CA.

    That it ends before what it signs would (after so many days). And what its certificate lacks that RFC 5280 asks of it:
    openssl takes it, stricter clients do not, such as Python from 3.13 on and programs that use webpki.
    """
    ca = parse(authority)[0]
    until = _utc(ca, "not_valid_after")
    said = []
    if until < now + timedelta(days=days):
        said.append(
            f"tls_ca_certificate expires on {until:%Y-%m-%d}, and nothing that it signs lives longer: give a new CA to all "
            "who trust this one, then put it in its place"
        )
    constraints = _extension(ca, x509.BasicConstraints)
    missing = [
        what
        for what, lacks in (
            ("basic constraints that are critical", constraints is None or not constraints.critical),
            ("a key usage with keyCertSign", _extension(ca, x509.KeyUsage) is None),
            ("a subject key identifier", _extension(ca, x509.SubjectKeyIdentifier) is None),
        )
        if lacks
    ]
    if missing:
        said.append(
            f"tls_ca_certificate lacks {', '.join(missing)}: strict clients (Python from 3.13 on, webpki) trust nothing that "
            "it signs. docs/tls.md has the command for a CA that they take"
        )
    return said


def signed_by(certificate: str, authority: str) -> bool:
    """Whether any certificate of ``authority`` signed the first one of ``certificate``."""
    leaf = parse(certificate)[0]
    for parent in parse(authority):
        key: Any = parent.public_key()
        how: Any = leaf.signature_hash_algorithm  # none for Edwards curves
        if (how is None) == isinstance(key, (ec.EllipticCurvePublicKey, rsa.RSAPublicKey)):
            continue
        try:
            if isinstance(key, ec.EllipticCurvePublicKey):
                key.verify(leaf.signature, leaf.tbs_certificate_bytes, ec.ECDSA(how))
            elif isinstance(key, rsa.RSAPublicKey):
                key.verify(
                    leaf.signature,
                    leaf.tbs_certificate_bytes,
                    padding.PKCS1v15(),
                    how,
                )
            else:
                key.verify(leaf.signature, leaf.tbs_certificate_bytes)
        except InvalidSignature:
            continue
        return True
    return False


def check_crl(crl: str, authority: str, now: datetime) -> None:
    """That lists of revoked certificates are the CAs' and in force, one for each; services refuse clients otherwise."""
    found, cas = _lists(crl), parse(authority)
    for one in found:
        if not any(one.is_signature_valid(ca.public_key()) for ca in cas):  # type: ignore[arg-type]
            raise CertificateError("tls_client_crl is not signed by tls_client_ca")
    for ca in cas:
        if not any(one.is_signature_valid(ca.public_key()) for one in found):  # type: ignore[arg-type]
            raise CertificateError(
                f"tls_client_crl has no list of {ca.subject.rfc4514_string()}, which tls_client_ca names: all its clients would "
                "be refused. Add its list, or an empty one (openssl ca -gencrl)"
            )
    for span in revocations(crl):
        if span.last <= now:
            raise CertificateError(
                f"tls_client_crl was to be renewed on {span.last:%Y-%m-%d}: with an old list every client is refused"
            )


def revoked(crl: str) -> tuple[int, ...]:
    """The serial numbers that lists take back."""
    return tuple(sorted(one.serial_number for part in _lists(crl) for one in part))


def _extension(certificate: x509.Certificate, kind: type[Any]) -> Any:
    """An extension with its criticality, None where the certificate has none."""
    try:
        return certificate.extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None


def _usage(purpose: str) -> x509.KeyUsage:
    purposes = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: name == purpose for name in purposes})


def _authority(ca: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """The identifier that the CA gave itself: how clients find it, whatever it was computed from."""
    own = _extension(ca, x509.SubjectKeyIdentifier)
    if own is not None:
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own.value)
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.public_key())  # type: ignore[arg-type]


def common(names: Iterable[str]) -> str:
    """The common name, of 64 characters at most, "" where all are longer; the names that count are the alternative ones."""
    return next((name for name in names if len(name) <= 64), "")


def _subject(names: Sequence[str]) -> x509.Name:
    first = common(names)
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, first)] if first else [])


def _alternative(names: Sequence[str]) -> x509.SubjectAlternativeName:
    values: list[x509.GeneralName] = []
    for name in names:
        try:
            values.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            values.append(x509.DNSName(name))
    return x509.SubjectAlternativeName(values)


def _hash(key: Any) -> Any:
    edwards = (ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)
    return None if isinstance(key, edwards) else hashes.SHA256()
