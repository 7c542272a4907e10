"""A key that two devices show belongs to neither."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.access import host_keys


def key(kind: str, body: str, bits: int = 256) -> dict[str, Any]:
    path = f"/etc/ssh/ssh_host_{host_keys.key_type(kind)}_key"
    return {"type": kind, "public": f"{kind} AAAA{body} root@vm", "bits": bits, "path": path}


WANTED = {"ed25519": "/etc/ssh/ssh_host_ed25519_key"}


def test_a_shared_key_is_made_anew_on_each_device_whatever_its_comment() -> None:
    mine = [key("ssh-ed25519", "one"), key("ssh-rsa", "two", 3072)]
    theirs = [{**key("ssh-ed25519", "one"), "public": "ssh-ed25519 AAAAone another comment"}]
    shared = host_keys.shared_with(mine, {"b": theirs, "c": theirs})
    assert shared == {"AAAAone": ["b", "c"]}
    renew, drop = host_keys.renewals(mine, shared, wanted=WANTED)
    assert [(item.type, item.why) for item in renew] == [("ed25519", "the same key is on b, c")]
    assert drop == []


def test_keys_without_a_public_half_are_never_taken_for_shared() -> None:
    nothing = {"type": "ssh-rsa", "public": "", "bits": 0, "path": "/x"}
    assert host_keys.shared_with([nothing], {"b": [nothing]}) == {}


def test_weak_keys_go_and_a_missing_ed25519_key_is_made() -> None:
    mine = [key("ssh-dss", "d", 1024), key("ssh-rsa", "r", 1024)]
    renew, drop = host_keys.renewals(mine, {}, wanted=WANTED)
    assert [(item.type, item.why) for item in renew] == [
        ("rsa", "an RSA key of 1024 bits is weak"),
        ("ed25519", "there is no ed25519 host key"),
    ]
    assert [item["type"] for item in drop] == ["ssh-dss"]


def test_good_keys_of_one_device_alone_stay() -> None:
    assert host_keys.renewals([key("ssh-ed25519", "x"), key("ssh-rsa", "y", 3072)], {}, wanted=WANTED) == (
        [],
        [],
    )


def test_fingerprints_are_those_of_ssh_keygen() -> None:
    public = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJTxY7WWw3MsgWv+4L0jukRWO3TumLgCvMX4HmTPoyAF x"
    assert host_keys.fingerprint(public).startswith("SHA256:") and len(host_keys.fingerprint(public)) == 50
    assert host_keys.fingerprint("not a key") == ""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ssh-ed25519 AAAAmine me@vm", ("AAAAmine", "me@vm")),
        ('from="10.0.0.0/8",no-pty  ssh-ed25519\tAAAAmine it\'s "me', ("AAAAmine", "it's \"me")),
        ('command="exec bash # AAAAother #" ssh-ed25519 AAAAmine x', ("AAAAmine", "x")),
        ('command="ssh-rsa AAAAother" ssh-ed25519 AAAAmine', ("AAAAmine", "")),
        (r'command="a \" ssh-rsa AAAAother \"" ssh-ed25519 AAAAmine', ("AAAAmine", "")),
        # For OpenSSH the quotes end at the last mark, for dropbear at the first.
        (r'command="a \\" ssh-rsa AAAAother "', ("", "")),
        ('command="a ssh-rsa AAAAother', ("", "")),
        ("AAAAother ssh-ed25519 AAAAmine", ("AAAAmine", "")),
        ("@cert-authority *.example ssh-ed25519 AAAAmine", ("AAAAmine", "")),
        ("AAAAmine", ("AAAAmine", "")),
        ("", ("", "")),
    ],
)
def test_what_stands_in_an_option_is_no_key(line: str, expected: tuple[str, str]) -> None:
    assert host_keys.parts(line) == expected
