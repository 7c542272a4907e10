# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Documentation of the action plugin of the same name, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: credentials
short_description: Leave no password that the world knows
version_added: 0.1.0
description:
- Reads the password hashes in one exchange, judges them in the controller's memory, and locks or replaces
  those that are default, empty or shared, through M(sallyport.iot.commit).
- Sees to it that root alone has UID 0, that only root reads hashes, that service accounts have no shell, and that
  the console and su do not take guesses without end.
- Neither hashes nor passwords are in results, facts, diffs or logs, at any verbosity.
options:
  action:
    description:
    - What happens to an account with a known password. C(lock) leaves only its keys, C(replace) gives it
      a generated password that is kept for you, C(expire) lets it in once more, to choose another
      password, C(report) changes nothing. C(expire) locks instead where a forced change would break the
      login, for the automation's account, accounts with keys, devices without PAM. An empty password is
      locked in any case.
    type: str
    choices:
    - lock
    - replace
    - expire
    - report
    default: lock
  lists:
    description:
    - More lists of default credentials on the controller, CSV files with the header C(user,password).
    type: list
    elements: str
    default: []
  vault_directory:
    description:
    - Where new passwords are kept, one ansible-vault file for each device. C(replace) needs this, with a
      vault password in the run, or C(command).
    type: str
    default: ''
  command:
    description:
    - A command on the controller that takes new passwords instead, as a list of words. It gets one JSON
      object on standard input, with event, host and passwords, with the events C(prepare), then
      C(commit) or C(discard).
    type: list
    elements: str
    default: []
  record_directory:
    description:
    - Where this controller remembers which hashes it has judged, without the hashes; empty for C(~/.cache/sallyport/credentials).
    type: str
    default: ''
  keep_shells:
    description:
    - Service accounts that keep their shell.
    type: list
    elements: str
    default: []
  lockout_attempts:
    description:
    - Wrong passwords on the console or for su within C(lockout_seconds) that lock an account for as long,
      on devices with PAM; 0 for no limit. sshd and sudo do not count, so nobody can lock the automation
      out.
    type: int
    default: 5
  lockout_seconds:
    description:
    - How long such an account is locked. Root is locked for a minute at most, and not at all where su
      asks for its password.
    type: int
    default: 600
  only_if_shared:
    description:
    - Do nothing, and ask the device nothing, unless another device of this play has shown since that it has the same
      hash or salt. For a second task, after all have been judged once.
    type: bool
    default: false
extends_documentation_fragment: [sallyport.iot.committed]
attributes:
  check_mode:
    support: full
    description: Says exactly what would change; changes nothing on the device.
  diff_mode:
    support: full
    description: Shows accounts and what happens to them, never a hash.
  platform:
    platforms: posix
    support: full
    description: Linux with systemd or BusyBox init; no Python needed there.
seealso:
- module: sallyport.iot.commit
- module: sallyport.iot.probe
author:
- The Sallyport authors (@sallyport)
"""

EXAMPLES = r"""
- name: Leave no password that the world knows
  sallyport.iot.credentials:
    action: replace
    vault_directory: "{{ inventory_dir }}/passwords"
"""

RETURN = r"""
accounts:
  description: Every account whose password is not locked, and those that were dealt with.
  returned: success
  type: list
  elements: dict
  contains:
    account:
      description: Its name.
      type: str
      sample: admin
    uid:
      description: Its number.
      type: int
      sample: 1000
    verdict:
      description: C(default), C(shared), C(empty), C(unique), C(locked) or C(not assessed).
      type: str
      sample: default
    scheme:
      description: The hash scheme.
      type: str
      sample: yescrypt
    why:
      description: In words; never the password.
      type: str
      sample: the password is a published default or guessable
    action:
      description: C(locked), C(replaced), C(must change at the next login) or nothing.
      type: str
      sample: locked
remarks:
  description: What else is not as it must be, of account files, UIDs and shells.
  returned: success
  type: list
  elements: dict
  contains:
    what:
      description: An account or a file.
      type: str
      sample: toor
    why:
      description: What is wrong.
      type: str
      sample: has UID 0 beside root
    action:
      description: What is done about it; nothing where a person has to decide.
      type: str
      sample: removed
lockout:
  description: Whether the console and su lock an account after wrong passwords; why not, and what helps instead.
  returned: success
  type: dict
  sample: {state: set, why: "", remedy: ""}
kept_in:
  description: The encrypted file with the new passwords, or the command that took them.
  returned: when passwords were replaced
  type: str
  sample: passwords/gw1.yml
state:
  description: C(unchanged), C(would_change), C(confirmed), C(reverted), C(refused) or C(lost), see M(sallyport.iot.commit).
  returned: always
  type: str
  sample: confirmed
files:
  description: What changed, file by file.
  returned: when something was to do
  type: list
  elements: dict
  sample: [{dest: /etc/ssh/sshd_config.d/00-sallyport.conf, change: created}]
generation:
  description: The generation that C(playbooks/rollback.yml) can go back from.
  returned: when confirmed
  type: int
  sample: 3
exchanges:
  description: Round trips that this task cost.
  returned: when the device was asked
  type: int
  sample: 1
msg:
  description: What was done, or why not and what to do.
  returned: always
  type: str
  sample: "nothing to do: files and live state are as wanted"
"""
