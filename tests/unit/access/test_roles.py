"""A role's documentation cannot drift from what it takes, nor from what its action takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.sallyport.iot.plugins.action import ssh

ROOT = Path(__file__).parents[3]
ROLES = ("ssh", "legacy_services", "credentials")


def read(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


@pytest.mark.parametrize("role", ROLES)
def test_defaults_and_argument_specs_name_the_same_variables_with_the_same_defaults(role: str) -> None:
    options = read(f"roles/{role}/meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    assert {name: option["default"] for name, option in options.items()} == read(
        f"roles/{role}/defaults/main.yml"
    )


@pytest.mark.parametrize("role", ROLES)
def test_every_variable_reaches_the_action_under_its_own_name(role: str) -> None:
    options = read(f"roles/{role}/meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    (task,) = [
        task[f"sallyport.iot.{role}"]
        for task in read(f"roles/{role}/tasks/main.yml")
        if f"sallyport.iot.{role}" in task
    ]
    assert task == {name.removeprefix(f"{role}_"): f"{{{{ {name} }}}}" for name in options}


@pytest.mark.parametrize("role", ROLES)
def test_the_documented_options_of_the_action_are_those_of_the_role(role: str) -> None:
    text = (ROOT / f"plugins/modules/{role}.py").read_text(encoding="utf-8")
    documented = yaml.safe_load(text.split('DOCUMENTATION = r"""')[1].split('"""')[0])["options"]
    options = read(f"roles/{role}/meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    for name, option in options.items():
        mine = documented.pop(name.removeprefix(f"{role}_"))
        assert mine["type"] == option["type"] and mine.get("choices") == option.get("choices")
        assert str(option["default"]).startswith("{{") or mine["default"] == option["default"]
    assert documented == {}


def test_the_action_takes_what_the_role_documents() -> None:
    options = read("roles/ssh/meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    for name, spec in ssh._SPEC.items():
        assert (
            spec["type"] == options[f"ssh_{name}"]["type"]
            and spec["default"] == options[f"ssh_{name}"]["default"]
        )
