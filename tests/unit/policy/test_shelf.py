"""The shelf gives back what was put on it, and nothing that another hand could have put there."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import cidrs, load, shelf
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import Addresses

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


@pytest.mark.parametrize("cut", [0, 1, 40, 60])
def test_a_file_cut_short_is_not_used(folder: Path, cut: int) -> None:
    shelf.keep("a", LARGE, SOME)
    raw = (folder / "a").read_bytes()
    assert len(raw) > 60
    (folder / "a").write_bytes(raw[:cut])
    assert shelf.fetch("a", LARGE) is None


def test_the_shelf_holds_no_more_than_its_limit(folder: Path) -> None:
    for number in range(40):
        shelf.keep(f"list{number}", LARGE, Addresses(((number, number),)))
    assert len(list(folder.iterdir())) == 32
    assert shelf.fetch("list39", LARGE) == Addresses(((39, 39),))


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
