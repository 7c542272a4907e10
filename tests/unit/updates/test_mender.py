"""Mender: what a device gets of its client, what is refused before it is touched, and what the device makes of what comes."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates import house
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents import choose
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents.base import (
    STATE,
    Found,
    Unsupported,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents.images import CARRIED
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents.mender import (
    ASK,
    AUTHORITY,
    CONFIG,
    INFO,
    SIGNERS,
    TYPE,
    Mender,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.settings import SettingsError

from tests.certificates import pair
from tests.mender_artifact import artefact, signer
from tests.unit.updates.test_agent_plan import BUSYBOX, DEBIAN, files
from tests.unit.updates.test_update_settings import repository, settings

CHECKOUT = Path(__file__).parents[3]
KEY, PRIVATE = signer()
SECOND, _ = signer()
SHORT, _ = signer(1024)
CA, CA_KEY = pair("ca")
TENANT = "eyJ0.eyJtZW5k.c2ln"
OPTIONS: dict[str, Any] = {
    "url": "https://mender.example.com/", "tenant_token": TENANT, "identity": {"serial": "A1"}, "ca": CA, "signers": KEY,
    "device_type": "panel", "name": "panel-os", "slots": {"a": "/dev/mmcblk0p2", "b": "/dev/mmcblk0p3"},
}  # fmt: skip
THERE = Found(answers={"asked": "yes", "info": "yes"})
TRIXIE = {**DEBIAN, "os": {"id": "debian", "version_id": "13", "codename": "trixie"}}
SHELLS = ["/bin/sh", "busybox sh"]


def plan(found: Found = THERE, device: dict[str, Any] = DEBIAN, **values: Any) -> house.Wanted:
    options = {**OPTIONS, **values.pop("options", {})}
    wanted = settings(mender=options, **values)
    return house.wanted(wanted, choose("mender", device, wanted), device, found)


def shell(wanted: house.Wanted) -> dict[str, str]:
    lines = files(wanted)[house.SETTINGS].splitlines()
    return {
        name: "".join(shlex.split(value)) for name, _, value in (line.partition("=") for line in lines[1:])
    }


def test_the_client_is_told_whom_to_believe_and_where_its_slots_are() -> None:
    made = files(plan(proxy="http://proxy.example:3128"))
    assert json.loads(made[CONFIG]) == {
        "ServerURL": "https://mender.example.com", "ServerCertificate": AUTHORITY, "TenantToken": TENANT,
        "ArtifactVerifyKey": SIGNERS[0], "DeviceTypeFile": TYPE, "RootfsPartA": "/dev/mmcblk0p2", "RootfsPartB": "/dev/mmcblk0p3",
    }  # fmt: skip
    assert made[SIGNERS[0]].strip() == KEY.strip() and made[AUTHORITY].strip() == CA.strip()
    assert made[TYPE] == "device_type=panel\n" and INFO not in made
    assert f'cacert = "{AUTHORITY}"\n' in made[ASK] and 'proxy = "http://proxy.example:3128"\n' in made[ASK]
    assert "proto = https\n" in made[ASK]


def test_several_keys_may_sign_and_one_that_is_no_longer_named_goes() -> None:
    two = plan(options={"signers": KEY + SECOND})
    assert json.loads(files(two)[CONFIG])["ArtifactVerifyKeys"] == list(SIGNERS[:2])
    assert "ArtifactVerifyKey" not in json.loads(files(two)[CONFIG])
    gone = {str(entry["dest"]) for entry in plan().files if entry.get("state") == "absent"}
    assert set(SIGNERS[1:]) <= gone and SIGNERS[0] not in gone
    elsewhere = plan(options={"signers": "/etc/keys/artifact.pem"})
    assert json.loads(files(elsewhere)[CONFIG])["ArtifactVerifyKey"] == "/etc/keys/artifact.pem"
    assert any("/etc/keys/artifact.pem" in line for line in elsewhere.commands["check"])


def test_the_tenants_token_is_for_root_alone_and_in_nothing_that_is_shown() -> None:
    wanted = plan()
    holding = [entry for entry in wanted.files if TENANT in str(entry.get("content", ""))]
    assert [entry["dest"] for entry in holding] == [CONFIG]
    assert all(entry["mode"] == "0600" and entry["secret"] for entry in holding)
    assert not [line for lines in wanted.commands.values() for line in lines if TENANT in line]


def test_menders_own_service_is_masked_and_the_client_has_to_prove_itself() -> None:
    wanted = plan()
    links = {entry["dest"]: entry["link"] for entry in wanted.files if entry.get("link") == "/dev/null"}
    assert {path.rpartition("/")[2] for path in links} == {"mender-client.service", "mender.service"}
    assert any("agent_proves" in line for line in wanted.commands["verify"])
    taken_out = {"mode": "manual", "reason": "certified"}
    lacking = Found(answers={"asked": "yes", "info": "yes", "lacks-mender": "yes"})
    assert any("agent_proves" in line for line in plan(**taken_out).commands["verify"])
    manual = plan(lacking, **taken_out)
    assert not any("agent_proves" in line for line in manual.commands["verify"]) and manual.timers == ()


def test_what_is_missing_is_installed_where_it_may_be_and_debian_13_has_none() -> None:
    lacking = Found(answers={"asked": "yes", "info": "yes", "lacks-mender": "yes", "lacks-openssl": "yes"})
    wanted = plan(lacking)
    assert any(
        "for name in mender-client curl jq openssl; do" in line for line in wanted.commands["activate"]
    )
    assert "mender, openssl is installed from the device's sources" in wanted.notes
    # Without a server nobody is asked who this is.
    place = {"url": None, "tenant_token": None, "identity": None, "artifact": "/media/panel.mender"}
    assert any(
        "for name in mender-client curl jq; do" in line
        for line in plan(lacking, options=place).commands["activate"]
    )
    with pytest.raises(Unsupported, match="Debian 13 has no package mender-client"):
        plan(lacking, device=TRIXIE)
    own = plan(lacking, device=TRIXIE, options={"packages": ["mender-client", "curl", "jq", "openssl"]})
    assert any("for name in mender-client" in line for line in own.commands["activate"])
    assert plan(device=TRIXIE).notes
    with pytest.raises(Unsupported, match="mender, openssl is not on the device"):
        plan(lacking, install=False)
    with pytest.raises(Unsupported, match="client 4"):
        plan(Found(answers={**lacking.answers, "fourth": "yes"}))


def test_the_other_slot_gets_this_roles_files_and_nothing_of_its_own_is_written_over() -> None:
    carried = files(plan(options={"carry": ["/etc/ssh"]}))[CARRIED].splitlines()
    assert {"/usr/local/lib/sallyport/updates", CONFIG, ASK, *SIGNERS, "/etc/ssh"} <= set(carried)
    everything = {str(entry["dest"]) for entry in plan().files if entry.get("state") != "absent"}
    assert not [
        path for path in everything if not any(path == one or path.startswith(f"{one}/") for one in carried)
    ]
    # What it is, and its state scripts, come with the image.
    assert not [one for one in carried if one == INFO or INFO.startswith(f"{one}/")]
    assert files(plan(options={"carry_own": False}))[CARRIED] == ""


def test_what_counts_at_once_needs_no_slots_and_says_what_it_begins_with() -> None:
    wanted = plan(
        Found(answers={"asked": "yes"}), options={"restart": False, "version": "1.0", "slots": None}
    )
    made = files(wanted)
    assert made[INFO] == "artifact_name=panel-os-1.0\n" and CARRIED not in made
    assert (shell(wanted)["RESTARTS"], shell(wanted)["SLOT_1"]) == ("no", "")
    assert not any("update_agent_reboot is never" in note for note in wanted.notes)
    assert any("update_agent_reboot is never" in note for note in plan().notes)


def test_without_a_server_the_artefact_has_a_place() -> None:
    bare = {"url": None, "tenant_token": None, "identity": None}
    assert shell(plan(options={**bare, "artifact": "https://files.example.com/panel.mender"})) | {} == {
        **shell(plan(options={**bare, "artifact": "/media/panel.mender"})),
        "ARTIFACT": "https://files.example.com/panel.mender",
    }
    assert shell(plan(options={**bare, "artifact": "/media/panel.mender"}))["SERVER"] == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "http://mender.example.com"}, "update_agent_mender.url: expected https://"),
        ({"url": None}, "expected either url, of a Mender server, or artifact.*found none"),
        ({"artifact": "/media/panel.mender"}, "expected either url.*found both"),
        ({"url": None, "artifact": "/media/panel.mender"}, "update_agent_mender.tenant_token: it is for a Mender server"),
        ({"url": None, "tenant_token": None, "identity": None, "artifact": "http://x.example/a"}, "update_agent_mender.artifact: expected https"),
        ({"url": None, "tenant_token": None, "identity": None, "artifact": "/media/../etc/a"}, "update_agent_mender.artifact"),
        ({"tenant_token": 'a"b'}, "update_agent_mender.tenant_token: .* found one that is none"),
        ({"signers": None}, "update_agent_mender.signers: expected public keys"),
        ({"signers": "nobody"}, "update_agent_mender.signers: expected public keys"),
        ({"signers": KEY + "and more"}, "update_agent_mender.signers: expected public keys"),
        ({"signers": KEY * 5}, "expected 4 keys at most, found 5"),
        ({"signers": KEY + KEY.replace("MII", "MIJ")}, "key 2 is none"),
        ({"signers": SHORT}, "key 1 is none"),
        ({"name": None}, "update_agent_mender.name: expected, and missing"),
        ({"name": "a b"}, "update_agent_mender.name"),
        ({"device_type": "a/b"}, "update_agent_mender.device_type"),
        ({"slots": {"a": "/dev/sda1"}}, "update_agent_mender.slots: expected two names"),
        ({"version": "1.0"}, "update_agent_mender.version: a device that starts with its software says itself"),
        ({"downloads": "/var/tmp/x"}, "update_agent_mender.downloads: expected a folder of root's"),
        ({"identity": "A1"}, "update_agent_mender.identity: expected a mapping"),
        ({"colour": "red"}, "update_agent_mender.colour: there is no such key"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        plan(options=options)
    assert 'a"b' not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"repository": repository(suites=["stable"])}, "repository"),
        ({"pins": [{"package": "panel", "version": "1"}]}, "pins"),
        ({"rollback": ["panel"]}, "rollback"),
    ],
)
def test_what_is_for_packages_is_refused_and_not_passed_over(values: dict[str, Any], name: str) -> None:
    with pytest.raises(SettingsError, match=f"update_agent_{name}: it is for packages"):
        plan(**values)


def test_a_device_that_cannot_say_what_it_is_is_refused_before_it_is_touched() -> None:
    bare = Found(answers={"asked": "yes"})
    with pytest.raises(Unsupported, match=re.escape(INFO)):
        plan(bare)
    with pytest.raises(Unsupported, match=re.escape("update_agent_mender.device_type")):
        plan(options={"device_type": None})
    with pytest.raises(Unsupported, match=re.escape("update_agent_mender.identity")):
        plan(options={"identity": None})
    all_there = Found(answers={**THERE.answers, "type": "yes", "identity": "yes"})
    wanted = plan(all_there, options={"device_type": None, "identity": None})
    assert shell(wanted)["TYPE_FILE"] == "/var/lib/mender/device_type" and TYPE not in files(wanted)
    with pytest.raises(Unsupported, match="needs systemd"):
        plan(device=BUSYBOX)


def test_the_readmes_example_is_one_that_the_role_takes() -> None:
    text = (CHECKOUT / "roles/update_agent/README.md").read_text(encoding="utf-8")
    block = next(one for one in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "agent: mender" in one)
    (role,) = yaml.safe_load(block)[0]["roles"]
    given = {**role["update_agent_mender"], "signers": KEY, "identity": {"serial": "A1"}}
    assert "{{" not in str(given), "the example has another template, which no one fills in here"
    wanted = settings(mender=given, reboot=role["update_agent_reboot"])
    made = files(house.wanted(wanted, choose(role["update_agent_agent"], DEBIAN, wanted), DEBIAN, THERE))
    assert json.loads(made[CONFIG])["ServerURL"] == given["url"]


# On the device


def run(tmp_path: Path, shell_: str, text: str, **values: str) -> subprocess.CompletedProcess[str]:
    """Functions of agent.sh, with what run.sh has."""
    stand_in = """
set -eu
state=$PWD now=1000 AGENT=mender SOFTWARE=panel-os SERVER='' ARTIFACT='' RESTARTS=yes DOWNLOADS=$PWD LIMIT_KB='' SLOT_1='' RUNNING=''
TYPE_FILE=type IDENTITY=''
refuse() { printf 'refused %s %s\\n' "$1" "$2" >>told; }
tell() { printf '%s\\n' "$*" >>told; }
lines() { if [ -f "$1" ]; then cat "$1"; fi; }
settle_file() { mv -f "$1.new" "$1"; }
: >>told; : >>held
"""
    given = "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())
    program = f"{stand_in}{Mender().program()}\ninfo=$PWD/artifact_info ask=/dev/null\n{given}{text}"
    (tmp_path / "artifact_info").write_text("artifact_name=panel-os-2.0\n", encoding="utf-8")
    return subprocess.run(
        shell_.split(), input=program, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )


@pytest.mark.parametrize("shell_", SHELLS)
@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("installer: failed to read Artifact: reader: expecting signed artifact, but no signature file found", "signature", "it is not signed"),
        ("installer: failed to read Artifact: readHeaderV3: reader: invalid signature: crypto/rsa: verification error", "signature", "readHeaderV3"),
        ("readHeaderV3: installer: image (device types [pump]) not compatible with device panel", "hardware", "readHeaderV3: installer: image"),
        ("Payload: can not install Payload: pay: invalid checksum; expected: [58]; actual: [88]", "tampered", "Payload: can not"),
        ("installer: failed to read Artifact: The artifact does not contain all required fields", "malformed", "The artifact does"),
        ("reader: can not read version file: readNext: unexpected EOF", "malformed", "reader"),
        ("Update module terminated abnormally: exit status 2", "failed", "Update module terminated"),
    ],
)  # fmt: skip
def test_what_the_client_says_is_understood(
    tmp_path: Path, shell_: str, text: str, kind: str, words: str
) -> None:
    (tmp_path / "install.log").write_text(
        f'..time="T" level=error msg="Reading headers failed: x"\ntime="T" level=error msg="{text}"\ntime="T" level=info msg="y"\n',
        encoding="utf-8",
    )
    said = run(tmp_path, shell_, 'verdict; printf \'%s\\n\' "$kind" "$error"').stdout.split("\n")
    assert said[0] == kind and said[1].startswith(words), said


@pytest.mark.parametrize("shell_", SHELLS)
def test_an_artefact_is_asked_for_its_name_by_its_beginning(tmp_path: Path, shell_: str) -> None:
    data = artefact("panel-os-3.1", {"big": b"\xa5" * 300_000}, PRIVATE)
    (tmp_path / "whole").write_bytes(data)
    (tmp_path / "part").write_bytes(data[:20_000])
    (tmp_path / "hostile").write_bytes(artefact("panel-os-3.1\n$(touch taken)", {"x": b"x"}, PRIVATE))
    (tmp_path / "none").write_bytes(b"\x00garbage" * 100)
    names = run(tmp_path, shell_, "for file in whole part none hostile; do printf '<%s>\\n' \"$(name_in $file)\"; done").stdout  # fmt: skip
    assert names.splitlines() == ["<panel-os-3.1>", "<panel-os-3.1>", "<>", "<panel-os-3.1?$(touch?taken)>"]
    assert not (tmp_path / "taken").exists()


@pytest.mark.parametrize(
    ("one", "two", "older"),
    [("1.9", "1.10", True), ("1.10", "1.9", False), ("2.0", "2.0", False), ("2.0~rc1", "2.0", True), ("2.0", "2.0.1", True)],
)  # fmt: skip
def test_versions_have_an_order(tmp_path: Path, one: str, two: str, older: bool) -> None:
    said = run(tmp_path, "/bin/sh", f"LC_ALL=C; if older {one} {two}; then echo yes; else echo no; fi").stdout
    assert said == ("yes\n" if older else "no\n")


def answer(**how: Any) -> str:
    source = {"uri": how.pop("uri", "https://s3.example.com/a/b?X-Sig=a%2Fb&c=$x")}
    artefact = {"artifact_name": how.pop("name", "panel-os-3.0"), "source": source}
    return json.dumps({"id": how.pop("id", "d-1"), "artifact": artefact})


# request() of ours: what the server says stands in said.json, and what it hears in heard.
SERVER = """
request() {
    said=200
    case $1 in
        GET) cp said.json answer.json ;;
        PUT) printf '%s\\n' "$*" >>heard ;;
    esac
}
agent_refresh || echo 1
cat offer told heard address 2>/dev/null || :
"""


@pytest.mark.parametrize("shell_", SHELLS)
@pytest.mark.parametrize(
    ("how", "offered", "told"),
    [
        ({}, "d-1 3.0", ""),
        ({"name": "panel-os-2.0"}, "", "already-installed"),
        ({"name": "panel-os-1.9"}, "", "refused downgrade panel-os 1.9: older than 2.0"),
        ({"name": "panel-os-9 9"}, "", "refused malformed"),
        ({"name": "panel-os-$(id)"}, "", "refused malformed"),
        ({"name": "other-3.0"}, "", "refused malformed"),
        ({"name": 7}, "", "refused malformed"),
        ({"id": "../x"}, "", "refused malformed an answer that names no deployment"),
        ({"id": "a b"}, "", "refused malformed an answer that names no deployment"),
        ({"uri": "http://s3.example.com/a"}, "", "is not https"),
        ({"uri": "file:///etc/shadow"}, "", "is not https"),
        ({"uri": 'https://x/"\noutput = "/etc/cron.d/x'}, "", "refused malformed"),
        ({"uri": "https://x/\\u0022"}, "", "characters that none has"),
    ],
)
def test_an_answer_of_the_servers_is_words_and_nothing_else(
    tmp_path: Path, shell_: str, how: dict[str, Any], offered: str, told: str
) -> None:
    (tmp_path / "said.json").write_text(answer(**how), encoding="utf-8")
    said = run(tmp_path, shell_, SERVER, SERVER="https://mender.example.com").stdout
    offer = tmp_path / "offer"
    assert (offer.read_text(encoding="utf-8").strip() if offer.exists() else "") == offered, said
    assert told in said
    if offered:
        config = (tmp_path / "address.curl").read_text(encoding="utf-8")
        assert config == 'url = "https://s3.example.com/a/b?X-Sig=a%2Fb&c=$x"\n'
        assert (tmp_path / "address.curl").stat().st_mode & 0o777 == 0o600


def test_what_is_held_is_refused_to_the_server_and_not_offered(tmp_path: Path) -> None:
    (tmp_path / "said.json").write_text(answer(), encoding="utf-8")
    (tmp_path / "held").write_text("panel-os 3.0 7 it was sick\n", encoding="utf-8")
    said = run(tmp_path, "/bin/sh", SERVER, SERVER="https://mender.example.com").stdout
    assert not (tmp_path / "offer").exists() and '"status":"failure"' in said
    # Nothing waits to be told.
    assert not (tmp_path / "report").exists()


def test_what_the_server_could_not_hear_is_told_again(tmp_path: Path) -> None:
    text = "request() { said=000 problem=away; return 1; }\noutcome d-1 success; report || echo kept; cat report\n"
    said = run(tmp_path, "/bin/sh", text, SERVER="https://mender.example.com").stdout
    assert said == "kept\nd-1 success\n\n"
    # And what it does not know any more waits for nobody.
    said = run(tmp_path, "/bin/sh", "request() { said=404; return 1; }\nreport && echo over\n", SERVER="https://m.example").stdout  # fmt: skip
    assert said == "over\n" and not (tmp_path / "report").exists()


@pytest.mark.parametrize("shell_", SHELLS)
def test_a_place_is_not_asked_twice_for_what_was_refused(tmp_path: Path, shell_: str) -> None:
    place = tmp_path / "panel.mender"
    place.write_bytes(artefact("panel-os-1.0", {"x": b"x"}, PRIVATE))
    text = "agent_refresh; agent_refresh; cat told; : >told; cat offer 2>/dev/null || :\n"
    said = run(tmp_path, shell_, text, ARTIFACT=str(place)).stdout
    # The second time it is only remembered.
    assert said.count("refused downgrade panel-os 1.0") == 2 and not (tmp_path / "offer").exists()
    place.write_bytes(artefact("panel-os-3.0", {"x": b"x"}, PRIVATE))
    run(tmp_path, shell_, "agent_refresh\n", ARTIFACT=str(place))
    assert (tmp_path / "offer").read_text(encoding="utf-8") == "- 3.0\n"
    # A medium that is not there has nothing to offer, and that is no fault.
    place.unlink()
    assert run(tmp_path, shell_, "agent_refresh && echo fine\n", ARTIFACT=str(place)).stdout == "fine\n"
    assert not (tmp_path / "offer").exists() and STATE


@pytest.mark.parametrize("shell_", SHELLS)
@pytest.mark.parametrize(
    ("itself", "promised", "told"),
    [
        ("panel-os-3.0", "3.0", ""),
        ("panel-os-1.9", "3.0", "refused downgrade panel-os 3.0: it is panel-os-1.9, older than 2.0"),
        ("panel-os-2.5", "3.0", "refused malformed panel-os 3.0: it calls itself panel-os-2.5"),
        ("other-3.0", "3.0", "refused malformed panel-os 3.0: it calls itself other-3.0"),
    ],
)
def test_what_was_fetched_has_to_be_what_was_promised(
    tmp_path: Path, shell_: str, itself: str, promised: str, told: str
) -> None:
    (tmp_path / "place").write_bytes(artefact(itself, {"x": b"x"}, PRIVATE))
    (tmp_path / "address").write_text(f"{tmp_path}/place\n", encoding="utf-8")
    (tmp_path / "ready").write_text(f"panel-os 2.0 {promised} update\n", encoding="utf-8")
    (tmp_path / "offer").write_text(f"d-1 {promised}\n", encoding="utf-8")
    said = run(tmp_path, shell_, "agent_fetch; cat told").stdout
    assert told in said and bool(said) == bool(told)
    assert (tmp_path / "artefact").exists() == (not told) == bool((tmp_path / "ready").read_text())
    if not told:
        assert (tmp_path / "artefact").stat().st_mode & 0o777 == 0o600


# Mender's client of ours: what it is asked for stands in asked, and install answers as the file `code` says.
CLIENT = """
client() {
    printf '%s\\n' "$1" >>asked
    case $1 in
        install) return "$(cat code)" ;;
        show-artifact) echo panel-os-2.0 ;;
    esac
}
finish() { printf '%s: %s\\n' "$1" "$2"; exit 0; }
finish_by_sources() { finish refused "$1"; }
printf 'panel-os 2.0 3.0 update\\n' >ready; cp ready working; printf 'd-1 3.0\\n' >offer
"""


@pytest.mark.parametrize("restarts", ["yes", "no"])
def test_what_is_installed_is_committed_or_taken_back_by_the_client(tmp_path: Path, restarts: str) -> None:
    (tmp_path / "code").write_text("0", encoding="utf-8")
    text = CLIENT + "agent_install; agent_version panel-os; agent_keep; agent_keep; agent_version panel-os\n"
    said = run(tmp_path, "/bin/sh", text, RESTARTS=restarts).stdout.split()
    # Where a start decides, it does not run yet.
    assert said == (["3.0", "2.0"] if restarts == "no" else ["2.0", "2.0"])
    asked = (tmp_path / "asked").read_text(encoding="utf-8").split()
    assert asked[:2] == ["install", "commit"] and (restarts == "yes" or asked.count("commit") == 1)
    assert not (tmp_path / "begun").exists() and not (tmp_path / "uncommitted").exists()
    text = CLIENT + "why=sick; agent_install; agent_back panel-os 2.0; agent_version panel-os\n"
    assert run(tmp_path, "/bin/sh", text, RESTARTS=restarts).stdout == "2.0\n"
    assert "rollback" in (tmp_path / "asked").read_text(encoding="utf-8")


def test_an_artefact_that_wants_a_restart_where_none_was_said_goes_back(tmp_path: Path) -> None:
    (tmp_path / "code").write_text("4", encoding="utf-8")
    said = run(tmp_path, "/bin/sh", CLIENT + "agent_install\n", RESTARTS="no").stdout
    assert said.startswith("failed: panel-os 3.0 asks for a restart")
    assert (tmp_path / "asked").read_text(encoding="utf-8").split() == ["install", "rollback"]
    assert not (tmp_path / "working").exists()


def test_an_installation_that_was_cut_short_goes_back_and_can_begin_anew(tmp_path: Path) -> None:
    text = CLIENT + ": >begun; agent_repair; cat told; agent_version panel-os; agent_keep; cat asked\n"
    said = run(tmp_path, "/bin/sh", text, RESTARTS="no").stdout.split("\n")
    assert said[:2] == ["repaired an installation that was cut short", "2.0"] and "commit" not in said
    # What a start may have tried already is for its health to judge.
    text = CLIENT + ": >begun; rm -f asked; agent_repair; cat asked 2>/dev/null || echo nothing\n"
    assert run(tmp_path, "/bin/sh", text, RESTARTS="yes").stdout == "nothing\n"


def test_the_device_signs_for_itself_and_its_token_is_for_root_alone(tmp_path: Path) -> None:
    (tmp_path / "conf").write_text(json.dumps({"TenantToken": TENANT}), encoding="utf-8")
    text = """
conf=$PWD/conf data=$PWD
call() {
    openssl dgst -sha256 -verify public.pem -signature signature request.json
    cp request.json asked.json
    said=200
    printf 'head.body.sign-1_\\n' >answer.json
}
admission && cat token
"""
    given = {"SERVER": "https://mender.example.com", "IDENTITY": json.dumps({"serial": "A1 $(id)"})}
    said = run(tmp_path, "/bin/sh", text, **given).stdout
    assert said == 'Verified OK\nheader = "Authorization: Bearer head.body.sign-1_"\n'
    asked = json.loads((tmp_path / "asked.json").read_text(encoding="utf-8"))
    assert json.loads(asked["id_data"]) == {"serial": "A1 $(id)"} and asked["tenant_token"] == TENANT
    assert asked["pubkey"].startswith("-----BEGIN PUBLIC KEY-----")
    for name in ("token", "mender-agent.pem"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    # The same key the next time, and what is no token is none.
    key = (tmp_path / "mender-agent.pem").read_bytes()
    text = text.replace("head.body.sign-1_", 'a"b').replace(
        "admission && cat token", 'admission || echo "$problem"'
    )
    assert "is no token" in run(tmp_path, "/bin/sh", text, **given).stdout
    assert (tmp_path / "mender-agent.pem").read_bytes() == key
