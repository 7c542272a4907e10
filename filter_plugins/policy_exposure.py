# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Filter policy_exposure."""

from __future__ import annotations

DOCUMENTATION = r"""
name: policy_exposure
short_description: Who reaches what under a CIDR policy
version_added: 0.1.0
description:
  - With O(vantage), the ports and ICMP types that pass from that address. Without, everything that is exposed, by service and source.
  - The first packet of a flow is judged, on a device without bans and with full rate buckets.
author: The Sallyport authors (@sallyport)
extends_documentation_fragment: [sallyport.iot.policy_filter]
positional: vantage
options:
  vantage:
    description: An address from which the device is looked at.
    type: str
  interface:
    description: The interface of the device by which it comes in. One that the policy does not name, where it is missing.
    type: str
    default: ""
  destination:
    description: The address of the device that is called. Any, where it is missing.
    type: str
    default: ""
"""

EXAMPLES = r"""
# {'tcp': ['22', '443'], 'udp': [], ...}
open: "{{ 'policy' | sallyport.iot.policy_exposure('198.51.100.9', interface='eth0', host='gw1') }}"
"""

RETURN = r"""
_value:
  description:
    - With O(vantage), a map with C(tcp), C(udp), C(sctp), C(icmp), C(icmpv6), C(rejected), C(rates) and C(footnotes).
      Without, a list of maps, each a service with its sources; C(target) is where a published port leads.
  type: raw
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import cidrs, exposure, flows, report
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.filters import day, sound


def policy_exposure(
    source: Any, vantage: str = "", interface: str = "", destination: str = "", **given: Any
) -> dict[str, Any] | list[dict[str, Any]]:
    """See DOCUMENTATION."""
    found = sound(source, "policy_exposure", **given)
    assert found.policy is not None
    on = day(given.get("now"), "policy_exposure")
    try:
        if vantage:
            return report.exposed_data(
                exposure.for_vantage(found.policy, vantage, interface, destination, on)
            )
        return report.opening_data(exposure.openings(found.policy, found.services, on=on))
    except (cidrs.NotACidr, flows.TooManyPieces) as error:
        raise AnsibleFilterError(f"policy_exposure: {error}") from None


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filter by its name."""
        return {"policy_exposure": policy_exposure}
