# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
# The action plugin of the same name does the work; this file is its documentation.
from __future__ import annotations

DOCUMENTATION = r"""
module: audit_plan
short_description: Plan from where a device is scanned, and how carefully
version_added: 0.1.0
description:
  - Works on the controller alone, from the inventory, the policy and the result of M(sallyport.iot.probe).
  - A part of C(playbooks/audit.yml).
options:
  addresses:
    description: >-
      The device's addresses by vantage name, a list for each. An empty list skips a vantage.
    type: dict
    default: {}
  budget:
    description: Seconds that the scans of this device may take, all vantages together.
    type: int
    required: true
author: The Sallyport authors (@sallyport)
attributes:
  check_mode:
    description: It changes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Plan the scan
  sallyport.iot.audit_plan:
    addresses: "{{ audit_addresses }}"
    budget: 300
  register: audit_plan
"""

RETURN = r"""
scans:
  description: One entry for each vantage, with C(host), C(name) and C(addresses) by family.
  type: list
  elements: dict
  returned: always
missing:
  description: What the inventory lacks for a whole audit.
  type: list
  elements: str
  returned: always
policy_error:
  description: Why there is no policy to compare with; empty when there is.
  type: str
  returned: always
careful_tcp:
  description: As O(sallyport.iot.scan#module:careful_tcp). So are C(udp_ports), C(excluded_tcp), C(paced), C(budget).
  type: list
  elements: int
  returned: always
"""
