#!/usr/bin/python
# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""See one device's ports from a vantage host: every TCP port, the UDP ports that matter, and what answers.

Runs on the vantage host (Python 3.9 or later, nmap, root). It reports what it saw and how sure it is of it; what
should have been seen is judged on the controller.
"""

from __future__ import annotations

DOCUMENTATION = r"""
module: scan
short_description: Scan one device from a vantage host
version_added: 0.1.0
description:
  - Scans all 65535 TCP ports and chosen UDP ports of one device, over IPv4 and IPv6 at the same time, with nmap.
  - Sends probes to ports known to be open while the full scan runs, and scans again slower when any of them is lost.
  - Connects to every open TCP port and records how it greets, so that a telnet login on any port is seen.
  - Runs on the vantage host. It changes nothing anywhere.
requirements:
  - nmap and root on the vantage host
author: The Sallyport authors (@sallyport)
options:
  addresses:
    description: The device's addresses as this vantage reaches them, by family (C(ipv4), C(ipv6)).
    type: dict
    required: true
  careful_tcp:
    description:
      - TCP ports that something listens on or that the policy admits. They are scanned first and with more retries.
      - Those that answer are the reference by which the loss of the full scan is measured.
    type: list
    elements: int
    default: []
  udp_ports:
    description: UDP ports to scan.
    type: list
    elements: int
    default: []
  excluded_tcp:
    description: TCP ports that must not be touched, such as traps, which would ban this vantage. C(1-21,23) form.
    type: str
    default: ""
  paced:
    description: Groups of ports behind one rate limit. They are scanned by themselves, below that rate.
    type: list
    elements: dict
    default: []
    suboptions:
      name: {description: The rule's name., type: str, required: true}
      tcp: {description: "TCP ports in C(1-21,23) form.", type: str, default: ""}
      udp: {description: "UDP ports in C(1-21,23) form.", type: str, default: ""}
      per_second: {description: Packets a second that the rule lets a new source send., type: float, required: true}
      burst: {description: Packets that may come at once., type: int, required: true}
  rate:
    description: Packets a second, for each family.
    type: int
    default: 5000
  budget:
    description: Seconds after which the scan of this device is given up and reported as incomplete.
    type: int
    default: 60
"""

EXAMPLES = r"""
- name: See the device from this vantage
  sallyport.iot.scan:
    addresses: {ipv4: 198.51.100.20, ipv6: "fd00:db8:1::20"}
    careful_tcp: [22, 80]
    udp_ports: [53, 161, 1900]
  delegate_to: vantage-wan
  become: true
"""

RETURN = r"""
families:
  description: What was seen, by family. Port sets are text in C(1-21,23) form.
  returned: always
  type: dict
  sample:
    ipv4:
      address: 198.51.100.20
      source: 198.51.100.5
      error: ""
      tcp: {open: "22,80", closed: "", filtered: "1-21,23-79,81-65535", unknown: ""}
      udp: {open: "", closed: "", filtered: "", silent: "53,161,1900", unknown: ""}
      greetings: {"22": {kind: ssh, text: SSH-2.0-dropbear_2022.83}}
      passes: [{rate: 5000, seconds: 26.4, sent: 520, lost: 0}]
login_services:
  description: Where a login is offered, one address for each port, as M(sallyport.iot.try_logins) takes them.
  returned: always
  type: list
  elements: dict
seconds:
  description: How long the scan took.
  returned: always
  type: float
"""

import re
import shutil
import socket
import subprocess
import threading
import time
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sallyport.iot.plugins.module_utils.half_open import count_lost
from ansible_collections.sallyport.iot.plugins.module_utils.ports import format_ports, parse_ports

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing costs 10 ms of start on a small vantage host
    from collections.abc import Callable
    from concurrent.futures import Future
    from typing import Any

ALL_TCP = range(1, 65536)
SLOWER = 5
"""After a pass that lost probes or answers, the silent ports are asked again at the rate divided by this."""

TOLERABLE_LOSS = 0.05
"""Share of lost probes in the slower pass, which sends up to four to each port."""

SAMPLE = range(1021, 65536, 2039)
"""32 ports that show whether a device answers on ports where nothing is."""

MANY_ANSWERS = 1000
"""A firewall is silent on most ports, an open device answers on all. Where thousands of ports answer and others do
not, nmap was too busy to hear them all."""

LONGEST_ARGUMENT = 100_000
"""Linux takes 131,071 bytes; half of all ports, one by one, are more."""

CANARY_EVERY = 0.05
"""Seconds between two probes of the known open ports during the full scan."""

GREETING_SECONDS = 1.5
GREETING_BYTES = 512
TELNET_LOGIN = re.compile(rb"(?i)(login|username|user name|password)\s*:\s*$")
IAC_NEGOTIATION = re.compile(rb"\xff[\xfb-\xfe].")


class ScanError(Exception):
    """nmap could not do its work; the message says what it said."""


def read_nmap(xml: str) -> tuple[dict[str, dict[str, set[int]]], str]:
    """Read nmap's XML for one host.

    Returns ``({"tcp": {state: ports}, "udp": {state: ports}}, error)`` with nmap's own state names. ``error`` is
    empty, or says why the host was not scanned to the end. Raises ScanError where the text is no report.
    """
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError as error:
        raise ScanError(f"nmap's report cannot be read ({error})") from error
    states: dict[str, dict[str, set[int]]] = {"tcp": {}, "udp": {}}
    host = root.find("host")
    if host is None:
        return states, "the device did not answer at all (no such address on this network, or it is down)"
    ports = host.find("ports")
    for extra in ports.iter("extraports") if ports is not None else ():
        for reason in extra.iter("extrareasons"):
            listed = reason.get("ports")
            if listed is None:
                raise ScanError("this nmap's report does not list the ports; install nmap 7.90 or later")
            protocol = reason.get("proto", "tcp")
            states[protocol].setdefault(extra.get("state", ""), set()).update(parse_ports(listed))
    for port in ports.iter("port") if ports is not None else ():
        state = port.find("state")
        protocol = port.get("protocol", "")
        if state is not None and protocol in states:
            states[protocol].setdefault(state.get("state", ""), set()).add(int(port.get("portid", "0")))
    timed_out = "the time budget ended before the scan did" if host.get("timedout") == "true" else ""
    return states, timed_out


def run_nmap(
    address: str, arguments: list[str], seconds: float
) -> tuple[dict[str, dict[str, set[int]]], str]:
    """Run nmap against one address for at most ``seconds``. Raises ScanError with nmap's own words."""
    if seconds < 1:
        return {"tcp": {}, "udp": {}}, "the time budget ended before the scan began"
    command = ["nmap", "-n", "-Pn", "--noninteractive", "--host-timeout", f"{int(seconds)}s", "-oX", "-"]
    command += ["-6"] if ":" in address else []
    command += [*arguments, address]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds + 10,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"tcp": {}, "udp": {}}, "the time budget ended before the scan did"
    if done.returncode != 0 or not done.stdout.strip():
        raise ScanError("nmap failed: " + (done.stderr.strip() or f"exit status {done.returncode}"))
    return read_nmap(done.stdout)


def forced(rate: int, retries: int) -> list[str]:
    """nmap's options for a rate that it keeps whatever it hears."""
    return ["--min-rate", str(rate), "--max-rate", str(rate), "--max-retries", str(retries)]


def local_address(address: str) -> str:
    """The address that this host uses towards ``address``; empty where there is no route. Sends nothing."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def classify_greeting(data: bytes) -> str:
    """Name the protocol that speaks first on a port: telnet, ssh, ftp, smtp, other or silent."""
    if IAC_NEGOTIATION.search(data) or TELNET_LOGIN.search(data.rstrip(b"\x00")):
        return "telnet"
    if data.startswith(b"SSH-"):
        return "ssh"
    if data.startswith(b"220"):
        return "smtp" if b"SMTP" in data else "ftp"
    return "other" if data else "silent"


def greet(address: str, port: int) -> dict[str, str]:
    """Connect, listen, then press Enter once: some telnet daemons wait for the client to begin."""
    data = b""
    try:
        with socket.create_connection((address, port), timeout=3) as conversation:
            for nudge in (b"", b"\r\n"):
                if nudge:
                    conversation.sendall(nudge)
                end = time.monotonic() + GREETING_SECONDS
                while len(data) < GREETING_BYTES and time.monotonic() < end:
                    conversation.settimeout(max(0.05, end - time.monotonic()))
                    try:
                        more = conversation.recv(GREETING_BYTES)
                    except socket.timeout:  # noqa: UP041  (Python 3.9: not yet an alias of TimeoutError)
                        break
                    if not more:
                        return describe_greeting(data)
                    data += more
                    if classify_greeting(data) in ("telnet", "ssh"):
                        return describe_greeting(data)
                if data:
                    break
    except OSError as error:
        if not data:
            return {"kind": "dropped", "text": str(error)}
    return describe_greeting(data)


def describe_greeting(data: bytes) -> dict[str, str]:
    """The kind of a greeting and its first line, made printable."""
    text = IAC_NEGOTIATION.sub(b"", data).decode("utf-8", "replace").strip()
    first = text.splitlines()[0] if text else ""
    return {"kind": classify_greeting(data), "text": "".join(c for c in first if c.isprintable())[:120]}


class Eye:
    """One family of one device, seen from here."""

    def __init__(self, address: str, options: dict[str, Any]) -> None:
        self.address = address
        self.options = options
        self.end = time.monotonic() + options["budget"]
        self.states: dict[str, dict[str, set[int]]] = {"tcp": {}, "udp": {}}
        self.passes: list[dict[str, Any]] = []
        self.errors: list[str] = []
        self.greetings: dict[int, Future[dict[str, str]]] = {}
        self.lock = threading.Lock()

    def left(self) -> float:
        """Seconds left of the budget."""
        return float(self.end - time.monotonic())

    def merge(self, states: dict[str, dict[str, set[int]]]) -> None:
        """Keep the most open state that was ever seen of a port: an answer cannot be imagined, a loss can happen."""
        order = ("open", "closed", "unfiltered", "filtered", "open|filtered")
        with self.lock:
            for protocol, by_state in states.items():
                known = self.states[protocol]
                for rank, state in enumerate(order):
                    better = set().union(*(known.get(name, set()) for name in order[:rank]))
                    new = by_state.get(state, set()) - better
                    known.setdefault(state, set()).update(new)
                    for worse in order[rank + 1 :]:
                        known.get(worse, set()).difference_update(new)

    def look(self) -> dict[str, Any]:
        """Do everything and say what was seen."""
        paced_tcp = set().union(*(parse_ports(group["tcp"]) for group in self.options["paced"]))
        paced_udp = set().union(*(parse_ports(group["udp"]) for group in self.options["paced"]))
        excluded = parse_ports(self.options["excluded_tcp"]) | paced_tcp
        with ThreadPoolExecutor(16) as pool:
            self.pool = pool
            work = [
                pool.submit(self.guard, self.scan_udp, set(self.options["udp_ports"]) - paced_udp),
                pool.submit(self.guard, self.scan_tcp, excluded),
                *(pool.submit(self.guard, self.scan_paced, group) for group in self.options["paced"]),
            ]
            for job in work:
                job.result()
            self.listen_to(self.states["tcp"].get("open", set()))
            heard = {str(port): self.greetings[port].result() for port in sorted(self.greetings)}
        return {
            "address": self.address,
            "source": local_address(self.address),
            "error": "; ".join(sorted(set(self.errors))),
            "tcp": self.summary("tcp", set(ALL_TCP) - parse_ports(self.options["excluded_tcp"])),
            "udp": self.summary("udp", set(self.options["udp_ports"]) | paced_udp),
            "greetings": heard,
            "passes": self.passes,
        }

    def listen_to(self, ports: set[int]) -> None:
        """Begin to listen to those ports that nobody listens to yet."""
        for port in ports - self.greetings.keys():
            self.greetings[port] = self.pool.submit(self.hear, port)

    def hear(self, port: int) -> dict[str, str]:
        """How the port greets, while there is time."""
        if self.left() > 0:
            return greet(self.address, port)
        self.errors.append("the time budget ended before every open port was listened to")
        return {"kind": "unknown", "text": ""}

    def guard(self, work: Callable[..., None], *arguments: Any) -> None:
        """Turn a failure of one part into a remark, so that the other parts are still reported."""
        try:
            work(*arguments)
        except (ScanError, OSError) as error:
            self.errors.append(str(error))

    def summary(self, protocol: str, wanted: set[int]) -> dict[str, str]:
        """Port sets by state. ``unknown`` is what was to be scanned and has no result."""
        known = self.states[protocol]
        # A bare ACK-style "unfiltered" says that the packet arrived, which is what "closed" means here.
        closed = known.get("closed", set()) | known.get("unfiltered", set())
        result = {
            "open": known.get("open", set()),
            "closed": closed,
            "filtered": known.get("filtered", set()),
        }
        if protocol == "udp":
            result["silent"] = known.get("open|filtered", set())
        result["unknown"] = wanted - set().union(*result.values())
        return {state: format_ports(ports) for state, ports in result.items()}

    def scan_udp(self, ports: set[int]) -> None:
        """Scan UDP ports. A device limits its own refusals, so this takes its time beside the TCP scan."""
        if ports:
            arguments = ["-sU", "-T4", "--max-retries", "2", "-p", "U:" + format_ports(ports)]
            states, error = run_nmap(self.address, arguments, self.left())
            self.merge(states)
            self.errors += [error] if error else []

    def scan_paced(self, group: dict[str, Any]) -> None:
        """Scan ports that share a rate limit, below that limit."""
        tcp, udp = parse_ports(group["tcp"]), parse_ports(group["udp"])
        ports = ",".join(kind + format_ports(p) for kind, p in (("T:", tcp), ("U:", udp)) if p)
        probes = 2 * (len(tcp) + len(udp))
        arguments = (["-sS"] if tcp else []) + (["-sU"] if udp else [])
        arguments += ["-T4", "--max-retries", "1", "-p", ports]
        # Two starts are left over for the greeting and the first login, which obey the same limit.
        if probes + 2 > group["burst"]:
            needed = probes / (0.8 * group["per_second"])
            if needed > self.left():
                self.errors.append(
                    f"the rate of rule '{group['name']}' makes its {probes // 2} ports a scan of {int(needed)} s, "
                    f"more than the budget"
                )
                return
            arguments += ["--max-rate", f"{0.8 * group['per_second']:.4f}"]
        states, error = run_nmap(self.address, arguments, self.left())
        self.merge(states)
        self.errors += [error] if error else []

    def scan_tcp(self, excluded: set[int]) -> None:
        """Scan all ports; when known open ports were lost on the way, once more and slower."""
        careful = set(self.options["careful_tcp"]) - excluded
        wanted = set(ALL_TCP) - excluded
        if not wanted:
            return
        reference: set[int] = set()
        if careful:
            arguments = ["-sS", "-T4", "--max-retries", "3", "-p", format_ports(careful)]
            states, error = run_nmap(self.address, arguments, self.left())
            self.merge(states)
            if error:
                raise ScanError(error)
            reference = set(states["tcp"].get("open", set()))
            self.listen_to(reference)
        rate = self.options["rate"]
        if self.answers(wanted):
            # nmap finds its own pace by the answers. Forced to a rate it falls behind them, and misses thousands.
            loss = self.scan_tcp_once(
                wanted, reference, ["--max-rate", str(rate), "--max-retries", "2"], rate
            )
        else:
            # Silence teaches nmap no pace, so the rate is forced. One probe a port will do as long as none of the
            # reference's is lost; without a reference, two.
            loss = self.scan_tcp_once(wanted, reference, forced(rate, 0 if reference else 1), rate)
        answered = self.states["tcp"].get("open", set()) | self.states["tcp"].get("closed", set())
        silent = wanted - answered
        if silent and (loss > 0 or len(answered) > MANY_ANSWERS):
            again = silent if len(format_ports(silent)) < LONGEST_ARGUMENT else wanted
            slower = max(1, rate // SLOWER)
            loss = self.scan_tcp_once(again, reference, forced(slower, 3), slower)
            if loss > TOLERABLE_LOSS:
                self.errors.append(
                    f"{loss:.0%} of the probes to open ports were lost even in the slower scan: "
                    f"open ports may be missing"
                )

    def answers(self, wanted: set[int]) -> bool:
        """Whether the device answers on most of a sample of ports."""
        sample = wanted & set(SAMPLE)
        if not sample:
            return False
        arguments = ["-sS", "-T4", *forced(500, 1), "-p", format_ports(sample)]
        states, _error = run_nmap(self.address, arguments, self.left())
        self.merge(states)
        heard = states["tcp"].get("open", set()) | states["tcp"].get("closed", set())
        return 2 * len(heard) > len(sample)

    def scan_tcp_once(self, wanted: set[int], reference: set[int], pace: list[str], rate: int) -> float:
        """One pass at the ``pace`` that nmap is told, ``rate`` packets a second at most. Returns the share of lost
        probes to ports known to be open."""
        begun = time.monotonic()
        over = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            canary = pool.submit(self.probe_reference, sorted(reference), over)
            try:
                arguments = ["-sS", "-T4", *pace, "-p", format_ports(wanted)]
                states, error = run_nmap(self.address, arguments, self.left())
            finally:
                over.set()
            sent, lost = canary.result()
        self.merge(states)
        if error:
            raise ScanError(error)
        seconds = round(time.monotonic() - begun, 1)
        self.passes.append({"rate": rate, "seconds": seconds, "sent": sent, "lost": lost})
        # A port known to be open that the pass did not see outweighs any count.
        return 1.0 if (reference & wanted) - states["tcp"].get("open", set()) else lost / max(1, sent)

    def probe_reference(self, reference: list[int], over: threading.Event) -> tuple[int, int]:
        """While a pass runs, ask the known open ports again and again: an answer that is missing is a lost packet."""
        if not reference:
            return 0, 0
        return count_lost(local_address(self.address), self.address, reference, CANARY_EVERY, over.is_set)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "addresses": {"type": "dict", "required": True},
            "careful_tcp": {"type": "list", "elements": "int", "default": []},
            "udp_ports": {"type": "list", "elements": "int", "default": []},
            "excluded_tcp": {"type": "str", "default": ""},
            "paced": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "tcp": {"type": "str", "default": ""},
                    "udp": {"type": "str", "default": ""},
                    "per_second": {"type": "float", "required": True},
                    "burst": {"type": "int", "required": True},
                },
            },
            "rate": {"type": "int", "default": 5000},
            "budget": {"type": "int", "default": 60},
        },
        supports_check_mode=True,  # it only looks
    )
    if shutil.which("nmap") is None:
        module.fail_json(msg="this vantage host has no nmap: install it (Debian: apt-get install nmap)")
    if not can_send_raw():
        module.fail_json(
            msg="a scan needs raw sockets on the vantage host: log in as root or set become: true"
        )
    begun = time.monotonic()
    addresses = {family: address for family, address in module.params["addresses"].items() if address}
    with ThreadPoolExecutor(2) as pool:
        jobs = {f: pool.submit(Eye(address, module.params).look) for f, address in addresses.items()}
        families = {family: job.result() for family, job in jobs.items()}
    logins = login_services(families, module.params["paced"])
    module.exit_json(
        changed=False, families=families, login_services=logins, seconds=round(time.monotonic() - begun, 1)
    )


def login_services(families: dict[str, dict[str, Any]], paced: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ports that greet like SSH or telnet. One family is enough: it is the same daemon and the same passwords, and
    each attempt counts towards the device's own limits."""
    services: dict[str, dict[str, Any]] = {}
    for family in sorted(families):
        seen = families[family]
        for port, heard in seen["greetings"].items():
            if heard["kind"] in ("ssh", "telnet") and port not in services:
                limits = [g["per_second"] for g in paced if int(port) in parse_ports(g["tcp"])]
                services[port] = {
                    "kind": heard["kind"],
                    "address": seen["address"],
                    "port": int(port),
                    "software": heard["text"],
                    "per_second": min(limits, default=0),
                }
    return list(services.values())


def can_send_raw() -> bool:
    """Whether the kernel lets this process make its own packets."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP).close()
    except PermissionError:
        return False
    return True


if __name__ == "__main__":
    main()
