# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""HostPolicy and device to the files and commands of its firewall: one small interface over three backends.

A backend is one module with ``rulesets`` or ``ruleset``: policy to file texts, nothing else. How they are checked,
loaded, shown and taken back is the same for all, and lies in ``firewall-load.sh``, which runs on the device.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.intervals import union
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.judge import family_of
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import HostPolicy, Intervals
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.pause import no_collector
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.render import (
    iptables,
    iptables_ipset,
    nftables,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.render.base import (
    DIRECTORY,
    FAMILIES,
    LOADER,
    Rendered,
    RenderedFile,
    Unsupported,
    loader,
    never_banned,
    spoofable,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.render.cuts import cuts
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.render.matches import places

__all__ = ["BACKENDS", "Rendered", "RenderedFile", "Unsupported", "choose", "render"]

BACKENDS: Mapping[str, Callable[[HostPolicy, Mapping[str, Any]], dict[str, str]]] = {
    "nftables": nftables.rulesets,
    "iptables_ipset": iptables_ipset.rulesets,
    "iptables": iptables.rulesets,
}
"""In order of preference. Each gives the texts of the files that lie in DIRECTORY, by name."""

_TOOLS = {
    "nftables": ("nft",),
    "iptables_ipset": ("iptables", "ip6tables", "ipset"),
    "iptables": ("iptables", "ip6tables"),
}
_ALWAYS = {
    "nftables": (),
    "iptables_ipset": ("mangle", "multiport", "set", "comment"),
    "iptables": ("mangle", "multiport"),
}
"""Parts of the kernel that every rule set of a backend names."""
_SOMETIMES = {
    # As the rule set says it: (what probe calls it, what in the policy asks for it).
    r"-m hashlimit ": ("hashlimit", "`rate` of a rule"),
    r"-m limit ": ("limit", "`ping.rate` and `log.drops`"),
    r"-m addrtype ": ("addrtype", "traps and published ports"),
    r"-j REJECT\b": ("reject", "`reject`"),
    r'-j LOG\b|\blog prefix "[^"]*"(?! group)': ("log", "`log`"),
    r"-j NFLOG\b": ("nflog", "`log.group`"),
    r"-j SYNPROXY\b|\bsynproxy\b": ("synproxy", "`proof: handshake` of traps"),
    r"\breject with\b": ("reject", "`reject`"),
    r"\bfib [sd]addr\b": ("fib", "traps and published ports"),
    r"\bmasquerade$|\bdnat ip": ("nat", "`nat`"),
}
_FILES = ("nft-lists", "nft", "set-lists", "sets", "v4", "v6")
"""In the order in which they are checked and loaded."""

# Measured on nft 1.0.6 and ipset 7.17: what a prefix and an empty list cost while they are loaded, in kB. During a
# change the old set is still there.
_COST_KB = {"nftables": (4000, 0.75 + 2 * 0.3), "iptables_ipset": (14000, 2 * 0.035), "iptables": (4000, 1.0)}
_LISTED_BY_OLD_NFT = 10_000
_SHARE = 0.5
"""Of the memory that is free, so that the device's own work goes on."""

_UNIT_NAME = "sallyport-firewall.service"
_UNIT_PATH = f"/etc/systemd/system/{_UNIT_NAME}"
_UNIT = f"""\
[Unit]
Description=Sallyport firewall
DefaultDependencies=no
After=local-fs.target nftables.service netfilter-persistent.service ufw.service
# Ahead of every socket and service, too: a link may be up already, which the kernel or an initramfs can do.
Before=network-pre.target sysinit.target shutdown.target
Wants=network-pre.target
Conflicts=shutdown.target
# Whatever restarts or reloads nftables.service flushes the whole rule set, ours too: come back behind it.
PartOf=nftables.service
ReloadPropagatedFrom=nftables.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh {LOADER} boot
ExecReload=/bin/sh {LOADER} load

[Install]
WantedBy=sysinit.target
"""
_BOOT_SCRIPT = f"#!/bin/sh\nexec /bin/sh {LOADER} boot\n"

_REVERT = f"""\
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	[ -e {_UNIT_PATH} ] || systemctl stop {_UNIT_NAME} || :
fi
if [ -e {LOADER} ]; then
	/bin/sh {LOADER} load
	exit 0
fi
"""


@no_collector()
def render(
    policy: HostPolicy, device: Mapping[str, Any], backend: str = "auto", memory_kb: int = 0
) -> Rendered:
    """The firewall of one host, for the device that ``probe`` described.

    ``backend`` is one of BACKENDS or ``auto``; ``memory_kb`` replaces the budget computed from the device's free
    memory. Raises Unsupported before anything is changed.
    """
    name, notes = choose(policy, device, backend, memory_kb)
    texts = BACKENDS[name](policy, device)
    _refuse_unknown(name, texts, device)
    flows = cuts(policy, device)
    files = [
        RenderedFile(f"{DIRECTORY}/{file}", texts.get(file), "0600")
        # The files of another backend must go: the loader takes what it finds.
        for file in _FILES
    ]
    files.append(RenderedFile(f"{DIRECTORY}/cuts", flows or None, "0600"))
    files.append(RenderedFile(LOADER, loader(), "0755"))
    files += _boot(device)
    staged = " ".join(f'{file} "$(staged {DIRECTORY}/{file})"' for file in _FILES if file in texts)
    systemd = device.get("init") == "systemd"
    settle = [f'[ "$SALLYPORT_FIRST" = 0 ] || /bin/sh {LOADER} load']
    if systemd:
        settle.append(f"systemctl daemon-reload\nsystemctl start {_UNIT_NAME}")
    return Rendered(
        backend=name,
        files=tuple(files),
        check=(f'/bin/sh "$(staged {LOADER})" check {staged}',),
        activate=(
            f'if [ "$SALLYPORT_FIRST" = 1 ]; then /bin/sh {LOADER} adopt; else /bin/sh {LOADER} load; fi',
        ),
        settle=tuple(settle),
        revert=(_REVERT + _removal(),),
        live=(f"[ ! -e {LOADER} ] || /bin/sh {LOADER} live",),
        verify=(f"/bin/sh {LOADER} verify",),
        tell=f"[ ! -e {LOADER} ] || /bin/sh {LOADER} window",
        notes=notes,
    )


def _refuse_unknown(name: str, texts: Mapping[str, str], device: Mapping[str, Any]) -> None:
    """What this policy asks for must be in the kernel: else a rate, say, would be found missing only at loading."""
    # Long lists hold addresses only.
    text = "\n".join(text for file, text in texts.items() if not file.endswith(("lists", "sets")))
    text = re.sub(r'comment "[^"]*"|^#.*', "", text, flags=re.MULTILINE)
    for tool in _TOOLS[name]:
        known = _features(tool, device)
        if known is None:
            continue
        for said, (feature, asks) in _SOMETIMES.items():
            if feature not in known and re.search(said, text, re.MULTILINE):
                raise Unsupported(
                    f"This kernel takes no {feature} from {tool}, which {asks} in the policy asks for.",
                    f"Install or load what gives it {feature}, or leave that out of this device's policy.",
                )


def _features(tool: str, device: Mapping[str, Any]) -> set[str] | None:
    """What the kernel takes from this tool; None where nobody asked."""
    found = ((device.get("firewall") or {}).get(tool) or {}).get("features")
    return set(found) if found else None


def _removal() -> str:
    """The loader itself, run with ``remove``: when a first generation is taken back it is on disk no more."""
    return f"set -- remove\n{loader()}"


def _boot(device: Mapping[str, Any]) -> list[RenderedFile]:
    init = device.get("init")
    if init == "systemd":
        wanted = f"/etc/systemd/system/sysinit.target.wants/{_UNIT_NAME}"
        return [RenderedFile(_UNIT_PATH, _UNIT, "0644"), RenderedFile(wanted, None, link=_UNIT_PATH)]
    if init == "busybox":
        return [RenderedFile("/etc/sallyport/boot.d/50-firewall", _BOOT_SCRIPT, "0755")]
    raise Unsupported(
        f"The init system is {init!r}; rules would be gone after a reboot.",
        "Sallyport starts its firewall from systemd and from BusyBox init.",
    )


def choose(
    policy: HostPolicy, device: Mapping[str, Any], backend: str = "auto", memory_kb: int = 0
) -> tuple[str, tuple[str, ...]]:
    """The backend for this device, and notes on why not a better one. Raises Unsupported when none will do."""
    if backend != "auto" and backend not in BACKENDS:
        raise Unsupported(
            f"There is no backend {backend!r}.", f"Choose auto or one of {', '.join(BACKENDS)}."
        )
    entries = _entries(policy)
    budget = memory_kb or _budget_kb(device)
    reasons: list[str] = []
    for name in BACKENDS if backend == "auto" else (backend,):
        reason = _missing(name, device) or _too_large(name, entries, budget)
        if not reason and name == "nftables" and backend == "auto":
            ipset_will_not = _missing("iptables_ipset", device) or _too_large(
                "iptables_ipset", entries, budget
            )
            reason = "" if ipset_will_not else _reads_all(entries, device)
        if not reason:
            return name, tuple(reasons)
        reasons.append(f"{name}: {reason}")
    raise Unsupported(
        f"No packet filter of this device will do. {' '.join(reasons)}",
        "Install nftables, or iptables (with ip6tables) and ipset; or give the device shorter lists.",
    )


def _entries(policy: HostPolicy) -> int:
    """Ranges in all address sets that are not small: a set that is used twice is there once."""
    rules = (*policy.inbound, *policy.outbound, *policy.forward)
    ends = [side for rule in rules for side in (rule.sources, rule.destinations)]
    ends += [publish.sources for publish in policy.nat.publish]
    if policy.defaults.ping:
        ends.append(policy.defaults.ping.sources)
    found: set[tuple[str, Intervals]] = set()
    for family in FAMILIES:
        sets = [family_of(one.addresses, family) for one in policy.blocklists]
        sets += [addresses for side in ends for _names, addresses in places(side, family) if addresses]
        guarded = [family_of(spoofable(zone), family) for zone in policy.antispoof]
        sets += [*guarded, union(*guarded)]
        if policy.traps:
            sets.append(family_of(never_banned(policy), family))
        found.update((family, one) for one in sets if len(one) > nftables.INLINE)
    return sum(len(one) for _family, one in found)


def _budget_kb(device: Mapping[str, Any]) -> int:
    """0 when nothing is known."""
    memory = device.get("memory") or {}
    known = [kb for kb in (memory.get("available_kb"), memory.get("limit_kb")) if kb]
    return int(min(known) * _SHARE) if known else 0


def _missing(name: str, device: Mapping[str, Any]) -> str:
    firewall = device.get("firewall") or {}
    lacking = []
    for tool in _TOOLS[name]:
        found = firewall.get(tool) or {}
        if not found.get("works"):
            why = found.get("error") or ("is not there" if not found.get("path") else "does not work")
            lacking.append(f"{tool}: {str(why).strip()}")
            continue
        known = _features(tool, device)
        absent = [feature for feature in _ALWAYS[name] if known is not None and feature not in known]
        if absent:
            lacking.append(f"{tool}: the kernel does not take {', '.join(absent)}")
    return "; ".join(lacking) + "." if lacking else ""


def _reads_all(entries: int, device: Mapping[str, Any]) -> str:
    """nft 0.9 reads each element of each set before it lists whatever it is asked for, in every run and at every ban."""
    version = str(((device.get("firewall") or {}).get("nft") or {}).get("version") or "")
    if entries < _LISTED_BY_OLD_NFT or not version.startswith("0."):
        return ""
    return (
        f"nft {version} reads all {entries} list entries whenever it is asked for anything; ipset does not."
    )


def _too_large(name: str, entries: int, budget: int) -> str:
    if entries < 1000 or not budget:
        return ""
    base, each = _COST_KB[name]
    need = int(base + entries * each)
    if need <= budget:
        return ""
    return (
        f"loading {entries} list entries takes about {need // 1000} MB, and half of the device's free memory"
        f" is {budget // 1000} MB."
    )
