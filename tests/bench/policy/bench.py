"""The policy compiler against the clock, and against other tools in the same run where they are installed.

    tests/bench/policy/run.sh            installs the other tools in a venv of their own, then runs this

Every figure is CPU time, the best of several runs, ours and theirs in turn: all of them keep one core busy and wait
for nothing, and a busy machine is as busy for both.
"""

from __future__ import annotations

import os
import random
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import cidrs, load, shadow
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import (
    Addresses,
    Endpoint,
    HostPolicy,
    Rule,
    ServiceSet,
)

Work = Callable[[], Any]


def lines4(count: int, seed: int = 1) -> list[str]:
    """Random IPv4 prefixes as they look in block lists: mostly long, some nested, some adjacent."""
    chance = random.Random(seed)
    found = []
    while len(found) < count:
        length = chance.choice((16, 20, 22, 24, 24, 24, 28, 30, 32, 32, 32, 32))
        network = chance.getrandbits(32) >> (32 - length) << (32 - length)
        found.append(f"{socket.inet_ntoa(network.to_bytes(4, 'big'))}/{length}")
    return found


def lines6(count: int, seed: int = 2) -> list[str]:
    """Random IPv6 prefixes."""
    chance = random.Random(seed)
    found = []
    for _ in range(count):
        length = chance.choice((32, 40, 48, 48, 56, 64, 64, 128))
        network = (0x2000 << 112 | chance.getrandbits(125)) >> (128 - length) << (128 - length)
        found.append(f"{socket.inet_ntop(socket.AF_INET6, network.to_bytes(16, 'big'))}/{length}")
    return found


def best(works: dict[str, Work], rounds: int) -> dict[str, float]:
    """The best CPU time of each work, in turn."""
    times: dict[str, float] = {}
    for _ in range(rounds):
        for name, work in works.items():
            start = time.process_time()
            work()
            times[name] = min(times.get(name, 1e9), time.process_time() - start)
    return times


def ours(text: str) -> Work:
    return lambda: "\n".join(cidrs.texts(cidrs.read_list(text)[0]))


def others(text: str) -> dict[str, Work]:
    """The same work, text to text, by other tools; the ones that are not installed are named."""
    found: dict[str, Work] = {}
    try:
        import netaddr

        found["netaddr"] = lambda: "\n".join(map(str, netaddr.cidr_merge(text.split("\n"))))
    except ImportError:
        print("netaddr is not installed: left out")
    try:
        from aggregate6 import aggregate

        found["aggregate6"] = lambda: "\n".join(aggregate(text.split("\n")))
    except ImportError:
        print("aggregate6 is not installed: left out (run tests/bench/policy/run.sh)")
    return found


def shown(what: str, times: dict[str, float], target: float, more: str = "") -> None:
    rest = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in times.items() if name != "ours")
    mine = times["ours"]
    verdict = "met" if mine <= target else "MISSED"
    print(f"| {what} | {mine:.3f} s{more} | {target} s: {verdict} | {rest or '-'} |", flush=True)


def merges() -> None:
    for count, lines, target, rounds in (
        (100_000, lines4, 0.15, 5),
        (1_000_000, lines4, 2.0, 2),
        (100_000, lines6, 0.15, 5),
    ):
        text = "\n".join(lines(count))
        works = {"ours": ours(text)}
        rivals = others(text)
        # Tens of seconds each for the million: once is enough to compare.
        times = best(works, rounds) | best(rivals, 1 if count > 100_000 else rounds)
        family = "IPv4" if lines is lines4 else "IPv6"
        shown(f"merge {count:,} random {family} prefixes, text to text", times, target)


def site(folder: Path, rules: int = 1000, listed: int = 100_000) -> None:
    """A policy of many rules and one large list."""
    chance = random.Random(3)
    names = ["ssh", "https", "mqtt", "mqtts", "modbus", "opcua", "ntp", "dns", "snmp", "rtsp"]
    parts = ["zones:", "  mgmt: {cidrs: [198.18.0.0/24]}"]
    parts += [
        f"  z{number}: {{cidrs: [10.{number // 250}.{number % 250}.0/24]}}" for number in range(rules // 2)
    ]
    parts += ["inbound:", "  - {name: operators, allow: [ssh], from: [mgmt]}"]
    for number in range(rules - 1):
        service = names[number % len(names)] if number % 10 else "https"
        parts.append(f"  - {{name: r{number}, allow: [{service}], from: [z{chance.randrange(rules // 2)}]}}")
    parts.append("blocklists: [{name: level1, file: level1.netset, overlap: accept}]")
    (folder / "fleet.yml").write_text("\n".join(parts) + "\n")
    (folder / "level1.netset").write_text("\n".join(lines4(listed)) + "\n")


def compile_once(folder: str, backend: str) -> None:
    """Runs in a process of its own: prints seconds and peak memory above the start, in MB."""
    # Without the shelf, or the second run would not read the list.
    os.environ["XDG_CACHE_HOME"] = "none"
    from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.render import BACKENDS

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    resolved = load.load_host(folder, "gw1", now=date(2027, 1, 1))
    assert resolved.policy is not None, resolved.errors
    texts = BACKENDS[backend](resolved.policy, {})
    seconds = time.process_time() - start
    assert sum(map(len, texts.values())) > 1_000_000
    print(seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def aerleon_once(folder: str) -> None:
    """The same list and ten rules through aerleon: prints seconds and memory. Raises ImportError without it."""
    from aerleon import api
    from aerleon.lib import naming

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    listed = [{"address": line} for line in (Path(folder) / "level1.netset").read_text().split()]
    names = naming.Naming()
    networks = {"LEVEL1": {"values": listed}, "MGMT": {"values": [{"address": "198.18.0.0/24"}]}}
    names.ParseDefinitionsObject(
        {"networks": networks, "services": {"SSH": [{"protocol": "tcp", "port": 22}]}}, ""
    )
    rule = {"source-address": "MGMT", "destination-port": "SSH", "protocol": "tcp", "action": "accept"}
    terms = [{"name": "list", "source-address": "LEVEL1", "action": "deny"}]
    terms += [{"name": f"t{number}", **rule} for number in range(9)]
    header = {"targets": {"nftables": "inet input"}}
    made = api.Generate([{"filename": "x", "filters": [{"header": header, "terms": terms}]}], names)
    assert len(made["x.nft"]) > 1_000_000
    print(time.process_time() - start, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def compiles() -> None:
    with tempfile.TemporaryDirectory() as folder:
        site(Path(folder))
        rival: dict[str, float] = {}
        command = [sys.executable, __file__, "aerleon", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            seconds, memory = map(float, done.stdout.split()[-2:])
            rival[f"aerleon, 10 rules, {memory:.0f} MB,"] = seconds
        else:
            print("aerleon is not installed: left out (run tests/bench/policy/run.sh)")
        for backend in ("nftables", "iptables_ipset"):
            runs = []
            for _ in range(3):
                done = subprocess.run(
                    [sys.executable, __file__, "compile", folder, backend],
                    capture_output=True,
                    text=True,
                    check=True,
                )
                runs.append(tuple(map(float, done.stdout.split())))
            seconds, memory = min(runs)
            note = f", {memory:.0f} MB (target 60)"
            shown(f"files to {backend}: 1000 rules + 100,000 prefixes", {"ours": seconds, **rival}, 0.4, note)


def shadows() -> None:
    chance = random.Random(4)
    ports = [22, 80, 443, 502, 1883, 4840, 8080, 8883, *range(20000, 20040)]
    rules = []
    for number in range(10_000):
        length = chance.randint(16, 32)
        network = (10 << 24 | chance.getrandbits(24)) >> (32 - length) << (32 - length)
        ends = (Endpoint(Addresses(((network, network | (1 << 32 - length) - 1),))),)
        port = chance.choice(ports)
        verdict = chance.choice(("allow", "allow", "deny"))
        rules.append(Rule(f"r{number}", verdict, ServiceSet(tcp=((port, port),)), ends))
    policy = HostPolicy("gw1", inbound=tuple(rules))
    shown("shadow check, 10,000 rules", best({"ours": lambda: shadow.labels(policy)}, 3), 2.0)


def main() -> None:
    print(f"Python {sys.version.split()[0]}")
    print("| work | Sallyport | target | others |\n|---|---|---|---|", flush=True)
    # First, because a child's peak memory starts with its parent's.
    compiles()
    merges()
    shadows()


if __name__ == "__main__":
    if sys.argv[1:2] == ["compile"]:
        compile_once(*sys.argv[2:4])
    elif sys.argv[1:2] == ["aerleon"]:
        aerleon_once(sys.argv[2])
    else:
        main()
