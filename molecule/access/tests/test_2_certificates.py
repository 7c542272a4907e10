"""Certificates in place of keys, and what no longer counts: tried by logging in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.logins import OPENSSH, Doors

ALL = ",".join(OPENSSH)


@dataclass
class Signed:
    doors: Doors
    variables: dict[str, Any]
    good: Path


@pytest.fixture(scope="module")
def signed(doors: Doors) -> Signed:
    """erin comes by certificate alone, and so may the operator."""
    for device in OPENSSH:
        doors.account(device, "erin")
    variables = {
        "ssh_trusted_user_ca": [doors.public("user-ca")],
        "ssh_users": [
            {"name": "erin", "principals": ["erin@example.net", "field"]},
            {"name": "root", "principals": ["fleet"]},
        ],
        "ssh_revoked_keys": [{"serial": "66"}, {"id": "leaver"}, doors.public("stolen")],
    }
    doors.apply(ALL, variables)
    good = doors.certificate(
        "user-ca", "erin", "-I", "erin", "-n", "erin@example.net", "-V", "-5m:+1h", "-z", "1"
    )
    return Signed(doors, variables, good)


@pytest.mark.parametrize("device", OPENSSH)
def test_a_certificate_for_one_of_the_principals_gets_in_without_any_key_on_the_device(
    signed: Signed, device: str
) -> None:
    doors = signed.doors
    assert doors.ssh(device, "erin", key=doors.key("erin"), certificate=signed.good).got_in
    assert doors.ssh(device, "erin", key=doors.key("erin")).refused
    operator = doors.certificate("user-ca", "fleet-key", "-I", "fleet", "-n", "fleet", "-V", "-5m:+1h")
    assert doors.ssh(device, "root", key=doors.key("fleet-key"), certificate=operator).got_in
    assert doors.operator_gets_in(device)


@pytest.mark.parametrize(
    ("authority", "key", "options"),
    [
        ("user-ca", "erin", ("-I", "old", "-n", "field", "-V", "-2h:-1h")),
        ("user-ca", "erin", ("-I", "early", "-n", "field", "-V", "+1h:+2h")),
        ("user-ca", "erin", ("-I", "other", "-n", "somebody", "-V", "-5m:+1h")),
        ("user-ca", "erin", ("-I", "nobody", "-V", "-5m:+1h")),
        ("other-ca", "erin", ("-I", "foreign", "-n", "field", "-V", "-5m:+1h")),
        ("user-ca", "erin", ("-I", "serial", "-z", "66", "-n", "field", "-V", "-5m:+1h")),
        ("user-ca", "erin", ("-I", "leaver", "-n", "field", "-V", "-5m:+1h")),
        ("user-ca", "stolen", ("-I", "key", "-z", "2", "-n", "field", "-V", "-5m:+1h")),
        ("user-ca", "erin", ("-I", "from", "-n", "field", "-V", "-5m:+1h", "-O", "source-address=192.0.2.1/32")),
    ],
    ids=["expired", "too-early", "other-principal", "no-principal", "other-ca", "serial", "id", "key", "source"],
)  # fmt: skip
def test_every_other_certificate_stays_out(
    signed: Signed, authority: str, key: str, options: tuple[str, ...]
) -> None:
    doors = signed.doors
    certificate = doors.certificate(authority, key, *options)
    for device in OPENSSH:
        tried = doors.ssh(device, "erin", key=doors.key(key), certificate=certificate)
        assert tried.refused, (device, tried.text)


def test_a_second_run_changes_nothing_though_a_list_could_carry_the_time(signed: Signed) -> None:
    again = signed.doors.apply(ALL, signed.variables).of
    assert not any(result["changed"] for result in again.values())


def test_what_is_revoked_now_is_out_with_this_run_though_it_was_in_before_it(signed: Signed) -> None:
    doors = signed.doors
    more = {**signed.variables, "ssh_revoked_keys": [*signed.variables["ssh_revoked_keys"], {"serial": 1}]}
    doors.apply("debian12", more)
    assert doors.ssh("debian12", "erin", key=doors.key("erin"), certificate=signed.good).refused
    assert doors.ssh("debian13", "erin", key=doors.key("erin"), certificate=signed.good).got_in
    operator = (doors.lab.state / "operator.pub").read_text(encoding="utf-8").strip()
    run = doors.play("debian12", {**signed.variables, "ssh_revoked_keys": [operator]})
    said = "ssh_authorized_keys[0]: this key stands in ssh_revoked_keys too"
    assert run.status == 2 and said in run.of["debian12"]["msg"]
    assert doors.operator_gets_in("debian12")


def test_a_device_shows_its_certificate_and_clients_that_trust_its_ca_alone_believe_it(
    signed: Signed, tmp_path: Path
) -> None:
    doors = signed.doors
    doors.give("box", doors.sh("debian13", "cat /etc/ssh/ssh_host_ed25519_key.pub"))
    names = ",".join((doors.address("debian13"), "debian13"))
    made = doors.certificate("host-ca", "box", "-h", "-I", "debian13", "-n", names, "-V", "-5m:+1h")
    line = made.read_text(encoding="utf-8").strip()
    known = tmp_path / "known_hosts"
    known.write_text(f"@cert-authority * {doors.public('host-ca')}\n", encoding="utf-8")
    how: dict[str, Any] = {"key": doors.operator, "known_hosts": str(known)}
    assert not doors.ssh("debian13", "root", **how).got_in
    doors.apply("debian13", {**signed.variables, "ssh_host_certificates": [line]})
    assert doors.ssh("debian13", "root", **how).got_in
    assert doors.operator_gets_in("debian13")
    run = doors.play("debian12", {"ssh_host_certificates": [line]})
    assert run.status == 2 and "it is for none of this device's host keys" in run.of["debian12"]["msg"]


def test_without_any_of_it_nothing_of_it_is_left(signed: Signed) -> None:
    doors = signed.doors
    result = doors.apply("debian13", {}).of["debian13"]
    gone = {one["dest"] for one in result["files"] if one["change"] == "removed"}
    assert gone >= {
        "/etc/ssh/sallyport/principals/erin",
        "/etc/ssh/sallyport/user_ca",
        "/etc/ssh/sallyport/revoked",
    }
    assert doors.ssh("debian13", "erin", key=doors.key("erin"), certificate=signed.good).refused
    assert "trustedusercakeys none" in doors.sh("debian13", "sshd -T")
