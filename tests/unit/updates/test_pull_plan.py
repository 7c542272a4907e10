"""What a device that pulls gets, from what the operator wants and what the device has; and what is refused before that."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates import house
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents import choose
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents import pull as agent
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents.base import Found, Unsupported
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents.unattended_upgrades import CONFIG
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.settings import SettingsError

from tests.unit.updates.test_agent_plan import BUSYBOX, DEBIAN, files
from tests.unit.updates.test_agent_plan import plan as packages
from tests.unit.updates.test_update_settings import repository, settings

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ7cqhCgNOaEoM1FZ0Cf8pXn3Wzp0mIoJ1PUi3pIUe1V"
PULL: dict[str, Any] = {
    "url": "https://git.example.com/site.git",
    "signers": f'alice@example.com namespaces="git" {KEY}',
}
TRIXIE: dict[str, Any] = {
    **DEBIAN,
    "python": "/usr/bin/python3",
    "os": {"id": "debian", "codename": "trixie", "pretty": "Debian GNU/Linux 13 (trixie)"},
}
HAS = {"asked": "yes", "git": "git version 2.47.3", "ssh": "yes", "ansible": "2.19.11-0+deb13u1"}


def plan(
    answers: dict[str, str] | None = None,
    device: dict[str, Any] = TRIXIE,
    pull: dict[str, Any] | None = None,
    **values: Any,
) -> house.Wanted:
    wanted = settings("gw1", pull={**PULL, **(pull or {})}, **values)
    chosen = choose("pull", device, wanted)
    house.paths(wanted, chosen)
    return house.wanted(wanted, chosen, device, Found(answers=HAS if answers is None else answers))


def shell(wanted: house.Wanted) -> list[str]:
    return files(wanted)[house.SETTINGS].splitlines()


def test_a_device_that_pulls_knows_its_source_and_its_own_name() -> None:
    lines = shell(plan())
    for line in (
        "AGENT=pull", "PULL_URL=https://git.example.com/site.git", "PULL_REF=refs/heads/main", "PULL_HOST=gw1", "RING=main",
        "PULL_PLAYBOOK=sallyport.iot.harden", "PULL_INVENTORY=inventory", "PULL_ANSIBLE=/usr/bin/ansible-playbook",
    ):  # fmt: skip
        assert line in lines, line
    lines = shell(plan(pull={"tag": "ring0", "host": "gw-1", "playbook": "site.yml", "since": "a" * 40}))
    for line in (
        "PULL_REF=refs/tags/ring0",
        "PULL_HOST=gw-1",
        "PULL_PLAYBOOK=site.yml",
        f"PULL_SINCE={'a' * 40}",
    ):
        assert line in lines, line


def test_only_who_signs_is_on_the_list_and_secrets_are_nobodys_to_read() -> None:
    wanted = plan(
        pull={"url": "ssh://git@git.example.com:2222/site.git", "ssh_key": "PRIVATE", "known_hosts": f"git.example.com {KEY}"},
        proxy="http://u:secret@p.example:3128",
    )  # fmt: skip
    entries = {entry["dest"]: entry for entry in wanted.files}
    assert entries[agent.SIGNERS]["content"] == PULL["signers"] + "\n"
    for path in (agent.KEY, agent.PROXY):
        assert entries[path]["mode"] == "0600" and entries[path]["secret"], path
    assert entries[agent.REVOKED]["state"] == entries[agent.CA]["state"] == "absent"
    assert "secret" not in files(wanted)[house.SETTINGS]


def test_who_talks_to_the_server_is_locked_in() -> None:
    unit = files(plan())[agent.UNIT]
    for line in (
        "User=sallyport-pull",
        "ProtectSystem=strict",
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
        # It is asked again and again whether the server can be reached.
        "StartLimitIntervalSec=0",
    ):
        assert f"{line}\n" in unit
    assert "ReadWritePaths=/var/lib/sallyport-updates/pull/incoming\n" in unit


def test_the_repositorys_own_settings_of_ansible_are_not_asked_for() -> None:
    config = files(plan())[agent.CONFIG]
    assert "collections_path = /var/lib/sallyport-updates/pull/tree/collections:" in config
    assert 'ANSIBLE_CONFIG="$here/pull/ansible.cfg"' in files(plan())[house.AGENT]


def test_nobody_pulls_who_was_not_told_to() -> None:
    assert "pull" not in str(choose("auto", TRIXIE, settings("gw1", pull=PULL)))
    chosen = choose("auto", TRIXIE, settings("gw1", pull=PULL))
    assert chosen is not None and chosen.name == "unattended-upgrades"


def test_what_another_agent_had_goes_when_this_one_takes_its_place() -> None:
    gone = {entry["dest"] for entry in plan().files if entry.get("state") == "absent"}
    assert CONFIG in gone
    for wanted in (plan(), packages()):
        named = [entry["dest"] for entry in wanted.files]
        assert len(named) == len(set(named))
    gone = {entry["dest"] for entry in packages().files if entry.get("state") == "absent"}
    assert {agent.SIGNERS, agent.KEY, agent.UNIT} <= gone and CONFIG not in gone


def test_what_is_missing_is_installed_and_goes_again() -> None:
    wanted = plan({"asked": "yes", "offered": "2.19.11-0+deb13u1"})
    (install,) = [one for one in wanted.commands["activate"] if "apt-get" in one]
    assert "install git openssh-client ansible-core >&2" in install and wanted.slow == 600
    assert any("purge" in one for one in wanted.commands["revert"])
    assert not [one for one in plan().commands["activate"] if "apt-get" in one]
    assert not [
        one
        for one in plan({"asked": "yes"}, mode="manual", reason="why").commands["activate"]
        if "apt-get" in one
    ]


@pytest.mark.parametrize(
    ("answers", "device", "values", "text"),
    [
        ({**HAS, "git": "git version 2.30.2"}, TRIXIE, {}, "cannot verify SSH signatures, which came with git 2.34"),
        ({**HAS, "ansible": "2.14.18-0+deb12u2"}, TRIXIE, {}, "has ansible-core 2.14.18.*virtual environment"),
        ({"asked": "yes", "offered": "2.10.8"}, TRIXIE, {}, "offers ansible-core 2.10.8"),
        ({"asked": "yes", "offered": "2.19.1"}, TRIXIE, {"install": False}, "git, openssh-client, ansible-core must be installed"),
        ({"asked": "yes", "offered": "2.19.1"}, {**TRIXIE, "packages": "opkg"}, {}, "the device has no apt"),
        (None, {**TRIXIE, "python": ""}, {}, "needs Python"),
        (None, BUSYBOX, {}, "needs systemd"),
        (None, TRIXIE, {"repository": repository(suites=["x"])}, "update_agent_repository is about packages"),
        (None, TRIXIE, {"blocked": ["panel"]}, "update_agent_blocked is about packages"),
        (None, TRIXIE, {"bandwidth_kb": 64}, "update_agent_bandwidth_kb is about packages"),
    ],
)  # fmt: skip
def test_a_device_that_cannot_pull_is_refused_with_the_reason(
    answers: dict[str, str] | None, device: dict[str, Any], values: dict[str, Any], text: str
) -> None:
    with pytest.raises(Unsupported, match=text):
        plan(answers, device, **values)


def test_an_image_with_everything_in_it_needs_no_installation() -> None:
    assert plan(install=False).timers
    wanted = plan({**HAS, "ansible": ""}, pull={"ansible": "/opt/ansible/bin/ansible-playbook"})
    assert "PULL_ANSIBLE=/opt/ansible/bin/ansible-playbook" in shell(wanted)


def test_a_way_that_shows_the_repository_to_everybody_is_said_aloud() -> None:
    (warning,) = plan(pull={"url": "http://git.example.com/site.git"}).warnings
    assert "who can also keep newer revisions back" in warning
    assert not plan().warnings


@pytest.mark.parametrize(
    ("pull", "text"),
    [
        ({"url": ""}, "update_agent_pull.url: expected an address"),
        ({"url": "git@git.example.com:site.git"}, "ssh://git@git.example.com/site.git"),
        ({"url": "ext::sh -c x"}, "update_agent_pull.url"),
        ({"url": "https://u:secret@git.example.com/x"}, "a password in an address"),
        ({"url": "https://ghp_secret@git.example.com/x"}, "is a token"),
        ({"signers": f'alice namespaces="file,rpm" {KEY}'}, "not for git"),
        ({"url": "https://git.example.com/a b"}, "update_agent_pull.url"),
        ({"url": "ssh://-oProxyCommand=x/y", "known_hosts": "x"}, "begins with -"),
        ({"url": "ssh://git@git.example.com/x"}, "update_agent_pull.known_hosts: expected the server's host key"),
        ({"branch": "a", "tag": "b"}, "branch and tag are both given"),
        ({"branch": "-x"}, "update_agent_pull.branch: expected the name of a branch"),
        ({"branch": "a..b"}, "update_agent_pull.branch"),
        ({"tag": "a b"}, "update_agent_pull.tag: expected the name of a tag"),
        ({"signers": ""}, "nothing unsigned is ever applied"),
        ({"signers": KEY}, "expected a name and a public key"),
        ({"signers": "alice@example.com"}, "update_agent_pull.signers: line 1"),
        ({"revoked": "alice"}, "update_agent_pull.revoked: line 1"),
        ({"since": "main"}, "update_agent_pull.since: expected a whole commit id"),
        ({"playbook": "../site.yml"}, "update_agent_pull.playbook"),
        ({"playbook": "/etc/x.yml"}, "update_agent_pull.playbook"),
        ({"inventory": "-i"}, "update_agent_pull.inventory"),
        ({"host": "gw1,all"}, "update_agent_pull.host: expected this device's name"),
        ({"ansible": "ansible-playbook"}, "update_agent_pull.ansible: expected the path"),
        ({"sshkey": "x"}, "update_agent_pull.sshkey: there is no such key"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_named(pull: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingsError) as error:
        plan(pull=pull)
    assert text in str(error.value) and "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("said", "able"),
    [
        ("ansible-playbook [core 2.17.0]", True), ("ansible-playbook [core 2.19.11]", True), ("ansible-playbook [core 2.21.0rc1]", True),
        ("ansible-playbook [core 2.14.18]", False), ("ansible-playbook [core 2.9.6]", False), ("ansible-playbook 2.9.6", False), ("", False),
    ],
)  # fmt: skip
def test_the_ansible_of_the_device_is_asked_for_its_version(tmp_path: Any, said: str, able: bool) -> None:
    program = tmp_path / "ansible-playbook"
    program.write_text(f"#!/bin/sh\necho '{said}'\n", encoding="utf-8")
    program.chmod(0o755)
    (command,) = [one for one in plan(pull={"ansible": str(program)}).commands["verify"] if "version" in one]
    done = subprocess.run(
        ["/bin/sh", "-eu", "-c", command], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode == 0) == able, done
    assert able or "is no ansible-core 2.17 or later" in done.stderr
