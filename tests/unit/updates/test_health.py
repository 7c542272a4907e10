"""The operator's own checks, as the device asks them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates import house


@pytest.mark.parametrize("shell", [["/bin/sh"], ["busybox", "sh"]], ids=["sh", "busybox"])
@pytest.mark.parametrize(
    ("commands", "said"),
    [
        (["true", "test 1 = 1"], ""),
        (["true", "echo too hot >&2; exit 3"], "update_agent_health[1] failed: too hot"),
        (["true", "echo one; sleep 100"], "update_agent_health[1] failed: it has not ended within 1 seconds"),
        (["sleep 100 & wait"], "update_agent_health[0] failed: it has not ended within 1 seconds"),
        (["cat"], ""),
        (["echo 'a b' | grep -q \"a b\"", "[ '$(false)' != x ]"], ""),
    ],
)
def test_the_first_check_that_fails_or_hangs_says_which_it_was(
    shell: list[str], commands: list[str], said: str, tmp_path: Path
) -> None:
    # Only what hangs is to meet its end.
    text = house._health(commands, 1 if "sleep" in commands[-1] else 60)
    if shell[0] == "busybox":
        text = text.replace("timeout -k", "busybox timeout -k")
    done = subprocess.run(
        [*shell, "-c", text],
        stdin=subprocess.PIPE,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )
    assert (done.stdout + done.stderr).strip() == said
    assert (done.returncode == 0) == (not said)
