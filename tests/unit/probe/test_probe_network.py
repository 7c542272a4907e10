"""Interfaces and the neighbours that a device cannot do without."""

from __future__ import annotations

from collections.abc import Callable

from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.facts import network
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.facts.processes import Process

Make = Callable[..., Reply]

ROUTES = """Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT
eth0 00000000 010200C0 0003 0 0 0 00000000 0 0 0
eth0 000200C0 00000000 0001 0 0 0 00FFFFFF 0 0 0
eth1 00000000 010300C0 0002 0 0 0 00000000 0 0 0
"""


def test_the_way_to_an_address_is_the_narrowest_route_that_is_up(reply: Make) -> None:
    zero = "0" * 32

    def six(network: str, size: str, metric: str, flags: str, name: str) -> str:
        return f"{network:0<32} {size} {zero} 00 {zero} {metric} 00000001 00000000 {flags} {name}"

    routes6 = (
        six("", "00", "00000400", "00000003", "eth0"),
        six("", "00", "ffffffff", "00200200", "lo"),
        six("20010db8", "20", "00000200", "00000001", "eth2"),
        six("20010db8", "20", "00000100", "00000001", "eth1"),
        six("20010db80009", "30", "00000100", "00000000", "eth3"),
        six("20010db80008", "30", "00000100", "00000201", "eth3"),
    )
    known = reply(("route", ROUTES), ("ipv6_route", "\n".join(routes6)))
    ways = {
        "192.0.2.9": "eth0",
        "198.51.100.1": "eth0",
        "2001:db8:9::1": "eth1",
        "2001:db8:8::1": "eth1",
        "2a00::1": "eth0",
        "": "",
    }
    assert {text: network.way_to(known, text) for text in ways} == ways
    narrower = ROUTES + "eth1 020200C0 00000000 0001 0 0 0 FEFFFFFF 0 0 0\n"
    assert network.way_to(reply(("route", narrower)), "192.0.2.3") == "eth1"
    odd = reply(
        ("route", ROUTES.replace("00FFFFFF", "00FF00FF")),
        ("ipv6_route", routes6[0].replace(" 00 ", " ff ", 1)),
    )
    assert network.way_to(odd, "192.0.2.9") and network.way_to(odd, "2a00::1") == ""
    assert network.way_to(reply(), "192.0.2.9") == network.way_to(reply(), "2001:db8::1") == ""


def test_bridges_of_container_engines_are_told_from_others(reply: Make) -> None:
    kinds = {
        i["name"]: i["kind"]
        for i in network.interfaces(
            reply(
                ("interface", "lo 772 1 1"),
                ("interface", "eth0 1 2 2 device"),
                ("interface", "docker0 1 3 3 bridge"),
                ("interface", "br-0123456789ab 1 4 4 bridge port=veth0"),
                ("interface", "br-lan 1 5 5 bridge port=eth0"),
                ("interface", "podman1 1 6 6"),
                ("interface", "veth0 1 7 2"),
            )
        )
    }
    assert kinds == {
        "lo": "loopback",
        "eth0": "physical",
        "docker0": "container_bridge",
        "br-0123456789ab": "container_bridge",
        "br-lan": "bridge",
        "podman1": "other",
        "veth0": "other",
    }


def test_addresses_are_read_from_both_forms_of_ip(reply: Make) -> None:
    text = (
        "1: lo    inet 127.0.0.1/8 scope host lo\\       valid_lft forever\n"
        "2: eth0: <BROADCAST,UP> mtu 1500 qdisc noop qlen 1000\\    link/ether aa:bb:cc:dd:ee:ff\n"
        "2: eth0    inet 192.0.2.5/24 brd 192.0.2.255 scope global eth0\\       valid_lft forever\n"
        "2: eth0    inet6 2001:db8::5/64 scope global \\       valid_lft forever\n"
        "3: ppp0    inet 10.8.0.2 peer 10.8.0.1/32 scope global ppp0\\       valid_lft forever\n"
    )
    names = [("interface", f"{name} 1 {i} {i}") for i, name in enumerate(("lo", "eth0", "ppp0"), 1)]
    found = {i["name"]: i["addresses"] for i in network.interfaces(reply(*names, ("ip_addr", text)))}
    assert found == {
        "lo": ["127.0.0.1/8"],
        "eth0": ["192.0.2.5/24", "2001:db8::5/64"],
        "ppp0": ["10.8.0.2/32"],
    }


def test_without_ip_addresses_come_from_the_kernels_tables(reply: Make) -> None:
    trie = "Local:\n  |-- 127.0.0.1\n     /32 host LOCAL\n  |-- 192.0.2.5\n     /32 host LOCAL\n  |-- 192.0.2.255\n     /32 link BROADCAST\n"
    inet6 = "20010db8000000000000000000000005 02 40 00 80     eth0\n"
    answer = reply(
        ("net_dev", "h\nh\n    lo: 1 2\n  eth0: 1 2\n"),
        ("fib_trie", trie),
        ("if_inet6", inet6),
        ("route", ROUTES),
    )
    assert network.interfaces(answer) == [
        {"name": "lo", "kind": "loopback", "addresses": ["127.0.0.1/8"]},
        {"name": "eth0", "kind": "other", "addresses": ["192.0.2.5/24", "2001:db8::5/64"]},
    ]


def test_routers_are_those_of_default_routes_that_are_up(reply: Make) -> None:
    six = f"{'0' * 32} 00 {'0' * 32} 00 fe800000000000000000000000000001 00000400 0 0 00000003 eth0\n"
    none = f"{'0' * 32} 00 {'0' * 32} 00 {'0' * 32} ffffffff 1 0 00200200 lo\n"
    assert network.routers(reply(("route", ROUTES), ("ipv6_route", six + none))) == ["192.0.2.1", "fe80::1"]


def test_routes_of_a_big_endian_gateway_are_read_in_its_order(reply: Make) -> None:
    route = "h\neth0 00000000 C0000201 0003 0 0 0 00000000 0 0 0\n"
    assert network.routers(reply(("big_endian", ""), ("route", route))) == ["192.0.2.1"]


def test_resolvers_on_the_device_itself_are_left_out(reply: Make) -> None:
    answer = reply(
        ("resolver", "nameserver 127.0.0.53"),
        ("resolver", "  nameserver 192.0.2.53 # office"),
        ("resolver", "nameserver fe80::1%eth0"),
        ("resolver", "# nameserver 192.0.2.99"),
        ("resolver", "nameserver 192.0.2.53"),
        ("resolver", "nameserver $(reboot)"),
    )
    assert network.resolvers(answer) == ["192.0.2.53", "fe80::1"]


def test_dhcp_servers_are_found_in_every_kind_of_lease(reply: Make) -> None:
    answer = reply(
        ("dhcp", "  option dhcp-server-identifier 192.0.2.1;"),
        ("dhcp", "SERVER_ADDRESS=192.0.2.2"),
        ("dhcp", "serverid='192.0.2.3'"),
        ("dhcp", "SERVER_ADDRESS=fe80::9"),
    )
    assert network.dhcp_servers(answer) == ["192.0.2.1", "192.0.2.2", "192.0.2.3", "fe80::9"]


def test_time_servers_are_split_into_addresses_and_names(reply: Make) -> None:
    answer = reply(
        ("ntp", "server 192.0.2.123 iburst"),
        ("ntp", "pool 2.debian.pool.ntp.org iburst"),
        ("ntp", "NTP=192.0.2.124 time.example.com"),
        ("ntp", "	list server '0.openwrt.pool.ntp.org'"),
    )
    daemon = Process(
        9, name="ntpd", arguments=("/usr/sbin/ntpd", "-n", "-p", "192.0.2.125", "-p", "ntp.example.net")
    )
    assert network.ntp_servers(answer, [daemon]) == (
        ["192.0.2.123", "192.0.2.124", "192.0.2.125"],
        ["2.debian.pool.ntp.org", "time.example.com", "0.openwrt.pool.ntp.org", "ntp.example.net"],
    )
