# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
# The action plugin of the same name does the work; this file is its documentation.
from __future__ import annotations

DOCUMENTATION = r"""
module: commit
short_description: Change a device so that the change takes itself back unless it is confirmed
version_added: 0.1.0
description:
  - Replaces files and activates them as one change. The device then waits for this controller to come back over a
    B(new) connection, as the same user and with root gained anew. If that does not happen in time, the device restores
    the files and the live state by itself; after a power cut the files, before its network comes up, and the services start
    from them. So what a command of C(activate) changes for good (an account, an enabled unit) belongs among the files.
  - Unchanged files and an unchanged live state cost one exchange and report C(ok).
  - Needs sh, mkdir, mv, cp, rm, cat, sleep, sync, chmod and one of sha256sum, md5sum or cksum on the device, and no
    Python. The init system must be systemd or BusyBox init with an C(/etc/inittab).
options:
  name:
    description: What is changed, in one word; shown in the list of generations.
    type: str
    required: true
  files:
    description: The files, links and absences that the device is to have.
    type: list
    elements: dict
    default: []
    suboptions:
      dest:
        description: Absolute path on the device. A symbolic link is followed, and kept.
        type: str
        required: true
      content:
        description: The content. One of O(files[].content), O(files[].src), O(files[].link), O(files[].generate).
        type: str
      src:
        description: A file on the controller with the content, looked up like M(ansible.builtin.copy) does.
        type: path
      link:
        description: The target of a symbolic link that O(files[].dest) is to be.
        type: str
      generate:
        description: >-
          Shell commands that make the content on the device, in the file C("$1"), and a public part in C("$1.pub").
          The content never leaves the device.
        type: str
      state:
        description: C(absent) removes the file.
        type: str
        choices: [present, absent]
        default: present
      mode:
        description: Octal text such as C("0644").
        type: str
        default: "0644"
      owner:
        description: Owning user, by name or number.
        type: str
        default: root
      group:
        description: Owning group, by name or number.
        type: str
        default: root
      secret:
        description: Never show the content in diffs, messages or results.
        type: bool
        default: false
      replaces:
        description: SHA-256 that the present file must have; another one refuses the change.
        type: str
      check:
        description: >-
          Shell command on the staged copy C("$1"). A failure refuses the change before anything live is touched.
          C(staged PATH) prints the staged copy of another file of this change.
        type: str
  check:
    description: Shell commands on all staged files, like O(files[].check).
    type: list
    elements: str
    default: []
  activate:
    description: >-
      Shell commands that make the files live. All commands of this module run under C(sh -eu), so a variable that is not set ends one. They must load the very files that boot loads. C($SALLYPORT_FIRST) is 1
      for the first generation of this name.
    type: list
    elements: str
    default: []
  verify:
    description: Shell commands that must succeed afterwards.
    type: list
    elements: str
    default: []
  revert:
    description: >-
      Shell commands that bring the live state in line with the files after these were restored; they may be absent
      then. O(activate) if left out.
    type: list
    elements: str
    default: []
  settle:
    description: Shell commands after the confirmation.
    type: list
    elements: str
    default: []
  live:
    description: >-
      Shell commands whose output is the live state. Another output than the one after activation is drift, and is
      repaired.
    type: list
    elements: str
    default: []
  confirm:
    description: How the change is confirmed.
    type: dict
    default: {}
    suboptions:
      seconds:
        description: How long the device waits, for the activation and then for the confirmation.
        type: int
        default: 60
      new_daemon:
        description:
          - Require that the SSH daemon that answers was started after the change.
          - Left out, it is true where the change is of files that an SSH daemon reads at its start (C(sshd_config), host keys,
            dropbear's folder, their units and defaults). One that never read them would confirm what locks out at the next boot.
        type: bool
      host_keys:
        description: Public host keys that alone may answer the new connection.
        type: list
        elements: str
        default: []
  keep:
    description: How many generations to keep for going back. The way back to factory is always kept.
    type: int
    default: 10
  state_dir:
    description: Where the device keeps generations and the pending change. It must survive a power cut.
    type: path
    default: /var/lib/sallyport
  note:
    description: A remark for the list of generations.
    type: str
author: The Sallyport authors (@sallyport)
attributes:
  check_mode:
    description: Stages nothing, and says what would change.
    support: full
  diff_mode:
    description: Shows the content of files that are not secret.
    support: full
extends_documentation_fragment: []
"""

EXAMPLES = r"""
- name: Set the message of the day, and take it back if the device cannot be reached afterwards
  sallyport.iot.commit:
    name: motd
    files:
      - dest: /etc/motd
        content: "Property of ACME. Every login is logged.\n"
    verify:
      - test -s /etc/motd
"""

RETURN = r"""
state:
  description:
    - C(unchanged), C(would_change), C(confirmed), C(refused) or C(reverted).
    - C(lost) where the change began and the device has no record of it, since somebody emptied O(state_dir) or the medium is full;
      the next run finds out what is there.
  type: str
  returned: always
generation:
  description: The number under which the change is kept.
  type: int
  returned: when confirmed
exchanges:
  description: How many programs were sent to the device.
  type: int
  returned: always
files:
  description: What changed.
  type: list
  elements: dict
  returned: always
  sample: [{dest: /etc/motd, change: updated}]
live:
  description: C(same), C(differs) or C(unknown), compared with the state after the last confirmed change.
  type: str
  returned: always
confirmed:
  description: C(ssh) over a new connection, C(local) where there is none.
  type: str
  returned: when confirmed
loopback:
  description: >-
    What worked over the device's own loopback before the change, and after it: C(login), C(handshake), C(banner) or
    C(none). The variable C(sallyport_loopback) demands one of them.
  type: str
  returned: with the connection C(local), when something was to be changed
public:
  description: Public parts of generated files, by destination.
  type: dict
  returned: when a file was generated
tried:
  description: What went wrong while coming back.
  type: list
  elements: str
  returned: when reverted
"""
