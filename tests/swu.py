"""SWUpdate images of our own making: a cpio archive with a description, its CMS signature, and what is to be installed."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Mapping, Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key, pkcs7

# Each slot's software is whole: what the last image left goes. The device counts its installations by itself.
_CLEAR = """#!/bin/sh
set -eu
rm -rf /slots/{slot}
mkdir -p /slots/{slot}
printf '%s\\n' '{version}' >>/data/installations
"""


def cpio(members: Sequence[tuple[str, bytes]]) -> bytes:
    """The archive in the form ``newc``."""
    out = io.BytesIO()
    for number, (name, data) in enumerate((*members, ("TRAILER!!!", b"")), 1):
        fields = (number, 0o100644, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        out.write(b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0")
        out.write(b"\0" * (-out.tell() % 4))
        out.write(data)
        out.write(b"\0" * (-out.tell() % 4))
    return out.getvalue()


def tree(files: Mapping[str, str]) -> bytes:
    """A slot's content; everything in it may be run."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(text.encode()), 0o755
            archive.addfile(member, io.BytesIO(text.encode()))
    return gzip.compress(out.getvalue(), mtime=0)


def sign(data: bytes, certificate: str, key: str) -> bytes:
    """A detached signature, as ``openssl cms -sign`` makes it."""
    private = load_pem_private_key(key.encode(), None)
    return (
        pkcs7.PKCS7SignatureBuilder()
        .set_data(data)
        .add_signer(x509.load_pem_x509_certificate(certificate.encode()), private, hashes.SHA256())  # type: ignore[arg-type]
        .sign(Encoding.DER, [pkcs7.PKCS7Options.DetachedSignature, pkcs7.PKCS7Options.Binary])
    )


def image(
    version: str,
    files: Mapping[str, str],
    signer: tuple[str, str] | None,
    *,
    board: str = "panel",
    revision: str = "1.2",
    slots: Sequence[str] = ("a", "b"),
) -> bytes:
    """An image for each of the slots; unsigned where there is no signer."""
    content = tree(files)
    modes, members = "", []
    for slot in slots:
        script = _CLEAR.format(slot=slot, version=version).encode()
        members.append((f"clear-{slot}.sh", script))
        modes += (
            f'    {slot}: {{\n      scripts: ({{ filename = "clear-{slot}.sh"; type = "preinstall"; '
            f'sha256 = "{hashlib.sha256(script).hexdigest()}"; }});\n'
            f'      files: ({{ filename = "system.tar.gz"; type = "archive"; preserve-attributes = true; path = "/slots/{slot}"; '
            f'sha256 = "{hashlib.sha256(content).hexdigest()}"; }});\n    }};\n'
        )
    text = (
        f'software = {{\n version = "{version}";\n {board} = {{\n  hardware-compatibility: ["{revision}"];\n  stable: {{\n{modes}'
        "  };\n };\n};\n"
    ).encode()
    head = [("sw-description", text)]
    if signer:
        head.append(("sw-description.sig", sign(text, *signer)))
    return cpio([*head, *members, ("system.tar.gz", content)])
