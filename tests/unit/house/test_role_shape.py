"""Every role has the same shape: who has read one knows them all."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.role_examples import ROLES, examples, readme

ROOT = Path(__file__).parents[3]
TOOLS = Path(sys.executable).parent
SHAPE = {"README.md", "defaults/main.yml", "meta/argument_specs.yml", "meta/main.yml", "tasks/main.yml"}


def read(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def options(role: str) -> dict[str, Any]:
    found: dict[str, Any] = read(f"roles/{role}/meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    return found


@pytest.mark.parametrize("role", ROLES)
def test_a_role_has_the_files_that_every_role_has(role: str) -> None:
    folder = ROOT / "roles" / role
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert there >= SHAPE


@pytest.mark.parametrize("role", ROLES)
def test_defaults_and_argument_specs_name_the_same_variables_with_the_same_defaults(role: str) -> None:
    specified = {name: option["default"] for name, option in options(role).items()}
    assert specified == read(f"roles/{role}/defaults/main.yml")


@pytest.mark.parametrize("role", ROLES)
def test_every_variable_carries_the_roles_name_and_is_described(role: str) -> None:
    for name, option in options(role).items():
        assert name.startswith(f"{role}_")
        assert option["type"] and option["description"]


@pytest.mark.parametrize("role", ROLES)
def test_every_variable_reaches_the_action_under_its_own_name(role: str) -> None:
    action = f"sallyport.iot.{role}"
    task = next(task[action] for task in read(f"roles/{role}/tasks/main.yml") if action in task)
    assert task == {name.removeprefix(f"{role}_"): f"{{{{ {name} }}}}" for name in options(role)}


@pytest.mark.parametrize("role", ROLES)
def test_the_documented_options_of_the_action_are_those_of_the_role(role: str) -> None:
    page = documentation(f"plugins/modules/{role}.py")
    documented = page["options"]
    for fragment in page.get("extends_documentation_fragment", []):
        shared = documentation(f"plugins/doc_fragments/{fragment.rpartition('.')[2]}.py")["options"]
        assert not shared.keys() & documented.keys()
        documented |= shared
    for name, option in options(role).items():
        mine = documented.pop(name.removeprefix(f"{role}_"))
        assert mine["type"] == option["type"] and mine.get("choices") == option.get("choices")
        assert str(option["default"]).startswith("{{") or mine["default"] == option["default"]
    # For a second task of the role itself.
    assert documented.keys() <= {"only_if_shared"}


def documentation(path: str) -> dict[str, Any]:
    """What ansible-doc reads in a module or a fragment."""
    text = (ROOT / path).read_text(encoding="utf-8")
    return dict(yaml.safe_load(text.split('DOCUMENTATION = r"""')[1].split('"""')[0]))


@pytest.mark.parametrize("role", ROLES)
def test_the_readme_says_what_the_role_is_for_and_where_its_variables_are(role: str) -> None:
    text = readme(role)
    assert text.startswith(f"# sallyport.iot.{role}\n")
    assert f"`ansible-doc -t role sallyport.iot.{role}`" in text
    assert examples(role)


@pytest.mark.parametrize("role", ROLES)
def test_a_table_of_variables_in_a_readme_is_the_argument_specs(role: str) -> None:
    rows = re.findall(rf"^\| `({role}_\w+)` \| `([^`]*)` \|", readme(role), re.M)
    if rows:
        shown = {name: default.replace(r"\|", "|") for name, default in rows}
        assert shown == {name: str(yaml_text(option["default"])) for name, option in options(role).items()}


def yaml_text(value: Any) -> str:
    """A default as a person writes it."""
    return (
        value
        if isinstance(value, str) and value
        else yaml.safe_dump(value, default_flow_style=True).split("\n")[0]
    )


@pytest.mark.parametrize("role", ROLES)
def test_the_readmes_examples_are_playbooks_that_ansible_takes(role: str, tmp_path: Path) -> None:
    for number, text in enumerate(examples(role)):
        path = tmp_path / f"example{number}.yml"
        path.write_text(text, encoding="utf-8")
        command = [str(TOOLS / "ansible-playbook"), "-i", "inventories/example", "--syntax-check", str(path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
