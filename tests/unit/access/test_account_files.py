"""One root, hashes that only root reads, no shells for services, and a lock-out that cannot hit the automation."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.action.credentials import DUE, Change, _texts
from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials import (
    handover,
    hashing,
    hygiene,
    judge,
    lockout,
    reading,
    shadow,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials.handover import Command, HandoverError
from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials.record import Record
from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials.shadow import Account
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply


def account(
    name: str, uid: int, shell: str = "/bin/sh", field: str = "*", file: str = shadow.SHADOW
) -> Account:
    return Account(name, uid, "/", shell, file, field)


def look(*accounts: Account, **changes: Any) -> hygiene.Tidying:
    settings: dict[str, Any] = {
        "modes": {"/etc/shadow": ("-rw-r-----", "root", "shadow")}, "login": "root", "with_keys": [], "keep_shells": [],
        "no_shell": "/usr/sbin/nologin", "has_shadow": True,
    }  # fmt: skip
    settings.update(changes)
    return hygiene.look(accounts, settings.pop("modes"), **settings)


def test_a_second_root_goes_and_the_login_itself_stays() -> None:
    two = account("root", 0), account("toor", 0)
    assert look(*two).removed == {"toor"}
    found = look(*two, login="toor")
    assert not found and found.remarks[0].action == "" and "make root the login" in found.remarks[0].why


@pytest.mark.parametrize(
    "line",
    [
        "toor:x: 0:0::/root:/bin/sh",
        "toor:x:+0:0::/root:/bin/sh",
        "toor:x:0:0",
        "toor::0:0",
        " toor:x:00:0:::/bin/sh:more",
    ],
)
def test_a_second_root_is_seen_however_its_line_is_written(line: str) -> None:
    texts = {
        shadow.PASSWD: f"root:x:0:0::/root:/bin/sh\n{line}\n",
        shadow.SHADOW: "root:*:1::::::\ntoor:$6$a$b:1::::::\n",
    }
    _, toor = shadow.parse(texts[shadow.PASSWD], texts[shadow.SHADOW])
    assert (toor.name, toor.uid) == ("toor", 0)
    assert toor.field == ("" if "::0" in line else "$6$a$b")
    assert look(account("root", 0), toor).removed == {"toor"}
    assert "toor" not in "".join(shadow.without(text, {"toor"}) for text in texts.values())
    assert shadow.replaced(texts[toor.file], {"toor": "*"}) == texts[toor.file].replace(
        f"toor:{'x' if toor.file == shadow.PASSWD and toor.field else toor.field}:", "toor:*:"
    )


@pytest.mark.parametrize("field", ["NP", "LK", "disabled", "no-password", "U6aMy0wojraho1"])
def test_text_that_no_scheme_has_made_is_no_password(field: str) -> None:
    assert hashing.scheme(field) == "locked"


@pytest.mark.parametrize(
    ("one", "changes", "expected"),
    [
        (account("svc", 998), {}, {"svc": "/usr/sbin/nologin"}),
        (account("svc", 998, shell=""), {}, {"svc": "/usr/sbin/nologin"}),
        (account("nobody", 65534, shell="/bin/bash"), {}, {"nobody": "/usr/sbin/nologin"}),
        (account("svc", 998, shell="/usr/sbin/nologin"), {}, {}),
        (account("sync", 4, shell="/bin/sync"), {}, {}),
        (account("person", 1000), {}, {}),
        (account("svc", 998), {"login": "svc"}, {}),
        (account("svc", 998), {"with_keys": ["svc"]}, {}),
        (account("svc", 998), {"keep_shells": ["svc"]}, {}),
        (account("svc", 998, field="$6$a$b"), {}, {}),
        (account("svc", 998), {"no_shell": ""}, {}),
    ],
)
def test_a_service_has_no_shell_unless_somebody_logs_in_with_it(
    one: Account, changes: dict[str, Any], expected: dict[str, str]
) -> None:
    assert look(one, **changes).shells == expected


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        (("-rw-r--r--", "root", "root"), ("0600", "root", "root")),
        (("-rw-r--r--", "root", "shadow"), ("0640", "root", "shadow")),
        (("-rw-r-----", "root", "users"), ("0600", "root", "root")),
        (("-rw-rw----", "root", "shadow"), ("0640", "root", "shadow")),
        (("-rw-------", "daemon", "root"), ("0600", "root", "root")),
        (("-rw-r-----", "root", "shadow"), None),
        (("-rw-------", "root", "root"), None),
        (("----------", "root", "root"), None),
    ],
)
def test_only_root_and_the_group_shadow_read_hashes(mode: Any, wanted: Any) -> None:
    found = look(modes={"/etc/shadow-": mode})
    assert found.modes == ({"/etc/shadow-": wanted} if wanted else {})


def test_a_hash_in_passwd_moves_to_shadow_and_goes_on_working() -> None:
    one = account("old", 5, field="abgOeLfPimXQo", file=shadow.PASSWD)
    assert look(one).shadowed == {"old"} and look(one, has_shadow=False).shadowed == set()
    passwd, hidden = shadow.moved(
        "root:x:0:0::/:/bin/sh\nold:abgOeLfPimXQo:5:5::/:/bin/sh\n", "root:*:1::::::\nold:!::::::", {"old"}
    )
    assert passwd == "root:x:0:0::/:/bin/sh\nold:x:5:5::/:/bin/sh\n"
    assert {a.name: (a.file, a.field) for a in shadow.parse(passwd, hidden)}["old"] == (
        shadow.SHADOW,
        "abgOeLfPimXQo",
    )


def test_shadow_is_edited_line_by_line() -> None:
    text = "root:*:19000:0:99999:7:::\nadmin:$6$a$b:19000:0:99999:7:::\n"
    due = shadow.with_change_due(text, ["admin"])
    assert due == text.replace("b:19000", "b:0") and shadow.change_is_due(due, "admin")
    assert (
        not shadow.change_is_due(text, "admin")
        and shadow.without(text, {"admin"}) == text.splitlines(True)[0]
    )


COMMON = """\
# comment
auth	[success=2 default=ignore]	pam_unix.so nullok
auth	[success=1 default=ignore]	pam_sss.so use_first_pass
auth	requisite			pam_deny.so
auth	required			pam_permit.so
auth	optional			pam_cap.so
"""
PAM = {lockout.COMMON: COMMON, "/etc/pam.d/login": "auth requisite pam_nologin.so\n@include common-auth\n",
       "/etc/pam.d/su": "auth sufficient pam_rootok.so\n@include common-auth\n"}  # fmt: skip


def test_a_refusal_is_counted_and_every_way_around_it_is_kept() -> None:
    found = lockout.plan(PAM, True, 5, 600, spare_root=False)
    modules = [line.split() for line in found.files[lockout.OWN].splitlines() if not line.startswith("#")]
    names = [
        line[-1] if line[0] != "auth" else next(word for word in line if word.endswith(".so"))
        for line in modules
    ]
    assert names == ["pam_faillock.so", "pam_unix.so", "pam_sss.so", "pam_faillock.so", "pam_deny.so", "pam_permit.so",
                     "pam_cap.so", "pam_faillock.so"]  # fmt: skip
    # From pam_unix over pam_sss, authfail and pam_deny; from pam_sss over the last two.
    assert "[success=3" in modules[1] and "[success=2" in modules[2]
    assert "even_deny_root" in modules[0] and "deny=5" in modules[0]
    assert "even_deny_root" not in lockout.plan(PAM, True, 5, 600, spare_root=True).files[lockout.OWN]


def test_login_and_su_count_and_nobody_else_and_a_second_run_finds_nothing() -> None:
    found = lockout.plan(PAM, True, 5, 600, spare_root=False)
    assert set(found.files) == {lockout.OWN, "/etc/pam.d/login", "/etc/pam.d/su"}
    assert found.files["/etc/pam.d/su"] == "auth sufficient pam_rootok.so\n@include sallyport-auth\n"
    after = {**PAM, **found.files}
    assert lockout.plan(after, True, 5, 600, spare_root=False).files == {}
    back = lockout.plan(after, True, 0, 600, spare_root=False)
    assert back.state == "off" and {path: back.files[path] for path in lockout.PROGRAMS} == {
        path: PAM[path] for path in lockout.PROGRAMS
    }


@pytest.mark.parametrize(
    ("pam", "module", "why"),
    [
        ({}, False, "this device has no PAM"),
        (PAM, False, "this device's PAM has no pam_faillock"),
        (
            {**PAM, lockout.COMMON: "auth sufficient pam_unix.so\n"},
            True,
            "is not what pam-auth-update writes",
        ),
        ({lockout.COMMON: COMMON}, True, "login and su do not include it"),
    ],
)
def test_where_guesses_cannot_be_counted_the_remedy_is_said(
    pam: dict[str, str], module: bool, why: str
) -> None:
    found = lockout.plan(pam, module, 5, 600, spare_root=False)
    assert found.state == "not available" and why in found.why and not found.files
    assert "keys only for ssh" in found.remedy


HAND = "import json,sys; print(sys.argv[1]); open(sys.argv[1],'a').write(sys.stdin.read()+'\\n')"


def test_a_command_hears_of_new_passwords_before_the_device_and_of_what_became_of_them(
    tmp_path: Path,
) -> None:
    log = tmp_path / "log"
    one = Command([sys.executable, "-c", HAND, str(log)], "gw1")
    one.prepare({"root": "new"})
    one.commit()
    one.discard()
    heard = [json.loads(line) for line in log.read_text().splitlines()]
    assert heard[0] == {"event": "prepare", "host": "gw1", "passwords": {"root": "new"}}
    assert [(each["event"], "passwords" in each) for each in heard[1:]] == [
        ("commit", False),
        ("discard", False),
    ]


def test_a_command_that_fails_stops_the_change_and_says_nothing_of_what_it_printed() -> None:
    with pytest.raises(HandoverError, match="did not take the new passwords: status 3 at prepare") as raised:
        Command([sys.executable, "-c", "import sys; print(sys.stdin.read()); sys.exit(3)"], "gw1").prepare(
            {"a": "Secret1"}
        )
    assert "Secret1" not in str(raised.value)
    with pytest.raises(HandoverError, match="could not be run"):
        Command(["/nonexistent"], "gw1").prepare({})
    with pytest.raises(HandoverError, match="not both"):
        handover.keeper(None, "gw1", "/somewhere", ["command"])


def test_a_last_word_that_is_not_taken_says_where_the_passwords_are(tmp_path: Path) -> None:
    vault = handover.VaultFile(tmp_path / "kept", "gw1", lambda text: text, lambda text: text)
    vault.prepare({"root": "Secret1"})
    vault.path.mkdir()
    problem = handover.concluded(vault, taken=True)
    assert "the device has its new passwords" in problem and f"{vault.path}.new" in problem
    assert "Secret1" not in problem and "Secret1" in Path(f"{vault.path}.new").read_text()
    fails = Command(["sh", "-c", "case $(cat) in *'\"prepare\"'*) ;; *) exit 3 ;; esac"], "gw1")
    fails.prepare({"root": "Secret1"})
    assert "status 3 at commit" in handover.concluded(fails, taken=True)
    assert handover.concluded(fails, taken=False) == ""


def test_the_same_password_under_two_salts_is_found_and_remembered(tmp_path: Path) -> None:
    one = account("root", 0, field=hashing.hash_password("Fleet-Wide-1", "md5"))
    fleet = {"Fleet-Wide-1": ["gw2"]}
    record = Record(tmp_path / "records", "gw1", "context")
    (verdict,) = judge.judge_all([one], [], [], known=record.known, fleet=fleet)
    assert verdict.verdict == "shared" and "gw2" in verdict.why and "Fleet-Wide" not in verdict.why
    record.save([(one, verdict)])
    assert Record(tmp_path / "records", "gw1", "context").known(one) == verdict
    assert Record(tmp_path / "records", "gw1", "another").known(one) is None
    assert judge.judge(one, [], fleet={"Other": ["gw2"]}).verdict == "unique"
    assert "Fleet-Wide" not in "".join(
        path.read_text(errors="replace") for path in (tmp_path / "records").iterdir()
    )


@pytest.mark.parametrize("scheme", hashing.STRONGEST_FIRST)
def test_a_new_hash_of_each_scheme_is_one_that_the_judge_reads(scheme: str) -> None:
    made = hashing.hash_password("Zk7qPq2m", scheme)
    assert hashing.scheme(made) == scheme and hashing.matches("Zk7qPq2m", made) and hashing.can_assess(made)
    assert made != hashing.hash_password("Zk7qPq2m", scheme)


def test_a_replaced_password_is_no_longer_due_and_one_that_must_change_is() -> None:
    passwd = "a:x:1:1::/:/bin/sh\nb:x:2:2::/:/bin/sh\nc:x:3:3::/:/bin/sh\n"
    hidden = "a:h1:0:0:99999:7:::\nb:h1:19000:0:99999:7:::\nc:h1:19000:0:99999:7:::\n"
    found = reading.Found(
        shadow.parse(passwd, hidden), {shadow.PASSWD: passwd, shadow.SHADOW: hidden}, {}, {}, {}, Reply((), 0)
    )
    new = {
        "a": Change("h2", "made just now", "replaced"),
        "b": Change(None, "", DUE),
        "c": Change("*", "", "locked"),
    }
    today = int(time.time() // 86400)
    made = _texts(found, new, hygiene.Tidying())[shadow.SHADOW]
    assert made in {
        f"a:h2:{day}:0:99999:7:::\nb:h1:0:0:99999:7:::\nc:*:19000:0:99999:7:::\n"
        for day in (today, today - 1)
    }


OURS = "/etc/ssh/sallyport/principals"
MAIN = "/etc/ssh/sshd_config"


@pytest.mark.parametrize(
    ("config", "files", "expected"),
    [
        ({}, {}, {"keyed"}),
        ({"trustedusercakeys": ["none"], "authorizedkeyscommand": ["none"]}, {}, {"keyed"}),
        ({"trustedusercakeys": ["/ca"], "authorizedprincipalsfile": [f"{OURS}/%u"]}, {}, {"keyed", "signed"}),
        # The name itself is the principal, or somebody else's list says whose it is.
        ({"trustedusercakeys": ["/ca"], "authorizedprincipalsfile": ["none"]}, {}, {"keyed", "signed", "svc"}),
        ({"trustedusercakeys": ["/ca"]}, {}, {"keyed", "signed", "svc"}),
        ({"trustedusercakeys": ["/ca"], "authorizedprincipalsfile": ["/etc/who/%u"]}, {}, {"keyed", "signed", "svc"}),
        ({"authorizedkeyscommand": ["/usr/bin/keys %u"]}, {}, {"keyed", "signed", "svc"}),
        ({"authorizedkeyscommand": ["none"]}, {MAIN: "Match User git\n AuthorizedKeysCommand /bin/keys\n"},
         {"keyed", "signed", "svc"}),
        # As a prediction leaves it: sshd itself still says what was before.
        ({"trustedusercakeys": ["none"], "authorizedprincipalsfile": ["none"]},
         {f"{MAIN}.d/00-sallyport.conf": f"TrustedUserCAKeys /ca\nAuthorizedPrincipalsFile {OURS}/%u\n", f"{OURS}/svc": "svc\n"},
         {"keyed", "signed", "svc"}),
    ],
)  # fmt: skip
def test_who_comes_by_certificate_or_by_a_programs_answer_logs_in_too(
    config: dict[str, list[str]], files: dict[str, str], expected: set[str]
) -> None:
    device = {
        "accounts": [{"name": "keyed", "authorized_keys": 1}, {"name": "svc", "authorized_keys": 0}],
        "ssh": {"config": config}, "files": files,
    }  # fmt: skip
    named = [account(name, 990) for name in sorted(expected | {"svc"})]
    found = reading.Found(named, {}, {}, {}, {}, Reply((("principals", "signed"),), 0))
    assert reading.without_passwords(device, found) == expected
