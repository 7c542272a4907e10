# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Documentation of the action plugin of the same name, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: update_promote
short_description: Move versions that have proved themselves to the next ring
version_added: 0.1.0
description:
- On the repository, compares what two rings offer with what the devices of the first one say, and moves exact versions on
  that have been healthy there for a while.
- A version that failed on more devices than may stops, and the task fails.
options:
  ring:
    description:
    - The ring whose devices are judged.
    type: str
    required: true
  to:
    description:
    - The ring that versions move to.
    type: str
    required: true
  devices:
    description:
    - The hosts that playbooks/promote.yml has asked; those of other rings do not count.
    type: list
    elements: str
    required: true
  soak:
    description:
    - Seconds that a version must have been healthy on a device.
    type: int
    default: 86400
  threshold:
    description:
    - Percent of the ring's devices that may fail, or not answer.
    type: int
    default: 0
  minimum:
    description:
    - Devices on which a version must have proved itself.
    type: int
    default: 1
attributes:
  check_mode:
    support: full
    description: Says what would move; moves nothing.
  diff_mode:
    support: none
    description: The verdicts say it all.
  platform:
    platforms: posix
    support: full
    description: A repository that playbooks/repository.yml has set up.
seealso:
- module: sallyport.iot.update_status
author:
- The Sallyport authors (@sallyport)
"""

EXAMPLES = r"""
- name: Move on what the first ring has run for a day
  sallyport.iot.update_promote:
    ring: ring0
    to: ring1
    devices: "{{ groups['devices'] }}"
"""

RETURN = r"""
moved:
  description: Exact versions that moved, or would in check mode, and why.
  returned: when both rings could be read
  type: dict
  sample: {"panel=2.0": healthy on 3 of 3 devices}
waiting:
  description: Versions that have not proved themselves yet, and why.
  returned: when both rings could be read
  type: dict
  sample: {}
stopped:
  description: Versions that failed, and where.
  returned: when both rings could be read
  type: dict
  sample: {}
msg:
  description: All of it in words.
  returned: always
  type: str
  sample: "panel=2.0: healthy on 3 of 3 devices"
"""
