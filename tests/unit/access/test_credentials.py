"""Hashes are judged here, forgotten here, and what cannot be judged is never called fine."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from ansible.utils.display import Display
from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials import hashing, judge, reading, shadow
from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials.handover import (
    HandoverError,
    VaultFile,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials.quiet import quiet
from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials.record import Record
from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials.shadow import Account

SETTINGS = {
    "md5": "$1$saltsalt",
    "sha256": "$5$saltsaltsaltsalt",
    "sha512": "$6$rounds=1000$saltsaltsaltsalt",
    "bcrypt": "$2b$04$abcdefghijklmnopqrstuu",
    "yescrypt": "$y$j75$abcdefghijklmnopqrstu.",
    "des": "ab",
}
PAIRS = (("root", "xc3511"), ("admin", "admin"))


def account(field: str, name: str = "root", uid: int = 0) -> Account:
    return Account(name, uid, "/root", "/bin/sh", shadow.SHADOW, field)


def made(scheme: str, password: str = "xc3511") -> str:
    result = hashing.compute(password, SETTINGS[scheme])
    if result is None:
        pytest.skip(f"this machine's libcrypt has no {scheme}")
    return result


@pytest.mark.parametrize("scheme", sorted(SETTINGS))
def test_a_default_password_is_found_under_every_scheme_and_another_is_not(scheme: str) -> None:
    guesses = judge.candidates("root", PAIRS, [])
    assert hashing.scheme(made(scheme)) == scheme
    assert judge.judge(account(made(scheme)), guesses).verdict == "default"
    assert judge.judge(account(made(scheme, "Zk7qPq2m")), guesses).verdict == "unique"


@pytest.mark.parametrize(
    ("setting", "scheme"),
    [
        ("$2a$04$abcdefghijklmnopqrstuu", "bcrypt"), ("$2y$04$abcdefghijklmnopqrstuu", "bcrypt"), ("$7$6U..../....abcd", "scrypt"),
        ("$gy$j75$abcdefghijklmnopqrstu.", "gost-yescrypt"), ("_J9..abcd", "bsdi-des"), ("$sm3$abcdefgh", "sm3"),
    ],
)  # fmt: skip
def test_rarer_schemes_are_known_by_name_and_judged_where_this_library_can(setting: str, scheme: str) -> None:
    assert hashing.scheme(setting.ljust(20, "x")) == scheme
    hashed = hashing.compute("xc3511", setting)
    if hashed is None:
        assert judge.judge(account(setting.ljust(20, "x")), ["xc3511"]).verdict == "not assessed"
        return
    assert hashing.scheme(hashed) == scheme
    assert judge.judge(account(hashed), ["no", "xc3511"]).verdict == "default"
    assert judge.judge(account(hashed), ["no"]).verdict == "unique"


def test_a_hash_that_the_library_gives_back_in_another_form_is_not_assessed() -> None:
    # It cuts a salt after eight letters: no guess could ever match this one.
    asked = "$1$saltsaltmore$" + "x" * 22
    answer = hashing.compute("xc3511", asked)
    assert answer is None or answer.startswith("$1$saltsalt$")
    assert judge.judge(account(asked), ["xc3511"]).verdict == "not assessed"
    assert hashing.compute("x", "$8$nobody$knows") is None


@pytest.mark.parametrize("option", ["-1", "-5", "-6"])
def test_hashes_that_another_program_made_are_read(option: str) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl, which makes hashes with code of its own")
    done = subprocess.run([openssl, "passwd", option, "xc3511"], capture_output=True, text=True, check=True)
    assert judge.judge(account(done.stdout.strip()), ["no", "xc3511"]).verdict == "default"


@pytest.mark.parametrize(
    "field", ["$8$unknown$abc", "$argon2id$v=19$m=65536$aaaa$bbbb", "$6$rounds=999999999$s$x"]
)
def test_what_cannot_be_computed_is_not_assessed(field: str) -> None:
    verdict = judge.judge(account(field), ["xc3511"])
    assert verdict.verdict == "not assessed" and not verdict.usable_by_strangers


@pytest.mark.parametrize(
    ("setting", "refused"),
    [
        ("_zzzzabcd", True), ("_J9..abcd", False), ("_/", False),
        ("$2b$14$abcd", False), ("$2b$15$abcd", True), ("$2y$15$abcd", True), ("$2a$1x$abcd", True),
        ("$7$GU..../....abcd$", True), ("$7$CU..../....abcd$", False), ("$7$CU....z....abcd$", True),
        ("$7$", True), ("$7$*U..../....abcd$", True),
        ("$y$j9T$abcd", False), ("$y$jAT$abcd", False), ("$y$jCT$abcd", True), ("$y$jzT$abcd", True),
        # With r of two letters, with 50 lanes, with 50 passes, cut off.
        ("$y$j9wz$abcd", True), ("$y$j9T.k$abcd", True), ("$y$j9T/k$abcd", True), ("$gy$jCT$abcd", True),
        ("$y$j$abcd", True), ("$gy$j9T$abcd", False), ("$sm3$rounds=2000000$abcd", True), ("ab", False),
    ],
)  # fmt: skip
def test_a_device_cannot_ask_for_more_than_a_guess_may_cost(setting: str, refused: bool) -> None:
    assert hashing._too_expensive(setting) is refused


@pytest.mark.parametrize(
    ("field", "verdict"),
    [
        ("", "empty"),
        ("*", "locked"),
        ("!", "locked"),
        ("!$6$a$b", "locked"),
        ("!!", "locked"),
        ("garbage", "locked"),
    ],
)
def test_empty_and_locked_fields_need_no_guessing(field: str, verdict: str) -> None:
    assert judge.judge(account(field), []).verdict == verdict


def test_names_serials_and_addresses_of_the_device_are_guessed() -> None:
    words = judge.device_words(
        {"hostname": "gw-17.example", "macs": ["00:11:22:aa:bb:cc"], "serials": ["SN123456"]}
    )
    guessed = (
        "gw-17", "001122AABBCC", "aabbcc", "SN123456", "toor", "root", "",
        # As labels print them.
        "00:11:22:AA:BB:CC", "00-11-22-AA-BB-CC", "00-11-22-aa-bb-cc", "root-123456", "root123456",
    )  # fmt: skip
    for password in guessed:
        assert password in judge.candidates("root", PAIRS, words)


def test_the_list_that_comes_with_the_collection_is_whole() -> None:
    pairs = judge.load_list(judge.DEFAULT_LIST)
    assert len(pairs) == 61 and ("root", "xc3511") in pairs and ("root", "") in pairs


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,password\na,b\n", "expected the header user,password"),
        ("user,password\na\n", "row 2: expected two fields, found 1"),
    ],
)
def test_a_list_of_another_form_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "list.csv"
    path.write_text(text)
    with pytest.raises(judge.ListError, match=message):
        judge.load_list(path)
    with pytest.raises(judge.ListError, match="cannot be read"):
        judge.load_list(tmp_path / "missing.csv")


PASSWD = "root:x:0:0:root:/root:/bin/sh\nold:abgOeLfPimXQo:5:5::/:/bin/sh\n+::::::\nghost:x:7:7::/:/bin/sh\nbroken\n"
SHADOW = "root:$1$a$b:19000:0:99999:7:::\ndaemon:*:19000::::::\n"


def test_the_field_that_counts_is_found_in_either_file() -> None:
    fields = {one.name: (one.file, one.field) for one in shadow.parse(PASSWD, SHADOW)}
    assert fields == {
        "root": ("/etc/shadow", "$1$a$b"),
        "old": ("/etc/passwd", "abgOeLfPimXQo"),
        "ghost": ("/etc/shadow", "*"),
    }


def test_a_replaced_field_changes_nothing_else() -> None:
    assert shadow.replaced(SHADOW, {"root": "*"}) == SHADOW.replace("$1$a$b", "*")
    assert shadow.replaced(PASSWD, {"nobody": "*"}) == PASSWD
    with pytest.raises(ValueError, match="must not hold a colon"):
        shadow.replaced(SHADOW, {"root": "a:b"})


def test_an_account_never_shows_its_hash() -> None:
    assert "abgOeLfPimXQo" not in repr(shadow.parse(PASSWD, SHADOW))


def test_a_generated_password_is_long_unlike_the_last_and_its_hash_is_its_own() -> None:
    one, two = hashing.generate_password(), hashing.generate_password()
    assert len(one) == 24 and one != two
    field = hashing.hash_password(one)
    assert field.startswith("$6$") and hashing.matches(one, field) and not hashing.matches(two, field)
    assert field != hashing.hash_password(one)


@pytest.mark.parametrize(
    ("scheme", "front"), [("yescrypt", "$y$j9T$"), ("sha512", "$6$"), ("sha256", "$5$"), ("md5", "$1$")]
)
def test_a_new_hash_has_the_usual_cost_and_a_salt_that_no_other_has(scheme: str, front: str) -> None:
    salts = {hashing.hash_password("xc3511", scheme).removeprefix(front).partition("$")[0] for _ in range(4)}
    assert len(salts) == 4 and all(len(salt) >= 8 for salt in salts)


def test_a_scheme_that_cannot_be_made_is_an_error_and_never_another_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ValueError, match="cannot make hashes of the scheme 'des'"):
        hashing.hash_password("xc3511", "des")
    monkeypatch.setattr(hashing, "compute", lambda password, setting: "$1$saltsalt$abc")
    with pytest.raises(ValueError, match="libcrypt cannot make yescrypt hashes"):
        hashing.hash_password("xc3511", "yescrypt")


def test_schemes_are_tried_only_where_the_answer_counts() -> None:
    assert reading.trial({"ssh": {"server": "dropbear"}}) == ""
    assert reading.trial({"ssh": {"server": "openssh"}}).count("\ntrial ") == 2


def record(tmp_path: Path, host: str = "a", context: str = "c") -> Record:
    return Record(tmp_path / "records", host, context)


def test_a_hash_is_judged_once_and_again_when_it_or_the_lists_change(tmp_path: Path) -> None:
    one = account(made("sha512"))
    verdict = judge.Verdict("root", 0, "unique", "sha512")
    record(tmp_path).save([(one, verdict)])
    assert record(tmp_path).known(one) == verdict
    assert record(tmp_path).known(account(made("sha512", "other"))) is None
    assert record(tmp_path, context="other lists").known(one) is None
    assert record(tmp_path).known(account("*")) is None


def test_records_hold_no_hash_no_salt_and_no_name_and_are_nobody_elses(tmp_path: Path) -> None:
    one = account(made("sha512"))
    record(tmp_path).save([(one, judge.Verdict("root", 0, "unique", "sha512"))])
    for path in (tmp_path / "records").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        text = path.read_bytes()
        assert one.field.encode() not in text and b"saltsalt" not in text and path.name != "a.json"
    assert stat.S_IMODE((tmp_path / "records").stat().st_mode) == 0o700


def test_short_salts_are_never_remembered(tmp_path: Path) -> None:
    one = account(made("des"))
    record(tmp_path).save([(one, judge.Verdict("root", 0, "unique", "des"))])
    assert record(tmp_path).known(one) is None


def test_the_same_hash_or_salt_on_two_devices_is_seen_but_only_of_devices_that_are_there(
    tmp_path: Path,
) -> None:
    same, salted = account(made("sha512")), account(made("sha512", "another"), "admin", 1000)
    verdict = judge.Verdict("root", 0, "unique", "sha512")
    record(tmp_path, "a").save([(same, verdict)])
    here = record(tmp_path, "b")
    here.save([(salted, verdict)])
    assert here.shared_with([same, salted], ["a", "b"]) == {"root": ["a:root"], "admin": ["a:root"]}
    assert here.shared_with([same], ["b"]) == {}
    assert here.shared_with([account("*")], ["a"]) == {}


def test_who_was_judged_first_hears_of_the_other_though_that_has_another_password_by_then(
    tmp_path: Path,
) -> None:
    same, verdict = account(made("sha512")), judge.Verdict("root", 0, "unique", "sha512")
    first, second = record(tmp_path, "a"), record(tmp_path, "b")
    first.save([(same, verdict)])
    assert first.shared_with([same], ["a", "b"]) == {} and not record(tmp_path, "a").is_new_to(["b"])
    second.save([(same, verdict)])
    assert second.shared_with([same], ["a", "b"]) == {"root": ["a:root"]}
    # The second is given another password at once.
    second.save([(account(hashing.hash_password("another")), verdict)])
    assert record(tmp_path, "a").is_new_to(["b"]) and not record(tmp_path, "a").is_new_to([])
    again = record(tmp_path, "a")
    assert again.shared_with([same], ["b"]) == {"root": ["b"]}
    again.save([(same, verdict)])
    # Told once; and whoever comes later with that password hears of it too.
    assert not record(tmp_path, "a").is_new_to(["b"])
    assert record(tmp_path, "c").shared_with([same], ["a", "b"]) == {"root": ["a:root", "b"]}


def vault(tmp_path: Path, host: str = "gw1") -> VaultFile:
    return VaultFile(tmp_path / "passwords", host, lambda text: text[::-1], lambda text: text[::-1])


def test_new_passwords_wait_beside_the_file_until_the_device_has_confirmed(tmp_path: Path) -> None:
    one = vault(tmp_path)
    one.prepare({"root": "first"})
    assert not one.path.exists()
    one.commit()
    again = vault(tmp_path)
    again.prepare({"admin": "second"})
    again.discard()
    third = vault(tmp_path)
    third.prepare({"admin": "third"})
    third.commit()
    text = third.path.read_text()[::-1]
    assert "root: first" in text and "admin: third" in text and "second" not in text
    assert stat.S_IMODE(third.path.stat().st_mode) == 0o600


def test_what_a_run_that_died_had_prepared_is_not_lost_with_the_next(tmp_path: Path) -> None:
    for password in ("first", "second", "third"):
        vault(tmp_path).prepare({"root": password})
    last = vault(tmp_path)
    last.discard()
    left = {path.name: path.read_text()[::-1] for path in last.path.parent.iterdir()}
    assert sorted(left) == ["gw1.yml.new.1", "gw1.yml.new.2"]
    assert "first" in left["gw1.yml.new.1"] and "second" in left["gw1.yml.new.2"]


def test_a_vault_that_cannot_be_read_stops_the_change(tmp_path: Path) -> None:
    def fail(text: str) -> str:
        raise RuntimeError("bad key")

    first = vault(tmp_path)
    first.prepare({"root": "x"})
    first.commit()
    with pytest.raises(HandoverError, match="cannot be decrypted with this run's vault password"):
        VaultFile(tmp_path / "passwords", "gw1", str, fail).prepare({"root": "y"})


@pytest.mark.parametrize("host", ["../etc", "", "a b", "x/y"])
def test_a_host_name_that_is_no_file_name_is_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(HandoverError, match="cannot be a file name"):
        vault(tmp_path, host)


def test_nothing_that_the_device_says_is_shown_while_it_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(Display, "debug", lambda self, message, host=None: shown.append(message))

    class Context:
        no_log = False

    class Action:
        _play_context = Context()
        _connection = type("Connection", (), {"_play_context": Context()})()

    with pytest.raises(RuntimeError), quiet(Action()):
        assert Action._play_context.no_log and Action._connection._play_context.no_log
        Display().debug("$6$secret")
        raise RuntimeError
    assert not Action._play_context.no_log and not Action._connection._play_context.no_log
    Display().debug("after")
    assert shown == ["after"]
