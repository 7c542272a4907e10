"""The shelf gives back what was put on it, and nothing that another hand could have put there."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from pathlib import Path

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import cidrs, load, shelf
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import (
    Addresses,
    Blocklist,
    HostPolicy,
    Intervals,
    Rule,
    ServiceSet,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.render import (
    BACKENDS,
    iptables_ipset,
    nftables,
)

LARGE = 1 << 20
SOME = cidrs.parse(["10.0.0.0/8", "192.0.2.1", "2001:db8::/32"])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/sallyport/lists"


def test_what_is_kept_is_fetched() -> None:
    shelf.keep("a", LARGE, SOME)
    assert shelf.fetch("a", LARGE) == SOME
    assert shelf.fetch("b", LARGE) is None


@pytest.mark.parametrize(
    "texts", [["10.0.0.0/8", "192.0.2.1", "255.255.255.255", "2001:db8::/32"], ["::/64"], []]
)
def test_the_digest_of_what_is_fetched_is_that_of_its_addresses(texts: list[str]) -> None:
    made = cidrs.parse(texts)
    shelf.keep("a", LARGE, made)
    fetched = shelf.fetch("a", LARGE)
    assert fetched == made and fetched is not made
    for one, other in ((fetched.v4, made.v4), (fetched.v6, made.v6)):
        assert shelf.content(one) == shelf.content(other) == hashlib.sha256(shelf.pack(other)).hexdigest()


def test_small_lists_are_not_kept(folder: Path) -> None:
    shelf.keep("a", 100, SOME)
    assert not folder.exists()


def test_a_file_that_others_can_write_is_not_used(folder: Path) -> None:
    shelf.keep("a", LARGE, SOME)
    (folder / "a").chmod(0o666)
    assert shelf.fetch("a", LARGE) is None
    (folder / "a").chmod(0o600)
    folder.chmod(0o777)
    assert shelf.fetch("a", LARGE) is None


def test_a_file_under_another_name_is_not_used(folder: Path) -> None:
    shelf.keep("a", LARGE, SOME)
    (folder / "b").write_bytes((folder / "a").read_bytes())
    (folder / "b").chmod(0o600)
    assert shelf.fetch("b", LARGE) is None


@pytest.mark.parametrize("cut", [0, 1, 40, 60])
def test_a_file_cut_short_is_not_used(folder: Path, cut: int) -> None:
    shelf.keep("a", LARGE, SOME)
    raw = (folder / "a").read_bytes()
    assert len(raw) > 60
    (folder / "a").write_bytes(raw[:cut])
    assert shelf.fetch("a", LARGE) is None


def test_the_shelf_holds_no_more_than_its_limit_and_what_is_in_use_stays(folder: Path) -> None:
    def old(name: str, age: int) -> None:
        os.utime(folder / name, ns=(age, age))

    for number in range(64):
        shelf.keep(f"list{number}", LARGE, Addresses(((number, number),)))
        old(f"list{number}", number)
    assert shelf.fetch("list0", LARGE) == Addresses(((0, 0),))
    shelf.keep("more", LARGE, SOME)
    assert len(list(folder.iterdir())) == 64
    assert shelf.fetch("list0", LARGE) and shelf.fetch("more", LARGE)
    assert shelf.fetch("list1", LARGE) is None


def test_the_shelf_holds_no_more_bytes_than_its_limit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "_KEEP_BYTES", 5000)
    for number in range(4):
        shelf.keep(f"list{number}", LARGE, Addresses(tuple((4 * one, 4 * one) for one in range(250))))
        os.utime(folder / f"list{number}", ns=(number, number))
    assert sorted(file.name for file in folder.iterdir()) == ["list2", "list3"]


def ranges(count: int, step: int = 4) -> Intervals:
    return tuple((step * number, step * number) for number in range(count))


def test_a_text_is_made_once_for_all_that_it_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def text(of: str = "d", kind: str = "k", maker: str = __file__, count: int = 10_000) -> str:
        return shelf.text(of, count, kind, maker, lambda: made.append(of) or f"made {len(made)}")  # type: ignore[func-returns-value]

    assert text() == text() == "made 1"
    assert text(of="other") == text(of="other") == "made 2"
    assert text(kind="other") == text(kind="other") == "made 3"
    assert text(maker=shelf.__file__) == "made 4"
    assert [text(count=10), text(count=10)] == ["made 5", "made 6"]
    shelf._code.cache_clear()
    monkeypatch.setattr(shelf, "_MAKERS", ("judge.py",))
    assert text() == "made 7", "code that changed is not trusted with what the old code made"


@pytest.mark.parametrize("backend", ["nftables", "iptables_ipset"])
def test_devices_that_share_a_list_share_its_text(
    backend: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rendered(name: str, listed: Intervals, port: int) -> str:
        rule = Rule("r", "allow", ServiceSet(tcp=((port, port),)))
        policy = HostPolicy(
            name, (rule,), blocklists=(Blocklist("l", Addresses(listed, ranges(9000, 1 << 70))),)
        )
        return "".join(BACKENDS[backend](policy, {}).values())

    with monkeypatch.context() as without:
        without.setenv("XDG_CACHE_HOME", "none")
        wanted = [
            rendered("gw1", ranges(8000), 22),
            rendered("gw2", ranges(8000), 80),
            rendered("gw3", ranges(8001), 22),
        ]
    assert not folder.exists()
    assert rendered("gw1", ranges(8000), 22) == wanted[0]
    assert len(list(folder.iterdir())) == 2
    writer = {"nftables": nftables, "iptables_ipset": iptables_ipset}[backend]
    name = "span_texts" if backend == "nftables" else "_filled"
    with monkeypatch.context() as busy:
        busy.setattr(writer, name, lambda *_: pytest.fail("written again"))
        assert rendered("gw2", ranges(8000), 80) == wanted[1]
    assert rendered("gw3", ranges(8001), 22) == wanted[2]


def test_processes_side_by_side_never_see_half_a_text(folder: Path) -> None:
    def work() -> None:
        for turn in range(200):
            of = str(turn % 80)
            assert shelf.text(of, 10_000, "k", __file__, lambda of=of: of * 50_000) == of * 50_000  # type: ignore[misc]

    # As Ansible does it: one process a host.
    hosts = [multiprocessing.get_context("fork").Process(target=work) for _ in range(4)]
    for one in hosts:
        one.start()
    for one in hosts:
        one.join()
    assert [one.exitcode for one in hosts] == [0, 0, 0, 0]
    assert len(list(folder.iterdir())) <= 64


def test_a_policy_reads_the_same_from_the_shelf_and_a_changed_file_anew(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"203.{high}.{low}.1" for high in range(30) for low in range(250)]
    (tmp_path / "fleet.yml").write_text("blocklists: [{name: bad, file: bad.netset}]\n")
    (tmp_path / "bad.netset").write_text("\n".join(lines))
    first = load.load_host(str(tmp_path), "gw1").policy
    assert [len(list(folder.iterdir()))] == [1]
    # Another process has no memory of its own: only the shelf.
    from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import resolve

    with monkeypatch.context() as other:
        other.setattr(resolve, "_lists", {})
        other.setattr(cidrs, "read_list", lambda text: pytest.fail("read again"))
        assert load.load_host(str(tmp_path), "gw1").policy == first
    (tmp_path / "bad.netset").write_text("\n".join([*lines, "192.0.2.1"]))
    after = load.load_host(str(tmp_path), "gw1").policy
    assert first is not None and after is not None
    assert len(after.blocklists[0].addresses.v4) == len(first.blocklists[0].addresses.v4) + 1
