"""FIDO2 keys that verify their user. The token is software behind an agent: its signatures are the real thing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.logins import OPENSSH, Doors, Token

ALL = ",".join(OPENSSH)


@dataclass
class Held:
    doors: Doors
    token: Token
    sockets: Path


@pytest.fixture(scope="module")
def held(doors: Doors, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Held]:
    token = Token()
    for device in OPENSSH:
        doors.account(device, "frank")
        # A plain key of his own, which must not be a way past the token.
        doors.sh(
            device,
            "install -d -m 700 -o frank /home/frank/.ssh; "
            f"echo '{doors.public('frank')}' >/home/frank/.ssh/authorized_keys; chown frank /home/frank/.ssh/*",
        )
    users = [{"name": "frank", "keys": [token.public], "second_factor": "fido2"}]
    doors.apply(ALL, {"ssh_users": users})
    yield Held(doors, token, tmp_path_factory.mktemp("agents"))


@pytest.mark.parametrize("device", OPENSSH)
def test_a_token_that_verified_its_user_gets_in(held: Held, device: str) -> None:
    with held.token.agent(held.sockets / "verified") as agent:
        tried = held.doors.ssh(device, "frank", agent=agent)
    assert tried.got_in, tried.text


@pytest.mark.parametrize("device", OPENSSH)
def test_a_token_that_was_only_touched_another_token_and_a_plain_key_stay_out(
    held: Held, device: str
) -> None:
    with held.token.agent(held.sockets / "touched", verified=False) as agent:
        assert held.doors.ssh(device, "frank", agent=agent).refused
    with Token().agent(held.sockets / "other") as agent:
        assert held.doors.ssh(device, "frank", agent=agent).refused
    assert held.doors.ssh(device, "frank", key=held.doors.key("frank")).refused
    assert held.doors.operator_gets_in(device)


def test_a_key_that_is_no_token_is_refused_by_name(held: Held) -> None:
    users = [{"name": "frank", "keys": [held.doors.public("frank")], "second_factor": "fido2"}]
    run = held.doors.play("debian12", {"ssh_users": users})
    assert run.status == 2 and "ssh_users[0].keys[0]: expected a FIDO2 key" in run.of["debian12"]["msg"]
