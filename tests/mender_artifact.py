"""Mender artefacts of our own making: an archive with a manifest, its signature, a header, and what is to be installed."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)


def signer(bits: int = 2048) -> tuple[str, str]:
    """A public key and its private key."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return public.decode(), key.private_bytes(
        Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
    ).decode()


def archive(files: Mapping[str, bytes | str], mode: int = 0o644) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), mode
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def sign(manifest: bytes, private: str) -> bytes:
    """As mender-artifact signs with a key of RSA."""
    key = load_pem_private_key(private.encode(), None)
    return base64.b64encode(key.sign(manifest, padding.PKCS1v15(), hashes.SHA256()))  # type: ignore[union-attr,call-arg,arg-type]


def artefact(
    name: str,
    payload: Mapping[str, bytes | str],
    private: str | None,
    *,
    kind: str = "slot",
    types: Sequence[str] = ("panel",),
    delivered: Mapping[str, bytes | str] | None = None,
    rewritten: bool = False,
) -> bytes:
    """An artefact in Mender's format 3; unsigned where there is no key. ``delivered`` is another payload than the signed one;
    where it is ``rewritten``, the manifest is that one's too, under the signature of the first.
    """

    def packed(files: Mapping[str, bytes | str]) -> bytes:
        return gzip.compress(archive(files), mtime=0)

    header = packed(
        {
            "header-info": json.dumps(
                {
                    "payloads": [{"type": kind}],
                    "artifact_provides": {"artifact_name": name},
                    "artifact_depends": {"device_type": list(types)},
                }
            ),
            "headers/0000/type-info": json.dumps({"type": kind}),
        }
    )
    version = json.dumps({"format": "mender", "version": 3})
    meta: dict[str, bytes | str] = {"header.tar.gz": header, "version": version}
    signed = _manifest(payload, meta)
    manifest = _manifest(delivered, meta) if rewritten and delivered else signed
    members: dict[str, bytes | str] = {"version": version, "manifest": manifest}
    if private:
        members["manifest.sig"] = sign(signed, private)
    members.update({"header.tar.gz": header, "data/0000.tar.gz": packed(delivered or payload)})
    return archive(members)


def _manifest(payload: Mapping[str, bytes | str], meta: Mapping[str, bytes | str]) -> bytes:
    parts = {**{f"data/0000/{path}": content for path, content in payload.items()}, **meta}
    return b"".join(
        f"{hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()}  {path}\n".encode()
        for path, data in sorted(parts.items())
    )
