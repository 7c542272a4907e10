# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Filter cidr_normalise."""

from __future__ import annotations

DOCUMENTATION = r"""
name: cidr_normalise
short_description: CIDRs as they should be written
version_added: 0.1.0
description:
  - Gives each entry in the one form that Sallyport takes, which is the network address for CIDRs with host bits, a prefix length for netmasks, IPv6 as RFC 5952 writes it, a bare address where the prefix is the whole address.
  - Entries stay apart and in order; what cannot be understood is an error.
author: The Sallyport authors (@sallyport)
options:
  _input:
    description: CIDRs and addresses of both families, as text.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
# ['10.0.0.0/24', '10.0.0.0/16', '2001:db8::1', '192.168.1.1']
tidy: "{{ ['10.0.0.7/24', '10.0.3.0/255.255.0.0', '2001:DB8:0::1/128', '192.168.1.1'] | sallyport.iot.cidr_normalise }}"
"""

RETURN = r"""
_value:
  description: The entries, tidied, in the same order.
  type: list
  elements: str
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import cidrs
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.filters import cidr_list


def cidr_normalise(value: Any) -> list[str]:
    """See DOCUMENTATION."""
    result = []
    for place, text in enumerate(cidr_list(value, "cidr_normalise"), 1):
        try:
            result.append(cidrs.normalise(text))
        except cidrs.NotACidr as problem:
            raise AnsibleFilterError(f"cidr_normalise: entry {place}: {problem}") from None
    return result


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filter by its name."""
        return {"cidr_normalise": cidr_normalise}
