# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The evidence of one audit: one JSON document, from which every other form is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.sallyport.iot.plugins.plugin_utils.audit.findings import Finding, verdict

FORMAT = "sallyport-audit/1"
CATALOGUE = Path(__file__).parents[3] / "docs" / "controls.yml"


def load_controls() -> list[dict[str, Any]]:
    """The controls that an audit judges, from the catalogue. Raises OSError when the collection lacks it."""
    catalogue = yaml.safe_load(CATALOGUE.read_text(encoding="utf-8"))
    return [control for control in catalogue if "audit" in control["proved_by"]]


def judge_controls(controls: Sequence[Mapping[str, Any]], findings: Sequence[Finding]) -> dict[str, str]:
    """For one device: ``pass``, ``differences``, ``not assessed`` or ``waived``, by control."""
    results = {}
    for control in controls:
        own = [finding for finding in findings if finding.control == control["id"]]
        result = verdict(own)
        if result == "pass" and any(finding.waiver and finding.weight != "note" for finding in own):
            result = "waived"
        results[control["id"]] = result
    return results


def document(
    when: str,
    enforced: bool,
    controls: Sequence[Mapping[str, Any]],
    devices: Mapping[str, Mapping[str, Any]],
    findings: Mapping[str, Sequence[Finding]],
) -> dict[str, Any]:
    """Put the evidence together.

    ``devices`` holds for each device what was seen (``reached``, ``system``, ``vantages``); ``findings`` holds what
    was made of it. The verdict of the whole is the worst one of any device.
    """
    entries = {}
    for name in devices:
        judged = findings[name]
        entries[name] = {
            "verdict": verdict(judged),
            "controls": judge_controls(controls, judged),
            "findings": [finding.as_dict() for finding in judged],
            **devices[name],
        }
    worst = [
        result
        for result in ("differences", "not assessed")
        if any(e["verdict"] == result for e in entries.values())
    ]
    return {
        "format": FORMAT,
        "when": when,
        "enforced": enforced,
        "verdict": (worst or ["pass"])[0],
        "controls": {
            control["id"]: {key: control[key] for key in ("title", "provisions", "method")}
            for control in controls
        },
        "devices": entries,
    }
