# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""From a host's policy to the files and commands of its firewall, for what the device's kernel accepts.

Provisional choice of a backend by the lead; the render helper replaces this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import HostPolicy
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.render import (
    iptables,
    iptables_ipset,
    nftables,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.render.base import (
    DIRECTORY,
    LOADER,
    Rendered,
    RenderedFile,
    Unsupported,
    loader,
)

__all__ = ["Rendered", "RenderedFile", "Unsupported", "render"]

_UNIT = """[Unit]
Description=Sallyport firewall
DefaultDependencies=no
After=nftables.service sallyport-restore.service local-fs.target
Before=network-pre.target
Wants=network-pre.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh /etc/sallyport/firewall-load load

[Install]
WantedBy=sysinit.target
"""


def render(
    policy: HostPolicy, device: Mapping[str, Any], backend: str = "auto", memory_kb: int = 0
) -> Rendered:
    tools = device["firewall"]
    if backend == "auto":
        if tools["nft"]["works"]:
            backend = "nftables"
        elif tools["iptables"]["works"] and tools["ip6tables"]["works"]:
            backend = "iptables_ipset" if tools["ipset"]["works"] else "iptables"
        else:
            raise Unsupported(
                "The device has no firewall tool that its kernel accepts.", "Install nftables or iptables."
            )
    texts: dict[str, str] = {}
    if backend == "nftables":
        texts = {"nft": nftables.ruleset(policy, device)}
    elif backend == "iptables_ipset":
        texts = iptables_ipset.rulesets(policy, device)
    else:
        texts = iptables.rulesets(policy, device)
    files = [RenderedFile(LOADER, loader(), "0755")]
    files += [RenderedFile(f"{DIRECTORY}/{name}", texts.get(name)) for name in ("nft", "sets", "v4", "v6")]
    if device["init"] == "systemd":
        unit = "/etc/systemd/system/sallyport-firewall.service"
        files.append(RenderedFile(unit, _UNIT, "0644"))
        files.append(
            RenderedFile("/etc/systemd/system/sysinit.target.wants/sallyport-firewall.service", "", link=unit)
        )
    else:
        files.append(
            RenderedFile(
                "/etc/sallyport/boot.d/50-firewall",
                "#!/bin/sh\nexec /bin/sh /etc/sallyport/firewall-load load\n",
                "0755",
            )
        )
    gone = "if [ -f /etc/sallyport/firewall-load ]; then sh /etc/sallyport/firewall-load load; fi"
    return Rendered(
        backend=backend,
        files=tuple(files),
        check=(),
        activate=("sh /etc/sallyport/firewall-load adopt",),
        settle=("sh /etc/sallyport/firewall-load load",),
        revert=(gone,),
        live=("sh /etc/sallyport/firewall-load live",),
        verify=(),
    )
