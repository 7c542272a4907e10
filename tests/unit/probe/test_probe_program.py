"""The program for the device, run for real by dash and by BusyBox ash in small roots of their own.

Each root has a hostile /etc, its own mount and host name, and the machine's /proc. Nothing of the machine is touched.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.device import probe
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply, frame, parse

Run = Callable[..., Reply]

NONCE = "0a1b2c3d4e5f60718293a4b5"
HASH = "$6$saltsalt$Zx0kJgq8Qw1hTn4vR7yUeB2cD5fG9hI3jK6lM0nO1pQ4rS7tU"
SECRET = "-----BEGIN OPENSSH PRIVATE KEY-----"
ENTER = """
mount --rbind /proc "$1/proc"
mount --rbind /sys "$1/sys"
: >"$1/dev/null"
mount --bind /dev/null "$1/dev/null"
if [ -n "$2" ]; then printf %s "$2" >/proc/sys/kernel/hostname; fi
exec chroot "$1" /bin/sh
"""

SHELLS = ("dash", "busybox")
# All that Sallyport asks of a poor device to be probed.
POOR = ("cat",)
USUAL = ("cat", "tr", "sed", "grep", "ls", "readlink", "stat", "df", "date", "uname", "head", "ip")


def _install(program: str, root: Path) -> None:
    """One program of this machine with the libraries it needs."""
    source = shutil.which(program)
    assert source, f"{program} is not installed here: run scripts/setup.sh"
    listed = subprocess.run(["ldd", source], capture_output=True, text=True, check=False).stdout
    for path in [source, *re.findall(r"(/\S+)", listed)]:
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs the program in a root that ``fill`` has prepared. ``applets`` are BusyBox's."""
    if subprocess.run(["unshare", "-rmu", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody make namespaces")

    def go(
        shell: str,
        fill: Callable[[Path], Any],
        applets: tuple[str, ...] = USUAL,
        hostname: str = "",
        cut: int = 0,
    ) -> Reply:
        root = tmp_path / "root"
        for name in (
            "proc",
            "sys",
            "dev",
            "etc",
            "bin",
            "tmp",
            "var/lib",
            "root",
            "usr/bin",
            "usr/sbin",
            "sbin",
        ):
            (root / name).mkdir(parents=True, exist_ok=True)
        _install("busybox", root)
        for applet in applets:
            (root / "bin" / applet).symlink_to(f"/{shutil.which('busybox')}")
        if shell == "dash":
            _install("dash", root)
        (root / "bin" / "sh").symlink_to(str(shutil.which(shell)))
        fill(root)
        payload = frame(probe.program(), NONCE)
        done = subprocess.run(
            ["unshare", "-rmu", "sh", "-euc", ENTER, "sh", str(root), hostname],
            input=payload[: len(payload) - cut],
            capture_output=True,
            check=False,
            timeout=60,
            env={"PATH": os.environ["PATH"]},
        )
        assert HASH not in done.stdout.decode("utf-8", "replace") + done.stderr.decode("utf-8", "replace")
        assert not (root / "tmp" / "run").exists(), "something from the device was executed"
        parsed = parse(done.stdout.decode("utf-8", "surrogateescape"), NONCE)
        if parsed is None:
            return Reply((("unframed", done.stdout.decode("utf-8", "replace")),), 0)
        return Reply(tuple(parsed[0]), parsed[1], done.stderr.decode("utf-8", "replace"))

    return go


def accounts(root: Path) -> None:
    (root / "etc/passwd").write_bytes(
        b"root:x:0:0:$(touch /tmp/run):/root:/bin/sh\n"
        b"op:x:1000:1000:`touch /tmp/run`:/home/$(touch /tmp/run):/bin/sh\n"
        b"old:" + HASH.encode() + b":7:7::/:/bin/sh\n"
        b"weak:abcdefghijklm:8:8::/:\n"
        b"bad\xff:*:9:9::/:/bin/false\n"
        b"late::10:10::/:/bin/sh"
    )
    (root / "etc/shadow").write_text(f"root:{HASH}:19000::\nop:!{HASH}:19000::\nolder:*:1::\n")
    (root / "root/.ssh").mkdir(parents=True)
    (root / "root/.ssh/authorized_keys").write_text("# no\n\nssh-ed25519 AAAA a\n  ssh-rsa BBBB b")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("applets", [POOR, USUAL], ids=["poor", "usual"])
def test_passwords_are_judged_on_the_device_and_their_hashes_stay_there(
    run: Run, shell: str, applets: tuple[str, ...]
) -> None:
    device = probe.device(run(shell, accounts, applets))
    assert [(a["name"], a["password"], a["scheme"], a["authorized_keys"]) for a in device["accounts"]] == [
        ("root", "set", "sha512", 2),
        ("op", "locked", "sha512", 0),
        ("old", "set", "sha512", 0),
        ("weak", "set", "des", 0),
        ("bad�", "none", "", 0),
        ("late", "empty", "", 0),
    ]
    assert device["accounts"][1]["home"] == "/home/$(touch /tmp/run)"


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("drop_in", "expected"),
    [
        ("authorizedkeysfile /etc/ssh/keys/%u .ssh/none\n", 2),
        ("Match User x\nAuthorizedKeysFile /etc/ssh/keys/%u\n", 0),
        ("Port 22\n", 0),
    ],
)
def test_keys_are_counted_where_drop_ins_say_that_they_are(
    run: Run, shell: str, drop_in: str, expected: int
) -> None:
    def fill(root: Path) -> None:
        accounts(root)
        key = "ssh-ed25519 AAAA a\n"
        files = {
            "sshd_config": "Include /etc/ssh/sshd_config.d/*.conf\nAuthorizedKeysFile none\n",
            "sshd_config.d/50-site.conf": drop_in,
            "keys/op": key * 2,
        }
        for name, text in files.items():
            path = root / "etc/ssh" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        home = root / "home/op/.ssh/authorized_keys"
        home.parent.mkdir(parents=True)
        home.write_text(key)
        passwd = root / "etc/passwd"
        passwd.write_bytes(passwd.read_bytes().replace(b"/home/$(touch /tmp/run)", b"/home/op"))

    found = {a["name"]: a["authorized_keys"] for a in probe.device(run(shell, fill))["accounts"]}
    assert found["op"] == expected


@pytest.mark.parametrize("shell", SHELLS)
def test_a_file_of_keys_that_never_ends_is_not_read(run: Run, shell: str) -> None:
    def fill(root: Path) -> None:
        accounts(root)
        with (root / "root/.ssh/authorized_keys").open("r+b") as holes:
            holes.truncate(1 << 40)

    root = probe.device(run(shell, fill, (*USUAL, "find")))["accounts"][0]
    assert (root["name"], root["authorized_keys"]) == ("root", 0)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_device_with_hardly_any_tool_is_still_described(run: Run, shell: str) -> None:
    def fill(root: Path) -> None:
        accounts(root)
        (root / "etc/inittab").write_text("::respawn:/sbin/telnetd\nlast line without end")

    device = probe.device(run(shell, fill, POOR))
    assert device["effective_uid"] == 0
    assert device["kernel"] == os.uname().release
    assert device["clock"]["plausible"] is True
    assert device["memory"]["total_kb"] > 0
    assert device["files"]["/etc/inittab"] == "::respawn:/sbin/telnetd\nlast line without end"
    assert device["state_dir"]["free_kb"] == 0, "nothing on this device can tell"
    assert set(device["tools"]) == {"busybox", "cat", "sh"} | ({"dash"} & set(device["tools"]))
    loopback = next(interface for interface in device["interfaces"] if interface["kind"] == "loopback")
    assert "127.0.0.1/8" in loopback["addresses"]


@pytest.mark.parametrize("shell", SHELLS)
def test_hostile_names_and_files_are_data(run: Run, shell: str) -> None:
    def fill(root: Path) -> None:
        accounts(root)
        text = (
            b"$(touch /tmp/run)\n`touch /tmp/run`\nEOF\n'\"\\\n|x\n" + NONCE.encode() + b"x-end 0\n\n  end\t"
        )
        (root / "etc/rc.local").write_bytes(text)
        (root / "etc/cron.d").mkdir()
        (root / "etc/cron.d/$(touch run) 'x").write_text("@reboot root touch /tmp/run\n")
        (root / "etc/cron.d/two\nlines").write_text("x")
        (root / "etc/os-release").write_bytes(b'ID="$(touch /tmp/run)"\nPRETTY_NAME="\xff\x1b[2J"\n')
        (root / "etc/inittab").write_bytes(b"\xfe\xff")

    device = probe.device(run(shell, fill, hostname="a'b\"$(touch /tmp/run)`x`"))
    assert device["hostname"] == "a'b\"$(touch /tmp/run)`x`"
    assert device["os"]["id"] == "$(touch /tmp/run)"
    assert device["os"]["pretty"] == "��[2J"
    assert device["files"]["/etc/rc.local"].endswith(f"|x\n{NONCE}x-end 0\n\n  end\t")
    assert device["files"]["/etc/cron.d/$(touch run) 'x"] == "@reboot root touch /tmp/run\n"
    assert device["files_omitted"] == {"/etc/inittab": "is not UTF-8"}


def test_large_files_are_cut_before_they_travel(run: Run) -> None:
    def fill(root: Path) -> None:
        accounts(root)
        (root / "etc/crontab").write_text("0123456789abcde\n" * 65536)

    reply = run("busybox", fill)
    assert len(reply.get("file /etc/crontab")) == probe.MAX_FILE + 1
    assert probe.device(reply)["files_omitted"] == {"/etc/crontab": "is longer than 65536 bytes"}


def test_only_the_public_half_of_a_host_key_leaves_the_device(run: Run) -> None:
    def fill(root: Path) -> None:
        accounts(root)
        keys = root / "etc/ssh"
        keys.mkdir()
        (keys / "ssh_host_rsa_key").write_text(f"{SECRET}\nabc\n")
        (keys / "ssh_host_rsa_key.pub").write_text("ssh-rsa AAAA root@x\n")
        fake = root / "usr/sbin/sshd"
        fake.write_text("#!/bin/sh\nexit 1\n")
        fake.chmod(0o755)

    reply = run("dash", fill)
    assert reply.get("host_key") == "/etc/ssh/ssh_host_rsa_key ssh-rsa AAAA root@x"
    assert not [value for _, value in reply.records if SECRET in value]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("cut", [1, 30, 4000, 12000])
def test_a_program_that_arrives_in_part_does_nothing(run: Run, shell: str, cut: int) -> None:
    assert run(shell, accounts, cut=cut).get("unframed") == ""


def test_what_travels_is_the_program_without_its_comments() -> None:
    sent = probe.program()
    assert not re.search(r"^\s*#", sent, re.M)
    assert "<<" not in sent, "a here-document could lose lines that look like comments"
    assert len(sent) < 20200, "every byte goes to every device"


@pytest.mark.parametrize("shell", [["dash"], ["busybox", "sh"]])
def test_every_shell_can_parse_it(shell: list[str]) -> None:
    source = Path(probe.__file__).with_suffix(".sh")
    done = subprocess.run([*shell, "-n", str(source)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
