"""When a certificate is due, what the audit makes of it, and which clock is believed."""

from __future__ import annotations

import base64
import dataclasses
import os
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from ansible_collections.sallyport.iot.plugins.action import tls_dry_run
from ansible_collections.sallyport.iot.plugins.plugin_utils.audit import certificates as audit
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls import certbot, device, services
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls.certificates import Certificate

from tests.unit.tls.makers import CA, CA_KEY, NOW, authority, crl, pair, wanted
from tests.unit.tls.shells import SHELLS, answer

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
        (90, 0, {"names": ["gw.example", "b.example"]}, "wanted is b.example, gw.example"),
        (90, 50, {"renew_days": 20}, ""),
    ],
)
def test_a_certificate_is_due_when_it_must_be_and_not_before(
    days: int, age: int, changed: dict[str, Any], reason: str
) -> None:
    said = device.why_new(found(days, age=age).certificate, wanted(**{**SITE, **changed}), NOW, key=True)
    assert (reason in said) if reason else said == ""


def lives(days: int) -> Certificate:
    """A certificate that is good for so many days, from its first moment to its last."""
    made = found().certificate
    assert made
    return dataclasses.replace(made, not_after=made.not_before + timedelta(days=days))


def test_certbots_timer_finds_it_due_at_the_same_moment_as_the_role() -> None:
    assert "renew_before_expiry = 720 hours" in certbot.due_line(wanted(**SITE), lives(90))
    assert "renew_before_expiry = 48 hours" in certbot.due_line(wanted(**SITE), lives(6))


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


@pytest.mark.parametrize(
    ("name", "covered"),
    [("a.example", True), ("gw.example", True), ("a.gw.example", False), ("example", False)],
)
def test_the_audit_takes_a_wildcard_for_the_names_that_clients_take_it_for(name: str, covered: bool) -> None:
    made, _ = pair("*.example", now=NOW)
    seen = device.read(Reply((("certificate", made), ("key", "-rw------- root")), 0))
    verdict = device.judge(seen, wanted(names=[name]), NOW)
    assert verdict["state"] == ("ok" if covered else "failing")
    assert covered or verdict["message"] == f"the certificate is not for {name}"


def told(**texts: str) -> dict[str, Any]:
    """The verdict on a device with a good certificate, and these texts besides."""
    made, _ = pair("gw.example", now=NOW)
    records = {"certificate": made, "key": "-rw------- root", **texts}
    return device.judge(device.read(Reply(tuple(records.items()), 0)), wanted(**SITE), NOW)


@pytest.mark.parametrize(("days", "state"), [(30, "ok"), (20, "warning"), (5, "failing"), (-1, "failing")])
def test_the_audit_looks_at_whose_clients_are_let_in_who_signed_and_who_signs(days: int, state: str) -> None:
    ca, _ = authority(name="Ending CA", days=days)
    verdict = told(client_ca=CA + ca)
    assert verdict["state"] == state, verdict
    assert state == "ok" or "CN=Ending CA, whose clients are let in" in verdict["message"]
    chain = pair("gw.example", now=NOW)[0] + ca
    verdict = told(certificate=chain)
    assert verdict["state"] == state and (state == "ok" or "who signed the certificate" in verdict["message"])
    came = device.source(wanted(mode="own", names=["gw.example"], ca_certificate=CA, ca_key=CA_KEY))
    assert told(source=came)["state"] == "ok"
    moment = (NOW + timedelta(days=days)).isoformat()
    assert told(source=f"fleet CA until {moment}")["state"] == state


@pytest.mark.parametrize(
    ("days", "age", "state"),
    [
        (30, 0, "ok"),
        (7, 23, "warning"),
        (5, 85, "failing"),
        (5, 2, "ok"),
        (1.5, 5.5, "warning"),
        (-0.1, 7, "failing"),
    ],
)
def test_the_audit_knows_when_a_list_of_revoked_clients_is_to_be_renewed(
    days: float, age: float, state: str
) -> None:
    verdict = told(client_ca=CA, client_crl=crl(CA, CA_KEY, days=days, age=age))
    assert verdict["state"] == state, verdict
    assert state == "ok" or "every client is refused" in verdict["message"]
    assert told(client_crl="half a li")["state"] == "ok", "what is no list is its service's business"


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


def test_advice_about_dns_speaks_of_dns() -> None:
    output = "Challenge failed for domain gw: unauthorized: Incorrect TXT record"
    by_hook = certbot.explain(output, wanted(**SITE, challenge="dns", dns_hook="x"))
    assert "tls_dns_hook was to make at _acme-challenge." in by_hook and "port 80" not in by_hook
    by_plugin = certbot.explain(output, wanted(**SITE, challenge="dns", dns_plugin="rfc2136"))
    assert "certbot's plugin dns-rfc2136 was to make" in by_plugin and "tls_dns_propagation" in by_plugin


def test_the_binding_of_an_account_is_in_a_secret_file_and_on_no_command_line() -> None:
    site = wanted(**SITE, acme_eab_kid="kid", acme_eab_key="c2VjcmV0")
    entry = next(one for one in certbot.files(site, "gw.example") if one["dest"] == certbot.INI)
    assert entry["secret"] and entry["mode"] == "0600" and "c2VjcmV0" in entry["content"]
    assert "c2VjcmV0" not in certbot.issue(site, "gw.example", force=True) + certbot.dry_run(site)


def test_a_dns_plugin_finds_its_credentials_in_a_secret_file() -> None:
    dns = {"challenge": "dns", "dns_plugin": "rfc2136", "dns_credentials": "dns_rfc2136_secret = c2VjcmV0"}
    made = {
        entry["dest"]: entry
        for entry in certbot.files(wanted(**SITE, **dns, dns_propagation=5), "gw.example")
    }
    settings, credentials = made[certbot.INI]["content"], made[certbot.CREDENTIALS]
    assert f"dns-rfc2136-credentials = {certbot.CREDENTIALS}\n" in settings
    assert "authenticator = dns-rfc2136\ndns-" in settings and "c2VjcmV0" not in settings
    assert "dns-rfc2136-propagation-seconds = 5\n" in settings
    assert credentials["secret"] and credentials["mode"] == "0600" and "c2VjcmV0" in credentials["content"]
    assert made[certbot.HOOK]["state"] == "absent"


def test_a_root_that_is_no_longer_wanted_goes_with_the_unit_that_names_it() -> None:
    gone = {
        entry["dest"]
        for entry in certbot.files(wanted(**SITE), "gw.example")
        if entry.get("state") == "absent"
    }
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


FOREIGN = "[renewalparams]\nrenew_hook = systemctl reload postfix\n"


@pytest.mark.parametrize("shell", SHELLS, ids=["sh", "busybox"])
def test_the_device_names_what_certbot_renews_for_this_role_and_no_other(
    shell: list[str], tmp_path: Path
) -> None:
    certbots, home = tmp_path / "certbot", tmp_path / "home"
    (certbots / "renewal").mkdir(parents=True)
    home.mkdir()
    places = {"/etc/letsencrypt": certbots, services.HOME: home}
    made, _ = pair("old.example", now=NOW)
    renewal = RENEWAL.replace(services.HOME, str(home))
    for name, text in {
        "old.example": renewal,
        "gw.example": FOREIGN,
        "mail": FOREIGN,
        "odd name": renewal,
    }.items():
        (certbots / f"renewal/{name}.conf").write_text(text, encoding="utf-8")
        (certbots / f"live/{name}").mkdir(parents=True)
        (certbots / f"live/{name}/fullchain.pem").write_text(made, encoding="utf-8")
    (certbots / "live/old.example/privkey.pem").touch()
    (home / "dns-hook").touch()
    (home / "lineage").write_text("old.example\n", encoding="utf-8")
    reply = answer(shell, device.query(wanted(**SITE)), places)
    seen = device.read(reply)
    assert set(seen.lineages) == {"old.example", "gw.example"}
    assert seen.lineages["old.example"].issued and seen.lineages["gw.example"].issued is None
    assert seen.lineages["old.example"].renewal == renewal and seen.recorded == "old.example"
    assert seen.traces == (f"{home}/dns-hook", f"{home}/lineage") and not seen.here
    assert device.lineage(seen, wanted(**SITE)) == "old.example"
    assert device.lineage(dataclasses.replace(seen, recorded=""), wanted(**SITE)) == "gw.example"
    same = wanted(**{**SITE, "names": ["old.example"]})
    assert device.lineage(dataclasses.replace(seen, recorded="deleted"), same) == "old.example"


@pytest.mark.parametrize("shell", SHELLS, ids=["sh", "busybox"])
def test_before_the_first_generation_certbot_calls_nothing_of_this_role(
    shell: list[str], tmp_path: Path
) -> None:
    home, renewals, state = tmp_path / "home", tmp_path / "renewal", tmp_path / "state"
    for folder in (home, renewals, state / "armed/tx"):
        folder.mkdir(parents=True)
    places = {"/etc/letsencrypt/renewal": renewals, services.HOME: home}

    def let_go() -> None:
        assert answer(shell, certbot.let_go(str(state)), places).status == 0

    ours = GATED.replace(services.HOME, str(home))
    (renewals / "gw.conf").write_text(ours, encoding="utf-8")
    (renewals / "mail.conf").write_text(FOREIGN, encoding="utf-8")
    names = ("fullchain.pem", "privkey.pem", "privkey.next", "deploy")
    for name in names:
        (home / name).touch()
    let_go()
    assert (renewals / "gw.conf").read_text(encoding="utf-8") == ours and len(list(home.iterdir())) == len(
        names
    )
    (home / "deploy").unlink()
    (state / "armed/tx/reverted").touch()
    let_go()
    assert [path.name for path in home.iterdir()] == ["privkey.next"], (
        "the CA's answer would be for a key that is gone"
    )
    (state / "armed/tx/reverted").unlink()
    let_go()
    assert list(home.iterdir()) == []
    text = (renewals / "gw.conf").read_text(encoding="utf-8")
    assert str(home) not in text and "[renewalparams]\nautorenew = False\n" in text and "server = " in text
    assert text == certbot.disarmed(GATED).replace(services.HOME, str(home))
    assert (renewals / "mail.conf").read_text(encoding="utf-8") == FOREIGN


@pytest.mark.parametrize(
    ("given", "asks"),
    [
        ({}, True),
        ({"names": ["*.gw.example"], "challenge": "dns", "dns_plugin": "rfc2136"}, True),
        ({"names": ["*.gw.example"], "challenge": "dns", "dns_hook": "#!/bin/sh"}, True),
        ({"names": ["*.gw.example"]}, False),
    ],
)
def test_the_dry_run_asks_for_what_the_role_gets(
    given: dict[str, Any], asks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Task:
        args: ClassVar[dict[str, Any]] = {
            "names": ["gw.example"],
            "acme_directory": "https://ca.example/dir",
            **given,
        }
        check_mode = False

    ran: list[str] = []

    class There:
        def __init__(self, action: Any) -> None:
            del action

        def run(self, program: str) -> Reply:
            ran.append(program)
            return Reply((("code", "0"),), 0)

    monkeypatch.setattr(tls_dry_run, "Exchange", There)
    monkeypatch.setattr(tls_dry_run.ActionBase, "run", lambda *rest: {})
    action = object.__new__(tls_dry_run.ActionModule)
    action._task = Task()
    result = action.run(None, {"inventory_hostname": "gw"})
    assert bool(result.get("failed")) is not asks and len(ran) == asks
    assert not asks or "name=$(cat /etc/sallyport/tls/lineage" in ran[0]


def test_standalone_listens_where_the_ca_is_led_to() -> None:
    assert "http-01-port" not in certbot.files(wanted(**SITE, challenge="standalone"), "gw")[0]["content"]
    made = certbot.files(wanted(**SITE, challenge="standalone", http_port=8080), "gw")[0]["content"]
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


@pytest.mark.parametrize("shell", [["sh"], ["busybox", "sh"]], ids=["sh", "busybox"])
def test_of_a_brokers_files_only_what_decides_who_gets_in_is_asked_for_and_links_are_told_as_links(
    shell: list[str], tmp_path: Path
) -> None:
    files = {
        "mosquitto/mosquitto.conf": "include_dir {}/mosquitto/conf.d\n  include_dir {}/more/\n#allow_anonymous true\n",
        "mosquitto/conf.d/a.conf": "listener 1883\nallow_anonymous true\nremote_password hunter2\n",
        "mosquitto/conf.d/README": "listener 1\n",
        "more/b.conf": "password_file /p\nplugin_opt_key hunter2\n",
        "lighttpd/lighttpd.conf": "server.port = 8080\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text.replace("{}", str(tmp_path)), encoding="utf-8")
    (tmp_path / "nginx/sites-enabled").mkdir(parents=True)
    (tmp_path / "nginx/conf.d").mkdir()
    for name, listens in (
        ("panel", "  listen [::]:80;"),
        ("local", "listen 127.0.0.1:80;"),
        ("other", "listen 8080;"),
    ):
        (tmp_path / "nginx/sites-enabled" / name).write_text(f"server {{\n{listens}\n}}\n", encoding="utf-8")
    (tmp_path / "nginx/conf.d/sallyport-tls.conf").write_text("listen 80;\n", encoding="utf-8")
    (tmp_path / "nginx/sites-enabled/default").symlink_to("../sites-available/default")
    tell = "say() { printf '%s\\t%s\\n' \"$1\" \"$2\"; }\nblob() { printf '%s\\t' \"$1\"; base64 | tr -d '\\n'; echo; }\n"
    script = device.query(wanted(**SITE)).replace("/etc/", f"{tmp_path}/")
    done = subprocess.run([*shell, "-euc", tell + script], capture_output=True, text=True, check=True)
    records = [tuple(line.split("\t", 1)) for line in done.stdout.splitlines()]
    paths = [value.removeprefix(f"{tmp_path}/") for name, value in records if name == "text_of"]
    texts = [base64.b64decode(value).decode() for name, value in records if name == "text"]
    assert paths == [
        "lighttpd/lighttpd.conf",
        "mosquitto/mosquitto.conf",
        "mosquitto/conf.d/a.conf",
        "more/b.conf",
    ]
    assert texts[2:] == ["listener 1883\nallow_anonymous true\n", "password_file /p\n"]
    assert "hunter2" not in "".join(texts) and texts[1].count("include_dir") == 2
    assert ("link", f"{tmp_path}/nginx/sites-enabled/default ../sites-available/default") in records
    assert [value for name, value in records if name == "plain_site"] == [
        f"{tmp_path}/nginx/sites-enabled/panel"
    ]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("line", "free"),
    [
        ("", True),
        ("# real_ip_header X-Real-IP;", True),
        ("  real_ip_header proxy_protocol;", False),
        # Without a header of its own it goes by X-Real-IP, and would go by ours.
        ("  set_real_ip_from 10.0.0.1;", False),
    ],
)
def test_who_asks_is_passed_on_only_where_nobody_elses_word_for_it_is_changed(
    shell: list[str], line: str, free: bool, tmp_path: Path
) -> None:
    for name, text in (
        ("sites-enabled/panel", line),
        ("conf.d/sallyport-tls.conf", "real_ip_header X-Sallyport-Client;"),
    ):
        (tmp_path / "nginx" / name).parent.mkdir(parents=True)
        (tmp_path / "nginx" / name).write_text(f"{text}\n", encoding="utf-8")
    nginx = tmp_path / "nginx.sh"
    nginx.write_text("#!/bin/sh\necho configure arguments: --with-http_realip_module >&2\n", encoding="utf-8")
    tell = f"say() {{ printf '%s\\n' \"$*\"; }}\nblob() {{ cat >/dev/null; }}\nnginx() {{ sh {nginx}; }}\n"
    script = device.query(wanted(**SITE)).replace("/etc/", f"{tmp_path}/")
    done = subprocess.run([*shell, "-euc", tell + script], capture_output=True, text=True, check=True)
    assert ("has nginx_realip yes" in done.stdout.splitlines()) is free, done
