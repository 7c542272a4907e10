"""sshd takes the first value: ours must come first, wherever the device's own stand."""

from __future__ import annotations

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.access import sshd_config
from ansible_collections.sallyport.iot.plugins.plugin_utils.access.sshd_config import DROP_IN, MAIN

INCLUDE = "Include /etc/ssh/sshd_config.d/*.conf\n"
OURS = [("PasswordAuthentication", "no"), ("PermitRootLogin", "prohibit-password")]
NAMES = [keyword for keyword, _ in OURS]


def test_a_main_file_that_includes_first_gets_a_drop_in() -> None:
    files = {MAIN: f"# comment\n{INCLUDE}PasswordAuthentication yes\n"}
    assert sshd_config.place(files, NAMES).path == DROP_IN


def test_a_relative_and_quoted_include_counts_too() -> None:
    assert sshd_config.place({MAIN: 'Include "sshd_config.d/*.conf"\n'}, NAMES).path == DROP_IN


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f"PermitRootLogin yes\n{INCLUDE}", "line 1 sets permitrootlogin before anything"),
        ("PermitRootLogin yes\n", "line 1 sets permitrootlogin"),
        ("Port 22\n", "does not include"),
        (f"Match User bob\n{INCLUDE}", "does not include"),
        ("Include /etc/ssh/other/*.conf\n", "line 1 includes /etc/ssh/other/*.conf first"),
        (f"Include /etc/ssh/vendor.conf\n{INCLUDE}", "line 1 includes /etc/ssh/vendor.conf first"),
        ("Include vendor.conf sshd_config.d/*.conf\n", "includes vendor.conf sshd_config.d/*.conf first"),
        (f"permitrootlogin=yes\n{INCLUDE}", "line 1 sets permitrootlogin before anything"),
    ],
)
def test_an_include_that_comes_too_late_or_not_at_all_means_the_main_file(text: str, why: str) -> None:
    where = sshd_config.place({MAIN: text}, NAMES)
    assert where.path == MAIN and why in where.why


def test_a_drop_in_that_sorts_before_ours_means_the_main_file() -> None:
    files = {MAIN: INCLUDE, "/etc/ssh/sshd_config.d/00-aaa.conf": "PasswordAuthentication yes\n"}
    where = sshd_config.place(files, NAMES)
    assert where.path == MAIN and "00-aaa.conf line 1" in where.why
    files["/etc/ssh/sshd_config.d/00-aaa.conf"] = "Port 2222\nMatch User x\nPasswordAuthentication yes\n"
    assert sshd_config.place(files, NAMES).path == DROP_IN
    files["/etc/ssh/sshd_config.d/00-aaa.conf"] = "Include /etc/ssh/vendor.conf\n"
    where = sshd_config.place(files, NAMES)
    assert where.path == MAIN and "00-aaa.conf line 1 includes /etc/ssh/vendor.conf before" in where.why
    files["/etc/ssh/sshd_config.d/00-aaa.conf"] = "Match User x\nInclude /etc/ssh/vendor.conf\n"
    assert sshd_config.place(files, NAMES).path == DROP_IN


def test_the_block_stands_on_top_and_a_second_run_changes_nothing() -> None:
    before = "Port 22\nMatch User bob\n  PasswordAuthentication yes\n"
    once = sshd_config.files_for(sshd_config.place({MAIN: before}, NAMES), {MAIN: before}, OURS, "ours")
    assert once[MAIN].startswith(sshd_config.BEGIN) and once[MAIN].endswith(before)
    twice = sshd_config.files_for(sshd_config.place(once, NAMES), once, OURS, "ours")
    assert twice == once
    assert sshd_config.without_block(once[MAIN]) == before


def test_match_blocks_that_say_otherwise_are_named_with_their_line() -> None:
    files = {MAIN: f"{INCLUDE}Match User bob\n  PasswordAuthentication yes\nMatch all\nPermitRootLogin yes\n"}
    assert sshd_config.exceptions(files, OURS) == [
        "/etc/ssh/sshd_config line 3: the block 'Match User bob' keeps passwordauthentication yes"
    ]


@pytest.mark.parametrize(
    ("keyword", "value"), [("Banner", "x\nPermitRootLogin yes"), ("A b", "c"), ("X", "")]
)
def test_a_value_cannot_become_another_line(keyword: str, value: str) -> None:
    with pytest.raises(ValueError, match="one line of text"):
        sshd_config.render([(keyword, value)])


def test_an_option_of_which_sshd_takes_the_last_value_is_named() -> None:
    files = {MAIN: INCLUDE, "/etc/ssh/sshd_config.d/70-own.conf": "MaxStartups 1:100:1\nMaxAuthTries 100\n"}
    wanted = [("MaxStartups", "30:30:100"), ("MaxAuthTries", "4")]
    (note,) = sshd_config.exceptions(files, wanted)
    assert note.startswith("/etc/ssh/sshd_config.d/70-own.conf line 1: maxstartups 1:100:1 holds")
