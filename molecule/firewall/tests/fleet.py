"""The devices, what listens on them, and the places from which they are tried.

Listeners and clients are sockets of the test itself, opened inside the network of a container: the same on a device
with Python and on one without.

=====  ===========================================================================
7000   tcp, udp: open to all zones
7001   tcp: open to nobody
7002   udp: three flows an hour for each guest
7547   a trap; nothing listens
8080   tcp, published by the container engine to port 80 of its box; open to mgmt
8081   tcp, in the box: open to mgmt at the box's own address
8082   tcp, in the box: open to nobody
8090   tcp, published to port 80 of the box; open to nobody
=====  ===========================================================================
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from lab.fleet import CHECKOUT, addresses
from lab.labs import Lab
from lab.podman import podman

DEVICES = ("debian11", "debian12", "debian13", "vendor")
NFT = ("debian12", "debian13")
FAMILIES = ("ipv4", "ipv6")
BACKENDS = {
    "debian11": "iptables",
    "debian12": "nftables",
    "debian13": "nftables",
    "vendor": "iptables_ipset",
}
GUESTS = ("198.18.64.0/24", "fd00:db8:6::/48")
BLOCKED, VICTIM, CALLER, COUNTED, OTHER, TALKER, KEPT = 66, 10, 11, 12, 13, 14, 15
PATIENCE = 15.0
"""Seconds in which what must happen has to happen."""
SILENCE = 2.0
"""Seconds without an answer that count as none; TCP tries twice in that time."""

_SCENARIO = Path(__file__).resolve().parents[1]
_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000


def guest(number: int, family: str) -> str:
    """An address of a guest: each of them is one /32 and one /64, so that bans and rates keep them apart."""
    return f"198.18.64.{number}" if family == "ipv4" else f"fd00:db8:6:{number}::1"


def banned_as(number: int, family: str) -> str:
    """What stands in the list of bans for a guest: the address, or the first one of its /64."""
    return guest(number, family) if family == "ipv4" else guest(number, family).removesuffix("1")


def box_address(device: str, family: str) -> str:
    """Where the box of a device is."""
    return f"172.31.{_number(device)}.2" if family == "ipv4" else f"fd00:db8:7:{_number(device)}::2"


def _number(device: str) -> int:
    return DEVICES.index(device) + 1


def until(happened: Callable[[], Any], what: str) -> None:
    """Wait for a condition; AssertionError with ``what`` when it does not come true."""
    end = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < end, f"{what}: not in {PATIENCE:.0f} s"
        time.sleep(0.05)


class Place:
    """One network namespace, known by its file."""

    def __init__(self, path: str) -> None:
        self.path = path

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """This thread, inside. Sockets opened here stay here."""
        with open("/proc/thread-self/ns/net", "rb") as home, open(self.path, "rb") as there:
            _setns(there.fileno())
            try:
                yield
            finally:
                _setns(home.fileno())

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        with self.entered():
            return socket.socket(family, kind, protocol)

    def run(self, *command: str, stdin: str = "") -> str:
        """A command of this machine, inside."""
        return run("nsenter", f"--net={self.path}", *command, stdin=stdin)

    def links(self, *lines: str) -> None:
        """Commands of ``ip``, each without that word and with the family as first option."""
        for family in ("-4", "-6"):
            chosen = [line[3:] for line in lines if line.startswith(family)]
            if chosen:
                self.run("ip", family, "-batch", "-", stdin="\n".join((*chosen, "")))


def _setns(descriptor: int) -> None:
    if _LIBC.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "setns")


def run(*command: str, stdin: str = "") -> str:
    """A command that must succeed; its output."""
    done = subprocess.run(command, input=stdin, text=True, capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}{stdin}"
    return done.stdout


def kind_of(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


class Echo:
    """Listeners that send back what they get, all in one thread."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._open: dict[socket.socket, socket.socket] = {}
        """Each socket and the listener that it came from."""
        self._dropped: set[socket.socket] = set()
        self._end = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def listen(self, place: Place, kind: int, port: int) -> socket.socket:
        one = place.socket(socket.AF_INET6, kind)
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if kind == socket.SOCK_DGRAM:
            # The answer must come from the address that was asked.
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        one.bind(("::", port))
        if kind == socket.SOCK_STREAM:
            one.listen(64)
        one.setblocking(False)
        self._open[one] = one
        self._selector.register(one, selectors.EVENT_READ, "accept" if kind == socket.SOCK_STREAM else "udp")
        return one

    def drop(self, listeners: Iterable[socket.socket]) -> None:
        """Close listeners and their connections: an open socket keeps the network of a dead device alive."""
        chosen = set(listeners)
        self._dropped |= chosen
        until(lambda: not chosen & self._dropped, "closing the listeners")

    def close(self) -> None:
        self._end = True
        self._thread.join()
        for one in list(self._open):
            self._close(one)

    def _close(self, one: socket.socket) -> None:
        self._open.pop(one, None)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(one)
        one.close()

    def _serve(self) -> None:
        while not self._end:
            for key, _ in self._selector.select(timeout=0.1):
                one = key.fileobj
                assert isinstance(one, socket.socket)
                try:
                    self._answer(one, key.data)
                except BlockingIOError:
                    continue
                except OSError:
                    self._close(one)
            for listener in list(self._dropped):
                for one in [one for one, parent in list(self._open.items()) if parent is listener]:
                    self._close(one)
                self._dropped.discard(listener)

    def _answer(self, one: socket.socket, kind: str) -> None:
        if kind == "accept":
            stream, _ = one.accept()
            stream.setblocking(False)
            self._open[stream] = one
            self._selector.register(stream, selectors.EVENT_READ, "stream")
        elif kind == "udp":
            data, control, _, sender = one.recvmsg(2048, 256)
            with contextlib.suppress(OSError):  # an answer that may not leave is no end of the service
                one.sendmsg([data], control, 0, sender)
        else:
            data = one.recv(4096)
            if not data:
                raise OSError("the other side closed")
            one.sendall(data)


class Flow:
    """A TCP connection or UDP flow that goes on."""

    def __init__(self, place: Place, kind: int, source: str, address: str, port: int) -> None:
        self.name = f"{source or place.path} to {address} port {port}"
        self._socket = place.socket(kind_of(address), kind)
        if source:
            self._socket.bind((source, 0))
        self._socket.settimeout(PATIENCE)
        self._socket.connect((address, port))
        self._sent = 0

    def echoes(self, seconds: float = PATIENCE) -> bool:
        """Whether what is sent now comes back. A datagram is sent again: one may be lost on a busy machine."""
        self._sent += 1
        text = f"{self._sent:08d}".encode()
        datagram = self._socket.type == socket.SOCK_DGRAM
        end, got = time.monotonic() + seconds, b""
        try:
            self._socket.send(text)
            while not got.endswith(text) and (left := end - time.monotonic()) > 0:
                self._socket.settimeout(min(left, 0.5))
                try:
                    got += self._socket.recv(4096)
                except TimeoutError:
                    if datagram:
                        self._socket.send(text)
        except OSError:
            return False
        return got.endswith(text)

    def close(self) -> None:
        self._socket.close()


@dataclass
class Run:
    """One ansible-playbook: what it printed, and what the firewall of each device said."""

    status: int
    output: str
    hosts: dict[str, dict[str, Any]]

    def states(self) -> dict[str, str]:
        return {host: str(result.get("state")) for host, result in self.hosts.items()}


@dataclass
class Fleet:
    """The four devices, both places, and what was put on them."""

    lab: Lab
    work: Path
    echo: Echo = field(default_factory=Echo)
    places: dict[str, Place] = field(default_factory=dict)
    boxes: dict[str, Place] = field(default_factory=dict)
    listeners: dict[str, list[socket.socket]] = field(default_factory=dict)
    runs: int = 0

    # What there is

    def address(self, device: str, network: str, family: str) -> str:
        where = addresses(network, self.lab.slot(), self.lab.fleet.devices[device].number)
        return where[FAMILIES.index(family)]

    def sh(self, device: str, text: str) -> str:
        """A command on the device, past its SSH; it must succeed."""
        return podman("exec", self.lab.container(device), "/bin/sh", "-euc", text)

    def loader(self, device: str, *arguments: str) -> str:
        return podman(
            "exec", self.lab.container(device), "/bin/sh", "/etc/sallyport/firewall-load", *arguments
        )

    def banned(self, device: str) -> set[str]:
        """IPv6 sources are banned by /64, and stand there as its first address."""
        return {str(ip_address(line.split()[0])) for line in self.loader(device, "bans").splitlines()}

    def foreign(self, device: str) -> str:
        """Every table, chain, rule and set that is not Sallyport's."""
        if device in NFT:
            return self.sh(
                device,
                "nft list tables | while read -r _ family name; do"
                ' [ "$name" = sallyport ] || nft -s list table "$family" "$name"; done',
            )
        saved = self.sh(
            device,
            "for ip in ip ip6; do ${ip}tables-save | sed \"s/^/$ip /\"; done; ipset list -n | sed 's/^/set /'",
        )
        table, kept = "", []
        for line in saved.splitlines():
            word, _, text = line.partition(" ")
            if text.startswith("*"):
                table = text
            elif "SALLYPORT" in text or text.startswith("sallyport-"):
                continue
            elif text.startswith("-A") or (text.startswith(":") and " - " in text) or word == "set":
                # Base chains that are there, and counters, are the kernel's business.
                kept.append(f"{word} {table} {text.partition(' [')[0]}" if word != "set" else line)
        return "\n".join(sorted(kept))

    # What is put there

    def connect(self, device: str) -> None:
        """Routes to the guests, and listeners. Again after each boot, when all of it is gone."""
        self._forget(device)
        place = self._place(device)
        place.links(f"-4 route replace {GUESTS[0]} dev eth1", f"-6 route replace {GUESTS[1]} dev eth1")
        stream, datagram = socket.SOCK_STREAM, socket.SOCK_DGRAM
        wanted = [(stream, 7000), (datagram, 7000), (stream, 7001), (datagram, 7002)]
        self.listeners[device] = [self.echo.listen(place, kind, port) for kind, port in wanted]

    def guests(self) -> None:
        """Guests live behind the place on wan."""
        place = self._place("vantage-wan")
        self._place("vantage-lan")
        numbers = (BLOCKED, VICTIM, CALLER, COUNTED, OTHER, TALKER, KEPT)
        place.links(
            *(f"-4 address replace {guest(number, 'ipv4')}/32 dev eth0" for number in numbers),
            *(f"-6 address replace {guest(number, 'ipv6')}/128 dev eth0 nodad" for number in numbers),
        )
        for network in ("lan", "wan"):
            for device in DEVICES:
                self.places[f"vantage-{network}"].links(
                    *(
                        f"{option} route replace {box_address(device, family)} via"
                        f" {self.address(device, network, family)}"
                        for option, family in (("-4", "ipv4"), ("-6", "ipv6"))
                    )
                )

    def engine(self, device: str) -> None:
        """What a container engine makes: a bridge, a box on it, translations to it, and rules that let them in."""
        place, number = self.places[device], _number(device)
        name = f"{self.lab.prefix}-box-{device}"
        run("ip", "netns", "add", name)
        box = self.boxes[device] = Place(f"/run/netns/{name}")
        link = f"box{self.lab.slot()}x{number}"
        run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "link", "set", link, "netns", place.path.split("/")[2])
        place.links(
            "-4 link add docker0 type bridge",
            f"-4 link set {link} master docker0 up",
            "-4 link set docker0 up",
            f"-4 address add 172.31.{number}.1/24 dev docker0",
            f"-6 address add fd00:db8:7:{number}::1/64 dev docker0 nodad",
        )
        box.links(
            "-4 link set lo up",
            "-4 link set eth0 up",
            f"-4 address add 172.31.{number}.2/24 dev eth0",
            f"-4 route add default via 172.31.{number}.1",
            f"-6 address add fd00:db8:7:{number}::2/64 dev eth0 nodad",
            f"-6 route add default via fd00:db8:7:{number}::1",
        )
        with place.entered():
            for switch in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
                Path(f"/proc/sys/net/{switch}").write_text("1", encoding="ascii")
        self.listeners[device] += [
            self.echo.listen(box, socket.SOCK_STREAM, port) for port in (80, 8081, 8082)
        ]
        self.sh(device, _engine_nft(device) if device in NFT else _engine_iptables(device))

    def _place(self, name: str) -> Place:
        process = podman("inspect", "--format", "{{.State.Pid}}", self.lab.container(name)).strip()
        place = self.places[name] = Place(f"/proc/{process}/ns/net")
        return place

    def _forget(self, device: str) -> None:
        self.echo.drop(self.listeners.pop(device, []))
        self.boxes.pop(device, None)
        command = ("ip", "netns", "del", f"{self.lab.prefix}-box-{device}")
        subprocess.run(command, check=False, capture_output=True)  # one may be left of a run that was killed

    def close(self) -> None:
        for device in DEVICES:
            self._forget(device)
        self.echo.close()

    # What is tried

    def flow(self, place: str, kind: int, address: str, port: int, source: str = "") -> Flow:
        return Flow(self.places[place], kind, source, address, port)

    @contextlib.contextmanager
    def talking(self, flows: Iterable[Flow]) -> Iterator[None]:
        """Meanwhile the flows talk: connection tracking can only adopt what it sees."""
        over = threading.Event()
        chosen = list(flows)

        def talk() -> None:
            while not over.wait(0.1):
                for flow in chosen:
                    flow.echoes(0.5)

        thread = threading.Thread(target=talk, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def verdicts(self, asked: Iterable[tuple[str, str, str, int]]) -> dict[tuple[str, str, str, int], str]:
        """(place, source or "", address, TCP port) to open, closed or filtered, all asked at the same time."""
        wanted = list(asked)
        with ThreadPoolExecutor(max_workers=64) as pool:
            return dict(zip(wanted, pool.map(lambda one: self._verdict(*one), wanted), strict=True))

    def _verdict(self, place: str, source: str, address: str, port: int) -> str:
        with self.places[place].socket(kind_of(address), socket.SOCK_STREAM) as client:
            if source:
                client.bind((source, 0))
            client.settimeout(SILENCE)
            try:
                client.connect((address, port))
            except ConnectionRefusedError:
                return "closed"
            except TimeoutError:
                return "filtered"
            except OSError as error:
                return f"rejected: {error}"
            # No lingering connection: a second try must be a new flow.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return "open"

    # What is done

    def play(self, playbook: str, *arguments: str, policy: dict[str, Any] | None = None) -> Run:
        """Run a playbook on all devices. ``policy`` is a layer above the scenario's."""
        self.runs += 1
        results = self.work / f"results-{self.runs}.jsonl"
        layer = ["-e", json.dumps({"sallyport_policy__50_change": policy})] if policy else []
        done = subprocess.run(
            [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "inventories/lab", playbook,
             "-e", "sallyport_hosts=devices", *layer, *arguments],
            cwd=CHECKOUT, capture_output=True, text=True, timeout=300, check=False,
            env={
                **os.environ, "SALLYPORT_LAB": self.lab.prefix, "SALLYPORT_TEST_RESULTS": str(results),
                "ANSIBLE_CALLBACK_PLUGINS": str(CHECKOUT / "tests/lab/callbacks"),
                "ANSIBLE_CALLBACKS_ENABLED": "results", "ANSIBLE_NOCOLOR": "1",
            },
        )  # fmt: skip
        lines = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
        actions = ("sallyport.iot.firewall", "sallyport.iot.rollback")
        hosts = {line["host"]: line["result"] for line in lines if line["action"] in actions}
        return Run(done.returncode, done.stdout + done.stderr, hosts)

    def apply(self, *arguments: str, policy: dict[str, Any] | None = None) -> Run:
        """Run the firewall role; it must succeed on every device."""
        done = self.play(str(_SCENARIO / "converge.yml"), *arguments, policy=policy)
        assert done.status == 0 and set(done.hosts) == set(DEVICES), done.output[-4000:]
        return done


FOREIGN_NFT = """
nft -f - <<'EOF'
table inet operator {
	set friends { type ipv4_addr; elements = { 198.51.100.1, 198.51.100.9 } }
	chain input { type filter hook input priority 5; policy accept; tcp dport 30006 drop; }
}
table inet f2b-table {
	set addr-set-sshd { type ipv4_addr; elements = { 198.18.64.200 } }
	chain f2b-chain { type filter hook input priority -1; policy accept; tcp dport 22 ip saddr @addr-set-sshd reject; }
}
EOF
"""
FOREIGN_IPTABLES = """
ipset create f2b-sshd hash:ip timeout 600000
ipset add f2b-sshd 198.18.64.200
for command in iptables ip6tables; do
	$command -N OPERATOR
	$command -A OPERATOR -p tcp --dport 30006 -j DROP
	$command -A INPUT -j OPERATOR
	$command -N DOCKER-USER
	$command -A DOCKER-USER -j RETURN
	$command -A FORWARD -j DOCKER-USER
done
iptables -I INPUT -p tcp --dport 22 -m set --match-set f2b-sshd src -j REJECT
"""


def _engine_nft(device: str) -> str:
    """As netavark makes it."""
    lines = ["table inet netavark {"]
    lines += [
        "chain FORWARD { type filter hook forward priority 0; policy accept; ct state established,related accept;"
    ]
    lines += ['oifname "docker0" tcp dport { 80, 8081, 8082 } accept; }']
    lines += ["chain PREROUTING { type nat hook prerouting priority -100; policy accept;"]
    for word, family in (("ip", "ipv4"), ("ip6", "ipv6")):
        target = box_address(device, family)
        target = target if family == "ipv4" else f"[{target}]"
        lines += [
            f"meta nfproto {family} fib daddr type local tcp dport {{ 8080, 8090 }} dnat {word} to {target}:80;"
        ]
    return "nft -f - <<'EOF'\n" + "\n".join((*lines, "}", "}")) + "\nEOF\n"


def _engine_iptables(device: str) -> str:
    """As Docker makes it."""
    script = ""
    for command, family in (("iptables", "ipv4"), ("ip6tables", "ipv6")):
        box = box_address(device, family)
        target = box if family == "ipv4" else f"[{box}]"
        script += (
            f"{command} -t nat -N DOCKER\n"
            f"{command} -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n"
            f"{command} -N DOCKER\n"
            f"{command} -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n"
            f"{command} -A FORWARD -o docker0 -j DOCKER\n"
            f"{command} -A FORWARD -i docker0 ! -o docker0 -j ACCEPT\n"
        )
        for port in (8080, 8090):
            script += f"{command} -t nat -A DOCKER ! -i docker0 -p tcp --dport {port} -j DNAT --to-destination {target}:80\n"
        for port in (80, 8081, 8082):
            script += (
                f"{command} -A DOCKER -d {box} ! -i docker0 -o docker0 -p tcp --dport {port} -j ACCEPT\n"
            )
    return script
