"""What holds on every device of the lab after the scenario's run."""

from __future__ import annotations

from testinfra.host import Host


def test_the_operator_still_gets_in(host: Host) -> None:
    assert host.check_output("id -u") == "0"
