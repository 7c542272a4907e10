"""When a certificate is due, what the audit makes of it, and which clock is believed."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.audit import certificates as audit
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls import certbot, device

from tests.unit.tls.makers import NOW, pair, wanted

SITE: dict[str, Any] = {"mode": "device", "names": ["gw.example"], "acme_agree": True}


def found(days: int = 90, *, status: str = "", key: str = "-rw------- root", age: int = 0) -> device.Found:
    made, _ = pair("gw.example", days=days, now=NOW - timedelta(days=age))
    records = [("epoch", str(int(NOW.timestamp()))), ("certificate", made), ("key", key), ("status", status)]
    return device.read(Reply(tuple(records), 0))


@pytest.mark.parametrize(
    ("days", "age", "changed", "reason"),
    [
        (90, 0, {}, ""),
        (90, 59, {}, ""),
        (90, 61, {}, "it expires on"),
        (90, 91, {}, "it expired on"),
        (6, 3, {}, ""),
        (6, 5, {}, "it expires on"),
        (90, 0, {"names": ["gw.example", "b.example"]}, "wanted is gw.example, b.example"),
        (90, 50, {"renew_days": 20}, ""),
    ],
)
def test_a_certificate_is_due_when_it_must_be_and_not_before(
    days: int, age: int, changed: dict[str, Any], reason: str
) -> None:
    said = device.why_new(found(days, age=age).certificate, wanted(**{**SITE, **changed}), NOW, key=True)
    assert (reason in said) if reason else said == ""


def test_certbots_timer_finds_it_due_at_the_same_moment_as_the_role() -> None:
    assert "renew_before_expiry = 720 hours" in certbot.renew_at(wanted(**SITE), 90 * 86400)
    assert "renew_before_expiry = 48 hours" in certbot.renew_at(wanted(**SITE), 6 * 86400)


def test_none_and_a_key_that_is_lost_are_reasons() -> None:
    assert device.why_new(None, wanted(**SITE), NOW, key=True) == "there is none"
    assert "private key" in device.why_new(found().certificate, wanted(**SITE), NOW, key=False)


@pytest.mark.parametrize(
    ("days", "age", "status", "state"),
    [
        (90, 0, "", "ok"),
        (90, 65, "", "ok"),
        (90, 72, "", "warning"),
        (90, 84, "", "failing"),
        (90, 91, "", "failing"),
        (6, 3, "", "ok"),
        (6, 5, "", "warning"),
        (90, 0, "failed 1 nginx refuses", "failing"),
        (90, 0, "ok 1 ", "ok"),
    ],
)
def test_the_audit_warns_before_it_fails(days: int, age: int, status: str, state: str) -> None:
    verdict = device.judge(found(days, age=age, status=status), wanted(**SITE), NOW)
    assert verdict["state"] == state, verdict
    findings = audit.judge_tls({"verdict": verdict})
    assert [one.weight for one in findings] == {"ok": [], "warning": ["note"], "failing": ["difference"]}[
        state
    ]


def test_an_open_key_and_a_missing_certificate_fail_the_audit() -> None:
    assert device.judge(found(key="-rw-r--r-- root"), wanted(**SITE), NOW)["state"] == "failing"
    nothing = device.read(Reply((("epoch", "1"),), 0))
    assert device.judge(nothing, wanted(**SITE), NOW)["state"] == "failing"


def test_a_device_that_could_not_be_asked_is_not_green() -> None:
    (finding,) = audit.judge_tls({"failed": True, "msg": "no answer"})
    assert finding.weight == "not_assessed"
    assert audit.judge_tls({"skipped": True}) == audit.judge_tls({}) == []


def test_devices_with_the_same_key_are_named_to_each_other() -> None:
    findings = audit.shared_tls_keys({"a": "1", "b": "2", "c": "1", "d": ""})
    assert set(findings) == {"a", "c"}
    assert "the same TLS private key as c" in findings["a"][0].message


@pytest.mark.parametrize(
    ("apart", "good"), [(0, True), (3000, True), (-3000, True), (4000, False), (-1.8e9, False)]
)
def test_a_clock_that_is_far_off_is_refused(apart: float, good: bool) -> None:
    seen = dataclasses.replace(found(), epoch=int(NOW.timestamp() + apart))
    problem = device.clock_problem(seen, NOW.timestamp())
    assert (problem == "") is good
    assert good or "time_sync" in problem


@pytest.mark.parametrize(
    ("output", "advice"),
    [
        ("urn:ietf:params:acme:error:rateLimited :: too many certificates", "rate limit"),
        ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]", "tls_acme_root"),
        (
            "NewConnectionError: Failed to establish a new connection: [Errno 111] Connection refused",
            "can be reached",
        ),
        ("Challenge failed for domain gw: unauthorized: Connection refused", "port 80"),
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("Server requires external account binding.", "tls_acme_eab_kid"),
        ("The server will not issue certificates for the identifier", "does not issue for one of the names"),
        ("The requested dns-rfc2136 plugin does not appear to be installed", "python3-certbot-dns-"),
        ("certbot: error: unrecognized arguments: --dns-rfc2136-credentials=/x", "python3-certbot-dns-"),
    ],
)
def test_certbots_words_become_advice(output: str, advice: str) -> None:
    assert advice in certbot.explain(f"Saving debug log to /x\n{output}", wanted(**SITE))


def test_the_binding_of_an_account_is_in_a_secret_file_and_on_no_command_line() -> None:
    site = wanted(**SITE, acme_eab_kid="kid", acme_eab_key="c2VjcmV0")
    entry = next(one for one in certbot.files(site) if one["dest"] == certbot.INI)
    assert entry["secret"] and entry["mode"] == "0600" and "c2VjcmV0" in entry["content"]
    assert "c2VjcmV0" not in certbot.issue(site, force=True) + certbot.dry_run(site)


def test_a_dns_plugin_finds_its_credentials_in_a_secret_file() -> None:
    dns = {"challenge": "dns", "dns_plugin": "rfc2136", "dns_credentials": "dns_rfc2136_secret = c2VjcmV0"}
    made = {entry["dest"]: entry for entry in certbot.files(wanted(**SITE, **dns, dns_propagation=5))}
    settings, credentials = made[certbot.INI]["content"], made[certbot.CREDENTIALS]
    assert f"dns-rfc2136-credentials = {certbot.CREDENTIALS}\n" in settings
    assert "authenticator = dns-rfc2136\ndns-" in settings and "c2VjcmV0" not in settings
    assert "dns-rfc2136-propagation-seconds = 5\n" in settings
    assert credentials["secret"] and credentials["mode"] == "0600" and "c2VjcmV0" in credentials["content"]
    assert made[certbot.HOOK]["state"] == "absent"


def test_a_root_that_is_no_longer_wanted_goes_with_the_unit_that_names_it() -> None:
    gone = {entry["dest"] for entry in certbot.files(wanted(**SITE)) if entry.get("state") == "absent"}
    assert {certbot.ROOT, certbot.SERVICE_DROP_IN, certbot.CREDENTIALS} <= gone


def test_what_has_expired_is_called_so_and_not_late() -> None:
    assert "expired on" in device.judge(found(90, age=91), wanted(**SITE), NOW)["message"]
    assert "was not renewed" in device.judge(found(90, age=84), wanted(**SITE), NOW)["message"]


RENEWAL = """renew_before_expiry = 719 hours
[renewalparams]
renew_hook = /bin/sh /etc/sallyport/tls/deploy certbot
server = https://acme-v02.api.letsencrypt.org/directory
authenticator = webroot
webroot_path = /var/lib/sallyport-acme,
[[webroot_map]]
gw.example = /var/lib/sallyport-acme
"""
GATED = RENEWAL.replace("authenticator", "pre_hook = /bin/sh /etc/sallyport/tls/deploy open\nauthenticator")


@pytest.mark.parametrize(
    ("renewal", "changed", "reason"),
    [
        (RENEWAL, {}, ""),
        ("", {}, "it came from an unknown directory"),
        (RENEWAL, {"acme_directory": "https://ca.example/dir"}, "it came from https://acme-v02"),
        (RENEWAL, {"challenge": "nginx"}, "it would be renewed by webroot, wanted is nginx"),
        (RENEWAL, {"challenge": "dns", "dns_hook": "x"}, "by webroot, wanted is manual"),
        (RENEWAL, {"challenge": "dns", "dns_plugin": "rfc2136"}, "by webroot, wanted is dns-rfc2136"),
        (RENEWAL.replace("webroot\n", "certbot:webroot\n", 1), {}, ""),
        (RENEWAL, {"webroot": "/srv/www"}, "would use /var/lib/sallyport-acme, wanted is /srv/www"),
        (RENEWAL, {"gate": True}, "would not open port 80"),
        (GATED, {"gate": True}, ""),
        (GATED, {}, "would open port 80"),
        (RENEWAL.replace("/bin/sh", "/bin/true"), {}, "not be handed to the services"),
        (RENEWAL.replace("= webroot\n", "= standalone\n"), {"challenge": "standalone"}, ""),
        (
            RENEWAL.replace("= webroot\n", "= standalone\n"),
            {"challenge": "standalone", "http_port": 8080},
            "would listen on port 80, wanted is 8080",
        ),
    ],
)
def test_a_renewal_that_would_go_another_way_than_the_site_wants_is_a_reason(
    renewal: str, changed: dict[str, Any], reason: str
) -> None:
    said = certbot.renews_otherwise(renewal, wanted(**{**SITE, **changed}))
    assert (reason in said) if reason else said == ""


def test_standalone_listens_where_the_ca_is_led_to() -> None:
    assert "http-01-port" not in certbot.files(wanted(**SITE, challenge="standalone"))[0]["content"]
    made = certbot.files(wanted(**SITE, challenge="standalone", http_port=8080))[0]["content"]
    assert "authenticator = standalone\npreferred-challenges = http\nhttp-01-port = 8080\n" in made


def test_the_dry_run_names_the_directory() -> None:
    site = wanted(**SITE, acme_directory="https://ca.example/dir")
    assert "--server https://ca.example/dir" in certbot.dry_run(site)


@pytest.mark.parametrize("shell", [["sh"], ["busybox", "sh"]], ids=["sh", "busybox"])
def test_what_the_ca_said_is_found_where_certbot_says_something_else(
    shell: list[str], tmp_path: Path
) -> None:
    log = tmp_path / "letsencrypt.log"
    log.write_text(
        "acme.messages.Error: first\nacme.messages.Error: rateLimited :: too many\nAttributeError\n"
    )
    shim = tmp_path / "certbot"
    shim.write_text('#!/bin/sh\necho "AttributeError: can\'t set attribute"; exit 1\n')
    shim.chmod(0o755)
    program = certbot.dry_run(wanted(**SITE)).replace("/var/log/letsencrypt/letsencrypt.log", str(log))
    program = f'say() {{ echo "$*"; }}\nblob() {{ cat; }}\n{program}'
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        [*shell, "-euc", program], env=environment, capture_output=True, text=True, check=True
    )
    assert "rateLimited :: too many" in done.stdout and "AttributeError" not in done.stdout
    log.unlink()
    done = subprocess.run(
        [*shell, "-euc", program], env=environment, capture_output=True, text=True, check=True
    )
    assert "AttributeError" in done.stdout, "without a log certbot's own words are better than none"
    assert certbot.really("AttributeError: can't set attribute", "x\nacme.messages.Error: no\n").endswith(
        "no"
    )
    assert certbot.really("something else", "acme.messages.Error: no") == "something else"
