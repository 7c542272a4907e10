"""Processes and sockets from the kernel's tables."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.facts import processes
from hypothesis import given
from hypothesis import strategies as st

Make = Callable[..., Reply]


def stat(pid: int, name: str, ppid: int = 1) -> str:
    return f"{pid} ({name}) S {ppid} " + " ".join(["0"] * 48) + "\n"


def table(*lines: str) -> str:
    return "".join(line + "\n" for line in lines)


def socket(local: str, inode: int, state: str = "0A") -> str:
    remote = "0" * (len(local) - 5) + ":0000"
    return f"  0: {local} {remote} {state} 00000000:00000000 00:00000000 00000000 0 0 {inode} 1"


@given(address=st.ip_addresses(), big_endian=st.booleans())
def test_an_address_survives_the_kernels_byte_order(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, big_endian: bool
) -> None:
    words = [address.packed[at : at + 4] for at in range(0, len(address.packed), 4)]
    order = "big" if big_endian else "little"
    # The kernel prints each 32-bit word as the number that this machine takes it for.
    shown = "".join(f"{int.from_bytes(word, order):08X}" for word in words)
    assert processes.socket_address(shown, big_endian) == str(address)


@pytest.mark.parametrize("text", ["", "0100007", "0100007F0", "0100007G", "x" * 32])
def test_what_is_no_address_is_not_guessed(text: str) -> None:
    assert processes.socket_address(text, False) == ""


def test_arguments_are_split_where_the_program_split_them(reply: Make) -> None:
    text = (
        stat(7, "httpd")
        + "/usr/sbin/httpd\x1f-h\x1f/my files\x1fLinux\n"
        + stat(8, "kworker/0:1")
        + "Linux\n"
    )
    found = processes.processes(reply(("processes", text)))
    assert found[7].arguments == ("/usr/sbin/httpd", "-h", "/my files")
    assert found[8].arguments == ()


def test_a_process_named_like_a_record_stays_one_process(reply: Make) -> None:
    text = stat(7, "a) S 1 (b") + "x\x1fLinux\n" + stat(8, "new\nline") + "y\x1fLinux\n"
    found = processes.processes(reply(("processes", text)))
    assert set(found) == {7, 8}
    assert found[7].name == "a) S 1 (b"
    assert found[8].name == "new�line"


def test_forged_records_in_the_arguments_of_a_process_are_not_believed(reply: Make) -> None:
    forged = stat(20, "innocent", 666)
    text = stat(20, "sshd") + "/usr/sbin/sshd\x1fLinux\n" + stat(30, "evil") + f"x\n{forged}cover\x1fLinux\n"
    found = processes.processes(reply(("processes", text)))
    assert found[20].name == ""
    assert found[20].arguments is None
    assert found[20].command == ""


def test_a_listener_is_found_with_its_process_and_unit(reply: Make) -> None:
    answer = reply(
        ("processes", stat(7, "httpd") + "httpd\x1fLinux\n"),
        ("descriptors", "/proc/7/fd/:\nlrwx------ 1 0 0 64 Jan 1 00:00 3 -> socket:[4711]\n"),
        ("cgroups", "/proc/7/cgroup:0::/system.slice/web.service\n"),
        ("tcp", table(socket("0100007F:0050", 4711), socket("00000000:0016", 99, state="01"))),
    )
    running = processes.processes(answer)
    assert processes.listening(answer, running, {}) == [
        {
            "protocol": "tcp",
            "family": "ipv4",
            "address": "127.0.0.1",
            "port": 80,
            "pid": 7,
            "process": "httpd",
            "unit": "web.service",
        }
    ]


def test_without_ls_single_links_are_enough(reply: Make) -> None:
    answer = reply(
        ("processes", stat(7, "httpd") + "httpd\x1fLinux\n"),
        ("descriptor", "/proc/7/fd/3 -> socket:[4711]"),
        ("descriptor", "/proc/7/exe -> /usr/sbin/httpd"),
        ("udp", table(socket("00000000:0035", 4711, state="07"))),
    )
    running = processes.processes(answer)
    assert running[7].exe == "/usr/sbin/httpd"
    assert [s["process"] for s in processes.listening(answer, running, {})] == ["httpd"]


def test_a_socket_of_an_unknown_owner_is_still_shown(reply: Make) -> None:
    answer = reply(("tcp", table(socket("00000000:0016", 5))))
    found = processes.listening(answer, {}, {})
    assert [(s["port"], s["pid"], s["process"]) for s in found] == [(22, 0, "")]


def test_of_a_master_and_its_workers_the_master_owns_the_socket(reply: Make) -> None:
    descriptors = "".join(f"/proc/{pid}/fd:\nl 3 -> socket:[5]\n" for pid in (40, 41, 42))
    answer = reply(
        (
            "processes",
            stat(40, "nginx", 42) + "Linux\n" + stat(41, "nginx", 42) + "Linux\n" + stat(42, "nginx", 1),
        ),
        ("descriptors", descriptors),
        ("tcp", table(socket("00000000:0050", 5))),
    )
    assert [s["pid"] for s in processes.listening(answer, processes.processes(answer), {})] == [42]


def test_a_socket_that_systemd_holds_carries_its_socket_unit(reply: Make) -> None:
    units = {
        "telnet.socket": {"listen": ["[::]:23 (Stream)"]},
        "other.socket": {"listen": ["/run/x (Stream)"]},
    }
    answer = reply(
        ("processes", stat(1, "systemd", 0) + "/sbin/init\x1fLinux\n"),
        ("descriptors", "/proc/1/fd/:\nl 3 -> socket:[5]\n"),
        ("tcp6", table(socket("0" * 32 + ":0017", 5))),
    )
    found = processes.listening(answer, processes.processes(answer), units)
    assert [(s["address"], s["port"], s["unit"]) for s in found] == [("::", 23, "telnet.socket")]


def test_two_sockets_of_one_process_on_one_port_are_one_listener(reply: Make) -> None:
    answer = reply(
        ("processes", stat(7, "dnsd") + "Linux\n"),
        ("descriptors", "/proc/7/fd/:\nl 3 -> socket:[5]\nl 4 -> socket:[6]\n"),
        ("udp", table(socket("00000000:0035", 5, "07"), socket("00000000:0035", 6, "07"))),
    )
    assert len(processes.listening(answer, processes.processes(answer), {})) == 1


def test_parents_are_followed_once_even_in_a_ring() -> None:
    running = {
        1: processes.Process(1, 2, "a"),
        2: processes.Process(2, 1, "b"),
        3: processes.Process(3, 0, "c"),
    }
    assert [p["pid"] for p in processes.with_parents({1}, running)] == [1, 2]


def test_units_that_belong_to_systemd_itself_are_left_out(reply: Make) -> None:
    def block(name: str, active: str, state: str) -> str:
        return f"Id={name}\nActiveState={active}\nUnitFileState={state}\nFragmentPath=/x/{name}\n\n"

    text = (
        block("ssh.service", "active", "enabled")
        + block("systemd-tmpfiles-setup.service", "active", "static")
        + block("telnet@1.service", "active", "static")
        + block("telnet.socket", "inactive", "masked")
        + block("off.service", "inactive", "disabled")
    )
    listener = processes.Process(9, unit="telnet@1.service", inodes=frozenset({1}))
    found = processes.units(
        reply(("units", text), ("wanted", "later.service"), ("wanted", "a.timer")), [listener]
    )
    assert list(found) == ["later.service", "ssh.service", "telnet.socket", "telnet@1.service"]
    assert found["ssh.service"] == {
        "active": "active",
        "enabled": "enabled",
        "path": "/x/ssh.service",
        "listen": [],
    }
