"""One-time codes: what is written, and where they are refused because nobody could get in."""

from __future__ import annotations

import base64
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.access import enrolment, second_factor
from ansible_collections.sallyport.iot.plugins.plugin_utils.access.second_factor import Answers
from ansible_collections.sallyport.iot.plugins.plugin_utils.access.ssh_plan import Refused
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply

PAM = "# Standard\n@include common-auth\naccount required pam_nologin.so\n"
GOOD = Answers(pam=PAM, module="/lib/x/pam_google_authenticator.so")
CONFIG = {"usepam": ["yes"]}


def test_pams_lines_stand_on_top_once_and_leave_no_trace() -> None:
    once = second_factor.pam_with(PAM, True)
    assert once.splitlines()[1].startswith(
        "auth [success=done default=die] pam_google_authenticator.so secret="
    )
    assert once.endswith(PAM) and second_factor.pam_with(once, True) == once
    assert second_factor.pam_with(once, False) == PAM


@pytest.mark.parametrize(
    ("answers", "config", "text"),
    [
        ({"skew": 31.0}, CONFIG, "clock differs from the controller's by 31 s"),
        ({"skew": -1.5e9}, CONFIG, "clock differs from the controller's by 1500000000 s"),
        ({"keeps_time": False}, CONFIG, "neither a clock chip nor a time client"),
        ({"pam": None}, CONFIG, "there is no /etc/pam.d/sshd"),
        ({}, {"port": ["22"]}, "built without PAM"),
    ],
)
def test_codes_are_refused_where_they_cannot_work(
    answers: dict[str, Any], config: dict[str, Any], text: str
) -> None:
    with pytest.raises(Refused, match=text):
        second_factor.require(["alice"], Answers(**{**GOOD.__dict__, **answers}), config)


def test_codes_are_allowed_where_the_clock_is_right_and_stays_so() -> None:
    second_factor.require(["alice"], Answers(**{**GOOD.__dict__, "skew": 29.0}), CONFIG)


def test_what_the_device_says_is_read() -> None:
    records = (
        ("enrolled", "alice"),
        ("group", "sudo"),
        ("must_change", "bob"),
        ("epoch", "1000"),
        ("pam", "x\n"),
    )
    found = second_factor.answers(Reply(records, 0), 990.0, container=False)
    assert (found.skew, found.keeps_time, found.pam, found.enrolled) == (10.0, False, "x\n", {"alice"})
    assert second_factor.answers(Reply((), 0), 990.0, container=True).skew == -990.0


def test_an_enrolment_is_for_the_operator_alone_and_counts_with_the_confirmation(tmp_path: Path) -> None:
    one = enrolment.Enrolment(tmp_path / "new", "box", "alice")
    one.prepare()
    assert not one.path.exists()
    assert one.concluded() == ""
    assert one.path.stat().st_mode & 0o777 == 0o600 and one.path.parent.stat().st_mode & 0o777 == 0o700
    text = one.path.read_text(encoding="utf-8")
    assert (
        len(base64.b32decode(one.secret)) == 20 and f"secret={one.secret}&issuer=box" in text and "█" in text
    )
    assert all(code in text for code in one.emergency) and len(set(one.emergency)) == 5
    assert one.device_file().splitlines()[0] == one.secret
    assert re.fullmatch(r"\w+\n(\" [A-Z_0-9 ]+\n){4}(\d{8}\n){5}", one.device_file())


def test_an_enrolment_whose_file_cannot_be_finished_says_where_it_is(tmp_path: Path) -> None:
    one = enrolment.Enrolment(tmp_path, "box", "alice")
    one.prepare()
    one.path.mkdir()
    problem = one.concluded()
    assert "box has the new second factor of alice" in problem and f"{one.path}.new" in problem


def test_an_enrolment_that_did_not_happen_leaves_nothing(tmp_path: Path) -> None:
    one = enrolment.Enrolment(tmp_path, "box", "alice")
    one.prepare()
    one.discard()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_hosts_and_users_cannot_meet_in_one_file(tmp_path: Path) -> None:
    assert enrolment.Enrolment(tmp_path, "a-b", "c").path != enrolment.Enrolment(tmp_path, "a", "b-c").path
    with pytest.raises(enrolment.EnrolmentError, match="cannot be part of a file name"):
        enrolment.Enrolment(tmp_path, "../x", "c")


def test_the_device_says_which_of_the_sites_own_secrets_it_has(tmp_path: Path) -> None:
    """By a digest of secret and salt: the secret itself stays where it is."""
    (tmp_path / "alice").write_text(second_factor.secret_file("A" * 32, ()))
    program = second_factor.question("5a17").replace(second_factor.SECRETS_DIR, str(tmp_path))
    helpers = "say() { printf '%s\\n' \"$*\"; }\nblob() { cat >/dev/null; }\n"
    said = subprocess.run(["sh", "-eu", "-c", helpers + program], capture_output=True, text=True, check=True)
    records = tuple(line.partition(" ")[::2] for line in said.stdout.splitlines())
    found = second_factor.answers(Reply(records, 0), 0.0, container=True, salt="5a17")
    assert "AAAA" not in said.stdout and found.enrolled == {"alice"}
    assert found.has_secret("alice", "A" * 32)
    assert not found.has_secret("alice", "B" * 32) and not found.has_secret("bob", "A" * 32)
    assert "sha256sum" not in second_factor.question()
    # Without a salt nothing was asked, and nothing is known.
    assert not second_factor.answers(Reply(records, 0), 0.0, container=True).has_secret("alice", "A" * 32)
