# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
# The action plugin of the same name does the work; this file is its documentation.
from __future__ import annotations

DOCUMENTATION = r"""
module: audit_report
short_description: Put the evidence of all devices together, write it down and show it
version_added: 0.1.0
description:
  - Works on the controller alone, once, from what each host of the play registered as C(audit_judged).
  - Writes C(audit.json), and C(audit.html) and C(audit.xml) (JUnit) made from it. Prints a table and one line of verdict.
  - Does not fail because of what was found; C(playbooks/audit.yml) does, from RV(verdicts).
options:
  directory:
    description: Where the report goes. Made when it is not there.
    type: path
    required: true
  enforce:
    description: Whether differences are listed below the table. Without it the table shows the exposure only.
    type: bool
    default: true
author: The Sallyport authors (@sallyport)
attributes:
  check_mode:
    description: Writes the report in check mode too; it changes no device.
    support: full
"""

EXAMPLES = r"""
- name: Write the report
  sallyport.iot.audit_report:
    directory: sallyport-report
  register: audit_report
  run_once: true
"""

RETURN = r"""
verdict:
  description: C(pass), C(differences) or C(not assessed); the worst of any device.
  type: str
  returned: always
verdicts:
  description: One line for each host that did not pass.
  type: dict
  returned: always
files:
  description: The paths by kind (C(json), C(html), C(xml)).
  type: dict
  returned: always
"""
