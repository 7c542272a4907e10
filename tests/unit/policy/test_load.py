"""Loading, merging, resolving and checking: each mistake gives its one finding, at its place."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import (
    bans,
    cidrs,
    fleet,
    intervals,
    layers,
    load,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import Endpoint, Rate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TODAY = date(2026, 11, 22)
SOUND = """\
zones:
  mgmt: {cidrs: [198.18.10.0/24, "2001:db8:10::/64"]}
inbound:
  - {name: operators, allow: [ssh], from: [mgmt]}
"""
DEVICE: dict[str, Any] = {
    "connection": {"client": "198.18.10.7", "client_port": 50000, "server": "10.20.0.1", "server_port": 22},
    "interfaces": [
        {"name": "lo", "kind": "loopback", "addresses": ["127.0.0.1/8"]},
        {"name": "eth0", "kind": "physical", "addresses": ["10.20.0.1/24"]},
    ],
    "firewall": {},
    "routers": ["10.20.0.254"],
    "resolvers": ["10.20.0.53", "fe80::1%eth0"],
    "dhcp_servers": [],
    "ntp_servers": [],
}

Loader = Callable[..., load.Resolved]


@pytest.fixture
def loaded(tmp_path: Path) -> Loader:
    """Loads a policy from texts by file name; ``fleet`` is fleet.yml."""

    def run(fleet: str | bytes | None, files: dict[str, str] | None = None, **more: Any) -> load.Resolved:
        texts: dict[str, str | bytes] = dict(files or {})
        if fleet is not None:
            texts["fleet.yml"] = fleet
        for name, text in texts.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        more.setdefault("now", TODAY)
        return load.load_host(str(tmp_path), "gw1", **more)

    return run


def found(resolved: load.Resolved) -> list[tuple[str, int]]:
    return [(one.id, one.where.line) for one in resolved.findings]


def test_the_reference_example_is_sound(loaded: Loader) -> None:
    resolved = loaded(
        """\
zones:
  mgmt:   {cidrs: [198.18.10.0/24, "2001:db8:10::/64"]}
  plant:  {cidrs: [10.20.0.0/16], except: [10.20.99.0/24], interfaces: [eth1]}
  guests: {cidrs: [10.66.0.0/16]}
  broker: {hosts: [mqtt_servers]}
  cameras: {cidrs: [10.30.0.0/24]}
  recorder: {cidrs: [10.20.0.9]}
  cell:   {interfaces: ["wwan*"]}
services:
  panel:  {tcp: [8443], udp: ["5000-5010"]}
inbound:
  - {name: no guests, deny: [any], from: [guests]}
  - {name: operators, allow: [ssh], from: [mgmt]}
  - {name: wall panels, allow: [https, panel], from: [plant], rate: 50/second}
  - {name: vendor support, allow: [ssh], from: [198.51.100.7], until: "2027-01-31", reason: OPS-311}
outbound:
  - {name: telemetry, allow: [mqtts], to: [broker]}
forward:
  - {name: cameras to recorder, allow: [rtsp], from: [cameras], to: [recorder]}
nat: {masquerade: [eth0], publish: [{name: hmi, from: [plant], port: 8443, to: "10.20.0.9:443"}], clamp_mss: true}
containers: {outbound: allow}
defaults: {inbound: drop, outbound: drop, forward: drop, ping: {from: any, rate: 5/second}}
traps: {tcp: [23, 2323, 5555, 7547], ban: 1h}
log: {drops: 10/minute, prefix: sallyport}
assert:
  - {service: ssh, only_from: [mgmt, 198.51.100.7]}
  - {defaults: {inbound: drop}}
""",
        inventory={"m1": ["10.9.0.1"], "m2": ["fd00::2"]},
        group_members={"mqtt_servers": ["m1", "m2"]},
    )
    assert [one.id for one in resolved.findings] == ["outbound-blind"]
    policy = resolved.policy
    assert policy is not None
    assert policy.outbound[0].destinations[0].addresses == cidrs.parse(["10.9.0.1", "fd00::2"])
    panels = policy.inbound[2]
    assert (panels.rate, panels.services.tcp, panels.services.udp) == (
        Rate(50, 1, 5),
        ((443, 443), (8443, 8443)),
        ((5000, 5010),),
    )
    assert cidrs.texts(panels.sources[0].addresses)[-1] == "10.20.128.0/17"
    assert policy.antispoof == (panels.sources[0],)
    assert resolved.zones["cell"] == Endpoint(interfaces=("wwan*",), zone="cell")


# One mistake each: what is appended to a sound policy, and where the finding stands.
MISTAKES = [
    ("  bad: {cidrs: [198.18.10.5/24]}", "host-bits", 3),
    ("  bad: {cidrs: [198.18.10.0/255.255.255.0]}", "not-a-cidr", 3),
    ("  bad: {cidrs: [198.18]}", "quote-it", 3),
    ('  bad: {cidrs: ["198.18.10"]}', "not-a-cidr", 3),
    ('  bad: {cidrs: ["198.18.10.1-198.18.10.9"]}', "not-a-cidr", 3),
    ('  bad: {cidrs: ["198.18.010.0/24"]}', "not-a-cidr", 3),
    ('  bad: {cidrs: ["fe80::1%eth0"]}', "not-a-cidr", 3),
    ('  bad: {cidrs: ["::ffff:198.18.10.0/120"]}', "not-a-cidr", 3),
    ('  bad: {cidrs: ["\u0661.1.1.1"]}', "not-a-cidr", 3),
    ("  bad: {cidrs: [fd00::]}", "quote-it", 3),
    ("  bad: {cidrs: [1:2:3:4:5:6:7:8]}", "quote-it", 3),
    ("  bad: {cidrs: []}", "empty-list", 3),
    ("  bad: {cidrs: null}", "wrong-type", 3),
    ("  bad: {cidrs: any}", "wrong-type", 3),
    ("  bad: {}", "empty-zone", 3),
    ("  bad:", "wrong-type", 3),
    ("  bad: {cidrs: [10.0.0.0/8], except: [11.0.0.0/24]}", "except-outside", 3),
    ("  bad: {cidrs: [10.0.0.0/8], except: [10.0.0.0/8]}", "empty-zone", 3),
    ("  bad: {cdirs: [10.0.0.0/8]}", "unknown-key", 3),
    ("  bad: {hosts: [nobody]}", "unknown-host", 3),
    ("  bad: {interfaces: ['eth0 ']}", "bad-interface", 3),
    ("  bad: {interfaces: ['*eth0']}", "bad-interface", 3),
    ("  any: {cidrs: [10.0.0.0/8]}", "bad-name", 3),
    ("  10.0.0.1: {cidrs: [10.0.0.0/8]}", "bad-name", 3),
    ("  on: {cidrs: [10.0.0.0/8]}", "quote-it", 3),
    ("  'a;b': {cidrs: [10.0.0.0/8]}", "bad-name", 3),
    ("  mgmt: {cidrs: [10.0.0.0/8]}", "duplicate-key", 3),
    ("  bad: !!str x", "tag", 3),
    ("  bad: &x {cidrs: [10.0.0.0/8]}", "anchor", 3),
    ("  bad: {cidrs: [10.0.0.0/8]", "not-yaml", 4),
    ("inbund: []", "unknown-key", 3),
    ("services: {x: {tcp: [70000]}}", "bad-port", 3),
    ('services: {x: {tcp: ["9-5"]}}', "bad-port", 3),
    ("services: {x: {tcp: [22:22]}}", "quote-it", 3),
    ("services: {x: {tcp: [0777]}}", "quote-it", 3),
    ("services: {x: {tcp: [yes]}}", "quote-it", 3),
    ("services: {x: {}}", "empty-service", 3),
    ("services: {ssh: {tcp: [2222]}}", "no-override", 3),
    ("defaults: {inbound: deny}", "bad-value", 3),
    ("defaults: {inbound: allow}", "management-open", 3),
    ("containers: {outbound: maybe}", "bad-value", 3),
    ("log: {prefix: 'a b'}", "bad-prefix", 3),
    ("log: {drops: 10}", "wrong-type", 3),
    ("log: {drops: 10/week}", "bad-rate", 3),
    ("traps: {tcp: [23], ban: 2h}", "bad-ban", 3),
    ("traps: {tcp: [23], size: 5000}", "bad-size", 3),
    ("traps: {tcp: [23], udp: [53]}", "unknown-key", 3),
    ("blocklists: [{name: a, file: nowhere.netset}]", "blocklist-file", 3),
    ("nat: {publish: [{name: a, port: 80, to: nowhere}]}", "bad-target", 3),
    ("assert: [{service: ssh, only_from: [10.0.0.0/8]}]", "assert-failed", 3),
    ("assert: [{service: nothing, only_from: [mgmt]}]", "unknown-service", 3),
    ("assert: [{defaults: {outbound: drop}}]", "assert-failed", 3),
    ("outbound: [{name: a, allow: [nothing]}]", "unknown-service", 3),
    ("outbound: [{name: a, allow: [ssh], to: [nowhere]}]", "unknown-zone", 3),
    ("outbound: [{name: a, allow: [ssh], deny: [any]}]", "one-verdict", 3),
    ("outbound: [{name: a, alow: [ssh]}]", "unknown-key", 3),
    ("outbound: [{allow: [ssh]}]", "missing-key", 3),
    ("outbound: [{name: a, deny: [ssh], rate: 5/second}]", "rate-on-deny", 3),
    ("outbound: [{name: a, allow: [ssh], rate: 5}]", "wrong-type", 3),
    ("outbound: [{name: a, allow: [ssh], rate: five/second}]", "bad-rate", 3),
    ("outbound: [{name: a, allow: [ssh], until: 2027-01-31}]", "quote-it", 3),
    ('outbound: [{name: a, allow: [ssh], until: "2027-02-30"}]', "bad-date", 3),
    ("outbound: [{name: a, allow: []}]", "empty-list", 3),
    ("outbound: [{name: a, allow: [ssh], to: []}]", "empty-list", 3),
    ("outbound: [{name: a, allow: [ssh], to: null}]", "wrong-type", 3),
    ('outbound: [{name: "a\\nb", allow: [ssh]}]', "bad-name", 3),
    ("outbound: [{name: a, allow: [ssh]}, {name: a, allow: [dns]}]", "no-override", 3),
    ("outbound: [{name: a, allow: [ssh], on_device: true}]", "missing-key", 3),
    ("outbound: {name: a, allow: [ssh]}", "wrong-type", 3),
    ("blocklists: [{name: any, file: nowhere}]", "bad-name", 3),
    ("blocklists: [{name: 10.0.0.1, file: nowhere}]", "bad-name", 3),
    ("defaults: {inbound: drop, locked: [inbond]}", "bad-value", 3),
    ("containers: {outbound: drop, locked: [inbound]}", "bad-value", 3),
    ('  "\\0bad": {cidrs: [10.0.0.0/8]}', "bad-key", 3),
    ('"\\0services": {}', "bad-key", 3),
]


@pytest.mark.parametrize(("text", "identity", "line"), MISTAKES, ids=[one[0].strip() for one in MISTAKES])
def test_one_mistake_gives_one_finding_at_its_line(
    loaded: Loader, text: str, identity: str, line: int
) -> None:
    head, tail = SOUND.split("inbound:\n")
    resolved = loaded(f"{head}{text}\ninbound:\n{tail}")
    errors = [(one.id, one.where.line) for one in resolved.errors]
    assert errors == [(identity, line)], resolved.findings
    assert resolved.policy is None
    assert all(one.remedy for one in resolved.findings)


def test_a_broken_zone_or_service_is_not_reported_again_where_it_is_used(loaded: Loader) -> None:
    text = """\
zones: {a: {cidrs: [nonsense]}}
services: {s: {tcp: [0]}}
inbound:
  - {name: one, allow: [s], from: [a]}
  - {name: two, allow: [ssh], from: [a]}
assert: [{service: s, only_from: [a]}]
"""
    resolved = loaded(text, device=DEVICE)
    assert found(resolved) == [("not-a-cidr", 1), ("bad-port", 2)]


def test_many_mistakes_are_found_in_one_go(loaded: Loader) -> None:
    text = """\
zones: {a: {cidrs: [10.0.0.1/8]}, b: {}}
inbound:
  - {name: open, allow: [ssh]}
outbound:
  - {name: x, allow: [nope]}
"""
    ids = {one.id for one in loaded(text).findings}
    assert ids == {"host-bits", "empty-zone", "management-open", "unknown-service"}


def test_a_missing_fleet_file_is_an_error_and_an_empty_one_is_not(loaded: Loader) -> None:
    assert found(loaded(None)) == [("no-fleet", 0)]
    assert found(loaded("")) == []
    assert found(loaded("# nothing yet\n")) == []


def test_files_that_no_host_would_read_are_errors(loaded: Loader) -> None:
    files = {"groups/camera.yml": "", "groups/x.yaml": "", "hosts/gw1.yml": "", "hosts/gw9.yml": ""}
    resolved = loaded(SOUND, files, known_hosts=["gw1"], known_groups=["cameras"])
    assert [one.id for one in resolved.findings] == ["unknown-file"] * 3
    assert "did you mean `cameras`" in resolved.findings[0].remedy


def test_a_file_that_is_almost_called_as_ours_is_not_passed_over(loaded: Loader) -> None:
    files = {"group/cameras.yml": "", "fleet.yaml": "", "blocklists/a.netset": "", "README.md": ""}
    assert [(one.id, one.where.source.rsplit("/", 1)[1]) for one in loaded(SOUND, files).findings] == [
        ("unknown-file", "fleet.yaml"),
        ("unknown-file", "group"),
    ]


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _dangling(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize(
    "made", [Path.mkdir, _pipe, _endless, _loop, _dangling], ids=lambda one: one.__name__
)
@pytest.mark.parametrize("name", ["fleet.yml", "groups/a.yml", "hosts/gw1.yml", "lists/level1.netset"])
def test_what_is_no_plain_file_is_one_finding_and_never_waited_for(
    loaded: Loader, tmp_path: Path, name: str, made: Callable[[Path], None]
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    made(path)
    resolved = loaded(
        None if name == "fleet.yml" else SOUND + (LIST % "" if "lists" in name else ""), groups=["all", "a"]
    )
    (only,) = resolved.findings
    if "lists" in name:
        assert (only.id, only.where.line) == ("blocklist-file", 5)
    else:
        assert (only.id, only.where.source) == ("unreadable", str(path))


@pytest.mark.parametrize("made", [Path.touch, _loop, _dangling], ids=lambda one: one.__name__)
@pytest.mark.parametrize("name", ["", "groups", "hosts"])
def test_a_folder_that_is_none_is_said_once_and_not_for_each_file(
    tmp_path: Path, name: str, made: Callable[[Path], None]
) -> None:
    home = tmp_path / "policy"
    if name:
        home.mkdir()
        (home / "fleet.yml").write_text(SOUND)
    made(home / name)
    resolved = load.load_host(
        str(home), "gw1", groups=["all", "a", "b"], known_groups=["a"], known_hosts=["gw1"]
    )
    assert [(one.id, one.where.source) for one in resolved.findings] == [
        ("unreadable", str(home / name).rstrip("/"))
    ]
    assert resolved.policy is None


def test_layers_merge_in_order_and_an_override_keeps_its_place(loaded: Loader) -> None:
    files = {
        "groups/cameras.yml": "outbound: [{name: b, allow: [ntp]}]\ndefaults: {outbound: reject}\n",
        "hosts/gw1.yml": "outbound: [{name: a, allow: [dns], to: [10.0.0.53], override: true}]\n",
    }
    fleet = SOUND + "outbound: [{name: a, allow: [any], to: [10.0.0.0/8]}]\ndefaults: {outbound: drop}\n"
    resolved = loaded(
        fleet,
        files,
        groups=["all", "cameras"],
        variables={"sallyport_policy__10_late": {"outbound": [{"name": "c", "allow": ["https"]}]}},
    )
    policy = resolved.policy
    assert policy is not None
    assert [(rule.name, rule.services.names) for rule in policy.outbound] == [
        ("a", ("dns",)),
        ("b", ("ntp",)),
        ("c", ("https",)),
    ]
    assert policy.defaults.outbound == "reject"


def test_what_is_locked_cannot_be_changed_even_with_override(loaded: Loader) -> None:
    fleet = SOUND.replace('64"]}', '64"], locked: true}') + "defaults: {inbound: drop, locked: true}\n"
    host = "zones: {mgmt: {cidrs: [10.0.0.0/8], override: true}}\ndefaults:\n  inbound: allow\n  outbound: drop\n"
    resolved = loaded(fleet, {"hosts/gw1.yml": host})
    assert [(one.id, one.where.line) for one in resolved.errors] == [("locked", 1), ("locked", 3)]


def test_a_variable_of_the_wrong_form_is_an_error_not_ignored(loaded: Loader) -> None:
    resolved = loaded(SOUND, variables={"sallyport_policy__site": {}})
    assert found(resolved) == [("bad-variable", 0)]


@pytest.mark.parametrize(
    ("value", "identity", "place"),
    [
        ({"zones": {"a": {"cidrs": [1.5]}}}, "quote-it", ".zones.a.cidrs[0]"),
        ({"zones": {"a": {"cidrs": [True]}}}, "quote-it", ".zones.a.cidrs[0]"),
        ({"zones": {"a": {"cidrs": [{"fd00:": None}]}}}, "quote-it", ".zones.a.cidrs[0]"),
        ({"zones": {"a": {"cidrs": [date(2027, 1, 1)]}}}, "quote-it", ".zones.a.cidrs[0]"),
        ({"zones": {True: {}}}, "quote-it", ".zones.True"),
        ({True: {}}, "quote-it", ".True"),
        ({"zones": {"\0a": {}}}, "quote-it", ".zones.?a"),
        ({"zones": {"a": {"cidrs": [object()]}}}, "quote-it", ".zones.a.cidrs[0]"),
        ([], "wrong-type", ""),
        (7, "wrong-type", ""),
        (
            {"inbound": [{"name": "x", "allow": ["ssh"], "until": datetime(2027, 1, 1)}]},
            "quote-it",
            ".inbound[0].until",
        ),
    ],
)
def test_a_variable_that_lost_its_type_names_its_path(value: Any, identity: str, place: str) -> None:
    resolved = load.load_host(None, "gw1", variables={"sallyport_policy__10_x": value})
    assert [(one.id, one.where.source) for one in resolved.errors] == [
        (identity, f"sallyport_policy__10_x{place}")
    ]


# Meeting the device


def test_a_policy_that_shuts_the_running_controller_out_is_an_error(loaded: Loader) -> None:
    device = DEVICE | {"connection": DEVICE["connection"] | {"client": "198.18.11.7"}}
    resolved = loaded(SOUND, device=device)
    assert [one.id for one in resolved.errors] == ["lock-out"]
    assert "198.18.11.7" in resolved.errors[0].message and "no rule admits it" in resolved.errors[0].message
    assert found(loaded(SOUND, device=DEVICE)) == []


def test_the_port_that_the_controller_connects_to_counts_whatever_it_is_called(loaded: Loader) -> None:
    device = DEVICE | {"connection": DEVICE["connection"] | {"server_port": 2222}}
    assert [one.id for one in loaded(SOUND, device=device).errors] == ["lock-out"]
    odd = SOUND.replace("[ssh]", "[odd]") + "services: {odd: {tcp: ['2000-3000']}}\n"
    assert loaded(odd, device=device).errors == ()


def test_every_execution_node_must_get_in(loaded: Loader) -> None:
    resolved = loaded(SOUND, device=DEVICE, controller=["198.18.10.9", "203.0.113.5"])
    assert [one.id for one in resolved.errors] == ["lock-out"]
    assert "203.0.113.5" in resolved.errors[0].message


def test_a_zone_bound_to_another_interface_locks_out_by_anti_spoofing(loaded: Loader) -> None:
    text = SOUND.replace('64"]}', '64"], interfaces: [eth7]}')
    resolved = loaded(text, device=DEVICE)
    assert [one.id for one in resolved.findings] == ["lock-out", "interface-absent"]
    assert "other interfaces" in resolved.errors[0].message


@pytest.mark.parametrize("holder", ["lo", "dummy0", "eth0"])
def test_the_controller_comes_in_where_it_is_answered_wherever_the_address_lies(
    loaded: Loader, holder: str
) -> None:
    """Routers have their management address on lo or on a dummy."""
    interfaces = [
        {"name": "lo", "kind": "loopback", "addresses": ["127.0.0.1/8"]},
        {"name": "dummy0", "kind": "other", "addresses": []},
        {"name": "eth0", "kind": "physical", "addresses": ["10.20.0.1/24"]},
    ]
    next(one for one in interfaces if one["name"] == holder)["addresses"].append("192.0.2.77/32")  # type: ignore[attr-defined]
    connection = {"client": "9.9.9.9", "client_port": 50000, "server": "192.0.2.77", "server_port": 22}

    def errors(text: str, **known: str) -> list[str]:
        device = DEVICE | {"interfaces": interfaces, "connection": connection | known}
        return [one.id for one in loaded(text, device=device).errors]

    closed = SOUND.replace("198.18.10.0/24", "10.0.0.0/8")
    bound = SOUND.replace(
        '{cidrs: [198.18.10.0/24, "2001:db8:10::/64"]}', "{cidrs: [9.9.9.9], interfaces: [eth0]}"
    )
    assert errors(closed, interface="eth0") == errors(closed) == ["lock-out"]
    assert errors(bound, interface="eth0") == []
    assert errors(bound.replace("eth0", "eth9"), interface="eth0") == ["lock-out"]


def test_a_network_is_no_controller(loaded: Loader) -> None:
    resolved = loaded(SOUND, device=DEVICE, controller=["198.18.10.0/24"])
    assert [one.id for one in resolved.errors] == ["bad-controller"]
    assert "`198.18.10.0/24` is a network" in resolved.errors[0].message


def test_management_open_to_any_needs_a_reason(loaded: Loader) -> None:
    text = "inbound: [{name: all, allow: [any], from: [0.0.0.0/0]}]\n"
    assert [one.id for one in loaded(text).errors] == ["management-open"]
    assert loaded("inbound: [{name: all, allow: [any], reason: lab}]\n").errors == ()
    by_interface = (
        "zones: {cell: {interfaces: [wwan0]}}\ninbound: [{name: all, allow: [ssh], from: [cell]}]\n"
    )
    assert loaded(by_interface).errors == ()


def test_two_halves_of_a_family_are_any_in_one_rule_or_in_two(loaded: Loader) -> None:
    one = SOUND + "  - {name: both, allow: [ssh], from: [0.0.0.0/1, 128.0.0.0/1]}\n"
    zones = "zones:\n  low: {cidrs: [0.0.0.0/1]}\n  high: {cidrs: [128.0.0.0/1]}\n"
    apart = SOUND.replace("zones:\n", zones) + "  - {name: both, allow: [ssh], from: [low, high]}\n"
    rules = "  - {name: low, allow: [any], from: [0.0.0.0/1]}\n  - {name: high, allow: [ssh], from: [128.0.0.0/1%s]}\n"
    for text in (one, apart, SOUND + rules % ""):
        assert [one.id for one in loaded(text).errors] == ["management-open"], text
    half = SOUND + "  - {name: low, allow: [ssh], from: [0.0.0.0/1]}\n"
    assert loaded(half).errors == ()
    assert loaded((SOUND + rules % "").replace("1]}\n", "1], reason: lab}\n")).errors == ()


def test_a_published_port_that_leads_the_controller_away_is_a_lock_out(loaded: Loader) -> None:
    nat = 'nat: {publish: [{name: camera, port: %d, to: "10.0.0.9:22"%s}]}\n'
    resolved = loaded(SOUND + nat % (22, ""), device=DEVICE)
    assert [(one.id, one.where.line) for one in resolved.errors] == [("lock-out", 5)]
    assert "`camera`" in resolved.errors[0].message
    for harmless in (nat % (2222, ""), nat % (22, ", from: [10.66.0.0/16]"), nat % (22, ", protocol: udp")):
        assert loaded(SOUND + harmless, device=DEVICE).errors == (), harmless


def test_without_a_device_its_inventory_address_is_the_one_that_is_connected_to(loaded: Loader) -> None:
    text = SOUND.replace("from: [mgmt]", "from: [mgmt], to: [10.20.0.1]")
    here = {"controller": ["198.18.10.7"], "inventory": {"gw1": ["gw1.example", "10.20.0.1"]}}
    assert loaded(text, **here).errors == ()
    here["inventory"] = {"gw1": ["10.20.0.2"]}
    assert [one.id for one in loaded(text, **here).errors] == ["lock-out"]


LIST = "blocklists: [{name: level1, file: lists/level1.netset%s}]\n"


def test_protected_addresses_are_taken_from_blocklists_and_counted(loaded: Loader) -> None:
    files = {"lists/level1.netset": "198.18.0.0/15\n10.20.0.254\n10.20.0.53\n0.0.0.0/8\nfe80::/10\n"}
    resolved = loaded(SOUND + LIST % "", files, device=DEVICE)
    assert [one.id for one in resolved.findings] == ["blocklist-protected"]
    assert "259 addresses" in resolved.findings[0].message
    policy = resolved.policy
    assert policy is not None
    left = policy.blocklists[0].addresses
    assert not left.v6
    for text in ("198.18.10.7", "10.20.0.254", "10.20.0.53", "0.0.0.0"):
        family, address, _last = cidrs.parse_one(text)
        assert family == "ipv4" and not any(low <= address <= high for low, high in left.v4)
    assert any(low <= cidrs.parse_one("198.18.11.1")[1] <= high for low, high in left.v4)


WIDE = {
    "the internet but private networks": "[0.0.0.0/0], except: [10.0.0.0/8, 192.168.0.0/16]",
    "half of it": "[128.0.0.0/1]",
    "an eighth": "[192.0.0.0/3]",
    "what is assigned of IPv6": '["2000::/3"]',
}


@pytest.mark.parametrize("cidrs_text", WIDE.values(), ids=WIDE.keys())
@pytest.mark.parametrize("rule", ["outbound", "inbound"])
def test_a_zone_that_is_the_internet_protects_nobody_and_that_is_said(
    loaded: Loader, cidrs_text: str, rule: str
) -> None:
    text = SOUND.replace("zones:\n", f"zones:\n  internet: {{cidrs: {cidrs_text}}}\n")
    if rule == "outbound":
        # With a rate it is not redundant beside an open default.
        text += "outbound: [{name: web, allow: [https], to: [internet], rate: 9/second}]\n"
    else:
        text += "  - {name: ops, allow: [ssh], from: [internet], reason: OPS-1}\n"
    listed = "203.0.113.0/24\n2001:db8:bad::/48\n"
    resolved = loaded(text + LIST % "", {"lists/level1.netset": listed})
    assert [one.id for one in resolved.findings] == ["wide-zone"]
    assert "zone `internet`" in resolved.findings[0].message
    policy = resolved.policy
    assert policy is not None
    assert policy.blocklists[0].addresses == cidrs.parse(listed.split())
    assert not bans.why_protected(policy, {}, bans.subject("203.0.113.7"))
    assert not bans.why_protected(policy, {}, bans.subject("2001:db8:bad::7"))
    # Without lists and traps there is nothing to be protected from.
    assert loaded(text).findings == ()


def test_just_under_an_eighth_of_a_family_is_protected(loaded: Loader) -> None:
    zone = "zones:\n  most: {cidrs: [192.0.0.0/3], except: [192.0.0.0/32]}\n"
    text = (
        SOUND.replace("zones:\n", zone)
        + "outbound: [{name: web, allow: [https], to: [most], rate: 9/second}]\n"
    )
    resolved = loaded(text + LIST % "", {"lists/level1.netset": "203.0.113.0/24\n"})
    assert [one.id for one in resolved.findings] == ["blocklist-protected"]
    assert "nothing is left" in resolved.findings[0].message
    assert resolved.policy is not None
    assert bans.why_protected(resolved.policy, {}, bans.subject("203.0.113.7"))


def test_an_overlap_with_an_admitted_zone_is_an_error_unless_accepted_or_elsewhere(loaded: Loader) -> None:
    rule = "  - {name: plant, allow: [https], from: [plant]}\n"
    text = SOUND.replace("zones:\n", "zones:\n  plant: {cidrs: [10.20.0.0/16], interfaces: [eth1]}\n") + rule
    files = {"lists/level1.netset": "10.0.0.0/8\n"}
    resolved = loaded(text + LIST % "", files)
    assert [one.id for one in resolved.errors] == ["blocklist-overlap"]
    assert "65536 addresses of zone `plant`" in resolved.errors[0].message
    assert loaded(text + LIST % ", overlap: accept", files).errors == ()
    assert loaded(text + LIST % ", interfaces: [eth0]", files).errors == ()


def test_a_blocklist_takes_comments_ranges_crlf_and_both_families(loaded: Loader) -> None:
    content = "\ufeff# FireHOL\r\n; old style\r\n203.0.113.0/24 # note\r\n203.0.113.7\r\n192.0.2.1-192.0.2.6\r\n\r\n2001:db8:bad::/48\r\n"
    resolved = loaded(SOUND + LIST % "", {"lists/level1.netset": content})
    assert resolved.policy is not None
    assert cidrs.texts(resolved.policy.blocklists[0].addresses) == [
        "192.0.2.1/32", "192.0.2.2/31", "192.0.2.4/31", "192.0.2.6/32", "203.0.113.0/24", "2001:db8:bad::/48",
    ]  # fmt: skip


def test_a_bad_line_of_a_blocklist_is_named_by_file_and_line(loaded: Loader) -> None:
    resolved = loaded(
        SOUND + LIST % "", {"lists/level1.netset": "203.0.113.0/24\n\nnonsense # x\n203.0.113.1/24\n"}
    )
    assert [(one.id, one.where.source.split("/")[-1], one.where.line) for one in resolved.findings] == [
        ("not-a-cidr", "level1.netset", 3),
        ("host-bits", "level1.netset", 4),
    ]


def test_an_expired_rule_is_left_out_with_a_warning_and_an_error_only_where_new(loaded: Loader) -> None:
    rule = '  - {name: vendor, allow: [https], from: [198.51.100.7], until: "2026-11-21"}\n'
    known = loaded(SOUND + rule)
    assert [one.id for one in known.findings] == ["expired"]
    assert known.policy is not None and [one.name for one in known.policy.inbound] == ["operators"]
    assert [one.id for one in loaded(SOUND + rule, previous_rules=()).errors] == ["expired-new"]
    assert loaded(SOUND + rule, previous_rules=known.fingerprints).errors == ()
    last_day = loaded(SOUND + rule, now=date(2026, 11, 21))
    assert [one.id for one in last_day.findings] == ["expires-soon"]
    assert last_day.policy is not None and len(last_day.policy.inbound) == 2


def test_outbound_drop_without_the_needed_services_names_them(loaded: Loader) -> None:
    resolved = loaded(SOUND + "defaults: {outbound: drop}\noutbound: [{name: a, allow: [dns, syslog-tls]}]\n")
    assert [one.id for one in resolved.findings] == ["outbound-blind"]
    assert "NTP, updates" in resolved.findings[0].message


def test_an_assert_sees_rules_that_other_layers_append(loaded: Loader) -> None:
    fleet = SOUND + "assert: [{service: ssh, only_from: [mgmt]}]\n"
    assert loaded(fleet).errors == ()
    host = "inbound: [{name: backdoor, allow: [any], from: [10.66.0.0/16]}]\n"
    resolved = loaded(fleet, {"hosts/gw1.yml": host})
    assert [one.id for one in resolved.errors] == ["assert-failed"]
    assert "`backdoor` admits 10.66.0.0/16" in resolved.errors[0].message


def test_shadowed_rules_are_warnings_with_the_rule_that_covers_them(loaded: Loader) -> None:
    resolved = loaded(SOUND + "  - {name: again, allow: [ssh], from: [198.18.10.128/25]}\n")
    assert found(resolved) == [("shadowed", 5)]
    assert "by `operators`" in resolved.findings[0].message


def test_a_published_port_without_an_inbound_rule_is_a_warning(loaded: Loader) -> None:
    nat = 'nat: {publish: [{name: hmi, port: %d, to: "10.20.0.9:443"}]}\n'
    assert found(loaded(SOUND + nat % 8443)) == [("publish-closed", 5)]
    assert found(loaded(SOUND + nat % 22)) == []


@pytest.mark.parametrize(
    ("service", "says"),
    [
        ("icmp: [9, 10]", "ICMP 9, 10"),
        ("icmp: [0, 8], icmpv6: [1]", "ICMP 0 and ICMPv6 1"),
        ("icmp: [5]", "ICMP 5"),
        ("icmpv6: [137]", "ICMPv6 137"),
        ('icmp: ["0-254"]', "ICMP 0, 1, 2, 3, 4, 5 and more"),
        ("icmp: [8, 13, 15, 17], icmpv6: [128, 135, 143, 151]", ""),
    ],
)
def test_icmp_that_starts_no_flow_is_a_finding_where_it_is_admitted(
    loaded: Loader, service: str, says: str
) -> None:
    text = SOUND + f"  - {{name: ra, allow: [some]}}\nservices: {{some: {{{service}}}}}\n"
    resolved = loaded(text)
    assert [one.id for one in resolved.findings] == (["icmp-no-flow"] if says else [])
    assert not says or f"admits {says}, but" in resolved.findings[0].message
    assert loaded(text.replace("allow: [some]", "deny: [some]")).errors == ()


def test_a_reject_that_others_can_overrule_is_a_finding(loaded: Loader) -> None:
    features = ["reject", "mangle"]
    xtables = {"works": True, "features": features}
    device = DEVICE | {"firewall": {"iptables": xtables, "ip6tables": xtables}}
    text = SOUND + "  - {name: no web, reject: [http]}\n"
    for policy in (text, SOUND + "defaults: {inbound: reject}\n"):
        assert [one.id for one in loaded(policy, device=device).findings] == ["reject-overruled"]
    assert loaded(SOUND, device=device).findings == ()
    assert (
        loaded(text, device=device | {"firewall": {"nft": {"works": True}, "iptables": xtables}}).findings
        == ()
    )
    features.append("security")
    assert loaded(text, device=device).findings == ()


def test_a_zone_of_hosts_is_looked_up_once_for_a_whole_fleet(tmp_path: Path) -> None:
    policy = SOUND.replace("zones:\n", "zones:\n  peers: {hosts: [all]}\n")
    policy += "  - {name: peers, allow: [https], from: [peers]}\n"
    (tmp_path / "fleet.yml").write_text(policy)

    class Counted(dict[str, Any]):
        looked = 0

        def __getitem__(self, key: str) -> Any:
            Counted.looked += 1
            return super().__getitem__(key)

    def looks(count: int) -> int:
        names = [f"gw{number}" for number in range(count)]
        fleet_vars = Counted(
            {name: {"ansible_host": f"10.0.0.{number + 1}"} for number, name in enumerate(names)}
        )
        task = {"hostvars": fleet_vars, "groups": {"all": names}}
        known = fleet.Addresses(fleet_vars)
        Counted.looked = 0
        for name in names:
            found = fleet.resolve_host(task, name, str(tmp_path), None, known)
            assert found.policy is not None
            assert intervals.count(found.zones["peers"].addresses.v4) == count
        return Counted.looked

    few, many = looks(10), looks(100)
    assert many <= 10 * few


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("127.0.0.1:80", "a loopback address"),
        ("[::1]:80", "a loopback address"),
        ("0.0.0.0:80", "no host's address"),
        ("[::]:80", "no host's address"),
        ("224.0.0.1:80", "a multicast address"),
        ("[ff02::1]:80", "a multicast address"),
        ("255.255.255.255:80", "a broadcast or reserved address"),
        ("169.254.1.1:80", "a link-local address"),
        ("[fe80::1]:80", "a link-local address"),
    ],
)
def test_a_published_port_that_can_lead_nobody_anywhere_is_an_error(
    loaded: Loader, target: str, kind: str
) -> None:
    resolved = loaded(SOUND + f'nat: {{publish: [{{name: hmi, port: 8443, to: "{target}"}}]}}\n')
    assert [one.id for one in resolved.findings] == ["bad-target"]
    assert f"is {kind}, where no packet can be led: `{target}`" in resolved.findings[0].message


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (['port: 8443, to: "10.0.0.9:443"', 'port: 8443, to: "10.0.0.8:443"'], ["publish-dead"]),
        (['port: 8443, to: "10.0.0.9:443"', 'port: 8443, to: "[fd00::8]:443"'], []),
        (['port: 8443, to: "10.0.0.9:443"', 'port: 8443, protocol: udp, to: "10.0.0.8:443"'], []),
        (
            [
                'port: 8443, from: [0.0.0.0/1], to: "10.0.0.9:443"',
                'port: 8443, from: [128.0.0.0/1], to: "10.0.0.9:443"',
                'port: 8443, from: [10.0.0.0/8], to: "10.0.0.8:443"',
            ],
            ["publish-dead"],
        ),
        (['port: 8443, from: [10.0.0.0/8], to: "[fd00::8]:443"'], ["publish-dead"]),
        (['port: 8444, from: [10.0.0.0/8], to: "10.0.0.8:443"'], ["publish-closed"]),
        (['port: 8444, from: [192.0.2.0/25], to: "10.0.0.8:443"'], []),
    ],
)
def test_a_published_port_that_takes_nobody_is_a_finding(
    loaded: Loader, entries: list[str], expected: list[str]
) -> None:
    rules = (
        "  - {name: all, allow: [panel]}\n  - {name: office, allow: [office], from: [192.0.2.0/24]}\n"
        "services: {panel: {tcp: [8443], udp: [8443]}, office: {tcp: [8444]}}\n"
    )
    listed = ", ".join(f"{{name: p{number}, {entry}}}" for number, entry in enumerate(entries))
    resolved = loaded(SOUND + rules + f"nat: {{publish: [{listed}]}}\n")
    assert [one.id for one in resolved.findings] == expected


def test_a_list_outside_the_policys_folder_is_read_only_where_a_variable_allows_it(
    loaded: Loader, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("lists")
    (elsewhere / "bad.netset").write_text("203.0.113.0/24\n")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/link.netset").symlink_to(elsewhere / "bad.netset")
    away = os.path.relpath(elsewhere / "bad.netset", tmp_path)
    for file in (str(elsewhere / "bad.netset"), away, "lists/link.netset"):
        text = SOUND + f"blocklists: [{{name: bad, file: {file}}}]\n"
        resolved = loaded(text)
        assert [one.id for one in resolved.errors] == ["blocklist-file"], file
        assert "outside the policy's folder" in resolved.errors[0].message
        assert loaded(text, list_dirs=[str(elsewhere)]).errors == ()
        assert loaded(text, list_dirs=[f"{elsewhere}/deeper"]).errors


def test_a_line_that_is_no_address_is_never_printed(loaded: Loader) -> None:
    content = "hunter2-the-password\n10.0.0.7/24\nroot:x:0:0:root:/root:/bin/sh\ndeadbeefcafe\n"
    resolved = loaded(SOUND + LIST % "", {"lists/level1.netset": content})
    assert [one.where.line for one in resolved.errors] == [1, 2, 3, 4]
    said = repr(resolved.findings)
    assert [secret for secret in ("hunter2", "password", "root:", "deadbeef") if secret in said] == []
    assert "`10.0.0.7/24` " in resolved.errors[1].message


def test_a_zone_that_grows_makes_no_old_rule_a_new_one(loaded: Loader) -> None:
    text = SOUND + '  - {name: vendor, allow: [https], from: [v], until: "2026-11-20"}\n'
    zone = "zones:\n  v: {cidrs: [192.0.2.1%s]}\n"
    before = loaded(text.replace("zones:\n", zone % ""))
    grown = text.replace("zones:\n", zone % ", 192.0.2.2")
    assert [one.id for one in loaded(grown, previous_rules=before.fingerprints).findings] == ["expired"]
    for changed in (grown.replace("11-20", "11-19"), grown.replace("from: [v]", "from: [v, mgmt]")):
        found = loaded(changed, previous_rules=before.fingerprints).findings
        assert [one.id for one in found] == ["expired-new"]


def test_what_a_remedy_says_is_what_is_then_taken(loaded: Loader) -> None:
    for text, remedy in (
        ("services: {a: {tcp: [22], override: yes}}", "write true"),
        ("services: {a: {tcp: [22], override: no}}", "write true or false"),
        ("services: {a: {tcp: [0x16]}}", "write a decimal number, such as 22"),
        ("services: {a: {tcp: [0777]}}", "write a decimal number, such as 22"),
        ("services: {a: {icmp: [300]}}", 'write a number from 0 to 255, or a range such as "13-17"'),
        ("services: {a: {protocols: [300]}}", 'write a number from 0 to 255, or a range such as "50-51"'),
        (
            "zones: {a: {interfaces: [no/slash]}}",
            "write an interface name, at most 15 characters, `*` only at the end",
        ),
    ):
        (finding,) = loaded(text + "\n").errors
        assert finding.remedy == remedy


@pytest.mark.parametrize("name", [".*", "..*", ".", ".."])
def test_a_name_that_no_interface_can_have_is_found_before_anything_is_rendered(
    loaded: Loader, name: str
) -> None:
    assert [one.id for one in loaded(f'zones: {{a: {{interfaces: ["{name}"]}}}}\n').errors] == [
        "bad-interface"
    ]


def test_what_says_nothing_is_no_assertion_and_no_name(loaded: Loader) -> None:
    assert [one.id for one in loaded(SOUND + "assert: [{defaults: {}}]\n").errors] == ["missing-key"]
    assert [one.id for one in loaded(SOUND.replace("name: operators", 'name: " "')).errors] == ["bad-name"]


def test_protocols_are_ports_too_when_a_closed_device_is_looked_at(loaded: Loader) -> None:
    closed = SOUND + "defaults: {outbound: drop}\nservices: {l4: {protocols: [6, 17]}}\n"
    assert [one.id for one in loaded(closed).findings] == ["outbound-blind"]
    assert loaded(closed + "outbound: [{name: all, allow: [l4]}]\n").findings == ()


@pytest.mark.parametrize(
    "cidrs_text", ["[0.0.0.0/0], except: [203.0.113.1]", '["::/0"], except: ["2001:db8::/32"]']
)
def test_all_but_a_little_is_any_to_the_management_port(loaded: Loader, cidrs_text: str) -> None:
    text = SOUND.replace("zones:\n", f"zones:\n  most: {{cidrs: {cidrs_text}}}\n")
    text += "  - {name: most, allow: [ssh], from: [most]}\n"
    assert [one.id for one in loaded(text).errors] == ["management-open"]


@pytest.mark.parametrize(
    "name",
    ["sallyport_policy_10_extra", "sallyport_policy__1_x", "sallyport_policy10_x", "sallyportpolicy10_x"],
)
def test_a_variable_that_is_almost_called_as_a_layer_is_not_passed_over(
    loaded: Loader, name: str, tmp_path: Path
) -> None:
    assert [one.id for one in loaded(SOUND, variables={name: {}}).errors] == ["bad-variable"]
    own = {"ansible_host": "10.0.0.1", name: {}, "sallyport_policy_dir": str(tmp_path)}
    found = fleet.resolve_host({"hostvars": {"gw1": own}, "groups": {}}, "gw1", str(tmp_path), None)
    assert [one.id for one in found.errors] == ["bad-variable"]


def test_what_a_key_holds_can_be_printed(loaded: Loader) -> None:
    layer = {"zones": {"a\ud800\x1b[31m": {"cidrs": ["10.0.0.0/8"]}}}
    found = loaded(SOUND, variables={"sallyport_policy__10_x": layer}).findings
    assert [one.id for one in found] == ["bad-name"]
    repr_of = f"{found[0].where.source} {found[0].message}"
    assert repr_of.encode() and repr_of.isprintable()


def test_probed_bridges_reach_the_policy(loaded: Loader) -> None:
    own = ["172.17.0.1/16", "fe80::42:acff:fe11:1/64"]
    docker = {"name": "docker0", "kind": "container_bridge", "addresses": own}
    device = DEVICE | {
        "interfaces": [*DEVICE["interfaces"], docker, {"name": "br0", "kind": "bridge", "addresses": []}]
    }
    policy = loaded(SOUND, device=device).policy
    assert policy is not None
    assert (policy.bridges, policy.container_bridges) == (("br0", "docker0"), ("docker0",))
    # Its link-local address is another one after each boot: the policy must not change with it.
    expected = Endpoint(cidrs.parse(["172.17.0.1", "fe80::/10"]), ("docker0",))
    assert policy.container_addresses == (expected,)


def test_a_firewall_of_others_that_drops_what_the_policy_allows_is_a_finding_for_each_way(
    loaded: Loader,
) -> None:
    def drop(table: str, chain: str, program: str = "") -> dict[str, str]:
        return {
            "table": table,
            "chain": chain,
            "hook": chain.lower(),
            "how": "policy drop",
            "program": program,
        }

    ufw = [drop("ip filter", "INPUT", "ufw"), drop("ip6 filter", "INPUT", "ufw")]
    docker = drop("ip filter", "FORWARD")
    resolved = loaded(SOUND, device=DEVICE | {"foreign_drops": [*ufw, docker]})
    # Nothing is forwarded by this policy, so Docker's policy takes nothing away from it.
    assert [(one.id, one.severity) for one in resolved.findings] == [("foreign-drop", "warning")]
    assert "chain INPUT of ip filter (policy drop), INPUT of ip6 filter" in resolved.findings[0].message
    assert resolved.findings[0].message.endswith("Unless it allows them too, this stops: ssh")
    assert "ufw is active" in resolved.findings[0].message and "ufw disable" in resolved.findings[0].remedy
    assert resolved.policy is not None
    forward = "forward: [{name: cameras, allow: [rtsp], from: [10.30.0.0/24]}]\n"
    resolved = loaded(SOUND + forward, device=DEVICE | {"foreign_drops": [docker]})
    assert ["FORWARD of ip filter" in one.message for one in resolved.findings] == [True]
    assert resolved.findings[0].message.endswith("this stops over IPv4: rtsp")
    published = "nat: {masquerade: [eth0], publish: [{name: hmi, port: 22, to: '10.20.0.9:443', from: [10.40.0.0/24]}]}\n"
    resolved = loaded(SOUND + published, device=DEVICE | {"foreign_drops": [docker]})
    foreign = next(one for one in resolved.findings if one.id == "foreign-drop")
    assert foreign.message.endswith("this stops over IPv4: what `hmi` publishes, what leaves by eth0")
    assert loaded(SOUND, device=DEVICE | {"foreign_drops": []}).findings == ()


def with_firewall(**tools: dict[str, Any]) -> dict[str, Any]:
    return DEVICE | {"firewall": tools}


@pytest.mark.parametrize(
    ("never", "severity", "says"),
    [
        ("[cell]", "error", "names zone `cell`, which is told by its interfaces"),
        ("[mgmt, cell]", "error", "nobody would be banned"),
        ("[any]", "warning", "so nobody is banned"),
        ("[0.0.0.0/0]", "warning", "so no IPv4 caller is banned"),
        ('["::/0"]', "warning", "so no IPv6 caller is banned"),
        ("[mgmt, plant, 192.0.2.1]", "", ""),
    ],
)
def test_traps_that_would_ban_nobody_are_a_finding(
    loaded: Loader, never: str, severity: str, says: str
) -> None:
    zones = "  cell: {interfaces: [eth0]}\n  plant: {cidrs: [10.20.0.0/16], interfaces: [eth0]}\ninbound:"
    text = SOUND.replace("inbound:", zones) + f"traps: {{tcp: [23], never: {never}}}\n"
    found_ones = [one for one in loaded(text).findings if one.id == "trap-never"]
    assert [one.severity for one in found_ones] == ([severity] if severity else [])
    assert all(says in one.message and one.where.line == 7 for one in found_ones)


def test_brokers_are_never_cut_off(loaded: Loader) -> None:
    """Those of the devices behind a gateway too, and those that no rule names because anything may go out."""
    rules = """\
forward:
  - {name: telemetry, allow: [mqtts], from: [10.30.0.0/24], to: [203.0.113.10]}
  - {name: web, allow: [https], from: [10.30.0.0/24], to: [203.0.113.20]}
  - {name: all, allow: [any], from: [10.31.0.0/24], to: [203.0.113.40]}
"""
    resolved = loaded(SOUND + rules, brokers=["203.0.113.30", "2001:db8:5::1"])
    assert resolved.policy is not None
    protected = cidrs.texts(resolved.policy.protected)
    assert {"203.0.113.10/32", "203.0.113.30/32", "2001:db8:5::1/128"} <= set(protected)
    assert not {"203.0.113.20/32", "203.0.113.40/32"} & set(protected)
    wrong = loaded(SOUND, brokers=["broker.example"])
    assert [(one.id, one.severity) for one in wrong.findings] == [("bad-broker", "error")]


def test_a_trap_asks_for_a_handshake_where_the_kernel_can_prove_one(loaded: Loader) -> None:
    text = SOUND + "traps: {tcp: [23]}\n"
    can = {"works": True, "features": ["synproxy"]}
    for device in (
        None,
        with_firewall(nft=can),
        with_firewall(nft={"works": False}, iptables=can, ip6tables=can),
    ):
        resolved = loaded(text, device=device)
        assert resolved.policy is not None and resolved.policy.traps is not None
        assert (resolved.policy.traps.proof, resolved.findings) == ("handshake", ())
    for device in (with_firewall(nft={"works": True, "features": []}), with_firewall(iptables=can)):
        resolved = loaded(text, device=device)
        assert resolved.policy is not None and resolved.policy.traps is not None
        assert (resolved.policy.traps.proof, found(resolved)) == ("syn", [("trap-proof-syn", 5)])
    forced = loaded(text.replace("[23]", "[23], proof: handshake"), device=with_firewall())
    assert found(forced) == [("no-synproxy", 5)]


def test_cut_needs_the_conntrack_tool_on_the_device(loaded: Loader) -> None:
    text = SOUND.replace("from: [mgmt]", "from: [mgmt], cut: true")
    assert loaded(text).errors == ()
    assert loaded(text, device=DEVICE | {"tools": {"conntrack": "/usr/sbin/conntrack"}}).errors == ()
    assert found(loaded(text, device=DEVICE)) == [("no-conntrack", 4)]


def test_hosts_share_the_parsing_of_files_until_they_change(loaded: Loader, tmp_path: Path) -> None:
    loaded(SOUND)
    path = str(tmp_path / "fleet.yml")
    assert layers.file_layer(path) is layers.file_layer(path)
    before = layers.file_layer(path)
    (tmp_path / "fleet.yml").write_text(SOUND + "# changed\n")
    assert layers.file_layer(path) is not before


# Hostile input


HOSTILE: list[tuple[str, str | bytes]] = [
    ("brackets", "[" * 200_000),
    ("braces", "{a: " * 50_000),
    ("indentation", "\n".join(" " * n + "- a:" for n in range(300))),
    ("billion laughs", "a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]\n"),
    ("ten megabytes", "zones: {" + "a" * 10_000_000 + ": {cidrs: [10.0.0.0/8]}}"),
    ("huge file", b"#" + b"x" * (17 << 20)),
    ("many keys", "zones:\n" + "".join(f"  z{n}: 7\n" for n in range(2000))),
    ("binary", bytes(range(256))),
    ("latin-1", "zones: {\xe9: 1}".encode("latin-1")),
    ("nul", "zones: \0"),
    ("python tag", "!!python/object/apply:os.system [id]"),
    ("jinja", "zones: {a: {cidrs: [\"{{ lookup('pipe', 'id') }}\"]}}"),
    ("merge key", "zones: {a: {<<: {cidrs: [10.0.0.0/8]}}}"),
    ("two documents", "---\nzones: {}\n---\nzones: {}\n"),
    ("list", "- zones\n"),
    ("text", "zones"),
    ("number", "7"),
    ("complex key", "? [a, b]\n: c\n"),
    ("huge number", "services: {a: {tcp: [" + "9" * 5000 + "]}}"),
    ("unicode digits", 'services: {a: {tcp: ["\u0662\u0662"]}}'),
    ("nft in a name", 'zones: {"a; flush ruleset": {cidrs: [10.0.0.0/8]}}'),
    ("shell in a name", 'zones: {"$(reboot)": {cidrs: [10.0.0.0/8]}}'),
    ("newline in a rule", 'inbound: [{name: "a\\n-A INPUT -j ACCEPT", allow: [http], from: [10.0.0.0/8]}]'),
    ("shell in an interface", 'zones: {a: {interfaces: ["eth0; reboot"]}}'),
    ("quote in a prefix", "log: {prefix: 'a\"b'}"),
]


@pytest.mark.parametrize(("name", "text"), HOSTILE, ids=[name for name, _text in HOSTILE])
def test_hostile_text_gets_findings_and_never_a_policy(loaded: Loader, name: str, text: str | bytes) -> None:
    resolved = loaded(text)
    assert resolved.errors
    assert resolved.policy is None
    assert all(len(one.message) < 1000 and one.message.isprintable() for one in resolved.findings)


def test_names_like_nft_keywords_are_only_names(loaded: Loader) -> None:
    text = "zones:\n" + "".join(
        f"  {name}: {{cidrs: [10.0.0.0/8]}}\n" for name in ("log", "ip", "set", "1zone")
    )
    assert loaded(text + "inbound: [{name: a, allow: [http], from: [log, ip, set, 1zone]}]\n").errors == ()


WRONG: list[Any] = [None, 7, -1, True, "x", "", [], [None], [[]], {}, {"a": None}, 1.5, [7], ["\0"]]


def shapes_with(value: Any) -> list[Any]:
    """Policies in which ``value`` stands in every place that the language has."""
    from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.language import (
        BLOCKLIST,
        DEFAULTS,
        POLICY,
        PUBLISH,
        RULE,
        SERVICE,
        TRAPS,
        ZONE,
    )

    shapes: list[Any] = [{key: value} for key in POLICY.keys]
    shapes += [{"zones": {"a": {key: value}}} for key in ZONE.keys]
    shapes += [{"services": {"a": {key: value}}} for key in SERVICE.keys]
    shapes += [{"inbound": [{"name": "a", "allow": ["http"], key: value}]} for key in RULE.keys]
    shapes += [
        {"nat": {"publish": [{"name": "a", "port": 1, "to": "10.0.0.1:1", key: value}]}}
        for key in PUBLISH.keys
    ]
    shapes += [{"blocklists": [{"name": "a", "file": "x", key: value}]} for key in BLOCKLIST.keys]
    shapes += [{"traps": {"tcp": [23], key: value}} for key in TRAPS.keys]
    shapes += [{"defaults": {key: value}} for key in DEFAULTS.keys]
    return shapes


@pytest.mark.parametrize("value", WRONG, ids=[repr(value) for value in WRONG])
def test_any_wrong_type_anywhere_is_a_finding_or_harmless_but_never_a_crash(value: Any) -> None:
    for shape in shapes_with(value):
        resolved = load.load_host(None, "gw1", variables={"sallyport_policy__10_x": shape}, now=TODAY)
        assert (resolved.policy is None) == bool(resolved.errors)


_KEYS = st.sampled_from(
    [
        "zones",
        "services",
        "inbound",
        "outbound",
        "forward",
        "nat",
        "containers",
        "defaults",
        "blocklists",
        "traps",
        "log",
        "assert",
        "cidrs",
        "except",
        "hosts",
        "interfaces",
        "local",
        "override",
        "locked",
        "tcp",
        "udp",
        "icmp",
        "name",
        "allow",
        "deny",
        "reject",
        "from",
        "to",
        "rate",
        "until",
        "on_device",
        "cut",
        "log",
        "reason",
        "masquerade",
        "publish",
        "port",
        "protocol",
        "clamp_mss",
        "ping",
        "file",
        "direction",
        "overlap",
        "ban",
        "size",
        "proof",
        "never",
        "drops",
        "prefix",
        "group",
        "service",
        "only_from",
        "defaults",
        "a",
        "any",
        "mgmt",
    ]
)
_LEAVES = st.sampled_from(
    [None, True, 0, 22, -1, 10 ** 30, 1.5, "", "any", "a", "mgmt", "ssh", "eth0", "wwan*", "10.0.0.0/8", "::/0", "fd00::1", "5/second", "2027-01-31", "drop", "allow", "1h", "[::1]:1", "10.0.0.1:80", "23-25", "\x00", "x\ny", "../../etc/passwd"]
) | st.text(max_size=5)  # fmt: skip
_TREES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=25,
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.dictionaries(_KEYS, _TREES, max_size=4), min_size=1, max_size=2))
def test_any_tree_of_words_gets_findings_or_a_policy_but_never_a_crash(trees: list[Any]) -> None:
    variables = {f"sallyport_policy__{place:02}_x": tree for place, tree in enumerate(trees)}
    resolved = load.load_host(None, "gw1", variables=variables, device=DEVICE, now=TODAY)
    assert (resolved.policy is None) == bool(resolved.errors)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.sampled_from([*list("abz:{}[],-&*!|>'\"%@`#? \n\t\x00é"), "zones:", "- ", "inbound: ", "<<: "]),
        max_size=40,
    )
)
def test_any_text_gets_findings_or_a_policy_but_never_a_crash(pieces: list[str]) -> None:
    from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.source import read_text

    node, findings = read_text("".join(pieces).encode(), "fleet.yml")
    assert (node is None) <= bool(findings)
    if node is not None:
        layer = layers._layer("fleet.yml", node, findings)
        assert layer.entry is not None or layer.findings


@pytest.mark.parametrize(
    ("rate", "errors"),
    [("1/hour", ["lock-out"]), ("29/minute", ["lock-out"]), ("30/minute", []), ("1/second", [])],
)
def test_a_rate_that_a_run_of_ours_exceeds_is_a_lock_out(
    loaded: Loader, rate: str, errors: list[str]
) -> None:
    policy = SOUND.replace("from: [mgmt]}", f"from: [mgmt], rate: {rate}}}", 1)
    assert policy != SOUND
    resolved = loaded(policy, device=DEVICE)
    assert [one.id for one in resolved.errors] == errors, resolved.errors
