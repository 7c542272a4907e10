# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What one packet on an idle device cannot show: flows, bans, traps, rates, answers, swaps, other people's rules."""

from __future__ import annotations

import shutil
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from ipaddress import ip_address

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import bans
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.judge import (
    ICMP,
    ICMPV6,
    TCP,
    UDP,
    Packet,
    judge,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import (
    Addresses,
    Blocklist,
    Defaults,
    Endpoint,
    HostPolicy,
    Log,
    Nat,
    Ping,
    Publish,
    Rate,
    Rule,
    ServiceSet,
    Traps,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.render.base import loader
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.render.cuts import cuts

from tests.kernel.device import BRIDGES, Device
from tests.kernel.equivalence import BACKENDS
from tests.kernel.nflog import Nflog
from tests.kernel.packets import ACK, FIN, RST, SYN, fragments, ip_packet

DEVICE4 = int(ip_address("10.77.0.1"))
DEVICE6 = int(ip_address("fd77::1"))
PEER4 = int(ip_address("10.77.0.2"))
PEER6 = int(ip_address("fd77::2"))


@dataclass
class Firewall:
    """One backend on the device."""

    device: Device
    name: str
    legacy: bool

    def load(self, policy: HostPolicy, adopt: bool = False) -> None:
        self.device.load(BACKENDS[self.name](policy), legacy=self.legacy, adopt=adopt)

    def loader(self, *arguments: str) -> str:
        return self.device.loader(*arguments, legacy=self.legacy)

    def banned(self) -> set[str]:
        return {str(ip_address(line.split()[0])) for line in self.loader("bans").splitlines()}

    def passes(self, packet: Packet, **extra: object) -> bool:
        """Whether the packet comes through the hook that it arrives in."""
        number = next(_numbers)
        seen = self.device.shoot([(packet, ip_packet(packet, number, **extra))])  # type: ignore[arg-type]
        assert seen.first.get(number) == packet.hook, f"never arrived: {packet}"
        return seen.last.get(number) == packet.hook


_numbers = iter(range(1, 60000))


@pytest.fixture(params=[*BACKENDS, "iptables_ipset legacy", "iptables legacy"])
def firewall(device: Device, request: pytest.FixtureRequest) -> Iterator[Firewall]:
    name, _, legacy = request.param.partition(" ")
    yield Firewall(device, name, bool(legacy))
    device.load({}, legacy=bool(legacy))
    device.harness(drop=True)
    device.inside.run("sh", "-c", "command -v conntrack >/dev/null && conntrack -F 2>/dev/null || :")


@contextmanager
def flows(device: Device) -> Iterator[None]:
    """Packets that survive go on their way, so that connection tracking learns their flows."""
    device.harness(drop=False)
    try:
        yield
    finally:
        device.harness(drop=True)


def allowing(**services: tuple[tuple[int, int], ...]) -> HostPolicy:
    return HostPolicy("device", inbound=(Rule("allowed", "allow", ServiceSet(**services)),), bridges=BRIDGES)


CLOSED = HostPolicy("device", bridges=BRIDGES, defaults=Defaults(outbound="deny"))


def incoming(family: str, protocol: int, port: int, source_port: int = 40000, **more: object) -> Packet:
    four = family == "ipv4"
    packet = Packet(
        "inbound",
        family,  # type: ignore[arg-type]
        PEER4 if four else PEER6,
        DEVICE4 if four else DEVICE6,
        protocol,
        port,
        source_port,
        in_interface="lan0",
    )
    return replace(packet, **more)  # type: ignore[arg-type]


def answer_to(packet: Packet) -> Packet:
    return replace(
        packet,
        hook="outbound",
        source=packet.destination,
        destination=packet.source,
        port=packet.source_port,
        source_port=packet.port,
        in_interface="",
        out_interface="lan0",
    )


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_a_running_flow_outlives_a_stricter_policy_and_a_ban_ends_it(firewall: Firewall, family: str) -> None:
    request = incoming(family, UDP, 5000, 41000 if firewall.legacy else 41001)
    with flows(firewall.device):
        firewall.load(allowing(udp=((5000, 5000),)))
        assert firewall.passes(request)
        assert firewall.passes(answer_to(request))
        firewall.load(CLOSED)
        assert firewall.passes(request), "an established flow was cut"
        assert firewall.passes(answer_to(request))
        assert not firewall.passes(replace(request, source_port=42000)), "a new flow was let in"
        peer = "10.77.0.2" if family == "ipv4" else "fd77::"
        firewall.loader("ban", peer)
        assert firewall.banned() == {peer}
        assert not firewall.passes(request)
        assert not firewall.passes(answer_to(request))
        firewall.load(allowing(udp=((6000, 6000),)))
        assert firewall.banned() == {peer}, "a change of policy lifted a ban"
        firewall.loader("lift", peer)
        assert firewall.passes(request)


def test_a_ban_of_any_ipv6_address_on_the_console_hits_its_64(firewall: Firewall) -> None:
    firewall.load(allowing(udp=((5000, 5000),)))
    request = incoming("ipv6", UDP, 5000)
    for written in ("fd77::2", "FD77:0:0:0000::99", "fd77:0:0:0:1:2:3:4"):
        assert firewall.passes(request)
        firewall.loader("ban", written, "60")
        assert not firewall.passes(request), f"listed as banned and not banned: {written}"
        assert firewall.banned() == {"fd77::"}
        firewall.loader("lift", written)
        assert firewall.banned() == set()
    for nonsense in (
        "1.2.3",
        "1.2.3.4.5",
        "256.1.1.1",
        "1.2.3.04",
        "fd77::1::2",
        "fd77:1",
        "fd77::12345",
        "x",
        "",
    ):
        with pytest.raises(AssertionError, match="expected an address"):
            firewall.loader("ban", nonsense, "60")


def test_a_lifted_ban_takes_no_other_one_with_it(firewall: Firewall) -> None:
    if firewall.name == "iptables":
        pytest.skip("plain iptables does not tell when a ban ends")
    firewall.load(CLOSED)
    seconds = {
        "10.77.0.2": 600,
        "110.77.0.2": 500,
        "10.77.0.20": 400,
        "10.77.0.25": 300,
        "fd77::": 200,
        "fd78::": 100,
    }
    for address, length in seconds.items():
        firewall.loader("ban", address, str(length))
    for lifted in ("10.77.0.2", "fd78::"):
        firewall.loader("lift", lifted)
        del seconds[lifted]
        left = bans.read(firewall.loader("bans"))
        assert {one.text.removesuffix("/64") for one in left} == set(seconds)
        for one in left:
            allowed = seconds[one.text.removesuffix("/64")]
            assert one.seconds is not None and allowed - 90 < one.seconds <= allowed, f"{one} grew or shrank"
    with pytest.raises(AssertionError, match=r"10\.77\.0\.9|No such file|not added"):
        firewall.loader("lift", "10.77.0.9")
    for address in list(seconds):
        firewall.loader("lift", address)
    assert firewall.banned() == set()
    assert firewall.loader("verify") == ""


@pytest.mark.parametrize("firewall", ["nftables"], indirect=True)
def test_thousands_of_bans_outlive_the_end_of_one(firewall: Firewall) -> None:
    firewall.load(HostPolicy("device", traps=Traps(((23, 23),), proof="syn"), bridges=BRIDGES))
    many = [f"fd78:0:{number:x}::" for number in range(1, 4097)]
    declared = firewall.device.inside.run("nft", "list", "set", "inet", "sallyport", "bans6_4096")
    assert "size 4096" in declared
    for start in range(0, 4096, 1024):
        elements = ", ".join(f"{one} timeout 1h" for one in many[start : start + 1024])
        firewall.device.inside.run("nft", f"add element inet sallyport bans6_4096 {{ {elements} }}")
    firewall.loader("lift", many[7])
    assert firewall.banned() == {*many} - {many[7]}


@pytest.mark.parametrize("firewall", ["nftables"], indirect=True)
def test_a_ban_by_hand_reads_no_list(firewall: Firewall) -> None:
    """With as much memory as nft itself needs, and not the tenfold that reading the list takes."""
    listed = Addresses(tuple((number * 512, number * 512 + 255) for number in range(40_000, 140_000)))
    firewall.load(replace(CLOSED, blocklists=(Blocklist("long", listed),)))
    if "nftables v0." in firewall.device.inside.run("nft", "--version"):
        pytest.skip("nft 0.9 reads every list to show one set")
    little = 40_000
    element = "inet sallyport bans4_4096 { 10.77.0.2 timeout 1h }"
    with pytest.raises(AssertionError, match="Memory allocation failure"):
        firewall.device.inside.run(
            "sh", "-c", f'ulimit -v {little}; nft "$1"', "sh", f"add element {element}"
        )
    firewall.device.loader("ban", "10.77.0.2", "600", memory_kb=little)
    assert firewall.banned() == {"10.77.0.2"}
    firewall.device.loader("lift", "10.77.0.2", memory_kb=little)
    assert firewall.banned() == set()


def test_icmp_errors_of_a_running_flow_pass_and_redirects_do_not(firewall: Firewall) -> None:
    request = incoming("ipv4", UDP, 5001, 41002)
    with flows(firewall.device):
        firewall.load(allowing(udp=((5001, 5001),)))
        assert firewall.passes(request)
        assert firewall.passes(answer_to(request))
        firewall.load(CLOSED)
        quoted = ip_packet(answer_to(request), 1)[:28]
        for kind, expected in ((3, True), (11, True), (5, False)):
            error = incoming("ipv4", ICMP, kind)
            number = next(_numbers)
            body = ip_packet(error, number, body=quoted)
            seen = firewall.device.shoot([(error, body)])
            assert number in seen.first
            assert (number in seen.last) is expected, f"ICMP type {kind}"


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_the_first_load_adopts_running_tcp_until_it_is_confirmed(firewall: Firewall, family: str) -> None:
    def segment(flags: int, port: int) -> bool:
        return firewall.passes(incoming(family, TCP, 5002, port), flags=flags)

    with flows(firewall.device):
        firewall.load(CLOSED, adopt=True)
        assert segment(ACK, 43000)
        assert segment(FIN | ACK, 43001)
        assert segment(RST, 43002)
        assert not segment(SYN, 43003)
        assert not segment(SYN | ACK, 43004)
        adopted = firewall.loader("live")
        firewall.loader("load")
        assert firewall.loader("live") != adopted
        assert not segment(ACK, 43005)


def test_trap_with_proof_syn_bans_the_source_and_never_a_protected_one(firewall: Firewall) -> None:
    protected = Addresses(((PEER4 + 1, PEER4 + 1),), ((PEER6 + 1, PEER6 + 1),))
    policy = HostPolicy(
        "device",
        inbound=(
            Rule(
                "telnet for some",
                "allow",
                ServiceSet(tcp=((23, 23),)),
                (Endpoint(Addresses(((PEER4 + 2,) * 2,))),),
            ),
        ),
        traps=Traps(((23, 23),), proof="syn"),
        protected=protected,
        bridges=BRIDGES,
    )
    firewall.load(policy)
    assert not firewall.passes(incoming("ipv4", TCP, 23, source=PEER4 + 1))
    assert firewall.passes(incoming("ipv4", TCP, 23, source=PEER4 + 2))
    assert not firewall.passes(incoming("ipv4", TCP, 24, source=PEER4 + 3))
    # The /64 of a protected address is protected: a ban of its neighbour would cut it off.
    assert not firewall.passes(incoming("ipv6", TCP, 23, source=PEER6))
    assert firewall.banned() == set()
    assert not firewall.passes(incoming("ipv4", TCP, 23))
    other6 = int(ip_address("fd78::5"))
    assert not firewall.passes(incoming("ipv6", TCP, 23, source=other6))
    assert firewall.banned() == {"10.77.0.2", "fd78::"}
    assert not firewall.passes(incoming("ipv6", UDP, 67, 547, source=other6 + 9)), "the whole /64 is banned"


def test_a_full_ban_table_takes_no_more_and_still_drops(firewall: Firewall) -> None:
    policy = HostPolicy(
        "device",
        inbound=(Rule("web", "allow", ServiceSet(tcp=((80, 80),))),),
        traps=Traps(((23, 23),), proof="syn", size=64),
        bridges=BRIDGES,
    )
    firewall.load(policy)
    callers = [PEER4 + offset for offset in range(200)]
    for source in callers:
        assert not firewall.passes(incoming("ipv4", TCP, 23, source=source))
    banned = firewall.banned()
    # ipset counts elements by bucket, so that it may stop a little early.
    assert 32 <= len(banned) <= 64
    # Those who came first stay banned, and who found no room is not.
    assert banned == {str(ip_address(source)) for source in callers[: len(banned)]}
    assert not firewall.passes(incoming("ipv4", TCP, 80, source=callers[0]))
    assert firewall.passes(incoming("ipv4", TCP, 80, source=callers[-1]))
    # A change of policy, the traps' own included, makes no room.
    firewall.load(replace(policy, defaults=Defaults(outbound="deny")))
    assert not firewall.passes(incoming("ipv4", TCP, 23, source=callers[-1]))
    assert firewall.banned() == banned


def test_bans_by_hand_push_no_other_ban_out_of_a_full_table(firewall: Firewall) -> None:
    if firewall.name != "iptables":
        pytest.skip("xt_recent alone forgets its oldest entry when it is full")
    firewall.load(HostPolicy("device", traps=Traps(((23, 23),), proof="syn"), bridges=BRIDGES))
    trapped = [PEER4 + offset for offset in range(80)]
    for source in trapped:
        assert not firewall.passes(incoming("ipv4", TCP, 23, source=source))
    assert len(firewall.banned()) == 60
    by_hand = [f"10.77.9.{number}" for number in range(1, 38)]
    for address in by_hand[:36]:
        firewall.loader("ban", address)
    with pytest.raises(AssertionError, match="36 bans by hand are in force"):
        firewall.loader("ban", by_hand[36])
    first = {str(ip_address(source)) for source in trapped[:60]}
    assert firewall.banned() == first | set(by_hand[:36])
    # Another family has a table of its own; a ban that is lifted, or made again, takes no second place.
    firewall.loader("ban", "fd78::")
    firewall.loader("ban", by_hand[3])
    firewall.loader("lift", by_hand[7])
    firewall.loader("ban", by_hand[36])
    assert firewall.banned() == first | {"fd78::"} | {*by_hand} - {by_hand[7]}


@pytest.fixture
def client(device: Device) -> Iterator[Callable[[str], bool]]:
    """A real TCP client on lan0's far end: whether a connection to the device's port 23 comes about."""
    world = device.world
    world.sysctl(net__ipv6__conf__lan0p__disable_ipv6=0, net__ipv6__conf__lan0p__accept_dad=0)
    world.run("ip", "address", "add", "10.77.0.2/16", "dev", "lan0p")
    world.run("ip", "address", "add", "fd77::2/64", "dev", "lan0p", "nodad")

    def connect(address: str, port: int = 23) -> bool:
        with world.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM) as one:
            one.settimeout(1)
            # Close by reset: an orphan that goes on probing would be banned by the next test's trap too.
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
            with suppress(TimeoutError, ConnectionError):
                one.connect((address, port))
                return True
        return False

    yield connect
    world.run("ip", "address", "flush", "dev", "lan0p")
    world.sysctl(net__ipv6__conf__lan0p__disable_ipv6=1)


@pytest.mark.parametrize("address", ["10.77.0.1", "fd77::1"])
def test_forged_syns_ban_nobody_and_a_real_connection_does(
    firewall: Firewall, client: Callable[[str], bool], address: str
) -> None:
    policy = HostPolicy("device", traps=Traps(((23, 23), (2323, 2323)), proof="handshake"), bridges=BRIDGES)
    firewall.load(policy)
    with flows(firewall.device):
        family = "ipv6" if ":" in address else "ipv4"
        for offset in range(3):
            packet = incoming(family, TCP, 23, 44000 + offset)
            packet = replace(packet, source=packet.source + 7)
            assert not firewall.passes(packet)
            # A guessed ACK is no proof either.
            assert not firewall.passes(packet, flags=ACK)
        assert firewall.banned() == set()
        client(address)
        assert firewall.banned() == ({"10.77.0.2"} if family == "ipv4" else {"fd77::"})


def test_a_protected_client_is_not_banned_by_a_real_connection(
    firewall: Firewall, client: Callable[[str], bool]
) -> None:
    protected = Addresses(((PEER4, PEER4),), ((PEER6, PEER6),))
    firewall.load(
        HostPolicy(
            "device", traps=Traps(((23, 23),), proof="handshake"), protected=protected, bridges=BRIDGES
        )
    )
    with flows(firewall.device):
        assert not client("10.77.0.1")
        assert not client("fd77::1")
    assert firewall.banned() == set()


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_reject_answers_on_the_wire(firewall: Firewall, family: str) -> None:
    rejecting = Rule("no", "reject", ServiceSet(any=True))
    policy = HostPolicy(
        "device", inbound=(rejecting,), forward=(rejecting,), outbound=(rejecting,), bridges=BRIDGES
    )
    firewall.load(policy)
    device = firewall.device
    far4, far6 = int(ip_address("10.0.0.9")), int(ip_address("2001:db8:77::9"))
    device.inside.run("ip", "neigh", "replace", "10.77.0.2", "lladdr", "02:00:00:00:00:01", "dev", "lan0")
    device.inside.run("ip", "neigh", "replace", "fd77::2", "lladdr", "02:00:00:00:00:01", "dev", "lan0")
    with flows(device):
        for protocol, expected in ((TCP, "reset"), (UDP, "prohibited")):
            here = incoming(family, protocol, 81, 45000)
            through = replace(
                here, hook="forward", destination=far4 if family == "ipv4" else far6, out_interface="wan0"
            )
            for packet in (here, through):
                with _listening(device, "lan0p", family) as heard:
                    assert not firewall.passes(packet)
                    assert expected in heard(), f"{packet.hook}: no {expected} came back"


@contextmanager
def _listening(device: Device, name: str, family: str) -> Iterator[Callable[[], set[str]]]:
    """What comes out of an interface's far end: "reset" for a TCP reset, "prohibited" for the ICMP error."""
    kind = 0x0800 if family == "ipv4" else 0x86DD
    wire = device.world.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(kind))
    wire.bind((name, kind))
    wire.setblocking(False)

    def heard() -> set[str]:
        found = set()
        with suppress(BlockingIOError):
            while True:
                data, where = wire.recvfrom(4096)
                if where[2] == 4:  # sent by this namespace itself
                    continue
                head, protocol = (20, data[9]) if family == "ipv4" else (40, data[6])
                if protocol == TCP and data[head + 13] & RST:
                    found.add("reset")
                if (protocol, *data[head : head + 2]) in ((ICMP, 3, 13), (ICMPV6, 1, 1)):
                    found.add("prohibited")
        return found

    try:
        yield heard
    finally:
        wire.close()


def test_rates_count_by_source_and_then_drop(firewall: Firewall) -> None:
    rule = Rule("limited", "allow", ServiceSet(tcp=((80, 80),)), rate=Rate(1, 3600, 5))
    after = Rule("never reached", "allow", ServiceSet(any=True))
    firewall.load(HostPolicy("device", inbound=(rule, after), bridges=BRIDGES))
    for source in (PEER4 + 20, PEER4 + 21):
        got = [firewall.passes(incoming("ipv4", TCP, 80, source=source)) for _ in range(8)]
        assert got == [True] * 5 + [False] * 3
    block = int(ip_address("fd79::"))
    got = [firewall.passes(incoming("ipv6", TCP, 80, source=block + offset)) for offset in range(8)]
    assert got == [True] * 5 + [False] * 3, "IPv6 is counted by /64"
    assert firewall.passes(incoming("ipv6", TCP, 80, source=int(ip_address("fd7a::1"))))
    # The same rule in a changed policy goes on where it was.
    firewall.load(HostPolicy("device", inbound=(rule,), bridges=BRIDGES))
    assert not firewall.passes(incoming("ipv4", TCP, 80, source=PEER4 + 20))


def test_ping_rate_is_global(firewall: Firewall) -> None:
    defaults = Defaults(ping=Ping((Endpoint(),), Rate(1, 3600, 5)))
    firewall.load(HostPolicy("device", defaults=defaults, bridges=BRIDGES))
    got = [firewall.passes(incoming("ipv4", ICMP, 8, source=PEER4 + offset)) for offset in range(8)]
    assert got == [True] * 5 + [False] * 3


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_fragments_are_judged_after_reassembly(firewall: Firewall, family: str) -> None:
    firewall.load(allowing(udp=((5003, 5003),)))
    for port, expected in ((5003, True), (5004, False)):
        packet = incoming(family, UDP, port)
        number = next(_numbers)
        pieces = fragments(ip_packet(packet, number, body=b"x" * 64), 16)
        seen = firewall.device.shoot([(packet, piece) for piece in pieces])
        assert number in seen.first
        assert (number in seen.last) is expected


def test_a_first_fragment_without_its_ports_starts_no_flow(firewall: Firewall) -> None:
    firewall.load(allowing(tcp=((5003, 5003),)))
    packet = incoming("ipv6", TCP, 5003)
    for first, expected in ((24, True), (16, False), (8, False)):
        number = next(_numbers)
        pieces = fragments(ip_packet(packet, number, payload=b"x" * 64), first)
        seen = firewall.device.shoot([(packet, piece) for piece in pieces])
        assert (number in seen.last) is expected, first


def test_traffic_inside_a_bridge_passes_with_bridge_netfilter_on(firewall: Firewall) -> None:
    device = firewall.device
    if not device.bridge_netfilter(True):
        pytest.skip("this kernel has no br_netfilter")
    try:
        firewall.load(CLOSED)
        packet = Packet(
            "forward",
            "ipv4",
            int(ip_address("172.22.0.5")),
            int(ip_address("172.22.0.6")),
            UDP,
            5005,
            40000,
            in_interface="br0",
            out_interface="br0",
        )
        number = next(_numbers)
        frame = (packet, ip_packet(packet, number))
        seen = device.shoot([frame], bridged={number})
        assert seen.first.get(number) == "forward", "bridge netfilter did not call the hook"
        assert seen.last.get(number) == "forward"
        # Positive control: without the bridge in the policy the same frame is dropped.
        firewall.load(replace(CLOSED, bridges=()))
        assert number not in device.shoot([frame], bridged={number}).last
    finally:
        device.bridge_netfilter(False)


def test_published_ports_are_translated_and_need_a_rule(firewall: Firewall) -> None:
    to = int(ip_address("172.22.0.9"))
    publish = Publish("hmi", (Endpoint(Addresses(((PEER4, PEER4 + 7),))),), "tcp", 8443, "ipv4", to, 443)
    rule = Rule("hmi", "allow", ServiceSet(tcp=((8443, 8443),)))
    nat = Nat(publish=(publish,), masquerade=("wan0",), clamp_mss=True)

    def arrives(source: int) -> str | None:
        packet = incoming("ipv4", TCP, 8443, source=source)
        number = next(_numbers)
        return firewall.device.shoot([(packet, ip_packet(packet, number))]).last.get(number)

    firewall.load(HostPolicy("device", inbound=(rule,), nat=nat, bridges=BRIDGES))
    assert arrives(PEER4) == "forward"
    assert arrives(PEER4 + 8) == "inbound", "who is not in from reaches the device's own port"
    firewall.load(HostPolicy("device", nat=nat, bridges=BRIDGES))
    assert arrives(PEER4) is None


def test_a_port_that_leads_to_one_of_our_own_is_judged_by_the_port_that_was_asked_for(
    firewall: Firewall,
) -> None:
    """A redirect of ours, and one of the operator's: neither opens a port nor closes one that a rule opens."""
    ours = Publish("panel", (Endpoint(),), "tcp", 8443, "ipv4", DEVICE4, 443)
    ours6 = replace(ours, to_family="ipv6", to_address=DEVICE6)
    nat = Nat(publish=(ours, ours6))

    def opens(policy: HostPolicy, family: str, port: int) -> bool:
        packet = incoming(family, TCP, port)
        assert judge(policy, packet).verdict == ("allow" if firewall.passes(packet) else "deny")
        return judge(policy, packet).verdict == "allow"

    with firewall.device.translating(["tcp dport 8080 redirect to :80"]):
        for allowed in (443, 8443, 80, 8080):
            policy = replace(allowing(tcp=((allowed, allowed),)), nat=nat)
            firewall.load(policy)
            for family in ("ipv4", "ipv6"):
                found = {port for port in (443, 8443, 80, 8080) if opens(policy, family, port)}
                assert found == {allowed}
        # What is led on and no rule admits is dropped, however open the rest is.
        firewall.load(replace(CLOSED, nat=nat, defaults=Defaults(inbound="allow")))
        assert not firewall.passes(incoming("ipv4", TCP, 8443))
        assert not firewall.passes(incoming("ipv6", TCP, 8080))
        assert firewall.passes(incoming("ipv4", TCP, 443))


def test_rules_of_others_survive_load_change_and_removal(firewall: Firewall) -> None:
    inside = firewall.device.inside
    inside.run("nft", "add table inet operator; add chain inet operator own; add rule inet operator own drop")
    inside.run("iptables-nft", "-N", "F2B-SSH")
    inside.run("iptables-nft", "-t", "mangle", "-A", "FORWARD", "-p", "udp", "--dport", "9", "-j", "DROP")

    def others() -> str:
        text = inside.run("nft", "list", "table", "inet", "operator") + inside.run("iptables-nft-save")
        return "\n".join(
            line for line in text.splitlines() if "SALLYPORT" not in line and line[:1] not in "#:"
        )

    before = others()
    try:
        for policy in (CLOSED, allowing(tcp=((1, 1),))):
            firewall.load(policy)
            assert others() == before
        firewall.device.load({}, legacy=firewall.legacy)
        assert others() == before
    finally:
        inside.run("nft", "delete table inet operator")
        inside.run("iptables-nft", "-X", "F2B-SSH")
        inside.run("iptables-nft", "-t", "mangle", "-F", "FORWARD")


def test_drift_shows_in_the_live_state_and_loading_repairs_it(firewall: Firewall) -> None:
    zone = Addresses(tuple((DEVICE4 + 4 * i, DEVICE4 + 4 * i) for i in range(3)))
    rule = Rule("zone", "allow", ServiceSet(tcp=((22, 22),)), (Endpoint(zone),))
    policy = HostPolicy("device", inbound=(rule,), bridges=BRIDGES)
    firewall.load(policy)
    firewall.loader("verify")
    clean = firewall.loader("live")
    table = "iptables-legacy" if firewall.legacy else "iptables-nft"
    tampering = {
        "nftables": (
            "nft add rule inet sallyport input accept",
            "nft flush chain inet sallyport forward",
            "nft insert rule inet sallyport input tcp dport 23 accept",
            "nft delete table inet sallyport",
        ),
        "iptables": (
            f"{table} -t mangle -I SALLYPORT-INPUT -p tcp --dport 23 -j RETURN",
            f"{table} -t mangle -F SALLYPORT-FORWARD",
            f"{table} -t mangle -D INPUT -j SALLYPORT-INPUT",
            f"{table} -t mangle -I INPUT -j ACCEPT",
            f"{table} -t mangle -F",
        ),
    }["nftables" if firewall.name == "nftables" else "iptables"]
    for command in tampering:
        firewall.device.inside.run("sh", "-c", command)
        assert firewall.loader("live") != clean, command
        firewall.loader("load")
        firewall.device.inside.run("sh", "-c", f"{table} -t mangle -D INPUT -j ACCEPT 2>/dev/null || :")
        assert firewall.loader("live") == clean, f"not repaired after: {command}"


@pytest.mark.parametrize("firewall", ["nftables"], indirect=True)
def test_what_somebody_adds_to_our_table_goes_and_never_stands_in_the_way(firewall: Firewall) -> None:
    firewall.load(allowing(tcp=((22, 22),)))
    clean = firewall.loader("live")
    added = (
        "add map inet sallyport foo { type ipv4_addr : verdict; }; add chain inet sallyport cc; "
        "add element inet sallyport foo { 1.2.3.4 : jump cc }; add rule inet sallyport input ip saddr vmap @foo",
        "add counter inet sallyport many; add map inet sallyport by { type ipv4_addr : counter; }; "
        'add element inet sallyport by { 1.2.3.4 : "many" }; add rule inet sallyport input counter name ip saddr map @by',
        "add quota inet sallyport q { over 1 mbytes }; add limit inet sallyport l { rate 5/second }; "
        'add ct helper inet sallyport h { type "ftp" protocol tcp; }; add set inet sallyport s { type ipv4_addr; }',
    )
    for commands in added:
        for command in commands.split("; add "):
            firewall.device.inside.run("nft", command if command.startswith("add") else f"add {command}")
        assert firewall.loader("live") != clean, commands
        firewall.loader("load")
        assert firewall.loader("live") == clean, f"not repaired after: {commands}"


def test_whatever_leads_into_our_chains_goes_and_never_stands_in_the_way(firewall: Firewall) -> None:
    if firewall.name == "nftables":
        pytest.skip("nobody else can lead into a table of our own")
    table = "iptables-legacy" if firewall.legacy else "iptables-nft"
    limited = Rule("limited", "allow", ServiceSet(tcp=((22, 22),)), rate=Rate(9, 1))
    firewall.load(HostPolicy("device", inbound=(limited,), bridges=BRIDGES))
    clean = firewall.loader("live")
    chain = next(word for word in clean.split() if word.startswith("SALLYPORT-RATE-"))
    inside = firewall.device.inside
    inside.run(table, "-t", "mangle", "-N", "OPERATOR")
    try:
        for rule in (
            ("-I", "INPUT", "-i", "lan0", "-j", "SALLYPORT-INPUT"),
            ("-A", "OPERATOR", "-p", "udp", "-g", chain),
            ("-A", "PREROUTING", "-m", "comment", "--comment", "two words", "-j", "SALLYPORT-RUNNING"),
        ):
            inside.run(table, "-t", "mangle", *rule)
            assert firewall.loader("live") != clean, rule
            firewall.loader("load")
            assert firewall.loader("live") == clean, f"not repaired after: {rule}"
        inside.run(table, "-t", "mangle", "-A", "OPERATOR", "-p", "udp", "-g", chain)
        firewall.load(allowing(tcp=((22, 22),)))
        assert chain not in firewall.loader("live")
    finally:
        inside.run(table, "-t", "mangle", "-F", "OPERATOR")
        inside.run(table, "-t", "mangle", "-X", "OPERATOR")


def test_verify_misses_no_chain_that_was_emptied(firewall: Firewall) -> None:
    rejecting = Rule("no", "reject", ServiceSet(tcp=((23, 23),)))
    policy = HostPolicy("device", inbound=(rejecting,), antispoof=(), bridges=BRIDGES)
    firewall.load(policy)
    assert firewall.loader("verify") == ""
    table = "iptables-legacy" if firewall.legacy else "iptables-nft"
    emptied = {
        "nftables": ("nft flush table inet sallyport", "nft flush chain inet sallyport input"),
        "iptables": (
            f"{table} -t mangle -F",
            f"{table} -t mangle -D INPUT -j SALLYPORT-INPUT",
            f"{table} -t filter -F SALLYPORT-INPUT",
        ),
    }["nftables" if firewall.name == "nftables" else "iptables"]
    for command in emptied:
        firewall.device.inside.run("sh", "-c", command)
        with pytest.raises(AssertionError, match=r"firewall-load: (the kernel|iptables|nothing)"):
            firewall.loader("verify")
        firewall.loader("load")
        assert firewall.loader("verify") == ""


def test_loading_again_and_from_nothing_gives_the_same_live_state(firewall: Firewall) -> None:
    first = allowing(tcp=((22, 22),), udp=((5, 9),))
    other = HostPolicy(
        "device", outbound=(Rule("x", "reject", ServiceSet(any=True)),), traps=Traps(((23, 23),))
    )
    firewall.load(first)
    clean = firewall.loader("live")
    firewall.load(other)
    assert firewall.loader("live") != clean
    firewall.load(first)
    assert firewall.loader("live") == clean
    firewall.loader("remove")
    assert firewall.loader("live") == ""
    firewall.loader("load")
    assert firewall.loader("live") == clean, "after a reboot this would be taken for drift"


def test_an_unusable_file_is_refused_and_changes_nothing(firewall: Firewall) -> None:
    firewall.load(allowing(tcp=((22, 22),)))
    clean = firewall.loader("live")
    files = BACKENDS[firewall.name](allowing(tcp=((23, 23),)))
    directory = firewall.device.directory
    main = "nft" if "nft" in files else "v4"
    broken = directory.parent / "staged"
    broken.write_text(files[main].replace("23", "23 nonsense"), encoding="utf-8")
    with pytest.raises(AssertionError, match="refused"):
        firewall.loader("check", main, str(broken))
    assert firewall.loader("live") == clean


def test_a_changed_backend_replaces_the_other_one(device: Device) -> None:
    policy = allowing(tcp=((22, 22),))
    seen = []
    try:
        for name in ("iptables_ipset", "nftables", "iptables", "nftables", "iptables_ipset"):
            device.load(BACKENDS[name](policy))
            live = device.loader("live")
            seen.append((live.count("table inet sallyport") > 0, live.count("-A SALLYPORT-INPUT") > 0))
    finally:
        device.load({})
    assert seen == [(False, True), (True, False), (False, True), (True, False), (False, True)]


def test_an_accept_of_others_does_not_overrule_a_refusal(firewall: Firewall) -> None:
    inside = firewall.device.inside
    firewall.load(replace(CLOSED, defaults=Defaults(inbound="deny", forward="deny", outbound="allow")))
    table = "iptables-legacy" if firewall.legacy else "iptables-nft"
    through = incoming(
        "ipv4", UDP, 9, hook="forward", destination=int(ip_address("10.0.0.9")), out_interface="wan0"
    )
    inside.run(
        "nft",
        "add table inet other; add chain inet other everything { type filter hook input priority -20; }",
    )
    inside.run("nft", "add rule inet other everything accept")
    for chain in ("INPUT", "FORWARD"):
        inside.run(table, "-I", chain, "-j", "ACCEPT")
    try:
        assert not firewall.passes(incoming("ipv4", UDP, 9))
        assert not firewall.passes(through)
    finally:
        inside.run("nft", "delete table inet other")
        for chain in ("INPUT", "FORWARD"):
            inside.run(table, "-D", chain, "-j", "ACCEPT")


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_an_accept_of_others_does_not_overrule_a_reject(firewall: Firewall, family: str) -> None:
    inside = firewall.device.inside
    table = f"{'ip' if family == 'ipv4' else 'ip6'}tables-{'legacy' if firewall.legacy else 'nft'}"
    rule = Rule("no", "reject", ServiceSet(tcp=((8080, 8080),)))
    firewall.load(HostPolicy("device", inbound=(rule,), defaults=Defaults("reject"), bridges=BRIDGES))
    inside.run(table, "-I", "INPUT", "-j", "ACCEPT")
    try:
        assert not firewall.passes(incoming(family, TCP, 8080))
        assert not firewall.passes(incoming(family, UDP, 9))
    finally:
        inside.run(table, "-D", "INPUT", "-j", "ACCEPT")


def test_a_permission_does_not_overrule_a_drop_of_others(firewall: Firewall) -> None:
    inside = firewall.device.inside
    firewall.load(allowing(udp=((9, 9),)))
    table = "iptables-legacy" if firewall.legacy else "iptables-nft"
    assert firewall.passes(incoming("ipv4", UDP, 9))
    inside.run(table, "-A", "INPUT", "-p", "udp", "--dport", "9", "-j", "DROP")
    try:
        assert not firewall.passes(incoming("ipv4", UDP, 9))
    finally:
        inside.run(table, "-D", "INPUT", "-p", "udp", "--dport", "9", "-j", "DROP")


def test_a_long_blocklist_is_exact_at_its_edges(firewall: Firewall) -> None:
    count = 20000 if firewall.name != "iptables" else 1000
    base = int(ip_address("100.64.0.0"))
    v4 = tuple((base + 8 * i, base + 8 * i + 2) for i in range(count))
    v6 = tuple(((0xFD64 << 112) + (i << 64), (0xFD64 << 112) + (i << 64) + 2) for i in range(count))
    policy = replace(allowing(udp=((9, 9),)), blocklists=(Blocklist("long", Addresses(v4, v6), ("lan0",)),))
    firewall.load(policy)
    clean = firewall.loader("live")
    assert len(clean) < 60000 or firewall.name == "iptables", "the live state lists the set"
    for family, intervals in (("ipv4", v4), ("ipv6", v6)):
        for first, last in (intervals[0], intervals[count // 2], intervals[-1]):
            assert not firewall.passes(incoming(family, UDP, 9, source=first))
            assert not firewall.passes(incoming(family, UDP, 9, source=last))
            assert firewall.passes(incoming(family, UDP, 9, source=last + 1))
            assert firewall.passes(incoming(family, UDP, 9, source=first, in_interface="wan0"))
    firewall.load(policy)
    assert firewall.loader("live") == clean


def test_drops_are_logged_under_the_prefix_and_no_faster_than_the_limit(firewall: Firewall) -> None:
    device = firewall.device
    firewall.load(replace(CLOSED, log=Log(Rate(10, 60, 3), "gate", 9)))
    log = Nflog(device.inside, 9)
    try:
        for port in range(1, 9):
            assert not firewall.passes(incoming("ipv4", UDP, port))
        # A packet that no limit holds back marks the end of the log.
        device.inside.run("nft", 'insert rule inet harness first_in udp dport 99 log group 9 prefix "end"')
        firewall.passes(incoming("ipv4", UDP, 99))
        prefixes: list[str] = []
        while "end" not in prefixes:
            prefixes += [prefix for prefix, _ in log.receive()]
        assert prefixes.count("gate drop: ") == 3
    finally:
        log.close()


def test_a_withdrawn_rule_that_says_cut_ends_its_running_flows(firewall: Firewall) -> None:
    if shutil.which("conntrack") is None:
        pytest.skip("the conntrack tool is not installed")
    rule = Rule("short", "allow", ServiceSet(udp=((5006, 5007),)), cut=True)
    kept = Rule("kept", "allow", ServiceSet(udp=((5008, 5008),)))
    tools = {"tools": {"conntrack": "/usr/sbin/conntrack"}}

    def load(*rules: Rule) -> None:
        policy = HostPolicy("device", inbound=rules, bridges=BRIDGES, defaults=Defaults(outbound="deny"))
        lines = cuts(policy, tools)
        files = BACKENDS[firewall.name](policy)
        firewall.device.load({**files, "cuts": lines} if lines else files, legacy=firewall.legacy)

    one, other = (incoming("ipv4", UDP, port, 46000) for port in (5007, 5008))
    with flows(firewall.device):
        load(rule, kept)
        for request in (one, other):
            assert firewall.passes(request)
            assert firewall.passes(answer_to(request))
        load(kept)
        assert firewall.passes(answer_to(other)), "a flow of a rule that stays was ended"
        assert not firewall.passes(answer_to(one))
        assert not firewall.passes(one)


@pytest.mark.parametrize("broken", ["nft", "xtables-nft-multi", "ipset"])
def test_a_tool_that_does_not_work_is_no_hindrance_to_the_others(device: Device, broken: str) -> None:
    name = "iptables" if broken in ("nft", "ipset") else "nftables"
    for old in device.directory.iterdir():
        old.unlink()
    for file, text in BACKENDS[name](allowing(tcp=((22, 22),))).items():
        (device.directory / file).write_text(text, encoding="utf-8")
    (device.directory.parent / "firewall-load").write_text(loader(), encoding="utf-8")
    script = f"""
        printf '#!/bin/sh\\necho "kernel says no" >&2\\nexit 1\\n' >"{device.directory.parent}/broken"
        chmod 755 "{device.directory.parent}/broken"
        mount --bind "{device.directory.parent}/broken" "$(readlink -f "$(command -v {broken})")"
        export SALLYPORT_FIREWALL_DIR="{device.directory}"
        for command in load verify live remove; do sh "{device.directory.parent}/firewall-load" "$command"; done
    """
    printed = device.inside.run("sh", "-euc", script)
    assert "22" in printed
