# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
# The action plugin of the same name does the work; this file is its documentation.
from __future__ import annotations

DOCUMENTATION = r"""
module: policy_report
short_description: Check, show, explain and compare CIDR policies without any device
version_added: 0.1.0
description:
  - Answers one question about the policies of all hosts of the play. Runs once, on the controller, and touches nothing.
options:
  what:
    description:
      - V(check) gives the findings, and fails on errors.
      - V(exposure) gives who reaches what; with O(source), what passes from that address.
      - V(explain) says what happens to a connection, and which line decides.
      - V(compare) says who gains and who loses between two versions.
    type: str
    choices: [check, exposure, explain, compare]
    default: check
  form:
    description: How the answer is written.
    type: str
    choices: [text, json, markdown]
    default: text
  path:
    description: A file on the controller that the answer is written to.
    type: path
  policy_dir:
    description: The folder of the policy. By default each host's C(sallyport_policy_dir), else C(policy) beside its inventory.
    type: path
  strict:
    description: Whether V(check) also fails on warnings.
    type: bool
    default: false
  source:
    description: The address that a connection comes from.
    type: str
  destination:
    description: The address that it goes to.
    type: str
  service:
    description: A service of the policy, or V(tcp/22), V(udp/53), V(icmp/8), V(icmpv6/128) or V(protocol/50).
    type: str
  interface:
    description: The interface by which it comes in.
    type: str
  out_interface:
    description: The interface by which it leaves.
    type: str
  hook:
    description: Whether it ends on the device, starts there or passes through.
    type: str
    choices: [inbound, outbound, forward]
    default: inbound
  old:
    description: The older version, a folder or a git revision of the policy's folder.
    type: str
  new:
    description: The newer version. By default the policy as it is.
    type: str
  fail_on:
    description: Whether V(compare) fails, and on what.
    type: str
    choices: [nothing, gained, any]
    default: nothing
  now:
    description: The day (UTC) on which the policy is judged. Today by default.
    type: str
author: The Sallyport authors (@sallyport)
attributes:
  check_mode:
    description: Changes nothing, so it does the same.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
"""

EXAMPLES = r"""
- name: Say what this branch changes, for the review
  sallyport.iot.policy_report:
    what: compare
    old: origin/main
    form: markdown
    path: policy-review.md
    fail_on: gained
  run_once: true
"""

RETURN = r"""
text:
  description: The answer as it was asked for.
  type: str
  returned: always
data:
  description: The answer as data.
  type: raw
  returned: always
"""
