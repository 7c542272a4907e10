# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Documentation of the action plugin of the same name, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rotate
short_description: New passwords and keys for a device, now
version_added: 0.1.0
description:
- Puts a new key beside the old ones and proves it over a new connection that offers nothing else; then takes away every
  old key and password, and ends every session but its own. Two changes through M(sallyport.iot.commit).
- Going back to an earlier generation, C(factory) included, does not bring the old passwords and keys back.
- Neither hashes nor passwords are in results, facts, diffs or logs, at any verbosity.
options:
  key:
    description:
    - The file of the new private key on the controller, with its public half in C(.pub) beside it. Both are made, without a
      passphrase, if the file is not there.
    type: str
    default: ''
  keep_keys:
    description:
    - Public keys of other people that stay. All others go, in every account.
    type: list
    elements: str
    default: []
  vault_directory:
    description:
    - Where new passwords are kept, one ansible-vault file for each device. With neither this nor C(command), accounts with
      a password are locked.
    type: str
    default: ''
  command:
    description:
    - A command on the controller that takes new passwords instead, as for M(sallyport.iot.credentials).
    type: list
    elements: str
    default: []
extends_documentation_fragment: [sallyport.iot.committed]
attributes:
  check_mode:
    support: full
    description: Says which passwords and keys would go; changes nothing, and makes no key.
  diff_mode:
    support: full
    description: Shows accounts and fingerprints, never a hash.
  platform:
    platforms: posix
    support: full
    description: Linux with systemd or BusyBox init; no Python needed there.
seealso:
- module: sallyport.iot.credentials
- module: sallyport.iot.commit
author:
- The Sallyport authors (@sallyport)
"""

EXAMPLES = r"""
- name: Replace passwords and keys
  sallyport.iot.rotate:
    key: keys/fleet-2
    vault_directory: "{{ inventory_dir }}/passwords"
"""

RETURN = r"""
accounts:
  description: Every account that had a password, and whether it was C(replaced) or C(locked).
  returned: success
  type: list
  elements: dict
  sample: [{account: root, action: replaced}]
keys_removed:
  description: The keys that no longer work.
  returned: success
  type: list
  elements: dict
  sample: [{account: root, file: /root/.ssh/authorized_keys, key: "SHA256:...", comment: ops@example}]
key:
  description: The fingerprint of the new key.
  returned: success
  type: str
  sample: "SHA256:..."
key_file:
  description: The file of the new private key.
  returned: success
  type: str
  sample: keys/fleet-2
kept_in:
  description: The encrypted file with the new passwords, or the command that took them.
  returned: when passwords were replaced
  type: str
  sample: passwords/gw1.yml
seconds:
  description: How long it took for this device.
  returned: always
  type: float
  sample: 2.1
state:
  description: C(would_change), C(confirmed), C(unchanged), C(reverted), C(refused) or C(lost), see M(sallyport.iot.commit).
  returned: always
  type: str
  sample: confirmed
generation:
  description: The generation's number.
  returned: when confirmed
  type: int
  sample: 3
exchanges:
  description: Round trips that this task cost.
  returned: when the device was asked
  type: int
  sample: 8
msg:
  description: What was done and what the inventory must say now, or why not and what to do.
  returned: always
  type: str
  sample: 1 password and 1 key replaced, sessions ended.
"""
