"""certbot on the controller, for devices that cannot reach a CA or be reached by one."""

from __future__ import annotations

import functools
import http.server
import socket
import threading
from pathlib import Path

import pytest
from fleet import DEBIAN, DEVICES, Fleet
from test_2_device import HOOK

ALL = ":".join(DEVICES)


@pytest.fixture(scope="module")
def site(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    fleet.sh("tls13", "systemctl start nginx")
    return {
        "mode": "controller",
        "challenge": "dns",
        "dns_hook": HOOK.replace("@ACME@", fleet.acme.address).replace(
            "/usr/bin/python3", "/usr/bin/env python3"
        ),
        "controller_dir": str(tmp_path_factory.mktemp("acme")),
        "upstream": "{{ '127.0.0.1:80' if inventory_hostname == 'tlsvendor' else '' }}",
        **fleet.from_acme(),
    }


def test_check_mode_contacts_nobody_from_here_either(fleet: Fleet, site: dict[str, object]) -> None:
    before = fleet.sh("vantage-lan", "cat /tmp/acme.log")
    with fleet.untouched(*DEVICES):
        run = fleet.play(ALL, "--check", "--diff", **site)
    assert run.status == 0 and all(run[device]["state"] == "would_change" for device in DEVICES), run.output
    assert fleet.sh("vantage-lan", "cat /tmp/acme.log") == before
    assert list(Path(str(site["controller_dir"])).iterdir()) == []


def test_a_certificate_is_delivered_and_the_result_says_where_its_key_was_made(
    fleet: Fleet, site: dict[str, object]
) -> None:
    before = fleet.acme.orders()
    run = fleet.play(ALL, "-vvv", "--diff", **site)
    assert run.status == 0, run.output
    assert {device: run[device]["key_made"] for device in DEVICES} == {
        **dict.fromkeys(DEBIAN, "device"),
        "tlsvendor": "controller",
    }
    root = fleet.acme.issuer()
    for device in DEVICES:
        assert "Gateway" in fleet.get(device, root)
        assert fleet.sh(device, "cat /etc/sallyport/tls/privkey.pem").splitlines()[1] not in run.output
    assert fleet.acme.orders() == before + len(DEVICES)
    assert fleet.plain("tls11", 8080), "what was behind the front of before is still on loopback"
    kept = [path for path in Path(str(site["controller_dir"])).rglob("*") if path.is_file()]
    assert kept and all("accounts" in path.parts or path.name == "lock" for path in kept)


def test_what_certbot_on_a_device_had_takes_the_place_of_nothing_any_more(
    fleet: Fleet, site: dict[str, object]
) -> None:
    for device in DEBIAN:
        confs = fleet.sh(device, "cat /etc/letsencrypt/renewal/*.conf")
        assert "autorenew = False" in confs and "sallyport/tls/deploy" not in confs
        left = "cd /etc/sallyport/tls; ls dns-hook dns-credentials certbot.ini lineage 2>/dev/null || :"
        assert fleet.sh(device, left) == ""
    before, orders = fleet.served("tls11"), fleet.acme.orders()
    due = (
        "sed -i 's/^renew_before_expiry.*/renew_before_expiry = 9000 hours/' /etc/letsencrypt/renewal/*.conf"
    )
    fleet.sh("tls11", f"{due}; certbot renew -q --no-random-sleep-on-renew")
    assert fleet.acme.orders() == orders, "a certificate that nobody wants was renewed"
    fleet.sh("tls11", "RENEWED_LINEAGE=/etc/letsencrypt/live/tls11.lab sh /etc/sallyport/tls/deploy certbot")
    assert fleet.served("tls11") == before


def test_a_converged_run_asks_nobody(fleet: Fleet, site: dict[str, object]) -> None:
    before = fleet.sh("vantage-lan", "cat /tmp/acme.log")
    run = fleet.play("tls13:tlsvendor", **site)
    assert run["tls13"]["state"] == run["tlsvendor"]["state"] == "unchanged", run.output
    assert fleet.sh("vantage-lan", "cat /tmp/acme.log") == before


def test_a_ca_that_is_down_or_a_device_that_refuses_costs_no_key_and_no_second_order(
    fleet: Fleet, site: dict[str, object]
) -> None:
    before = {device: fleet.served(device) for device in ("tls13", "tlsvendor")}
    names = ["{{ inventory_hostname }}.lab", "{{ inventory_hostname }}.panel.lab"]
    with fleet.acme.down():
        run = fleet.play("tls13:tlsvendor", **site, names=names)
    for device, fingerprint in before.items():
        assert run[device]["failed"] and "the old certificate is still served" in run[device]["msg"]
        assert fleet.served(device) == fingerprint
    waiting = {device: fleet.sh(device, "cat /etc/sallyport/tls/privkey.next") for device in before}
    orders = fleet.acme.orders()
    broken = "/etc/nginx/conf.d/zz-broken.conf"
    fleet.sh("tls13", f"echo 'no such directive;' >{broken}")
    try:
        run = fleet.play("tls13", **site, names=names)
        assert run["tls13"]["failed"] and "nginx refuses" in run["tls13"]["msg"], run.output
        assert fleet.served("tls13") == before["tls13"] and fleet.acme.orders() == orders + 1
    finally:
        fleet.sh("tls13", f"rm {broken}")
    run = fleet.play("tls13:tlsvendor", **site, names=names)
    assert run.status == 0 and fleet.acme.orders() == orders + len(before), run.output
    for device, fingerprint in before.items():
        assert fleet.sh(device, "cat /etc/sallyport/tls/privkey.pem") == waiting[device]
        assert fleet.sh(device, "ls /etc/sallyport/tls/*.next 2>/dev/null || :") == ""
        assert fleet.served(device) != fingerprint


def controllers_address(fleet: Fleet) -> str:
    """As the CA sees it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((fleet.acme.address, 9))
        return str(probe.getsockname()[0])


def test_http_01_proves_a_name_that_leads_to_the_controller(
    fleet: Fleet, site: dict[str, object], tmp_path: Path
) -> None:
    here = controllers_address(fleet)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    before = fleet.served("tlsvendor")
    with http.server.ThreadingHTTPServer((here, 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        fleet.acme.start(http_port=server.server_port)
        try:
            fleet.acme.dns("panel.lab", here)
            values = {**site, "challenge": "webroot", "webroot": str(tmp_path), "names": ["panel.lab"]}
            run = fleet.play("tlsvendor", **values)
        finally:
            server.shutdown()
            fleet.acme.start()
    assert run.status == 0 and run["tlsvendor"]["certificate"]["names"] == ["panel.lab"], run.output
    assert fleet.served("tlsvendor") != before


def test_http_01_is_answered_by_certbot_itself_where_nothing_else_listens(
    fleet: Fleet, site: dict[str, object]
) -> None:
    here = controllers_address(fleet)
    with socket.create_server((here, 0)) as free:
        port = free.getsockname()[1]
    fleet.acme.start(http_port=port)
    try:
        fleet.acme.dns("alone.lab", here)
        values = {**site, "challenge": "standalone", "http_port": port, "names": ["alone.lab"]}
        run = fleet.play("tlsvendor", **values)
    finally:
        fleet.acme.start()
    assert run.status == 0 and run["tlsvendor"]["certificate"]["names"] == ["alone.lab"], run.output
