"""What a device gets: files, timers and commands, from what the operator wants and what the device has."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates import house, origins, sources
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents import AGENTS, choose
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents.base import (
    Found,
    NoAgent,
    Unsupported,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents.unattended_upgrades import (
    CONFIG,
    KEY,
    NEEDRESTART,
    PREFERENCES,
    SOURCE,
)

from tests.unit.updates.test_update_settings import repository, settings

DEBIAN: dict[str, Any] = {
    "packages": "apt",
    "init": "systemd",
    "os": {"id": "debian", "codename": "bookworm", "pretty": "Debian GNU/Linux 12 (bookworm)"},
}
BUSYBOX: dict[str, Any] = {"packages": "none", "init": "busybox", "os": {"id": "", "codename": ""}}
POLICY = """Package files:
 100 /var/lib/dpkg/status
     release a=now
 500 http://deb.example/debian bookworm/main amd64 Packages
     release v=12.11,o=Debian,a=oldstable,n=bookworm,l=Debian,c=main,b=amd64
     origin deb.example
Pinned packages:
"""
RASPBERRY = POLICY.replace("o=Debian", "o=Raspbian").replace("l=Debian", "l=Raspbian")


def plan(found: Found | None = None, device: dict[str, Any] = DEBIAN, **values: Any) -> house.Wanted:
    wanted = settings(**values)
    agent = choose("auto", device, wanted)
    answers = {"installed": "yes", "policy": POLICY}
    return house.wanted(wanted, agent, device, found or Found(answers=answers))


def files(wanted: house.Wanted) -> dict[str, Any]:
    return {
        entry["dest"]: entry.get("content", entry.get("link", ""))
        for entry in wanted.files
        if "state" not in entry
    }


def test_a_plain_device_gets_its_timer_and_security_from_its_own_origins() -> None:
    wanted = plan()
    made = files(wanted)
    assert wanted.timers == ("sallyport-update.timer",) and not wanted.warnings
    timer = made["/etc/systemd/system/sallyport-update.timer"]
    assert "OnCalendar=*-*-* 02:00:00\n" in timer and "RandomizedDelaySec=1800\n" in timer
    assert 'APT::Periodic::Enable "0";' in made[CONFIG] and "label=Debian-Security" in made[CONFIG]
    assert 'AllowInsecureRepositories "false"' in made[CONFIG] and "Proxy" not in made[CONFIG]
    # Whatever uses an old library is restarted, but the run that replaced it.
    assert "{override_rc}->{qr(^sallyport-)} = 0;" in made[NEEDRESTART]
    gone = {entry["dest"] for entry in wanted.files if entry.get("state") == "absent"}
    assert {SOURCE, KEY, PREFERENCES} <= gone


def test_pins_and_blocked_packages_reach_apt_and_the_agent() -> None:
    made = files(plan(pins=[{"package": "libfoo++", "version": "1.*"}], blocked=["bar.baz"], bandwidth_kb=64))
    assert "Package: libfoo++\nPin: version 1.*\nPin-Priority: 1001\n" in made[PREFERENCES]
    assert r'"^libfoo\+\+$";' in made[CONFIG] and r'"^bar\.baz$";' in made[CONFIG]
    assert 'Acquire::http::Dl-Limit "64";' in made[CONFIG]


def test_a_ring_updates_from_its_suite_alone_and_can_go_back() -> None:
    made = files(plan(repository=repository(exclusive=True), ring="ring1"))
    assert "Suites: ring1 ring1-previous\n" in made[SOURCE] and f"Signed-By: {KEY}\n" in made[SOURCE]
    pattern = made[CONFIG].split("Origins-Pattern {")[1].split("}")[0]
    assert pattern.split() == ['"site=packages.example.com,suite=ring1";']
    assert "Pin: release a=ring1-previous\nPin-Priority: 1\n" in made[PREFERENCES]


def test_a_proxy_with_a_password_is_nobodys_to_read() -> None:
    (entry,) = [one for one in plan(proxy="http://u:secret@p.example:3128").files if one["dest"] == CONFIG]
    assert entry["mode"] == "0600" and entry["secret"]
    (entry,) = [one for one in plan(proxy="http://p.example:3128").files if one["dest"] == CONFIG]
    assert entry["mode"] == "0644" and not entry["secret"]


def test_a_pattern_that_matches_no_source_is_said_aloud() -> None:
    found = Found(answers={"installed": "yes", "policy": RASPBERRY})
    (warning,) = plan(found).warnings
    assert "nothing would ever be updated" in warning and "origin=Raspbian,label=Raspbian" in warning
    assert not plan(found, origins=["origin=Raspbian,codename=${distro_codename}"]).warnings
    assert not plan(Found(answers={"installed": "yes"})).warnings  # nothing was fetched yet


def test_an_agent_that_is_missing_is_installed_or_refused() -> None:
    wanted = plan(Found())
    assert wanted.slow == 600 and any(
        one.count("for name in unattended-upgrades; do") for one in wanted.commands["activate"]
    )
    with pytest.raises(Unsupported, match="unattended-upgrades is not installed"):
        plan(Found(), install=False)
    assert not plan(Found(), install=False, mode="manual", reason="why").timers
    # What is asked for first, before anything is known, asks for no installation.
    assert house.paths(settings(install=False), AGENTS[0]) == house.paths(settings(), AGENTS[0])


def test_reboots_have_a_timer_only_where_they_may_happen() -> None:
    assert plan(reboot="window", reboot_window="03:00-04:00").timers[-1] == "sallyport-reboot.timer"
    made = files(plan(reboot="window", reboot_window="03:00-04:00"))
    assert "OnCalendar=*-*-* 03:00:00\n" in made["/etc/systemd/system/sallyport-reboot.timer"]
    links = {e["dest"]: e.get("state") for e in plan().files if "timers.target.wants" in e["dest"]}
    assert links["/etc/systemd/system/timers.target.wants/sallyport-reboot.timer"] == "absent"


def test_a_device_without_an_agent_is_told_or_says_why_it_has_none() -> None:
    with pytest.raises(
        NoAgent, match=r"no update agent suits this device .*needs apt.*update_agent_mode: manual"
    ):
        plan(device=BUSYBOX)
    wanted = plan(device=BUSYBOX, mode="manual", reason="the vendor's images")
    assert [entry["dest"] for entry in wanted.files] == [house.SETTINGS]
    assert "REASON='the vendor'\"'\"'s images'\n" in files(wanted)[house.SETTINGS]


def test_an_unknown_system_has_to_name_its_origins() -> None:
    with pytest.raises(Unsupported, match="name them in update_agent_origins"):
        plan(device={**DEBIAN, "os": {"id": "other", "pretty": "Other 1"}})


def answers(wanted: house.Wanted, timers: str) -> Found:
    """The device as it answers once it has all of it."""
    import hashlib

    records = [("timers", timers), ("answer", "installed yes"), ("policy", POLICY)]
    for entry in wanted.files:
        path = entry["dest"]
        if "link" in entry:
            records.append(("link", f"{path} {entry['link']}"))
        elif entry.get("state") != "absent":
            records.append(("digest", f"{path} {hashlib.sha256(entry['content'].encode()).hexdigest()}  -"))
            letters = {
                "0755": "-rwxr-xr-x", "0644": "-rw-r--r--", "0700": "-rwx------", "0600": "-rw-------", "0400": "-r--------",
            }[entry["mode"]]  # fmt: skip
            records.append(("mode", f"{path} {letters} {entry.get('owner', 'root')} root"))
    return house.read(Reply(tuple(records), 0))


def test_a_device_that_has_all_of_it_is_converged_and_any_drift_is_seen() -> None:
    wanted = plan()
    there = answers(wanted, "active inactive ")
    assert house.converged(wanted, there)
    assert not house.converged(wanted, answers(wanted, "inactive inactive "))
    for path in there.digests:
        for table in ("digests", "modes"):
            drifted = {**getattr(there, table), path: "other"}
            assert not house.converged(wanted, Found(**{**vars_of(there), table: drifted})), path
    for path in there.links:
        assert not house.converged(wanted, Found(**{**vars_of(there), "links": {path: "/dev/null"}}))
    left = Found(**{**vars_of(there), "digests": {**there.digests, SOURCE: "0" * 64}})
    assert not house.converged(wanted, left)


def vars_of(found: Found) -> dict[str, Any]:
    return {name: getattr(found, name) for name in ("texts", "digests", "modes", "links", "answers")}


def test_every_path_is_asked_for_that_any_setting_may_bring() -> None:
    for values in ({}, {"repository": repository(), "ring": "ring0"}, {"mode": "manual", "reason": "why"}):
        wanted = settings(**values)
        assert set(house.paths(wanted, AGENTS[0])) >= {e["dest"] for e in plan(**values).files}


@pytest.mark.parametrize(
    ("line", "good"),
    [
        ('APT::Get::AllowUnauthenticated "true";', False),
        ('Acquire::AllowInsecureRepositories "1";', False),
        ('acquire::allowdowngradetoinsecurerepositories "Yes";', False),
        ('Acquire::Check-Valid-Until "false";', False),
        ('Acquire::Check-Date "0";', False),
        ('Acquire::Check-Valid-Until "true";', True),
        ('Acquire::AllowInsecureRepositories "false";', True),
        ("", True),
    ],
)
def test_what_apt_makes_of_all_its_files_decides_and_ours_is_read_last(
    line: str, good: bool, tmp_path: Path
) -> None:
    """A file behind ours would have the last word."""
    assert max("99unauth", "zz-vendor", Path(CONFIG).name) == Path(CONFIG).name
    tool = tmp_path / "apt-config"
    tool.write_text(
        f"#!/bin/sh\necho 'APT::Architecture \"amd64\";'\nprintf '%s\\n' '{line}'\n", encoding="utf-8"
    )
    tool.chmod(0o755)
    command = next(one for one in plan().commands["verify"] if "apt-config dump" in one)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["/bin/sh", "-euc", command], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode == 0) is good, done
    assert good or line.split()[0] in done.stderr
    # Somebody may put it there later: the device's own runs ask before they fetch anything,
    (tmp_path / "apt-get").write_text('#!/bin/sh\necho "apt-get $*" >&3\n', encoding="utf-8")
    (tmp_path / "apt-get").chmod(0o755)
    stand_in = (
        'refuse() { echo "refused $*"; }; finish() { echo "finish $1"; exit 0; }; older_than_ours() { :; }'
    )
    program = "\n".join(
        one for one in files(plan())[house.SETTINGS].splitlines() if one.startswith(("LAX=", "OWN_"))
    )
    agent = choose("auto", DEBIAN, settings()).program()
    done = subprocess.run(
        ["/bin/sh", "-euc", f"exec 3>&1\n{program}\n{agent}\n{stand_in}\nagent_refresh"],
        env=environment, capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert ("refused signature" in done.stdout and "finish refused" in done.stdout) is not good, done
    assert ("apt-get -q" in done.stdout) is good, done
    # and so does each run of the role, which warns.
    asked = f'say() {{ echo "$*"; }}; blob() {{ cat >/dev/null; }}\n{choose("auto", DEBIAN, settings()).question()}'
    said = subprocess.run(
        ["/bin/sh", "-euc", asked], env=environment, capture_output=True, text=True, check=False
    ).stdout
    told = [one.removeprefix("answer lax ") for one in said.splitlines() if one.startswith("answer lax ")]
    assert told == ([] if good else [line]), said
    answers = {"installed": "yes", "policy": POLICY, **({"lax": told[0]} if told else {})}
    warned = [
        one for one in plan(Found(answers=answers, digests={CONFIG: "x"})).warnings if "Take it out" in one
    ]
    assert bool(warned) is not good
    assert not [one for one in plan(Found(answers=answers)).warnings if "Take it out" in one], (
        "ours will be behind it"
    )


# --- sources ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "mended"),
    [
        ("deb [trusted=yes] http://a.example s main", "deb http://a.example s main"),
        ("deb [ arch=amd64 Trusted=YES ] http://a.example s main", "deb [arch=amd64] http://a.example s main"),
        ("deb [allow-insecure=yes signed-by=/k] http://a.example s main", "deb [signed-by=/k] http://a.example s main"),
        ("deb-src [allow-weak=true] http://a.example s main", "deb-src http://a.example s main"),
        ("deb [check-valid-until=no check-date=No arch=arm64] http://a.example s main", "deb [arch=arm64] http://a.example s main"),
        ("deb [check-valid-until=yes] http://a.example s main", "deb [check-valid-until=yes] http://a.example s main"),
        ("deb [trusted=no] http://a.example s main", "deb [trusted=no] http://a.example s main"),
        ("# deb [trusted=yes] http://a.example s main", "# deb [trusted=yes] http://a.example s main"),
    ],
)  # fmt: skip
def test_what_lets_unsigned_packages_in_goes_and_nothing_else(line: str, mended: str) -> None:
    text, remarks = sources.harden("/etc/apt/sources.list", f"# mine\n{line}\n")
    assert text == f"# mine\n{mended}\n"
    assert any(one.mended for one in remarks) == (line != mended)
    assert sources.harden("/etc/apt/sources.list", text)[0] == text


DEB822 = """# the vendor's
Types: deb
URIs: http://a.example
Suites: s
Components: main
Trusted: yes

Types: deb
URIs: http://b.example
Suites: s
Components: main
Signed-By: /k
"""


def test_stanzas_are_mended_one_by_one() -> None:
    text, remarks = sources.harden("/etc/apt/sources.list.d/v.sources", DEB822)
    assert text == DEB822.replace("Trusted: yes\n", "")
    assert [(one.where.rpartition(":")[2], one.mended) for one in remarks] == [("1", True), ("1", False)]


KEYRING = sources.DEBIAN_KEYRING


@pytest.mark.parametrize(
    ("options", "where", "after"),
    [
        ("", "deb.debian.org/debian/", f"[signed-by={KEYRING}] "),
        (
            "[arch=amd64 trusted=yes] ",
            "ftp.de.debian.org/debian-security",
            f"[arch=amd64 signed-by={KEYRING}] ",
        ),
        ("[signed-by=/k] ", "deb.debian.org/debian", ""),
        ("", "archive.debian.org/debian", ""),
        ("", "deb.debian.org/debian-ports", ""),
        ("", "deb.debian.org.example/debian", ""),
        ("", "a.example/debian", ""),
    ],
)
def test_debians_own_keys_alone_sign_for_debian_where_the_device_has_them(
    options: str, where: str, after: str
) -> None:
    """Each file's other lines stay; what is not Debian's is named and left alone."""
    path, text = "/etc/apt/sources.list", f"# mine\ndeb {options}http://{where} s main\n"
    found, remarks = sources.harden(path, text, keyring=True)
    assert found == (f"# mine\ndeb {after}http://{where} s main\n" if after else text)
    assert any(KEYRING in one.text and one.mended for one in remarks) == bool(after)
    assert sources.harden(path, found, keyring=True)[0] == found
    assert KEYRING not in sources.harden(path, text)[0]


@pytest.mark.parametrize("end", ["\n", ""])
def test_a_stanza_of_debians_is_bound_to_its_keys_too(end: str) -> None:
    path, text = (
        "/etc/apt/sources.list.d/d.sources",
        f"Types: deb\nSuites: s\nURIs: http://deb.debian.org/debian{end}",
    )
    found, (remark,) = sources.harden(path, text, keyring=True)
    assert found == text.replace("URIs:", f"Signed-By: {KEYRING}\nURIs:") and remark.mended
    assert sources.harden(path, found, keyring=True) == (found, [])
    for other in (
        "http://deb.debian.org/debian http://a.example",
        "http://deb.debian.org/debian\n http://a.example",
    ):
        mixed = text.replace("http://deb.debian.org/debian", other)
        found, (remark,) = sources.harden(path, mixed, keyring=True)
        assert found == mixed and not remark.mended


def test_another_repository_switches_all_of_them_off_once() -> None:
    for path, before in (
        ("/etc/apt/x.list", "deb http://a.example s main\n"),
        ("/etc/apt/x.sources", DEB822),
    ):
        text, _ = sources.harden(path, before, disable=True)
        assert sources.harden(path, text, disable=True)[0] == text
        assert (
            text.count("Enabled: no") == 2
            if path.endswith("sources")
            else text.startswith("# Sallyport: deb ")
        )


def test_origins_match_as_the_agent_matches_them() -> None:
    (release,) = [one for one in origins.read_policy(POLICY) if one.get("o")]
    assert origins.matches("origin=Debian,codename=${distro_codename}", release, "bookworm")
    assert origins.matches("o=Deb*,site=deb.example", release, "bookworm")
    assert not origins.matches("origin=Debian,label=Debian-Security", release, "bookworm")
    assert not origins.matches("orign=Debian", release, "bookworm")
