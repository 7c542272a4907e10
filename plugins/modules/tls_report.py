# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Documentation of the action plugin of the same name, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tls_report
short_description: Judge the certificate that a device has
version_added: 0.1.0
description:
- Asks the device for its certificate, for the CAs and the list of revoked clients that its services go by, and for how the
  last deployment ended, and judges all of it on the controller.
- A part of C(playbooks/audit.yml). No CA is asked, and a private key is looked at on the device only.
options:
  mode:
    description:
    - How the site gets certificates, as M(sallyport.iot.tls) has it. With C(none) a device that this role has given a
      certificate is judged all the same; one that it has not is skipped.
    type: str
    choices: [none, own, device, controller]
    default: none
  names:
    description:
    - The names that the certificate is to be for.
    type: list
    elements: str
    default: []
  warn_days:
    description:
    - Fewer days left are a warning.
    type: int
    default: 21
  fail_days:
    description:
    - Fewer days left are a failure.
    type: int
    default: 7
attributes:
  check_mode:
    support: full
    description: It changes nothing.
  diff_mode:
    support: none
    description: Nothing changes.
  platform:
    platforms: posix
    support: full
    description: Linux; no Python needed there.
seealso:
- module: sallyport.iot.tls
author:
- The Sallyport authors (@sallyport)
"""

EXAMPLES = r"""
- name: Ask whether the certificate is still good
  sallyport.iot.tls_report:
    mode: own
    names: [gw1.plant.example]
"""

RETURN = r"""
certificate:
  description: The certificate, as M(sallyport.iot.tls) reports it.
  returned: when the device has one
  type: dict
  sample: {names: [gw1.plant.example], days_left: 64}
verdict:
  description: C(state) is C(ok), C(warning) or C(failing); C(message) says why.
  returned: when it was judged
  type: dict
  sample: {state: ok, message: "valid until 2027-01-30 00:00 UTC"}
msg:
  description: The same message.
  returned: always
  type: str
  sample: valid until 2027-01-30 00:00 UTC
"""
