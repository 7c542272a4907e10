"""What the next role sees of a device after a prediction: the device as it would be, and nothing that is secret."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.access import driver
from ansible_collections.sallyport.iot.plugins.plugin_utils.device import inquiry, probe

ACTION = SimpleNamespace(_task=SimpleNamespace(args={"state_dir": "/data/sallyport"}))
HOOK = "::sysinit:/bin/sh /data/sallyport/device boot\n"


def seen(device: dict[str, Any], entries: list[dict[str, Any]]) -> dict[str, Any]:
    result = driver.with_fresh_facts(ACTION, {"state": "would_change"}, device, entries)
    return dict(result["ansible_facts"][inquiry.FACT]["files"])


def test_a_predicted_file_is_seen_and_a_secret_one_is_not() -> None:
    entries = [
        {"dest": "/etc/a", "content": "new\n"},
        {"dest": "/var/lib/sallyport-totp/alice", "content": "JBSW\n", "secret": True},
    ]
    assert seen({"files": {"/etc/a": "old\n"}}, entries) == {"/etc/a": "new\n"}


def test_the_boot_hooks_line_comes_in_front_of_inittab_once_and_only_with_busybox() -> None:
    entries = [{"dest": "/etc/inittab", "content": "::respawn:/sbin/getty\n"}]
    gateway = {"init": "busybox", "files": {"/etc/inittab": "old\n"}}
    assert seen(gateway, entries)["/etc/inittab"] == f"{HOOK}::respawn:/sbin/getty\n"
    # Whatever the first change is about, the hook comes with it.
    assert seen(gateway, [])["/etc/inittab"] == f"{HOOK}old\n"
    assert seen({**gateway, "files": {"/etc/inittab": f"{HOOK}old\n"}}, [])["/etc/inittab"] == f"{HOOK}old\n"
    assert seen({**gateway, "init": "systemd"}, [])["/etc/inittab"] == "old\n"


def test_keys_that_people_would_get_count_for_the_next_role() -> None:
    device = {
        "login_user": "root", "files": {},
        "accounts": [{"name": name, "authorized_keys": 0} for name in ("root", "alice", "bob", "carol")],
    }  # fmt: skip
    entries = [
        {
            "dest": "/etc/ssh/authorized_keys.d/alice",
            "content": "# ours\nssh-ed25519 AAAA a\nssh-ed25519 AAAB b\n",
        },
        {"dest": "/etc/ssh/authorized_keys.d/bob", "content": "# ours\n"},
        {"dest": "/etc/ssh/authorized_keys.d/carol", "state": "absent"},
    ]
    result = driver.with_fresh_facts(ACTION, {"state": "would_change"}, device, entries, 1)
    accounts = result["ansible_facts"][inquiry.FACT]["accounts"]
    assert {one["name"]: one["authorized_keys"] for one in accounts} == {
        "root": 1,
        "alice": 2,
        "bob": 0,
        "carol": 0,
    }


def test_hosts_that_nobody_has_asked_yet_are_named_where_keys_are_compared() -> None:
    known = {"run": inquiry.run_id(), "protocol": probe.PROTOCOL}
    asked: dict[str, Any] = {"ansible_facts": {inquiry.FACT: known}}
    variables = {
        "inventory_hostname": "a",
        "ansible_play_hosts_all": ["a", "b"],
        "hostvars": {"a": {}, "b": asked},
    }
    assert driver.not_compared(variables) == ""
    late = {
        **variables,
        "ansible_play_hosts_all": ["a", "b", "c", "d", "e", "f"],
        "hostvars": {"b": asked, "c": {}},
    }
    said = driver.not_compared(late)
    assert "compared with those of 2 of 6 hosts of this play: c, d, e, ... had not been asked yet" in said
