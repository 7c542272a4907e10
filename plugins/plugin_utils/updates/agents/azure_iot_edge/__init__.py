# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Azure IoT Edge: from the operator's repository, provisioned with X.509 certificates. ``agent.sh`` applies its configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents.base import Found, Part
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents.runtime import (
    MANAGED,
    SANDBOX,
    Options,
    Runtime,
    delivered,
    present,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.settings import Settings, SettingsError

CONFIG = "/etc/aziot/config.toml"
KEYS = (
    "hostname", "id_scope", "registration_id", "global_endpoint", "iothub_hostname", "device_id", "certificate", "private_key",
    "edge_ca_certificate", "edge_ca_key", "trust_bundle", "configuration", "packages", "sandbox",
)  # fmt: skip
_VARIABLE = "iot_edge"
_GLOBAL = "global.azure-devices-provisioning.net"
_CERTS, _SECRETS = "/var/aziot/certs", "/var/aziot/secrets"
_KEYD = "aziotks"
# Its own services, and what each may write: the rest of the device is not theirs. tpmd and keyd may need a device file.
_SERVICES: Mapping[str, tuple[str, ...]] = {
    "aziot-edged": ("-/var/lib/aziot/edged", "-/var/log/aziot/edged", "-/var/lib/iotedge", "-/run/iotedge"),
    "aziot-identityd": ("-/var/lib/aziot/identityd",),
    "aziot-certd": ("-/var/lib/aziot/certd", f"-{_CERTS}"),
    "aziot-keyd": ("-/var/lib/aziot/keyd", f"-{_SECRETS}"),
    "aziot-tpmd": ("-/var/lib/aziot/tpmd",),
}
_WITH_DEVICES = ("aziot-keyd", "aziot-tpmd")


class AzureIotEdge(Runtime):
    """The vendor's packages, the one configuration file, certificates, and a sandbox around each of its services."""

    name = "azure-iot-edge"
    folder = Path(__file__).parent
    units = ("aziot-edged.service",)
    users = (_KEYD,)
    guard = CONFIG

    def runtime(self, settings: Settings, found: Found) -> tuple[tuple[str, ...], Part]:
        options = Options(settings, _VARIABLE, KEYS)
        # The user comes with the package: until then the key is root's, and is handed over once it is installed.
        keyd = _KEYD if _KEYD in found.answers.get("users", "").split() else "root"
        files: list[dict[str, Any]] = []
        elsewhere, keys, places = [], [], {}
        mine, its = options.pair("certificate", "private_key")
        ca, ca_key = options.pair("edge_ca_certificate", "edge_ca_key", required=False)
        bundle = options.authority("trust_bundle", required=False)
        for name, value, secret in (
            ("device-id.pem", mine, False),
            ("device-id.key.pem", its, True),
            ("edge-ca.pem", ca, False),
            ("edge-ca.key.pem", ca_key, True),
            ("trust-bundle.pem", bundle, False),
        ):
            if not value:
                continue
            if value.startswith("/"):
                places[name] = value
                elsewhere.append(value)
                continue
            places[name] = f"{_SECRETS if secret else _CERTS}/{name}"
            files.append(delivered(places[name], value, keyd if secret else "root", secret))
            if secret:
                keys.append(places[name])
        # The password of a registry may stand in what the operator adds.
        secret = bool(options.values.get("configuration"))
        files.append({"dest": CONFIG, "content": _toml(options, places), "mode": "0600", "secret": secret})
        for service, paths in _SERVICES.items():
            files.append(
                {
                    "dest": f"/etc/systemd/system/{service}.service.d/50-sallyport.conf",
                    "content": _sandbox(service, paths, options.lines("sandbox")),
                    "mode": "0644",
                }
            )
        names = options.packages("packages", ("aziot-identity-service", "aziot-edge"))
        return names, Part(
            files=tuple(files),
            shell={"EDGE_KEYS": " ".join(keys), "EDGE_FILES": " ".join(sorted(places.values()))},
            check=present(elsewhere, options.variable),
        )


def _toml(options: Options, places: Mapping[str, str]) -> str:
    """The file that ``iotedge config apply`` reads. Global keys have to stand first."""
    uris = {name: json.dumps(f"file://{path}") for name, path in places.items()}
    lines = [f"hostname = {json.dumps(options.host('hostname'))}"]
    if "trust-bundle.pem" in uris:
        lines.append(f"trust_bundle_cert = {uris['trust-bundle.pem']}")
    by_service, by_hub = (
        any(options.values.get(key) for key in keys)
        for keys in (("id_scope", "registration_id", "global_endpoint"), ("iothub_hostname", "device_id"))
    )
    if by_service == by_hub:
        raise SettingsError(
            f"{options.variable}: expected either id_scope and registration_id (the provisioning service) or iothub_hostname "
            f"and device_id (one hub), found {'both' if by_hub else 'neither'}"
        )
    if by_service:
        lines += [
            'auto_reprovisioning_mode = "OnErrorOnly"',
            "",
            "[provisioning]",
            'source = "dps"',
            f"global_endpoint = {json.dumps('https://' + options.host('global_endpoint', _GLOBAL))}",
            f"id_scope = {json.dumps(options.text('id_scope'))}",
            "",
            "[provisioning.attestation]",
            'method = "x509"',
            f"registration_id = {json.dumps(options.text('registration_id'))}",
        ]
    else:
        lines += [
            "",
            "[provisioning]",
            'source = "manual"',
            f"iothub_hostname = {json.dumps(options.host('iothub_hostname'))}",
            f"device_id = {json.dumps(options.text('device_id'))}",
            "",
            "[provisioning.authentication]",
            'method = "x509"',
        ]
    lines += [
        f"identity_cert = {uris['device-id.pem']}",
        f"identity_pk = {uris['device-id.key.pem']}",
    ]
    if "edge-ca.pem" in uris:
        lines += ["", "[edge_ca]", f"cert = {uris['edge-ca.pem']}", f"pk = {uris['edge-ca.key.pem']}"]
    more = str(options.values.get("configuration") or "").strip("\n")
    return MANAGED + "\n".join([*lines, *(["", more] if more else [])]) + "\n"


def _sandbox(service: str, paths: tuple[str, ...], more: tuple[str, ...]) -> str:
    """Beside what the package's unit says, under a user of its own already."""
    lines = [
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
        *SANDBOX,
        f"ReadWritePaths={' '.join(paths)}",
        *([] if service in _WITH_DEVICES else ["PrivateDevices=yes"]),
        "ProtectControlGroups=yes",
        *more,
    ]
    return f"{MANAGED}[Service]\n" + "".join(f"{line}\n" for line in lines)
