# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
# The action plugin of the same name does the work; this file is its documentation.
from __future__ import annotations

DOCUMENTATION = r"""
module: policy_check
short_description: Check the policy of every host of the play before anything is touched
version_added: 0.1.0
description:
  - Runs once for all hosts of the play that M(sallyport.iot.probe) has reached, and fails with every finding at once.
  - A policy that does not admit this controller, as the device sees it and on the port that it connects to, is an error.
options:
  policy_dir:
    description: >-
      The folder with C(fleet.yml), C(groups/) and C(hosts/). By default each host's C(sallyport_policy_dir), else
      C(policy) beside its inventory.
    type: path
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
- name: Check every device's policy
  sallyport.iot.policy_check:
  run_once: true
  any_errors_fatal: true
"""

RETURN = r"""
concerns:
  description: >-
    C(run); a failure here is no matter of the one host that the task ran for, so P(sallyport.iot.summary#callback) tells
    to start the whole run again.
  type: str
  returned: on failure
findings:
  description: Everything that was found, errors first.
  type: list
  elements: str
  returned: always
"""
