# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Filter cidr_overlaps."""

from __future__ import annotations

DOCUMENTATION = r"""
name: cidr_overlaps
short_description: Whether two lists of CIDRs have an address in common
version_added: 0.1.0
description:
  - True when at least one address is in the input and in O(other).
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
# true
clash: "{{ ['10.0.0.0/24'] | sallyport.iot.cidr_overlaps(['10.0.0.7']) }}"
"""

RETURN = r"""
_value:
  description: Whether there is a common address.
  type: bool
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import intervals
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.filters import addresses


def cidr_overlaps(value: Any, other: Any) -> bool:
    """See DOCUMENTATION."""
    return intervals.touches(addresses(value, "cidr_overlaps"), addresses(other, "cidr_overlaps"))


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filter by its name."""
        return {"cidr_overlaps": cidr_overlaps}
