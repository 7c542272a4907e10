# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What the operator wants of updates: the role's variables, checked and typed. The same for every agent."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timezone
from typing import Any
from urllib.parse import urlsplit

MODES = ("automatic", "notify", "postponed", "manual")
REBOOTS = ("never", "window", "staggered")
DAY = 24 * 60
OPTIONS = ("greengrass", "iot_edge", "mender", "pull", "swupdate")

# Whoever updates from these shares them with the world: nobody can hold a version back there for a part of a fleet.
_PUBLIC = re.compile(
    r"(^|\.)(debian\.org|debian\.net|ubuntu\.com|raspberrypi\.(org|com)|raspbian\.org|armbian\.com|kernel\.org)$"
)
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_VERSION = re.compile(r"[A-Za-z0-9.+:~*-]+")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")
_KEY = "-----BEGIN PGP PUBLIC KEY BLOCK-----"


class SettingsError(ValueError):
    """A variable cannot be: the message names it, what was expected, what was found and what to do."""


@dataclass(frozen=True)
class Window:
    """A time of the day, local to the device, in minutes since midnight; it may pass midnight."""

    begin: int = 0
    length: int = DAY

    @property
    def end(self) -> int:
        return (self.begin + self.length) % DAY

    @property
    def text(self) -> str:
        return "any time" if self.length == DAY else f"{clock(self.begin)}-{clock(self.end)}"


@dataclass(frozen=True)
class Repository:
    """The operator's own mirror, with the one key that may sign it."""

    uri: str
    key: str
    suites: tuple[str, ...]
    components: tuple[str, ...] = ("main",)
    exclusive: bool = False

    @property
    def host(self) -> str:
        return urlsplit(self.uri).hostname or ""


@dataclass(frozen=True)
class Pin:
    package: str
    version: str


@dataclass(frozen=True)
class Settings:
    """Everything that an agent is told. Times are seconds, ``until`` is an epoch; ``options`` are what one agent alone wants
    to know, by its variable, and are read by that agent.
    """

    mode: str = "automatic"
    until: int = 0
    reason: str = ""
    window: Window = field(default_factory=Window)
    jitter: int = 0
    every: int = 21600
    bandwidth_kb: int = 0
    repository: Repository | None = None
    ring: str = ""
    delay_days: int = 0
    origins: tuple[str, ...] = ()
    pins: tuple[Pin, ...] = ()
    blocked: tuple[str, ...] = ()
    rollback: tuple[str, ...] = ()
    health: tuple[str, ...] = ()
    health_seconds: int = 60
    reboot: str = "never"
    reboot_window: Window = field(default_factory=Window)
    reboot_offset: int = 0
    proxy: str = ""
    reserve_mb: int = 64
    install: bool = True
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    host: str = ""
    state_dir: str = ""


def clock(minutes: int) -> str:
    """
    >>> clock(125)
    '02:05'
    """
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def read(values: Mapping[str, Any], host: str) -> Settings:
    """The action's arguments as settings.

    Args:
        values: validated by type already.
        host: the inventory's name, from which a staggered reboot gets its slot.

    Raises:
        SettingsError: naming the variable.
    """
    mode = str(values["mode"])
    window = _window(values["window"], "window")
    reboot_window = _window(values["reboot_window"], "reboot_window") if values["reboot_window"] else window
    until = _until(values["until"]) if mode == "postponed" else 0
    reason = str(values["reason"] or "").strip()
    if mode == "manual" and not reason:
        raise SettingsError(
            "update_agent_reason: a device that is taken out of automatic updates needs a reason, which its evidence shows. "
            "Say why, or choose another update_agent_mode"
        )
    if "\n" in reason:
        raise SettingsError("update_agent_reason: expected one line of text, found several")
    numbers = {
        name: _number(values[name], name, low)
        for name, low in (
            ("jitter", 0), ("every", 10), ("bandwidth_kb", 0), ("delay_days", 0), ("health_seconds", 1), ("reserve_mb", 1),
        )
    }  # fmt: skip
    if window.length < DAY and numbers["jitter"] >= window.length * 60:
        raise SettingsError(
            f"update_agent_jitter: {numbers['jitter']} s do not fit into update_agent_window {window.text}: a device that waits "
            f"so long finds it closed. Expected less than {window.length * 60}"
        )
    ring = str(values["ring"] or "")
    repository = _repository(values["repository"] or {}, ring)
    if repository is None and ring:
        raise SettingsError(
            f"update_agent_ring: {ring!r} is a suite of a repository of your own, and update_agent_repository names none. Devices "
            "update by their own timers, so with public mirrors only a delay is possible: set update_agent_delay_days, or "
            "make a repository (playbooks/repository.yml)"
        )
    return Settings(
        mode=mode,
        until=until,
        reason=reason,
        window=window,
        repository=repository,
        ring=ring,
        origins=tuple(_line(text, f"origins[{i}]") for i, text in enumerate(values["origins"])),
        pins=tuple(_pin(one, i) for i, one in enumerate(values["pins"])),
        blocked=tuple(_package(one, f"blocked[{i}]") for i, one in enumerate(values["blocked"])),
        rollback=tuple(_package(one, f"rollback[{i}]") for i, one in enumerate(values["rollback"])),
        health=tuple(str(one) for one in values["health"]),
        reboot=str(values["reboot"]),
        reboot_window=reboot_window,
        reboot_offset=_offset(str(values["reboot"]), reboot_window, host),
        proxy=_proxy(str(values["proxy"] or "")),
        install=bool(values["install"]),
        options={name: values.get(name) or {} for name in OPTIONS},
        host=host,
        state_dir=str(values["state_dir"]),
        **numbers,
    )


def is_public(host: str) -> bool:
    """
    >>> is_public("deb.debian.org"), is_public("packages.example.com")
    (True, False)
    """
    return bool(_PUBLIC.search(host.lower()))


def _offset(reboot: str, window: Window, host: str) -> int:
    """Minutes after the window's begin: the same for a host in every run, different between hosts."""
    if reboot != "staggered":
        return 0
    digest = int.from_bytes(hashlib.sha256(host.encode()).digest()[:8], "big")
    return digest % window.length


def _window(text: Any, name: str) -> Window:
    if str(text) in ("", "any"):
        return Window()
    match = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)", str(text))
    if not match:
        raise SettingsError(
            f'update_agent_{name}: expected "HH:MM-HH:MM" in the device\'s local time, or any, found {text!r}'
        )
    numbers = [int(part) for part in match.groups()]
    begin, end = numbers[0] * 60 + numbers[1], numbers[2] * 60 + numbers[3]
    if begin == end:
        raise SettingsError(f"update_agent_{name}: {text!r} has no length; for the whole day write any")
    return Window(begin, (end - begin) % DAY)


def _until(value: Any) -> int:
    if isinstance(value, date) and not isinstance(value, datetime):
        value = value.isoformat()
    try:
        day = date.fromisoformat(str(value))
    except ValueError:
        raise SettingsError(
            "update_agent_until: update_agent_mode is postponed, so a day is expected on which updates begin again, as "
            f"2030-01-31, found {str(value or '')!r}"
        ) from None
    return int(datetime(day.year, day.month, day.day, tzinfo=timezone.utc).timestamp())


def _number(value: Any, name: str, low: int) -> int:
    if int(value) < low:
        raise SettingsError(f"update_agent_{name}: expected {low} or more, found {value}")
    return int(value)


def _repository(value: Mapping[str, Any], ring: str) -> Repository | None:
    if not value:
        return None
    where = "update_agent_repository"
    known = ("uri", "key", "suites", "components", "exclusive")
    for key in value:
        if key not in known:
            raise SettingsError(f"{where}.{key}: there is no such key; expected {', '.join(known)}")
    uri = str(value.get("uri") or "").rstrip("/")
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"\s", uri):
        raise SettingsError(f"{where}.uri: expected http:// or https:// with a host, found {uri!r}")
    if parts.password is not None:
        raise SettingsError(
            f"{where}.uri: a password in an address is readable by everybody on the device; leave it out"
        )
    if ring and is_public(parts.hostname):
        raise SettingsError(
            f"update_agent_ring: {parts.hostname} is a public mirror, which has no rings. With it only a delay is possible: set "
            "update_agent_delay_days, or make a repository of your own (playbooks/repository.yml)"
        )
    key = str(value.get("key") or "").strip()
    if not key.startswith(_KEY):
        raise SettingsError(
            f"{where}.key: expected the armoured public key that signs the repository ({_KEY} ...), since nothing unsigned is "
            f"ever installed; found {key[:40]!r}"
        )
    if ring:
        if value.get("suites"):
            raise SettingsError(
                f"{where}.suites: update_agent_ring names the suite already; leave one of them out"
            )
        # What ring0 had before stands in ring0-previous: where a device goes back to.
        suites: tuple[str, ...] = (_word(ring, "update_agent_ring"), f"{ring}-previous")
    else:
        suites = tuple(_word(one, f"{where}.suites[{i}]") for i, one in enumerate(_list(value, "suites")))
    if not suites:
        raise SettingsError(f"{where}.suites: expected at least one suite, or update_agent_ring")
    components = tuple(
        _word(one, f"{where}.components[{i}]") for i, one in enumerate(_list(value, "components"))
    )
    return Repository(uri, key + "\n", suites, components or ("main",), bool(value.get("exclusive", False)))


def _list(value: Mapping[str, Any], key: str) -> Sequence[Any]:
    found = value.get(key) or ()
    if isinstance(found, str) or not isinstance(found, Sequence):
        raise SettingsError(f"update_agent_repository.{key}: expected a list, found {type(found).__name__}")
    return found


def _word(value: Any, where: str) -> str:
    if not _WORD.fullmatch(str(value)):
        raise SettingsError(f"{where}: expected a name of letters, digits and ._/-, found {value!r}")
    return str(value)


def _pin(value: Mapping[str, Any], index: int) -> Pin:
    where = f"pins[{index}]"
    for key in ("package", "version"):
        if not value.get(key):
            raise SettingsError(
                f"update_agent_{where}.{key}: expected, and missing; a pin is a package and the version it stays at"
            )
    if len(value) > 2:
        raise SettingsError(
            f"update_agent_{where}: expected package and version, found {', '.join(sorted(value))}"
        )
    version = str(value["version"])
    if not _VERSION.fullmatch(version):
        raise SettingsError(
            f"update_agent_{where}.version: expected a version, or one with a *, found {version!r}"
        )
    return Pin(_package(value["package"], f"{where}.package"), version)


def _package(value: Any, where: str) -> str:
    if not _PACKAGE.fullmatch(str(value)):
        raise SettingsError(f"update_agent_{where}: expected the name of a package, found {value!r}")
    return str(value)


def _line(value: Any, where: str) -> str:
    text = str(value)
    if re.search(r'[\n"\\;]', text) or "=" not in text:
        raise SettingsError(
            f"update_agent_{where}: expected a pattern as origin=Debian,label=Debian-Security, found {text!r}"
        )
    return text


def _proxy(text: str) -> str:
    if text and (not re.fullmatch(r"https?://[^\s\"\\;{}]+", text)):
        raise SettingsError(
            f"update_agent_proxy: expected http://HOST:PORT, found {text.rpartition('@')[2]!r}"
        )
    return text
