"""What the vantage makes of nmap's report and of how a port greets."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.module_utils.half_open import checksum, syn
from ansible_collections.sallyport.iot.plugins.modules import scan

REPORT = """<?xml version="1.0"?><nmaprun><host{attributes}><ports>
<extraports state="filtered" count="3"><extrareasons reason="no-response" count="3" proto="tcp" ports="1-3"/></extraports>
<extraports state="closed" count="2"><extrareasons reason="reset" count="2" proto="tcp" ports="5,7"/></extraports>
<port protocol="tcp" portid="22"><state state="open" reason="syn-ack"/></port>
<port protocol="udp" portid="53"><state state="open|filtered" reason="no-response"/></port>
</ports></host></nmaprun>"""


def test_every_port_of_the_report_has_its_state() -> None:
    states, error = scan.read_nmap(REPORT.format(attributes=""))
    assert states == {
        "tcp": {"filtered": {1, 2, 3}, "closed": {5, 7}, "open": {22}},
        "udp": {"open|filtered": {53}},
    }
    assert error == ""


def test_a_scan_that_ran_out_of_time_says_so() -> None:
    _states, error = scan.read_nmap(REPORT.format(attributes=' timedout="true"'))
    assert "budget" in error


def test_a_host_that_is_not_there_says_so() -> None:
    states, error = scan.read_nmap("<nmaprun></nmaprun>")
    assert states == {"tcp": {}, "udp": {}}
    assert "did not answer" in error


def test_half_a_report_is_refused() -> None:
    with pytest.raises(scan.ScanError, match="cannot be read"):
        scan.read_nmap(REPORT[:200])


def test_an_nmap_that_does_not_list_ports_is_refused() -> None:
    old = REPORT.format(attributes="").replace(' ports="1-3"', "")
    with pytest.raises(scan.ScanError, match=r"7\.90"):
        scan.read_nmap(old)


@pytest.mark.parametrize(
    ("greeting", "kind"),
    [
        (b"\xff\xfd\x01\xff\xfb\x03", "telnet"),
        (b"\xff\xfd\x18\r\nwelcome\r\n", "telnet"),
        (b"BusyBox v1.35\r\n\r\nvendor login: ", "telnet"),
        (b"User Name : ", "telnet"),
        (b"SSH-2.0-dropbear_2022.83\r\n", "ssh"),
        (b"220 ftp ready\r\n", "ftp"),
        (b"220 mail ESMTP\r\n", "smtp"),
        (b"HTTP/1.0 400 Bad Request\r\nlogin: no\r\n", "other"),
        (b"", "silent"),
    ],
)
def test_a_greeting_names_its_protocol(greeting: bytes, kind: str) -> None:
    assert scan.classify_greeting(greeting) == kind


@contextmanager
def server(answer: Any) -> Iterator[int]:
    """A port on loopback that gives each connection to ``answer``."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10)

        def serve() -> None:
            with listening.accept()[0] as connection:
                answer(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(10)


def test_a_telnet_daemon_that_waits_for_the_client_is_heard() -> None:
    def shy(connection: socket.socket) -> None:
        connection.recv(10)
        connection.sendall(b"\xff\xfb\x01login: ")

    with server(shy) as port:
        assert scan.greet("127.0.0.1", port)["kind"] == "telnet"


def test_control_characters_of_a_greeting_do_not_reach_the_report() -> None:
    with server(lambda connection: connection.sendall(b"SSH-2.0-x\x1b[31m\x07\r\n")) as port:
        assert scan.greet("127.0.0.1", port) == {"kind": "ssh", "text": "SSH-2.0-x[31m"}


def test_a_port_that_is_gone_again_was_dropped() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closing:
        port = closing.getsockname()[1]
    assert scan.greet("127.0.0.1", port)["kind"] == "dropped"


@pytest.mark.parametrize(("source", "target"), [("198.51.100.1", "198.51.100.2"), ("fd00::1", "fd00::2")])
def test_a_half_open_probe_is_a_valid_syn(source: str, target: str) -> None:
    segment = syn(source, target, 21000, 80, 12345)
    assert struct.unpack_from("!HHI", segment) == (21000, 80, 12345)
    assert segment[13] == 2
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    pseudo = (
        socket.inet_pton(family, source)
        + socket.inet_pton(family, target)
        + struct.pack("!IHBB", 20, 0, 0, 6)
    )
    assert checksum(pseudo + segment) == 0


def eye(**options: Any) -> scan.Eye:
    return scan.Eye(
        "198.51.100.9", {"budget": 60, "paced": [], "excluded_tcp": "", "udp_ports": [], **options}
    )


def test_an_answer_outweighs_a_silence_whichever_came_first() -> None:
    one = eye()
    one.merge({"tcp": {"open": {22}, "filtered": {80, 81}}})
    one.merge({"tcp": {"filtered": {22}, "closed": {80}, "open": {81}}})
    assert {state: ports for state, ports in one.states["tcp"].items() if ports} == {
        "open": {22, 81},
        "closed": {80},
    }


def test_what_was_not_seen_is_unknown() -> None:
    one = eye()
    one.merge({"tcp": {"open": {22}, "filtered": set(range(23, 65536))}})
    assert one.summary("tcp", set(scan.ALL_TCP))["unknown"] == "1-21"


def test_a_rate_too_slow_for_the_budget_is_an_error_and_not_a_scan() -> None:
    one = eye(budget=20)
    one.scan_paced({"name": "panel", "tcp": "1-1000", "udp": "", "per_second": 0.5, "burst": 5})
    assert "rule 'panel'" in one.errors[0]
    assert "5000 s" in one.errors[0]


def test_a_login_is_tried_once_for_each_port_and_below_its_rate() -> None:
    greetings = {"22": {"kind": "ssh", "text": "SSH-2.0-x"}, "80": {"kind": "other", "text": ""}}
    families = {
        "ipv6": {"address": "fd00::1", "greetings": {**greetings, "23": {"kind": "telnet", "text": ""}}},
        "ipv4": {"address": "198.51.100.9", "greetings": greetings},
    }
    paced = [{"tcp": "20-22", "per_second": 0.5}]
    found = {
        (s["kind"], s["address"], s["port"], s["per_second"]) for s in scan.login_services(families, paced)
    }
    assert found == {("ssh", "198.51.100.9", 22, 0.5), ("telnet", "fd00::1", 23, 0)}
