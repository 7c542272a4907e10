"""SWUpdate: what a device gets of it, and what is refused before it is touched."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates import house
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents import choose
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents.base import Found, Unsupported
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents.images import CARRIED
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents.swupdate import (
    ASK,
    AUTHORITY,
    CONFIG,
    REVISION,
    SIGNERS,
    Swupdate,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.settings import SettingsError

from tests.certificates import pair
from tests.unit.updates.test_agent_plan import BUSYBOX, DEBIAN, files
from tests.unit.updates.test_update_settings import repository, settings

SIGNER, _ = pair("signer")
CA, _ = pair("ca")
TOKEN = "f00dcafe"
OPTIONS: dict[str, Any] = {
    "url": "https://hawkbit.example.com/", "target_id": "gw1", "token": TOKEN, "signers": SIGNER, "ca": CA,
    "hardware": "panel", "revision": "1.2", "name": "panel-os", "slots": {"a": "/dev/mmcblk0p2", "b": "/dev/mmcblk0p3"},
}  # fmt: skip
THERE = Found(answers={"asked": "yes", "revision": "yes"})


def plan(found: Found = THERE, device: dict[str, Any] = DEBIAN, **values: Any) -> house.Wanted:
    options = {**OPTIONS, **values.pop("options", {})}
    wanted = settings(swupdate=options, **values)
    return house.wanted(wanted, choose("swupdate", device, wanted), device, found)


def test_swupdate_is_told_where_to_ask_and_whom_to_believe() -> None:
    made = files(
        plan(bandwidth_kb=100, proxy="http://proxy.example:3128", options={"signer_name": "release"})
    )
    config = made[CONFIG]
    for line in (
        f'public-key-file = "{SIGNERS}"', 'bootloader = "uboot"', 'forced-signer-name = "release"', 'tenant = "DEFAULT"',
        'id = "gw1"', 'url = "https://hawkbit.example.com"', f'targettoken = "{TOKEN}"', f'cafile = "{AUTHORITY}"',
        'proxy = "http://proxy.example:3128"', 'max-download-speed = "102400"',
    ):  # fmt: skip
        assert f"    {line};\n" in config, line
    assert made[SIGNERS].strip() == SIGNER.strip() and made[AUTHORITY].strip() == CA.strip()
    assert made[REVISION] == "panel 1.2\n"
    ask = made[ASK]
    assert f'header = "Authorization: TargetToken {TOKEN}"\n' in ask and f'cacert = "{AUTHORITY}"\n' in ask
    shell = made[house.SETTINGS]
    assert "CONTROLLER=https://hawkbit.example.com/DEFAULT/controller/v1/gw1\n" in shell
    assert "SLOT_1=a\nPLACE_1=/dev/mmcblk0p2\nSLOT_2=b\nPLACE_2=/dev/mmcblk0p3\n" in shell
    assert "SLOT_VARIABLE=slot\n" in shell and "ROLLBACK=panel-os\n" in shell


def test_the_token_is_for_root_alone_and_in_nothing_that_is_shown() -> None:
    wanted = plan()
    holding = [entry for entry in wanted.files if TOKEN in str(entry.get("content", ""))]
    assert {entry["dest"] for entry in holding} == {CONFIG, ASK}
    assert all(entry["mode"] == "0600" and entry["secret"] for entry in holding)
    assert not [line for lines in wanted.commands.values() for line in lines if TOKEN in line]


def test_what_debians_package_would_start_is_masked_and_the_build_has_to_prove_itself() -> None:
    wanted = plan()
    links = {entry["dest"]: entry["link"] for entry in wanted.files if entry.get("link") == "/dev/null"}
    assert {path.rpartition("/")[2] for path in links} == {
        "swupdate.service", "swupdate.socket", "swupdate-progress.service", "swupdate-usb@.service",
    }  # fmt: skip
    assert any("agent_proves" in line for line in wanted.commands["verify"])
    # Where nothing is ever installed by it, there is nothing to prove, unless it is there.
    taken_out = {"mode": "manual", "reason": "certified"}
    lacking = Found(answers={"asked": "yes", "lacks-swupdate": "yes"})
    assert any("agent_proves" in line for line in plan(**taken_out).commands["verify"])
    manual = plan(lacking, **taken_out)
    assert not any("agent_proves" in line for line in manual.commands["verify"]) and manual.timers == ()


def test_what_is_missing_is_installed_where_it_may_be() -> None:
    lacking = Found(answers={"asked": "yes", "lacks-swupdate": "yes", "lacks-jq": "yes"})
    wanted = plan(lacking)
    assert any(
        "for name in swupdate libubootenv-tool curl jq; do" in line for line in wanted.commands["activate"]
    )
    assert "swupdate, jq is installed from the device's sources" in wanted.notes
    with pytest.raises(Unsupported, match="swupdate, jq is not on the device"):
        plan(lacking, install=False)
    with pytest.raises(Unsupported, match="put it into the image"):
        plan(lacking, device={**DEBIAN, "packages": "none"})
    assert not any(
        "for name in" in line for line in plan(device={**DEBIAN, "packages": "none"}).commands["activate"]
    )


def test_the_other_slot_gets_this_roles_files_and_what_else_is_named() -> None:
    carried = files(plan(options={"carry": ["/etc/ssh"]}))[CARRIED].splitlines()
    assert {"/usr/local/lib/sallyport/updates", CONFIG, ASK, SIGNERS, "/etc/ssh"} <= set(carried)
    everything = {str(entry["dest"]) for entry in plan().files if entry.get("state") != "absent"}
    assert not [
        path for path in everything if not any(path == one or path.startswith(f"{one}/") for one in carried)
    ]
    assert files(plan(options={"carry_own": False}))[CARRIED] == ""


def test_a_device_that_never_restarts_is_told_of() -> None:
    assert any("update_agent_reboot is never" in note for note in plan().notes)
    assert not plan(reboot="window").notes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "http://hawkbit.example.com"}, "update_agent_swupdate.url: expected https://"),
        ({"url": "https://x.example/" + "y" * 120}, "update_agent_swupdate.url"),
        ({"token": None}, "update_agent_swupdate.token: expected, and missing"),
        ({"token": 'a"b'}, "update_agent_swupdate.token: .* found one that is none"),
        ({"token": "x" * 128}, "of 127 characters at most"),
        ({"target_id": "a b"}, "update_agent_swupdate.target_id"),
        ({"signers": None}, "update_agent_swupdate.signers"),
        ({"signers": "nobody"}, "expected a certificate in PEM"),
        ({"slots": {"a": "/dev/sda1"}}, "update_agent_swupdate.slots: expected two names"),
        ({"slots": {"a": "/dev/sda1", "b c": "/x"}}, "update_agent_swupdate.slots"),
        ({"signer_name": 'a"'}, "update_agent_swupdate.signer_name"),
        ({"revision": None}, "update_agent_swupdate.revision: expected, and missing"),
        ({"carry": ["etc"]}, r"update_agent_swupdate.carry\[0\]"),
        ({"colour": "red"}, "update_agent_swupdate.colour: there is no such key"),
    ],
)
def test_what_cannot_be_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        plan(options=options)
    assert 'a"b' not in str(caught.value) and "xxxx" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"repository": repository(suites=["stable"])}, "repository"),
        ({"origins": ["origin=Debian"]}, "origins"),
        ({"pins": [{"package": "panel", "version": "1"}]}, "pins"),
        ({"blocked": ["panel"]}, "blocked"),
        ({"rollback": ["panel"]}, "rollback"),
    ],
)
def test_what_is_for_packages_is_refused_and_not_passed_over(values: dict[str, Any], name: str) -> None:
    with pytest.raises(SettingsError, match=f"update_agent_{name}: it is for packages"):
        plan(**values)


def test_a_device_without_a_hardware_revision_or_systemd_is_refused() -> None:
    bare = Found(answers={"asked": "yes"})
    with pytest.raises(Unsupported, match=re.escape("/etc/hwrevision")):
        plan(bare, options={"hardware": None, "revision": None})
    assert REVISION not in files(plan(options={"hardware": None, "revision": None}))
    with pytest.raises(Unsupported, match="needs systemd"):
        plan(device=BUSYBOX)


@pytest.mark.parametrize(
    ("lines", "kind", "words"),
    [
        (
            "[TRACE] : SWUPDATE running :  [x] : description file name not the first of the list: a instead of sw-description.sig\n"
            "[ERROR] : SWUPDATE failed [1] Image invalid or corrupted. Not installing ...",
            "signature", "it is not signed",
        ),
        (
            "[ERROR] : SWUPDATE failed [0] ERROR corelib/swupdate_cms_verify.c : swupdate_verify_file : 281 : Authentication of all "
            "signatures failed\n[ERROR] : SWUPDATE failed [0] ERROR core/stream_interface.c : extract_files : 182 : Compatible SW not found",
            "signature", "Authentication of all signatures failed",
        ),
        # A large image: its sender finds out that nobody wants the rest.
        (
            "[ERROR] : SWUPDATE failed [0] ERROR c.c : v : 1 : Signature verification failed\n"
            "[ERROR] : SWUPDATE failed [0] ERROR corelib/channel_curl.c : channel_callback_ipc : 7 : Writing into IPC stream failed, please "
            "check.",
            "signature", "Signature verification failed",
        ),
        ("[ERROR] : SWUPDATE failed [0] ERROR s.c : e : 187 : SW not compatible with hardware", "hardware", "SW not compatible"),
        ("[ERROR] : SWUPDATE failed [0] ERROR p.c : p : 164 : no parser available to parse sw-description!", "hardware", "no parser"),
        ("[ERROR] : SWUPDATE failed [0] ERROR p.c : p : 216 : No downgrading allowed: new version 1 <= installed 2", "downgrade", "No down"),
        ("[ERROR] : SWUPDATE failed [0] ERROR c.c : copy : 635 : HASH mismatch : ab <--> cd", "tampered", "HASH mismatch : ab"),
        ("[ERROR] : SWUPDATE failed [1] Image invalid or corrupted. Not installing ...", "tampered", "Image invalid"),
        (
            "[ERROR] : SWUPDATE failed [0] ERROR corelib/channel_curl.c : channel_get_file : 9 : Channel operation failed (18): partial\n"
            "[ERROR] : SWUPDATE failed [1] Image invalid or corrupted. Not installing ...",
            "unreachable", "Channel operation failed",
        ),
        ("[ERROR] : SWUPDATE failed [0] ERROR h.c : raw : 1 : No space left on device", "failed", "No space left"),
        ("", "failed", ""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("shell", ["/bin/sh", "busybox sh"])
def test_what_swupdate_says_is_understood(
    tmp_path: Path, shell: str, lines: str, kind: str, words: str
) -> None:
    (tmp_path / "install.log").write_text(lines + "\n", encoding="utf-8")
    program = Swupdate().program() + '\nverdict\nprintf \'%s\\n\' "$kind" "$error"\n'
    done = subprocess.run(
        shell.split(), input=program, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=20
    )
    said = done.stdout.split("\n")
    assert said[0] == kind and said[1].startswith(words), done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount something")
def test_a_slot_that_a_run_has_left_mounted_is_let_go_before_anything_is_written(tmp_path: Path) -> None:
    """An image under a file system that is in use would be written over by it."""
    program = (
        f"state=$PWD AGENT=swupdate RUNNING='' now=1\n{Swupdate().program()}\nmkdir slot\n"
        "mount -t tmpfs tmpfs slot; mount -t tmpfs tmpfs slot; env_get() { :; }\nagent_repair\n"
        "grep -c '/slot ' /proc/self/mountinfo || :\n"
    )
    done = subprocess.run(
        ["unshare", "-m", "/bin/sh", "-eu"],
        input=program,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    assert done.stdout == "0\n", done


@pytest.mark.parametrize("shell", ["/bin/sh", "busybox sh"])
@pytest.mark.parametrize("missed", [True, False])
def test_a_refusal_that_suricatta_missed_is_told_all_the_same(
    tmp_path: Path, shell: str, missed: bool
) -> None:
    """Seen with 2024.12 on a busy device: the image was refused before suricatta looked, and it said that all chunks were installed."""
    program = (
        "set -eu\nhere=$PWD state=$PWD AGENT=swupdate RUNNING='' now=1 CONTROLLER=https://x SELECTION=stable\n"
        f"{Swupdate().program()}\n"
        "refuse() { echo \"refused $*\"; }; lines() { cat \"$@\" 2>/dev/null || :; }; settle_file() { mv -f \"$1.new\" \"$1\"; }\n"
        "other_slot() { echo b; }; env_get() { cat env; }\n"
        'env_set() { for one; do case $one in ustate=*) echo "${one#*=}" >env ;; esac; done; }\n'
        "answer() { if [ -e open ]; then link='{\"deploymentBase\": {\"href\": \"https://x/deploymentBase/7?c=1\"}}'; else link='{}'; fi\n"
        'printf \'{"_links": %s}\' "$link" >answer.json; }\n'
        "suricatta() { echo \"suricatta $(env_get ustate)\"; case $(env_get ustate) in 3) rm open ;; *)\n"
        f"{'' if missed else 'rm open'}\n"
        "echo '[DEBUG] : x : [server_install_update] : Update successful, executing post-update actions.' >install.log\n"
        "echo '[ERROR] : SWUPDATE failed [0] ERROR c.c : v : 1 : Signature verification failed' >>install.log ;; esac; }\n"
        "echo 0 >env; : >open; echo 'panel-os 2.0 3.0 update' >ready; echo '7 3.0 100 update' >offer\n"
        "agent_fetch\ncat env; ls open 2>/dev/null || echo closed; cat turned-away; wc -l <ready\n"
    )  # fmt: skip
    done = subprocess.run(
        shell.split(), input=program, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=20
    )
    refused = "refused signature panel-os 3.0: Signature verification failed"
    told = ["suricatta 0", refused, *(["suricatta 3"] if missed else [])]
    assert done.stdout.splitlines() == [*told, "0", "closed", refused, "0"], done
