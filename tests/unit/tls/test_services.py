"""What services are told: by version, and the plain interface moved to loopback."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.access import shell
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls import mozilla, services
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls.services import (
    Refused,
    httpd,
    lighttpd,
    mosquitto,
    nginx,
    stunnel,
)

from tests.unit.tls.makers import CA, CA_KEY, authority, crl, wanted

NGINX = {"nginx": "nginx version: nginx/1.22.1", "openssl": "OpenSSL 3.0.15"}
DEVICE: dict[str, Any] = {"init": "systemd", "interfaces": [{"addresses": ["2001:db8::1/64"]}], "files": {}}
INITTAB = "::sysinit:/etc/init.d/rcS\n::respawn:/usr/sbin/httpd -f -h /www\n::respawn:/usr/sbin/httpd -f -p 5000 -h /x\n"


def plan(
    has: dict[str, str],
    device: dict[str, Any] = DEVICE,
    *,
    texts: dict[str, str] | None = None,
    links: dict[str, str] | None = None,
    served: tuple[str, ...] = (),
    pair: bool = True,
    **changed: Any,
) -> services.Plan:
    return services.plan(
        wanted(**changed), device, has, pair=pair, ocsp=False, texts=texts or {}, links=links, served=served
    )


def entry(made: services.Plan, dest: str) -> dict[str, Any]:
    """What becomes of a file; {} where it is left alone."""
    found = [one for one in made.files if one["dest"] == dest]
    assert len(found) < 2, found
    return found[0] if found else {}


def text(made: services.Plan, dest: str) -> str:
    return str(entry(made, dest)["content"])


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
    links = {services.NGINX_DEFAULT: "/etc/nginx/sites-available/default"}
    made = services.plan(site, DEVICE, NGINX, pair=False, ocsp=False, texts={}, links=links)
    assert "acme-challenge" in text(made, services.NGINX) and "443" not in text(made, services.NGINX)
    assert text(made, services.SERVICES) == "nginx 0\n"
    assert not entry(made, services.NGINX_DEFAULT), "the page of before is gone, whatever the CA says"
    assert "default_server" not in text(made, services.NGINX) and "return 404; }" in text(
        made, services.NGINX
    )
    assert "proxy_pass http://127.0.0.1:80;" in text(made, services.NGINX)


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


@pytest.mark.parametrize(
    ("state", "told"), [("active", True), ("failed", True), ("activating", True), ("inactive", False)]
)
def test_a_service_that_somebody_stopped_is_not_started_because_it_gives_its_certificate_back(
    state: str, told: bool, tmp_path: Path
) -> None:
    (tmp_path / "systemctl").write_text(
        f"#!/bin/sh\ncase $1 in is-active) echo {state}; exit 3 ;; reload-or-restart) echo told ;; esac\n"
    )
    (tmp_path / "systemctl").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-euc", nginx.DROP], env=environment, capture_output=True, text=True, check=True
    )
    assert (done.stdout == "told\n") == told


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


@pytest.mark.parametrize(
    ("line", "moved"),
    [
        ("::respawn:/usr/sbin/httpd -f -h /www", "::respawn:/usr/sbin/httpd -f -h /www -p 127.0.0.1:80"),
        ("::respawn:/bin/busybox httpd -f -p 80", "::respawn:/bin/busybox httpd -f -p 127.0.0.1:80"),
        ("::respawn:httpd -f -p80 -h /www", "::respawn:httpd -f -p 127.0.0.1:80 -h /www"),
        ("::respawn:/usr/sbin/httpd -fp 0.0.0.0:80", "::respawn:/usr/sbin/httpd -fp 127.0.0.1:80"),
        (
            '::respawn:/usr/sbin/httpd -f -r "My Realm\'s" -p 80',
            '::respawn:/usr/sbin/httpd -f -r "My Realm\'s" -p 127.0.0.1:80',
        ),
    ],
)
def test_busybox_httpd_moves_to_loopback_however_its_line_is_written_and_back(line: str, moved: str) -> None:
    before = f"::sysinit:/etc/init.d/rcS\n{line}\n::respawn:/usr/sbin/httpd -f -p 5000 -h /x\n"
    once = httpd.to_loopback(before, "127.0.0.1:80")
    assert moved in once.splitlines() and line not in once.splitlines() and "-p 5000" in once
    assert httpd.original(once) == before
    assert httpd.to_loopback(once, "127.0.0.1:80") == once, "what is on loopback is moved again"


def test_a_table_that_holds_nothing_of_ours_is_not_touched_whatever_ends_it() -> None:
    for table in (INITTAB, INITTAB.rstrip(), f"{INITTAB}\n\n"):
        assert httpd.original(table) == table
        device = {"init": "busybox", "files": {services.INITTAB: table}, "interfaces": []}
        assert not entry(plan({}, device, front="none"), services.INITTAB)
    theirs = "# before sallyport: ::respawn:httpd -f -p 80\n::respawn:httpd -f -p 5000\n"
    assert httpd.original(theirs) == "::respawn:httpd -f -p 80\n::respawn:httpd -f -p 5000\n"
    for main in ("server.port = 80", "server.port = 80\n\n"):
        assert lighttpd.original(main) == main
        assert not entry(plan(NGINX, texts={services.LIGHTTPD_MAIN: main}), services.LIGHTTPD_MAIN)


def test_what_is_no_httpd_of_the_port_is_left_as_it_is() -> None:
    for table in (
        INITTAB,
        "::respawn:/usr/sbin/lighttpd -D -f /etc/l.conf -p 8081\n",
        "#::respawn:/usr/sbin/httpd -f -p 8081\n",
        "::once:/usr/sbin/httpd -p 8081\n",
    ):
        assert httpd.to_loopback(table, "127.0.0.1:8081") == table
        assert not httpd.starts(table, "127.0.0.1:8081")


def test_a_plain_httpd_that_init_does_not_start_is_refused_with_every_front() -> None:
    device = {
        "init": "busybox",
        "files": {services.INITTAB: "::sysinit:/etc/init.d/rcS\n"},
        "interfaces": [],
        "listening": [listener(80, "httpd")],
    }
    with pytest.raises(Refused, match="has no line that starts an httpd on this port"):
        plan({"stunnel": "/usr/bin/stunnel4"}, device, upstream="127.0.0.1:80")
    device["listening"] = [listener(8080, "httpd")]
    with pytest.raises(Refused, match="has no line that starts an httpd on this port"):
        plan(NGINX, device, upstream="127.0.0.1:8080")
    device["files"] = {services.INITTAB: "::respawn:/usr/sbin/httpd -f -p 8080\n"}
    assert "127.0.0.1:8080" in text(plan(NGINX, device, upstream="127.0.0.1:8080"), services.INITTAB)


@pytest.mark.parametrize("shell_words", [["sh"], ["busybox", "sh"]], ids=["sh", "busybox"])
def test_who_listens_for_others_than_the_device_itself_is_seen_in_the_kernels_tables(
    shell_words: list[str], tmp_path: Path
) -> None:
    script = shell.nobody_beyond_loopback(8080, seconds=0)
    for table, address, beyond in (
        ("tcp", "0100007F", False),
        ("tcp", "7F000001", False),
        ("tcp", "00000000", True),
        ("tcp", "0A00000A", True),
        ("tcp6", "00000000000000000000000001000000", False),
        ("tcp6", "0000000000000000FFFF00000100007F", False),
        ("tcp6", "00000000000000000000000000000000", True),
        ("tcp6", "0000000000000000FFFF00000A00000A", True),
    ):
        for name in ("tcp", "tcp6"):
            rows = f"   0: {address}:1F90 00000000:0000 0A 0\n   1: 00000000:0016 00000000:0000 0A 0\n"
            (tmp_path / name).write_text(f"  sl  local_address\n{rows if name == table else ''}")
        done = subprocess.run(
            [*shell_words, "-euc", script.replace("/proc/net", str(tmp_path))],
            capture_output=True,
            check=False,
        )
        assert (done.returncode == 1) == beyond, (table, address, done.stderr)


def test_stunnel_and_the_moved_httpd_come_in_one_inittab() -> None:
    device = {"init": "busybox", "files": {services.INITTAB: INITTAB}, "interfaces": []}
    made = plan({"stunnel": "5"}, device, upstream="127.0.0.1:80")
    table = text(made, services.INITTAB)
    assert "127.0.0.1:80" in table and f"::respawn:/usr/bin/stunnel4 {services.STUNNEL}\n" in table
    device = {**device, "files": {services.INITTAB: table}}
    again = plan({"stunnel": "5"}, device, upstream="127.0.0.1:80")
    assert text(again, services.INITTAB) == table and again.activate == [f"/bin/sh {services.DEPLOY} reload"]
    elsewhere = plan({"stunnel": "/opt/bin/stunnel"}, device, upstream="127.0.0.1:80")
    assert f"::respawn:/opt/bin/stunnel {services.STUNNEL}\n" in text(elsewhere, services.INITTAB)


def test_a_stunnel_front_that_is_given_up_leaves_inittab_as_it_was_and_the_plain_interface_where_it_was() -> (
    None
):
    device = {"init": "busybox", "files": {services.INITTAB: INITTAB}, "interfaces": []}
    table = text(plan({"stunnel": "5"}, device, upstream="127.0.0.1:80"), services.INITTAB)
    there = {**device, "files": {services.INITTAB: table}, "listening": [listener(80, "httpd", "127.0.0.1")]}
    for changed in ({"front": "none"}, {"front": "none", "upstream": "127.0.0.1:80"}):
        gone = plan({"stunnel": "5"}, there, served=("stunnel",), **changed)
        assert text(gone, services.INITTAB) == INITTAB
        assert entry(gone, services.STUNNEL) == {"dest": services.STUNNEL, "state": "absent"}
        assert "kill -HUP 1" in gone.activate[0] and "tcp:0050" in gone.activate[0], "the old one goes on"
        assert "nobody listens on" in gone.verify[-1]
        assert "tcp:1388" not in gone.activate[0], "an httpd that was never moved is ended"
    left = plan({"stunnel": "5"}, there, served=("stunnel",), upstream="127.0.0.1:80", plain="leave")
    assert "127.0.0.1:80" not in text(left, services.INITTAB) and "stunnel4" in text(left, services.INITTAB)
    bare = {**device, "files": {services.INITTAB: INITTAB}}
    assert not entry(plan({"stunnel": "5"}, bare, front="none"), services.INITTAB)


def test_what_lighttpd_would_not_take_twice_is_switched_off_in_its_own_file_and_the_rest_stays() -> None:
    main = (
        'server.feature-flags       += ("server.h2c"     => "enable")\n'
        'server.feature-flags       += ("server.graceful-shutdown-timeout" => 5)\n'
        '#server.feature-flags       += ("server.graceful-restart-bg" => "enable")\n'
    )
    has = {"lighttpd": "lighttpd/1.4.59 (ssl)", "lighttpd_tls": "yes"}
    once = lighttpd.without_its_own_way_of_reloading(main)
    assert [line for line in once.splitlines() if not line.startswith("#")] == [main.splitlines()[0]]
    assert lighttpd.without_its_own_way_of_reloading(once) == once and lighttpd.original(once) == main
    both = {**has, **NGINX}
    main = f"server.port = 8080\n{main}"
    behind = {**DEVICE, "listening": [listener(8080, "lighttpd")]}
    texts = {services.LIGHTTPD_MAIN: main}
    made = plan(both, behind, texts=texts, lighttpd_port=8443, upstream="127.0.0.1:8080")
    assert text(made, services.LIGHTTPD_MAIN) == lighttpd.to_loopback(
        lighttpd.without_its_own_way_of_reloading(main)
    )


def test_lighttpd_is_bound_to_loopback_once_and_comes_back_when_the_front_goes() -> None:
    main = 'server.port = 8080\ninclude_shell "/usr/share/lighttpd/use-ipv6.pl " + server.port\n'
    once = lighttpd.to_loopback(main)
    assert 'server.bind = "127.0.0.1"' in once and once.count("# switched off") == 1
    assert lighttpd.to_loopback(once) == once and lighttpd.original(once) == main
    for own in ('server.bind = "127.0.0.1"\n', 'server.bind = "10.0.0.1"\n'):
        assert lighttpd.original(lighttpd.to_loopback(own)) == own
    has = {**NGINX, "lighttpd": "1.4.69"}
    there = {**DEVICE, "listening": [listener(8080, "lighttpd", "127.0.0.1")]}
    kept = plan(has, there, texts={services.LIGHTTPD_MAIN: once}, upstream="127.0.0.1:8080")
    assert text(kept, services.LIGHTTPD_MAIN) == once
    assert not any("lighttpd" in command for command in kept.activate)
    for changed in ({"front": "none"}, {}, {"upstream": "127.0.0.1:8080", "plain": "leave"}):
        gone = plan(has, there, texts={services.LIGHTTPD_MAIN: once}, served=("nginx",), **changed)
        assert text(gone, services.LIGHTTPD_MAIN) == main, changed
        assert "restart lighttpd" in gone.activate[0] and "restart lighttpd" in gone.revert[0]
    assert not entry(plan(has, there, texts={services.LIGHTTPD_MAIN: main}), services.LIGHTTPD_MAIN)


DEFAULT = {services.NGINX_DEFAULT: "/etc/nginx/sites-available/default"}
KEPT = {services.NGINX_KEPT: "/etc/nginx/sites-available/default"}


def test_nginxs_default_site_gives_its_place_to_the_redirect_only_and_comes_back_with_it() -> None:
    made = plan(NGINX, links=DEFAULT)
    assert entry(made, services.NGINX_DEFAULT)["state"] == "absent"
    assert entry(made, services.NGINX_KEPT)["link"] == DEFAULT[services.NGINX_DEFAULT]
    again = plan(NGINX, links=KEPT)
    assert entry(again, services.NGINX_KEPT)["link"] == DEFAULT[services.NGINX_DEFAULT]
    as_file = plan(NGINX, texts={services.NGINX_DEFAULT: "server {}\n"})
    assert entry(as_file, services.NGINX_KEPT)["content"] == "server {}\n"
    for changed in ({"front": "none"}, {"redirect": False}):
        back = plan(NGINX, links=KEPT, served=("nginx",), **changed)
        assert entry(back, services.NGINX_DEFAULT)["link"] == DEFAULT[services.NGINX_DEFAULT], changed
        assert entry(back, services.NGINX_KEPT)["state"] == "absent"
        somebodys = plan(
            NGINX, links=KEPT, texts={services.NGINX_DEFAULT: "theirs"}, served=("nginx",), **changed
        )
        assert not entry(somebodys, services.NGINX_DEFAULT), "theirs was overwritten"
        never = plan(NGINX, links=DEFAULT, served=("nginx",), **changed)
        assert not entry(never, services.NGINX_DEFAULT) and not entry(never, services.NGINX_KEPT)


def test_port_80_is_left_to_certbot_only_where_it_is_the_devices_own() -> None:
    acme = {"names": ["gw.example"], "acme_agree": True, "challenge": "standalone"}
    own = plan(NGINX, links=DEFAULT, mode="device", **acme)
    assert "listen 80" not in text(own, services.NGINX)
    assert entry(own, services.NGINX_DEFAULT)["state"] == "absent", "it would take certbot's port"
    for changed in ({"mode": "controller"}, {"mode": "device", "http_port": 8080}):
        made = plan(NGINX, links=DEFAULT, **{**acme, **changed})
        assert "listen 80 default_server;" in text(made, services.NGINX), changed
        assert "return 301 https://$host$request_uri;" in text(made, services.NGINX)


def test_who_is_handed_on_to_the_default_server_is_not_taken_for_the_device_itself() -> None:
    acme = {"names": ["gw.example"], "acme_agree": True, "mode": "device", "challenge": "webroot"}
    for has, named in ((NGINX, False), ({**NGINX, "nginx_realip": "yes"}, True)):
        made = text(plan(has, **acme, redirect=False), services.NGINX)
        assert "proxy_bind 127.0.0.2;" in made and "proxy_set_header X-Sallyport-Client $remote_addr;" in made
        assert ("real_ip_header X-Sallyport-Client;" in made) is named
        assert "real_ip_header" not in text(plan(has, links=DEFAULT, **acme), services.NGINX), (
            "the redirect hands nothing on"
        )


def test_a_web_interface_that_the_redirect_would_hide_is_refused_by_its_file() -> None:
    def made(**changed: Any) -> services.Plan:
        return services.plan(
            wanted(**changed), DEVICE, NGINX, pair=True, ocsp=False, texts={}, plain_sites=["/etc/nginx/x"]
        )

    with pytest.raises(Refused, match=r"of its own on port 80 \(/etc/nginx/x\)"):
        made()
    assert made(redirect=False).services == made(upstream="127.0.0.1:8080").services == {"nginx": 443}


@pytest.mark.parametrize("shell_words", [["sh"], ["busybox", "sh"]], ids=["sh", "busybox"])
def test_a_stunnel_front_that_goes_takes_nobody_elses_with_it(shell_words: list[str], tmp_path: Path) -> None:
    (tmp_path / "pidof").write_text('#!/bin/sh\n[ "$1" = stunnel4 ] || exit 1\necho 7001 7002\n')
    (tmp_path / "pidof").chmod(0o755)
    for pid, file in ((7001, "/srv/other.conf"), (7002, services.STUNNEL)):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "cmdline").write_bytes(f"/usr/bin/stunnel4\0{file}\0".encode())
    script = stunnel.DROP.replace("/proc", str(tmp_path)).replace("kill", "echo")
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        [*shell_words, "-euc", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["-HUP 1", "7002"], done


def test_challenges_are_served_from_the_folder_that_the_site_names() -> None:
    site = {"mode": "device", "names": ["gw.example"], "acme_agree": True, "webroot": "/srv/acme"}
    for pair in (False, True):
        assert "        root /srv/acme;" in text(plan(NGINX, pair=pair, **site), services.NGINX)
    plain = text(plan(NGINX, redirect=False, **site), services.NGINX)
    assert "listen 80;" in plain and "proxy_pass http://127.0.0.1:80;" in plain and "301" not in plain


def test_the_front_lets_through_what_the_web_interface_takes() -> None:
    made = text(plan(NGINX, upstream="127.0.0.1:8080"), services.NGINX)
    for line in (
        "client_max_body_size 0;",
        "proxy_request_buffering off;",
        "proxy_read_timeout 1h;",
        "Host $host_sallyport;",
    ):
        assert line in made, line


def test_a_session_of_a_client_that_showed_a_certificate_is_not_gone_on_with() -> None:
    """It would not be asked again: who is revoked would stay in for a day."""
    assert "ssl_session_cache off;" in text(plan(NGINX, client_ca=CA), services.NGINX)
    assert "ssl_session_cache shared" in text(plan(NGINX), services.NGINX)


@pytest.mark.parametrize(
    ("port", "process", "changed", "message"),
    [
        (443, "apache2", {}, "apache2 listens on port 443"),
        (80, "apache2", {}, "set tls_redirect: false"),
        (8883, "emqx", {"mosquitto_port": 8883}, "emqx listens on port 8883"),
        (8443, "panel", {"lighttpd_port": 8443}, "panel listens on port 8443"),
        (1, "x", {"lighttpd_port": 443}, "nginx and lighttpd would both|lighttpd and nginx would both"),
    ],
)
def test_a_port_that_is_taken_is_refused_before_anything_is_changed(
    port: int, process: str, changed: dict[str, Any], message: str
) -> None:
    device = {**DEVICE, "listening": [listener(port, process)]}
    with pytest.raises(Refused, match=message):
        plan({**NGINX, **BROKER, "lighttpd": "1.4.69", "lighttpd_tls": "yes"}, device, **changed)
    own = {
        **DEVICE,
        "listening": [listener(443, "nginx"), listener(80, "nginx"), listener(8883, "mosquitto")],
    }
    assert plan({**NGINX, **BROKER}, own, mosquitto_port=8883).services == {"nginx": 443, "mosquitto": 8883}


BROKER = {"mosquitto": "mosquitto version 2.0.11"}
MAIN = "pid_file /run/mosquitto/mosquitto.pid\ninclude_dir /etc/mosquitto/conf.d\n"
SITE = {"front": "none", "mosquitto_port": 8883}


def broker(own: str = "", *, has: dict[str, str] | None = None, **changed: Any) -> services.Plan:
    texts = {services.MOSQUITTO_MAIN: MAIN, "/etc/mosquitto/conf.d/default.conf": own}
    device = {**DEVICE, "listening": [listener(1883, "mosquitto"), listener(9001, "panel")]}
    return plan(has or BROKER, device, texts=texts, **{**SITE, **changed})


def lines(made: services.Plan) -> list[str]:
    return [line for line in text(made, services.MOSQUITTO).splitlines() if not line.startswith("#")]


def test_a_broker_that_lets_sensors_in_without_a_name_goes_on_doing_so() -> None:
    sensors = "listener 1883\nallow_anonymous true\n"
    made = broker(sensors, client_ca=CA)
    assert not any("anonymous" in line or "per_listener" in line for line in lines(made))
    assert "require_certificate true" in lines(made) and "tcp:075B" in made.verify[0]
    with pytest.raises(Refused, match=r"default\.conf: allow_anonymous.*Set tls_client_ca"):
        broker(sensors)
    with pytest.raises(Refused, match="this version does so by itself"):
        broker("listener 1883\n", has={"mosquitto": "mosquitto version 1.6.9"})
    for own in (
        "listener 1883\nallow_anonymous false\npassword_file /p\n",
        "listener 1883\npassword_file /p\n",
    ):
        made = broker(own)
        assert not any("anonymous" in line for line in lines(made)) and not made.warnings
    apart = broker(f"per_listener_settings true\n{sensors}")
    assert lines(apart)[-1] == "allow_anonymous false" and "nobody can log in" in apart.warnings[0]


def test_the_listener_that_a_broker_has_by_itself_stays_beside_the_one_for_tls() -> None:
    nobody = broker()
    assert lines(nobody)[:5] == [
        "per_listener_settings true",
        "listener 1883 127.0.0.1",
        "allow_anonymous true",
        "listener 1883 ::1",
        "allow_anonymous true",
    ]
    assert lines(nobody)[-1] == "allow_anonymous false" and "no password_file" in nobody.warnings[0]
    known = broker(client_ca=CA)
    assert lines(known)[:3] == ["allow_anonymous true", "listener 1883 127.0.0.1", "listener 1883 ::1"]
    named = broker("allow_anonymous false\npassword_file /p\n")
    assert lines(named)[:2] == ["listener 1883 127.0.0.1", "listener 1883 ::1"]
    assert not any("anonymous" in line or "per_listener" in line for line in lines(named))
    with pytest.raises(Refused, match="no listener of its own"):
        broker("password_file /p\n")
    assert lines(broker("password_file /p\n", client_ca=CA))[0] == "allow_anonymous true"
    old = broker(client_ca=CA, has={"mosquitto": "mosquitto version 1.6.9"})
    assert lines(old)[:2] == ["listener 1883", "listener 8883"], "it was not on loopback only"


def test_a_brokers_own_configuration_is_read_in_its_order_and_ours_is_no_part_of_it() -> None:
    texts = {
        services.MOSQUITTO_MAIN: "allow_anonymous true\ninclude_dir /etc/mosquitto/conf.d/\ninclude_dir /srv/broker\n",
        "/etc/mosquitto/conf.d/B.conf": " port 1884\n",
        "/srv/broker/zz.conf": "allow_anonymous false\n",
        "/etc/nginx/sites-enabled/default": "listener 1\n",
        services.MOSQUITTO: "listener 8883\nlistener 1883 127.0.0.1\nper_listener_settings true\n",
    }
    found = mosquitto.own(texts)
    assert found.listeners == (1884,) and found.anonymous is False and not found.per_listener
    with pytest.raises(Refused, match=r"include_dir /etc/mosquitto/conf\.d"):
        plan(BROKER, texts={services.MOSQUITTO_MAIN: "port 1883\n"}, **SITE)
    with pytest.raises(Refused, match="a listener of its own on port 8883"):
        broker("listener 8883\n")


def test_another_ca_and_another_revoked_client_restart_the_broker_and_a_newer_list_does_not() -> None:
    other, other_key = authority(name="Other CA")
    first = broker(client_ca=CA, client_crl=crl(CA, CA_KEY))
    newer = broker(client_ca=CA, client_crl=crl(CA, CA_KEY, age=1))
    assert text(first, services.MOSQUITTO) == text(newer, services.MOSQUITTO)
    seen = {
        text(one, services.MOSQUITTO)
        for one in (
            first,
            broker(client_ca=f"{CA}{other}", client_crl=crl(CA, CA_KEY) + crl(other, other_key)),
            broker(client_ca=CA, client_crl=crl(CA, CA_KEY, 7)),
        )
    }
    assert len(seen) == 3, "it goes on with the clients' CA, or the client, of before"
