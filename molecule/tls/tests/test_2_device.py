"""certbot on the device: every challenge, and everything that can go wrong on the way."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from acme import EAB_KEY, EAB_KID, FORBIDDEN
from fleet import DEBIAN, FAKETIME, Fleet, Run, until

from lab.fleet import CHECKOUT

ALL = ":".join(DEBIAN)
CHALLENGES = ("webroot", "nginx", "standalone")
POLICY = ("-e", f"sallyport_policy_dir={CHECKOUT}/molecule/tls/policy")
RENEW = "REQUESTS_CA_BUNDLE=/etc/sallyport/tls/acme-root.pem certbot renew -q --no-random-sleep-on-renew"
HOUR, LIFE = 3600, 30
NAME = "{{ inventory_hostname }}"
HOOK = """#!/usr/bin/python3
import json, os, sys, urllib.request
name = f"_acme-challenge.{os.environ['CERTBOT_DOMAIN']}."
what, value = ("set-txt", {"value": os.environ["CERTBOT_VALIDATION"]}) if sys.argv[1] == "auth" else ("clear-txt", {})
body = json.dumps({"host": name, **value}).encode()
urllib.request.urlopen(urllib.request.Request(f"http://@ACME@:8055/{what}", body), timeout=10)
"""


def challenges(turn: int) -> dict[str, str]:
    """Each device another challenge; in three turns each has had all of them. In turn 0 tls13 has no front."""
    return {device: CHALLENGES[(index + turn) % len(CHALLENGES)] for index, device in enumerate(DEBIAN)}


def turned(fleet: Fleet, turn: int) -> dict[str, object]:
    """Variables of a turn; the one behind lighttpd has its plain interface moved to loopback."""
    chosen = challenges(turn)
    for device, challenge in chosen.items():
        fleet.sh(device, f"systemctl {'stop' if challenge == 'standalone' else 'start'} nginx")
    return {
        "mode": "device",
        "challenge": f"{{{{ {chosen}[inventory_hostname] }}}}",
        "front": "{{ 'none' if tls_challenge == 'standalone' else 'nginx' }}",
        "upstream": "{{ '127.0.0.1:8080' if inventory_hostname == 'tls11' else '' }}",
        **fleet.from_acme(),
    }


@pytest.fixture(scope="module")
def site(fleet: Fleet) -> dict[str, object]:
    return turned(fleet, 0)


def test_check_mode_contacts_nobody(fleet: Fleet) -> None:
    before = fleet.sh("vantage-lan", "cat /tmp/acme.log")
    site = turned(fleet, 1)
    with fleet.untouched(*DEBIAN):
        run = fleet.play(ALL, "--check", "--diff", **site)
    assert run.status == 0, run.output
    assert all(run[device]["state"] == "would_change" for device in DEBIAN)
    assert fleet.sh("vantage-lan", "cat /tmp/acme.log") == before


DEFAULT_SITE = "/etc/nginx/sites-available/default"
FOR_SOME = " ".join(
    f"location /{who}/ {{ {rule}; alias /var/www/html/; }}"
    for who, rule in (("device", "allow 127.0.0.0/8; deny all"), ("others", "deny 127.0.0.0/8"))
)


def test_what_cannot_be_had_is_refused_before_the_ca_is_asked_and_a_first_issue_that_fails_takes_no_page_away(
    fleet: Fleet,
) -> None:
    asked = fleet.sh("vantage-lan", "cat /tmp/acme.log")
    site = {**turned(fleet, 0), "challenge": "webroot", "upstream": "", "names": ["tls11.lab"]}
    fleet.sh(
        "tls11",
        f"cp {DEFAULT_SITE} /root/default && sed -i 's|^[[:space:]]*location / {{|{FOR_SOME}&|' {DEFAULT_SITE}",
    )
    with fleet.untouched("tls11"):
        run = fleet.play("tls11", **site, mosquitto_port=8883)
        assert run["tls11"]["state"] == "refused" and "has no mosquitto" in run["tls11"]["msg"], run.output
        run = fleet.play("tls11", *POLICY, **site)
        assert "admits nobody to port 80, to which the CA comes" in run["tls11"]["msg"], run.output
    assert fleet.sh("vantage-lan", "cat /tmp/acme.log") == asked
    run = fleet.play("tls11", **{**site, "names": ["tls11.lab", FORBIDDEN]})
    assert run["tls11"]["failed"] and "there is no certificate yet" in run["tls11"]["msg"], run.output
    for host in ("tls11.lab", fleet.address("tls11")):
        assert "Gateway" in fleet.page("tls11", host), f"the page of before is gone for {host}"
        assert "403" in fleet.page("tls11", host, "/device/"), (
            f"a page for the device alone is shown to all as {host}"
        )
        assert "Gateway" in fleet.page("tls11", host, "/others/"), (
            f"the device itself seems to ask for {host}"
        )
    assert "proxy_pass" in fleet.sh("tls11", "cat /etc/nginx/conf.d/sallyport-tls.conf")
    fleet.sh("tls11", f"cat /root/default >{DEFAULT_SITE} && rm /root/default && systemctl reload nginx")


def test_each_challenge_brings_a_certificate_that_its_own_clients_trust(fleet: Fleet) -> None:
    before = fleet.acme.orders()
    run = fleet.play(ALL, "-vvv", "--diff", **turned(fleet, 1))
    assert run.status == 0, run.output
    assert fleet.acme.orders() == before + 3
    root = fleet.acme.issuer()
    for device, challenge in challenges(1).items():
        assert run[device]["certificate"]["names"] == [f"{device}.lab"]
        mode = fleet.sh(device, "stat -c '%a %U' /etc/sallyport/tls/privkey.pem").split()
        assert mode == ["600", "root"]
        key = fleet.sh(device, "cat /etc/sallyport/tls/privkey.pem").splitlines()[1]
        assert key not in run.output, "the key left the device"
        timer = fleet.sh(
            device, "systemctl is-enabled certbot.timer; systemctl show -P RandomizedDelayUSec certbot.timer"
        )
        assert timer.split() == ["enabled", "12h"]
        if challenge != "standalone":
            assert "Gateway" in fleet.get(device, root)
            assert fleet.redirected(device, "/panel?x=1") == f"https://{device}.lab/panel?x=1"
    assert not fleet.plain("tls11", 8080), "the plain interface still answers from the network"
    with fleet.connect("tls11", root) as client:
        size = 2 << 20
        client.sendall(f"POST / HTTP/1.1\r\nHost: tls11.lab\r\nContent-Length: {size}\r\n\r\n".encode())
        assert b" 413 " not in client.recv(4096), "an upload of 2 MB does not get through the front"


def test_a_name_more_or_less_and_another_challenge_get_a_new_certificate(fleet: Fleet) -> None:
    before = fleet.acme.orders()
    for device in DEBIAN:
        fleet.acme.dns(f"panel.{device}.lab", fleet.address(device))
    run = fleet.play(ALL, **turned(fleet, 2), names=[f"panel.{NAME}.lab", f"{NAME}.lab"], key_type="rsa")
    assert run.status == 0, run.output
    for device in DEBIAN:
        assert sorted(run[device]["certificate"]["names"]) == [f"panel.{device}.lab", f"{device}.lab"]
        # certbot has one certificate, whatever it is for: what is left behind would renew besides.
        assert fleet.sh(device, "ls /etc/letsencrypt/renewal").split() == [f"{device}.lab.conf"]
    run = fleet.play(ALL, **turned(fleet, 0))
    assert run.status == 0, run.output
    root = fleet.acme.issuer()
    for device, challenge in challenges(0).items():
        assert run[device]["certificate"]["names"] == [f"{device}.lab"]
        assert challenge == "standalone" or "Gateway" in fleet.get(device, root)
    assert fleet.acme.orders() == before + 6


def again(fleet: Fleet, limit: str, **site: Any) -> None:
    """A run that finds everything as it is wanted: nothing is changed, and the CA hears of nobody."""
    before = fleet.sh("vantage-lan", "cat /tmp/acme.log")
    run = fleet.play(limit, **site)
    states = {device: run[device]["state"] for device in limit.split(":")}
    assert run.status == 0 and set(states.values()) == {"unchanged"}, run.output
    assert fleet.sh("vantage-lan", "cat /tmp/acme.log") == before


def test_a_converged_run_costs_no_order(fleet: Fleet, site: dict[str, object]) -> None:
    again(fleet, ALL, **site)


def test_a_refused_challenge_leaves_the_old_certificate_and_says_what_the_ca_wants(
    fleet: Fleet, site: dict[str, object]
) -> None:
    before = {device: fleet.served(device) for device in ("tls11", "tls12")}
    fleet.acme.dns("elsewhere.lab", fleet.address("tls13"))
    names = {"tls11": ["tls11.lab", "elsewhere.lab"], "tls12": ["tls12.lab", FORBIDDEN]}
    run = fleet.play("tls11:tls12", **site, names=f"{{{{ {names}[inventory_hostname] }}}}")
    for device, fingerprint in before.items():
        assert run[device]["failed"] and "the old certificate is still served" in run[device]["msg"]
        assert fleet.served(device) == fingerprint
    assert "each must lead to this device's port 80" in run["tls11"]["msg"]
    assert "the CA does not issue for one of the names" in run["tls12"]["msg"], run["tls12"]["msg"]
    fleet.acme.dns("elsewhere.lab", fleet.address("tls11"))
    run = fleet.play("tls11", **site, names=names["tls11"])
    assert run.status == 0 and fleet.served("tls11") != before["tls11"], run.output


def test_a_clock_in_1970_stops_the_role_before_it_asks_the_ca(fleet: Fleet, site: dict[str, object]) -> None:
    """By a program in the place of `date`, and by libfaketime in every process of the session."""
    before = fleet.sh("vantage-lan", "cat /tmp/acme.log")
    served = {device: fleet.served(device) for device in ("tls11", "tls12")}
    shim = 'case "$*" in +%s) echo 86400 ;; *) exec /bin/date "$@" ;; esac'
    fleet.sh(
        "tls11", f"printf '#!/bin/sh\\n%s\\n' '{shim}' >/usr/local/bin/date; chmod +x /usr/local/bin/date"
    )
    fleet.sh(
        "tls12", f"printf 'LD_PRELOAD=%s\\nFAKETIME=@1970-01-02 00:00:00\\n' {FAKETIME} >/etc/environment"
    )
    afresh = {"ANSIBLE_SSH_ARGS": "-o ControlMaster=no"}  # a session of before has the environment of before
    names = [f"{NAME}.lab", f"panel.{NAME}.lab"]
    try:
        run = fleet.play("tls11:tls12", environment=afresh, **site, names=names)
    finally:
        fleet.sh("tls11", "rm /usr/local/bin/date")
        fleet.sh("tls12", "rm /etc/environment")
    for device, fingerprint in served.items():
        assert run[device]["state"] == "refused" and "its clock says 1970-01-02" in run[device]["msg"]
        assert "time_sync" in run[device]["msg"]
        assert fleet.served(device) == fingerprint
    assert fleet.sh("vantage-lan", "cat /tmp/acme.log") == before
    run = fleet.play("tls11:tls12", **site, names=names)
    assert run.status == 0 and fleet.served("tls12") != served["tls12"], run.output


def test_a_full_disk_leaves_the_old_certificate(fleet: Fleet, site: dict[str, object]) -> None:
    before = fleet.served("tls11")
    fleet.sh("tls11", "cp -a /etc/letsencrypt /var/kept; mount -t tmpfs -o size=1m none /etc/letsencrypt")
    fleet.sh(
        "tls11",
        "cp -a /var/kept/. /etc/letsencrypt/; dd if=/dev/zero of=/etc/letsencrypt/fill bs=1k 2>/dev/null || :",
    )
    try:
        run = fleet.play("tls11", **site)
    finally:
        fleet.sh("tls11", "umount /etc/letsencrypt; rm -r /var/kept")
    assert run["tls11"]["failed"] and "the old certificate is still served" in run["tls11"]["msg"], run.output
    assert "No space left" in run["tls11"]["msg"] or "disk is full" in run["tls11"]["msg"]
    assert fleet.served("tls11") == before
    run = fleet.play("tls11", **site)
    assert run.status == 0 and run["tls11"]["certificate"]["names"] == ["tls11.lab"], run.output
    assert fleet.served("tls11") != before


def test_killed_between_issue_and_deployment_the_next_run_finishes_without_asking_again(
    fleet: Fleet, site: dict[str, object]
) -> None:
    before = fleet.served("tls11")
    deploy = "/etc/sallyport/tls/deploy"
    fleet.sh("tls11", f"mv {deploy} {deploy}.kept; echo 'pkill -KILL -x certbot' >{deploy}")
    try:
        killed = fleet.sh("tls11", f"{RENEW} --force-renewal || echo ended by $?", check=False)
    finally:
        fleet.sh("tls11", f"mv {deploy}.kept {deploy}")
    assert "ended by 137" in killed and fleet.served("tls11") == before
    orders = fleet.acme.orders()
    run = fleet.play("tls11", **site)
    assert run.status == 0 and "waited" in run["tls11"]["msg"], run.output
    assert fleet.served("tls11") != before and fleet.acme.orders() == orders


def test_a_service_that_refuses_keeps_the_old_certificate_and_the_next_run_says_so(
    fleet: Fleet, site: dict[str, object]
) -> None:
    before = fleet.served("tls11")
    fleet.sh("tls11", "echo 'no such directive;' >/etc/nginx/conf.d/zz-broken.conf")
    try:
        fleet.sh("tls11", f"{RENEW} --force-renewal 2>&1 || :")
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
    """By ipset on the older device, by nft on the other."""
    both = ("tls11", "tls12")
    run = fleet.play("tls11:tls12", **site, gate=True)
    for device in both:
        assert run[device]["state"] == "refused" and "defaults: {gate: [80]}" in run[device]["msg"]
    closed = fleet.play("tls11:tls12", playbook="molecule/tls/firewall.yml", action="firewall")
    assert closed.status == 0, closed.output
    try:
        for device in both:
            assert not fleet.plain(device) and fleet.plain(device, 443)
            fleet.acme.dns(f"gate.{device}.lab", fleet.address(device))
        run = fleet.play("tls11:tls12", **site, gate=True, names=[f"{NAME}.lab", f"gate.{NAME}.lab"])
        assert run.status == 0, run.output
        # The same names in another order, and the same folder with a slash more, are nothing to a CA.
        same = {"names": [f"gate.{NAME}.lab", f"{NAME}.lab"], "webroot": "/var/lib//sallyport-acme/"}
        asked = fleet.sh("vantage-lan", "cat /tmp/acme.log")
        run = fleet.play("tls11:tls12", **{**site, **same}, gate=True)
        assert run.status == 0 and fleet.sh("vantage-lan", "cat /tmp/acme.log") == asked, run.output
        for device in both:
            assert not fleet.plain(device), "port 80 still answers after the challenge"
            # What closes it is the kernel, whatever becomes of certbot.
            fleet.sh(device, "/bin/sh /etc/sallyport/tls/deploy open")
            assert fleet.plain(device)
        listed = fleet.sh("tls12", "nft list set inet sallyport gate")
        assert "80 timeout 10m expires " in listed or "80 expires " in listed, listed
        left = int(fleet.sh("tls11", "ipset list sallyport-gate").rpartition("timeout ")[2])
        assert 0 < left <= 600
    finally:
        fleet.sh("tls12", "nft delete table inet sallyport 2>/dev/null || :")
        fleet.sh("tls11", "for one in iptables ip6tables; do $one -t mangle -F INPUT; done")


def test_the_dry_run_asks_the_sites_own_directory(fleet: Fleet, site: dict[str, object]) -> None:
    before = fleet.served("tls11")
    run = fleet.play("tls11", "--tags", "tls_dry_run", action="tls_dry_run", **site)
    assert run.status == 0 and run["tls11"]["msg"] == "the next renewal would work", run.output
    assert fleet.served("tls11") == before


def test_a_ca_that_is_down_leaves_the_old_certificate_and_the_next_run_finishes(
    fleet: Fleet, site: dict[str, object]
) -> None:
    before = fleet.served("tls11")
    with fleet.acme.down():
        run = fleet.play("tls11", **site, names=["tls11.lab", "late.lab"])
    assert run["tls11"]["failed"] and "the old certificate is still served" in run["tls11"]["msg"], run.output
    assert "can be reached" in run["tls11"]["msg"]
    assert fleet.served("tls11") == before
    fleet.acme.dns("late.lab", fleet.address("tls11"))
    run = fleet.play("tls11", **site, names=["tls11.lab", "late.lab"])
    assert run.status == 0 and "Gateway" in fleet.get("tls11", fleet.acme.issuer()), run.output


def test_dns_01_with_an_account_that_is_bound_to_a_contract(fleet: Fleet, site: dict[str, object]) -> None:
    fleet.acme.start(bindings=True)
    hook = HOOK.replace("@ACME@", fleet.acme.address)
    for device in DEBIAN:
        fleet.sh(device, "rm -rf /etc/letsencrypt/accounts")
    try:
        values = {**site, "challenge": "dns", "dns_hook": hook, "names": [f"{NAME}.lab", f"*.{NAME}.lab"]}
        run = fleet.play("tls13", **values)
        assert run["tls13"]["failed"] and "acme_eab_kid" in run["tls13"]["msg"], run.output
        bound = {"acme_eab_kid": EAB_KID, "acme_eab_key": EAB_KEY}
        run = fleet.play(ALL, "-vvv", "--diff", **values, **bound)
        assert run.status == 0, run.output
        assert EAB_KEY not in run.output
        for device in DEBIAN:
            assert sorted(run[device]["certificate"]["names"]) == [f"*.{device}.lab", f"{device}.lab"]
        again(fleet, ALL, **values, **bound)
    finally:
        fleet.acme.start(bindings=False)


def test_a_dns_plugin_proves_the_names_with_its_credentials(fleet: Fleet, site: dict[str, object]) -> None:
    credentials = fleet.acme.take_updates()
    values = {
        **site,
        "challenge": "dns",
        "dns_plugin": "rfc2136",
        "dns_propagation": 1,
        "names": ["*.tls13.lab"],
    }
    run = fleet.play("tls13", "-vvv", "--diff", **values, dns_credentials=credentials)
    assert run.status == 0 and run["tls13"]["certificate"]["names"] == ["*.tls13.lab"], run.output
    assert credentials.splitlines()[2] not in run.output
    again(fleet, "tls13", **values, dns_credentials=credentials)
    dry = fleet.play(
        "tls13", "--tags", "tls_dry_run", action="tls_dry_run", **values, dns_credentials=credentials
    )
    assert dry.status == 0 and dry["tls13"]["msg"] == "the next renewal would work", dry.output
    mode = fleet.sh("tls13", "stat -c '%a %U' /etc/sallyport/tls/dns-credentials").split()
    assert mode == ["600", "root"]


def test_stapling_comes_where_the_ca_names_a_responder_and_only_there(
    fleet: Fleet, site: dict[str, object]
) -> None:
    nginx = "cat /etc/nginx/conf.d/sallyport-tls.conf"
    assert "ssl_stapling" not in fleet.sh("tls11", nginx)
    fleet.acme.start(ocsp=True)
    try:
        fleet.acme.dns("stapled.lab", fleet.address("tls11"))
        run = fleet.play("tls11", **site, names=["tls11.lab", "stapled.lab"])
        assert run.status == 0 and "ssl_stapling on;" in fleet.sh("tls11", nginx), run.output
        fleet.acme.answer_for(run["tls11"]["certificate"]["serial"])
        ask = f"openssl s_client -connect {fleet.address('tls11')}:443 -servername tls11.lab -status </dev/null 2>&1"
        assert until(
            lambda: "OCSP Response Status: successful" in fleet.sh("vantage-lan", ask, check=False)
        ), fleet.sh("tls11", "tail -n 5 /var/log/nginx/error.log")
    finally:
        fleet.acme.start()


@pytest.fixture(scope="module")
def short(fleet: Fleet, site: dict[str, object]) -> Iterator[Run]:
    """A certificate that lives for an hour, and a unit that does not wait before it renews."""
    fleet.acme.start(validity=HOUR)
    fleet.acme.dns("short.lab", fleet.address("tls12"))
    fleet.sh(
        "tls12",
        "printf '[Service]\\nExecStart=\\nExecStart=/usr/bin/certbot -q renew --no-random-sleep-on-renew\\n' "
        ">/etc/systemd/system/certbot.service.d/test.conf; systemctl daemon-reload",
    )
    yield fleet.play("tls12", **site, names=["tls12.lab", "short.lab"])
    fleet.sh("tls12", "rm /etc/systemd/system/certbot.service.d/test.conf; systemctl daemon-reload")
    fleet.acme.start(validity=90 * 86400)


def test_a_renewal_drops_no_connection_and_needs_nobody(fleet: Fleet, short: Run) -> None:
    assert short.status == 0, short.output
    first, last = (
        datetime.fromisoformat(short["tls12"]["certificate"][key]) for key in ("not_before", "not_after")
    )
    assert (last - first).total_seconds() <= HOUR
    root = fleet.acme.issuer()
    before = fleet.served("tls12")
    clients = [fleet.connect("tls12", root) for _ in range(20)]
    for client in clients:
        client.sendall(b"GET / HTTP/1.1\r\nHost: tls12.lab\r\n")  # and not yet the rest
    fleet.sh("tls12", "systemctl start certbot.service")
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
    assert fleet.sh("tls12", "cat /etc/sallyport/tls/status").startswith("ok ")


def test_a_certificate_that_stops_renewing_is_noticed_and_one_that_expired_comes_back(
    fleet: Fleet, short: Run, site: dict[str, object]
) -> None:
    assert short.status == 0, short.output
    fleet.acme.start(validity=LIFE)
    root = fleet.acme.issuer()
    fleet.acme.dns("brief.lab", fleet.address("tls12"))
    run = fleet.play("tls12", **site, names=["tls12.lab", "brief.lab"])
    assert run.status == 0, run.output
    with fleet.acme.down():
        fleet.sh("tls12", "systemctl start certbot.service", check=False)

        def expired() -> bool:
            try:
                fleet.get("tls12", root)
            except ssl.SSLCertVerificationError as error:
                return "expired" in str(error)
            return False

        assert until(expired, LIFE + 10)
        variables = {"tls_mode": "device", "tls_names": ["tls12.lab"], **fleet.audit()}
        audit = fleet.play("tls12", playbook="playbooks/audit.yml", action="tls_report", **variables)
        assert audit["tls12"]["verdict"]["state"] == "failing", audit.output
        assert audit.status != 0 and "the certificate expired on" in audit.output
    fleet.sh("tls12", "systemctl start certbot.service")
    assert "Gateway" in fleet.get("tls12", root)


def test_going_back_takes_the_keys_that_certbot_handed_over_and_its_hook(fleet: Fleet) -> None:
    run = fleet.play("tls13", playbook="playbooks/rollback.yml", action="rollback", to="factory")
    assert run.status == 0, run.output
    assert fleet.sh("tls13", "find /etc/sallyport/tls -type f 2>/dev/null || :") == ""
    assert fleet.sh("tls13", "grep -rs /etc/sallyport/tls/deploy /etc/letsencrypt/renewal || :") == ""
    # As it was stopped, it stays so; who starts it finds the page of before.
    fleet.sh("tls13", "systemctl start nginx")
    assert "Gateway" in fleet.page("tls13", fleet.address("tls13"))
