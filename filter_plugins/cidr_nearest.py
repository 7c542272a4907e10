# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Filter cidr_nearest."""

from __future__ import annotations

DOCUMENTATION = r"""
name: cidr_nearest
short_description: The smallest single CIDR that covers a list
version_added: 0.1.0
description:
  - One CIDR for each family that occurs: the longest prefix that holds everything, wanted or not.
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
# ['10.0.0.0/22']
around: "{{ ['10.0.0.0/24', '10.0.3.7'] | sallyport.iot.cidr_nearest }}"
"""

RETURN = r"""
_value:
  description: At most one IPv4 and one IPv6 CIDR.
  type: list
  elements: str
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import cidrs, intervals
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.filters import addresses


def cidr_nearest(value: Any) -> list[str]:
    """See DOCUMENTATION."""
    found = addresses(value, "cidr_nearest")
    four = intervals.nearest_prefix(found.v4, 32)
    six = intervals.nearest_prefix(found.v6, 128)
    return [
        *([cidrs.prefix_text("ipv4", *four)] if four else []),
        *([cidrs.prefix_text("ipv6", *six)] if six else []),
    ]


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filter by its name."""
        return {"cidr_nearest": cidr_nearest}
