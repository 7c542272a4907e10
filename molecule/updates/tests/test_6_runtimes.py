"""The runtimes of the cloud vendors, with packages of our own making in the place of theirs: fetched from the site's repository,
verified, configured, given certificates and a sandbox, updated, and taken back when an update harms them.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from lab.podman import podman
from tests.certificates import pair
from tests.updates_site import PUBLIC, SERVER, Run, Site, shown

GREENGRASS, EDGE = "debian12", "debian13"
ROOT = "/greengrass/v2"
# In the place of Java and of the nucleus: the installer makes launch files as the real one does, and what is launched
# writes down what it can reach from its sandbox.
JAVA = f"""#!/bin/sh
set -eu
case $* in
    *--init-config*)
        last=''
        for arg in "$@"; do case $last in --init-config) config=$arg ;; esac; last=$arg; done
        python3 -c 'import json, sys; c = json.load(open(sys.argv[1])); n = c["services"]["aws.greengrass.Nucleus"]; \\
assert n["version"] and n["configuration"]["iotDataEndpoint"] and c["system"]["thingName"]; \\
[open(c["system"][k]).read(1) for k in ("certificateFilePath", "privateKeyPath", "rootCaPath")]' "$config"
        mkdir -p {ROOT}/alts/init
        ln -sfn /usr/lib/greengrass-nucleus {ROOT}/alts/init/distro
        ln -sfn {ROOT}/alts/init {ROOT}/alts/current
        printf '%s\\n' "$*" >>{ROOT}/installed
        ;;
    *)
        tries=''
        for file in {ROOT}/work /etc/reached /usr/reached /boot/reached; do
            if touch "$file" 2>/dev/null; then tries="$tries $file"; fi
        done
        printf '%s\\n' "$tries" >{ROOT}/reached.new
        printf 'homes:%s\\n' "$(ls /root 2>/dev/null)" >>{ROOT}/reached.new
        mv {ROOT}/reached.new {ROOT}/reached
        exec sleep infinity
        ;;
esac
"""
LOADER = (
    'exec java -Droot="$(cd "${0%/*}/../../../.." && pwd)" -jar Greengrass.jar --setup-system-service false\n'
)
UNIT = """[Unit]
Description=The runtime's {name}
[Service]
ExecStart={command}
User={user}
[Install]
WantedBy=multi-user.target
"""
# A folder that anybody may write to, but for the sandbox.
START = """mkdir -p /var/lib/aziot/edged
chown iotedge /var/lib/aziot/edged
mkdir -p -m 1777 /var/open
systemctl daemon-reload
systemctl enable -q aziot-edged
systemctl restart aziot-edged || :
"""
# In the place of IoT Edge: users, a service and the program that makes its configuration of the operator's.
IOTEDGE = """#!/bin/sh
set -eu
[ "$1 $2" = "config apply" ] || exit 2
grep -q '^id_scope = ' /etc/aziot/config.toml || { echo 'missing field id_scope' >&2; exit 1; }
for key in $(sed -n 's|^identity_pk = "file://\\(.*\\)"$|\\1|p' /etc/aziot/config.toml); do
    runuser -u aziotks -- cat "$key" >/dev/null
done
mkdir -p /etc/aziot/edged
sha256sum </etc/aziot/config.toml >>/etc/aziot/edged/applied
"""
EDGED = """#!/bin/sh
tries=''
for file in /var/lib/aziot/edged/work /var/open/reached /tmp/reached; do
    if touch "$file" 2>/dev/null; then tries="$tries $file"; fi
done
printf '%s\\n' "$tries" >/var/lib/aziot/edged/reached
grep -E '^(CapBnd|NoNewPrivs)' /proc/self/status >>/var/lib/aziot/edged/reached
exec sleep infinity
"""


def archive(site: Site, version: str, loader: str = LOADER) -> Path:
    path = site.work / f"nucleus-{version}.zip"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("bin/loader", loader)
        made.writestr("lib/Greengrass.jar", version)
    return path


def wrapped(site: Site, version: str, loader: str = LOADER) -> str:
    """The vendor's archive becomes a package on the server."""
    path = archive(site, version, loader)
    podman("cp", str(path), f"{site.lab.container(SERVER)}:/root/{path.name}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return site.sh(
        SERVER, f"sallyport-repository wrap greengrass-nucleus {version} /root/{path.name} {digest}"
    ).strip()


def offer(site: Site, path: str) -> None:
    site.sh(SERVER, f"sallyport-repository publish ring0 {path}")


def edge(site: Site, version: str, command: str = "/usr/libexec/aziot/aziot-edged") -> Path:
    return site.build(
        "aziot-edge", version, {"usr/bin/iotedge": IOTEDGE, "usr/libexec/aziot/aziot-edged": EDGED},
        unit=UNIT.format(name="daemon", command=command, user="iotedge"), unit_name="aziot-edged",
        postinst=START,
    )  # fmt: skip


@pytest.fixture(scope="module")
def options() -> dict[str, Any]:
    certificate, key = pair("gw")
    return {
        "greengrass": {
            "region": "eu-central-1", "thing_name": "gw12", "role_alias": "exchange", "data_endpoint": "data.example.com",
            "credentials_endpoint": "credentials.example.com", "certificate": certificate, "private_key": key,
            "root_ca": certificate, "packages": ["site-java"],
        },
        "iot_edge": {
            "hostname": "gw13.example.com", "id_scope": "0ne00AA", "registration_id": "gw13", "certificate": certificate,
            "private_key": key,
        },
    }  # fmt: skip


def per(options: dict[str, Any], **more: Any) -> dict[str, dict[str, Any]]:
    return {
        GREENGRASS: {"agent": "aws-greengrass", "greengrass": options["greengrass"], **more},
        EDGE: {"agent": "azure-iot-edge", "iot_edge": options["iot_edge"], **more},
    }


@pytest.fixture(scope="module")
def run(site: Site, options: dict[str, Any]) -> dict[str, Run]:
    site.publish(
        site.build("site-java", "17", {"usr/bin/java": JAVA}),
        site.build("aziot-identity-service", "1.5", preinst="for u in aziotks iotedge; do id $u >/dev/null 2>&1 || "
                   "useradd --system $u; done"),
        edge(site, "1.5"),
    )  # fmt: skip
    offer(site, wrapped(site, "2.14.0"))
    limit = ("--limit", f"{GREENGRASS},{EDGE}")
    predicted = site.agent("--check", "--diff", *limit, per=per(options))
    done = site.agent("--diff", *limit, per=per(options))
    again = site.agent(*limit, per=per(options))
    return {"predicted": predicted, "done": done, "again": again}


def test_an_archive_that_is_not_what_the_vendor_said_becomes_no_package(site: Site) -> None:
    path = archive(site, "9.9.9")
    podman("cp", str(path), f"{site.lab.container(SERVER)}:/root/{path.name}")
    said = site.sh(
        SERVER, f"! sallyport-repository wrap greengrass-nucleus 9.9.9 /root/{path.name} {'0' * 64} 2>&1"
    )
    assert "is not what was meant: its SHA-256 is" in said
    assert site.sh(SERVER, "ls /srv/sallyport-repository/wrapped 2>/dev/null || :").count("9.9.9") == 0


def test_both_are_installed_configured_and_run_and_the_second_run_changes_nothing(
    site: Site, run: dict[str, Run], options: dict[str, Any]
) -> None:
    for device, unit in ((GREENGRASS, "greengrass"), (EDGE, "aziot-edged")):
        predicted, done, again = (run[key].of.get(device, {}) for key in ("predicted", "done", "again"))
        assert predicted.get("state") == "would_change", run["predicted"].output[-3000:]
        assert done.get("state") == "confirmed", run["done"].output[-3000:]
        assert again.get("state") == "unchanged" and again["exchanges"] == 1, run["again"].output[-3000:]
        assert site.sh(device, f"systemctl is-active {unit}").strip() == "active"
    assert "PRIVATE KEY" not in run["predicted"].output + run["done"].output
    installed = site.sh(GREENGRASS, f"cat {ROOT}/installed").splitlines()
    assert (
        len(installed) == 1
        and "--component-default-user ggc_user:ggc_group --setup-system-service false" in installed[0]
    )
    config = json.loads(site.sh(GREENGRASS, f"cat {ROOT}/init-config.yaml"))
    assert config["services"]["aws.greengrass.Nucleus"]["version"] == "2.14.0"
    assert len(site.sh(EDGE, "cat /etc/aziot/edged/applied").splitlines()) == 1


def test_keys_are_for_those_who_need_them(site: Site, run: dict[str, Run]) -> None:
    assert site.sh(GREENGRASS, f"stat -c '%a %U' {ROOT}/private.pem.key").strip() == "400 root"
    assert site.sh(GREENGRASS, f"stat -c %a {ROOT}/init-config.yaml").strip() == "600"
    assert site.sh(EDGE, "stat -c '%a %U' /var/aziot/secrets/device-id.key.pem").strip() == "400 aziotks"
    assert site.sh(EDGE, "stat -c '%a %U' /etc/aziot/config.toml").strip() == "600 root"


def test_what_runs_reaches_its_own_folders_and_nothing_else(site: Site, run: dict[str, Run]) -> None:
    reached = f"{ROOT}/reached"
    site.wait(lambda: bool(site.sh(GREENGRASS, f"cat {reached} 2>/dev/null || :")), 300, lambda: "no answer")
    assert site.sh(GREENGRASS, f"cat {reached}") == f" {ROOT}/work\nhomes:\n"
    assert site.sh(GREENGRASS, "ls -A /root") != ""
    reached = "/var/lib/aziot/edged/reached"
    site.wait(
        lambda: "NoNewPrivs" in site.sh(EDGE, f"cat {reached} 2>/dev/null || :"), 300, lambda: "no answer"
    )
    said = site.sh(EDGE, f"cat {reached}").split()
    assert said == ["/var/lib/aziot/edged/work", "/tmp/reached", "CapBnd:", "0" * 16, "NoNewPrivs:", "1"]
    assert site.sh(EDGE, "ls /tmp/reached 2>/dev/null || echo private") == "private\n"


def test_a_tampered_runtime_is_refused_and_the_whole_one_goes_in_and_runs(
    site: Site, run: dict[str, Run]
) -> None:
    offer(site, wrapped(site, "2.15.0"))
    pool = site.sh(SERVER, f"find {PUBLIC}/pool -name 'greengrass-nucleus_2.15.0_*.deb'").strip()
    site.sh(SERVER, f"cp {pool} /root/whole; printf X | dd of={pool} bs=1 seek=300 conv=notrunc 2>/dev/null")
    (said,) = site.turn(GREENGRASS).values()
    assert said["result"] == "refused" and said["refused"][0].startswith(
        "tampered greengrass-nucleus 2.15.0"
    ), shown(said)
    assert site.version(GREENGRASS, "greengrass-nucleus") == "2.14.0"
    site.sh(SERVER, f"cat /root/whole >{pool}")
    (said,) = site.turn(GREENGRASS).values()
    assert said["result"] == "ok" and site.version(GREENGRASS, "greengrass-nucleus") == "2.15.0", shown(said)
    assert site.sh(GREENGRASS, "systemctl is-active greengrass").strip() == "active"
    assert len(site.sh(GREENGRASS, f"cat {ROOT}/installed").splitlines()) == 2


def test_a_runtime_that_an_update_harms_goes_back_by_itself(site: Site, run: dict[str, Run]) -> None:
    offer(site, wrapped(site, "2.16.0", loader="exit 1\n"))
    site.publish(edge(site, "1.6", command="/bin/false"))
    for device, said in site.turn(GREENGRASS, EDGE).items():
        name, old = ("greengrass-nucleus", "2.15.0") if device == GREENGRASS else ("aziot-edge", "1.5")
        assert said["result"] == "rolled_back" and said["back"] == [name], shown({device: said})
        assert site.version(device, name) == old
    assert site.sh(GREENGRASS, "systemctl is-active greengrass").strip() == "active"
    assert site.sh(EDGE, "systemctl is-active aziot-edged").strip() == "active"


def test_a_configuration_that_the_runtime_refuses_takes_itself_back(
    site: Site, run: dict[str, Run], options: dict[str, Any]
) -> None:
    wrong = {**options["iot_edge"], "id_scope": None, "registration_id": None}
    wrong |= {"iothub_hostname": "hub.example.com", "device_id": "gw13"}
    done = site.agent("--limit", EDGE, per={EDGE: {"agent": "azure-iot-edge", "iot_edge": wrong}})
    assert done.status == 2 and done.of[EDGE]["state"] == "reverted", done.output[-3000:]
    assert "iotedge config apply: missing field id_scope" in done.of[EDGE]["msg"], done.of[EDGE]
    assert "id_scope" in site.sh(EDGE, "cat /etc/aziot/config.toml")
    assert site.sh(EDGE, "systemctl is-active aziot-edged").strip() == "active"


def test_the_way_back_takes_the_runtimes_along(site: Site, run: dict[str, Run]) -> None:
    done = site.play(
        "playbooks/rollback.yml", "sallyport.iot.rollback", "--limit", f"{GREENGRASS},{EDGE}", to="factory"
    )
    assert done.status == 0, done.output[-4000:]
    for device, name, unit in (
        (GREENGRASS, "greengrass-nucleus", "greengrass"),
        (EDGE, "aziot-edge", "aziot-edged"),
    ):
        assert site.version(device, name) == ""
        assert site.sh(device, f"systemctl is-active {unit} || :").strip() in ("inactive", "unknown")
        left = "find / -xdev -name '*.key.pem' -path '*aziot*' -o -xdev -name private.pem.key"
        assert site.sh(device, left) == ""
