# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Documentation of the action plugin of the same name, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: legacy_services
short_description: Take telnet and its kin away for good
version_added: 0.1.0
description:
- Finds legacy services by what listens on any port and by what would start at boot, stops them and keeps
  them away, through M(sallyport.iot.commit).
- A service that listens and cannot be stopped for good fails the host, with the reason.
options:
  allow:
    description:
    - Services that stay on purpose.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The family, as the result names it.
        type: str
        required: true
      reason:
        description: Why it stays; shown in every result.
        type: str
        required: true
  snmp_communities:
    description:
    - More communities that an SNMP agent is asked with, besides everyday words and those of its own configuration.
      One that answers none of them but version 3 stays.
    type: list
    elements: str
    default: []
extends_documentation_fragment: [sallyport.iot.committed]
attributes:
  check_mode:
    support: full
    description: Says exactly what would change; changes nothing on the device.
  diff_mode:
    support: full
    description: Shows every file.
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
- name: Take telnet and its kin away
  sallyport.iot.legacy_services:
    allow:
      - name: tr069
        reason: the provider's only way to manage these gateways
"""

RETURN = r"""
services:
  description: What was found.
  returned: always
  type: list
  elements: dict
  contains:
    service:
      description: The family.
      type: str
      sample: telnet
    why:
      description: What is wrong with it.
      type: str
      sample: passwords and sessions travel in clear text
    listens:
      description: Where it listens.
      type: list
      elements: str
      sample: [23/tcp]
    processes:
      description: Who listens.
      type: list
      elements: str
      sample: [inetd]
    started_by:
      description: Units, and lines of files, that start it.
      type: list
      elements: str
      sample: ["/etc/inetd.conf:1"]
    answers:
      description: Versions of SNMP that the agent was seen to answer.
      type: list
      elements: str
      sample: ["1", "2c", "3"]
    kept_because:
      description: The reason from the allow list, if it stays.
      type: str
      sample: ""
    not_handled:
      description: Why it could not be taken away.
      type: list
      elements: str
      sample: []
outside_policy:
  description: What listens although the policy admits nobody to it, and is none of these services.
  returned: where the site has a policy
  type: list
  elements: dict
  contains:
    listens:
      description: Where.
      type: str
      sample: 9100/tcp
    process:
      description: Who.
      type: str
      sample: node_exporter
    package:
      description: The package that its program came with.
      type: str
      sample: prometheus-node-exporter
    unit:
      description: The systemd unit.
      type: str
      sample: prometheus-node-exporter.service
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
