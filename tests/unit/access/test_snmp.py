"""What an SNMP agent answers is asked, not read from its name."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.access import legacy, snmp

CONFIG = """\
agentaddress udp:161
rocommunity "plant floor" 10.0.0.0/8
com2sec readonly default s3cret
com2sec6 -Cn ctx readonly default other
rouser operator priv
"""


class Agent:
    """Answers what a real agent answers: the community it knows, and everybody who asks for its engine."""

    def __init__(self, communities: set[bytes], versions: set[int]) -> None:
        self.communities, self.versions = communities, versions
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                data, peer = self.socket.recvfrom(65535)
            except OSError:
                return
            parts = snmp._parts(snmp._parts(data)[0][1])
            version = parts[0][1][0]
            if version not in self.versions:
                continue
            if version == 3:
                self.socket.sendto(data.replace(b"\xa0", b"\xa8", 1), peer)
            elif parts[1][1] in self.communities:
                self.socket.sendto(data.replace(b"\xa0", b"\xa2", 1), peer)


@pytest.fixture
def agent() -> Iterator[Agent]:
    one = Agent({b"public"}, {0, 1, 3})
    yield one
    one.socket.close()


def test_communities_are_read_from_every_form_that_net_snmp_knows() -> None:
    assert snmp.communities([CONFIG]) == ["plant floor", "s3cret", "other"]


@pytest.mark.parametrize(
    "data", [b"", b"\x30", b"\x30\x05ab", b"\x30\x03\x02\x01\x00", b"\x04\x00", bytes(64)]
)
def test_what_is_no_answer_is_none(data: bytes) -> None:
    assert snmp.read(data) is None


def asked(agent: Agent, tool: str, tmp_path: Path, words: list[str]) -> list[bytes]:
    """The answers that a device with nothing but this tool gets."""
    tools = tmp_path / "bin"
    tools.mkdir(exist_ok=True)
    for name in (tool, "sh"):
        link = tools / name
        link.unlink(missing_ok=True)
        link.symlink_to(shutil.which(name) or pytest.skip(f"needs {name}"))
    device = {"listening": [{"protocol": "udp", "port": 161, "address": "0.0.0.0"}]}
    program = snmp.asking(device, words).replace("161", str(agent.socket.getsockname()[1]))
    helpers = 'say() { echo "$@"; }\nblob() { :; }\n'
    done = subprocess.run(
        ["/bin/sh", "-eu", "-c", helpers + program],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": str(tools)},
    )
    assert "snmp_asked yes" in done.stdout, done.stderr
    return [
        bytes.fromhex(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("snmp_answer")
    ]


@pytest.mark.parametrize("tool", ["python3", "perl"])
def test_a_device_asks_itself_with_what_it_has(agent: Agent, tool: str, tmp_path: Path) -> None:
    found = snmp.judge(asked(agent, tool, tmp_path, ["private", "public"]), True, [])
    assert found.versions == ("1", "2c", "3") and found.clear_text
    agent.communities = {b"hidden"}
    assert snmp.judge(asked(agent, tool, tmp_path, ["private", "public"]), True, []).versions == ("3",)


def finding(answers: snmp.Answers, texts: dict[str, str]) -> legacy.Finding:
    one = legacy.Finding("snmp", sockets={("udp", 161)}, processes={"snmpd"}, units={"snmpd.service"})
    legacy.judge_snmp({"listening": []}, one, answers, texts, ["public"])
    return one


def plan(one: legacy.Finding) -> legacy.Plan:
    return legacy.plan({"files": {}, "units": {}, "listening": [], "processes": []}, [one])


def test_an_agent_of_version_3_alone_stays_and_one_that_says_nothing_goes() -> None:
    only = finding(snmp.Answers(True, ("3",)), {})
    assert only.reason == "it answers version 3, and no known community" and not plan(only)
    silent = finding(snmp.Answers(True, ()), {})
    assert silent.reason == "" and plan(silent).files == [
        {"dest": "/etc/systemd/system/snmpd.service", "link": "/dev/null"}
    ]


def test_an_agent_with_users_loses_its_communities_and_goes_on_with_version_3() -> None:
    path = "/etc/snmp/snmpd.conf"
    result: Any = plan(finding(snmp.Answers(True, ("2c", "3")), {path: CONFIG}))
    (file,) = result.files
    left = [line for line in file["content"].splitlines() if not line.startswith("#")]
    assert left == ["agentaddress udp:161", "rouser operator priv"] and file["secret"]
    assert result.activate == ["systemctl restart snmpd.service"] and "ask_snmp" in result.verify[0]
    # Without a user of version 3 nobody could use it any more: then it goes whole.
    gone = plan(finding(snmp.Answers(True, ("2c", "3")), {path: CONFIG.replace("rouser", "#")}))
    assert gone.files[0]["link"] == "/dev/null"


@pytest.mark.parametrize(
    ("communities", "versions", "status"), [(set(), {3}, 0), ({b"public"}, {1, 3}, 1), (set(), {1}, 1)]
)
def test_the_proof_fails_as_long_as_a_community_is_answered_or_version_3_is_not(
    agent: Agent, communities: set[bytes], versions: set[int], status: int
) -> None:
    agent.communities, agent.versions = communities, versions
    device = {"listening": [{"protocol": "udp", "port": 161, "address": "127.0.0.1"}]}
    program = snmp.nobody_answers(device, ["public"]).replace("161", str(agent.socket.getsockname()[1]))
    program = program.replace("left=10", "left=0")
    done = subprocess.run(["/bin/sh", "-eu", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr


def test_a_community_for_other_addresses_than_ours_is_a_way_in_too() -> None:
    path = "/etc/snmp/snmpd.conf"
    three = snmp.Answers(True, ("3",))
    one = finding(three, {path: "rocommunity s3cret 10.9.9.9\nrocommunity6 other\nrouser boss\n"})
    assert one.reason == ""
    (file,) = plan(one).files
    assert [line for line in file["content"].splitlines() if not line.startswith("#")] == ["rouser boss"]
    gone = finding(three, {path: "rocommunity s3cret 10.9.9.9\n"})
    assert gone.reason == "" and plan(gone).files[0]["link"] == "/dev/null"
    assert finding(three, {path: file["content"]}).reason
