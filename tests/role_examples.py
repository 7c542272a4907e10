"""The playbooks that roles' READMEs show: what people copy must run."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())


def readme(role: str) -> str:
    return (ROOT / "roles" / role / "README.md").read_text(encoding="utf-8")


def examples(role: str) -> list[str]:
    """The playbooks of a role's README, as text."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", readme(role), re.M | re.S)
    return [block for block in blocks if block.startswith("- hosts:")]
