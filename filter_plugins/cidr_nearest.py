# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Filter cidr_nearest."""

from __future__ import annotations

DOCUMENTATION = r"""
name: cidr_nearest
short_description: The smallest CIDR that covers a list, of all or of some
version_added: 0.1.0
description:
  - One CIDR for each family that occurs, the longest prefix that holds everything, wanted or not.
  - With O(among), the longest of those prefixes that does, as a routing table is read; none where none does.
  - A CIDR with host bits, a netmask, a short form or a leading zero is an error that says what to write.
author: The Sallyport authors (@sallyport)
positional: among
options:
  _input:
    description: CIDRs and addresses of both families, as text.
    type: list
    elements: str
    required: true
  among:
    description: The CIDRs to choose from. Without it every CIDR is one to choose.
    type: list
    elements: str
"""

EXAMPLES = r"""
# ['10.0.0.0/22']
around: "{{ ['10.0.0.0/24', '10.0.3.7'] | sallyport.iot.cidr_nearest }}"
# ['10.1.0.0/16']
site: "{{ '10.1.2.3' | sallyport.iot.cidr_nearest(['10.0.0.0/8', '10.1.0.0/16', '10.2.0.0/16']) }}"
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
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.filters import addresses, cidr_list
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import Addresses


def cidr_nearest(value: Any, among: Any = None) -> list[str]:
    """See DOCUMENTATION."""
    found = addresses(value, "cidr_nearest")
    if among is not None:
        return _chosen(found, cidr_list(among, "cidr_nearest"))
    four = intervals.nearest_prefix(found.v4, 32)
    six = intervals.nearest_prefix(found.v6, 128)
    return [
        *([cidrs.prefix_text("ipv4", *four)] if four else []),
        *([cidrs.prefix_text("ipv6", *six)] if six else []),
    ]


def _chosen(found: Addresses, among: list[str]) -> list[str]:
    addresses(among, "cidr_nearest")
    result = []
    for family, wanted in (("ipv4", found.v4), ("ipv6", found.v6)):
        spans = [
            (last - first, first, last) for one, first, last in map(cidrs.parse_one, among) if one == family
        ]
        for _size, first, last in sorted(spans) if wanted else ():
            if first <= wanted[0][0] and wanted[-1][1] <= last:
                result += cidrs.texts(
                    Addresses(((first, last),)) if family == "ipv4" else Addresses((), ((first, last),))
                )
                break
    return result


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filter by its name."""
        return {"cidr_nearest": cidr_nearest}
