# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What only the comparison of devices shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.audit.findings import Finding

HOST_KEYS = "unique-host-keys"


def shared_host_keys(keys: Mapping[str, Iterable[Mapping[str, Any]]]) -> dict[str, list[Finding]]:
    """Findings for each device that has an SSH host key in common with another one."""
    owners: dict[str, dict[str, str]] = {}
    for host, own in keys.items():
        for key in own:
            # The comment behind the key differs between copies: type and key decide.
            public = " ".join(str(key["public"]).split()[:2])
            if public:
                owners.setdefault(public, {})[host] = str(key["type"])
    together: dict[str, dict[tuple[str, ...], list[str]]] = {}
    for holders in owners.values():
        if len(holders) > 1:
            for host, kind in holders.items():
                others = tuple(sorted(other for other in holders if other != host))
                together.setdefault(host, {}).setdefault(others, []).append(kind)
    return {
        host: [
            Finding(
                "shared_host_key",
                HOST_KEYS,
                "difference",
                f"has the same SSH host key ({', '.join(sorted(kinds))}) as {', '.join(others)}",
                "run harden.yml: role ssh makes new ones",
            )
            for others, kinds in groups.items()
        ]
        for host, groups in together.items()
    }
