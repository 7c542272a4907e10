# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Rendering without a kernel: choice of backend, files, refusals, and that nothing of a name reaches a rule."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from datetime import date
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.cidrs import prefix_texts, span_texts
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import (
    V4_MAX,
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
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.render import (
    BACKENDS,
    Unsupported,
    base,
    choose,
    render,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.render.base import (
    comment,
    interface,
    loader,
    never_banned,
    refill_seconds,
)
from hypothesis import given
from hypothesis import strategies as st

SSH = ServiceSet(tcp=((22, 22),))


def device(*working: str, init: str = "systemd", **memory: int) -> dict[str, Any]:
    tools = ("nft", "iptables", "ip6tables", "ipset")
    return {
        "init": init,
        "clock": {"plausible": True},
        "firewall": {
            tool: {"path": f"/usr/sbin/{tool}", "works": tool in working, "error": ""} for tool in tools
        },
        "memory": memory,
    }


EVERYTHING = device("nft", "iptables", "ip6tables", "ipset")


def long_list(count: int) -> Addresses:
    return Addresses(tuple((4 * i, 4 * i) for i in range(count)))


def test_the_best_backend_that_the_kernel_accepts_is_chosen() -> None:
    policy = HostPolicy("gate")
    assert choose(policy, EVERYTHING)[0] == "nftables"
    assert choose(policy, device("iptables", "ip6tables", "ipset"))[0] == "iptables_ipset"
    assert choose(policy, device("iptables", "ip6tables"))[0] == "iptables"


def test_ipv6_without_ip6tables_is_refused_not_left_open() -> None:
    with pytest.raises(Unsupported, match="ip6tables"):
        choose(HostPolicy("gate"), device("iptables", "ipset"))


def test_a_list_that_does_not_fit_moves_to_ipset_and_then_is_refused_with_figures() -> None:
    policy = HostPolicy("gate", blocklists=(Blocklist("level1", long_list(100_000)),))
    tools = ("nft", "iptables", "ip6tables", "ipset")
    assert choose(policy, device(*tools, available_kb=600_000))[0] == "nftables"
    name, notes = choose(policy, device(*tools, available_kb=64_000))
    assert name == "iptables_ipset"
    assert "100000 list entries" in notes[0] and "MB" in notes[0]
    with pytest.raises(Unsupported, match=r"about \d+ MB.*half of the device's free memory is \d+ MB"):
        choose(policy, device(*tools, available_kb=30_000))


@pytest.mark.parametrize("where", ["rule", "outbound", "publish", "ping", "antispoof", "never"])
def test_a_long_zone_counts_as_a_long_list_does_and_once(where: str) -> None:
    # Without 0.0.0.0, which anti-spoofing leaves out.
    zone = Addresses(long_list(100_001).v4[1:])
    end = (Endpoint(zone, ("lan0",), "all of them"),)
    bare = (Endpoint(zone),)
    policy = {
        "rule": HostPolicy(
            "g", inbound=(Rule("a", "allow", SSH, bare), Rule("b", "deny", SSH, end)), antispoof=end
        ),
        "outbound": HostPolicy("g", outbound=(Rule("a", "allow", SSH, destinations=bare),)),
        "publish": HostPolicy("g", nat=Nat(publish=(Publish("p", bare, "tcp", 80, "ipv4", 5, 80),))),
        "ping": HostPolicy("g", defaults=Defaults(ping=Ping(bare))),
        "antispoof": HostPolicy("g", antispoof=end),
        "never": HostPolicy("g", traps=Traps(((23, 23),), never=zone)),
    }[where]
    tools = ("nft", "iptables", "ip6tables", "ipset")
    assert choose(policy, device(*tools, available_kb=600_000))[0] == "nftables"
    name, notes = choose(policy, device(*tools, available_kb=64_000))
    assert name == "iptables_ipset" and "loading 100000 list entries" in notes[0]
    with pytest.raises(Unsupported, match="100000 list entries"):
        choose(policy, device(*tools, available_kb=30_000))


def test_an_nft_that_reads_whole_lists_is_not_taken_for_long_ones_where_ipset_is_there() -> None:
    """nft 0.9.8, which Debian 11 has."""
    tools = ("nft", "iptables", "ip6tables", "ipset")
    old, new = device(*tools, available_kb=600_000), device(*tools, available_kb=600_000)
    old["firewall"]["nft"]["version"], new["firewall"]["nft"]["version"] = "0.9.8", "1.0.6"
    long, short = (
        HostPolicy("gate", blocklists=(Blocklist("level1", long_list(count)),)) for count in (20_000, 2_000)
    )
    name, notes = choose(long, old)
    assert name == "iptables_ipset" and "nft 0.9.8 reads all 20000 list entries" in notes[0]
    assert choose(long, new)[0] == choose(short, old)[0] == "nftables"
    assert choose(long, old, backend="nftables") == ("nftables", ())
    without = device("nft", "iptables", "ip6tables", available_kb=600_000)
    without["firewall"]["nft"]["version"] = "0.9.8"
    assert choose(long, without)[0] == "nftables"


def test_the_cgroup_limit_counts_when_it_is_lower_than_free_memory() -> None:
    policy = HostPolicy("gate", blocklists=(Blocklist("level1", long_list(100_000)),))
    found = device("nft", "iptables", "ip6tables", "ipset", available_kb=8_000_000, limit_kb=65_536)
    assert choose(policy, found)[0] == "iptables_ipset"


def test_plain_iptables_refuses_a_long_list_by_name_and_count() -> None:
    policy = HostPolicy("gate", blocklists=(Blocklist("level1", long_list(5_000)),))
    with pytest.raises(Unsupported, match=r"'level1' has 5000 ranges"):
        render(policy, device("iptables", "ip6tables"))


XTABLES = [
    "hashlimit",
    "limit",
    "comment",
    "multiport",
    "addrtype",
    "reject",
    "log",
    "nflog",
    "synproxy",
    "mangle",
    "security",
    "set",
]
NFT = ["synproxy", "log", "reject", "fib", "nat"]


def taking(tools: tuple[str, ...], *absent: str) -> dict[str, Any]:
    """A device whose kernel takes everything but ``absent``."""
    found = device(*tools)
    for tool in tools:
        features = {"nft": NFT, "ipset": []}.get(tool, XTABLES)
        found["firewall"][tool]["features"] = [one for one in features if one not in absent]
    return found


LOUD = HostPolicy(
    "gate",
    inbound=(Rule("panel", "allow", SSH, rate=Rate(5, 1)), Rule("rest", "reject", SSH)),
    nat=Nat(("eth0",), (Publish("hmi", (Endpoint(),), "tcp", 8443, "ipv4", 0x0A000009, 443),)),
    defaults=Defaults(ping=Ping(rate=Rate(5, 1))),
    traps=Traps(((23, 23),), proof="handshake"),
    log=Log(Rate(10, 60)),
)
IPTABLES = ("iptables", "ip6tables")


@pytest.mark.parametrize("absent", ["hashlimit", "limit", "addrtype", "reject", "log", "synproxy"])
@pytest.mark.parametrize("tools", [IPTABLES, (*IPTABLES, "ipset")], ids=["plain", "ipset"])
def test_what_the_kernel_does_not_take_is_refused_where_the_policy_asks_for_it(
    tools: tuple[str, ...], absent: str
) -> None:
    render(LOUD, taking(tools))
    with pytest.raises(Unsupported, match=f"no {absent} from iptables"):
        render(LOUD, taking(tools, absent))
    # A name is only a name, and nobody misses what nobody asked for.
    render(HostPolicy("gate", inbound=(Rule(f"-m {absent} -j REJECT", "allow", SSH),)), taking(tools, absent))


@pytest.mark.parametrize("absent", NFT)
def test_nft_is_asked_for_its_parts_too(absent: str) -> None:
    render(LOUD, taking(("nft",)))
    with pytest.raises(Unsupported, match=f"no {absent} from nft"):
        render(LOUD, taking(("nft",), absent))
    harmless = Rule("fib saddr synproxy reject with log prefix", "allow", SSH)
    render(HostPolicy("gate", inbound=(harmless,)), taking(("nft",), *NFT))


@pytest.mark.parametrize("tools", [IPTABLES, (*IPTABLES, "ipset")], ids=["plain", "ipset"])
def test_a_reject_is_held_behind_filter_where_the_kernel_has_a_table_there(tools: tuple[str, ...]) -> None:
    for absent in ((), ("security",)):
        files = {
            file.path.rpartition("/")[2]: file.content or ""
            for file in render(LOUD, taking(tools, *absent)).files
        }
        for name in ("v4", "v6"):
            assert ("*security\n:SALLYPORT-INPUT" in files[name]) is not bool(absent)
    quiet = render(HostPolicy("gate"), taking(tools)).files
    assert not any("*security" in (file.content or "") for file in quiet)


def test_without_sets_or_comments_in_the_kernel_plain_iptables_is_left() -> None:
    for absent in ("set", "comment"):
        name, notes = choose(HostPolicy("gate"), taking((*IPTABLES, "ipset"), absent))
        assert name == "iptables" and f"does not take {absent}" in notes[-1]
    with pytest.raises(Unsupported, match="does not take multiport"):
        choose(HostPolicy("gate"), taking(IPTABLES, "multiport"))


def test_an_unknown_init_system_is_refused_because_rules_would_not_survive() -> None:
    with pytest.raises(Unsupported, match=r"'openrc'.*reboot"):
        render(HostPolicy("gate"), device("nft", init="openrc"))


def test_files_of_the_other_backends_are_removed() -> None:
    rendered = render(HostPolicy("gate"), device("iptables", "ip6tables", init="busybox"))
    contents = {file.path: file.content for file in rendered.files}
    assert contents["/etc/sallyport/firewall/nft"] is None
    assert contents["/etc/sallyport/firewall/sets"] is None
    assert contents["/etc/sallyport/firewall/v4"] and contents["/etc/sallyport/firewall/v6"]
    assert contents["/etc/sallyport/boot.d/50-firewall"]


def test_rule_sets_are_readable_by_root_only() -> None:
    rendered = render(HostPolicy("gate"), EVERYTHING)
    assert {
        f.mode for f in rendered.files if f.path.startswith("/etc/sallyport/firewall/") and f.content
    } == {"0600"}


def every_feature(name: str) -> HostPolicy:
    zone = Addresses(((10, 20), (1 << 24, 2 << 24)), ((1 << 64, 1 << 65),))
    return HostPolicy(
        "gate",
        inbound=(
            Rule(name, "allow", SSH, (Endpoint(zone, ("lan*",), zone=name),), rate=Rate(5, 60), log=True),
            Rule(name + "2", "reject", ServiceSet(any=True), until=date(2030, 1, 1), on_device=True),
        ),
        outbound=(Rule(name, "deny", ServiceSet(udp=((53, 53),)), destinations=(Endpoint(zone),)),),
        forward=(Rule(name, "allow", SSH),),
        nat=Nat(("wan0",), (Publish(name, (Endpoint(zone),), "tcp", 80, "ipv4", 5, 80),), True),
        containers_outbound="as_device",
        container_bridges=("docker0",),
        bridges=("docker0",),
        defaults=Defaults(ping=Ping((Endpoint(zone),), Rate(5, 1))),
        blocklists=(Blocklist(name, zone, ("wan0",), True),),
        antispoof=(Endpoint(zone, ("lan0",), zone=name),),
        traps=Traps(((23, 23),), proof="handshake"),
        protected=zone,
        log=Log(Rate(10, 60)),
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_policy_gives_the_same_bytes(backend: str) -> None:
    policy = every_feature("x")
    assert BACKENDS[backend](policy, EVERYTHING) == BACKENDS[backend](replace(policy), EVERYTHING)


@pytest.mark.parametrize("backend", BACKENDS)
@given(name=st.text(min_size=1, max_size=200))
def test_a_name_changes_nothing_but_comments_and_hashes(backend: str, name: str) -> None:
    def bare(given_name: str) -> list[str]:
        text = "\n".join(BACKENDS[backend](every_feature(given_name), EVERYTHING).values())
        text = re.sub(r'comment "[^"\n]*"$', "", text, flags=re.MULTILINE)
        text = re.sub(r'-m comment --comment "[^"\n]*"', "", text)
        text = re.sub(r"(?m)^# .*$", "#", text)
        return sorted(re.sub(r"(rate[46]?_|RATE-|name sp)[0-9a-f]{10}", r"\1X", text).splitlines())

    assert bare(name) == bare("plain")


@pytest.mark.parametrize("backend", BACKENDS)
def test_rules_of_one_name_in_two_sections_have_rates_of_their_own(backend: str) -> None:
    rule = Rule("web", "allow", SSH, rate=Rate(5, 1))
    texts = BACKENDS[backend](HostPolicy("gate", inbound=(rule,), forward=(rule,)), {})
    text = "\n".join(texts.values())
    buckets = set(re.findall(r"add set inet sallyport (rate4_\w+)|--hashlimit-name (\w+)", text))
    assert len(buckets) == 2, "inbound and published share one, forward has its own"


@pytest.mark.parametrize("backend", ["nftables", "iptables_ipset"])
def test_inbound_rules_to_thousands_of_single_addresses_are_refused_with_the_figure(backend: str) -> None:
    def to(count: int) -> HostPolicy:
        zone = Addresses(tuple((4 * i + 1, 4 * i + 1) for i in range(count)))
        return HostPolicy("gate", inbound=(Rule("web", "allow", SSH, destinations=(Endpoint(zone),)),))

    BACKENDS[backend](to(2_000), {})
    with pytest.raises(Unsupported, match="take 4000 lines for translated packets"):
        BACKENDS[backend](to(4_000), {})


@given(st.text())
def test_a_comment_is_short_and_harmless_to_every_parser(text: str) -> None:
    assert re.fullmatch(r"[ !#%-\[\]^_a-~{|}]{0,100}", comment(text))
    assert not set(comment(text)) & set('"\\`$\n\r')


@pytest.mark.parametrize(
    "name", ["eth0; drop", 'eth0"', "a" * 16, "", "eth0 ", "e*h", "eth+", "..", "a/b", "$x"]
)
def test_what_is_no_interface_name_is_refused(name: str) -> None:
    with pytest.raises(Unsupported, match="no name of an interface"):
        interface(name)


@pytest.mark.parametrize("name", ["eth0", "wwan*", "br-1a2b3c", "eth0.100", "a" * 15])
def test_interface_names_of_the_field_are_taken(name: str) -> None:
    assert interface(name) == name


@given(st.lists(st.tuples(st.integers(0, V4_MAX), st.integers(0, 5000)), max_size=20))
def test_address_texts_cover_exactly_their_intervals(pairs: list[tuple[int, int]]) -> None:
    from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.intervals import merge

    intervals = merge((first, min(V4_MAX, first + size)) for first, size in pairs)

    def read(text: str) -> tuple[int, int]:
        if "-" in text:
            first, last = text.split("-")
            return int(ip_address(first)), int(ip_address(last))
        base, _, length = text.partition("/")
        return int(ip_address(base)), int(ip_address(base)) + (1 << 32 - int(length or 32)) - 1

    assert merge(map(read, span_texts("ipv4", intervals))) == intervals
    assert merge(map(read, prefix_texts("ipv4", intervals))) == intervals


@pytest.mark.parametrize("backend", ["iptables", "iptables_ipset"])
@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Rule("r", "deny", ServiceSet(protocols=((0, 5),))), "protocol 0"),
        (Rule("r", "allow", ServiceSet(icmp=((250, 255),))), "type 255 means any"),
        (Rule("r", "allow", SSH, rate=Rate(2_000_000, 1)), "hashlimit counts to"),
        (Rule("r", "allow", SSH, until=date(2040, 1, 1), on_device=True), "2038"),
    ],
)
def test_what_iptables_cannot_say_is_refused_and_never_widened(
    backend: str, rule: Rule, message: str
) -> None:
    with pytest.raises(Unsupported, match=message):
        BACKENDS[backend](HostPolicy("gate", inbound=(rule,)), EVERYTHING)


def test_an_implausible_clock_is_not_asked() -> None:
    rule = Rule("r", "allow", SSH, until=date(2030, 1, 1), on_device=True)
    policy = HostPolicy("gate", inbound=(rule,))
    assert "meta time" in BACKENDS["nftables"](policy, EVERYTHING)["nft"]
    assert (
        "meta time" not in BACKENDS["nftables"](policy, {**EVERYTHING, "clock": {"plausible": False}})["nft"]
    )


def test_permitted_is_never_accept_in_iptables() -> None:
    for backend in ("iptables", "iptables_ipset"):
        for text in BACKENDS[backend](every_feature("x"), EVERYTHING).values():
            assert "ACCEPT" not in text


def test_what_can_permit_is_reached_by_goto_only() -> None:
    """RETURN ends the innermost jump: behind -j it would mean "go on with the next rule"."""
    for name in ("v4", "v6"):
        text = BACKENDS["iptables"](every_feature("x"), EVERYTHING)[name]
        jumped_to = set(re.findall(r"-j (SALLYPORT-\S+)", text))
        assert jumped_to <= {
            target
            for target in jumped_to
            if target in ("SALLYPORT-DROP", "SALLYPORT-SPOOF", "SALLYPORT-TRAP-SYN", "SALLYPORT-TRAP-ACK")
            or re.fullmatch(r"SALLYPORT-B[0-9a-f]{10}-(SRC|DST)", target)
        }


def test_chain_and_set_names_fit_into_the_kernel() -> None:
    for backend in BACKENDS:
        for text in BACKENDS[backend](every_feature("x" * 200), EVERYTHING).values():
            assert all(len(name) <= 28 for name in re.findall(r"(?m)^:(\S+)", text))
            assert all(len(name) <= 31 for name in re.findall(r"(?m)^create (\S+)", text))


def test_the_slash64_of_a_protected_address_is_never_banned() -> None:
    policy = HostPolicy(
        "gate", protected=Addresses((), (((1 << 64) + 5, (1 << 64) + 5),)), traps=Traps(((23, 23),))
    )
    assert never_banned(policy).v6 == ((1 << 64, (2 << 64) - 1),)


@given(st.integers(1, 10000), st.sampled_from((1, 60, 3600, 86400)), st.integers(1, 1000))
def test_a_forgotten_bucket_would_have_been_full(count: int, seconds: int, burst: int) -> None:
    assert refill_seconds(Rate(count, seconds, burst)) * count >= seconds * burst


def test_the_loader_is_clean_posix_sh() -> None:
    path = Path(base.__file__).parent / "firewall-load.sh"
    subprocess.run(("sh", "-n", path), check=True)
    subprocess.run(("busybox", "sh", "-n", path), check=True)
    subprocess.run(("shellcheck", path), check=True)


def test_the_commands_are_clean_posix_sh() -> None:
    rendered = render(every_feature("x"), EVERYTHING)
    for command in (*rendered.check, *rendered.activate, *rendered.settle, *rendered.revert, *rendered.live):
        subprocess.run(("sh", "-n"), input=command, text=True, check=True)


def test_taking_back_a_first_generation_needs_no_file_on_the_device() -> None:
    rendered = render(HostPolicy("gate"), EVERYTHING)
    assert loader() in rendered.revert[0] and "set -- remove" in rendered.revert[0]


def test_cut_is_refused_without_the_conntrack_tool_and_for_what_it_cannot_single_out() -> None:
    def with_rule(**changes: Any) -> HostPolicy:
        return HostPolicy("gate", inbound=(replace(Rule("short", "allow", SSH, cut=True), **changes),))

    with pytest.raises(Unsupported, match="no conntrack tool"):
        render(with_rule(), EVERYTHING)
    able = {**EVERYTHING, "tools": {"conntrack": "/usr/sbin/conntrack"}}
    for changes in (
        {"sources": (Endpoint(interfaces=("eth0",)),)},
        {"services": ServiceSet(icmp=((8, 8),))},
        {"services": ServiceSet(tcp=((1, 65535),))},
    ):
        with pytest.raises(Unsupported, match="'short' says cut"):
            render(with_rule(**changes), able)
    contents = {file.path: file.content for file in render(with_rule(), able).files}
    assert contents["/etc/sallyport/firewall/cuts"] == (
        "-f ipv4 -p tcp --orig-port-dst 22\n-f ipv6 -p tcp --orig-port-dst 22\n"
    )
