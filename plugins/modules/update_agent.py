# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Documentation of the action plugin of the same name, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: update_agent
short_description: Let a device keep itself patched
version_added: 0.1.0
description:
- Sets up the update agent of a device through M(sallyport.iot.commit), so that it looks for updates, verifies and installs
  them by its own timer.
- A device that has all of it costs one exchange.
options:
  agent:
    description:
    - Which agent. C(auto) takes the one that suits the device; those of the cloud vendors, and C(pull), by which a device applies
      Sallyport to itself from a signed git revision, have to be named.
    type: str
    choices: [auto, unattended-upgrades, aws-greengrass, azure-iot-edge, mender, pull, swupdate]
    default: auto
  mode:
    description:
    - C(automatic) installs updates; C(notify) only looks and tells; C(postponed) does so until a day has come;
      C(manual) is the way out, with a reason.
    type: str
    choices: [automatic, notify, postponed, manual]
    default: automatic
  until:
    description:
    - For mode C(postponed), the day (UTC) on which updates begin again, as 2030-01-31.
    type: str
    default: ""
  reason:
    description:
    - For mode C(manual), why this device is taken out; its evidence shows it.
    type: str
    default: ""
  window:
    description:
    - When updates may be installed, in the device's local time; C(any) for the whole day.
    type: str
    default: "02:00-05:00"
  jitter:
    description:
    - Seconds over which devices spread at random, so that a fleet does not ask at the same moment.
    type: int
    default: 1800
  every:
    description:
    - Seconds between two looks for updates; the first comes within five minutes after a start.
    type: int
    default: 21600
  bandwidth_kb:
    description:
    - The most that downloads may take, in kilobytes a second; 0 for no limit.
    type: int
    default: 0
  repository:
    description:
    - >-
      Your own mirror: C(uri), C(key) (the armoured public key that alone may sign it), C(suites) (not with a ring),
      C(components), C(exclusive) (every other source is switched off).
    type: dict
    default: {}
  ring:
    description:
    - The suite of your repository that this device follows, as ring0; with public mirrors it is an error.
    type: str
    default: ""
  delay_days:
    description:
    - Days that a new version waits after this device first heard of it.
    type: int
    default: 0
  origins:
    description:
    - Patterns of origins that may update this device, in unattended-upgrades' words, instead of the usual ones of its
      system.
    type: list
    elements: str
    default: []
  pins:
    description:
    - Packages that stay at a version.
    type: list
    elements: dict
    default: []
    suboptions:
      package:
        description: Its name.
        type: str
        required: true
      version:
        description: The version, which may end in an asterisk.
        type: str
        required: true
  blocked:
    description:
    - Packages that are never updated.
    type: list
    elements: str
    default: []
  rollback:
    description:
    - Packages that go back to the version before when the device is not healthy after an update; others are held.
    type: list
    elements: str
    default: []
  health:
    description:
    - Commands of POSIX sh that must succeed after an update. That no running service stops and none fails is asked
      anyway.
    type: list
    elements: str
    default: []
  health_seconds:
    description:
    - Seconds that the device has to become healthy after an update.
    type: int
    default: 60
  reboot:
    description:
    - >-
      When an update needs a reboot: C(never), in the C(window), or C(staggered), each device at its own minute of the
      window.
    type: str
    choices: [never, window, staggered]
    default: never
  reboot_window:
    description:
    - When reboots may happen; empty for the window of the updates.
    type: str
    default: ""
  proxy:
    description:
    - The HTTP proxy for updates, as http://proxy.example:3128.
    type: str
    default: ""
  reserve_mb:
    description:
    - Megabytes that stay free; where an update needs more, nothing is begun.
    type: int
    default: 64
  install:
    description:
    - Whether an agent that is missing is installed from the device's sources.
    type: bool
    default: true
  greengrass:
    description:
    - "For agent aws-greengrass: identity, certificates and configuration of the nucleus (docs/updates.md)."
    type: dict
    default: {}
    suboptions:
      region:
        description: The AWS region, as eu-central-1.
        type: str
      thing_name:
        description: The name of the thing that this device is.
        type: str
      role_alias:
        description: The role alias of the token exchange role.
        type: str
      data_endpoint:
        description: The account's data endpoint.
        type: str
      credentials_endpoint:
        description: The account's credentials endpoint.
        type: str
      certificate:
        description: The device's certificate, as PEM text or as a path on the device.
        type: str
      private_key:
        description: Its private key, the same way; text is delivered readable by root alone.
        type: str
      root_ca:
        description: Amazon's root certificates, the same way.
        type: str
      root:
        description: The folder of the nucleus.
        type: str
      user:
        description: Whom components run as.
        type: str
      group:
        description: Their group.
        type: str
      packages:
        description: What else it needs, beside greengrass-nucleus.
        type: list
        elements: str
      configuration:
        description: More of the nucleus' configuration, as mqtt or networkProxy.
        type: dict
      sandbox:
        description: More lines for the unit's [Service] section, as ReadWritePaths=/data.
        type: list
        elements: str
  iot_edge:
    description:
    - "For agent azure-iot-edge: identity, certificates and configuration of the runtime (docs/updates.md)."
    type: dict
    default: {}
    suboptions:
      hostname:
        description: The device's name, as its modules and downstream devices call it.
        type: str
      id_scope:
        description: The scope of the device provisioning service.
        type: str
      registration_id:
        description: The device's registration there.
        type: str
      global_endpoint:
        description: The provisioning service's host, where it is another one.
        type: str
      iothub_hostname:
        description: Instead of the provisioning service, one hub.
        type: str
      device_id:
        description: The device's name in that hub.
        type: str
      certificate:
        description: The device's identity certificate, as PEM text or as a path on the device.
        type: str
      private_key:
        description: Its private key, the same way; text is delivered readable by the key service alone.
        type: str
      edge_ca_certificate:
        description: The certificate by which it issues those of its modules, the same way; none for the built-in one.
        type: str
      edge_ca_key:
        description: Its private key.
        type: str
      trust_bundle:
        description: Certificates that modules trust, the same way.
        type: str
      configuration:
        description: More TOML for the end of the configuration, for example for a proxy or the container engine.
        type: str
      packages:
        description: The packages to install, first to last.
        type: list
        elements: str
      sandbox:
        description: More lines for each service's [Service] section.
        type: list
        elements: str
  mender:
    description:
    - "For agent mender: its server or where an artefact lies, who signs, the hardware (docs/updates.md)."
    type: dict
    default: {}
    suboptions:
      url:
        description: The Mender server, as https://mender.example.com; or artifact.
        type: str
      tenant_token:
        description: The tenant's token there, where it has several tenants.
        type: str
      identity:
        description: >-
          Who this device is to the server, as {serial: A1}; what the image's mender-device-identity says
          where nothing is said.
        type: dict
      artifact:
        description: >-
          Instead of a server, where the artefact lies that counts: https://files.example.com/panel.mender,
          or a path on the device.
        type: str
      ca:
        description: >-
          The certificate of the authority of the server's and of the downloads', as PEM text or as a path
          on the device; the system's where nothing is said.
        type: str
      signers:
        description: >-
          The public keys that may sign artefacts, one after the other in PEM, or the path of one on the
          device. Nothing else is ever installed.
        type: str
      device_type:
        description: >-
          The hardware, as artefacts name it; what the image's /var/lib/mender/device_type says where
          nothing is said.
        type: str
      name:
        description: What artefacts of this device are called before their version, as panel-os for panel-os-2.1.
        type: str
      version:
        description: >-
          Where restart is false, the version that the device has before the first artefact; what
          /etc/mender/artifact_info says where nothing is said.
        type: str
      restart:
        description: >-
          Whether an artefact counts once the device has started with it, as an image in a slot does; true
          where nothing is said.
        type: bool
      slots:
        description: >-
          The two slots by name, each with its device or folder, so that the new one gets what this role has
          set up.
        type: dict
      running:
        description: >-
          A command that prints the name of the slot that runs; where nothing is said, the one that is
          mounted at /.
        type: str
      carry:
        description: More files and folders that the other slot gets from the running one before it is tried.
        type: list
        elements: str
      carry_own:
        description: >-
          Whether it gets what Sallyport has set up on the device, by any role, and its SSH host keys;
          without this role's own nobody there would confirm it. True where nothing is said.
        type: bool
      downloads:
        description: >-
          Where an artefact is fetched to before it is installed, a folder of root's;
          /var/lib/sallyport-updates where nothing is said.
        type: str
      packages:
        description: The packages to install where they are missing.
        type: list
        elements: str
  pull:
    description:
    - "For agent pull: the repository, and whose signature counts (docs/updates.md)."
    type: dict
    default: {}
    suboptions:
      url:
        description: Where the repository is, as https://git.example.com/site.git or ssh://git@git.example.com/site.git.
        type: str
      branch:
        description: The branch whose last commit counts when it is signed; main where neither branch nor tag is given.
        type: str
      tag:
        description: Instead of a branch, a signed tag that moves.
        type: str
      signers:
        description: "Who alone may sign what is applied: lines of OpenSSH's allowed signers."
        type: str
      revoked:
        description: Public keys that may no longer sign, one a line.
        type: str
      since:
        description: A commit id below which nothing is believed; another one begins anew from there, as after a rewritten history.
        type: str
      playbook:
        description: The playbook, as a path in the repository or by its full name; sallyport.iot.harden by default.
        type: str
      inventory:
        description: The inventory in the repository; inventory by default.
        type: str
      host:
        description: This device's name in that inventory; by default its name here.
        type: str
      ssh_key:
        description: The private key with which the device reads the repository.
        type: str
      known_hosts:
        description: The server's host key, as ssh-keyscan prints it; expected for ssh.
        type: str
      ca:
        description: Certificates in PEM that alone may vouch for an https server.
        type: str
      ansible:
        description: Where ansible-playbook is on the device, when it is not Debian's own.
        type: str
  swupdate:
    description:
    - "For agent swupdate: its hawkBit server, who signs, the hardware and the slots (docs/updates.md)."
    type: dict
    default: {}
    suboptions:
      url:
        description: The hawkBit server, as https://hawkbit.example.com.
        type: str
      tenant:
        description: Its tenant; DEFAULT where nothing is said.
        type: str
      target_id:
        description: This device's name there (its controller id).
        type: str
      token:
        description: This device's target token there.
        type: str
      ca:
        description: >-
          The certificate of the authority of the server's, as PEM text or as a path on the device; the system's where
          nothing is said.
        type: str
      signers:
        description: >-
          The certificates that may sign images, or their authority's, the same way. Nothing else is ever installed.
        type: str
      signer_name:
        description: The common name that the signer's certificate must have too.
        type: str
      hardware:
        description: The board, as images name it; written to /etc/hwrevision with its revision.
        type: str
      revision:
        description: The board's revision.
        type: str
      name:
        description: The name of the device's software in /etc/sw-versions.
        type: str
      selection:
        description: The software set of the images' description; stable where nothing is said.
        type: str
      slots:
        description: >-
          The two slots by name, each with its device or folder; the images' description has a mode of each name.
        type: dict
      slot_variable:
        description: >-
          The variable of the bootloader's environment that says which slot it starts; slot where nothing is said.
        type: str
      running:
        description: >-
          A command that prints the name of the slot that runs; where nothing is said, the one that is mounted at /.
        type: str
      streamed:
        description: Whether images are streamed into their slot (installed-directly), and need no room to be unpacked.
        type: bool
      temporary:
        description: Where others are unpacked; /var/tmp where nothing is said.
        type: str
      carry:
        description: More files and folders that the other slot gets from the running one before it is tried.
        type: list
        elements: str
      carry_own:
        description: >-
          Whether it gets what Sallyport has set up on the device, by any role, and its SSH host keys;
          without this role's own nobody there would confirm it. True where nothing is said.
        type: bool
      packages:
        description: The packages to install where they are missing.
        type: list
        elements: str
extends_documentation_fragment: [sallyport.iot.committed]
attributes:
  check_mode:
    support: full
    description: Says exactly what would change; changes nothing on the device.
  diff_mode:
    support: full
    description: Shows every file, but those that hold a password or a private key.
  platform:
    platforms: posix
    support: full
    description: Debian and its kin with systemd.
seealso:
- module: sallyport.iot.commit
- module: sallyport.iot.update_status
author:
- The Sallyport authors (@sallyport)
"""

EXAMPLES = r"""
- name: Follow the first ring of the site's own repository
  sallyport.iot.update_agent:
    repository:
      uri: http://packages.example.com/debian
      key: "{{ lookup('ansible.builtin.file', 'packages.asc') }}"
    ring: ring0
    window: "01:00-04:00"
    rollback: [panel]
    health: ["wget -q -O /dev/null http://127.0.0.1/"]

- name: Let a device behind NAT apply Sallyport to itself
  sallyport.iot.update_agent:
    agent: pull
    pull:
      url: https://git.example.com/site.git
      signers: "{{ lookup('ansible.builtin.file', 'allowed_signers') }}"
    window: any

- name: Take a device out
  sallyport.iot.update_agent:
    mode: manual
    reason: certified as it is until the plant's next stop
"""

RETURN = r"""
agent:
  description: The agent, or C(none).
  returned: when not refused
  type: str
  sample: unattended-upgrades
mode:
  description: The mode.
  returned: when not refused
  type: str
  sample: automatic
notes:
  description: What was found in the device's sources, and what is done about it.
  returned: when not refused
  type: list
  elements: str
  sample: ["/etc/apt/sources.list:1: trusted=yes lets unsigned packages in"]
state:
  description: C(unchanged), C(would_change), C(confirmed), C(reverted) or C(refused).
  returned: always
  type: str
  sample: confirmed
files:
  description: What changed, file by file.
  returned: when something was to do
  type: list
  elements: dict
  sample: [{dest: /etc/systemd/system/sallyport-update.timer, change: created}]
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
  sample: "nothing to do: files and timers are as wanted"
"""
