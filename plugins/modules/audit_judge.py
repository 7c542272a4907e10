# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
# The action plugin of the same name does the work; this file is its documentation.
from __future__ import annotations

DOCUMENTATION = r"""
module: audit_judge
short_description: Compare what the vantages saw of a device with its policy
version_added: 0.1.0
description:
  - Works on the controller alone. A part of C(playbooks/audit.yml), where all of its options are results of earlier
    tasks or variables that C(docs/audit.md) describes.
options:
  plan:
    description: The result of M(sallyport.iot.audit_plan).
    type: dict
    required: true
  probe:
    description: The result of M(sallyport.iot.probe), a failed one too.
    type: dict
    required: true
  scans:
    description: The results of M(sallyport.iot.scan), one for each vantage.
    type: list
    elements: dict
    required: true
  logins:
    description: The results of M(sallyport.iot.try_logins), one for each vantage.
    type: list
    elements: dict
    required: true
  try_logins:
    description: Whether default logins were to be tried at all.
    type: bool
    required: true
  firewall:
    description: The result of M(sallyport.iot.firewall) in check mode.
    type: dict
    default: {}
  passwords:
    description: The result of M(sallyport.iot.credentials) in check mode.
    type: dict
    default: {}
  tls:
    description: The result of M(sallyport.iot.tls_report).
    type: dict
    default: {}
  updates:
    description: The result of M(sallyport.iot.update_status).
    type: dict
    default: {}
  update_days:
    description: How many days an update may be pending, and the last look ago.
    type: int
    default: 14
  listeners:
    description: Programs that the site declares, as C({process, unit, tcp, udp}).
    type: list
    elements: dict
    default: []
  waivers:
    description: Findings that the site accepts for now, as C({control, reason, until, kind, protocol, ports, from}).
    type: list
    elements: dict
    default: []
author: The Sallyport authors (@sallyport)
attributes:
  check_mode:
    description: It changes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Compare with the policy
  sallyport.iot.audit_judge:
    plan: "{{ audit_plan }}"
    probe: "{{ audit_probe }}"
    scans: "{{ audit_scans.results }}"
    logins: "{{ audit_logins_tried.results }}"
    try_logins: true
  register: audit_judged
"""

RETURN = r"""
device:
  description: What was seen, for the evidence.
  type: dict
  returned: always
tls_key:
  description: SHA-256 of the public key of the device's certificate.
  returned: always
  type: str
  sample: ""
findings:
  description: What differs, what could not be assessed, and notes; waivers are marked.
  type: list
  elements: dict
  returned: always
host_keys:
  description: The device's public host keys, for the comparison over the fleet.
  type: list
  elements: dict
  returned: always
"""
