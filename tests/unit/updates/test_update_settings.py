"""What an operator may write, and what the message says where it cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.settings import (
    Settings,
    SettingsError,
    Window,
    is_public,
    read,
)

ROOT = Path(__file__).parents[3]
KEY = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDMEZ\n-----END PGP PUBLIC KEY BLOCK-----"
DEFAULTS = {
    name.removeprefix("update_agent_"): value
    for name, value in yaml.safe_load(
        (ROOT / "roles/update_agent/defaults/main.yml").read_text(encoding="utf-8")
    ).items()
}


def settings(host: str = "gw1", **values: Any) -> Settings:
    return read({**DEFAULTS, **values}, host)


def repository(**values: Any) -> dict[str, Any]:
    return {"uri": "http://packages.example.com/debian/", "key": KEY, **values}


def test_the_defaults_update_by_themselves_at_night_and_never_reboot() -> None:
    found = settings()
    assert found.mode == "automatic" and found.reboot == "never"
    assert found.window == Window(120, 180) and found.window.text == "02:00-05:00"


def test_a_ring_is_a_suite_with_the_way_back_beside_it() -> None:
    found = settings(repository=repository(exclusive=True), ring="ring1").repository
    assert found is not None and found.suites == ("ring1", "ring1-previous") and found.exclusive
    assert found.uri == "http://packages.example.com/debian" and found.host == "packages.example.com"


def test_a_window_may_pass_midnight() -> None:
    window = settings(window="23:30-01:00").window
    assert (window.begin, window.length, window.end) == (1410, 90, 60)
    assert settings(window="any").window == Window()


def test_staggered_devices_have_a_minute_of_their_own_which_stays() -> None:
    offsets = {
        host: settings(host, reboot="staggered").reboot_offset for host in ("a", "b", "c", "d", "e", "f")
    }
    assert offsets == {host: settings(host, reboot="staggered").reboot_offset for host in offsets}
    assert len(set(offsets.values())) > 3 and max(offsets.values()) < 180
    assert settings("a", reboot="window").reboot_offset == 0


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"mode": "manual"}, "update_agent_reason: a device that is taken out of automatic updates needs a reason"),
        ({"mode": "manual", "reason": "a\nb"}, "update_agent_reason: expected one line"),
        ({"mode": "postponed", "until": "soon"}, "update_agent_until: update_agent_mode is postponed, so a day is expected"),
        ({"mode": "postponed"}, "found ''"),
        ({"window": "2-5"}, 'update_agent_window: expected "HH:MM-HH:MM"'),
        ({"window": "02:00-02:00"}, "has no length"),
        ({"window": "25:00-26:00"}, "update_agent_window"),
        ({"reboot_window": "night"}, "update_agent_reboot_window"),
        ({"jitter": 10800}, "update_agent_jitter: 10800 s do not fit into update_agent_window 02:00-05:00"),
        ({"every": 1}, "update_agent_every: expected 10 or more, found 1"),
        ({"ring": "ring0"}, "with public mirrors only a delay is possible: set update_agent_delay_days"),
        ({"ring": "ring0", "repository": {"uri": "http://deb.debian.org/debian", "key": KEY}},
         "deb.debian.org is a public mirror, which has no rings"),
        ({"repository": {"uri": "ftp://a.example", "key": KEY, "suites": ["x"]}}, "update_agent_repository.uri: expected http"),
        ({"repository": {"uri": "http://u:p@a.example", "key": KEY, "suites": ["x"]}}, "a password in an address"),
        ({"repository": {"uri": "http://a.example", "suites": ["x"]}}, "nothing unsigned is ever installed"),
        ({"repository": repository()}, "update_agent_repository.suites: expected at least one"),
        ({"repository": repository(suites="ring0")}, "expected a list, found str"),
        ({"repository": repository(suites=["a b"])}, "update_agent_repository.suites[0]: expected a name"),
        ({"repository": repository(suites=["x"]), "ring": "ring0"}, "leave one of them out"),
        ({"repository": repository(suits=["x"])}, "update_agent_repository.suits: there is no such key"),
        ({"pins": [{"package": "A", "version": "1"}]}, "update_agent_pins[0].package: expected the name"),
        ({"pins": [{"package": "panel"}]}, "update_agent_pins[0].version: expected, and missing"),
        ({"pins": [{"package": "panel", "version": "1;2"}]}, "update_agent_pins[0].version: expected a version"),
        ({"pins": [{"package": "panel", "version": "1", "x": 1}]}, "expected package and version, found"),
        ({"blocked": ["pa nel"]}, "update_agent_blocked[0]: expected the name of a package"),
        ({"rollback": ["Panel"]}, "update_agent_rollback[0]"),
        ({"origins": ['origin=A";']}, "update_agent_origins[0]: expected a pattern"),
        ({"proxy": "http://u:secret@p example"}, "update_agent_proxy: expected http://HOST:PORT"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_named(values: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingsError) as error:
        settings(**values)
    assert text in str(error.value) and "secret" not in str(error.value)


@pytest.mark.parametrize(
    "host", ["deb.debian.org", "ftp.de.debian.org", "archive.raspberrypi.com", "security.ubuntu.com"]
)
def test_mirrors_of_the_world_are_known_as_public(host: str) -> None:
    assert is_public(host) and not is_public(f"{host}.example")
