# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Filter cidr_contains."""

from __future__ import annotations

DOCUMENTATION = r"""
name: cidr_contains
short_description: Whether a list of CIDRs holds all of another
version_added: 0.1.0
description:
  - True when every address of O(other) is in the input.
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
    description: The CIDRs that should be inside.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
# false
inside: "{{ ['10.0.0.0/24', '10.0.1.0/25'] | sallyport.iot.cidr_contains(['10.0.0.0/23']) }}"
"""

RETURN = r"""
_value:
  description: Whether all of them are inside.
  type: bool
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import intervals
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.filters import addresses


def cidr_contains(value: Any, other: Any) -> bool:
    """See DOCUMENTATION."""
    return intervals.covers(addresses(value, "cidr_contains"), addresses(other, "cidr_contains"))


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filter by its name."""
        return {"cidr_contains": cidr_contains}
