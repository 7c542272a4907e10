"""A clock is kept by what the device has, and never set back."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.clock import client
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply, parse
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import (
    Addresses,
    Defaults,
    Endpoint,
    HostPolicy,
    Rule,
    ServiceSet,
)

from tests.unit.tls.makers import CA

DEFAULTS: dict[str, Any] = {
    "servers": ["198.18.10.5"],
    "nts": False,
    "nts_root": "",
    "client": "auto",
    "floor": "",
    "tolerance": 60,
}
SHELLS = (["sh"], ["busybox", "sh"])


def wanted(**changed: Any) -> client.Wanted:
    return client.parse({**DEFAULTS, **changed})


def reply(*records: tuple[str, str]) -> Reply:
    return Reply(tuple(records), 0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"servers": ["a b"]}, r"time_sync_servers\[0\] must be a host name or an address, got 'a b'"),
        ({"servers": ["x", "-p;reboot"]}, r"time_sync_servers\[1\]"),
        ({"servers": ["a..b"]}, r"time_sync_servers\[0\]"),
        ({"floor": "2026-13-01"}, "time_sync_floor must be a day"),
        ({"floor": "2099-01-01"}, "time_sync_floor is 2099-01-01, which is still to come"),
        ({"servers": ["fe80::1%a; reboot"]}, r"time_sync_servers\[0\]"),
        ({"servers": ["fe80::1%a\nserver x"]}, r"time_sync_servers\[0\]"),
        ({"client": "openntpd"}, "time_sync_client must be auto, chrony"),
        ({"tolerance": 0}, "time_sync_tolerance must be 1 second"),
        ({"nts_root": CA}, "time_sync_nts_root needs time_sync_nts: true"),
        ({"nts": True, "nts_root": "a path"}, "time_sync_nts_root: it holds no certificate"),
    ],
)
def test_a_wrong_variable_is_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(client.Refused, match=message):
        wanted(**changed)


@pytest.mark.parametrize(
    ("there", "chosen"),
    [(["ntpd", "chrony"], "chrony"), (["ntpd", "timesyncd"], "timesyncd"), (["ntpd"], "ntpd")],
)
def test_the_best_client_that_is_there_is_taken(there: list[str], chosen: str) -> None:
    assert client.choose(wanted(), there) == chosen


def test_a_client_that_cannot_do_what_is_wanted_is_refused_by_name() -> None:
    with pytest.raises(client.Refused, match="needs chrony"):
        client.choose(wanted(nts=True), ["timesyncd"])
    with pytest.raises(client.Refused, match="neither chrony"):
        client.choose(wanted(), [])
    with pytest.raises(client.Refused, match="time_sync_client is chrony, but this device has ntpd"):
        client.choose(wanted(client="chrony"), ["ntpd"])


def test_chrony_asks_our_servers_and_no_others() -> None:
    text = "pool 2.debian.pool.ntp.org iburst\n  server old\nsourcedir /run/chrony-dhcp\ndriftfile /x\n"
    once = client.chrony_main(text)
    live = [line for line in once.splitlines() if not line.startswith("#")]
    assert live == ["driftfile /x", f"include {client.CHRONY_OURS}"]
    assert client.chrony_main(once) == once
    assert "server 198.18.10.5 iburst nts\n" in client.chrony_ours(wanted(nts=True))
    assert "ntstrustedcerts" not in client.chrony_ours(wanted(nts=True))
    assert f"ntstrustedcerts {client.NTS_ROOT}\n" in client.chrony_ours(wanted(nts=True, nts_root=CA))


def test_inittab_keeps_one_line_for_ntpd() -> None:
    text = "::sysinit:/etc/init.d/rcS\n::respawn:/usr/sbin/ntpd -n -p old\n::respawn:/usr/sbin/dropbear -F\n"
    once = client.inittab(text, "/usr/sbin/ntpd", ["198.18.10.5", "ntp.example"])
    assert [line for line in once.splitlines() if "ntpd" in line] == [
        "::respawn:/usr/sbin/ntpd -n -p 198.18.10.5 -p ntp.example"
    ]
    assert "dropbear" in once
    assert client.inittab(once, "/usr/sbin/ntpd", ["198.18.10.5", "ntp.example"]) == once
    for other in ("::respawn:/bin/busybox ntpd -n -p old", "::respawn:/usr/sbin/ntpd"):
        assert other not in client.inittab(f"{other}\n", "/usr/sbin/ntpd", ["198.18.10.5"]).splitlines()


@pytest.mark.parametrize("shell", SHELLS)
def test_an_ntpd_is_ended_by_whatever_name_it_was_started_and_the_shell_that_does_so_is_not(
    shell: list[str], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "ntpd")  # what stands for it waits here
    old = subprocess.Popen(["/bin/busybox", "ntpd", "-"], executable="/bin/cat", cwd=tmp_path)
    shim = tmp_path / "pidof"
    shim.write_text(f"#!/bin/sh\n[ $1 = ntpd ] || echo $PPID {old.pid} 999999999\n", encoding="utf-8")
    shim.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        [*shell, "-euc", client.end_ntpd() + "\necho through"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "through\n" and old.wait(10) == -15


def test_a_floor_needs_no_client() -> None:
    alone = wanted(servers=[], floor="2026-11-01")
    made = client.plan(alone, {"init": "busybox"}, reply())
    assert made.client == "" and [entry["dest"] for entry in made.files] == [client.FLOOR_BOOT]
    assert client.plan(alone, {"init": "systemd"}, reply(("has", "timesyncd"))).client == "timesyncd"
    assert client.state(reply(("epoch", "1000")), "", 990.0)["synchronised"] is None


@pytest.mark.parametrize("shell", SHELLS)
def test_servers_in_what_chrony_reads_besides_are_switched_off_too(shell: list[str], tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    texts = {
        "conf.d/own.conf": "log tracking\npool old iburst\n",
        "conf.d/quiet.conf": "rtcsync\n",
        "more": "Server x\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "conf.d/none.txt").write_text("server y\n", encoding="utf-8")
    (tmp_path / "chrony.conf").write_text(
        f"confdir {tmp_path}/conf.d\ninclude {tmp_path}/more\n", encoding="utf-8"
    )
    shim = tmp_path / "chronyd"
    shim.write_text("#!/bin/sh\n", encoding="utf-8")
    shim.chmod(0o755)
    program = client.QUERY.replace("/etc/chrony/chrony.conf", str(tmp_path / "chrony.conf"))
    helpers = "say() { printf '%s\\n' \"$*\"; }\nblob() { printf 'blob %s\\n' \"$1\"; sed 's/^/|/'; }\n"
    done = subprocess.run(
        [*shell, "-euc", helpers + program], capture_output=True, text=True, check=True,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )  # fmt: skip
    records, _ = parse(f"n-begin\n{done.stdout}n-end 0\n", "n") or ([], 1)
    made = client.plan(wanted(), {"init": "systemd"}, Reply(tuple(records), 0))
    files = {entry["dest"]: entry.get("content", "") for entry in made.files}
    assert files[f"{tmp_path}/conf.d/own.conf"] == f"log tracking\n{client.MARK}pool old iburst\n"
    assert files[f"{tmp_path}/more"] == f"{client.MARK}Server x\n"
    assert not {f"{tmp_path}/conf.d/quiet.conf", f"{tmp_path}/conf.d/none.txt"} & set(files)


def run_floor(shell: list[str], tmp_path: Path, floor: int, now: int, written: int = 0) -> list[str]:
    """What the boot program asks `date` to set, with a `date` that tells the time `now` and sets nothing."""
    calls = tmp_path / "calls"
    shim = tmp_path / "date"
    shim.write_text(
        f'#!/bin/sh\ncase "$*" in *-s*) printf "%s\\n" "$*" >>{calls} ;; +%s) echo {now} ;; *live*) echo {written} ;; *) exit 1 ;; esac\n',
        encoding="utf-8",
    )
    shim.chmod(0o755)
    (tmp_path / "live").mkdir(exist_ok=True)
    (tmp_path / "live/ssh").touch()
    program = client.floor_program(floor).replace("/var/lib/sallyport/live", str(tmp_path / "live"))
    subprocess.run(
        shell, input=program, text=True, check=True,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )  # fmt: skip
    return calls.read_text(encoding="utf-8").splitlines() if calls.exists() else []


@pytest.mark.parametrize("shell", SHELLS)
def test_at_boot_a_clock_in_1970_goes_forward_to_the_floor_and_a_good_one_stays(
    shell: list[str], tmp_path: Path
) -> None:
    floor = wanted(floor="2026-11-01").floor
    assert floor == 1793491200
    assert wanted(servers=["fe80::1%eth0"]).servers == ("fe80::1%eth0",)
    (set_to,) = run_floor(shell, tmp_path, floor, 100)
    assert set_to.startswith("-u -s @") and int(set_to.rpartition("@")[2]) >= floor
    (tmp_path / "calls").unlink()
    assert run_floor(shell, tmp_path, floor, floor + 1) == []


@pytest.mark.parametrize(
    ("records", "name", "synchronised"),
    [
        ([("tracking", "C0A80101,10.0.0.1,3,1795.1,0.0001,0,0,0,0,0,0,0,64.1,Normal")], "chrony", True),
        ([("tracking", "7F7F0101,,0,0.0,0.0,0,0,0,0,0,0,0,0.0,Not synchronised")], "chrony", False),
        ([], "chrony", None),
        ([("timedate", "NTPSynchronized=yes")], "timesyncd", True),
        ([("timedate", "NTPSynchronized=no")], "timesyncd", False),
        ([("adjtimex", "    status:       0x40")], "ntpd", None),
        ([("adjtimex", "    status:       64 (UNSYNC)")], "ntpd", False),
        ([("adjtimex", "    status:       8193 (PLL | NANO)")], "ntpd", True),
    ],
)
def test_the_state_is_what_the_client_says(
    records: list[tuple[str, str]], name: str, synchronised: bool | None
) -> None:
    state = client.state(reply(("epoch", "1000"), *records), name, 990.0)
    assert state["synchronised"] is synchronised
    assert state["difference"] == 10


TRACKING = "C633640D,198.51.100.2,3,1795.1,0.0001,0,0,0,0,0,0,0,64.1,Normal"


@pytest.mark.parametrize(
    ("authdata", "authenticated"),
    [
        ("198.51.100.2,NTS,1,15,256,33,0,0,8,100", True),
        ("198.51.100.2,NTS,0,0,0,4294967295,3,0,0,0", False),
        ("198.51.100.2,-,0,0,0,4294967295,0,0,0,0", False),
        ("198.51.100.9,NTS,1,15,256,33,0,0,8,100", None),
        ("506 Cannot talk to daemon", None),
    ],
)
def test_a_server_has_proved_who_it_is_when_chrony_has_its_key_and_cookies(
    authdata: str, authenticated: bool | None
) -> None:
    said = reply(("epoch", "1000"), ("tracking", TRACKING), ("authdata", authdata))
    assert client.state(said, "chrony", 1000.0)["authenticated"] is authenticated


def policy(*rules: Rule, outbound: Any = "drop") -> HostPolicy:
    return HostPolicy("gw", outbound=rules, defaults=Defaults(outbound=outbound))


def test_a_policy_that_drops_the_question_is_noticed_before_anything_is_changed() -> None:
    ntp = ServiceSet(udp=((123, 123),))
    server = int.from_bytes(bytes((198, 18, 10, 5)), "big")
    there = Rule("time", "allow", ntp, destinations=(Endpoint(Addresses(((server, server),))),))
    elsewhere = Rule("time", "allow", ntp, destinations=(Endpoint(Addresses(((1, 2),))),))
    assert client.policy_says_no(policy(there), wanted()) == []
    assert client.policy_says_no(policy(outbound="allow"), wanted()) == []
    assert client.policy_says_no(None, wanted()) == []
    assert client.policy_says_no(policy(elsewhere), wanted()) == ["198.18.10.5 (udp 123)"]
    assert client.policy_says_no(policy(there), wanted(nts=True)) == ["198.18.10.5 (tcp 4460)"]
    assert client.rule(wanted()) == "{name: time, allow: [ntp], to: [198.18.10.5]}"
    assert client.rule(wanted(nts=True)) == "{name: time, allow: [ntp, nts-ke], to: [198.18.10.5]}"
    assert "to: [the addresses of a.example]" in client.rule(wanted(servers=["a.example"]))


def test_chrony_begins_without_cookies_that_another_ca_vouched_for() -> None:
    said = reply(
        ("has", "chrony"), ("main", "/etc/chrony/chrony.conf"), ("text", "ntsdumpdir /var/lib/chrony\n")
    )
    made = client.plan(wanted(nts=True, nts_root=CA), {"init": "systemd"}, said)
    assert made.activate[0] == "systemctl stop chrony.service\nrm -f /var/lib/chrony/*.nts"
    assert made.activate[-1] == "systemctl restart chrony.service"
    files = {entry["dest"]: entry for entry in made.files}
    assert files[client.NTS_ROOT]["content"] == CA
    without = client.plan(wanted(), {"init": "systemd"}, reply(*said.records[:2], ("text", "driftfile /x\n")))
    assert without.activate[0].startswith("systemctl enable")
    assert {"dest": client.NTS_ROOT, "state": "absent"} in without.files


@pytest.mark.parametrize("shell", SHELLS)
def test_a_file_that_was_written_far_in_the_future_does_not_send_the_device_there(
    shell: list[str], tmp_path: Path
) -> None:
    floor = wanted(floor="2026-11-01").floor
    assert run_floor(shell, tmp_path, floor, 100, written=floor + 86400) == [f"-u -s @{floor + 86400}"]
    (tmp_path / "calls").unlink()
    assert run_floor(shell, tmp_path, floor, 100, written=4070908800) == [f"-u -s @{floor}"]
