# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
# The action plugin of the same name does the work; this file is its documentation.
from __future__ import annotations

DOCUMENTATION = r"""
module: firewall
short_description: Compile the CIDR policy for a device and load it, confirmed over a new connection
version_added: 0.1.0
description:
  - Reads the policy layers of this host, checks them, renders them for what the device's kernel was seen to accept, and
    hands the files to M(sallyport.iot.commit).
  - Large lists are compiled once for all hosts that share them, and travel to a device only when they changed.
  - Takes what M(sallyport.iot.probe) found in this run, or asks the device itself. Needs root on it.
options:
  policy_dir:
    description: The folder with C(fleet.yml), C(groups/) and C(hosts/). It may be missing if the policy is in variables.
    type: path
    required: true
  backend:
    description: C(auto) takes the best that the device accepts.
    type: str
    choices: [auto, nftables, iptables_ipset, iptables]
    default: auto
  memory_kb:
    description: Memory in kB that loading may take; 0 for a share of what the device has.
    type: int
    default: 0
extends_documentation_fragment: [sallyport.iot.committed]
author: The Sallyport authors (@sallyport)
attributes:
  check_mode:
    description: Says what would change.
    support: full
  diff_mode:
    description: Shows the rule sets.
    support: full
"""

EXAMPLES = r"""
- name: Load the firewall that the policy says
  sallyport.iot.firewall:
    policy_dir: "{{ inventory_dir }}/policy"
"""

RETURN = r"""
backend:
  description: What the policy was rendered for.
  type: str
  returned: when the policy is sound
boot_window:
  description:
    - Whether a link of the device was up before the rules were when it booted last, which the kernel, an initramfs or a
      container engine can do. All times are upper bounds.
  type: dict
  returned: when the device was asked
  contains:
    measured:
      description: False until the device has booted with these rules.
      type: bool
    seconds:
      description: For how long, since init began; 0 for no window.
      type: float
    links:
      description: The interfaces that were up, or had been.
      type: list
      elements: str
    listeners:
      description: What listened for others when the rules came, each with C(protocol), C(address), C(port), C(process) and
        C(seconds).
      type: list
      elements: dict
    text:
      description: The same in words.
      type: str
findings:
  description: What there is to say about the policy, as text.
  type: list
  elements: str
  returned: always
state:
  description: As in M(sallyport.iot.commit).
  type: str
  returned: when the policy is sound
"""
