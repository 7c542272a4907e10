"""What the ssh action takes is what its role documents; tests/unit/house holds every role to its documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from ansible_collections.sallyport.iot.plugins.action import ssh

ROOT = Path(__file__).parents[3]


def read(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def test_the_action_takes_what_the_role_documents() -> None:
    options = read("roles/ssh/meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    for name, spec in ssh._SPEC.items():
        assert (
            spec["type"] == options[f"ssh_{name}"]["type"]
            and spec["default"] == options[f"ssh_{name}"]["default"]
        )
