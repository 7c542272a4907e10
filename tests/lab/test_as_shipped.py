"""What the demo and the scenarios rely on: the devices start as shipped, open, and apart from the world."""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path

import pytest

from lab.fleet import CHECKOUT, LabError, addresses
from lab.labs import Lab
from lab.podman import podman, run_in

DEVICES = ("debian11", "debian12", "debian13", "vendor")
TELNET = {"debian11": 23, "debian12": 2323, "debian13": 23, "vendor": 23}


def ports_open(lab: Lab, network: str, device: str) -> dict[str, set[int]]:
    """The TCP ports that the network's vantage point finds open, by family."""
    ipv4, ipv6 = addresses(network, lab.slot(), lab.fleet.devices[device].number)
    found = {}
    for family, options in (("ipv4", [ipv4]), ("ipv6", ["-6", ipv6])):
        scan = ["nmap", "-n", "-Pn", "-T4", "-p", "21-23,80,2323,5000", "-oG", "-", *options]
        text = podman("exec", lab.container(f"vantage-{network}"), *scan)
        found[family] = {int(part.split("/")[0]) for part in text.split() if "/open/" in part}
    return found


@pytest.mark.parametrize("network", ["lan", "wan"])
@pytest.mark.parametrize("device", DEVICES)
def test_a_device_is_open_from_both_networks_and_in_both_families(
    lab: Lab, network: str, device: str
) -> None:
    expected = {22, 80, 5000, TELNET[device]} | ({21} if device == "debian11" else set())
    assert ports_open(lab, network, device) == {"ipv4": expected, "ipv6": expected}


@pytest.mark.parametrize("device", DEVICES)
def test_root_gets_in_with_the_default_password(lab: Lab, device: str) -> None:
    entry = lab.fleet.devices[device]
    address = addresses("lan", lab.slot(), entry.number)[0]
    options = [
        "UserKnownHostsFile=/dev/null",
        "StrictHostKeyChecking=no",
        "PreferredAuthentications=password",
    ]
    command = ["sshpass", "-e", "ssh", *(f"-o{option}" for option in options), f"root@{address}", "id -u"]
    environment = {**os.environ, "SSHPASS": entry.image.accounts["root"]}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "0"), done.stderr


def test_two_devices_of_one_series_share_their_host_keys_and_the_others_do_not(lab: Lab) -> None:
    keys = {}
    for device in DEVICES:
        address = addresses("lan", lab.slot(), lab.fleet.devices[device].number)[0]
        scan = ["ssh-keyscan", "-t", "ed25519", address]
        keys[device] = subprocess.run(
            scan, capture_output=True, text=True, timeout=30, check=True
        ).stdout.split()[-1]
    assert keys["debian11"] == keys["debian12"]
    assert len(set(keys.values())) == 3


@pytest.mark.parametrize("device", ["debian12", "vendor"])
def test_a_command_is_run_in_a_device_with_what_podman_would_give_it(lab: Lab, device: str) -> None:
    look = (
        "env | sort | grep -v -e ^_= -e ^container_uuid=; cat /proc/self/cgroup; pwd; umask; ulimit -n; "
        "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp)' /proc/self/status; ls -l /proc/self/ns | sed 's/.*-> //'"
    )
    name = lab.container(device)
    given = podman("exec", name, "/bin/sh", "-c", look)
    assert "CapEff" in given and "PATH=" in given
    assert run_in(name, "/bin/sh", "-c", look) == given
    assert run_in(name, "/bin/sh", stdin=look.encode()) == given
    with pytest.raises(LabError, match=f"{name}: /bin/sh -c .*: exit 3: why"):
        run_in(name, "/bin/sh", "-c", "echo why >&2; exit 3")


@pytest.mark.parametrize("device", ["debian11", "debian12", "debian13"])
def test_systemd_boots_without_a_failed_unit(lab: Lab, device: str) -> None:
    state = run_in(lab.container(device), "systemctl", "is-system-running", check=False).strip()
    assert state == "running", run_in(lab.container(device), "systemctl", "--failed", check=False)


def test_the_vendor_gateway_has_nothing_that_makes_ansible_easy(lab: Lab) -> None:
    probe = (
        "for tool in python3 python systemctl scp sftp useradd chpasswd nft; do command -v $tool; done; true"
    )
    assert run_in(lab.container("vendor"), "/bin/sh", "-c", probe) == ""
    assert "legacy" in run_in(lab.container("vendor"), "iptables", "--version")


@pytest.mark.parametrize("device", [*DEVICES, "vantage-lan", "vantage-wan"])
def test_no_device_has_a_way_out(lab: Lab, device: str) -> None:
    for family in ("-4", "-6"):
        routes = run_in(lab.container(device), "ip", family, "route", "show")
        assert "default" not in routes and "via" not in routes


def test_a_power_cut_keeps_the_disk_and_starts_every_process_anew(lab: Lab) -> None:
    name = lab.container("vendor")
    run_in(name, "/bin/sh", "-c", "echo kept >/root/mark; sync; echo lost >/dev/shm/mark")
    lab.power_cut("vendor")
    assert run_in(name, "cat", "/root/mark") == "kept\n"
    assert run_in(name, "/bin/sh", "-c", "cat /dev/shm/mark 2>/dev/null || echo gone") == "gone\n"


def test_reset_puts_a_device_back_as_shipped(lab: Lab) -> None:
    name = lab.container("vendor")
    run_in(name, "/bin/sh", "-c", "echo changed >/root/mark; passwd -d root")
    lab.reset(["vendor"])
    assert run_in(name, "/bin/sh", "-c", "ls /root/mark 2>/dev/null || echo gone") == "gone\n"
    test_root_gets_in_with_the_default_password(lab, "vendor")


def test_the_inventory_reaches_every_host_with_plain_ansible(lab: Lab) -> None:
    command = [
        ".venv/bin/ansible",
        "all",
        "-i",
        "inventories/lab",
        "-m",
        "ansible.builtin.raw",
        "-a",
        "id -u",
    ]
    environment = {**os.environ, "SALLYPORT_LAB": lab.prefix}
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("rc=0") == 6


def test_down_leaves_nothing_behind_and_other_labs_alone(lab: Lab) -> None:
    before = {row["name"] for row in lab.networks()}
    extra = Lab(lab.fleet, "zz" + lab.prefix[:12], print)
    extra.up(["vendor"])
    control = (extra.state / "control").read_text(encoding="utf-8")
    extra.down()
    assert not extra.networks() and not extra.containers() and not extra.state.exists()
    assert not os.path.exists(control)
    assert before == {row["name"] for row in lab.networks()}
    assert set(lab.containers().values()) == {"running"}


def test_the_lab_of_a_test_run_that_was_killed_gives_way_and_that_of_a_living_one_does_not(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (Lab(lab.fleet, letters + lab.prefix[:12], print) for letters in ("yz", "zz"))
    killed, living = tmp_path / "killed", tmp_path / "living"
    try:
        with living.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            monkeypatch.setenv("SALLYPORT_RUN", str(killed))
            # Held until it is up: whoever starts a lab meanwhile would clear it away half-made.
            with killed.open("w") as until_now:
                fcntl.flock(until_now, fcntl.LOCK_EX)
                one.up(["vendor"])
            monkeypatch.setenv("SALLYPORT_RUN", str(living))
            other.up(["vendor"])
            assert not one.networks() and not one.containers()
            one.up(["vendor"])
            assert set(other.containers().values()) == {"running"}
            assert set(one.containers().values()) == {"running"}
    finally:
        one.down()
        other.down()
