# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Filter cidr_subtract."""

from __future__ import annotations

DOCUMENTATION = r"""
name: cidr_subtract
short_description: What of one list of CIDRs is not in another
version_added: 0.1.0
description:
  - Subtracts the addresses of O(other) from the input.
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
    description: CIDRs to take away.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
# ['10.0.0.0/25', '10.0.0.192/26']
rest: "{{ ['10.0.0.0/24'] | sallyport.iot.cidr_subtract(['10.0.0.128/26']) }}"
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


def cidr_subtract(value: Any, other: Any) -> list[str]:
    """See DOCUMENTATION."""
    return cidrs.texts(intervals.minus(addresses(value, "cidr_subtract"), addresses(other, "cidr_subtract")))


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filter by its name."""
        return {"cidr_subtract": cidr_subtract}
