# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Filter policy_findings."""

from __future__ import annotations

DOCUMENTATION = r"""
name: policy_findings
short_description: What is wrong with a CIDR policy
version_added: 0.1.0
description:
  - Loads, merges and checks the policy of one host as P(sallyport.iot.firewall#role) does, and touches nothing.
  - An empty list means that the policy is sound.
author: The Sallyport authors (@sallyport)
extends_documentation_fragment: [sallyport.iot.policy_filter]
"""

EXAMPLES = r"""
- name: Refuse a policy with errors
  ansible.builtin.assert:
    that: found | selectattr('severity', 'equalto', 'error') | length == 0
  vars:
    found: "{{ (inventory_dir ~ '/policy') | sallyport.iot.policy_findings(host=inventory_hostname, groups=['all'] + group_names) }}"
"""

RETURN = r"""
_value:
  description:
    - The findings, each with C(id), C(severity) (V(error) or V(warning)), C(message), C(remedy), C(source), C(line),
      C(text) as written, and C(hosts).
  type: list
  elements: dict
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import report
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.filters import resolved


def policy_findings(source: Any, **given: Any) -> list[dict[str, Any]]:
    """See DOCUMENTATION."""
    return [report.finding_data(one) for one in resolved(source, "policy_findings", **given).findings]


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filter by its name."""
        return {"policy_findings": policy_findings}
