# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What agents have in common that bring a device its software as a whole, into the slot that does not run: how slots and words
are read, what goes along into a new slot, and what makes no sense there. ``slots.sh`` beside this is its half on the device.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents.base import (
    FOLDER,
    Agent,
    Unsupported,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents.runtime import Options
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.settings import Settings, SettingsError

CARRIED = f"{FOLDER}/carried"
HOUSE = (
    FOLDER, "/etc/systemd/system/sallyport-update.service", "/etc/systemd/system/sallyport-update.timer",
    "/etc/systemd/system/sallyport-reboot.service", "/etc/systemd/system/sallyport-reboot.timer",
    "/etc/systemd/system/timers.target.wants/sallyport-update.timer",
    "/etc/systemd/system/timers.target.wants/sallyport-reboot.timer",
)  # fmt: skip
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*")
LONGEST = 127  # SWUpdate cuts what is longer, and says nothing


class ImageAgent(Agent):
    """One whose half on the device stands behind what it needs of slots."""

    def program(self) -> str:
        files = (Path(__file__).parent / "slots.sh", self.folder / "agent.sh")
        return "\n".join(file.read_text(encoding="utf-8") for file in files)

    def unsuited(self, device: Mapping[str, Any]) -> str:
        if device.get("init") != "systemd":
            return f"its timer needs systemd, and the device's init is {device.get('init')}"
        return ""


def word(options: Options, key: str, default: str | None = None, *, secret: bool = False) -> str:
    value = options.text(key, default)
    if value == default == "":
        return ""
    if not _WORD.fullmatch(value) or len(value) > LONGEST:
        shown = "one that is none" if secret else repr(value)
        raise SettingsError(
            f"{options.variable}.{key}: expected a word of letters, digits and ._:-, of {LONGEST} characters at most, found {shown}"
        )
    return value


def server(options: Options, what: str, key: str = "url") -> str:
    """An address of the operator's, without its last slash."""
    value = options.text(key).rstrip("/")
    parts = urlsplit(value)
    if (
        parts.scheme != "https"
        or not parts.hostname
        or re.search(r'[\s"\\?#@]', value)
        or len(value) > LONGEST
    ):
        raise SettingsError(
            f"{options.variable}.{key}: expected https://HOST[:PORT] of {what}; found {value.rpartition('@')[2]!r}"
        )
    return value


def slots(options: Options) -> list[tuple[str, str]]:
    """The two slots: name and place."""
    found = [(str(name), str(place)) for name, place in options.mapping("slots").items()]
    good = all(
        re.fullmatch(r"[A-Za-z0-9_]+", name) and re.fullmatch(r"/[A-Za-z0-9._/-]+", place)
        for name, place in found
    )
    if len(found) != 2 or not good:
        raise SettingsError(
            f"{options.variable}.slots: expected two names, each with the device or folder of its slot, as "
            f"{{a: /dev/mmcblk0p2, b: /dev/mmcblk0p3}}; found {dict(found)}"
        )
    return found


def slot_words(found: Sequence[tuple[str, str]], options: Options) -> dict[str, str]:
    """The same for ``slots.sh``."""
    words = {
        "RUNNING": options.text("running", ""),
        "CARRY_OWN": "yes" if options.flag("carry_own", True) else "no",
    }
    for number, (name, place) in enumerate(found, 1):
        words |= {f"SLOT_{number}": name, f"PLACE_{number}": place}
    return words


def refuse_what_cannot_be_installed(
    absent: Sequence[str], settings: Settings, device: Mapping[str, Any]
) -> None:
    if absent and (not settings.install or device.get("packages") != "apt"):
        raise Unsupported(
            f"{', '.join(absent)} is not on the device. Let the role install it (update_agent_install: true, with apt), or put it "
            "into the image"
        )


def carried(options: Options, own: tuple[str, ...]) -> str:
    """What the other slot gets from the running one before it is tried, path by path."""
    paths = (*((*HOUSE, *own) if options.flag("carry_own", True) else ()), *options.paths("carry"))
    return "".join(f"{path}\n" for path in paths)


def refuse_what_is_for_packages(settings: Settings, rings: str, source: str) -> None:
    """An image is whole: what is for packages cannot be kept, and is not passed over."""
    stays = "a device that stays at an image has update_agent_mode: manual, with a reason"
    for name, value, instead in (
        ("ring", settings.ring, rings),
        ("repository", settings.repository, source),
        ("origins", settings.origins, source),
        ("pins", settings.pins, stays),
        ("blocked", settings.blocked, stays),
        ("rollback", settings.rollback, "an image always goes back where it harms"),
    ):
        if value:
            raise SettingsError(
                f"update_agent_{name}: it is for packages, and this device is updated by images: {instead}"
            )
