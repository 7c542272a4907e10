# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
# The action plugin of the same name does the work; this file is its documentation.
from __future__ import annotations

DOCUMENTATION = r"""
module: rollback
short_description: List the generations of a device, or go back to an earlier one
version_added: 0.1.0
description:
  - Generations are numbered per device. Going back to one undoes every later one, newest first, files and live state.
  - The way back is a change like any other (see M(sallyport.iot.commit)), and is itself taken back if the controller
    cannot log in afterwards.
options:
  to:
    description: >-
      C(previous), a number, or C(factory) for the device as it was found at first contact; after C(factory) nothing of
      Sallyport is left on it. Empty to list the generations.
    type: str
    default: ""
  seconds:
    description: How long the device waits for the confirmation.
    type: int
    default: 60
  state_dir:
    description: Where the device keeps its generations.
    type: path
    default: /var/lib/sallyport
author: The Sallyport authors (@sallyport)
attributes:
  check_mode:
    description: Says what would change.
    support: full
  diff_mode:
    description: Names the files; their former content is not shown.
    support: full
"""

EXAMPLES = r"""
- name: What changed on this device, and when?
  sallyport.iot.rollback:

- name: Take the last change back
  sallyport.iot.rollback:
    to: previous
"""

RETURN = r"""
generations:
  description: What the device had before this task, oldest first.
  type: list
  elements: dict
  returned: always
  sample: [{number: 1, name: firewall, when: "2026-11-22T11:41:03Z", by: "ops on desk, harden.yml[4711]", note: "", files: [/etc/sallyport/firewall.nft], kept: true}]
to:
  description: The generation that the device is at now; 0 is factory.
  type: int
  returned: when it went back
undone:
  description: The generations that were undone.
  type: list
  elements: int
  returned: when it went back
"""
