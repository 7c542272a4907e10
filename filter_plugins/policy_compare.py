# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Filter policy_compare."""

from __future__ import annotations

DOCUMENTATION = r"""
name: policy_compare
short_description: Who gains and who loses between two CIDR policies
version_added: 0.1.0
description:
  - Compares the policy given with O(other), flow by flow, after block lists. Says which addresses gain, lose or change which service.
author: The Sallyport authors (@sallyport)
extends_documentation_fragment: [sallyport.iot.policy_filter]
positional: other
options:
  other:
    description: The newer policy, in any form that the input takes.
    type: raw
    required: true
  form:
    description: Plain data, text for a terminal, or Markdown for a review comment.
    type: str
    choices: [data, text, markdown]
    default: data
"""

EXAMPLES = r"""
review: "{{ 'policy.old' | sallyport.iot.policy_compare('policy', host='gw1', form='markdown') }}"
"""

RETURN = r"""
_value:
  description: With O(form=data) a map with C(host), C(changes) (C(target) is where a published port leads) and C(blocklists), else text.
  type: raw
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import compare, flows
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.filters import day, sound


def policy_compare(source: Any, other: Any, form: str = "data", **given: Any) -> dict[str, Any] | str:
    """See DOCUMENTATION."""
    forms: dict[str, Callable[[compare.Comparison], dict[str, Any] | str]] = {
        "data": compare.as_data,
        "text": compare.as_text,
        "markdown": compare.as_markdown,
    }
    if form not in forms:
        raise AnsibleFilterError(f"policy_compare: `form` must be one of {', '.join(forms)}, found `{form}`")
    before = sound(source, "policy_compare", **given)
    after = sound(other, "policy_compare", **given)
    assert before.policy is not None and after.policy is not None
    on = day(given.get("now"), "policy_compare")
    try:
        found = compare.compare(before.policy, after.policy, {**before.services, **after.services}, on=on)
    except flows.TooManyPieces as error:
        raise AnsibleFilterError(f"policy_compare: {error}") from None
    return forms[form](found)


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filter by its name."""
        return {"policy_compare": policy_compare}
