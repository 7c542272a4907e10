"""Every plugin documents itself, and every public filter serves the checkout and the collection from one file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
TOOLS = Path(sys.executable).parent
DOCUMENTED = {"module": "plugins/modules", "filter": "plugins/filter", "callback": "plugins/callback"}
ACTIONS = sorted(path.stem for path in (ROOT / "plugins/action").glob("*.py"))


def names(folder: str) -> list[str]:
    return sorted(path.stem for path in (ROOT / folder).glob("*.py"))


@pytest.mark.parametrize("kind", DOCUMENTED)
def test_ansible_doc_understands_every_plugin(kind: str) -> None:
    wanted = [f"sallyport.iot.{name}" for name in names(DOCUMENTED[kind])]
    done = subprocess.run(
        [str(TOOLS / "ansible-doc"), "-t", kind, "--json", *wanted],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr and "ERROR" not in done.stderr, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert sorted(found) == wanted
    for name, about in found.items():
        assert about["doc"]["short_description"] and about["doc"]["description"], name
        assert kind == "callback" or about["examples"], name
        assert kind == "callback" or about["return"], name
        assert list(unquoted(about, name)) == []
    # Only the form for people renders what the documentation says; the other one prints whatever YAML made of it.
    shown = subprocess.run(
        [str(TOOLS / "ansible-doc"), "-t", kind, *wanted],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert shown.returncode == 0 and "ERROR" not in shown.stderr, shown.stderr
    assert [name for name in wanted if name not in shown.stdout.lower()] == []


def unquoted(about: Any, path: str) -> Iterator[str]:
    """Where a description is no text: an unquoted ": " makes a map of it."""
    if isinstance(about, dict):
        for key, value in about.items():
            if key == "description" and not isinstance(value, dict):
                for one in value if isinstance(value, list) else [value]:
                    if not isinstance(one, str):
                        yield f"{path}.{key}: {one}"
            yield from unquoted(value, f"{path}.{key}")
    elif isinstance(about, list):
        for one in about:
            yield from unquoted(one, path)


@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_is_documented_as_a_module(action: str) -> None:
    assert action in names(DOCUMENTED["module"])


def test_every_filter_of_the_collection_is_a_link_to_the_checkouts_file() -> None:
    assert names("plugins/filter") == names("filter_plugins")
    for name in names("filter_plugins"):
        link = ROOT / f"plugins/filter/{name}.py"
        assert link.is_symlink() and os.readlink(link) == f"../../filter_plugins/{name}.py"


@pytest.mark.parametrize("folder", ["plugins", "filter_plugins"])
def test_every_program_names_its_licence(folder: str) -> None:
    paths = [path for kind in ("*.py", "*.sh") for path in (ROOT / folder).rglob(kind)]
    assert paths
    for path in paths:
        head = path.read_text(encoding="utf-8").split("\n")[:5]
        assert not path.stat().st_size or any("Apache-2.0" in line for line in head), path
