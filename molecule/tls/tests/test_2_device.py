"""certbot on the device: every challenge, and everything that can go wrong on the way."""

from __future__ import annotations

import pytest
from acme import EAB_KEY, EAB_KID
from fleet import DEBIAN, Fleet, until

ALL = ":".join(DEBIAN)
# Each device its own challenge; the one behind lighttpd has its plain interface moved to loopback.
SITE = {
    "mode": "device",
    "challenge": "{{ {'tls11': 'webroot', 'tls12': 'nginx', 'tls13': 'standalone'}[inventory_hostname] }}",
    "front": "{{ 'none' if inventory_hostname == 'tls13' else 'nginx' }}",
    "upstream": "{{ '127.0.0.1:8080' if inventory_hostname == 'tls11' else '' }}",
}
HOOK = """#!/usr/bin/python3
import json, os, sys, urllib.request
name = f"_acme-challenge.{os.environ['CERTBOT_DOMAIN']}."
what, value = ("set-txt", {"value": os.environ["CERTBOT_VALIDATION"]}) if sys.argv[1] == "auth" else ("clear-txt", {})
body = json.dumps({"host": name, **value}).encode()
urllib.request.urlopen(urllib.request.Request(f"http://@ACME@:8055/{what}", body), timeout=10)
"""


@pytest.fixture(scope="module")
def site(fleet: Fleet) -> dict[str, object]:
    fleet.sh("tls13", "systemctl stop nginx")
    return {**SITE, **fleet.from_acme()}


def test_check_mode_contacts_nobody(fleet: Fleet, site: dict[str, object]) -> None:
    before = fleet.sh("vantage-lan", "cat /tmp/acme.log")
    run = fleet.play(ALL, "--check", **site)
    assert run.status == 0, run.output
    assert all(run[device]["state"] == "would_change" for device in DEBIAN)
    assert fleet.sh("tls11", "ls /etc/letsencrypt/live 2>/dev/null || :") == ""
    assert fleet.sh("vantage-lan", "cat /tmp/acme.log") == before


def test_each_challenge_brings_a_certificate_that_its_own_clients_trust(
    fleet: Fleet, site: dict[str, object]
) -> None:
    before = fleet.acme.orders()
    run = fleet.play(ALL, **site)
    assert run.status == 0, run.output
    print({device: run[device]["issue_seconds"] for device in DEBIAN})
    assert fleet.acme.orders() == before + 3
    root = fleet.acme.issuer()
    assert "Gateway" in fleet.get("tls11", root) and "Gateway" in fleet.get("tls12", root)
    for device in DEBIAN:
        assert run[device]["certificate"]["names"] == [f"{device}.lab"]
        mode = fleet.sh(device, "stat -c '%a %U' /etc/sallyport/tls/privkey.pem").split()
        assert mode == ["600", "root"]
        assert fleet.sh(device, "systemctl is-enabled certbot.timer").strip() == "enabled"
    assert not fleet.plain("tls11", 8080), "the plain interface still answers from the network"


def test_a_converged_run_costs_no_order(fleet: Fleet, site: dict[str, object]) -> None:
    before = fleet.sh("vantage-lan", "cat /tmp/acme.log")
    run = fleet.play(ALL, **site)
    assert run.status == 0 and all(run[device]["state"] == "unchanged" for device in DEBIAN), run.output
    assert fleet.sh("vantage-lan", "cat /tmp/acme.log") == before


def test_a_name_more_or_less_gets_a_new_certificate(fleet: Fleet, site: dict[str, object]) -> None:
    before = fleet.acme.orders()
    fleet.acme.dns("panel.lab", fleet.address("tls11"))
    run = fleet.play("tls11", **site, names=["tls11.lab", "panel.lab"])
    assert run.status == 0 and sorted(run["tls11"]["certificate"]["names"]) == ["panel.lab", "tls11.lab"]
    run = fleet.play("tls11", **site)
    assert run.status == 0 and run["tls11"]["certificate"]["names"] == ["tls11.lab"], run.output
    assert fleet.acme.orders() == before + 2


def test_a_refused_challenge_leaves_the_old_certificate_and_says_what_the_ca_wants(
    fleet: Fleet, site: dict[str, object]
) -> None:
    before = fleet.served("tls11")
    fleet.acme.dns("elsewhere.lab", fleet.address("tls13"))
    run = fleet.play("tls11", **site, names=["tls11.lab", "elsewhere.lab"])
    assert run["tls11"]["failed"] and "the old certificate is still served" in run["tls11"]["msg"]
    assert "each must lead to this device's port 80" in run["tls11"]["msg"]
    assert fleet.served("tls11") == before


def test_a_clock_in_1970_stops_the_role_before_it_asks_the_ca(fleet: Fleet, site: dict[str, object]) -> None:
    before = fleet.sh("vantage-lan", "cat /tmp/acme.log")
    shim = 'case "$*" in +%s) echo 86400 ;; *) exec /bin/date "$@" ;; esac'
    fleet.sh(
        "tls11", f"printf '#!/bin/sh\\n%s\\n' '{shim}' >/usr/local/bin/date; chmod +x /usr/local/bin/date"
    )
    try:
        run = fleet.play("tls11", **site, names=["tls11.lab", "panel.lab"])
    finally:
        fleet.sh("tls11", "rm /usr/local/bin/date")
    assert run["tls11"]["state"] == "refused" and "its clock says 1970-01-02" in run["tls11"]["msg"]
    assert "time_sync" in run["tls11"]["msg"]
    assert fleet.sh("vantage-lan", "cat /tmp/acme.log") == before


def test_a_full_disk_leaves_the_old_certificate(fleet: Fleet, site: dict[str, object]) -> None:
    before = fleet.served("tls11")
    fleet.sh("tls11", "cp -a /etc/letsencrypt /var/kept; mount -t tmpfs -o size=128k none /etc/letsencrypt")
    fleet.sh(
        "tls11",
        "cp -a /var/kept/. /etc/letsencrypt/; dd if=/dev/zero of=/etc/letsencrypt/fill bs=1k 2>/dev/null || :",
    )
    try:
        run = fleet.play("tls11", **site, names=["tls11.lab", "panel.lab"])
    finally:
        fleet.sh("tls11", "umount /etc/letsencrypt; rm -r /var/kept")
    assert run["tls11"]["failed"] and "the old certificate is still served" in run["tls11"]["msg"], run.output
    assert "No space left" in run["tls11"]["msg"] or "disk is full" in run["tls11"]["msg"]
    assert fleet.served("tls11") == before


def test_killed_between_issue_and_deployment_the_next_run_finishes_without_asking_again(
    fleet: Fleet, site: dict[str, object]
) -> None:
    before = fleet.served("tls11")
    # certbot as its timer runs it, up to where it would have called the hook.
    fleet.sh(
        "tls11",
        "REQUESTS_CA_BUNDLE=/etc/sallyport/tls/acme-root.pem certbot renew -q --force-renewal --no-directory-hooks "
        "--deploy-hook true --no-random-sleep-on-renew; "
        "sed -i 's|^renew_hook.*|renew_hook = /bin/sh /etc/sallyport/tls/deploy certbot|' /etc/letsencrypt/renewal/tls11.lab.conf",
    )
    assert fleet.served("tls11") == before
    orders = fleet.acme.orders()
    run = fleet.play("tls11", **site)
    assert run.status == 0 and "waited" in run["tls11"]["msg"], run.output
    assert fleet.served("tls11") != before and fleet.acme.orders() == orders


def test_a_renewal_drops_no_connection_and_needs_nobody(fleet: Fleet, site: dict[str, object]) -> None:
    root = fleet.acme.issuer()
    before = fleet.served("tls12")
    clients = [fleet.connect("tls12", root) for _ in range(20)]
    for client in clients:
        client.sendall(b"GET / HTTP/1.1\r\nHost: tls12.lab\r\n")  # and not yet the rest
    # Due, as its unit sees it: the timer's own command line.
    fleet.sh(
        "tls12",
        "sed -i 's/^renew_before_expiry.*/renew_before_expiry = 100 days/' /etc/letsencrypt/renewal/tls12.lab.conf",
    )
    fleet.sh(
        "tls12",
        "printf '[Service]\\nExecStart=\\nExecStart=/usr/bin/certbot -q renew --no-random-sleep-on-renew\\n' "
        ">/etc/systemd/system/certbot.service.d/test.conf; systemctl daemon-reload; systemctl start certbot.service",
    )
    try:
        assert until(lambda: fleet.served("tls12") != before)
        for client in clients:
            client.sendall(b"Connection: close\r\n\r\n")
            answer = b""
            while block := client.recv(65536):
                answer += block
            assert b"Gateway" in answer
    finally:
        for client in clients:
            client.close()
        fleet.sh("tls12", "rm /etc/systemd/system/certbot.service.d/test.conf; systemctl daemon-reload")
    assert fleet.sh("tls12", "cat /etc/sallyport/tls/status").startswith("ok ")


def test_a_service_that_refuses_keeps_the_old_certificate_and_the_next_run_says_so(
    fleet: Fleet, site: dict[str, object]
) -> None:
    before = fleet.served("tls11")
    fleet.sh("tls11", "echo 'no such directive;' >/etc/nginx/conf.d/zz-broken.conf")
    try:
        fleet.sh(
            "tls11",
            "REQUESTS_CA_BUNDLE=/etc/sallyport/tls/acme-root.pem certbot renew -q --force-renewal "
            "--no-random-sleep-on-renew 2>&1 || :",
        )
        assert fleet.served("tls11") == before
        status = fleet.sh("tls11", "cat /etc/sallyport/tls/status")
        assert status.startswith("failed ") and "the old certificate is still served" in status
        orders = fleet.acme.orders()
        run = fleet.play("tls11", **site)
        assert run["tls11"]["failed"] and "nginx refuses its configuration" in run["tls11"]["msg"]
        assert run["tls11"]["verdict"]["state"] == "failing"
    finally:
        fleet.sh("tls11", "rm /etc/nginx/conf.d/zz-broken.conf")
    run = fleet.play("tls11", **site)
    assert run.status == 0 and run["tls11"]["verdict"]["state"] == "ok", run.output
    assert fleet.served("tls11") != before and fleet.acme.orders() == orders


def test_port_80_opens_for_the_challenge_only(fleet: Fleet, site: dict[str, object]) -> None:
    run = fleet.play("tls11", **site, gate=True)
    assert run["tls11"]["state"] == "refused" and "defaults: {gate: [80]}" in run["tls11"]["msg"]
    closed = fleet.play("tls11", playbook="molecule/tls/firewall.yml", action="firewall")
    assert closed.status == 0, closed.output
    try:
        assert not fleet.plain("tls11") and fleet.plain("tls11", 443)
        fleet.acme.dns("panel.lab", fleet.address("tls11"))
        run = fleet.play("tls11", **site, gate=True, names=["tls11.lab", "panel.lab"])
        assert run.status == 0, run.output
        assert not fleet.plain("tls11"), "port 80 still answers after the challenge"
        # What closes it is the kernel, whatever becomes of certbot.
        fleet.sh("tls11", "/bin/sh /etc/sallyport/tls/deploy open")
        assert fleet.plain("tls11")
        listed = fleet.sh("tls11", "nft list set inet sallyport gate")
        assert "80 timeout 10m expires " in listed or "80 expires " in listed, listed
    finally:
        fleet.sh("tls11", "nft delete table inet sallyport 2>/dev/null || :")


def test_the_dry_run_asks_the_sites_own_directory(fleet: Fleet, site: dict[str, object]) -> None:
    before = fleet.served("tls11")
    run = fleet.play("tls11", "--tags", "tls_dry_run", action="tls_dry_run", **site)
    assert run.status == 0 and run["tls11"]["msg"] == "the next renewal would work", run.output
    assert fleet.served("tls11") == before


def test_a_ca_that_is_down_leaves_the_old_certificate_and_the_next_run_finishes(
    fleet: Fleet, site: dict[str, object]
) -> None:
    before = fleet.served("tls11")
    fleet.acme.stop()
    try:
        run = fleet.play("tls11", **site, names=["tls11.lab", "late.lab"])
    finally:
        fleet.acme.start()
    assert run["tls11"]["failed"] and "the old certificate is still served" in run["tls11"]["msg"], run.output
    assert "can be reached" in run["tls11"]["msg"]
    assert fleet.served("tls11") == before
    fleet.acme.dns("late.lab", fleet.address("tls11"))
    run = fleet.play("tls11", **site, names=["tls11.lab", "late.lab"])
    assert run.status == 0 and "Gateway" in fleet.get("tls11", fleet.acme.issuer()), run.output


def test_dns_01_with_an_account_that_is_bound_to_a_contract(fleet: Fleet, site: dict[str, object]) -> None:
    fleet.acme.start(bindings=True)
    hook = HOOK.replace("@ACME@", fleet.acme.address)
    fleet.sh("tls13", "rm -rf /etc/letsencrypt/accounts")
    try:
        values = {**site, "challenge": "dns", "dns_hook": hook, "names": ["tls13.lab", "*.tls13.lab"]}
        run = fleet.play("tls13", **values)
        assert run["tls13"]["failed"] and "acme_eab_kid" in run["tls13"]["msg"], run.output
        bound = {"acme_eab_kid": EAB_KID, "acme_eab_key": EAB_KEY}
        run = fleet.play("tls13", "-vvv", "--diff", **values, **bound)
        assert run.status == 0, run.output
        assert EAB_KEY not in run.output
        assert sorted(run["tls13"]["certificate"]["names"]) == ["*.tls13.lab", "tls13.lab"]
    finally:
        fleet.acme.start(bindings=False)
