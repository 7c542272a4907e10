"""A change that nobody confirmed is gone after a power cut: from the files, and from the daemons that run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from lab.fleet import CHECKOUT, load
from lab.labs import Lab
from tests.lab.site_folder import TOOLS, Site, play

SSHD = "/etc/ssh/sshd_config.d/00-nobody.conf"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if os.geteuid() != 0:
        pytest.skip("labs need root")
    lab = Lab(load(), os.environ.get("SALLYPORT_LAB", "pytest") + "pc", print)
    lab.up(["debian13", "vendor"])
    try:
        yield Site(lab, tmp_path_factory.mktemp("power"))
    finally:
        lab.down()


def children(pid: int) -> list[int]:
    """A process and all that it started, sessions of their own included."""
    listed = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout
    return [pid, *(found for child in listed.split() for found in children(int(child)))]


def lose_power_in_the_middle(site: Site, host: str, commit: dict[str, object], until: str) -> None:
    """Start the commit, wait until ``until`` is true on the device, kill the controller, cut the power."""
    plays = [{"hosts": host, "gather_facts": False, "tasks": [{"sallyport.iot.commit": commit}]}]
    book = site.folder / f"{host}.yml"
    book.write_text(json.dumps(plays), encoding="utf-8")
    command = [str(TOOLS / "ansible-playbook"), "-i", str(site.folder / "hosts.yml"), str(book)]
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        limit = time.monotonic() + 60
        while site.sh(host, f"if {until}; then echo reached; fi").strip() != "reached":
            assert run.poll() is None, "the commit ended before its activation hung"
            assert time.monotonic() < limit, "the change never came as far as its activation"
            time.sleep(0.1)
        for pid in children(run.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    site.lab.power_cut(host)


def test_busybox_does_not_start_the_daemons_of_an_unconfirmed_inittab(site: Site) -> None:
    assert play("-i", str(site.folder / "hosts.yml"), "playbooks/rollback.yml").status == 0
    old = site.sh("vendor", "cat /etc/inittab")
    commit = {
        "name": "nobody",
        "files": [{"dest": "/etc/inittab", "content": old.replace("dropbear -F", "dropbear -s -g -F")}],
        "activate": ["kill -HUP 1", "touch /run/activated", "sleep 300"],
        "confirm": {"seconds": 200},
    }
    lose_power_in_the_middle(site, "vendor", commit, "test -e /run/activated")
    running = site.sh("vendor", "cat /proc/[0-9]*/cmdline | tr '\\000' ' '")
    assert "dropbear -F -E -R" in running and "-s -g" not in running, running
    assert site.sh("vendor", "cat /etc/inittab").partition("\n")[2] == old
    assert (
        play("-i", str(site.folder / "hosts.yml"), "playbooks/rollback.yml", "--limit", "vendor").status == 0
    )


def test_systemd_boots_without_an_unconfirmed_sshd_setting(site: Site) -> None:
    commit = {
        "name": "nobody",
        "files": [{"dest": SSHD, "content": "DenyUsers root\n"}],
        "activate": ["systemctl restart ssh", "touch /run/activated", "sleep 300"],
        "confirm": {"seconds": 200},
    }
    lose_power_in_the_middle(site, "debian13", commit, "test -e /run/activated")
    assert (
        site.sh("debian13", f"ls {SSHD} 2>&1; ls -d /var/lib/sallyport/armed 2>&1").count("No such file") == 2
    )
    assert "root" not in site.sh("debian13", "sshd -T | grep -i denyusers || true")
    assert (
        play("-i", str(site.folder / "hosts.yml"), "playbooks/rollback.yml", "--limit", "debian13").status
        == 0
    )


def test_a_second_state_folder_is_refused(site: Site) -> None:
    book = site.folder / "second.yml"
    task = {"sallyport.iot.commit": {"name": "motd", "state_dir": "/opt/second", "files": [{"dest": "/etc/motd", "content": "x\n"}]}}  # fmt: skip
    book.write_text(
        json.dumps([{"hosts": "debian13", "gather_facts": False, "tasks": [task]}]), encoding="utf-8"
    )
    run = play("-i", str(site.folder / "hosts.yml"), str(book))
    assert run.status != 0
    assert "the boot hook looks after /var/lib/sallyport, not after /opt/second" in " ".join(
        run.output.split()
    )
    assert site.sh("debian13", "cat /etc/motd") != "x\n"
