# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Documentation of the action plugin of the same name, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: update_status
short_description: What a device says of its updates
version_added: 0.1.0
description:
- Reads what the update agent of a device wrote down of its last run, in one exchange. Changes nothing.
options: {}
attributes:
  check_mode:
    support: full
    description: Changes nothing anyway.
  diff_mode:
    support: none
    description: There is nothing to compare.
  platform:
    platforms: posix
    support: full
    description: Every device that has a POSIX shell.
seealso:
- module: sallyport.iot.update_agent
author:
- The Sallyport authors (@sallyport)
"""

EXAMPLES = r"""
- name: Ask what is pending
  sallyport.iot.update_status:
  register: status
"""

RETURN = r"""
updates:
  description: The record. Times are epochs of the device's own clock, ages are seconds.
  returned: always
  type: dict
  contains:
    agent:
      description: The agent; empty where Sallyport has set up none, C(none) where the device is taken out and could have none.
      type: str
      sample: unattended-upgrades
    mode:
      description: Its mode.
      type: str
      sample: automatic
    reason:
      description: Why the device is taken out.
      type: str
      sample: ""
    until:
      description: The moment until which it is postponed, as an epoch; 0 where it is not.
      type: int
      sample: 0
    ring:
      description: The ring that it follows.
      type: str
      sample: ring0
    timer:
      description: Whether its timer runs.
      type: str
      sample: active
    every:
      description: Seconds between two looks for updates.
      type: int
      sample: 21600
    first:
      description: When it looks for the first time after it was set up, at the latest; 0 where the clock went back since.
      type: int
      sample: 1790000000
    now:
      description: What the device's clock said.
      type: int
      sample: 1790000000
    ran:
      description: When it last ran.
      type: int
      sample: 1790000000
    checked:
      description: When every source last answered and was believed.
      type: int
      sample: 1790000000
    succeeded:
      description: When a run last ended well.
      type: int
      sample: 1790000000
    result:
      description: C(ok), C(waiting), C(unreachable), C(refused), C(blocked), C(failed), C(rolled_back) or C(unhealthy).
      type: str
      sample: ok
    message:
      description: The result in words.
      type: str
      sample: nothing to install
    pending:
      description: What is offered and not installed, with its age on this device.
      type: list
      elements: dict
      sample: [{name: panel, installed: "1.0", offered: "2.0", kind: security, age: 3600}]
    refused:
      description: What came from the network and was not taken.
      type: list
      elements: dict
      sample: [{kind: signature, why: "..."}]
    held:
      description: Versions that harmed this device.
      type: list
      elements: dict
      sample: [{name: panel, version: "2.0", since: 1790000000, why: "no longer running: panel.service"}]
    installed:
      description: What the agent has installed and found healthy.
      type: list
      elements: dict
      sample: [{name: panel, version: "2.0", since: 1790000000}]
    back:
      description: Packages that went back in the last run.
      type: list
      elements: str
      sample: []
    restart:
      description: Services that still run code which is no longer on the disk.
      type: list
      elements: str
      sample: []
    reboot_needed:
      description: Whether an update needs a reboot that has not happened.
      type: bool
      sample: false
    remarks:
      description: What else happened.
      type: list
      elements: str
      sample: []
"""
