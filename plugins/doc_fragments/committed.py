# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The options of every module that changes a device through commit; the same as ``SETTINGS`` of access/driver.py."""


class ModuleDocFragment:
    """Read by ansible-doc."""

    DOCUMENTATION = r"""
options:
  confirm_seconds:
    description: How long the device waits for the confirmation before it takes the change back.
    type: int
    default: 60
  keep:
    description: How many generations to keep on the device.
    type: int
    default: 10
  state_dir:
    description: Where the device keeps generations; a folder of its own, which must survive a power cut.
    type: path
    default: /var/lib/sallyport
"""
