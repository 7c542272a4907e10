# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""SWUpdate: a device that is updated as a whole, into the slot that does not run, from a hawkBit server. Decisions only;
``agent.sh`` beside this does the work.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents import images
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents.base import (
    AGENT,
    FOLDER,
    SETTINGS,
    Found,
    Part,
    Unsupported,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents.runtime import (
    MANAGED,
    Options,
    delivered,
    present,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents.unattended_upgrades import (
    INSTALL_SECONDS,
    install,
    uninstall,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.settings import Settings, SettingsError

CONFIG = "/etc/swupdate.cfg"
ASK = "/etc/swupdate/sallyport.curl"
SIGNERS = "/etc/swupdate/sallyport-signers.pem"
AUTHORITY = "/etc/swupdate/sallyport-ca.pem"
REVISION = "/etc/hwrevision"
VERSIONS = "/etc/sw-versions"
KEYS = (
    "url", "tenant", "target_id", "token", "ca", "signers", "signer_name", "hardware", "revision", "name", "selection",
    "slots", "slot_variable", "running", "streamed", "temporary", "carry", "carry_own", "packages",
)  # fmt: skip
_VARIABLE = "swupdate"
_BROUGHT = "brought-swupdate"
_PACKAGES = ("swupdate", "libubootenv-tool", "curl", "jq")
# What Debian's package would start beside it: a socket for everybody of its group, and a restart after every image.
_MASKED = ("swupdate.service", "swupdate.socket", "swupdate-progress.service", "swupdate-usb@.service")
_OWN = (CONFIG, ASK, SIGNERS, AUTHORITY, REVISION, *(f"/etc/systemd/system/{unit}" for unit in _MASKED))

_QUESTION = r"""
say answer asked yes
for name in swupdate fw_printenv curl jq; do
  command -v "$name" >/dev/null || say "answer lacks-$name yes"
done
if [ -s /etc/hwrevision ]; then say answer revision yes; fi
"""


class Swupdate(images.ImageAgent):
    """A/B images, signed, polled for and tried, with a way back that the bootloader has too."""

    name = "swupdate"
    folder = Path(__file__).parent
    # Not SWUpdate's own configuration nor the board's revision: where another agent is in charge they are somebody else's.
    own = (ASK, SIGNERS, AUTHORITY, images.CARRIED)

    def question(self) -> str:
        return _QUESTION

    def plan(self, settings: Settings, device: Mapping[str, Any], found: Found) -> Part:
        images.refuse_what_is_for_packages(
            settings,
            "rollouts and their groups are the hawkBit server's",
            f"images come from the server of update_agent_{_VARIABLE}.url",
        )
        options = Options(settings, _VARIABLE, KEYS)
        hawkbit = {
            "tenant": images.word(options, "tenant", "DEFAULT"),
            "id": images.word(options, "target_id"),
            "url": images.server(options, "the hawkBit server, since the device shows it its token"),
            "targettoken": images.word(options, "token", secret=True),
        }
        files: list[dict[str, Any]] = []
        elsewhere = []
        trusted = {}
        for key, path, required in (("signers", SIGNERS, True), ("ca", AUTHORITY, False)):
            value = options.authority(key, required)
            trusted[key] = value if value.startswith("/") else path if value else ""
            if value.startswith("/"):
                elsewhere.append(value)
            if value and not value.startswith("/"):
                files.append(delivered(path, value))
            else:
                files.append({"dest": path, "state": "absent"})
        hardware = options.text("hardware", ""), options.text("revision", "")
        if any(hardware):
            files.append(
                {
                    "dest": REVISION,
                    "content": f"{images.word(options, 'hardware')} {images.word(options, 'revision')}\n",
                    "mode": "0644",
                }
            )
        elif found.answers.get("asked") and found.answers.get("revision") != "yes":
            raise Unsupported(
                f"{REVISION} says which hardware this is, and it is not there: name it in {options.variable}.hardware and "
                ".revision, or put it into the image. Without it no image would be taken"
            )
        slots = images.slots(options)
        selection, software = images.word(options, "selection", "stable"), images.word(options, "name")
        signer = options.text("signer_name", "")
        if '"' in signer or "\\" in signer:
            raise SettingsError(
                f"{options.variable}.signer_name: expected a name without quotes, found {signer!r}"
            )
        files += [
            {
                "dest": CONFIG,
                "content": _config(settings, hawkbit, trusted, signer),
                "mode": "0600",
                "secret": True,
            },
            {"dest": ASK, "content": _ask(settings, hawkbit, trusted["ca"]), "mode": "0600", "secret": True},
            {"dest": images.CARRIED, "content": images.carried(options, _OWN), "mode": "0644"},
            *({"dest": f"/etc/systemd/system/{unit}", "link": "/dev/null"} for unit in _MASKED),
        ]
        absent = [
            name for name in ("swupdate", "fw_printenv", "curl", "jq") if f"lacks-{name}" in found.answers
        ]
        packages = options.packages("packages", _PACKAGES)
        notes = []
        if absent and settings.mode == "manual":
            absent = []
        images.refuse_what_cannot_be_installed(absent, settings, device)
        if absent:
            notes.append(f"{', '.join(absent)} is installed from the device's sources")
        if settings.reboot == "never" and settings.mode == "automatic":
            notes.append("an image counts once somebody restarts the device: update_agent_reboot is never")
        proof = settings.mode != "manual" or (
            found.answers.get("asked") and "lacks-swupdate" not in found.answers
        )
        return Part(
            files=tuple(files),
            shell={
                "SOFTWARE": software,
                "SELECTION": selection,
                "CONTROLLER": f"{hawkbit['url']}/{hawkbit['tenant']}/controller/v1/{hawkbit['id']}",
                "SLOT_VARIABLE": images.word(options, "slot_variable", "slot"),
                **images.slot_words(slots, options),
                "TEMPORARY": "" if options.flag("streamed", False) else options.path("temporary", "/var/tmp"),
                # There is one thing to go back with, and it always goes back.
                "ROLLBACK": software,
            },
            check=present(elsewhere, options.variable),
            activate=(
                *((install(packages, _BROUGHT),) if absent else ()),
                f"systemctl -q stop {' '.join(_MASKED[:3])} 2>/dev/null || :",
            ),
            verify=(f"here={FOLDER}; . {SETTINGS}; . {AGENT}; agent_proves",) if proof else (),
            revert=(uninstall(ASK, _BROUGHT), "rmdir /etc/swupdate 2>/dev/null || :"),
            notes=tuple(notes),
            slow=INSTALL_SECONDS if absent else 60,
        )


def _config(settings: Settings, hawkbit: Mapping[str, str], trusted: Mapping[str, str], signer: str) -> str:
    """SWUpdate's own configuration: whoever starts it by hand gets the same verification."""
    suricatta = {**hawkbit, "retrywait": "10"}
    if trusted["ca"]:
        suricatta["cafile"] = trusted["ca"]
    if settings.proxy:
        suricatta["proxy"] = settings.proxy
    if settings.bandwidth_kb:
        suricatta["max-download-speed"] = str(settings.bandwidth_kb * 1024)
    lines = [f'    public-key-file = "{trusted["signers"]}";', '    bootloader = "uboot";']
    if signer:
        lines.append(f'    forced-signer-name = "{signer}";')
    text = MANAGED + "globals: {\n" + "\n".join(lines) + "\n};\nsuricatta: {\n"
    text += "".join(f'    {name} = "{value}";\n' for name, value in suricatta.items())
    return text + "    retry = 5;\n};\n"


def _ask(settings: Settings, hawkbit: Mapping[str, str], authority: str) -> str:
    """curl's, for the question whether there is anything; the token is on no command line."""
    lines = [
        f'header = "Authorization: TargetToken {hawkbit["targettoken"]}"',
        'header = "Accept: application/hal+json"',
        "proto = https",
        "connect-timeout = 20",
        "max-time = 60",
        "max-filesize = 1048576",
    ]
    if authority:
        lines.append(f'cacert = "{authority}"')
    if settings.proxy:
        lines.append(f'proxy = "{settings.proxy}"')
    return MANAGED + "".join(f"{line}\n" for line in lines)
