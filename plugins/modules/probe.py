# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Documentation of the action plugin of the same name, which does the work on the controller."""

DOCUMENTATION = r"""
module: probe
short_description: Learn what a device is, in one exchange and without Python on it
version_added: "0.1.0"
description:
  - Finds out what later steps need to know of a device and returns it as the fact C(sallyport_device). It
    takes the place of C(gather_facts).
  - Needs only a POSIX shell and C(/proc) on the device; BusyBox is enough. Reads and never writes.
  - Hashes of passwords and private keys never leave the device.
options:
  refresh:
    description:
      - Ask the device again, even if it was asked earlier in the same run of ansible-playbook.
      - Without it, the answer is repeated and costs no exchange. An answer of another run, from a fact cache,
        is never repeated.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    description: Changes nothing, so it does the same.
  diff_mode:
    support: none
    description: Changes nothing.
  platform:
    platforms: posix
    support: full
    description: Linux with /proc.
notes:
  - Without root it tells less. The owners of sockets, the state of passwords and what the firewall takes stay
    empty.
  - Refuses C(delegate_to), which would describe another machine in the name of this one.
author:
  - The Sallyport authors (@sallyport)
"""

EXAMPLES = r"""
- name: Learn what the device is
  sallyport.iot.probe:

- name: Say what listens on it
  ansible.builtin.debug:
    msg: "{{ ansible_facts.sallyport_device.listening | map(attribute='process') | unique }}"

- name: Ask again after something was changed
  sallyport.iot.probe:
    refresh: true
"""

RETURN = r"""
cached:
  description: Whether this repeats an earlier answer of the same run.
  returned: always
  type: bool
  sample: false
ansible_facts:
  description: The fact C(sallyport_device). All its keys are always there; what could not be learnt is empty.
  returned: always
  type: dict
  contains:
    sallyport_device:
      description: The device. The page docs/architecture.md of the collection's checkout has the whole table.
      returned: always
      type: dict
      sample:
        protocol: 1
        hostname: gateway-17
        init: busybox
        privilege: root
        ssh: {server: dropbear, version: "2022.83", ports: [22]}
        firewall: {iptables: {path: /sbin/iptables, variant: legacy, works: true}}
"""
