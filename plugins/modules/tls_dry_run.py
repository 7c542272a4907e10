# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Documentation of the action plugin of the same name, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tls_dry_run
short_description: Ask whether a device's next renewal would work
version_added: 0.1.0
description:
- Has certbot on the device go through a renewal without keeping its result, at the directory that the site uses
  (certbot alone would ask another CA's).
- Nothing is changed but a temporary challenge.
options:
  names:
    description:
    - The names of the certificate, as M(sallyport.iot.tls) has them.
    type: list
    elements: str
    required: true
  acme_directory:
    description:
    - The CA's ACME directory.
    type: str
    required: true
  acme_root:
    description:
    - The root of the ACME server's own certificate, as PEM. Only whether it is set counts; the device has it.
    type: str
    default: ""
  challenge:
    description:
    - How the CA is shown that the names are this device's, as M(sallyport.iot.tls) has it.
    type: str
    choices: [webroot, standalone, nginx, dns]
    default: webroot
  dns_plugin:
    description:
    - For C(dns), the certbot plugin that edits the TXT record.
    type: str
    default: ""
  dns_hook:
    description:
    - For C(dns), in place of a plugin, the text of the program. Only whether it is set counts; the device has it.
    type: str
    default: ""
  dns_propagation:
    description:
    - Seconds that the plugin waits for the record to spread.
    type: int
    default: 0
attributes:
  check_mode:
    support: full
    description: Asks no CA.
  diff_mode:
    support: none
    description: Nothing changes.
  platform:
    platforms: posix
    support: full
    description: Linux with systemd or BusyBox init; no Python needed there.
seealso:
- module: sallyport.iot.tls
author:
- The Sallyport authors (@sallyport)
"""

EXAMPLES = r"""
- name: Ask whether the next renewal would work
  sallyport.iot.tls_dry_run:
    names: [gw1.plant.example]
    acme_directory: https://ca.plant.example/acme/directory
"""

RETURN = r"""
msg:
  description: What certbot said.
  returned: always
  type: str
  sample: the next renewal would work
"""
