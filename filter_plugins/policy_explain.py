# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Filter policy_explain."""

from __future__ import annotations

DOCUMENTATION = r"""
name: policy_explain
short_description: What happens to a connection under a CIDR policy, and why
version_added: 0.1.0
description:
  - Names the step, the rule and its line that decide, and why the rules before it did not.
  - Without an interface, each one that makes a difference is answered for.
author: The Sallyport authors (@sallyport)
extends_documentation_fragment: [sallyport.iot.policy_filter]
options:
  source:
    description: The address that the connection comes from.
    type: str
    required: true
  service:
    description: A service of the policy, or V(tcp/22), V(udp/53), V(icmp/8), V(icmpv6/128) or V(protocol/50).
    type: str
    required: true
  destination:
    description: The address that it goes to.
    type: str
    default: ""
  interface:
    description: The interface by which it comes in.
    type: str
    default: ""
  out_interface:
    description: The interface by which it leaves.
    type: str
    default: ""
  hook:
    description: Whether it ends here, starts here or passes through.
    type: str
    choices: [inbound, outbound, forward]
    default: inbound
"""

EXAMPLES = r"""
why: "{{ 'policy' | sallyport.iot.policy_explain(source='198.51.100.9', service='ssh', host='gw1') }}"
"""

RETURN = r"""
_value:
  description:
    - One map for each answer, with C(verdict), C(step), C(name), C(where), C(text), C(interfaces), C(source_zones),
      C(leads_to), where a published port leads, and C(passed_over), the rules before it with the reason why each did not
      match.
  type: list
  elements: dict
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import explain
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.filters import day, sound


def policy_explain(
    policy: Any,
    source: str,
    service: str,
    destination: str = "",
    interface: str = "",
    out_interface: str = "",
    hook: Any = "inbound",
    **given: Any,
) -> list[dict[str, Any]]:
    """See DOCUMENTATION."""
    if hook not in ("inbound", "outbound", "forward"):
        raise AnsibleFilterError(
            f"policy_explain: `hook` must be inbound, outbound or forward, found `{hook}`"
        )
    found = sound(policy, "policy_explain", **given)
    assert found.policy is not None
    question = explain.Question(source, service, destination, interface, out_interface, hook)
    on = day(given.get("now"), "policy_explain")
    try:
        return explain.as_data(explain.ask(found.policy, found.services, found.zones, question, on))
    except explain.BadQuestion as error:
        raise AnsibleFilterError(f"policy_explain: {error}") from None


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filter by its name."""
        return {"policy_explain": policy_explain}
