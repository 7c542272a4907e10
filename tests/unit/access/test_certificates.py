"""Certificates are read, and revocation lists written, as OpenSSH's own tools do: those are asked."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.access import certificates
from ansible_collections.sallyport.iot.plugins.plugin_utils.access.certificates import Revocations


def keygen(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ssh-keygen", *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    for name, kind in (
        ("ca", "ed25519"),
        ("other", "ed25519"),
        ("a", "ed25519"),
        ("b", "rsa"),
        ("c", "ecdsa"),
    ):
        keygen("-q", "-t", kind, "-N", "", "-C", name, "-f", str(folder / name))
    return folder


def sign(folder: Path, key: str, serial: int, identity: str, *options: str, ca: str = "ca") -> Path:
    done = keygen(
        "-q", "-s", str(folder / ca), "-z", str(serial), "-I", identity, *options, str(folder / f"{key}.pub")
    )
    assert done.returncode == 0, done.stderr
    made = folder / f"{key}-cert.pub"
    return made.rename(folder / f"{key}-{serial}-{identity}-{ca}.pub")


def revoked_by(folder: Path, listed: bytes, what: Path) -> bool:
    path = folder / "krl"
    path.write_bytes(listed)
    done = keygen("-Q", "-f", str(path), str(what))
    assert "REVOKED" in done.stdout or ": ok" in done.stdout, done
    return "REVOKED" in done.stdout


@pytest.mark.parametrize("key", ["a", "b", "c"])
def test_a_certificate_of_every_kind_of_key_is_read(keys: Path, key: str) -> None:
    line = sign(keys, key, 7, "who", "-n", "one,two", "-V", "-1h:+1h").read_text(encoding="utf-8")
    found = certificates.parse(line)
    assert (found.serial, found.key_id, found.principals, found.host) == (7, "who", ("one", "two"), False)
    assert found.key == (keys / f"{key}.pub").read_text(encoding="utf-8").split()[1]
    assert found.authority == (keys / "ca.pub").read_text(encoding="utf-8").split()[1]
    assert certificates.valid_at(found, time.time())
    assert not certificates.valid_at(found, time.time() + 7200) and not certificates.valid_at(
        found, time.time() - 7200
    )


def test_a_host_certificate_without_an_end_is_valid_for_ever(keys: Path) -> None:
    found = certificates.parse(sign(keys, "a", 1, "box", "-h", "-n", "box").read_text(encoding="utf-8"))
    assert found.host and certificates.valid_at(found, 4e9)


@pytest.mark.parametrize(
    "text", ["", "ssh-ed25519 AAAA", "ssh-ed25519-cert-v01@openssh.com AAAA", "x-cert-v01@openssh.com AA"]
)
def test_what_is_no_certificate_is_refused(text: str) -> None:
    with pytest.raises(certificates.CertificateError, match="expected"):
        certificates.parse(text)


def test_ssh_keygen_finds_revoked_what_the_list_names_and_nothing_else(keys: Path) -> None:
    ca = (keys / "ca.pub").read_text(encoding="utf-8")
    five, six = sign(keys, "a", 5, "five"), sign(keys, "a", 6, "six")
    range_, named = sign(keys, "a", 150, "many"), sign(keys, "a", 7, "leaver")
    foreign = sign(keys, "a", 5, "five", ca="other")
    b, c = keys / "b.pub", keys / "c.pub"
    fingerprint = keygen("-l", "-f", str(c)).stdout.split()[1]
    revoked = certificates.parse_revocations(
        "x", [{"serial": 5}, {"serial": "100-200"}, {"id": "leaver"}, b.read_text(encoding="utf-8"), {"fingerprint": fingerprint}]
    )  # fmt: skip
    listed = certificates.revocation_list(revoked, [ca.strip()[: ca.rindex(" ")]])
    found = {
        path: revoked_by(keys, listed, path)
        for path in (five, six, range_, named, foreign, b, c, keys / "a.pub")
    }
    assert found == {
        five: True,
        six: False,
        range_: True,
        named: True,
        foreign: False,
        b: True,
        c: True,
        keys / "a.pub": False,
    }
    assert certificates.revokes(revoked, b.read_text(encoding="utf-8")) and certificates.revokes(
        revoked, c.read_text(encoding="utf-8")
    )


def test_the_same_revocations_are_the_same_bytes_in_whatever_order() -> None:
    one = Revocations(serials=((5, 5), (1, 2)), ids=("b", "a"))
    other = Revocations(serials=((1, 2), (5, 5)), ids=("a", "b"))
    ca = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJTxY7WWw3MsgWv+4L0jukRWO3TumLgCvMX4HmTPoyAF"]
    assert certificates.revocation_list(one, ca) == certificates.revocation_list(other, ca)
