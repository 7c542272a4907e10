# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Which package a listening program came from: the name under which people know it, and by which it can be removed."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply

# dpkg knows files where they were packaged, which may be without the /usr of today.
_ASK = {
    "apt": """owner() {
  { dpkg-query -S "$1" || dpkg-query -S "${1#/usr}" || dpkg-query -S "/usr$1"; } 2>/dev/null | sed 's/:.*//' | head -n 1
}
""",
    "opkg": """owner() { opkg search "$1" 2>/dev/null | sed 's/ - .*//' | head -n 1; }
""",
    "apk": """owner() { apk info -q --who-owns "$1" 2>/dev/null | head -n 1; }
""",
}


def program_of(device: Mapping[str, Any], listener: Mapping[str, str]) -> str:
    """The path of what listens there; "" where it is not known."""
    programs = {int(one["pid"]): str(one.get("exe") or "") for one in device.get("processes") or []}
    for one in device.get("listening") or []:
        same = f"{one['port']}/{one['protocol']}" == listener["listens"]
        if same and one.get("process", "") == listener["process"] and one.get("unit", "") == listener["unit"]:
            return programs.get(int(one.get("pid") or 0), "")
    return ""


def asking(device: Mapping[str, Any], listeners: Sequence[Mapping[str, str]]) -> str:
    """sh that tells the package of each listener's program; "" where nothing can be asked."""
    paths = sorted({program_of(device, one) for one in listeners} - {""})
    helper = _ASK.get(str(device.get("packages")), "")
    if not paths or not helper:
        return ""
    asks = "".join(f'say owner "$(owner {shlex.quote(path)})" {shlex.quote(path)}\n' for path in paths)
    return helper + asks


def fill(device: Mapping[str, Any], listeners: Sequence[dict[str, str]], reply: Reply) -> None:
    """Give every listener its ``package``, "" where no package has its program."""
    known = {path: name for name, _, path in (line.partition(" ") for line in reply.all("owner"))}
    for one in listeners:
        one["package"] = known.get(program_of(device, one), "")
