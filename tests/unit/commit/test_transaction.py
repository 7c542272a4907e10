"""Arguments are refused by name; equality knows every digest that a device may have."""

from __future__ import annotations

import hashlib
import subprocess
from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.commit import (
    Found,
    _difference,
    _meta,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.transaction import (
    ArgumentError,
    File,
    cksum,
    from_arguments,
    same_digest,
)
from hypothesis import given, settings
from hypothesis import strategies as st

_FILE = {"dest": "/etc/x", "content": "y"}
_WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no name": ({}, "name must match"),
    "a name with a slash": ({"name": "../x"}, "name must match"),
    "an unknown argument": ({"name": "a", "file": []}, "'file' is no argument"),
    "files that are no list": ({"name": "a", "files": _FILE}, "files must be a list, got dict"),
    "a file that is no mapping": ({"name": "a", "files": ["/etc/x"]}, r"files\[0\] must be a mapping"),
    "a relative path": ({"name": "a", "files": [{**_FILE, "dest": "etc/x"}]}, "absolute path, got 'etc/x'"),
    "a path with dots": ({"name": "a", "files": [{**_FILE, "dest": "/etc/../x"}]}, "normal path"),
    "a path with NUL": ({"name": "a", "files": [{**_FILE, "dest": "/etc/\0x"}]}, "normal path"),
    "two of one path": ({"name": "a", "files": [_FILE, _FILE]}, r"files\[1\].dest: '/etc/x' is named twice"),
    "content and link": (
        {"name": "a", "files": [{**_FILE, "link": "z"}]},
        "exactly one of .* got content, link",
    ),
    "absent with content": ({"name": "a", "files": [{**_FILE, "state": "absent"}]}, "exactly one of"),
    "a mode that YAML made a number": (
        {"name": "a", "files": [{**_FILE, "mode": 420}]},
        "octal text in quotes",
    ),
    "a mode that is no octal": ({"name": "a", "files": [{**_FILE, "mode": "0999"}]}, "octal text in quotes"),
    "an owner with a shell in it": (
        {"name": "a", "files": [{**_FILE, "owner": "x;id"}]},
        "user or group name",
    ),
    "secret that is text": (
        {"name": "a", "files": [{**_FILE, "secret": "yes"}]},
        "secret must be true or false",
    ),
    "content that is a number": (
        {"name": "a", "files": [{"dest": "/x", "content": 5}]},
        "content must be text, got int",
    ),
    "an unknown key of a file": (
        {"name": "a", "files": [{**_FILE, "backup": True}]},
        "'backup' is no key of a file",
    ),
    "a command that is no text": ({"name": "a", "activate": [["ls"]]}, r"activate\[0\] must be text"),
    "nothing that could differ": ({"name": "a", "activate": ["ls"]}, "neither files nor live"),
    "a NUL in a command": ({"name": "a", "live": ["ls\0"]}, r"live\[0\] has a NUL"),
    "a NUL in a check": (
        {"name": "a", "files": [{"dest": "/x", "content": "", "check": "a\0"}]},
        r"files\[0\].check has a NUL",
    ),
    "the very program that takes it back": (
        {"name": "a", "files": [{"dest": "/var/lib/sallyport/device", "state": "absent"}]},
        "is what takes an unconfirmed change back",
    ),
    "the boot hook": (
        {
            "name": "a",
            "files": [{"dest": "/etc/systemd/system/sallyport-restore.service", "state": "absent"}],
        },
        "is what takes an unconfirmed change back",
    ),
    "too short a time": (
        {"name": "a", "confirm": {"seconds": 1}},
        "confirm.seconds must be a whole number from 5",
    ),
    "an unknown key of confirm": ({"name": "a", "confirm": {"second": 9}}, "'second' is no key"),
    "a state_dir that init would split": (
        {"name": "a", "state_dir": "/var/lib/sally port"},
        "state_dir goes into /etc/inittab",
    ),
}


@pytest.mark.parametrize("what", _WRONG)
def test_a_wrong_argument_is_named(what: str) -> None:
    arguments, message = _WRONG[what]
    with pytest.raises(ArgumentError, match=message):
        from_arguments(arguments, {})


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=3000))
def test_cksum_is_that_of_the_tool(data: bytes) -> None:
    printed = subprocess.run(["cksum"], input=data, capture_output=True, check=True).stdout.split()
    assert [cksum(data), len(data)] == [int(printed[0]), int(printed[1])]


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_equality_by_any_digest_is_equality(one: bytes, other: bytes) -> None:
    for line in (
        f"{hashlib.sha256(other).hexdigest()}  -",
        f"{hashlib.md5(other).hexdigest()}  -",
        f"{cksum(other)} {len(other)}",
    ):
        assert same_digest(one, line) == (one == other)
    assert not same_digest(one, "")


_HERE = Found("file", hashlib.sha256(b"same").hexdigest(), "0644", ("root", "root", "0", "0"), content="same")
_SAME = File("/etc/x", content=b"same")


@pytest.mark.parametrize(
    ("item", "here", "change"),
    [
        (_SAME, _HERE, ""),
        (File("/etc/x", content=b"other"), _HERE, "updated"),
        (File("/etc/x", content=b"same", mode="0600"), _HERE, "mode"),
        (File("/etc/x", content=b"same", owner="1000"), _HERE, "mode"),
        (File("/etc/x", content=b"same", owner="0"), _HERE, ""),
        (_SAME, Found("none"), "created"),
        (File("/etc/x", kind="absent"), Found("none"), ""),
        (File("/etc/x", kind="absent"), _HERE, "removed"),
        (File("/etc/x", kind="link", target="y"), Found("link", target="y"), ""),
        (File("/etc/x", kind="link", target="y"), Found("link", target="z"), "updated"),
    ],
)
def test_a_difference_is_what_the_change_would_do(item: File, here: Found, change: str) -> None:
    assert _difference(item, here) == change


@pytest.mark.parametrize(
    ("dest", "asked"),
    [
        ("/etc/ssh/sshd_config", True),
        ("/etc/ssh/sshd_config.d/00.conf", True),
        ("/etc/ssh/ssh_host_ed25519_key", True),
        ("/etc/dropbear/dropbear_rsa_host_key", True),
        ("/etc/default/dropbear", True),
        ("/etc/systemd/system/ssh.service.d/port.conf", True),
        ("/etc/ssh/ssh_config", False),
        ("/etc/ssh/authorized_keys.d/root", False),
        ("/etc/motd", False),
    ],
)
def test_files_that_sshd_reads_at_its_start_ask_for_a_new_daemon(dest: str, asked: bool) -> None:
    arguments = {"name": "a", "files": [{"dest": dest, "content": ""}]}
    assert from_arguments(arguments, {}).confirm.new_daemon == asked
    assert not from_arguments({**arguments, "confirm": {"new_daemon": False}}, {}).confirm.new_daemon


@given(st.integers(0, 0o7777), st.booleans())
def test_a_mode_in_force_is_no_difference_however_it_is_written(mode: int, leading: bool) -> None:
    written = f"{'0' if leading else ''}{mode:03o}"
    files = [{"dest": "/etc/x", "content": "same", "mode": written}]
    item = from_arguments({"name": "a", "files": files}, {}).files[0]
    told, owners, _ = _meta(f"{mode:o} root root 0 0 4")  # as stat prints it
    assert _difference(item, Found("file", hashlib.sha256(b"same").hexdigest(), told, owners)) == ""


@given(st.integers(0, 0o7777))
def test_the_long_form_of_ls_gives_the_mode_that_stat_gives(mode: int) -> None:
    letters = ["-", *list("rwxrwxrwx")]
    for position in range(9):
        if not mode & 0o400 >> position:
            letters[position + 1] = "-"
    for bit, position, lower, upper in ((0o4000, 3, "s", "S"), (0o2000, 6, "s", "S"), (0o1000, 9, "t", "T")):
        if mode & bit:
            letters[position] = lower if letters[position] == "x" else upper
    assert (
        _meta(f"{''.join(letters)} root root - - 5")[0]
        == f"{mode:04o}"
        == _meta(f"{mode:o} root root 0 0 5")[0]
    )
