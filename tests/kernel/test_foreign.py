# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What probe says of other firewalls, from what the real tools of this machine list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.facts import foreign
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import (
    Endpoint,
    HostPolicy,
    Rule,
    ServiceSet,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.render import iptables, nftables

from tests.kernel.device import Device

PROBE = Path(foreign.__file__).parents[1] / "probe.sh"
HARNESS = "inet harness"
"""It drops what survives, so the probe must see it, too."""
_FRAME = """
uid=0
has() { command -v "$1" >/dev/null 2>&1; }
raw() { printf '@%s\\n' "$1"; cat; }
"""
_LEGACY = "mount --bind /usr/sbin/xtables-legacy-multi /usr/sbin/xtables-nft-multi\n"


def asked(
    device: Device, before: str = "", without_nft: bool = False, legacy: bool = False
) -> list[dict[str, Any]]:
    """Runs ``before`` and then the probe's own function, both in the device's namespace."""
    text = PROBE.read_text()
    functions = "".join(
        text[text.index(f"\n{name}() {{") : text.index("\n}\n", text.index(f"\n{name}() {{")) + 3]
        for name in ("find_tool", "foreign")
    )
    if without_nft:
        # As on a device whose nft crashes, which is taken for one that has iptables alone.
        functions = functions.replace("find_tool nft", "found=false")
    script = (_LEGACY if legacy else "") + before + _FRAME + functions
    said = device.inside.run("sh", "-euc", script + "\nforeign\n")
    records = []
    for part in said.split("@foreign_")[1:]:
        name, _, body = part.partition("\n")
        records.append((f"foreign_{name}", body))
    found = foreign.drops(Reply(tuple(records), 0))
    assert {"input", "output", "forward"} == {
        one["hook"] for one in found if one["table"] == HARNESS
    } or without_nft
    return [one for one in found if one["table"] != HARNESS]


def places(found: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    return {(one["table"], one["hook"], one["how"].split(" ")[0]) for one in found}


DOCKER = "for ip in ip ip6; do ${ip}tables -P FORWARD DROP; ${ip}tables -A INPUT -j REJECT; done\n"
BACK = "for ip in ip ip6; do ${ip}tables -P FORWARD ACCEPT; ${ip}tables -F INPUT; done\n"
BOTH = {
    (f"{ip} filter", hook, how)
    for ip in ("ip", "ip6")
    for hook, how in (("forward", "policy"), ("input", "reject"))
}


def test_what_others_drop_is_seen_whichever_tool_lists_it(device: Device) -> None:
    rule = Rule("web", "deny", ServiceSet(any=True), (Endpoint(),))
    policy = HostPolicy("device", inbound=(rule,), forward=(rule,), outbound=(rule,))
    for files in (nftables.rulesets(policy), iptables.rulesets(policy)):
        device.load(files)
        assert asked(device) == [], "our own chains are nobody else's"
        try:
            assert places(asked(device, DOCKER)) == BOTH
            assert places(asked(device, without_nft=True)) == BOTH
        finally:
            device.inside.run("sh", "-euc", BACK)
    own = "nft 'table inet site { chain in { type filter hook input priority 5; policy drop; accept; }; chain x { drop; }; }'\n"
    try:
        assert places(asked(device, own)) == {("inet site", "input", "policy")}
    finally:
        device.inside.run("nft", "delete", "table", "inet", "site")


def test_the_older_iptables_is_asked_only_for_tables_that_are_there(device: Device) -> None:
    assert asked(device, legacy=True) == []
    try:
        assert places(asked(device, DOCKER, legacy=True)) == BOTH
    finally:
        device.inside.run("sh", "-euc", _LEGACY + BACK)
