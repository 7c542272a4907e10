# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Documentation of the action plugin of the same name, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ssh
short_description: Let only keys in over SSH, with the best cryptography that device and controller share
version_added: 0.1.0
description:
- Hardens the SSH daemon that this device has, OpenSSH or dropbear, through M(sallyport.iot.commit).
- Settings and algorithms are computed from what that daemon accepts; lists that this controller cannot
  speak are refused.
- Host keys that other devices of the play show too are made anew on the device. Their private halves
  never leave it.
options:
  authorized_keys:
    description:
    - Public keys, one line each, with which the login user of this inventory gets in.
    - For OpenSSH they are kept in C(/etc/ssh/authorized_keys.d), which only root writes; keys in home
      directories go on counting. For dropbear they are added to the user's C(authorized_keys).
    type: list
    elements: str
    default: []
  authorized_keys_exclusive:
    description:
    - Whether keys that are not in O(authorized_keys) stop counting.
    type: bool
    default: false
  password_authentication:
    description:
    - Whether passwords still get in over SSH.
    type: bool
    default: false
  permit_root_login:
    description:
    - What sshd's PermitRootLogin becomes. C(auto) is C(prohibit-password) where Ansible logs in as root,
      else C(no). Shutting out the login of this inventory is refused.
    type: str
    choices:
    - auto
    - 'no'
    - prohibit-password
    - 'yes'
    default: auto
  allow_users:
    description:
    - If not empty, only these users may log in. It must hold the login user. OpenSSH only.
    type: list
    elements: str
    default: []
  max_auth_tries:
    description:
    - Failed attempts in one connection.
    type: int
    default: 4
  login_grace_time:
    description:
    - Seconds in which a login must be done. OpenSSH only.
    type: int
    default: 30
  forwarding:
    description:
    - Whether ports, sockets and agents may be forwarded through the device.
    type: bool
    default: false
  exempt_sources:
    description:
    - CIDRs from which failed logins are never held against the source (PerSourcePenalties of OpenSSH
      9.8 and later). The controller's own address is always one of them.
    type: list
    elements: str
    default: []
  clients:
    description:
    - The oldest client that must still get in. Algorithms kept for it alone are named in the result.
    type: str
    default: openssh-8.4
  profile:
    description:
    - C(ssh-audit) offers exactly what ssh-audit's policies for Debian expect.
    type: str
    choices:
    - default
    - ssh-audit
    default: default
  renew_shared_host_keys:
    description:
    - Whether host keys that several devices show are made anew.
    type: bool
    default: true
  known_hosts:
    description:
    - Whether new host keys are written to this controller's known_hosts file (the one that its ssh uses
      for the device), before they are live, and old ones are taken out after the confirmation.
    type: bool
    default: true
  options:
    description:
    - More sshd options, by name; they win over the role's own. OpenSSH only.
    type: dict
    default: {}
  users:
    description:
    - >-
      People who may log in, each a mapping. With this or O(groups), nobody else may, but the login user of this
      inventory always.
    - >-
      C(name) is an account of the device; C(keys) are public keys without options; C(from) are zones of the
      CIDR policy and CIDRs, by default what the policy admits to the SSH port; C(principals) are names in
      certificates that stand for the account.
    - >-
      C(command) is run instead of what the user asks for; C(forwarding) is V(true) or V(false) for this user
      alone; C(second_factor) is V(none), V(totp) or V(fido2), by default O(second_factor); C(totp_secret) is
      a secret in base32 that the site has given this person already, the same on every device (keep it in a
      vault); without it each device gets one of its own. OpenSSH only.
    type: list
    elements: raw
    default: []
  groups:
    description:
    - >-
      Groups of the device whose members may log in, each a mapping with C(name) and C(from) as in O(users).
      OpenSSH only.
    type: list
    elements: raw
    default: []
  second_factor:
    description:
    - >-
      What people of O(users) need beside their key. V(totp) is a one-time code (libpam-google-authenticator),
      V(fido2) a key in a token that verifies its user by PIN or finger. The login user of this inventory is
      exempted, bound to its keys and sources.
    type: str
    choices:
    - none
    - totp
    - fido2
    default: none
  enrolment_directory:
    description:
    - >-
      Directory on the controller for new second factors, one file for each device and user, written once, with
      a QR code and the same as text. Needed for V(totp) without C(totp_secret).
    type: str
    default: ""
  enrol_again:
    description:
    - >-
      Names of users who get a new one-time secret in this run; the old one stops counting.
    type: list
    elements: str
    default: []
  trusted_user_ca:
    description:
    - >-
      Public keys of CAs whose certificates let people in, by the C(principals) of O(users). OpenSSH only.
    type: list
    elements: str
    default: []
  revoked_keys:
    description:
    - >-
      Keys and certificates that no longer get in, whatever else lets them. Each is a public key, or a mapping
      with C(serial) (1 or 1-9), C(id) or C(fingerprint) (SHA256:...). OpenSSH only.
    type: list
    elements: raw
    default: []
  host_certificates:
    description:
    - >-
      Host certificates, one line each, for host keys of this device. OpenSSH only.
    type: list
    elements: str
    default: []
  idle_timeout:
    description:
    - >-
      Seconds after which a shell that waits at its prompt ends (C(TMOUT)), for anybody but the login
      user of this inventory; 0 for never. OpenSSH 9.2 and later.
    type: int
    default: 0
  max_startups_per_source:
    description:
    - >-
      How many connections that have not logged in yet one source may hold. OpenSSH 8.5 and later.
    type: int
    default: 10
extends_documentation_fragment: [sallyport.iot.committed]
attributes:
  check_mode:
    support: full
    description: Says exactly what would change; changes nothing on the device.
  diff_mode:
    support: full
    description: Shows every file but private keys.
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
- name: Let only keys in
  sallyport.iot.ssh:
    authorized_keys:
      - "{{ lookup('ansible.builtin.file', '~/.ssh/id_ed25519.pub') }}"
"""

RETURN = r"""
notes:
  description: What an operator should know, such as Match blocks that say otherwise, and algorithms kept for old clients.
  returned: always
  type: list
  elements: str
  sample: ["kept for openssh-8.4: curve25519-sha256"]
host_keys:
  description: Host keys that were made.
  returned: when host keys were made
  type: list
  elements: dict
  contains:
    type:
      description: The key's type.
      type: str
      sample: ssh-ed25519
    fingerprint:
      description: As ssh-keygen prints it.
      type: str
      sample: SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU
    public:
      description: The public key.
      type: str
      sample: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJTxY7WWw3MsgWv+4L0jukRWO3TumLgCvMX4HmTPoyAF
enrolled:
  description: Who got a new second factor, and the file on the controller that holds it.
  returned: when somebody did
  type: list
  elements: dict
  sample: [{user: alice, file: /srv/enrolment/gateway7/alice.txt}]
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
