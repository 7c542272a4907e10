"""Random small policies and every packet of the small universe that they live in."""

from __future__ import annotations

from datetime import date

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import intervals
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.judge import ICMP, ICMPV6, TCP, UDP, Packet
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
from hypothesis import strategies as st

TODAY = date(2027, 1, 1)
TENS = 0x0A000000
V6 = 0xFD00 << 112
SOURCES = tuple(range(TENS, TENS + 6))
INTERFACES = ("eth0", "eth1", "wwan0", "wwan1", "br0", "pod0")
PORTS = (22, 23, 53, 80, 81)


@st.composite
def address_sets(draw: st.DrawFn) -> Addresses:
    low = draw(st.integers(0, 5))
    high = draw(st.integers(low, 5))
    extra = draw(st.booleans())
    pairs = [(low, high)] + ([(0, 0)] if extra else [])
    kind = draw(st.sampled_from(["both", "four", "six", "any"]))
    if kind == "any":
        return Endpoint().addresses
    v4 = intervals.merge((TENS + a, TENS + b) for a, b in pairs)
    v6 = intervals.merge((V6 + a, V6 + b) for a, b in pairs)
    return Addresses(v4 if kind != "six" else (), v6 if kind != "four" else ())


@st.composite
def endpoints(draw: st.DrawFn, with_interfaces: bool = True) -> tuple[Endpoint, ...]:
    found = []
    for _ in range(draw(st.integers(1, 2))):
        names: tuple[str, ...] = ()
        if with_interfaces and draw(st.booleans()):
            names = (draw(st.sampled_from(["eth0", "eth1", "wwan*", "wwan0", "w*", "br0", "pod0"])),)
        found.append(Endpoint(draw(address_sets()), names))
    return tuple(found) if draw(st.integers(0, 3)) else (Endpoint(),)


@st.composite
def service_sets(draw: st.DrawFn) -> ServiceSet:
    kind = draw(st.integers(0, 6))
    if kind == 0:
        return ServiceSet(any=True)
    if kind == 1:
        return ServiceSet(icmp=((0, 0), (8, 9)), icmpv6=((1, 1), (128, 128), (135, 137)))
    if kind == 2:
        return ServiceSet(protocols=((6, 6), (47, 50)))
    low = draw(st.sampled_from(PORTS))
    high = draw(st.sampled_from([port for port in PORTS if port >= low]))
    return ServiceSet(tcp=((low, high),), udp=((low, low),) if draw(st.booleans()) else ())


@st.composite
def rules(draw: st.DrawFn, hook: str, size: int = 4) -> tuple[Rule, ...]:
    found = []
    for number in range(draw(st.integers(0, size))):
        verdict = draw(st.sampled_from(["allow", "allow", "deny", "reject"]))
        rate = Rate(5, 1) if verdict == "allow" and draw(st.integers(0, 3)) == 0 else None
        until = draw(st.sampled_from([None, None, date(2026, 12, 1), date(2027, 2, 1), date(2027, 3, 1)]))
        found.append(
            Rule(
                f"{hook} rule {number}",
                verdict,
                draw(service_sets()),
                draw(endpoints(hook != "outbound")),
                draw(endpoints(hook != "inbound")),
                rate,
                until,
            )
        )
    return tuple(found)


@st.composite
def policies(draw: st.DrawFn, size: int = 4, timed: bool = True) -> HostPolicy:
    lists = []
    for number in range(draw(st.integers(0, 1))):
        names = draw(st.sampled_from([(), ("eth0",)]))
        lists.append(Blocklist(f"list {number}", draw(address_sets()), names, draw(st.booleans())))
    antispoof = ()
    if draw(st.booleans()):
        antispoof = (Endpoint(draw(address_sets()), (draw(st.sampled_from(["eth0", "wwan*"])),)),)
    publish = (Publish("web", (Endpoint(),), "tcp", 80, "ipv4", TENS + 5, 81),) if draw(st.booleans()) else ()
    verdicts = st.sampled_from(["allow", "deny", "reject"])
    own = Addresses(((TENS + 1, TENS + 1),), ((V6 + 1, V6 + 1),))
    found = HostPolicy(
        "host",
        inbound=draw(rules("inbound", size)),
        outbound=draw(rules("outbound", size)),
        forward=draw(rules("forward", size)),
        nat=Nat(publish=publish),
        containers_outbound=draw(st.sampled_from(["allow", "as_device", "drop"])),
        container_bridges=("pod0",),
        bridges=("br0", "pod0"),
        container_addresses=(Endpoint(own, ("pod0",)),),
        defaults=Defaults(
            draw(verdicts),
            draw(verdicts),
            draw(verdicts),
            Ping(draw(endpoints()), Rate(5, 1)) if draw(st.booleans()) else None,
        ),
        blocklists=tuple(lists),
        antispoof=antispoof,
        traps=Traps(((23, 23), (80, 80))) if draw(st.booleans()) else None,
        log=Log(Rate(1, 1)) if draw(st.booleans()) else Log(),
    )
    return found


def packets(hook: str, published: bool = False) -> list[Packet]:
    """Every packet of the universe at one hook: it holds each value that a random policy can tell apart."""
    found = []
    ins = [""] if hook == "outbound" else INTERFACES
    outs = [""] if hook == "inbound" else INTERFACES
    kinds = [
        (
            "ipv4",
            [(TCP, port) for port in (22, 23, 80, 81)]
            + [(UDP, 53), (ICMP, 8), (ICMP, 5), (ICMP, 0), (ICMP, 10)]
            + [(47, 0), (2, 0)],
        ),
        (
            "ipv6",
            [
                (TCP, 22),
                (UDP, 53),
                (ICMPV6, 128),
                (ICMPV6, 135),
                (ICMPV6, 137),
                (ICMPV6, 131),
                (ICMPV6, 1),
                (50, 0),
            ],
        ),
    ]
    for family, services in kinds:
        base = TENS if family == "ipv4" else V6
        for protocol, port in services:
            for into in ins:
                for out in outs:
                    for source in (base, base + 2, base + 5, base + 9):
                        for target in (base + 1, base + 4):
                            found.append(
                                Packet(
                                    hook,  # type: ignore[arg-type]
                                    family,  # type: ignore[arg-type]
                                    source,
                                    target,
                                    protocol,
                                    port,
                                    40000,
                                    into,
                                    out,
                                    original_destination=target if published else None,
                                    original_port=port if published else 0,
                                    hop_limit=255 if hook != "forward" else 64,
                                )
                            )
    return found
