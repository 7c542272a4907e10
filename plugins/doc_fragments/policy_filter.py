# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The input and options that all policy filters share."""


class ModuleDocFragment:
    """Read by ansible-doc."""

    DOCUMENTATION = r"""
options:
  _input:
    description:
      - The folder of a policy (with C(fleet.yml), C(groups/) and C(hosts/)), or the policy itself as a map, or a
        list of such maps, the weakest layer first.
    type: raw
    required: true
  host:
    description: The host whose policy it is.
    type: str
    default: host
  groups:
    description: The host's groups, parents before children. They name the files of C(groups/) that count.
    type: list
    elements: str
    default: []
  inventory:
    description: The addresses of inventory hosts, by name, for zones with C(hosts).
    type: dict
    default: {}
  group_members:
    description: The hosts of inventory groups, by name, for zones with C(hosts).
    type: dict
    default: {}
  variables:
    description: Further layers, named C(sallyport_policy__<NN>_<name>).
    type: dict
    default: {}
  device:
    description: What P(sallyport.iot.probe#module) found. Without it, what depends on the device is not judged.
    type: dict
  controllers:
    description: Addresses that must get in, as the device sees them.
    type: list
    elements: str
    default: []
  management_ports:
    description: The TCP ports by which devices are managed. What the device says goes first.
    type: list
    elements: int
    default: [22]
  now:
    description: The day (UTC) on which the policy is judged, such as V(2027-01-31). Today where it is missing.
    type: str
"""
