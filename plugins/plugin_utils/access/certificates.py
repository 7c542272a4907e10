# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""OpenSSH certificates and revocation lists, read and written without asking any tool.

A list is written here and not by ``ssh-keygen -k``, because that puts the time of day into it: the same
revocations must be the same bytes, or every run would be a change. The formats are OpenSSH's PROTOCOL.certkeys
and PROTOCOL.krl.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# How many fields the public key itself has, between the nonce and the serial number.
_FIELDS = {
    "ssh-ed25519": 1,
    "ssh-rsa": 2,
    "ecdsa-sha2-nistp256": 2,
    "ecdsa-sha2-nistp384": 2,
    "ecdsa-sha2-nistp521": 2,
    "sk-ssh-ed25519@openssh.com": 2,
    "sk-ecdsa-sha2-nistp256@openssh.com": 3,
}
_FOREVER = (1 << 64) - 1
_MAGIC = 0x5353484B524C0A00
_SECTION_CERTIFICATES, _SECTION_KEYS, _SECTION_SHA256 = 1, 2, 5
_SERIALS, _SERIAL_RANGE, _KEY_IDS = 0x20, 0x21, 0x23
_FINGERPRINT = re.compile(r"SHA256:([A-Za-z0-9+/]{43})")


class CertificateError(ValueError):
    """A certificate, a CA or a revocation is wrong. The message says what was expected and what was found."""


@dataclass(frozen=True)
class Certificate:
    """What a certificate says. Nothing of it is trusted: sshd and ssh check the signature."""

    type: str
    serial: int
    host: bool
    key_id: str
    principals: tuple[str, ...]
    after: int
    before: int
    key: str
    """The public key that it is about, base64."""
    authority: str
    """The public key that signed it, base64."""


@dataclass(frozen=True)
class Revocations:
    """What no longer gets in.

    Attributes:
        keys: public keys, base64; a key's certificates go with it.
        fingerprints: SHA-256 of public keys.
        serials: first and last number of certificates, signed by any trusted CA.
        ids: key ids of certificates, signed by any trusted CA.
    """

    keys: tuple[str, ...] = ()
    fingerprints: tuple[bytes, ...] = ()
    serials: tuple[tuple[int, int], ...] = ()
    ids: tuple[str, ...] = field(default_factory=tuple)

    def __bool__(self) -> bool:
        return bool(self.keys or self.fingerprints or self.serials or self.ids)


def kind_of(encoded: str) -> str:
    """The type that stands inside of a public key's base64; empty for what is none."""
    try:
        raw = base64.b64decode(encoded, validate=True)
        return _Reader(raw).text()
    except (binascii.Error, ValueError, struct.error):
        return ""


def is_whole(encoded: str) -> bool:
    """Whether a public key's base64 holds all that its type asks for, and no more."""
    kind = kind_of(encoded)
    try:
        reader = _Reader(base64.b64decode(encoded, validate=True))
        reader.string()
        for _ in range(_FIELDS[kind]):
            reader.string()
    except (KeyError, binascii.Error, ValueError, struct.error):
        return False
    return not reader.left()


def parse(line: str) -> Certificate:
    """The content of ``id_ed25519-cert.pub``.

    Raises:
        CertificateError: it is none, or of a kind that is not known.
    """
    words = line.split()
    plain = words[0].replace("-cert-v01@openssh.com", "") if words else ""
    plain = f"{plain}@openssh.com" if plain.startswith("sk-") else plain
    if len(words) < 2 or "-cert-v01@" not in words[0] or plain not in _FIELDS:
        raise CertificateError(f"expected one line of an OpenSSH certificate, found {line[:40]!r}")
    try:
        reader = _Reader(base64.b64decode(words[1], validate=True))
        if reader.text() != words[0]:
            raise ValueError
        reader.string()
        public = _string(plain.encode()) + b"".join(_string(reader.string()) for _ in range(_FIELDS[plain]))
        serial, kind = reader.number(8), reader.number(4)
        key_id = reader.text()
        listed = _Reader(reader.string())
        principals = []
        while listed.left():
            principals.append(listed.text())
        after, before = reader.number(8), reader.number(8)
        for _ in range(3):
            reader.string()
        authority = reader.string()
    except (binascii.Error, ValueError, struct.error):
        raise CertificateError(
            f"expected an OpenSSH certificate, found a damaged one: {line[:40]!r}"
        ) from None
    return Certificate(
        type=words[0],
        serial=serial,
        host=kind == 2,
        key_id=key_id,
        principals=tuple(principals),
        after=after,
        before=before,
        key=base64.b64encode(public).decode(),
        authority=base64.b64encode(authority).decode(),
    )


def valid_at(certificate: Certificate, now: float) -> bool:
    """Whether a clock that shows ``now`` accepts it."""
    return certificate.after <= now and (certificate.before == _FOREVER or now < certificate.before)


def parse_authorities(name: str, lines: Sequence[str]) -> tuple[str, ...]:
    """Public keys of CAs, as ``type base64``.

    Raises:
        CertificateError: naming the entry.
    """
    found = []
    for index, line in enumerate(lines):
        words = line.split()
        if (
            len(words) < 2
            or not line.isprintable()
            or kind_of(words[1]) != words[0]
            or "-cert-v01@" in words[0]
        ):
            raise CertificateError(
                f"{name}[{index}]: expected one line of a CA's public key, found {line[:40]!r}"
            )
        found.append(f"{words[0]} {words[1]}")
    return tuple(found)


def parse_revocations(name: str, entries: Any) -> Revocations:
    """``ssh_revoked_keys``: public keys as text, or mappings with one of ``serial``, ``id``, ``fingerprint``.

    Raises:
        CertificateError: naming the entry.
    """
    if not isinstance(entries, list | tuple):
        raise CertificateError(f"{name}: expected a list, found {type(entries).__name__}")
    keys: list[str] = []
    fingerprints: list[bytes] = []
    serials: list[tuple[int, int]] = []
    ids: list[str] = []
    for index, entry in enumerate(entries):
        where = f"{name}[{index}]"
        if isinstance(entry, str):
            words = entry.split()
            encoded = next((word for word in words if word.startswith("AAAA")), "")
            if not kind_of(encoded):
                raise CertificateError(
                    f"{where}: expected a public key, or a mapping with serial, id or fingerprint, found {entry[:40]!r}"
                )
            if "-cert-v01@" in kind_of(encoded):
                # A certificate stands for its key: who revokes a stolen laptop's wants both gone.
                encoded = parse(f"{kind_of(encoded)} {encoded}").key
            keys.append(encoded)
            continue
        if not isinstance(entry, Mapping) or len(entry) != 1:
            raise CertificateError(
                f"{where}: expected a public key, or a mapping with exactly one of serial, id, fingerprint, "
                f"found {entry!r}"
            )
        ((kind, value),) = entry.items()
        if kind == "serial":
            serials.append(_serials(where, value))
        elif kind == "id" and isinstance(value, str) and value and value.isprintable():
            ids.append(str(value))
        elif kind == "fingerprint" and isinstance(value, str) and (found := _FINGERPRINT.fullmatch(value)):
            fingerprints.append(base64.b64decode(found[1] + "="))
        else:
            raise CertificateError(
                f"{where}.{kind}: expected serial (1 or 1-9), id (text) or fingerprint (SHA256:...), found {value!r}"
            )
    return Revocations(tuple(keys), tuple(fingerprints), tuple(serials), tuple(ids))


def revokes(revoked: Revocations, public: str) -> bool:
    """Whether this public key (a line, or its base64) is revoked."""
    encoded = next((word for word in public.split() if word.startswith("AAAA")), "")
    if encoded in revoked.keys:
        return True
    digest = _sha256(encoded)
    return digest in revoked.fingerprints


def revocation_list(revoked: Revocations, authorities: Iterable[str], version: int = 1) -> bytes:
    """A KRL; the same revocations make the same bytes."""
    out = [struct.pack(">QIQQQ", _MAGIC, 1, version, 0, 0), _string(b""), _string(b"")]
    about = b""
    if revoked.serials:
        singles = sorted({first for first, last in revoked.serials if first == last})
        ranges = sorted({(first, last) for first, last in revoked.serials if first != last})
        if singles:
            about += bytes([_SERIALS]) + _string(b"".join(struct.pack(">Q", one) for one in singles))
        for first, last in ranges:
            about += bytes([_SERIAL_RANGE]) + _string(struct.pack(">QQ", first, last))
    if revoked.ids:
        about += bytes([_KEY_IDS]) + _string(
            b"".join(_string(one.encode()) for one in sorted(set(revoked.ids)))
        )
    if about:
        for authority in authorities:
            encoded = authority.split()[-1]
            out.append(
                bytes([_SECTION_CERTIFICATES])
                + _string(_string(base64.b64decode(encoded)) + _string(b"") + about)
            )
    if revoked.keys:
        blobs = sorted({base64.b64decode(key) for key in revoked.keys})
        out.append(bytes([_SECTION_KEYS]) + _string(b"".join(_string(blob) for blob in blobs)))
    if revoked.fingerprints:
        digests = sorted(set(revoked.fingerprints))
        out.append(bytes([_SECTION_SHA256]) + _string(b"".join(_string(one) for one in digests)))
    return b"".join(out)


def _serials(where: str, value: Any) -> tuple[int, int]:
    first, dash, last = str(value).partition("-")
    last = last if dash else first
    if isinstance(value, bool) or not (first.isdecimal() and last.isdecimal()):
        raise CertificateError(f"{where}.serial: expected a number, or a range as 1-9, found {value!r}")
    if not 0 < int(first) <= int(last) < _FOREVER:
        raise CertificateError(
            f"{where}.serial: expected numbers from 1, the smaller one first, found {value!r}"
        )
    return int(first), int(last)


def _sha256(encoded: str) -> bytes:
    try:
        return hashlib.sha256(base64.b64decode(encoded, validate=True)).digest()
    except (binascii.Error, ValueError):
        return b""


def _string(content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + content


class _Reader:
    """Fields of OpenSSH's wire format, one after another."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._at = 0

    def left(self) -> int:
        return len(self._raw) - self._at

    def number(self, size: int) -> int:
        if self.left() < size:
            raise ValueError("cut short")
        value = int.from_bytes(self._raw[self._at : self._at + size], "big")
        self._at += size
        return value

    def string(self) -> bytes:
        size = self.number(4)
        if self.left() < size:
            raise ValueError("cut short")
        self._at += size
        return self._raw[self._at - size : self._at]

    def text(self) -> str:
        return self.string().decode("utf-8")
