"""What commit sends: whatever the content, the path or the cut, a device writes exactly it or runs nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.device import hook, payload
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply, frame, parse
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.generations import _manifest
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.transaction import (
    File,
    Transaction,
    same_digest,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SHELLS = {"dash": ["dash"], "ash": ["busybox", "ash"], "bash": ["bash", "--posix"]}
_PROGRAM = Path(payload.__file__).with_name("program.sh")
_quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

_hostile_line = st.sampled_from(
    [
        b"",
        b"$(touch /nowhere)",
        b"`id`",
        b"'",
        b'"',
        b"\\",
        b"END_",
        b"EOF",
        b"\0",
        b"\x81\xff",
        b"\r",
        b"%s%n",
        b"-n",
        b"\t",
    ]
)
_content = st.one_of(
    st.binary(max_size=400),
    st.lists(st.one_of(_hostile_line, st.binary(max_size=30)), max_size=12).map(b"\n".join),
)
_text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
# As the controller holds names that are not UTF-8.
_bytes = st.binary(max_size=40).map(lambda raw: raw.replace(b"\0", b"").decode("utf-8", "surrogateescape"))


def _run(shell: str, program: bytes, folder: Path) -> subprocess.CompletedProcess[bytes]:
    name, _, option = shell.partition(" ")
    return subprocess.run(
        [*SHELLS[name], *option.split()],
        input=program,
        capture_output=True,
        check=False,
        cwd=folder,
        timeout=30,
        env={"PATH": os.environ["PATH"]},
    )


def _appears(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear in a minute"
        time.sleep(0.02)


@pytest.mark.parametrize("shell", SHELLS)
@_quick
@given(content=_content)
def test_any_content_arrives_as_it_was(shell: str, content: bytes, tmp_path: Path) -> None:
    done = _run(shell, payload.write(content, b"here"), tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "here").read_bytes() == content


@pytest.mark.parametrize("shell", SHELLS)
def test_five_megabytes_arrive_as_they_were(shell: str, tmp_path: Path) -> None:
    content = (
        b"".join(b"line %d of a large file with 'quotes' and $dollars\n" % n for n in range(90000))
        + b"\0\xffend"
    )
    assert len(content) > 5_000_000 * 0.9
    assert _run(shell, payload.write(content, b"here"), tmp_path).returncode == 0
    assert (tmp_path / "here").read_bytes() == content


@pytest.mark.parametrize("shell", SHELLS)
@_quick
@given(word=_text)
def test_a_quoted_word_is_one_word_and_itself(shell: str, word: str, tmp_path: Path) -> None:
    done = _run(shell, b"printf '<%s>' " + payload.quote(word) + b"\n", tmp_path)
    assert done.stdout == b"<" + word.encode() + b">"


@pytest.mark.parametrize("shell", SHELLS)
def test_a_frame_cut_at_any_byte_runs_nothing(shell: str, tmp_path: Path) -> None:
    """tests/faults cuts the real payloads of a commit."""
    body = b"touch ran\n" + payload.write(b"some content\nwith 'lines'\n\0", b"written") + b"say done\n"
    whole = frame(body, "a" * 24)
    for length in range(len(whole) - 1):  # without its last newline the program is complete
        done = _run(f"{shell} -x", whole[:length], tmp_path)
        cut = f"cut after {length} bytes of {len(whole)}: {whole[:length][-60:]!r}: {done.stderr!r}"
        assert not re.search(rb"^\+ ", done.stderr, re.M) and not done.stdout, cut
        assert not list(tmp_path.iterdir()), cut
    done = _run(f"{shell} -x", whole, tmp_path)
    assert done.returncode == 0 and re.search(rb"^\+ ", done.stderr, re.M)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ran", "written"]


@pytest.mark.parametrize("shell", SHELLS)
def test_many_files_are_looked_at_at_once_and_none_is_taken_for_another(shell: str, tmp_path: Path) -> None:
    def ask(names: list[str], together: int) -> Reply:
        files = tuple(File(f"{tmp_path}/{name}") for name in names)
        program = payload.query(Transaction("trial", files, state_dir=str(tmp_path)), [], together=together)
        parsed = parse(_run(shell, frame(program, "b" * 24), tmp_path).stdout.decode(), "b" * 24)
        assert parsed is not None and parsed[1] == 0
        return Reply(tuple(parsed[0]), parsed[1])

    def right(name: str, index: int, looked: tuple[dict[str, str], dict[str, str]]) -> bool:
        same = same_digest(name.encode(), looked[0][str(index)])
        return same and looked[1][str(index)].split()[0] == "640"

    plain = [f"file {number} 'of' $many" for number in range(7)]
    for name in [*plain, "two\nlines", "back\\slash"]:
        (tmp_path / name).write_text(name)
        (tmp_path / name).chmod(0o640)
    looked = payload.looked_at(ask([*plain, "missing"], 3))
    assert looked is not None and all(right(name, index, looked) for index, name in enumerate(plain))
    hostile = [plain[0], "two\nlines", "back\\slash", plain[1]]
    assert (together := payload.looked_at(ask(hostile, 9))) is None or right(hostile[3], 3, together)
    singly = payload.looked_at(ask(hostile, 1))
    assert singly is not None and all(right(name, index, singly) for index, name in enumerate(hostile))


@pytest.mark.parametrize("shell", SHELLS)
def test_only_files_that_somebody_would_read_are_fetched_for_a_diff(shell: str, tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"x" * payload.SHOWN_BYTES)
    (tmp_path / "long").write_bytes(b"x" * (payload.SHOWN_BYTES + 1))
    files = tuple(File(f"{tmp_path}/{name}") for name in ("short", "long", "short"))
    program = payload.query(Transaction("trial", files, state_dir=str(tmp_path)), [0, 1])
    parsed = parse(_run(shell, frame(program, "b" * 24), tmp_path).stdout.decode(), "b" * 24)
    assert parsed is not None
    fetched = {key: len(value) for key, value in parsed[0] if key.startswith("content")}
    assert fetched == {"content 0": payload.SHOWN_BYTES}


@pytest.mark.parametrize("shell", SHELLS)
def test_where_folders_really_lie_is_told_where_it_is_not_what_they_say(shell: str, tmp_path: Path) -> None:
    real = tmp_path.resolve() / "two\nlines 'and $more"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    names = ("plain", "link", "link/not/yet")
    files = tuple(File(f"{tmp_path}/{name}/file") for name in names)
    change = Transaction("trial", files, state_dir=str(tmp_path))
    parsed = parse(
        _run(shell, frame(payload.query(change, []), "b" * 24), tmp_path).stdout.decode(), "b" * 24
    )
    assert parsed is not None
    told = dict(parsed[0])
    places = {folder: told.get(f"place {number}", "") for number, folder in enumerate(payload.places(change))}
    assert [places[f"{tmp_path}/{name}"] for name in names] == ["", str(real), str(real)]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_reply_is_whole_or_unknown(shell: str, tmp_path: Path) -> None:
    nonce = "b" * 24
    reply = _run(
        shell, frame(b"say key value\nprintf 'one\\ntwo' | blob text\nexit 3\n", nonce), tmp_path
    ).stdout.decode()
    assert parse("motd of a login shell" + reply, nonce) == ([("key", "value"), ("text", "one\ntwo")], 3)
    for length in range(len(reply) - 2):
        assert parse(reply[:length], nonce) is None, length
    assert parse(reply, "c" * 24) is None


@pytest.mark.parametrize("shell", SHELLS)
@_quick
@given(paths=st.lists(_text | _bytes, min_size=1, max_size=4, unique=True), target=_text | _bytes)
def test_a_manifest_of_hostile_paths_reads_back_in_sh_and_in_python(
    shell: str, paths: list[str], target: str, tmp_path: Path
) -> None:
    files = [File(f"/x/{path}", kind="link", target=target or "t") for path in paths]
    changed = list(enumerate(files, 1))
    folders = sorted({item.folder for item in files})
    text = payload.manifest(Transaction("trial", tuple(files)), "id", changed, folders)
    (tmp_path / "manifest").write_bytes(text)
    script = b'. ./manifest\nentry() { printf \'%s\\0\' "$3" "$7"; }\nentries\n'
    done = _run(shell, script, tmp_path)
    words = done.stdout.decode("utf-8", "surrogateescape").split("\0")
    assert words[:-1] == [word for item in files for word in (item.dest, item.target)]
    assert _manifest(text.decode("utf-8", "surrogateescape"))[0] == {
        item.dest: number for number, item in changed
    }


def test_the_device_program_is_clean_for_every_shell_and_small_enough_to_read() -> None:
    subprocess.run(["busybox", "sh", "-n", str(_PROGRAM)], check=True)
    subprocess.run(["dash", "-n", str(_PROGRAM)], check=True)
    subprocess.run(
        ["shellcheck", "--shell=sh", "--severity=style", "--exclude=SC2317", str(_PROGRAM)], check=True
    )
    assert len(_PROGRAM.read_text().splitlines()) <= 425
    sent = payload.device_program().decode()
    assert sent.startswith("#!/bin/sh\nset -eu\n") and "\n#" not in sent


def test_the_boot_line_of_the_controller_and_of_the_program_are_the_same() -> None:
    line = hook.line("/var/lib/sallyport").decode().strip().replace("/var/lib/sallyport", "$STATE")
    assert f'case $text in "{line}" |' in _PROGRAM.read_text()
    assert f'INITLINE="{line}"' in hook.install("/var/lib/sallyport").decode()


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(("kept", "said"), [("", "differs"), (None, "unknown")], ids=["emptied", "missing"])
def test_a_live_state_that_a_full_medium_did_not_keep_is_no_end_of_the_question(
    shell: str, kept: str | None, said: str, tmp_path: Path
) -> None:
    (tmp_path / "live").mkdir()
    if kept is not None:
        (tmp_path / "live" / "trial").write_text(kept)
    wanted = Transaction(name="trial", files=(), live=("echo up",), state_dir=str(tmp_path))
    done = subprocess.run(
        SHELLS[shell], input=frame(payload.query(wanted, []), "0" * 24), capture_output=True, check=False
    )
    parsed = parse(done.stdout.decode(), "0" * 24)
    assert parsed is not None and parsed[1] == 0, done
    assert Reply(tuple(parsed[0]), parsed[1]).get("live") == said


def _staging(state: Path, check: str, arm: bool) -> bytes:
    wanted = Transaction(
        "trial", (File("/nowhere", content=b"a secret\n"),), check=(check,), state_dir=str(state)
    )
    program = payload.stage(
        wanted, "1" * 16, [(1, wanted.files[0])], install=arm, arm=arm, by="somebody", when="now"
    )
    return frame(program, "0" * 24)


@pytest.mark.parametrize("arm", [True, False], ids=["and armed", "and shown first"])
@pytest.mark.parametrize("shell", SHELLS)
def test_a_session_that_is_gone_when_the_checks_end_leaves_nothing_staged(
    shell: str, arm: bool, tmp_path: Path
) -> None:
    """What answers nobody gets a SIGPIPE, which ends a shell without its trap for EXIT."""
    state = tmp_path / "state"
    check = f"touch {tmp_path}/checking; until [ -e {tmp_path}/gone ]; do sleep 0.05; done"
    with subprocess.Popen(
        SHELLS[shell], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as session:
        assert session.stdin and session.stdout
        session.stdin.write(_staging(state, check, arm))
        session.stdin.close()
        _appears(tmp_path / "checking")
        assert list(state.glob("stage.*/new/1"))
        session.stdout.close()
        (tmp_path / "gone").touch()
        session.wait(30)
    assert not [path.name for path in state.iterdir() if path.name != "device"]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_question_takes_away_what_killed_programs_have_staged_and_nothing_else(
    shell: str, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    with subprocess.Popen(SHELLS[shell], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as session:
        assert session.stdin
        session.stdin.write(_staging(state, f"touch {tmp_path}/checking; exec sleep 100", True))
        session.stdin.close()
        _appears(tmp_path / "checking")
        (state / "stage.unsigned").mkdir()
        wanted = Transaction("trial", state_dir=str(state))

        def left(sweep: bool) -> set[str]:
            done = _run(shell, frame(payload.query(wanted, [], sweep=sweep), "b" * 24), tmp_path)
            parsed = parse(done.stdout.decode(), "b" * 24)
            assert parsed is not None and parsed[1] == 0, done
            return {path.name for path in state.iterdir()}

        both = {"stage.unsigned", "stage." + "1" * 16}
        assert left(True) == both  # its program is alive
        own = session.pid
        # From above: a parent that outlives its child for a moment would clean up after it.
        for process in (own, *reversed(_children(own))):
            os.kill(process, signal.SIGKILL)
    assert left(False) == both  # a check mode takes nothing away
    assert left(True) == {"stage.unsigned"}
    recycled = state / "stage.recycled"
    recycled.mkdir()
    (recycled / "program").write_text(f"{os.getpid()} 1\n")  # this number lives, but began at another time
    assert left(True) == {"stage.unsigned"}


def _children(pid: int) -> list[int]:
    found = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [lower for child in found for lower in (*_children(child), child)]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_label_of_a_generation_keeps_its_three_lines_whatever_they_hold(
    shell: str, tmp_path: Path
) -> None:
    """The controller's user, host and playbook names stand in it, and a note that is anybody's."""
    hostile = "a\nb $(touch ran) `touch ran` 'c' \"d\" \\ \udcff"
    wanted = Transaction("trial", note=hostile, state_dir=str(tmp_path / "state"))
    program = payload.stage(wanted, "1" * 16, [], install=False, arm=False, by=hostile, when="now")
    done = _run(shell, frame(program, "0" * 24), tmp_path)
    assert done.returncode == 0, done
    label = (tmp_path / "state" / f"stage.{'1' * 16}" / "label").read_bytes()
    one = hostile.replace("\n", " ").encode("utf-8", "surrogateescape")
    assert label == b"now\n" + one + b"\n" + one + b"\n"
    assert not (tmp_path / "ran").exists()
