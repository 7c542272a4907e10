"""What services are told: by version, and the plain interface moved to loopback."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls import mozilla, services
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls.services import Refused

from tests.unit.tls.makers import CA, wanted

NGINX = {"nginx": "nginx version: nginx/1.22.1", "openssl": "OpenSSL 3.0.15"}
DEVICE: dict[str, Any] = {"init": "systemd", "interfaces": [{"addresses": ["2001:db8::1/64"]}], "files": {}}
INITTAB = "::sysinit:/etc/init.d/rcS\n::respawn:/usr/sbin/httpd -f -h /www\n::respawn:/usr/sbin/httpd -f -p 5000 -h /x\n"


def plan(has: dict[str, str], device: dict[str, Any] = DEVICE, **changed: Any) -> services.Plan:
    return services.plan(wanted(**changed), device, has, pair=True, ocsp=False, texts={})


def text(made: services.Plan, dest: str) -> str:
    return next(str(entry["content"]) for entry in made.files if entry["dest"] == dest)


def listener(port: int, process: str, address: str = "0.0.0.0") -> dict[str, Any]:
    return {"protocol": "tcp", "family": "ipv4", "address": address, "port": port, "process": process}


def test_nginx_is_told_what_its_version_knows() -> None:
    old = text(plan(NGINX), services.NGINX)
    assert "listen 443 ssl http2 default_server;" in old and "http2 on;" not in old
    new = text(plan({**NGINX, "nginx": "nginx version: nginx/1.26.3"}), services.NGINX)
    assert "listen 443 ssl default_server;" in new and "http2 on;" in new
    ancient = text(plan({**NGINX, "openssl": "OpenSSL 1.1.0l"}), services.NGINX)
    assert "ssl_protocols TLSv1.2;" in ancient


def test_the_modern_profile_needs_tls_1_3() -> None:
    assert "ssl_protocols TLSv1.3;" in text(plan(NGINX, profile="modern"), services.NGINX)
    with pytest.raises(Refused, match=r"needs TLS 1\.3"):
        plan({**NGINX, "openssl": "OpenSSL 1.1.0l"}, profile="modern")


def test_no_profile_takes_anything_older_than_tls_1_2() -> None:
    for profile in ("intermediate", "modern"):
        for lines in (
            mozilla.nginx(profile, ""),
            mozilla.lighttpd(profile),
            mozilla.mosquitto(profile),
            mozilla.stunnel(profile),
        ):
            assert "TLSv1.1" not in " ".join(lines).replace("TLSv1.2", "").replace("TLSv1.3", "")
            assert "TLSv1 " not in " ".join(lines) + " "


def test_hsts_and_stapling_come_only_when_wanted() -> None:
    plain = text(plan(NGINX), services.NGINX)
    assert "Strict-Transport-Security" not in plain and "stapling" not in plain
    assert 'max-age=300" always' in text(plan(NGINX, hsts=300), services.NGINX)
    made = services.plan(wanted(), DEVICE, NGINX, pair=True, ocsp=True, texts={})
    assert "ssl_stapling on;" in text(made, services.NGINX)


def test_before_the_first_certificate_only_the_challenge_is_answered() -> None:
    site = wanted(mode="device", names=["gw.example"], acme_agree=True)
    made = services.plan(site, DEVICE, NGINX, pair=False, ocsp=False, texts={})
    assert "acme-challenge" in text(made, services.NGINX) and "443" not in text(made, services.NGINX)
    assert text(made, services.SERVICES) == "nginx 0\n"


def test_clients_without_a_certificate_are_refused_by_every_service() -> None:
    has = {**NGINX, "mosquitto": "2.0", "lighttpd": "lighttpd/1.4.69 (ssl)", "lighttpd_tls": "yes"}
    made = plan(has, client_ca=CA, mosquitto_port=8883, lighttpd_port=8443)
    assert "ssl_verify_client on;" in text(made, services.NGINX)
    assert "require_certificate true" in text(made, services.MOSQUITTO)
    assert 'ssl.verifyclient.enforce = "enable"' in text(made, services.LIGHTTPD)
    busybox = {"init": "busybox", "files": {services.INITTAB: INITTAB}, "interfaces": []}
    stunnel = plan({"stunnel": "5"}, busybox, upstream="127.0.0.1:80", client_ca=CA)
    assert "verifyChain = yes" in text(stunnel, services.STUNNEL)


def test_a_lighttpd_that_takes_the_clients_ca_for_its_own_chain_is_refused_by_its_version() -> None:
    has = {"lighttpd": "lighttpd/1.4.59 (ssl) - a light and fast webserver", "lighttpd_tls": "yes"}
    with pytest.raises(Refused, match=r"lighttpd is 1\.4\.59: before 1\.4\.60"):
        plan(has, client_ca=CA, lighttpd_port=8443)
    assert plan(has, lighttpd_port=8443).services == {"lighttpd": 8443}


def test_a_service_that_is_no_longer_wanted_gives_its_certificate_back() -> None:
    has = {**NGINX, "mosquitto": "2.0"}
    made = services.plan(
        wanted(), DEVICE, has, pair=True, ocsp=False, texts={}, served=["nginx", "mosquitto"]
    )
    assert {"dest": services.MOSQUITTO, "state": "absent"} in made.files
    assert "systemctl restart mosquitto" in made.activate[0], "whoever comes may need its port"
    assert made.activate[-1] == f"/bin/sh {services.DEPLOY} reload"
    site = wanted(mode="device", names=["gw.example"], acme_agree=True, mosquitto_port=8883)
    waiting = services.plan(
        site, DEVICE, has, pair=False, ocsp=False, texts={}, served=["nginx", "mosquitto"]
    )
    assert not any(entry["dest"] == services.MOSQUITTO for entry in waiting.files)


@pytest.mark.parametrize("shell", [["sh"], ["busybox", "sh"]], ids=["sh", "busybox"])
def test_going_back_tells_every_service_and_one_that_fails_stops_no_other(
    shell: list[str], tmp_path: Path
) -> None:
    home = tmp_path / "tls"
    home.mkdir()
    said = tmp_path / "said"
    shim = tmp_path / "systemctl"
    shim.write_text(f'#!/bin/sh\necho "$*" >>{said}\ncase "$*" in "restart lighttpd") exit 1 ;; esac\n')
    shim.chmod(0o755)
    (home / "deploy").write_text(f"echo deploy $1 >>{said}\n")
    (home / "services").write_text("nginx 443\n")
    (home / "mosquitto.loaded").touch()
    has = {**NGINX, "lighttpd": "1.4.69", "lighttpd_tls": "yes", "mosquitto": "2.0"}
    made = plan(has, mosquitto_port=8883, lighttpd_port=8443)
    script = made.revert[-1].replace(services.HOME, str(home))
    for folder in ("/etc/mosquitto/certs", "/etc/lighttpd/sallyport"):
        script = script.replace(folder, str(tmp_path / "copies"))
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([*shell, "-euc", script], env=environment, check=False)
    lines = said.read_text(encoding="utf-8").splitlines()
    assert done.returncode == 1, "nobody would hear of the one that failed"
    assert "deploy reload" in lines and "restart mosquitto" in lines and "restart lighttpd" in lines
    assert "reload-or-restart nginx" not in lines, "it had the certificate before: deploy reloads it"
    assert not (home / "mosquitto.loaded").exists()


def test_a_program_that_is_missing_is_refused_by_name() -> None:
    for has, changed, message in (
        ({}, {}, "neither nginx nor stunnel"),
        ({}, {"front": "nginx"}, "tls_front is nginx"),
        (NGINX, {"mosquitto_port": 8883}, "no mosquitto"),
        (NGINX, {"lighttpd_port": 8443}, "no lighttpd"),
        ({**NGINX, "lighttpd": "1.4"}, {"lighttpd_port": 8443}, "no mod_openssl"),
        ({"stunnel": "5"}, {}, "started by /etc/inittab"),
    ):
        with pytest.raises(Refused, match=message):
            plan(has, **changed)


def test_a_plain_listener_that_nobody_knows_how_to_move_is_refused_unless_it_may_stay() -> None:
    device = {**DEVICE, "listening": [listener(8080, "panel")]}
    with pytest.raises(Refused, match="panel listens on port 8080 beyond loopback"):
        plan(NGINX, device, upstream="127.0.0.1:8080")
    assert plan(NGINX, device, upstream="127.0.0.1:8080", plain="leave").services == {"nginx": 443}
    local = {**DEVICE, "listening": [listener(8080, "panel", "127.0.0.1")]}
    assert plan(NGINX, local, upstream="127.0.0.1:8080").services == {"nginx": 443}


def test_busybox_httpd_moves_to_loopback_and_only_the_one_behind_the_front() -> None:
    once, found = services.httpd_to_loopback(INITTAB, 80)
    assert found and "httpd -f -h /www -p 127.0.0.1:80\n" in once and "-p 5000" in once
    assert services.httpd_to_loopback(once, 80) == (once, True)
    assert services.httpd_to_loopback(INITTAB, 8081) == (INITTAB, False)


def test_stunnel_and_the_moved_httpd_come_in_one_inittab() -> None:
    device = {"init": "busybox", "files": {services.INITTAB: INITTAB}, "interfaces": []}
    made = plan({"stunnel": "5"}, device, upstream="127.0.0.1:80")
    table = text(made, services.INITTAB)
    assert "127.0.0.1:80" in table and f"::respawn:/usr/bin/stunnel4 {services.STUNNEL}\n" in table
    again = plan({"stunnel": "5"}, {**device, "files": {services.INITTAB: table}}, upstream="127.0.0.1:80")
    assert text(again, services.INITTAB) == table and again.activate == [f"/bin/sh {services.DEPLOY} reload"]


def test_what_lighttpd_would_not_take_twice_is_switched_off_in_its_own_file_and_the_rest_stays() -> None:
    main = (
        'server.feature-flags       += ("server.h2c"     => "enable")\n'
        'server.feature-flags       += ("server.graceful-shutdown-timeout" => 5)\n'
        '#server.feature-flags       += ("server.graceful-restart-bg" => "enable")\n'
    )
    has = {"lighttpd": "lighttpd/1.4.59 (ssl)", "lighttpd_tls": "yes"}
    once = services.lighttpd_without_its_own_way_of_reloading(main)
    assert [line for line in once.splitlines() if not line.startswith("#")] == [main.splitlines()[0]]
    assert services.lighttpd_without_its_own_way_of_reloading(once) == once
    both = {**has, **NGINX}
    site = wanted(lighttpd_port=8443, upstream="127.0.0.1:8080")
    behind = {**DEVICE, "listening": [listener(8080, "lighttpd")]}
    made = services.plan(site, behind, both, pair=True, ocsp=False, texts={services.LIGHTTPD_MAIN: main})
    (entry,) = (one for one in made.files if one["dest"] == services.LIGHTTPD_MAIN)
    assert entry["content"] == services.lighttpd_to_loopback(once)


def test_lighttpd_is_bound_to_loopback_once() -> None:
    main = 'server.port = 8080\ninclude_shell "/usr/share/lighttpd/use-ipv6.pl " + server.port\n'
    once = services.lighttpd_to_loopback(main)
    assert 'server.bind = "127.0.0.1"\n' in once and once.count("# switched off") == 1
    assert services.lighttpd_to_loopback(once) == once
