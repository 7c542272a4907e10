"""The runtimes of the cloud vendors: what a device gets of them, and what is refused before it is touched."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tomllib
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates import house
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents import AGENTS, choose
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents.aws_greengrass import (
    CONFIG as NUCLEUS,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents.aws_greengrass import UNIT
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents.azure_iot_edge import (
    CONFIG as EDGE,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents.base import (
    Found,
    NoAgent,
    Unsupported,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.settings import SettingsError

from tests.certificates import pair
from tests.unit.updates.test_agent_plan import BUSYBOX, DEBIAN, POLICY, answers, files, vars_of
from tests.unit.updates.test_update_settings import settings

CERTIFICATE, KEY = pair("gw1")
OTHER, OTHER_KEY = pair("gw2")
GREENGRASS: dict[str, Any] = {
    "region": "eu-central-1",
    "thing_name": "gw1",
    "role_alias": "exchange",
    "data_endpoint": "a1-ats.iot.eu-central-1.amazonaws.com",
    "credentials_endpoint": "c1.credentials.iot.eu-central-1.amazonaws.com",
    "certificate": CERTIFICATE,
    "private_key": KEY,
    "root_ca": OTHER,
}
IOT_EDGE: dict[str, Any] = {
    "hostname": "gw1.example.com",
    "id_scope": "0ne00AA",
    "registration_id": "gw1",
    "certificate": CERTIFICATE,
    "private_key": KEY,
}
AWS, AZURE = "aws-greengrass", "azure-iot-edge"
HAS = {"installed": "yes", "policy": POLICY}


def plan(name: str, found: Found | None = None, **values: Any) -> house.Wanted:
    wanted = settings(**values)
    return house.wanted(wanted, choose(name, DEBIAN, wanted), DEBIAN, found or Found(answers=HAS))


def aws(found: Found | None = None, **values: Any) -> house.Wanted:
    return plan(AWS, found, greengrass={**GREENGRASS, **values})


def azure(found: Found | None = None, **values: Any) -> house.Wanted:
    return plan(AZURE, found, iot_edge={**IOT_EDGE, **values})


def entry(wanted: house.Wanted, path: str) -> dict[str, Any]:
    (found,) = [one for one in wanted.files if one["dest"] == path]
    return dict(found)


def test_the_nucleus_is_told_who_it_is_and_where_its_certificates_are() -> None:
    wanted = aws(configuration={"mqtt": {"port": 443}})
    config = json.loads(files(wanted)[NUCLEUS])
    assert entry(wanted, NUCLEUS)["secret"] and not entry(aws(), NUCLEUS)["secret"]
    assert config["system"] == {
        "certificateFilePath": "/greengrass/v2/device.pem.crt",
        "privateKeyPath": "/greengrass/v2/private.pem.key",
        "rootCaPath": "/greengrass/v2/AmazonRootCA1.pem",
        "rootpath": "/greengrass/v2",
        "thingName": "gw1",
    }
    nucleus = config["services"]["aws.greengrass.Nucleus"]["configuration"]
    assert nucleus["iotDataEndpoint"] == GREENGRASS["data_endpoint"] and nucleus["mqtt"] == {"port": 443}
    key = entry(wanted, "/greengrass/v2/private.pem.key")
    assert key["secret"] and key["mode"] == "0400" and key["content"].startswith("-----BEGIN PRIVATE KEY")
    assert not entry(wanted, "/greengrass/v2/device.pem.crt")["secret"]
    made = files(wanted)[UNIT]
    assert "ProtectSystem=strict\n" in made and "ReadWritePaths=/greengrass/v2 /tmp /var/tmp\n" in made
    assert "ReadWritePaths=/data\n" in files(aws(sandbox=["ReadWritePaths=/data"]))[UNIT]


def test_it_goes_on_top_of_what_keeps_the_system_patched() -> None:
    wanted, plain = aws(), plan("auto")
    assert {one["dest"] for one in wanted.files} > {one["dest"] for one in plain.files}
    assert wanted.timers == plain.timers and wanted.units == ("greengrass.service",)
    made = files(wanted)
    assert "ROLLBACK='greengrass-nucleus default-jre-headless sudo'\n" in made[house.SETTINGS]
    assert (
        "AGENT=aws-greengrass\n" in made[house.SETTINGS]
        and "GG_ROOT=/greengrass/v2\n" in made[house.SETTINGS]
    )
    program = made[house.AGENT]
    assert program.index("after_packages() { :; }") < program.index("after_packages() { runtime_apply; }")
    install, apply = [
        one for one in wanted.commands["activate"] if "greengrass" in one or "runtime_apply" in one
    ]
    assert (
        "for name in greengrass-nucleus default-jre-headless sudo; do" in install and "runtime_apply" in apply
    )
    there = Found(answers={**HAS, "packages": "greengrass-nucleus\ndefault-jre-headless\nsudo\n"})
    assert not [one for one in aws(there).commands["activate"] if "for name in" in one]


def test_iot_edge_is_told_who_it_is_and_its_services_get_a_sandbox_each() -> None:
    wanted = azure(edge_ca_certificate=OTHER, edge_ca_key=OTHER_KEY, trust_bundle=OTHER)
    config = tomllib.loads(files(wanted)[EDGE])
    assert config == {
        "hostname": "gw1.example.com",
        "trust_bundle_cert": "file:///var/aziot/certs/trust-bundle.pem",
        "auto_reprovisioning_mode": "OnErrorOnly",
        "provisioning": {
            "source": "dps",
            "global_endpoint": "https://global.azure-devices-provisioning.net",
            "id_scope": "0ne00AA",
            "attestation": {
                "method": "x509",
                "registration_id": "gw1",
                "identity_cert": "file:///var/aziot/certs/device-id.pem",
                "identity_pk": "file:///var/aziot/secrets/device-id.key.pem",
            },
        },
        "edge_ca": {
            "cert": "file:///var/aziot/certs/edge-ca.pem",
            "pk": "file:///var/aziot/secrets/edge-ca.key.pem",
        },
    }
    drop = "/etc/systemd/system/aziot-{}.service.d/50-sallyport.conf"
    assert "PrivateDevices=yes\n" in files(wanted)[drop.format("edged")]
    assert "PrivateDevices" not in files(wanted)[drop.format("tpmd")]
    for service in ("edged", "identityd", "certd", "keyd", "tpmd"):
        assert (
            "NoNewPrivileges=yes\nCapabilityBoundingSet=\nProtectSystem=strict\n"
            in files(wanted)[drop.format(service)]
        )


def test_one_hub_instead_of_the_provisioning_service_and_more_configuration() -> None:
    text = files(
        azure(
            id_scope=None, registration_id=None, iothub_hostname="h.azure-devices.net", device_id="gw1",
            configuration='[moby_runtime]\nuri = "unix:///run/podman.sock"\n',
        )
    )[EDGE]  # fmt: skip
    config = tomllib.loads(text)
    assert config["provisioning"]["source"] == "manual" and config["provisioning"]["device_id"] == "gw1"
    assert config["provisioning"]["authentication"]["method"] == "x509"
    assert config["moby_runtime"] == {"uri": "unix:///run/podman.sock"}


def test_a_key_is_handed_to_the_key_service_once_that_is_there() -> None:
    path = "/var/aziot/secrets/device-id.key.pem"
    assert entry(azure(), path)["owner"] == "root"
    wanted = azure(Found(answers={**HAS, "users": "aziotks "}))
    assert entry(wanted, path)["owner"] == "aziotks" and entry(wanted, path)["secret"]
    assert f"EDGE_KEYS={path}\n" in files(wanted)[house.SETTINGS]


@pytest.mark.parametrize("name", [AWS, AZURE])
def test_what_something_else_put_on_the_device_is_used_and_has_to_be_there(name: str) -> None:
    elsewhere = {"certificate": "/etc/pki/gw.pem", "private_key": "/etc/pki/gw.key"}
    wanted = aws(**elsewhere) if name == AWS else azure(**elsewhere)
    text = files(wanted)[NUCLEUS if name == AWS else EDGE]
    assert "/etc/pki/gw.pem" in text and "/etc/pki/gw.key" in text
    assert not [one for one in wanted.files if one.get("secret")]
    assert [one for one in wanted.commands["check"] if "/etc/pki/gw.key is not on the device" in one]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"thing_name": None}, r"update_agent_greengrass\.thing_name: expected, and missing"),
        ({"regoin": "x"}, r"greengrass\.regoin: there is no such key"),
        ({"data_endpoint": "a b"}, r"data_endpoint: expected a host name"),
        ({"thing_name": "a\nb"}, r"thing_name: expected one line"),
        ({"root": "/"}, r"root: expected an absolute path below a folder"),
        ({"root": "/greengrass/../../etc"}, r"root: expected an absolute path"),
        ({"private_key": OTHER_KEY}, r"private_key is not the key of certificate"),
        ({"private_key": "secret words"}, r"private_key: expected a private key in PEM"),
        ({"private_key": "/etc/key"}, r"either both PEM text or both paths"),
        ({"certificate": "no"}, r"certificate: expected a certificate in PEM"),
        ({"root_ca": None}, r"root_ca: expected a certificate in PEM"),
        ({"user": "x; reboot"}, r"user: expected the name of a user"),
        ({"packages": ["a b"]}, r"packages\[0\]: expected the name of a package"),
        ({"sandbox": ["A=b\nExecStart=/x"]}, r"sandbox\[0\]: expected one line"),
        ({"configuration": {"awsRegion": "x"}}, r"configuration\.awsRegion: it has a key of its own"),
    ],
)
def test_what_cannot_be_is_named_and_no_key_is_printed(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        aws(**wrong)
    assert "secret words" not in str(caught.value) and "BEGIN PRIVATE" not in str(caught.value)


@pytest.mark.parametrize(("begin", "end"), [(-9, -2), (2, 9)])
def test_a_certificate_out_of_its_time_is_refused(begin: int, end: int) -> None:
    certificate, key = pair("gw1", begin, end)
    with pytest.raises(SettingsError, match=r"iot_edge\.certificate: it is valid from .* and today is"):
        azure(certificate=certificate, private_key=key)


@pytest.mark.parametrize(
    "wrong",
    [{"iothub_hostname": "h.example.com"}, {"id_scope": None, "registration_id": None}],
    ids=["both", "neither"],
)
def test_iot_edge_has_one_place_to_be_provisioned_from(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="expected either id_scope and registration_id"):
        azure(**wrong)


def test_a_device_that_cannot_have_it_is_refused_even_where_it_is_taken_out() -> None:
    wanted = settings(mode="manual", reason="why", greengrass=GREENGRASS)
    with pytest.raises(Unsupported, match="aws-greengrass: it needs apt") as named:
        choose(AWS, BUSYBOX, wanted)
    assert not isinstance(named.value, NoAgent)  # who names one and cannot have it has made a mistake
    with pytest.raises(Unsupported, match=r"greengrass-nucleus.* is not installed"):
        plan(AWS, greengrass=GREENGRASS, install=False)
    assert choose("auto", DEBIAN, wanted) is AGENTS[0]


@pytest.mark.parametrize("name", [AWS, AZURE])
def test_a_runtime_that_has_stopped_is_drift(name: str) -> None:
    packages = "greengrass-nucleus\ndefault-jre-headless\nsudo\naziot-edge\naziot-identity-service"
    has = Found(answers={**HAS, "packages": packages, "users": "aziotks"})
    wanted = aws(has) if name == AWS else azure(has)
    (unit,) = wanted.units
    there = answers(wanted, "active inactive ")
    running = Found(**{**vars_of(there), "answers": {**there.answers, "running": unit}})
    assert house.converged(wanted, running) and not house.converged(wanted, there)


@pytest.mark.parametrize(("number", "values"), [(1, {"greengrass": GREENGRASS}), (2, {"iot_edge": IOT_EDGE})])
def test_every_path_is_asked_for(number: int, values: dict[str, Any]) -> None:
    wanted = plan(AGENTS[number].name, **values)
    assert set(house.paths(settings(**values), AGENTS[number])) >= {one["dest"] for one in wanted.files}
