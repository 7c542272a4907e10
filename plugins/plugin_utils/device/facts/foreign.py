# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What firewalls that are not Sallyport's drop by default: they may stop what the policy allows."""

from __future__ import annotations

import re
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.facts.text import clean

_HOOKS = ("input", "forward", "output")
_TABLE = re.compile(r"table (ip|ip6|inet) (\S+) \{")
_CHAIN = re.compile(r"chain (\S+) \{")
_HOOK = re.compile(r"type filter hook (\w+) .*policy (\w+);")
_TAKEN = re.compile(r"(?:counter )?(drop|reject.*)")
_XTABLES = re.compile(r"-([PA]) (INPUT|FORWARD|OUTPUT) (?:-j )?(DROP|REJECT.*)")


def drops(reply: Reply) -> list[dict[str, Any]]:
    """Chains of others that drop what none of their rules took, one entry a chain and reason.

    ``table`` is a family and a name, ``hook`` input, forward or output, ``how`` the policy or rule, ``program``
    whose it is where that can be told.
    """
    found = _nft(reply.get("foreign_nft"))
    for name, family in (("iptables", "ip"), ("ip6tables", "ip6")):
        found += _xtables(reply.get(f"foreign_{name}"), family)
    unique = {(one["table"], one["chain"], one["how"]): one for one in found}
    return list(unique.values())


def _nft(text: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    table = chain = hook = ""
    ufw: set[str] = set()
    for line in (clean(raw.strip()) for raw in text.split("\n")):
        begins = _TABLE.match(line)
        if begins or line.startswith("table "):
            table, chain, hook = f"{begins[1]} {begins[2]}" if begins else "", "", ""
            continue
        named = _CHAIN.match(line)
        if named:
            chain, hook = named[1], ""
            if chain.startswith("ufw"):
                ufw.add(table)
            continue
        hooked = _HOOK.match(line)
        if hooked:
            hook = hooked[1] if hooked[1] in _HOOKS else ""
            if hook and table and hooked[2] == "drop":
                found.append(_entry(table, chain, hook, "policy drop"))
        elif hook and table and (taken := _TAKEN.fullmatch(line)):
            found.append(_entry(table, chain, hook, taken[1]))
    return [one | {"program": "ufw" if one["table"] in ufw else ""} for one in found]


def _xtables(text: str, family: str) -> list[dict[str, Any]]:
    found = []
    for line in map(clean, text.split("\n")):
        match = _XTABLES.match(line)
        if match:
            how = "policy drop" if match[1] == "P" else match[3].split(" ")[0].lower()
            found.append(_entry(f"{family} filter", match[2], match[2].lower(), how))
    program = "ufw" if "-N ufw" in text else ""
    return [one | {"program": program} for one in found]


def _entry(table: str, chain: str, hook: str, how: str) -> dict[str, Any]:
    return {"table": table, "chain": chain, "hook": hook, "how": how, "program": ""}
