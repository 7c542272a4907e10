# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Filter policy_nftables."""

from __future__ import annotations

DOCUMENTATION = r"""
name: policy_nftables
short_description: A CIDR policy as an nftables rule set
version_added: 0.1.0
description:
  - Compiles the policy of one host to the text that C(nft -f) loads, a table of its own, replaced in one transaction.
  - P(sallyport.iot.firewall#role) loads it without ever locking the operator out; loading it by hand does not.
author: The Sallyport authors (@sallyport)
extends_documentation_fragment: [sallyport.iot.policy_filter]
"""

EXAMPLES = r"""
- name: See what would be loaded
  ansible.builtin.debug:
    msg: "{{ 'policy' | sallyport.iot.policy_nftables(host='gw1', device=ansible_facts.sallyport_device) }}"
"""

RETURN = r"""
_value:
  description: The rule set.
  type: str
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.filters import mapping, sound
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.render import Unsupported, nftables


def policy_nftables(source: Any, **given: Any) -> str:
    """See DOCUMENTATION."""
    found = sound(source, "policy_nftables", **given)
    assert found.policy is not None
    device = mapping(given.get("device"), "policy_nftables", "device")
    try:
        return nftables.ruleset(found.policy, device)
    except Unsupported as error:
        raise AnsibleFilterError(f"policy_nftables: {error}") from None


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filter by its name."""
        return {"policy_nftables": policy_nftables}
