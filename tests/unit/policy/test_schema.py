"""The JSON Schema for editors says what the reader says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import layers
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.language import json_schema

from tests.unit.policy.test_load import SOUND, WRONG, shapes_with

ROOT = Path(__file__).parents[3]
FILE = ROOT / "docs/policy.schema.json"
VALIDATOR = jsonschema.Draft202012Validator(json_schema())


def test_the_committed_schema_is_the_one_that_the_language_gives() -> None:
    written = json.loads(FILE.read_text())
    assert written == json_schema(), f"write json_schema() of language.py to {FILE}"
    jsonschema.Draft202012Validator.check_schema(written)


@pytest.mark.parametrize(
    "path", [*ROOT.glob("inventories/*/policy/**/*.yml"), ROOT / "docs/policy.md"], ids=str
)
def test_the_schema_takes_the_policies_of_this_project(path: Path) -> None:
    if path.suffix == ".md":
        blocks = path.read_text().split("```yaml\n")[1:]
        texts = [block.split("```")[0] for block in blocks]
        assert texts
    else:
        texts = [path.read_text()]
    for text in texts:
        VALIDATOR.validate(yaml.safe_load(text) or {})


STRUCTURAL = [
    {"zone": {}},
    {"zones": {"any": {"cidrs": ["10.0.0.0/8"]}}},
    {"zones": {"10.0.0.1": {"cidrs": ["10.0.0.0/8"]}}},
    {"blocklists": [{"name": "any", "file": "a"}]},
    {"blocklists": [{"name": "1.2.3.4", "file": "a"}]},
    {"defaults": {"locked": ["inbond"]}},
    {"zones": {"a b": {"cidrs": ["10.0.0.0/8"]}}},
    {"zones": {"a": {"cidrs": []}}},
    {"zones": {"a": {"cidrs": "10.0.0.0/8"}}},
    {"zones": {"a": {"cidrs": [7]}}},
    {"zones": {"a": {"interfaces": ["*eth"]}}},
    {"zones": None},
    {"services": {"a": {"tcp": [0]}}},
    {"services": {"a": {"tcp": [65536]}}},
    {"services": {"a": {"icmp": [256]}}},
    {"inbound": [{"allow": ["ssh"]}]},
    {"inbound": [{"name": "a"}]},
    {"inbound": [{"name": "a", "allow": ["ssh"], "deny": ["any"]}]},
    {"inbound": [{"name": "a", "allow": ["ssh"], "rate": "5"}]},
    {"inbound": [{"name": "a", "allow": ["ssh"], "from": "any"}]},
    {"inbound": {"name": "a", "allow": ["ssh"]}},
    {"defaults": {"inbound": "deny"}},
    {"defaults": {"ping": {"from": "mgmt"}}},
    {"traps": {"udp": [53]}},
    {"traps": {"tcp": [23], "size": 4097}},
    {"log": {"prefix": "a b"}},
    {"containers": {"outbound": "yes"}},
    {"blocklists": [{"name": "a"}]},
    {"nat": {"publish": [{"name": "a", "port": 0, "to": "10.0.0.1:1"}]}},
]


@pytest.mark.parametrize("value", STRUCTURAL, ids=[json.dumps(value) for value in STRUCTURAL])
def test_schema_and_reader_refuse_the_same_shapes(value: dict[str, Any]) -> None:
    assert not VALIDATOR.is_valid(value)
    assert layers.variable_layer("sallyport_policy__10_x", value).findings


_SHAPE = ("wrong-type", "quote-it", "unknown-key", "missing-key", "empty-list", "one-verdict", "bad-name")


@pytest.mark.parametrize("value", WRONG, ids=[repr(value) for value in WRONG])
def test_schema_and_reader_agree_on_the_shape_of_whatever_stands_anywhere(value: Any) -> None:
    for shape in shapes_with(value):
        findings = layers.variable_layer("sallyport_policy__10_x", shape).findings
        valid = VALIDATOR.is_valid(shape)
        assert valid or findings, f"an editor would refuse what is right: {shape}"
        wrong = [one for one in findings if one.id in _SHAPE]
        assert not (valid and wrong), f"an editor would take {shape}: {wrong}"


def test_schema_and_reader_take_the_same_sound_policy() -> None:
    value = yaml.safe_load(SOUND) | {"defaults": {"ping": {"from": "any", "rate": "5/second burst 9"}}}
    VALIDATOR.validate(value)
    assert not layers.variable_layer("sallyport_policy__10_x", value).findings
