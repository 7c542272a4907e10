"""Where files really lie, who else writes there meanwhile, and a guard that is stopped instead of killed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.device import generations, payload
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.commit import CommitError
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.transaction import File, Transaction

from tests.faults import trial
from tests.faults.chamber import SHELLS, STATE, Chamber, ChamberExchange, needs_root, wait_until
from tests.faults.counted import COUNTED

pytestmark = needs_root


def _with_file(dest: str) -> Transaction:
    return replace(trial.CHANGE, files=(*trial.CHANGE.files, File(dest, content=b"x\n")))


def _refused(chamber: Chamber, change: Transaction) -> str:
    before = chamber.snapshot()
    try:
        chamber.commit(change)
    except CommitError as error:
        return str(error) if chamber.snapshot() == before else f"the device is not as it was: {error}"
    return "it was confirmed"


def _state_among_the_files_of_others(chamber: Chamber) -> str:
    chamber.sh("mkdir -m 755 /srv; echo mine >/srv/shop.db")
    said = _refused(chamber, replace(trial.CHANGE, state_dir="/srv"))
    return f"{said} {chamber.sh('stat -c %a /srv; cat /srv/shop.db')}"


def _state_behind_a_link(chamber: Chamber) -> str:
    chamber.sh("mkdir /tmp/lib; rmdir /var/lib; ln -s /tmp/lib /var/lib")
    return _refused(chamber, trial.CHANGE)


def _folder_behind_a_link(chamber: Chamber) -> str:
    chamber.sh("ln -s ../tmp /etc/volatile")
    return _refused(chamber, _with_file("/etc/volatile/not/yet/there"))


def _way_back_where_others_keep_files(setting: trial.Setting) -> str:
    """Of a folder that was never Sallyport's, named by mistake, and of its own with something of others in it."""
    with trial.fresh(setting, "others") as chamber:
        chamber.sh("mkdir /srv; echo mine >/srv/shop.db")
        ChamberExchange(chamber).run(generations.clear("/srv"))
        chamber.commit(trial.CHANGE)
        chamber.sh(f"echo mine >{STATE}/notes")
        ChamberExchange(chamber).run(generations.clear(STATE))
        return chamber.sh(f"cat /srv/shop.db {STATE}/notes; ls -A /srv {STATE}")


def test_a_way_back_removes_nothing_that_is_not_sallyports(
    both_shells: Callable[..., dict[str, Any]],
) -> None:
    for shell, left in both_shells(_way_back_where_others_keep_files).items():
        assert left.split() == ["mine", "mine", "/srv:", "shop.db", f"{STATE}:", "notes"], f"{shell}: {left}"


def _one_file_twice(chamber: Chamber) -> str:
    chamber.sh("ln -s /etc /alias")
    return _refused(chamber, _with_file("/alias/one"))


def _a_file_and_its_link(chamber: Chamber) -> str:
    chamber.sh("ln -s one /etc/name")
    return _refused(chamber, _with_file("/etc/name"))


_REFUSED: dict[str, tuple[Callable[[Chamber], str], str]] = {
    "state among the files of others": (_state_among_the_files_of_others, "state_dir /srv holds /srv/shop.db"),
    "state on tmpfs behind a link": (_state_behind_a_link, "/tmp/lib lies on tmpfs"),
    "file on another mount behind a link": (_folder_behind_a_link, "lies on /tmp (tmpfs), which BusyBox init mounts"),
    "one file under two folders": (_one_file_twice, "two of the files are one on this device, /etc/one"),
    "a file and a link to it": (_a_file_and_its_link, "two of the files are one on this device, /etc/one"),
}  # fmt: skip


def _try_refused(setting: trial.Setting, what: str) -> str:
    with trial.fresh(setting, "links") as chamber:
        return _REFUSED[what][0](chamber)


@pytest.mark.parametrize("what", _REFUSED)
def test_links_among_folders_hide_neither_a_mount_nor_a_file_that_is_named_twice(
    what: str,
    both_shells: Callable[..., dict[str, Any]],
) -> None:
    for shell, said in both_shells(_try_refused, what).items():
        assert _REFUSED[what][1] in said, f"{shell}: {said}"


# The owner of a folder, who puts a link where the new file was: as quick as can be, right before chmod or chown.
_SWAPPER = """#!/bin/sh
for path; do
  case $path in */.sallyport-*.new) rm -f "$path"; ln -s /etc/passwd "$path" ;; esac
done
PATH=${PATH#/run/brisk:}
exec "${0##*/}" "$@"
"""


def _with_a_swapper(setting: trial.Setting, links: bool) -> list[str]:
    with trial.fresh(setting, "swapper") as chamber:
        for name in ("chmod", "chown"):
            (chamber.root / "run/brisk" / name).write_text(_SWAPPER)
        if not links:
            # Another file system behind the folder: nothing can be linked there, so it is copied.
            (chamber.root / "run/brisk/ln").write_text(
                '#!/bin/sh\ncase $1 in -s) PATH=${PATH#/run/brisk:}; exec ln "$@" ;; esac\nexit 1\n'
            )
        chamber.sh("chmod 755 /run/brisk/*")
        before = chamber.snapshot()["/etc/passwd"]
        chamber.commit(trial.CHANGE)
        after = chamber.snapshot()
        problems = [] if after["/etc/passwd"] == before else [f"/etc/passwd became {after['/etc/passwd']}"]
        wanted = {"/etc/one": ("0600", "0:0"), "/etc/users": ("0640", "1000:1000")}
        problems += [
            f"{path} is {after[path][:3]}, not {want}"
            for path, want in wanted.items()
            if after[path][:3] != ("file", *want)
        ]
        return problems + chamber.leftovers()


@pytest.mark.parametrize("links", [True, False], ids=["linked", "copied"])
def test_who_owns_a_folder_cannot_turn_the_mode_of_a_new_file_on_another_one(
    links: bool,
    both_shells: Callable[..., dict[str, Any]],
) -> None:
    for shell, problems in both_shells(_with_a_swapper, links).items():
        assert not problems, f"{shell}: {problems}"


class _Meanwhile(ChamberExchange):
    """Somebody sets a password between the question and the change."""

    def run(self, program: bytes | str) -> Reply:
        if self.count == 1:
            self.chamber.sh("echo 'set by hand' >/etc/users")
        return super().run(program)


def _way_back_through_a_planted_link(setting: trial.Setting) -> list[str]:
    with trial.fresh(setting, "planted") as chamber:
        chamber.commit(trial.CHANGE)
        before = chamber.snapshot()["/etc/passwd"]
        # Nothing can be linked, so copies are made; and whoever owns the folder knows the next name before it is there.
        (chamber.root / "run/brisk/ln").write_text(
            '#!/bin/sh\nPATH=${PATH#/run/brisk:}\ncase $1 in -s) exec ln "$@" ;; esac\n'
            'ln -sf /etc/passwd "$2"; exit 1\n'
        )
        chamber.sh("chmod 755 /run/brisk/ln")
        known = generations.parse(ChamberExchange(chamber).run(generations.listing(STATE)))
        try:
            chamber.commit(generations.way_back(known, 0, state_dir=STATE, seconds=3))
        except CommitError as error:  # a refusal is as good
            if "refused" not in str(error):
                return [str(error)]
        after = chamber.snapshot()["/etc/passwd"]
        return [] if after == before else [f"/etc/passwd became {after}"]


def test_a_way_back_writes_through_no_link_that_was_planted(
    both_shells: Callable[..., dict[str, Any]],
) -> None:
    for shell, problems in both_shells(_way_back_through_a_planted_link).items():
        assert not problems, f"{shell}: {problems}"


def _changed_meanwhile(setting: trial.Setting) -> str:
    with trial.fresh(setting, "meanwhile") as chamber:
        old = hashlib.sha256(b"old secret\n").hexdigest()
        files = tuple(
            replace(item, replaces=old) if item.dest == "/etc/users" else item for item in trial.CHANGE.files
        )
        try:
            chamber.commit(replace(trial.CHANGE, files=files), exchange=_Meanwhile(chamber))
        except CommitError as error:
            return f"{error} {chamber.snapshot()['/etc/users'][3]}{''.join(chamber.leftovers())}"
        return "it was confirmed"


def test_a_file_that_somebody_changes_after_the_question_is_not_replaced(
    both_shells: Callable[..., dict[str, Any]],
) -> None:
    for shell, said in both_shells(_changed_meanwhile).items():
        assert "/etc/users is not the file that this change was made for" in said, f"{shell}: {said}"
        assert said.endswith("set by hand\n"), f"{shell}: {said}"


def _with_a_stopped_guard(setting: trial.Setting) -> list[str]:
    with trial.fresh(setting, "stopped") as chamber:
        before = chamber.snapshot()
        program = payload.stage(
            trial.CHANGE, "00000000000000aa", list(enumerate(trial.CHANGE.files, 1)),
            install=True, arm=True, by="trial", when="2026-01-01T00:00:00Z",
        )  # fmt: skip
        reply = ChamberExchange(chamber).run(program)
        transaction = chamber.root / f"{STATE}/armed/tx".lstrip("/")
        if "armed" not in reply or not wait_until((transaction / "live").exists):
            return [f"not armed: {reply}"]
        chamber.sh(f"read -r pid _ <{STATE}/armed/tx/guard1; kill -STOP $pid")
        if not wait_until(lambda: not chamber.pending()):
            return ["the change is still pending, although nobody confirmed it"]
        reason = chamber.sh(f"cat {STATE}/reverted/reason")
        problems = [] if "no confirmation came" in reason else [f"the reason is {reason!r}"]
        return problems + ([] if chamber.snapshot() == before else ["the old files did not come back"])


def test_a_guard_that_is_stopped_does_not_keep_the_other_one_from_the_way_back(
    both_shells: Callable[..., dict[str, Any]],
) -> None:
    for shell, problems in both_shells(_with_a_stopped_guard, scenario="abandoned").items():
        assert not problems, f"{shell}: {problems}"
    COUNTED.append(f"guard 1 stopped, {' and '.join(SHELLS)}: taken back by guard 2")
