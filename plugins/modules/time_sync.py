# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Documentation of the action plugin of the same name, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: time_sync
short_description: Keep a device's clock right
version_added: 0.1.0
description:
- Configures the time client that the device has (chrony, systemd-timesyncd, BusyBox ntpd) through
  M(sallyport.iot.commit), and reports whether its clock is synchronised.
- Without O(servers) and O(floor) the device is not even asked.
options:
  servers:
    description:
    - Names or addresses of time servers. The client's other servers are switched off.
    type: list
    elements: str
    default: []
  nts:
    description:
    - Whether the servers must prove who they are (NTS). Needs chrony 4.0 or later on the device.
    type: bool
    default: false
  nts_root:
    description:
    - The root certificate, as PEM, of a CA of the site's own that O(servers) are certified by.
    type: str
    default: ""
  client:
    description:
    - C(auto) takes chrony, else systemd-timesyncd, else BusyBox ntpd.
    type: str
    choices: [auto, chrony, timesyncd, ntpd]
    default: auto
  floor:
    description:
    - A day as text, C("2026-11-01"). At boot, before anything asks for the time, an earlier clock is set
      forward to it, or to when the client last wrote its state. For devices without a clock battery.
    type: str
    default: ""
  wait:
    description:
    - Seconds to wait for synchronisation; the host fails if it does not come. 0 does not wait.
    type: int
    default: 0
  tolerance:
    description:
    - Seconds by which the device's clock may differ from the controller's without a warning.
    type: int
    default: 60
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
- module: sallyport.iot.tls
author:
- The Sallyport authors (@sallyport)
"""

EXAMPLES = r"""
- name: Keep the clock right
  sallyport.iot.time_sync:
    servers: [198.18.10.5]
    floor: "2026-11-01"
"""

RETURN = r"""
clock:
  description: What the device says about its time.
  returned: when the device was asked
  type: dict
  contains:
    client:
      description: Who keeps it.
      type: str
      sample: chrony
    synchronised:
      description: Whether it follows a server; null where nobody can tell.
      type: bool
      sample: true
    source:
      description: The server that it follows.
      type: str
      sample: 198.18.10.5
    stratum:
      description: How far that server is from a reference clock; 0 where unknown.
      type: int
      sample: 2
    offset:
      description: Seconds between the clock and its source, as the client measures it.
      type: float
      sample: 0.000031
    authenticated:
      description: Whether that server proved who it is (NTS); null where nobody can tell.
      type: bool
      sample: true
    epoch:
      description: The device's clock.
      type: int
      sample: 1795000000
    difference:
      description: Seconds by which it is ahead of this controller's.
      type: int
      sample: 0
state:
  description: C(unchanged), C(would_change), C(confirmed), C(reverted), C(refused) or C(lost), see M(sallyport.iot.commit).
  returned: always
  type: str
  sample: confirmed
files:
  description: What changed, file by file.
  returned: when the device was asked
  type: list
  elements: dict
  sample: [{dest: /etc/chrony/sallyport.conf, change: created}]
generation:
  description: The generation that C(playbooks/rollback.yml) can go back from.
  returned: when confirmed
  type: int
  sample: 3
exchanges:
  description: Round trips that this task cost.
  returned: always
  type: int
  sample: 2
msg:
  description: What was done, or why not and what to do.
  returned: always
  type: str
  sample: "nothing to do: files and live state are as wanted"
"""
