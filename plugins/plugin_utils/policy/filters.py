# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What the public filters share: their input, and errors that Ansible shows as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, timezone
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import cidrs, report
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.load import Resolved, load_host
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import Addresses

_LAYER = "sallyport_policy__00_given"


def resolved(source: Any, name: str, **given: Any) -> Resolved:
    """The policy that a filter was given: a folder, or the policy itself as one map or a list of layers.

    ``name`` is the filter's, for messages; ``given`` are the options that all policy filters share.
    """
    allowed = {
        "host", "groups", "inventory", "group_members", "variables", "device", "controllers", "management_ports", "now",
    }  # fmt: skip
    unknown = sorted(set(given) - allowed)
    if unknown:
        raise AnsibleFilterError(
            f"{name}: unknown option {', '.join(unknown)}; known are {', '.join(sorted(allowed))}"
        )
    folder: str | None = None
    variables = dict(mapping(given.get("variables"), name, "variables"))
    if isinstance(source, str):
        folder = str(source)
    elif isinstance(source, Mapping):
        variables[_LAYER] = source
    elif isinstance(source, Sequence):
        variables |= {f"sallyport_policy__{place:02}_given": layer for place, layer in enumerate(source)}
    else:
        raise AnsibleFilterError(f"{name}: the input must be a folder, a policy or a list of layers")
    return load_host(
        folder,
        str(given.get("host") or "host"),
        groups=texts(given.get("groups"), name, "groups"),
        inventory=_lists(given.get("inventory"), name, "inventory"),
        group_members=_lists(given.get("group_members"), name, "group_members"),
        variables=variables,
        device=mapping(given.get("device"), name, "device") or None,
        controller=texts(given.get("controllers"), name, "controllers"),
        management_ports=_ports(given.get("management_ports"), name),
        now=day(given.get("now"), name),
    )


def sound(source: Any, name: str, **given: Any) -> Resolved:
    """``resolved``, refused with its findings when there is an error among them."""
    found = resolved(source, name, **given)
    if found.policy is None:
        lines = "\n".join(report.finding_text(one) for one in found.errors)
        raise AnsibleFilterError(f"{name}: the policy has errors:\n{lines}")
    return found


def mapping(value: Any, name: str, option: str) -> Mapping[str, Any]:
    """An option that is a map."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise AnsibleFilterError(f"{name}: `{option}` must be a map")
    return value


def texts(value: Any, name: str, option: str) -> list[str]:
    """An option that is a list of texts; one text stands for a list of it."""
    if value is None:
        return []
    if isinstance(value, str):
        return [str(value)]
    if not isinstance(value, Sequence) or not all(isinstance(one, str) for one in value):
        raise AnsibleFilterError(f"{name}: `{option}` must be a list of texts")
    return [str(one) for one in value]


def day(value: Any, name: str) -> date:
    """An option that is a day; today in UTC where it is missing."""
    if value is None:
        return datetime.now(timezone.utc).date()
    if isinstance(value, date):
        return value
    try:
        return date.fromisoformat(str(value))
    except ValueError:
        raise AnsibleFilterError(
            f'{name}: `now` must be a day such as "2027-01-31", found `{value}`'
        ) from None


def _lists(value: Any, name: str, option: str) -> dict[str, list[str]]:
    return {
        str(key): texts(one, name, f"{option}.{key}") for key, one in mapping(value, name, option).items()
    }


def _ports(value: Any, name: str) -> list[int]:
    ports = [22] if value is None else [value] if isinstance(value, int) else value
    if not isinstance(ports, Sequence) or not all(isinstance(one, int) and 0 < one < 65536 for one in ports):
        raise AnsibleFilterError(f"{name}: `management_ports` must be a list of ports")
    return [int(one) for one in ports]


def cidr_list(value: Any, name: str) -> list[str]:
    """The input of a CIDR filter: a list of CIDRs and addresses, or one text. What ``map`` gives is a list too."""
    if isinstance(value, str):
        return [str(value)]
    if isinstance(value, (bytes, bytearray, Mapping)) or not isinstance(value, (Sequence, Iterator)):
        raise AnsibleFilterError(f"{name}: expected a list of CIDRs as text, found {type(value).__name__}")
    items = list(value)
    for place, one in enumerate(items, 1):
        if not isinstance(one, str):
            raise AnsibleFilterError(f"{name}: entry {place} is no text but {type(one).__name__}: {one!r}")
    return items


def addresses(value: Any, name: str) -> Addresses:
    """The input of a CIDR filter, as an address set."""
    try:
        return cidrs.parse(cidr_list(value, name))
    except cidrs.NotACidr as problem:
        raise AnsibleFilterError(f"{name}: entry {problem.line}: {problem}") from None
