"""What an SNMP agent answers is asked, not read from its name."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.access import boot_files, legacy, shell, snmp

CONFIG = """\
agentaddress udp:161
rocommunity "plant floor" 10.0.0.0/8
com2sec readonly default s3cret
com2sec6 -Cn ctx readonly default other
rouser operator priv
"""


class Agent:
    """Answers what a real agent answers: the community it knows, and everybody who asks for its engine."""

    def __init__(self, communities: set[bytes], versions: set[int], address: str = "127.0.0.1") -> None:
        self.communities, self.versions = communities, versions
        self.socket = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((address, 0))
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


def test_only_an_answer_to_a_get_is_one_and_of_a_version_that_there_is() -> None:
    request = snmp.get(1, "public", 7)
    answer = request.replace(b"\xa0", b"\xa2", 1)
    assert snmp.read(answer) == ("2c", 7) and snmp.read(
        answer.replace(b"\x02\x01\x01", b"\x02\x01\x00", 1)
    ) == ("1", 7)
    # The question itself comes back, a trap, a version that nobody speaks.
    for other in (
        request,
        request.replace(b"\xa0", b"\xa7", 1),
        answer.replace(b"\x02\x01\x01", b"\x02\x01\x02", 1),
    ):
        assert snmp.read(other) is None


LINES = [
    ("rocommunity one", "one"), ("rwcommunity two 10.0.0.0/8", "two"), ("rocommunity6 three", "three"),
    ("rwcommunity6 four default .1.3", "four"), ("  RoCommunity five", "five"), ('rwcommunity "si x" default', "si x"),
    ("com2sec sec default seven", "seven"), ("com2sec6 sec default eight", "eight"), ("COM2SEC -Cn ctx sec 10.0.0.1 nine", "nine"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "word"), LINES)
def test_each_form_of_a_community_is_read_and_switched_off(line: str, word: str) -> None:
    assert snmp.communities([f"# {line}\n{line}\n"]) == [word]
    for user in ("rouser boss", "rwuser boss priv"):
        assert snmp.without_communities({"/a": f"{line}\n{user}\n"}) == {
            "/a": f"{boot_files.MARK}{line}\n{user}\n"
        }


def test_a_community_of_a_local_socket_goes_with_the_others_and_a_file_without_any_stays() -> None:
    texts = {"/a": "com2secunix sec default x\nrocommunityfoo y\n", "/b": "rouser boss\n"}
    assert snmp.without_communities(texts) == {
        "/a": f"{boot_files.MARK}com2secunix sec default x\nrocommunityfoo y\n"
    }
    assert snmp.without_communities({"/a": "rocommunity x\n"}) is None, "nobody could use it any more"


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        (["0.0.0.0"], "127.0.0.1"), (["::"], "::1"), (["::", "0.0.0.0"], "127.0.0.1"), (["10.1.2.3"], "10.1.2.3"),
        (["fe80::1%eth0"], "fe80::1"), ([], "127.0.0.1"),
    ],
)  # fmt: skip
def test_the_device_asks_where_its_agent_listens(addresses: list[str], expected: str) -> None:
    others = [
        {"protocol": "tcp", "port": 161, "address": "10.9.9.9"},
        {"protocol": "udp", "port": 53, "address": "10.8.8.8"},
    ]
    mine = [{"protocol": "udp", "port": 161, "address": each} for each in addresses]
    assert snmp.local_address({"listening": [*others, *mine]}) == expected


def test_what_the_network_is_answered_counts_though_the_device_itself_could_not_ask() -> None:
    answer = snmp.get(0, "public", 5).replace(b"\xa0", b"\xa2", 1)
    assert snmp.judge([], False, [answer]) == snmp.Answers(True, ("1",), True)
    assert snmp.judge([answer], True, []) == snmp.Answers(True, ("1",), False)
    assert snmp.judge([], False, []) == snmp.Answers(False, (), False)


@pytest.mark.parametrize("versions", [("1",), ("2c",), ("1", "3"), ("2c", "3")])
def test_an_agent_that_takes_a_community_never_stays_as_it_is(versions: tuple[str, ...]) -> None:
    one = finding(snmp.Answers(True, versions), {"/etc/snmp/snmpd.conf": "rouser boss\nrocommunity x\n"})
    assert one.reason == "" and one.edits and one.proof
    # Of a community that stands in no file nobody can say how it could go: the agent goes.
    hidden = finding(snmp.Answers(True, versions), {"/etc/snmp/snmpd.conf": "rouser boss\n"})
    assert hidden.reason == "" and plan(hidden).files[0]["link"] == "/dev/null"


def test_the_way_back_starts_the_agent_with_its_communities_again() -> None:
    one = finding(snmp.Answers(True, ("2c", "3")), {"/etc/snmp/snmpd.conf": CONFIG})
    assert plan(one).revert == ["systemctl restart snmpd.service"]
    one.units.clear()
    assert plan(one).activate == plan(one).revert == [shell.reload_named(["snmpd"])]


def test_the_controller_asks_over_the_network_and_takes_silence_for_an_answer(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snmp, "PORT", agent.socket.getsockname()[1])
    found = snmp.judge([], False, snmp.from_controller("127.0.0.1", ["public"], 2.0))
    assert found == snmp.Answers(True, ("1", "2c", "3"), True)
    agent.communities, agent.versions = set(), set()
    assert snmp.from_controller("127.0.0.1", ["public"], 0.1) == []
    six = Agent({b"public"}, {1}, "::1")
    monkeypatch.setattr(snmp, "PORT", six.socket.getsockname()[1])
    assert snmp.judge([], False, snmp.from_controller("::1", ["public"], 2.0)).versions == ("2c",)
    six.socket.close()


def asked(agent: Agent, tool: str, tmp_path: Path, words: list[str], address: str = "0.0.0.0") -> list[bytes]:
    """The answers that a device with nothing but this tool gets."""
    tools = tmp_path / "bin"
    tools.mkdir(exist_ok=True)
    for name in (tool, "sh"):
        link = tools / name
        link.unlink(missing_ok=True)
        # What is called python3 on the path may be a script that looks for more.
        found = sys.executable if name == "python3" else shutil.which(name)
        link.symlink_to(found or pytest.skip(f"needs {name}"))
    device = {"listening": [{"protocol": "udp", "port": 161, "address": address}]}
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
    six = Agent({b"public"}, {1}, "::1")
    assert snmp.judge(asked(six, tool, tmp_path, ["public"], "::"), True, []).versions == ("2c",)
    six.socket.close()
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
    ("communities", "versions", "status"),
    [
        (set(), {3}, 0),
        ({b"public"}, {1, 3}, 1),
        ({b"public"}, {0, 3}, 1),
        (set(), {1}, 1),
        ({b"x" * 150}, {1, 3}, 1),
    ],
)
def test_the_proof_fails_as_long_as_a_community_is_answered_or_version_3_is_not(
    agent: Agent, communities: set[bytes], versions: set[int], status: int
) -> None:
    agent.communities, agent.versions = communities, versions
    device = {"listening": [{"protocol": "udp", "port": 161, "address": "127.0.0.1"}]}
    program = snmp.nobody_answers(device, ["public", "x" * 150, "y" * 400]).replace(
        "161", str(agent.socket.getsockname()[1])
    )
    program = program.replace("left=10", "left=0")
    done = subprocess.run(["/bin/sh", "-eu", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr


@pytest.mark.parametrize(
    ("three", "clear", "status"),
    [
        ("3040020103", "", 0), ("308190020103", "", 0), ("30820190020103", "", 0), ("", "", 1),
        ("3040020103", "3029020101", 1), ("3040020103", "308190020100", 1), ("3040020103", "30820190020101", 1),
    ],
)  # fmt: skip
def test_the_proof_knows_short_and_long_answers(three: str, clear: str, status: int) -> None:
    told = snmp.nobody_answers({"listening": []}, ["public"]).replace(
        snmp._ASK, "ask_snmp() { echo $ANSWERS; }"
    )
    done = subprocess.run(
        ["/bin/sh", "-eu", "-c", told.replace("left=10", "left=0")], capture_output=True, text=True, check=False,
        env={"ANSWERS": f"{clear} {three}", "PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert done.returncode == status and bool(done.stderr) == bool(status)


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


def test_every_file_of_the_agent_is_shown(tmp_path: Path) -> None:
    files = (
        "etc/snmp/snmpd.conf",
        "etc/snmp/snmpd.local.conf",
        "etc/snmp/snmpd.conf.d/x.conf",
        "etc/snmpd.conf",
        "var/lib/snmp/snmpd.conf",
    )
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"rocommunity of-{name}\n")
    program = snmp.asking({"listening": []}, []).replace(snmp._ASK, "ask_snmp() { return 3; }")
    program = program.replace("/etc/", f"{tmp_path}/etc/").replace("/var/lib/", f"{tmp_path}/var/lib/")
    helpers = 'say() { :; }\nblob() { echo "$1"; cat; }\n'
    done = subprocess.run(["/bin/sh", "-euc", helpers + program], capture_output=True, text=True, check=True)
    assert done.stdout == "".join(f"snmp {tmp_path}/{name}\nrocommunity of-{name}\n" for name in files)
