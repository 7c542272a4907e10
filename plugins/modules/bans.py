# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
# The action plugin of the same name does the work; this file is its documentation.
from __future__ import annotations

DOCUMENTATION = r"""
module: bans
short_description: List, add or lift the bans of a device
version_added: 0.1.0
description:
  - A banned address is dropped before everything else, running flows too. Traps ban by themselves; this is by hand.
  - Bans end by themselves, outlive a new generation of the firewall, and not a reboot.
  - Whoever the policy protects cannot be banned. This is the controller and the execution nodes, as the device sees them, its
    routers, resolvers, DHCP and time servers, and everybody whom a rule lets in by address to a management service.
  - Without O(ban) and O(lift) it lists. Listing and lifting cost one exchange with the device, a new ban two.
notes:
  - A ban counts within milliseconds however long the blocklists are. Only nft 0.9 is slow to show and to lift bans beside very long
    ones, because it reads every set first (1 s beside 100,000 prefixes).
options:
  ban:
    description: The address to ban; of an IPv6 address, its whole /64.
    type: str
    default: ""
  for:
    description: >-
      How long, such as C(30m); at most C(1h). A ban that is there already is not made longer. With plain iptables (no
      ipset on the device) every ban lasts as long as C(traps.ban) of the policy, and another time is refused.
    type: str
    default: 1h
  lift:
    description: The address whose ban ends now. Not together with O(ban).
    type: str
    default: ""
  policy_dir:
    description: >-
      The folder with C(fleet.yml), C(groups/) and C(hosts/). By default the host's C(sallyport_policy_dir), else
      C(policy) beside its inventory.
    type: path
author: The Sallyport authors (@sallyport)
attributes:
  check_mode:
    description: Says what would change, and refuses what would be refused.
    support: full
  diff_mode:
    description: Shows the banned addresses before and after.
    support: full
"""

EXAMPLES = r"""
- name: Who is banned?
  sallyport.iot.bans:

- name: Keep this one out for a while
  sallyport.iot.bans:
    ban: 203.0.113.9
    for: 30m

- name: Let it back in
  sallyport.iot.bans:
    lift: 203.0.113.9
"""

RETURN = r"""
bans:
  description: The bans of the device after this task. C(seconds) until it ends, null where the kernel does not tell.
  type: list
  elements: dict
  returned: success
  sample: [{address: 203.0.113.9, seconds: 1795}, {address: "2001:db8:66::/64", seconds: 3600}]
"""
