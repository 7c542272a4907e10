"""The device's program takes a pair whole or not at all, on every shell."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls.device import INTERRUPTED
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls.services import HOME, deploy_program

from tests.unit.tls.makers import pair

SHELLS = (["sh"], ["busybox", "sh"])
SHIMS = {
    # nginx takes whatever pair is there, but for the one that the test calls bad.
    "nginx": '! cmp -s "$HERE/fullchain.pem" "$HERE/bad" || { echo "emerg: it is bad" >&2; exit 1; }',
    "systemctl": 'cp "$HERE/fullchain.pem" "$HERE/served"',
    "chown": ":",
    "sync": ":",
    "logger": ":",
}


class Device:
    def __init__(self, shell: list[str], folder: Path) -> None:
        self.shell, self.home = shell, folder / "tls"
        self.home.mkdir(exist_ok=True)
        shims = folder / "bin"
        shims.mkdir()
        for name, text in SHIMS.items():
            (shims / name).write_text(f"#!/bin/sh\nHERE={self.home}\n{text}\n", encoding="utf-8")
            (shims / name).chmod(0o755)
        text = (
            deploy_program()
            .replace(HOME, str(self.home))
            .replace("/run/sallyport-tls.lock", f"{folder}/lock")
            .replace("/proc/net", str(folder))
            .replace("kill -HUP 1", ":")
        )
        # The test's machine may have no systemd; the shim stands for it.
        self.program = folder / "deploy"
        self.program.write_text(
            text.replace("systemd() { [ -d /run/systemd/system ]; }", "systemd() { :; }"), encoding="utf-8"
        )
        (self.home / "services").write_text("nginx 0\n", encoding="utf-8")
        self.environment = {**os.environ, "PATH": f"{shims}:{os.environ['PATH']}"}

    def offer(self, name: str, certificate: str, key: str) -> Path:
        folder = self.home.parent / name
        folder.mkdir()
        (folder / "fullchain.pem").write_text(certificate, encoding="utf-8")
        (folder / "privkey.pem").write_text(key, encoding="utf-8")
        return folder

    def deploy(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.shell, str(self.program), *arguments],
            env={**self.environment, **environment}, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def forget(self, function: str) -> None:
        """A function of the program that succeeds without looking."""
        text = self.program.read_text(encoding="utf-8")
        assert f"{function} {{" in text
        self.program.write_text(
            text.replace(f"{function} {{", f"{function} {{\n    return 0\n"), encoding="utf-8"
        )

    def read(self, name: str) -> str:
        path = self.home / name
        return path.read_text(encoding="utf-8") if path.exists() else ""


@pytest.fixture(params=SHELLS, ids=["sh", "busybox"])
def device(request: pytest.FixtureRequest, tmp_path: Path) -> Device:
    return Device(request.param, tmp_path)


def until(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.05)


OLD, NEW = pair("gw.example"), pair("gw.example")


def test_a_pair_is_taken_with_a_key_that_only_root_reads(device: Device) -> None:
    done = device.deploy("take", str(device.offer("one", *OLD)))
    assert done.returncode == 0, done.stderr
    assert device.read("fullchain.pem") == device.read("served") == OLD[0]
    assert (device.home / "privkey.pem").stat().st_mode & 0o777 == 0o600
    assert device.read("status").startswith("ok ")
    (device.home / "served").unlink()
    assert device.deploy("take", str(device.home.parent / "one")).returncode == 0
    assert device.read("served") == "", "the same pair again made services reload"


def test_as_certbots_hook_it_finds_the_lineage(device: Device) -> None:
    (device.home / "lineage").write_text("one\n", encoding="utf-8")
    done = device.deploy("certbot", RENEWED_LINEAGE=str(device.offer("one", *OLD)))
    assert done.returncode == 0 and device.read("served") == OLD[0]


@pytest.mark.parametrize("lineage", ["one", ""], ids=["another", "none"])
def test_a_lineage_that_is_not_wanted_here_takes_the_place_of_nothing(device: Device, lineage: str) -> None:
    device.deploy("take", str(device.offer("one", *OLD)))
    before = device.read("status")
    if lineage:
        (device.home / "lineage").write_text(f"{lineage}\n", encoding="utf-8")
    done = device.deploy("certbot", RENEWED_LINEAGE=str(device.offer("one.former", *NEW)))
    assert done.returncode == 0, "certbot would call its own renewal a failure"
    assert "certbot renewed one.former" in done.stdout and "left alone" in done.stdout
    assert device.read("fullchain.pem") == device.read("served") == OLD[0] and device.read("status") == before


def test_a_pair_that_a_service_refuses_is_put_away_and_the_old_one_is_served(device: Device) -> None:
    device.deploy("take", str(device.offer("one", *OLD)))
    (device.home / "bad").write_text(NEW[0], encoding="utf-8")
    done = device.deploy("take", str(device.offer("two", *NEW)))
    assert done.returncode == 1 and "it is bad" in done.stderr
    assert "the old certificate is still served" in done.stderr
    assert device.read("fullchain.pem") == device.read("served") == OLD[0]
    assert device.read("privkey.pem") == OLD[1]
    assert device.read("status").startswith("failed ") and "it is bad" in device.read("status")
    assert NEW[1].splitlines()[1] not in done.stderr + done.stdout + device.read("status")


def test_a_key_of_another_certificate_is_refused_before_anything_is_touched(device: Device) -> None:
    device.deploy("take", str(device.offer("one", *OLD)))
    done = device.deploy("take", str(device.offer("two", NEW[0], OLD[1])))
    assert done.returncode == 1 and "is not the certificate's" in done.stderr
    assert device.read("fullchain.pem") == OLD[0]


def test_killed_between_the_two_files_the_next_call_starts_from_the_old_pair(device: Device) -> None:
    device.deploy("take", str(device.offer("one", *OLD)))
    (device.home / "fullchain.pem.old").write_text(OLD[0], encoding="utf-8")
    (device.home / "privkey.pem.old").write_text(OLD[1], encoding="utf-8")
    (device.home / "privkey.pem").write_text(NEW[1], encoding="utf-8")
    (device.home / "bad").write_text(NEW[0], encoding="utf-8")
    assert device.deploy("take", str(device.offer("two", *NEW))).returncode == 1
    assert (device.read("fullchain.pem"), device.read("privkey.pem")) == OLD


def test_killed_on_the_way_back_between_the_two_files_the_old_pair_becomes_whole(device: Device) -> None:
    device.deploy("take", str(device.offer("one", *OLD)))
    (device.home / "fullchain.pem.old").write_text(OLD[0], encoding="utf-8")
    (device.home / "fullchain.pem").write_text(NEW[0], encoding="utf-8")
    (device.home / "bad").write_text(NEW[0], encoding="utf-8")
    assert device.deploy("take", str(device.offer("two", *NEW))).returncode == 1
    assert (device.read("fullchain.pem"), device.read("privkey.pem")) == OLD


def test_killed_before_any_service_was_told_the_audit_and_the_next_run_know_it(device: Device) -> None:
    device.deploy("take", str(device.offer("one", *OLD)))
    shim = device.home.parent / "bin/nginx"
    asked = shim.read_text(encoding="utf-8")
    shim.write_text("#!/bin/sh\nkill -9 0\n", encoding="utf-8")
    killed = subprocess.Popen(
        [*device.shell, str(device.program), "take", str(device.offer("two", *NEW))],
        env=device.environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert killed.wait() != 0
    assert device.read("status").rstrip().endswith(INTERRUPTED) and device.read("served") == OLD[0]
    shim.write_text(asked, encoding="utf-8")
    assert device.deploy("take", str(device.home.parent / "two")).returncode == 0
    assert device.read("served") == device.read("fullchain.pem") == NEW[0]
    assert device.read("status").startswith("ok ") and not list(device.home.glob("*.old"))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
def test_on_a_full_disk_the_old_pair_stays_whole_and_the_next_call_finishes(tmp_path: Path) -> None:
    for shell in SHELLS:
        folder = tmp_path / shell[0]
        folder.mkdir()
        (folder / "tls").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder / "tls")], check=True)
        try:
            device = Device(shell, folder)
            assert device.deploy("take", str(device.offer("one", *OLD))).returncode == 0
            offered = device.offer("two", *NEW)
            with contextlib.suppress(OSError), (device.home / "ballast").open("wb", buffering=0) as ballast:
                while True:
                    ballast.write(b"x" * 512)
            done = device.deploy("take", str(offered))
            assert done.returncode == 1 and "is the disk full?" in done.stderr, done.stderr
            assert (device.read("fullchain.pem"), device.read("privkey.pem")) == OLD
            (device.home / "ballast").unlink()
            assert device.deploy("take", str(offered)).returncode == 0
            assert (device.read("fullchain.pem"), device.read("privkey.pem")) == NEW
        finally:
            subprocess.run(["umount", str(folder / "tls")], check=False)


def test_two_files_that_hold_nothing_are_no_pair(device: Device) -> None:
    done = device.deploy("take", str(device.offer("junk", "no certificate", "no key")))
    assert done.returncode == 1 and "is not the certificate's" in done.stderr


def test_a_port_that_takes_connections_and_says_nothing_holds_nobody_up(device: Device) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        (device.home / "services").write_text(f"nginx {silent.getsockname()[1]}\n", encoding="utf-8")
        # The shim counts the attempts; a real one waits for four seconds each time.
        shim = device.home.parent / "bin/timeout"
        shim.write_text(
            f'#!/bin/sh\necho "$1" >>{device.home}/asked\nshift\n[ "$1" != true ] || exit 0\nexit 124\n'
        )
        shim.chmod(0o755)
        (device.home.parent / "bin/sleep").write_text("#!/bin/sh\n")
        (device.home.parent / "bin/sleep").chmod(0o755)
        done = device.deploy("take", str(device.offer("one", *OLD)))
    assert done.returncode == 1 and "does not serve the new certificate" in done.stderr
    assert 1 < len(device.read("asked").splitlines()) < 6


STUNNEL = """
trap 'if cmp -s {home}/fullchain.pem {home}/bad; then :; else
    cp {home}/fullchain.pem {home}/served
    number=$((number + 1))
    printf "  0: 00000000:01BB 00000000:0000 0A 0 0 0 0 0 %s 1\\n" "$number" >{folder}/tcp
fi' HUP
number=1
: >{folder}/tcp
while :; do sleep 0.05; done
"""


def test_stunnel_has_taken_a_certificate_when_it_listens_anew_and_says_why_if_it_does_not(
    device: Device,
) -> None:
    folder = device.home.parent
    command = [
        # Under nohup SIGHUP is ignored, and no shell may trap what was ignored when it began.
        "env",
        "--default-signal=HUP",
        "sh",
        "-c",
        STUNNEL.format(home=device.home, folder=folder),
        "stunnel4",
        f"{device.home}/stunnel.conf",
    ]
    with subprocess.Popen(command) as front, subprocess.Popen(["sleep", "60"]) as somebodys:
        try:
            for name, text in (
                ("pidof", f"echo {somebodys.pid} {front.pid}"),
                ("sleep", "exec /bin/sleep 0.5"),
                # What would be said at the terminal; a good one is asked too, where a reload takes its time.
                (
                    "stunnel4",
                    f'grep -q "^foreground = yes" "$1" || exit 1; if cmp -s {device.home}/fullchain.pem {device.home}/bad; '
                    "then echo '[!] it is bad'; else echo Configuration successful; fi; exit 1",
                ),
            ):
                (folder / "bin" / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
                (folder / "bin" / name).chmod(0o755)
            (device.home / "stunnel.conf").write_text("foreground = quiet\nsyslog = yes\n", encoding="utf-8")
            (device.home / "services").write_text("stunnel 443\n", encoding="utf-8")
            until((folder / "tcp").exists)
            # No openssl asks at the port here: the service's own word counts.
            device.forget("serves()")
            assert device.deploy("take", str(device.offer("one", *OLD))).returncode == 0
            assert device.read("served") == OLD[0]
            (device.home / "bad").write_text(NEW[0], encoding="utf-8")
            done = device.deploy("take", str(device.offer("two", *NEW)))
            assert done.returncode == 1 and "stunnel refuses its configuration: [!] it is bad" in done.stderr
            assert device.read("served") == device.read("fullchain.pem") == OLD[0]
            assert not list(device.home.glob("stunnel.[as]*"))
            assert somebodys.poll() is None, (
                "a program of somebody else's was told to read its configuration again"
            )
        finally:
            front.kill()
            somebodys.kill()


def test_killed_while_lighttpd_was_lent_its_process_number_the_next_call_takes_it_back(
    device: Device,
) -> None:
    number = device.home.parent / "lighttpd.pid"
    number.write_text("7\n", encoding="utf-8")
    shim = device.home.parent / "bin/chown"
    device.deploy("take", str(device.offer("one", *OLD)))
    (device.home / "lighttpd.asked").write_text(str(number), encoding="utf-8")
    shim.write_text(f'#!/bin/sh\necho "$*" >>{device.home}/owned\n', encoding="utf-8")
    assert device.deploy("reload").returncode == 0
    assert device.read("owned") == f"root {number}\n"
    device.deploy("reload")
    assert device.read("owned").count("\n") == 1


def test_an_empty_folder_and_an_unknown_word_are_refused(device: Device) -> None:
    empty = device.home.parent / "empty"
    empty.mkdir()
    assert "holds no certificate" in device.deploy("take", str(empty)).stderr
    assert device.deploy("reboot").returncode == 2
