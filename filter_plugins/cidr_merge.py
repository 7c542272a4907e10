# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Filter cidr_merge."""

from __future__ import annotations

DOCUMENTATION = r"""
name: cidr_merge
short_description: The fewest CIDRs that make up a list
version_added: 0.1.0
description:
  - Merges overlapping, nested and adjacent CIDRs of both families. Fast for hundreds of thousands of them.
  - A CIDR with host bits, a netmask, a short form or a leading zero is an error that says what to write.
author: The Sallyport authors (@sallyport)
options:
  _input:
    description: CIDRs and addresses of both families, as text.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
# ['10.0.0.0/23', '2001:db8::/32']
merged: "{{ ['10.0.1.0/24', '10.0.0.0/24', '2001:db8::/32', '2001:db8:1::1'] | sallyport.iot.cidr_merge }}"
"""

RETURN = r"""
_value:
  description: CIDRs, IPv4 first, in order.
  type: list
  elements: str
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import cidrs
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.filters import addresses


def cidr_merge(value: Any) -> list[str]:
    """See DOCUMENTATION."""
    return cidrs.texts(addresses(value, "cidr_merge"))


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filter by its name."""
        return {"cidr_merge": cidr_merge}
