# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Mender's client: signed artefacts, from a Mender server or from a place of the operator's. Decisions only; ``agent.sh`` beside
this does the work.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents import images
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents.base import (
    AGENT,
    FOLDER,
    SETTINGS,
    STATE,
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
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

CONFIG = "/etc/mender/mender.conf"
INFO = "/etc/mender/artifact_info"
ASK = "/etc/mender/sallyport.curl"
AUTHORITY = "/etc/mender/sallyport-ca.pem"
TYPE = "/etc/mender/sallyport-device-type"
SIGNERS = tuple(f"/etc/mender/sallyport-signer-{number}.pem" for number in range(1, 5))
KEYS = (
    "url", "tenant_token", "identity", "artifact", "ca", "signers", "device_type", "name", "version", "restart", "slots", "running",
    "carry", "carry_own", "downloads", "packages",
)  # fmt: skip
_VARIABLE = "mender"
_BROUGHT = "brought-mender"
_DATA = "/var/lib/mender"
# Mender's own services install what they are offered, whenever that is.
_MASKED = ("mender-client.service", "mender.service")
# Not all of /etc/mender: what the new slot is, and its own scripts, stand there too.
_OWN = (CONFIG, ASK, AUTHORITY, TYPE, *SIGNERS, *(f"/etc/systemd/system/{unit}" for unit in _MASKED))
_KEY = re.compile(r"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", re.DOTALL)
_TOKEN = re.compile(r"[A-Za-z0-9._-]+")
# Everybody may write there, and put something in the place of what is fetched.
_OPEN = ("/tmp", "/var/tmp", "/dev/shm")

_QUESTION = r"""
say answer asked yes
for name in mender curl jq openssl; do
  command -v "$name" >/dev/null || say "answer lacks-$name yes"
done
if command -v mender-update >/dev/null; then say answer fourth yes; fi
if [ -s /etc/mender/artifact_info ]; then say answer info yes; fi
if [ -s /var/lib/mender/device_type ]; then say answer type yes; fi
if [ -x /usr/share/mender/identity/mender-device-identity ]; then say answer identity yes; fi
"""


class Mender(images.ImageAgent):
    """Mender's client 3, led by this device's own timer instead of its service."""

    name = "mender"
    folder = Path(__file__).parent
    # Not the client's own configuration: where another agent is in charge it is somebody else's.
    own = (ASK, AUTHORITY, TYPE, *SIGNERS, images.CARRIED)

    def question(self) -> str:
        return _QUESTION

    def plan(self, settings: Settings, device: Mapping[str, Any], found: Found) -> Part:
        images.refuse_what_is_for_packages(
            settings,
            "deployments and their groups are the Mender server's",
            f"artefacts come from update_agent_{_VARIABLE}.url or .artifact",
        )
        options = Options(settings, _VARIABLE, KEYS)
        server, artifact = _origin(options)
        software, restarts = images.word(options, "name"), options.flag("restart", True)
        slots = images.slots(options) if options.mapping("slots") else [("", ""), ("", "")]
        tenant = options.text("tenant_token", "")
        if tenant and not _TOKEN.fullmatch(tenant):
            raise SettingsError(f"{options.variable}.tenant_token: expected a token, found one that is none")
        device_type, version = (
            images.word(options, "device_type", ""),
            images.word(options, "version", ""),
        )
        if version and restarts:
            raise SettingsError(
                f"{options.variable}.version: a device that starts with its software says itself which it is ({INFO} of the slot); "
                "expected only where restart is false"
            )
        identity = {str(key): str(value) for key, value in options.mapping("identity").items()}
        _refuse_what_the_device_lacks(options, found, device_type, version, server, identity)
        signers, keys = _signers(options)
        authority = options.authority("ca", False)
        trusted = authority if authority.startswith("/") else AUTHORITY if authority else ""
        config = {
            **({"ServerURL": server} if server else {}),
            **({"ServerCertificate": trusted} if trusted else {}),
            **({"TenantToken": tenant} if tenant else {}),
            # A client that knows one key only does not look at several, and then at none.
            **({"ArtifactVerifyKey": signers[0]} if len(signers) == 1 else {"ArtifactVerifyKeys": signers}),
            **({"DeviceTypeFile": TYPE} if device_type else {}),
            **(
                {"RootfsPartA": slots[0][1], "RootfsPartB": slots[1][1]}
                if slots[0][1].startswith("/dev/")
                else {}
            ),
        }
        files = [
            _if(bool(device_type), TYPE, f"device_type={device_type}\n"),
            *([_if(True, INFO, f"artifact_name={software}-{version}\n")] if version else []),
            *(
                delivered(path, key) if key else _if(False, path)
                for path, key in zip(SIGNERS, keys, strict=True)
            ),
            delivered(AUTHORITY, authority) if authority and trusted == AUTHORITY else _if(False, AUTHORITY),
            _secret(CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n"),
            _secret(ASK, _ask(settings, trusted)),
            _if(restarts and bool(slots[0][0]), images.CARRIED, images.carried(options, _OWN)),
            *({"dest": f"/etc/systemd/system/{unit}", "link": "/dev/null"} for unit in _MASKED),
        ]
        absent, notes = _absent(options, settings, device, found, bool(server))
        if restarts and settings.reboot == "never" and settings.mode == "automatic":
            notes.append("an artefact counts once somebody restarts the device: update_agent_reboot is never")
        proof = settings.mode != "manual" or (
            found.answers.get("asked") and "lacks-mender" not in found.answers
        )
        return Part(
            files=tuple(files),
            shell={
                "SOFTWARE": software,
                "SERVER": server,
                "ARTIFACT": artifact,
                "IDENTITY": json.dumps(identity, sort_keys=True) if identity else "",
                "TYPE_FILE": TYPE if device_type else f"{_DATA}/device_type",
                "RESTARTS": "yes" if restarts else "no",
                **images.slot_words(slots, options),
                "DOWNLOADS": _downloads(options),
                "LIMIT_KB": str(settings.bandwidth_kb or ""),
                # There is one thing to go back with, and it always goes back.
                "ROLLBACK": software,
            },
            check=present(
                [path for path in (trusted, *signers) if path not in (AUTHORITY, *SIGNERS, "")],
                options.variable,
            ),
            activate=(
                *((install(packages, _BROUGHT),) if (packages := absent) else ()),
                f"systemctl -q stop {' '.join(_MASKED)} 2>/dev/null || :",
                _PLACE,
            ),
            verify=(f"here={FOLDER}; . {SETTINGS}; . {AGENT}; agent_proves",) if proof else (),
            revert=(_FORGET, uninstall(ASK, _BROUGHT), "rmdir /etc/mender 2>/dev/null || :"),
            notes=tuple(notes),
            slow=INSTALL_SECONDS if absent else 60,
        )


# Debian's package has a link there, to a folder that nobody makes.
_PLACE = f'place=$(readlink {_DATA} || echo {_DATA}); [ -d "$place" ] || {{ mkdir -p "$place" && chmod 0700 "$place"; }}'
# A client that this role brought leaves no record and no key; one of the image's keeps them.
_FORGET = (
    f"if [ ! -e {ASK} ] && grep -qx mender-client {STATE}/{_BROUGHT} 2>/dev/null; then\n"
    f'  place=$(readlink {_DATA} || echo {_DATA})\n  rm -rf "$place"\nfi'
)


def _origin(options: Options) -> tuple[str, str]:
    """The server, or the place where an artefact lies."""
    artifact = options.text("artifact", "")
    if bool(artifact) == bool(options.text("url", "")):
        raise SettingsError(
            f"{options.variable}: expected either url, of a Mender server, or artifact, where an artefact lies; found "
            f"{'both' if artifact else 'none of them'}"
        )
    if not artifact:
        return images.server(options, "the Mender server, since the device shows it its token"), ""
    for key in ("tenant_token", "identity"):
        if options.values.get(key):
            raise SettingsError(
                f"{options.variable}.{key}: it is for a Mender server (url), and there is none"
            )
    if artifact.startswith("/"):
        return "", options.path("artifact", "")
    return "", images.server(options, "the artefact, or a path on the device", "artifact")


def _signers(options: Options) -> tuple[list[str], list[str]]:
    """Paths of the keys that may sign, and the keys to be delivered, one for each of ``SIGNERS``."""
    text = options.values.get("signers")
    where = f"{options.variable}.signers"
    value = str(text or "").strip()
    if re.fullmatch(r"/[A-Za-z0-9._/-]+", value):
        return [value], [""] * len(SIGNERS)
    keys = _KEY.findall(value)
    if not keys or _KEY.sub("", value).strip():
        raise SettingsError(
            f"{where}: expected public keys in PEM (-----BEGIN PUBLIC KEY-----), or the path of one on the device, since nothing "
            f"unsigned is ever installed; found {value[:30]!r}"
        )
    if len(keys) > len(SIGNERS):
        raise SettingsError(f"{where}: expected {len(SIGNERS)} keys at most, found {len(keys)}")
    for number, key in enumerate(keys, 1):
        if not _known_to_mender(key):
            raise SettingsError(
                f"{where}: expected keys of RSA with 2048 bits or more, or of the curve P-256, as Mender knows them; key {number} is none"
            )
    return list(SIGNERS[: len(keys)]), [*keys, *[""] * (len(SIGNERS) - len(keys))]


def _known_to_mender(key: str) -> bool:
    try:
        loaded = load_pem_public_key(key.encode())
    except ValueError:
        return False
    if isinstance(loaded, rsa.RSAPublicKey):
        return loaded.key_size >= 2048
    return isinstance(loaded, ec.EllipticCurvePublicKey) and loaded.curve.name == "secp256r1"


def _refuse_what_the_device_lacks(
    options: Options, found: Found, device_type: str, version: str, server: str, identity: Mapping[str, str]
) -> None:
    if not found.answers.get("asked"):
        return
    for given, answer, key, what in (
        (device_type, "type", "device_type", f"{_DATA}/device_type says which hardware this is"),
        (version, "info", "version", f"{INFO} says which artefact runs"),
        (identity or not server, "identity", "identity", "mender-device-identity says who this device is to the server"),
    ):  # fmt: skip
        if not given and found.answers.get(answer) != "yes":
            only = " (where restart is false)" if key == "version" else ""
            raise Unsupported(
                f"{what}, and it is not there: give {options.variable}.{key}{only}, or put it into the image"
            )


def _absent(
    options: Options, settings: Settings, device: Mapping[str, Any], found: Found, server: bool
) -> tuple[tuple[str, ...], list[str]]:
    """Packages to install, and what to say of it."""
    wanted = ("mender", "curl", "jq", *(("openssl",) if server else ()))
    absent = [name for name in wanted if f"lacks-{name}" in found.answers]
    if not absent or settings.mode == "manual":
        return (), []
    given = "packages" in options.values
    system = device.get("os", {})
    if "mender" in absent and found.answers.get("fourth") == "yes":
        raise Unsupported(
            "Mender's client 4 (mender-update) is on the device, and this role leads client 3 only. Put that into the image"
        )
    images.refuse_what_cannot_be_installed(absent, settings, device)
    if "mender" in absent and not given and _without_mender(system):
        raise Unsupported(
            f"Debian {system.get('version_id')} has no package mender-client (12 was the last). Put client 3 into the image, or name "
            f"packages of your own source in {options.variable}.packages"
        )
    packages = options.packages(
        "packages", ("mender-client", "curl", "jq", *(("openssl",) if server else ()))
    )
    return packages, [f"{', '.join(absent)} is installed from the device's sources"]


def _without_mender(system: Mapping[str, Any]) -> bool:
    version = str(system.get("version_id") or "").partition(".")[0]
    return system.get("id") == "debian" and version.isdigit() and int(version) > 12


def _downloads(options: Options) -> str:
    folder = options.path("downloads", STATE)
    if any(folder == one or folder.startswith(f"{one}/") for one in _OPEN):
        raise SettingsError(
            f"{options.variable}.downloads: expected a folder of root's, found {folder!r}, where everybody may write"
        )
    return folder


def _ask(settings: Settings, authority: str) -> str:
    """curl's, for every question and every download."""
    lines = ["proto = https", "proto-redir = https", "connect-timeout = 20"]
    if authority:
        lines.append(f'cacert = "{authority}"')
    if settings.proxy:
        lines.append(f'proxy = "{settings.proxy}"')
    return MANAGED + "".join(f"{line}\n" for line in lines)


def _secret(path: str, content: str) -> dict[str, Any]:
    return {"dest": path, "content": content, "mode": "0600", "secret": True}


def _if(wanted: bool, path: str, content: str = "") -> dict[str, Any]:
    return {"dest": path, "content": content, "mode": "0644"} if wanted else {"dest": path, "state": "absent"}
