# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Filter policy_resolve."""

from __future__ import annotations

DOCUMENTATION = r"""
name: policy_resolve
short_description: One host's policy with all layers merged
version_added: 0.1.0
description:
  - Zones as merged CIDRs, services as ports, and the rules of one host in the order in which they are asked.
  - A policy with errors is an error here; P(sallyport.iot.policy_findings#filter) shows them.
author: The Sallyport authors (@sallyport)
extends_documentation_fragment: [sallyport.iot.policy_filter]
"""

EXAMPLES = r"""
# {'cidrs': ['198.18.10.0/24'], 'interfaces': []}
mgmt: "{{ ('policy' | sallyport.iot.policy_resolve(host='gw1')).zones.mgmt }}"
"""

RETURN = r"""
_value:
  description: A map with C(host), C(zones), C(services), C(inbound), C(outbound), C(forward), C(defaults) and C(protected).
  type: dict
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import report
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.filters import sound


def policy_resolve(source: Any, **given: Any) -> dict[str, Any]:
    """See DOCUMENTATION."""
    return report.resolved_data(sound(source, "policy_resolve", **given))


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filter by its name."""
        return {"policy_resolve": policy_resolve}
