"""Packets per second behind a large blocklist, and how soon a ban counts, in network namespaces of our own.

    sudo PYTHONPATH=.:.collections .venv/bin/python tests/bench/firewall/bench.py [--seconds 0.25] [--rounds 9]

Each rule set is the compiled policy of one device, in a namespace of its own; small UDP packets from thousands of
sources come in over a wire. Nobody answers them, so each one counts as the first of its flow and goes through the
blocklist. The namespaces take turns (A B C A B C ...) and only shares are compared: each round's rate is divided by
the same round's rate without a firewall, and the median of the rounds is printed. Rates are per second of processor
time, not of the clock, so that other work on the machine does not count. What the sender costs is in all of them.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import select
import socket
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import (
    Addresses,
    Blocklist,
    HostPolicy,
    Rule,
    ServiceSet,
    Traps,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.render import iptables_ipset, nftables
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.render.base import loader

from tests.kernel.namespace import Namespace
from tests.kernel.packets import SYN

OPEN, TRAP = 4000, 2323
DEVICE = "10.77.0.1"
SOURCES = 4096
BACKENDS: dict[str, Callable[[HostPolicy], dict[str, str]]] = {
    "nft": nftables.rulesets,
    "ipset": iptables_ipset.rulesets,
}
TARGETS = {("nft", 10_000): 0.70, ("nft", 100_000): 0.60, ("ipset", 10_000): 0.80, ("ipset", 100_000): 0.65}
BAN_MS = 15
_MARKER = (202 << 24) + 1
_PROCESSOR = min(os.sched_getaffinity(0))
_SOL_PACKET, _QDISC_BYPASS = 263, 20
_LEGACY = "mount --bind /usr/sbin/xtables-legacy-multi /usr/sbin/xtables-nft-multi\n"


def blocklist(count: int, seed: int = 1) -> Addresses:
    """``count`` disjoint IPv4 networks between /24 and /32, none of them touching another, all below 200.0.0.0."""
    chance = random.Random(seed)
    step = (200 << 24) // (count + 1)
    found = []
    for place in range(count):
        length = chance.choice((24, 24, 28, 30, 32, 32, 32, 32))
        while (size := 1 << (32 - length)) * 2 > step - 256:
            length += 1
        first = (place + 1) * step - (place + 1) * step % 256
        found.append((first, first + size - 1))
    return Addresses(tuple(pair for pair in found if not _near(pair[0])), ())


def _near(address: int) -> bool:
    """0/8 and the device's own network stay out of the list."""
    return address >> 24 in (0, 10)


def policy(count: int) -> HostPolicy:
    return HostPolicy(
        "bench",
        inbound=(Rule("open", "allow", ServiceSet(udp=((OPEN, OPEN),))),),
        blocklists=(Blocklist("bench", blocklist(count)),) if count else (),
        traps=Traps(((TRAP, TRAP),), proof="syn"),
    )


class Wire:
    """A namespace with one interface, and the far end of its wire."""

    def __init__(self, tag: str, work: Path) -> None:
        self.directory = work / tag / "firewall"
        self.directory.mkdir(parents=True)
        (work / tag / "firewall-load").write_text(loader(), encoding="utf-8")
        self.inside = Namespace(f"spb{os.getpid()}{tag}")
        self.legacy = ""
        try:
            self.world = Namespace(f"spb{os.getpid()}{tag}w")
        except BaseException:
            self.inside.close()
            raise
        self.inside.sysctl(
            net__ipv4__conf__all__rp_filter=0,
            net__ipv4__conf__default__rp_filter=0,
            net__ipv4__icmp_ratelimit=0,
        )
        run = self.inside.run
        run("ip", "link", "add", "in0", "type", "veth", "peer", "name", "out0", "netns", self.world.name)
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "set", "in0", "up")
        run("ip", "address", "add", f"{DEVICE}/16", "dev", "in0")
        run("ip", "route", "add", "default", "dev", "in0")
        self.world.run("ip", "link", "set", "out0", "up")
        words = run("ip", "-o", "link", "show", "in0").split()
        self.mac = bytes.fromhex(words[words.index("link/ether") + 1].replace(":", ""))
        self.sink = self.inside.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sink.bind((DEVICE, OPEN))
        self.sink.setblocking(False)
        self.out = self.world.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.out.bind(("out0", 0))
        # Past the sender's queue, which is no part of what is measured.
        self.out.setsockopt(_SOL_PACKET, _QDISC_BYPASS, 1)

    def close(self) -> None:
        self.sink.close()
        self.out.close()
        self.inside.close()
        self.world.close()

    def load(self, files: dict[str, str], legacy: bool) -> None:
        for name, text in files.items():
            (self.directory / name).write_text(text, encoding="utf-8")
        self.legacy = _LEGACY if legacy else ""
        self.loader("load")

    def loader(self, *arguments: str) -> str:
        """The program that a device runs, on this namespace."""
        path = self.directory
        script = f'{self.legacy}SALLYPORT_FIREWALL_DIR="{path}" exec sh "{path.parent}/firewall-load" "$@"'
        # A mount namespace of its own: only this command sees the other iptables.
        return self.inside.run("sh", "-euc", script, "sh", *arguments)

    def frame(self, source: int, protocol: int, payload: bytes) -> bytes:
        head = struct.pack(
            ">BBHHHBBHII", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0, source, int(ip_address(DEVICE))
        )
        head = head[:10] + struct.pack(">H", _checksum(head)) + head[12:]
        return self.mac + b"\x02\0\0\0\0\x01\x08\x00" + head + payload

    def udp(self, source: int) -> bytes:
        return self.frame(source, 17, struct.pack(">HHHH", 5000, OPEN, 8, 0))

    def syn(self, source: int) -> bytes:
        head = struct.pack(">HHIIBBHHH", 5000, TRAP, 1, 0, 0x50, SYN, 1024, 0, 0)
        pseudo = struct.pack(">IIHH", source, int(ip_address(DEVICE)), 6, len(head))
        return self.frame(source, 6, head[:16] + struct.pack(">H", _checksum(pseudo + head)) + head[18:])

    def delivered(self) -> int:
        """UDP packets that came to the socket, read or not."""
        with self.inside.entered():
            text = Path("/proc/thread-self/net/snmp").read_text(encoding="ascii")
        names, values = (line.split()[1:] for line in text.splitlines() if line.startswith("Udp:"))
        counts = dict(zip(names, map(int, values), strict=True))
        return counts["InDatagrams"] + counts["RcvbufErrors"] + counts["MemErrors"]


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Message(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p), ("name_length", ctypes.c_uint32), ("parts", ctypes.POINTER(_Iovec)),
        ("count", ctypes.c_size_t), ("control", ctypes.c_void_p), ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int), ("sent", ctypes.c_uint),
    )  # fmt: skip


class Load:
    """The packets of one wire, ready for the kernel: sending costs one system call for 256 of them."""

    BATCH = 256

    def __init__(self, wire: Wire, frames: list[bytes]) -> None:
        self.wire = wire
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._buffers = [ctypes.create_string_buffer(frame, len(frame)) for frame in frames]
        self._parts = (_Iovec * len(frames))()
        self._messages = (_Message * len(frames))()
        for n, buffer in enumerate(self._buffers):
            self._parts[n] = _Iovec(ctypes.addressof(buffer), len(buffer))
            self._messages[n].parts = ctypes.pointer(self._parts[n])
            self._messages[n].count = 1

    def rate(self, seconds: float) -> float:
        """Packets that came through for each second of processor time, the kernel's softirq thread included."""
        size, place = ctypes.sizeof(_Message), 0
        before, paid, start = self.wire.delivered(), _paid(), time.thread_time()
        while time.thread_time() - start < seconds:
            at = ctypes.byref(self._messages, place * size)
            if self._libc.sendmmsg(self.wire.out.fileno(), at, self.BATCH, 0) < 0:
                raise OSError(ctypes.get_errno(), "sendmmsg")
            place = (place + self.BATCH) % len(self._buffers)
        return (self.wire.delivered() - before) / (_paid() - paid)


def _paid() -> float:
    """Seconds of processor time of this thread, and of the kernel's softirq thread on its processor."""
    return time.thread_time() + int(_softirq(_PROCESSOR).read_text(encoding="ascii").split()[0]) / 1e9


@lru_cache(maxsize=1)
def _softirq(processor: int) -> Path:
    for one in Path("/proc").glob("[0-9]*/comm"):
        with suppress(OSError):
            if one.read_text(encoding="ascii").strip() == f"ksoftirqd/{processor}":
                return one.with_name("schedstat")
    sys.exit(f"the kernel's thread ksoftirqd/{processor} is not to be seen: run this outside of a container")


@dataclass
class Shares:
    name: str
    count: int
    shares: list[float]

    def line(self) -> str:
        low, high = min(self.shares), max(self.shares)
        middle, target = statistics.median(self.shares), TARGETS[self.name, self.count]
        verdict = "holds" if middle >= target else "MISSED"
        return f"{self.name:<6} {self.count:>8,} {middle:>8.2f} {low:>6.2f} to {high:.2f} {target:>8.2f}  {verdict}"


@contextmanager
def wire(tag: str, work: Path) -> Iterator[Wire]:
    made = Wire(tag, work)
    try:
        yield made
    finally:
        made.close()


def sources(count: int) -> list[int]:
    """Addresses above the blocklists' range and not the device's: looked up in full, found in none."""
    chance = random.Random(7)
    blocked = [pair for size in (10_000, 100_000) for pair in blocklist(size).v4]
    found: list[int] = []
    while len(found) < count:
        one = chance.randrange(11 << 24, 200 << 24)
        if one >> 24 != 127:
            found.append(one)
    return _outside(found, blocked)


def _outside(candidates: list[int], blocked: list[tuple[int, int]]) -> list[int]:
    """Those that no pair holds, the number kept by taking some twice."""
    kept, pairs, n = [], sorted(blocked), 0
    for one in sorted(candidates):
        while n < len(pairs) and pairs[n][1] < one:
            n += 1
        if not any(first <= one <= last for first, last in pairs[max(0, n - 2) : n + 2]):
            kept.append(one)
    random.Random(8).shuffle(kept)
    return (kept + kept)[: len(candidates)]


def rates(work: Path, seconds: float, rounds: int) -> bool:
    callers = sources(SOURCES)
    with ExitStack() as stack:
        loads = {("none", 0): _load(stack.enter_context(wire("n", work)), callers)}
        for name, count in TARGETS:
            one = stack.enter_context(wire(f"{name}{count // 1000}", work))
            one.load(BACKENDS[name](policy(count)), legacy=name == "ipset")
            _blocks(one, blocklist(count))
            loads[name, count] = _load(one, callers)
        table = {key: Shares(*key, []) for key in TARGETS}
        base = []
        for turn in range(rounds + 1):
            found = {key: load.rate(seconds) for key, load in loads.items()}
            if turn:  # the first one fills the flow tables
                base.append(found["none", 0])
                for key, shares in table.items():
                    shares.shares.append(found[key] / found["none", 0])
    print(f"no firewall: {statistics.median(base):,.0f} packets a second of processor time")
    print(f"{'':<6} {'blocked':>8} {'share':>8} {'rounds':>14} {'target':>8}")
    for shares in table.values():
        print(shares.line())
    return all(statistics.median(one.shares) >= TARGETS[key] for key, one in table.items())


def _load(one: Wire, callers: list[int]) -> Load:
    return Load(one, [one.udp(caller) for caller in callers])


def _blocks(one: Wire, blocked: Addresses) -> None:
    """What is measured is a blocklist that blocks."""
    for first, last in blocked.v4[:: len(blocked.v4) // 20]:
        assert not _arrives(one, one.udp(first)) and not _arrives(one, one.udp(last)), (
            "a blocked caller got in"
        )
        assert _arrives(one, one.udp(last + 1)), "a caller beside a blocked network did not get in"


def ban(work: Path, count: int) -> bool:
    """Bans beside ``count`` prefixes, in ms. By a trap: from the SYN to the first packet that does not come through."""
    held = True
    for name in BACKENDS:
        with wire(f"b{name}", work) as one:
            one.load(BACKENDS[name](policy(count)), legacy=name == "ipset")
            times = []
            for caller in range((201 << 24) + 1, (201 << 24) + 101):
                probe, syn = one.udp(caller), one.syn(caller)
                if not _arrives(one, probe):
                    raise AssertionError("a caller that nobody banned was dropped")
                start = time.perf_counter()
                one.out.send(syn)
                while _arrives(one, probe):
                    if time.perf_counter() - start > 5:
                        raise AssertionError(f"{name}: no ban within 5 s")
                times.append((time.perf_counter() - start) * 1000)
            listed = len(one.loader("bans").splitlines())
            assert listed == len(times), f"{len(times)} callers of the trap, {listed} bans"
            held = _told(name, count, "a trap's ban", times) and held
            held = _told(name, count, "a ban by hand", by_hand(one)) and held
    return held


def by_hand(one: Wire) -> list[float]:
    """From the start of the loader, shell and all, to the first packet that does not come through; and lifted again."""
    times = []
    for caller in range((201 << 24) + (1 << 16), (201 << 24) + (1 << 16) + 30):
        probe, address = one.udp(caller), str(ip_address(caller))
        if not _arrives(one, probe):
            raise AssertionError("a caller that nobody banned was dropped")
        start = time.perf_counter()
        one.loader("ban", address, "600")
        if _arrives(one, probe):
            raise AssertionError(f"{address} was banned, and came through")
        times.append((time.perf_counter() - start) * 1000)
        one.loader("lift", address)
        if not _arrives(one, probe):
            raise AssertionError(f"the ban of {address} was lifted, and it did not come through")
    return times


def _told(name: str, count: int, what: str, times: list[float]) -> bool:
    middle = statistics.median(times)
    print(
        f"{name:<6} {count:,} blocked: {what} counts after {middle:.2f} ms (slowest of {len(times)}: "
        f"{max(times):.2f} ms), target {BAN_MS} ms"
    )
    return middle < BAN_MS


def _arrives(one: Wire, probe: bytes) -> bool:
    """Whether the probe comes through. Packets are judged in order: once the marker behind it is through, it is known."""
    one.out.send(probe)
    one.out.send(one.udp(_MARKER))
    seen, until = False, time.monotonic() + 5
    while time.monotonic() < until:
        if not select.select([one.sink], [], [], 0.1)[0]:
            continue
        caller = int(ip_address(one.sink.recvfrom(16)[1][0]))
        if caller == _MARKER:
            return seen
        seen = True
    raise AssertionError("the marker, whom nobody banned, did not come through within 5 s")


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=0.25, help="for each rule set in each round")
    parser.add_argument("--rounds", type=int, default=9, help="0 leaves the packets out")
    parser.add_argument(
        "--banned-beside", type=int, default=500_000, help="blocked prefixes; 0 leaves it out"
    )
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("network namespaces need root")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    # On one processor packets stay in order, and are paid for by who sends them.
    os.sched_setaffinity(0, {_PROCESSOR})
    with tempfile.TemporaryDirectory() as folder:
        held = not options.rounds or rates(Path(folder), options.seconds, options.rounds)
        if options.banned_beside:
            held = ban(Path(folder), options.banned_beside) and held
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
