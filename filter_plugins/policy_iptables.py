# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Filter policy_iptables."""

from __future__ import annotations

DOCUMENTATION = r"""
name: policy_iptables
short_description: A CIDR policy for iptables, ip6tables and ipset
version_added: 0.1.0
description:
  - Compiles the policy of one host to the texts that C(ipset restore), C(iptables-restore --noflush) and C(ip6tables-restore --noflush) load.
  - P(sallyport.iot.firewall#role) loads them without ever locking the operator out; loading them by hand does not.
author: The Sallyport authors (@sallyport)
extends_documentation_fragment: [sallyport.iot.policy_filter]
options:
  ipset:
    description: Whether the device has ipset. Without it, large lists are refused.
    type: bool
    default: true
"""

EXAMPLES = r"""
v4: "{{ ('policy' | sallyport.iot.policy_iptables(host='gw1', ipset=false)).v4 }}"
"""

RETURN = r"""
_value:
  description: The texts, V(v4), V(v6) and, with ipset, V(sets).
  type: dict
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.filters import mapping, sound
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.render import BACKENDS, Unsupported


def policy_iptables(source: Any, ipset: bool = True, **given: Any) -> dict[str, str]:
    """See DOCUMENTATION."""
    found = sound(source, "policy_iptables", **given)
    assert found.policy is not None
    device = mapping(given.get("device"), "policy_iptables", "device")
    try:
        return BACKENDS["iptables_ipset" if ipset else "iptables"](found.policy, device)
    except Unsupported as error:
        raise AnsibleFilterError(f"policy_iptables: {error}") from None


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filter by its name."""
        return {"policy_iptables": policy_iptables}
