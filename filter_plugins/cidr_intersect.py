# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Filter cidr_intersect."""

from __future__ import annotations

DOCUMENTATION = r"""
name: cidr_intersect
short_description: What two lists of CIDRs have in common
version_added: 0.1.0
description:
  - The addresses that are in the input and in O(other).
  - A CIDR with host bits, a netmask, a short form or a leading zero is an error that says what to write.
author: The Sallyport authors (@sallyport)
positional: other
options:
  _input:
    description: CIDRs and addresses of both families, as text.
    type: list
    elements: str
    required: true
  other:
    description: The other CIDRs.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
# ['10.0.0.128/25']
common: "{{ ['10.0.0.0/24'] | sallyport.iot.cidr_intersect(['10.0.0.128/25', '10.9.0.0/16']) }}"
"""

RETURN = r"""
_value:
  description: CIDRs, IPv4 first, in order.
  type: list
  elements: str
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import cidrs, intervals
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.filters import addresses


def cidr_intersect(value: Any, other: Any) -> list[str]:
    """See DOCUMENTATION."""
    return cidrs.texts(
        intervals.common(addresses(value, "cidr_intersect"), addresses(other, "cidr_intersect"))
    )


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filter by its name."""
        return {"cidr_intersect": cidr_intersect}
