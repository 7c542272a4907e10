# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""AWS IoT Greengrass nucleus: from the operator's repository, with manual provisioning. ``agent.sh`` runs its own installer."""

from __future__ import annotations

import json
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

CONFIG = "/etc/greengrass/config.yaml"
UNIT = "/etc/systemd/system/greengrass.service"
NUCLEUS = "greengrass-nucleus"
KEYS = (
    "region", "thing_name", "role_alias", "data_endpoint", "credentials_endpoint", "certificate", "private_key", "root_ca",
    "root", "user", "group", "packages", "configuration", "sandbox",
)  # fmt: skip
_VARIABLE = "greengrass"


class AwsGreengrass(Runtime):
    """One package with the vendor's unpacked archive, a configuration, a unit of ours with a sandbox."""

    name = "aws-greengrass"
    folder = Path(__file__).parent
    units = ("greengrass.service",)
    guard = CONFIG

    def runtime(self, settings: Settings, found: Found) -> tuple[tuple[str, ...], Part]:
        options = Options(settings, _VARIABLE, KEYS)
        root = options.path("root", "/greengrass/v2")
        certificate, key = options.pair("certificate", "private_key")
        authority = options.authority("root_ca")
        files: list[dict[str, Any]] = []
        elsewhere = []
        places = {}
        for name, value, secret in (
            ("device.pem.crt", certificate, False),
            ("private.pem.key", key, True),
            ("AmazonRootCA1.pem", authority, False),
        ):
            places[name] = value if value.startswith("/") else f"{root}/{name}"
            if value.startswith("/"):
                elsewhere.append(value)
            else:
                files.append(delivered(places[name], value, secret=secret))
        nucleus = {
            "awsRegion": options.host("region"),
            "iotRoleAlias": options.text("role_alias"),
            "iotDataEndpoint": options.host("data_endpoint"),
            "iotCredEndpoint": options.host("credentials_endpoint"),
        }
        for name, value in options.mapping("configuration").items():
            if name in nucleus:
                raise SettingsError(
                    f"{options.variable}.configuration.{name}: it has a key of its own in {options.variable}"
                )
            nucleus[str(name)] = value
        config = {
            "system": {
                "certificateFilePath": places["device.pem.crt"],
                "privateKeyPath": places["private.pem.key"],
                "rootCaPath": places["AmazonRootCA1.pem"],
                "rootpath": root,
                "thingName": options.text("thing_name"),
            },
            "services": {
                "aws.greengrass.Nucleus": {
                    "componentType": "NUCLEUS",
                    "version": "@VERSION@",  # known once the package is installed
                    "configuration": nucleus,
                }
            },
        }
        # JSON is YAML too, and has one way to be written.
        secret = bool(options.values.get("configuration"))  # a proxy's password may stand in it
        files.append(
            {"dest": CONFIG, "content": json.dumps(config, indent=2) + "\n", "mode": "0600", "secret": secret}
        )
        files.append({"dest": UNIT, "content": _unit(root, options.lines("sandbox")), "mode": "0644"})
        link = f"/etc/systemd/system/multi-user.target.wants/{self.units[0]}"
        files.append({"dest": link, "link": UNIT})
        names = (NUCLEUS, *options.packages("packages", ("default-jre-headless", "sudo")))
        users = {
            key: options.name(key, default) for key, default in (("user", "ggc_user"), ("group", "ggc_group"))
        }
        return names, Part(
            files=tuple(files),
            shell={"GG_ROOT": root, "GG_USER": users["user"], "GG_GROUP": users["group"]},
            check=present(elsewhere, options.variable),
        )


def _unit(root: str, more: tuple[str, ...]) -> str:
    """What the nucleus' own installer would write, and what the nucleus needs no more than.

    It starts components as other users through sudo, so new privileges and the capabilities for that have to stay; and
    Java compiles into memory.
    """
    sandbox = [
        *SANDBOX,
        f"ReadWritePaths={root} /tmp /var/tmp",
        "CapabilityBoundingSet=CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_KILL CAP_SETGID CAP_SETUID CAP_SYS_RESOURCE "
        "CAP_AUDIT_WRITE CAP_NET_BIND_SERVICE",
        "UMask=0027",
        *more,
    ]
    return (
        f"{MANAGED}[Unit]\nDescription=Greengrass Core\nAfter=network-online.target\nWants=network-online.target\n\n"
        f"[Service]\nType=simple\nPIDFile={root}/alts/loader.pid\n"
        f"ExecStart=/bin/sh {root}/alts/current/distro/bin/loader\nRestart=on-failure\nRestartSec=10\nKillMode=mixed\n\n"
        + "".join(f"{line}\n" for line in sandbox)
        + "\n[Install]\nWantedBy=multi-user.target\n"
    )
