# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Which program keeps a device's clock, what its configuration becomes, and what it says about the time.

Pure: the device's answers in, files and commands out. Nothing here, and nothing that is sent, sets a clock by itself:
the device's own client does, and at boot the floor, which only ever goes forward.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timezone
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.access import policy_view
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import HostPolicy
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls import certificates

CLIENTS = ("chrony", "timesyncd", "ntpd")
MARK = "# switched off by sallyport: "
BANNER = "# Managed by Sallyport (role time_sync); changes here are overwritten\n"
CHRONY_MAIN = ("/etc/chrony/chrony.conf", "/etc/chrony.conf")
CHRONY_OURS = "/etc/chrony/sallyport.conf"
NTS_ROOT = "/etc/chrony/sallyport-nts-root.pem"
TIMESYNCD_OURS = "/etc/systemd/timesyncd.conf.d/sallyport.conf"
FLOOR = "/etc/sallyport/clock-floor"
FLOOR_UNIT = "/etc/systemd/system/sallyport-clock-floor.service"
FLOOR_WANT = "/etc/systemd/system/sysinit.target.wants/sallyport-clock-floor.service"
FLOOR_REACH = 10 * 365 * 86400
"""Seconds behind the floor within which a file may have been written by a clock that was right."""
FLOOR_BOOT = "/etc/sallyport/boot.d/10-clock-floor"
INITTAB = "/etc/inittab"
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_SERVER = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")
_NTPD_LINE = re.compile(r"^[^:#]*:[^:]*:respawn:(\S*busybox\s+)?\S*ntpd(\s.*)?$")
_THEIRS = ("server", "pool", "peer", "sourcedir")

QUERY = r"""
say epoch "$(date +%s)"
have() { command -v "$1" >/dev/null 2>&1; }
if have chronyd; then
  say has chrony
  say version "$(chronyd -v 2>/dev/null)"
  for file in /etc/chrony/chrony.conf /etc/chrony.conf; do
    [ ! -f "$file" ] || { say main "$file"; blob text <"$file"; break; }
  done
  # Servers may stand in what it reads besides.
  for other in $(sed -n -e 's/^ *[Ii]nclude  *//p' -e 's,^ *[Cc]onfdir  *\([^ ]*\).*,\1/*.conf,p' "$file" 2>/dev/null); do
    [ -f "$other" ] && [ "$other" != /etc/chrony/sallyport.conf ] || continue
    grep -qi '^[[:space:]]*\(server\|pool\|peer\|sourcedir\)[[:space:]]' "$other" || continue
    say beside "$other"
    blob "text $other" <"$other"
  done
  say unit "$(systemctl show -P ConditionResult chrony.service 2>/dev/null || :)"
  have chronyc && for what in tracking authdata; do  # authdata from 4.0 on
    chronyc -n -c $what 2>/dev/null | while read -r line; do say $what "$line"; done
  done
fi
if [ -x /lib/systemd/systemd-timesyncd ] || [ -x /usr/lib/systemd/systemd-timesyncd ]; then
  say has timesyncd
  timedatectl show -p NTPSynchronized 2>/dev/null | while read -r line; do say timedate "$line"; done
  timedatectl show-timesync -p ServerName -p ServerAddress 2>/dev/null | while read -r line; do say timedate "$line"; done
fi
if have ntpd && case $(readlink -f "$(command -v ntpd)") in *busybox*) true ;; *) false ;; esac; then
  say has ntpd
  say ntpd "$(command -v ntpd)"
  have adjtimex && adjtimex 2>/dev/null | while read -r line; do say adjtimex "$line"; done
fi
exit 0
"""


class Refused(Exception):
    """This device's clock cannot be kept as wanted; the message says why, and what to do."""


@dataclass(frozen=True)
class Wanted:
    """The role's variables, checked."""

    servers: tuple[str, ...]
    nts: bool
    nts_root: str
    client: str
    floor: int
    tolerance: int


@dataclass
class Plan:
    client: str = ""
    files: list[dict[str, Any]] = field(default_factory=list)
    check: list[str] = field(default_factory=list)
    activate: list[str] = field(default_factory=list)
    verify: list[str] = field(default_factory=list)
    revert: list[str] = field(default_factory=list)


def parse(arguments: Mapping[str, Any]) -> Wanted:
    """The role's arguments. Refused names the one that is wrong."""
    servers = []
    for index, server in enumerate(arguments["servers"]):
        if not _is_address(server) and not _SERVER.fullmatch(server):
            raise Refused(f"time_sync_servers[{index}] must be a host name or an address, got {server!r}")
        servers.append(server)
    client = arguments["client"]
    if client not in ("auto", *CLIENTS):
        raise Refused(f"time_sync_client must be auto, {', '.join(CLIENTS)}, got {client!r}")
    floor = 0
    if arguments["floor"]:
        try:
            day = date.fromisoformat(str(arguments["floor"]))
        except ValueError:
            raise Refused(
                f'time_sync_floor must be a day, as "2026-11-01" in quotes, got {arguments["floor"]!r}'
            ) from None
        floor = int(datetime(day.year, day.month, day.day, tzinfo=timezone.utc).timestamp())
        if floor > time.time() + 86400:
            raise Refused(
                f"time_sync_floor is {day}, which is still to come: a device whose clock is right would be set forward at "
                "every boot. Give a day that is past, such as that of the image"
            )
    if arguments["tolerance"] < 1:
        raise Refused(f"time_sync_tolerance must be 1 second or more, got {arguments['tolerance']}")
    root = arguments["nts_root"]
    if root:
        if not arguments["nts"]:
            raise Refused(
                "time_sync_nts_root needs time_sync_nts: true; it is for servers that prove who they are"
            )
        try:
            certificates.parse(root)
        except certificates.CertificateError as error:
            raise Refused(f"time_sync_nts_root: {error}") from None
    return Wanted(tuple(servers), arguments["nts"], root, client, floor, arguments["tolerance"])


def choose(wanted: Wanted, there: Sequence[str]) -> str:
    """The client to use. Refused where the device has none, or not the one that is wanted."""
    if wanted.client != "auto" and wanted.client not in there:
        raise Refused(
            f"time_sync_client is {wanted.client}, but this device has {', '.join(there) or 'no time client'}. "
            "Install it, or set time_sync_client: auto"
        )
    able = [client for client in CLIENTS if client in there and wanted.client in ("auto", client)]
    if not able:
        raise Refused(
            "this device has neither chrony, systemd-timesyncd nor BusyBox ntpd, so nothing can keep its clock. "
            "Install one (Debian: apt-get install chrony)"
        )
    if wanted.nts and able[0] != "chrony":
        raise Refused(
            f"time_sync_nts needs chrony 4.0 or later; this device would use {able[0]}, which cannot authenticate "
            "time. Install chrony, or set time_sync_nts: false for this host"
        )
    return able[0]


def without_servers(text: str) -> str:
    """A file that chrony reads, without servers. The same text when it is done already."""
    lines = []
    for line in text.splitlines():
        word = line.split(None, 1)[:1]
        theirs = bool(word) and word[0].lower() in _THEIRS
        lines.append(f"{MARK}{line}" if theirs else line)
    return "\n".join(lines) + "\n"


def chrony_main(text: str) -> str:
    """chrony.conf without servers of its own, reading ours at the end. The same text when it is done already."""
    include = f"include {CHRONY_OURS}"
    lines = [line for line in without_servers(text).splitlines() if line != include]
    return "\n".join([*lines, include]) + "\n"


def chrony_ours(wanted: Wanted) -> str:
    """Our sources. `makestep` only while the clock is being found: later jumps would break what measures time."""
    options = " iburst nts" if wanted.nts else " iburst"
    lines = [f"server {server}{options}\n" for server in wanted.servers]
    if wanted.nts:
        # Without a battery the first certificates seem not yet valid: for the first update their dates do not count.
        lines.append("nocerttimecheck 1\n")
    if wanted.nts_root:
        lines.append(f"ntstrustedcerts {NTS_ROOT}\n")
    lines.append("makestep 1 3\n")
    return BANNER + "".join(lines)


def timesyncd_ours(wanted: Wanted) -> str:
    return f"{BANNER}[Time]\nNTP={' '.join(wanted.servers)}\nFallbackNTP=\n"


def inittab(text: str, program: str, servers: Sequence[str]) -> str:
    """inittab with one line that keeps BusyBox ntpd running with these servers."""
    peers = " ".join(f"-p {server}" for server in servers)
    line = f"::respawn:{program} -n {peers}"
    kept = [each for each in text.splitlines() if not _NTPD_LINE.match(each) or each == line]
    return "\n".join(kept if line in kept else [*kept, line]) + "\n"


def end_ntpd() -> str:
    """sh that ends every BusyBox ntpd, also one that was started as `busybox ntpd`, and no shell that speaks of it."""
    return (
        'for pid in $(pidof ntpd || :); do kill "$pid" 2>/dev/null || :; done\n'
        "for pid in $(pidof busybox || :); do\n"
        "  set -f -- $(tr '\\0' ' ' 2>/dev/null <\"/proc/$pid/cmdline\" || :)\n"
        '  if [ "$#" -gt 1 ] && [ "${1##*/} $2" = "busybox ntpd" ]; then kill "$pid" 2>/dev/null || :; fi\ndone'
    )


def floor_program(floor: int) -> str:
    """What runs at boot: never earlier than this day, nor than the last time the client wrote its state.

    A file that was written while the clock was far ahead must not send the device there at every boot for ever.
    """
    return f"""#!/bin/sh
{BANNER}# A device without a clock battery starts in 1970: the clock goes forward to what it cannot be earlier than.
set -eu
floor={floor}
for file in /var/lib/chrony/chrony.drift /var/lib/systemd/timesync/clock /var/lib/sallyport/live/*; do
  [ -f "$file" ] || continue
  seen=$(date -r "$file" +%s 2>/dev/null) || continue
  if [ "$seen" -gt "$floor" ] && [ "$seen" -lt {floor + FLOOR_REACH} ]; then floor=$seen; fi
done
now=$(date +%s)
[ "$now" -ge "$floor" ] || date -u -s "@$floor" >/dev/null
"""


def plan(wanted: Wanted, device: Mapping[str, Any], reply: Any) -> Plan:
    """Files and commands for this device. ``reply`` is the answer to ``QUERY``."""
    there = reply.all("has")
    # A floor needs no client: it is for before there is one.
    client = (
        choose(wanted, there) if wanted.servers else next((name for name in CLIENTS if name in there), "")
    )
    result = Plan(client)
    systemd = device.get("init") == "systemd"
    if not wanted.servers:
        pass  # the floor alone: the client keeps the servers that it has
    elif client == "chrony":
        main, text = reply.get("main"), reply.get("text")
        if not main:
            raise Refused(
                "chrony is installed, but has no chrony.conf in /etc/chrony or /etc. Install it again"
            )
        result.files += [
            {"dest": CHRONY_OURS, "content": chrony_ours(wanted), "mode": "0644"},
            {"dest": main, "content": chrony_main(text), "mode": "keep"},
            *(
                {"dest": path, "content": without_servers(reply.get(f"text {path}")), "mode": "keep"}
                for path in reply.all("beside")
            ),
            # One that is left would go on being trusted once it is named again.
            {"dest": NTS_ROOT, "content": f"{wanted.nts_root.strip()}\n", "mode": "0644"}
            if wanted.nts_root
            else {"dest": NTS_ROOT, "state": "absent"},
        ]
        # -p arrived with 4.0; the staged main file names ours, which is staged too.
        result.check.append(
            "chronyd --help 2>&1 | grep -q -- '-p' || exit 0\n"
            "folder=$(mktemp -d)\ntrap 'rm -rf \"$folder\"' EXIT\n"
            f'sed "s|^include {CHRONY_OURS}\\$|include $(staged {CHRONY_OURS})|" "$(staged {shlex.quote(main)})" '
            f'>"$folder/chrony.conf"\nchronyd -p -f "$folder/chrony.conf" >/dev/null'
        )
        kept = re.search(r"^\s*ntsdumpdir\s+(\S+)", text, re.M | re.I)
        if kept:
            # Cookies of servers that another CA vouched for would be good for days; it writes them down when it ends.
            result.activate.append(f"systemctl stop chrony.service\nrm -f {shlex.quote(kept[1])}/*.nts")
        _unit(result, "chrony.service")
    elif client == "timesyncd":
        result.files.append({"dest": TIMESYNCD_OURS, "content": timesyncd_ours(wanted), "mode": "0644"})
        _unit(result, "systemd-timesyncd.service")
    else:
        text = (device.get("files") or {}).get(INITTAB, "")
        if systemd or not text:
            raise Refused("BusyBox ntpd is started by /etc/inittab, and this device has none. Install chrony")
        program = reply.get("ntpd")
        result.files.append(
            {"dest": INITTAB, "content": inittab(text, program, wanted.servers), "mode": "keep"}
        )
        # init starts the line by itself; an ntpd with other servers, whose line is gone, is not its business.
        kick = f"kill -HUP 1\n{end_ntpd()}"
        result.activate.append(kick)
        result.revert.append(kick)
        result.verify.append(
            "left=10\nuntil pidof ntpd >/dev/null; do\n"
            "  [ \"$left\" -gt 0 ] || { echo 'ntpd does not stay up' >&2; exit 1; }\n"
            "  left=$((left - 1)); sleep 1\ndone"
        )
    if wanted.floor:
        _floor(result, wanted, systemd)
    return result


def _unit(result: Plan, unit: str) -> None:
    """Enabled and running with its new configuration, unless the unit itself says that this machine needs no client."""
    result.activate += [
        f"systemctl enable {unit} >/dev/null 2>&1",
        f"systemctl restart {unit}",
    ]
    result.revert += [f"systemctl try-restart {unit}"]
    result.verify.append(
        f"left=10\nuntil systemctl -q is-active {unit}; do\n"
        f'  [ "$(systemctl show -P ConditionResult {unit})" != no ] || exit 0\n'
        f'  [ "$left" -gt 0 ] || {{ systemctl status {unit} --no-pager -n 10 >&2; exit 1; }}\n'
        "  left=$((left - 1)); sleep 1\ndone"
    )


def _floor(result: Plan, wanted: Wanted, systemd: bool) -> None:
    program = floor_program(wanted.floor)
    if systemd:
        result.files.append({"dest": FLOOR, "content": program, "mode": "0755", "check": 'sh -n "$1"'})
        unit = (
            f"{BANNER}[Unit]\nDescription=Sallyport: no clock earlier than the last known time\n"
            "DefaultDependencies=no\nRequiresMountsFor=/var/lib\nAfter=local-fs.target\n"
            "Before=time-set.target sysinit.target systemd-timesyncd.service chrony.service\nWants=time-set.target\n"
            "ConditionCapability=CAP_SYS_TIME\n\n"
            f"[Service]\nType=oneshot\nExecStart=/bin/sh {FLOOR}\n"
        )
        result.files += [
            {"dest": FLOOR_UNIT, "content": unit, "mode": "0644"},
            {"dest": FLOOR_WANT, "link": FLOOR_UNIT},
        ]
        result.activate.insert(0, "systemctl daemon-reload")
        result.revert.insert(0, "systemctl daemon-reload")
    else:
        result.files.append({"dest": FLOOR_BOOT, "content": program, "mode": "0755", "check": 'sh -n "$1"'})


def state(reply: Any, client: str, now: float) -> dict[str, Any]:
    """What the device says about its time; ``synchronised`` is None where nobody can tell."""
    epoch = int(reply.get("epoch") or 0)
    found: dict[str, Any] = {
        "client": client,
        "epoch": epoch,
        "difference": round(epoch - now),
        "synchronised": None,
        "source": "",
        "stratum": 0,
        "offset": None,
        "authenticated": None,
    }
    tracking = reply.get("tracking").split(",")
    words = dict(line.split("=", 1) for line in reply.all("timedate") if "=" in line)
    kernel = dict(line.split(":", 1) for line in reply.all("adjtimex") if ":" in line)
    if client == "chrony" and len(tracking) >= 14:
        found.update(
            source=tracking[1],
            stratum=int(tracking[2]),
            offset=float(tracking[4]),
            synchronised=tracking[13] == "Normal" and int(tracking[2]) > 0,
        )
        known = {words[0]: words for words in (line.split(",") for line in reply.all("authdata"))}
        if len(known.get(found["source"], ())) >= 9:
            # NTS that works has a key and a store of cookies.
            _, mode, key, *_, cookies, _ = known[found["source"]]
            found["authenticated"] = mode == "NTS" and key != "0" and cookies != "0"
    elif client == "timesyncd" and words:
        found.update(
            source=words.get("ServerAddress", "") or words.get("ServerName", ""),
            synchronised=words.get("NTPSynchronized") == "yes",
        )
    elif client == "ntpd":
        status = next((value for name, value in kernel.items() if "status" in name), "").split()
        if status and status[0].isdigit():
            # STA_UNSYNC of the kernel's clock discipline
            found["synchronised"] = not int(status[0]) & 0x40
    return found


def policy_says_no(policy: HostPolicy | None, wanted: Wanted) -> list[str]:
    """Servers that the policy does not let this device ask, each with the rule that would."""
    ports = [("udp", 123)] + ([("tcp", 4460)] if wanted.nts else [])
    return [
        f"{server} ({protocol} {port})"
        for server in wanted.servers
        for protocol, port in ports
        if not policy_view.lets_out(policy, protocol, port, server)
    ]


def rule(wanted: Wanted) -> str:
    """The entry of the policy's outbound that lets this device ask."""
    names = [server for server in wanted.servers if not _is_address(server)]
    to = (
        f", to: [{', '.join(wanted.servers)}]"
        if not names
        else f", to: [the addresses of {', '.join(wanted.servers)}]"
    )
    return f"{{name: time, allow: [ntp{', nts-ke' if wanted.nts else ''}]{to}}}"


def _is_address(text: str) -> bool:
    # Whatever stands behind % would be a zone to Python, and an argument or a line of its own elsewhere.
    address, _, zone = text.partition("%")
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return "%" not in text or re.fullmatch(r"[A-Za-z0-9._-]{1,15}", zone) is not None
