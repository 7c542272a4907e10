"""How much room a change takes, and what is said where there is less."""

from __future__ import annotations

import subprocess

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.device import mounts, room
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply, frame, parse
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.transaction import File

_STATE = "/var/lib/sallyport"
_ONE = mounts.parse(["/ ext4 rw"])
_TWO = mounts.parse(["/ ext4 rw", "/etc ext4 rw"])
_BIG = File("/etc/big", content=b"x" * 1_000_000)


def _reply(*lines: tuple[str, str]) -> Reply:
    return Reply(tuple(lines), 0)


def test_a_file_is_counted_twice_where_it_is_staged_beside_its_destination() -> None:
    (need,) = room.needs(_STATE, [(_BIG, 500_000)], _ONE)
    assert need.point == "/" and 2_500_000 // 1024 <= need.kb < need.ample_kb < 2_800_000 // 1024


def test_each_file_system_is_counted_for_itself() -> None:
    home, there = room.needs(_STATE, [(_BIG, 500_000)], _TWO)
    assert (home.point, there.point) == ("/", "/etc")
    assert home.kb >= 1_500_000 // 1024 and 1_000_000 // 1024 <= there.kb < 1_050_000 // 1024


@pytest.mark.parametrize("shell", [["dash"], ["busybox", "ash"]])
def test_a_file_system_that_is_too_small_refuses_before_anything_is_written(shell: list[str]) -> None:
    vast = room.Need("/", kb=10**12, ample_kb=10**12, inodes=1)
    little = room.Need("/", kb=1, ample_kb=1, inodes=1)
    for wanted, status in (([little], 0), ([vast], 1), ([little, vast], 1)):
        program = frame(room.refusal(wanted) + b"say written\n", "0" * 24)
        done = subprocess.run(shell, input=program, capture_output=True, check=False)
        parsed = parse(done.stdout.decode(), "0" * 24)
        assert parsed is not None and parsed[1] == status, done
        reply = Reply(tuple(parsed[0]), parsed[1])
        assert ("written" in reply) == (status == 0)
        assert bool(room.shortage(reply, wanted)) == (status == 1)


@pytest.mark.parametrize("shell", [["dash"], ["busybox", "ash"]])
@pytest.mark.parametrize(("kb", "inodes", "refused"), [(99, 9, False), (98, 9, True), (99, 8, True)])
def test_one_block_or_one_inode_too_few_refuses_before_anything_is_written(
    shell: list[str], kb: int, inodes: int, refused: bool
) -> None:
    df = f"df() {{ echo head; case $1 in -Pk) echo d 200 $((200 - {kb})) 1 5% / ;; *) echo d 50 1 {inodes} 5% / ;; esac; }}\n"
    wanted = [room.Need("/", kb=99, ample_kb=99, inodes=9)]
    program = frame(df.encode() + room.refusal(wanted) + b"say written\n", "0" * 24)
    done = subprocess.run(shell, input=program, capture_output=True, check=False)
    parsed = parse(done.stdout.decode(), "0" * 24)
    assert parsed is not None and parsed[1] == int(refused), done
    assert ("written", "") not in parsed[0] or not refused
    assert (("refused", "room") in parsed[0]) == refused


def test_a_device_without_df_or_without_counts_is_not_refused() -> None:
    wanted = room.needs(_STATE, [(_BIG, 0)], _ONE)
    program = frame(b"df() { return 127; }\n" + room.refusal(wanted) + b"say written\n", "0" * 24)
    done = subprocess.run(["dash"], input=program, capture_output=True, check=True)
    assert b"room 0 - - -\nwritten" in done.stdout
    assert room.shortage(_reply(("room", "0 - - -")), wanted) == ""


def test_a_shortage_names_the_place_both_figures_and_what_to_do() -> None:
    wanted = room.needs(_STATE, [(_BIG, 0)], _TWO)
    said = room.shortage(_reply(("room", "0 999999 999999 3"), ("room", "1 90000 12 9999")), wanted)
    assert "/etc is full" in said and f"{wanted[1].ample_kb} kB there, and 12 kB are free" in said
    assert "/ has no inodes left" in said and "3 are free" in said and "Delete files there" in said


def test_memory_is_the_least_of_what_is_free_and_what_is_allowed() -> None:
    lines = (("memory", "MemFree: 100"), ("memory", "MemAvailable: 5000"), ("memory", "SwapFree: 1000"))
    assert room.memory_kb(_reply(*lines)) == 6000
    assert room.memory_kb(_reply(*lines, ("memory", "limit: 4000"))) == 4000
    assert room.memory_kb(_reply(("memory", "MemFree: 100"))) == 100
    assert room.memory_kb(_reply()) == 0


def test_a_program_that_the_shell_cannot_hold_is_refused_with_the_figures() -> None:
    small = _reply(("memory", "MemAvailable: 16000"))
    assert room.too_large(small, 1_000_000) == ""
    said = room.too_large(small, 5_000_000)
    assert "5000000" not in said and "4882 kB" in said and "16000 kB can be had" in said
    assert room.too_large(_reply(), 10**9) == "", "nobody knows"
