# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Filter audit_login_pairs."""

from __future__ import annotations

DOCUMENTATION = r"""
name: audit_login_pairs
short_description: The default logins to try on a device
version_added: 0.1.0
description:
  - Gives user and password pairs, likeliest first, for the accounts that a device has.
  - Use the result only in tasks with C(no_log), since O(extra) may hold a site's own passwords.
positional: extra
author: The Sallyport authors (@sallyport)
options:
  _input:
    description: Names of the accounts that the device has; an empty list stands for unknown, and gives all pairs.
    type: list
    elements: str
    required: true
  extra:
    description: A site's own pairs, each with C(user) and C(password). They come first.
    type: list
    elements: dict
    default: []
"""

EXAMPLES = r"""
pairs: "{{ ansible_facts.sallyport_device.accounts | map(attribute='name') | sallyport.iot.audit_login_pairs }}"
"""

RETURN = r"""
_value:
  description: A list of C([user, password]).
  type: list
  elements: list
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials.defaults import pairs_for


def audit_login_pairs(accounts: Iterable[str], extra: Iterable[Mapping[str, Any]] = ()) -> list[list[str]]:
    """See DOCUMENTATION."""
    names = [str(name) for name in accounts]
    try:
        return pairs_for(names or None, extra)
    except (KeyError, TypeError) as error:
        raise AnsibleFilterError(
            f"audit_login_pairs: each extra pair needs 'user' and 'password' ({error})"
        ) from error


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"audit_login_pairs": audit_login_pairs}
