"""What the fault tests injected, for the end of the run. A module of its own: pytest has its own copy of a conftest."""

from __future__ import annotations

COUNTED: list[str] = []
