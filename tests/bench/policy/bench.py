"""The policy compiler against the clock, and in the same run against the tools that people use today.

    tests/bench/policy/run.sh            installs the other tools in a venv that goes at the end, then runs this

Every figure is processor time, the best of several rounds, ours and theirs in turn: all of them keep one core busy and
wait for nothing, and a busy machine is as busy for both. Memory is the peak above that of the same process before.
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
from importlib import metadata
from pathlib import Path
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import cidrs, load, render, shadow
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


def best(works: dict[str, Work], rounds: int, slow: tuple[str, ...] = ()) -> dict[str, float]:
    """The best processor time of each work; they take turns, and the slow ones only once."""
    times: dict[str, float] = {}
    for turn in range(rounds):
        for name, work in works.items():
            if turn and name in slow:
                continue
            start = time.process_time()
            work()
            times[name] = min(times.get(name, 1e9), time.process_time() - start)
    return times


def ours(text: str) -> Work:
    return lambda: "\n".join(cidrs.texts(cidrs.read_list(text)[0]))


def others(text: str) -> dict[str, Work]:
    """The same work, text to text, by other tools."""
    import netaddr
    from aggregate6 import aggregate

    return {
        "netaddr": lambda: "\n".join(map(str, netaddr.cidr_merge(text.split("\n")))),
        "aggregate6": lambda: "\n".join(aggregate(text.split("\n"))),
    }


def shown(what: str, times: dict[str, str], target: str) -> None:
    cells = (
        what,
        times["ours"],
        target,
        *(times.get(name, "-") for name in ("netaddr", "aggregate6", "aerleon")),
    )
    print(f"| {' | '.join(cells)} |", flush=True)


def merges() -> None:
    for count, lines, target, rounds in (
        (100_000, lines4, 0.15, 5),
        (1_000_000, lines4, 2.0, 3),
        (100_000, lines6, 0.15, 5),
    ):
        text = "\n".join(lines(count))
        works = {"ours": ours(text), **others(text)}
        slow = tuple(works)[1:] if count > 100_000 else ()
        times = best(works, rounds, slow)
        family = "IPv4" if lines is lines4 else "IPv6"
        what = f"merge {count:,} random {family} prefixes, text to text"
        shown(what, {name: f"{seconds:.3f} s" for name, seconds in times.items()}, f"{target} s")


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


DEVICE = {
    "init": "systemd",
    "clock": {"plausible": True},
    "firewall": {tool: {"works": True} for tool in ("nft", "iptables", "ip6tables", "ipset")},
}


def compiled(folder: str, host: str, backend: str) -> int:
    """One host, from the files of its policy to the files of its firewall; how many characters those have."""
    resolved = load.load_host(folder, host, now=date(2027, 1, 1))
    assert resolved.policy is not None, resolved.errors
    files = render.render(resolved.policy, DEVICE, backend).files
    return sum(len(file.content or "") for file in files)


def compile_once(folder: str, backend: str) -> None:
    """Runs in a process of its own: prints seconds and peak memory above the start, in MB."""
    # Without the shelf, or the second run would not read the list.
    os.environ["XDG_CACHE_HOME"] = "none"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    assert compiled(folder, "gw1", backend) > 1_000_000
    seconds = time.process_time() - start
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


def alone(*arguments: str) -> tuple[float, float]:
    """This program in a process of its own: seconds and megabytes."""
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    seconds, memory = map(float, done.stdout.split()[-2:])
    return seconds, memory


def compiles() -> None:
    for listed, target in ((100_000, "0.4 s, 60 MB"), (200_000, "-")):
        with tempfile.TemporaryDirectory() as folder:
            site(Path(folder), listed=listed)
            runs: dict[str, list[tuple[float, float]]] = {}
            for _ in range(3):
                for name in ("nftables", "iptables_ipset"):
                    runs.setdefault(name, []).append(alone("compile", folder, name))
                if "aerleon" not in runs:
                    runs["aerleon"] = [alone("aerleon", folder)]
            told = {name: f"{min(one)[0]:.3f} s, {min(one)[1]:.0f} MB" for name, one in runs.items()}
            for name in ("nftables", "iptables_ipset"):
                shown(
                    f"files to {name}: 1,000 rules (aerleon: 10) and {listed:,} prefixes",
                    {"ours": told[name], "aerleon": told["aerleon"]},
                    target,
                )


def fleet(hosts: int = 100) -> None:
    """As Ansible does it: a process for each host, which forgets what it made."""
    for backend in ("nftables", "iptables_ipset"):
        with tempfile.TemporaryDirectory() as folder:
            site(Path(folder), rules=20)
            os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
            costs = []
            for number in range(hosts):
                start = _children()
                child = os.fork()
                if not child:
                    os._exit(compiled(folder, f"gw{number}", backend) < 1_000_000)
                assert os.waitpid(child, 0)[1] == 0
                costs.append(_children() - start)
            rest = sum(costs[1:])
            shown(
                f"{hosts} hosts to {backend}: 20 rules each, one list of 100,000 prefixes",
                {"ours": f"first {costs[0]:.3f} s, each other one {rest / (hosts - 1):.3f} s"},
                "-",
            )


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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
    times = best({"ours": lambda: shadow.labels(policy)}, 3)
    shown("shadow check, 10,000 rules, union of the earlier ones", {"ours": f"{times['ours']:.2f} s"}, "2 s")


def main() -> None:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("netaddr", "aggregate6", "aerleon"))
    print(
        f"Python {sys.version.split()[0]}, {versions}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
    )
    print(
        "| work | Sallyport | target | netaddr | aggregate6 | aerleon |\n|---|---|---|---|---|---|",
        flush=True,
    )
    # First, because a child's peak memory starts with its parent's.
    compiles()
    fleet()
    merges()
    shadows()


if __name__ == "__main__":
    if sys.argv[1:2] == ["compile"]:
        compile_once(*sys.argv[2:4])
    elif sys.argv[1:2] == ["aerleon"]:
        aerleon_once(sys.argv[2])
    else:
        main()
