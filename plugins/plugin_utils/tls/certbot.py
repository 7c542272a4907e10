# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""certbot as a device or the controller runs it: its files, its command lines, and what its words mean."""

from __future__ import annotations

import re
import shlex
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.tls import services
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls.certificates import Certificate
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls.options import Wanted

INI = f"{services.HOME}/certbot.ini"
ROOT = f"{services.HOME}/acme-root.pem"
HOOK = f"{services.HOME}/dns-hook"
CREDENTIALS = f"{services.HOME}/dns-credentials"
ROOTS = "/run/sallyport-acme-roots.pem"
"""The public roots and the site's: plugins and hooks speak to others than the CA too. Made afresh before each use."""
STILL = f"{services.HOME}/still"
"""Which CA issued the last certificate, and why it did not do, as told right after its issue; not there where it did."""
SERVICE_DROP_IN = "/etc/systemd/system/certbot.service.d/sallyport.conf"
TIMER_DROP_IN = "/etc/systemd/system/certbot.timer.d/sallyport.conf"


def ini(wanted: Wanted, *, webroot: str, hook: str, credentials: str, deploy: bool, gate: str = "") -> str:
    """certbot's settings. A file and not arguments, because the binding to an account is a secret.

    Args:
        hook: the command that is the DNS hook.
        credentials: path of the DNS plugin's credentials.
        deploy: whether certbot hands a new certificate to the device's services.
        gate: the command that opens and closes port 80, "" where it stands open.
    """
    lines = ["non-interactive = true", "agree-tos = true", f"server = {wanted.acme_directory}"]
    lines.append(
        f"email = {wanted.acme_email}" if wanted.acme_email else "register-unsafely-without-email = true"
    )
    lines += (
        ["key-type = ecdsa", "elliptic-curve = secp256r1"]
        if wanted.key_type == "ecdsa"
        else ["key-type = rsa", "rsa-key-size = 2048"]
    )
    if wanted.acme_eab_kid:
        lines += [f"eab-kid = {wanted.acme_eab_kid}", f"eab-hmac-key = {wanted.acme_eab_key}"]
    if wanted.challenge == "dns" and wanted.dns_plugin:
        plugin = f"dns-{wanted.dns_plugin}"
        lines.append(f"authenticator = {plugin}")
        lines += [f"{plugin}-credentials = {credentials}"] if wanted.dns_credentials else []
        if wanted.dns_propagation:
            lines.append(f"{plugin}-propagation-seconds = {wanted.dns_propagation}")
    elif wanted.challenge == "dns":
        lines += ["authenticator = manual", "preferred-challenges = dns"]
        lines += [f"manual-auth-hook = {hook} auth", f"manual-cleanup-hook = {hook} cleanup"]
    elif wanted.challenge == "webroot":
        lines += ["authenticator = webroot", f"webroot-path = {webroot}"]
    else:
        lines += [f"authenticator = {wanted.challenge}", "preferred-challenges = http"]
        if wanted.challenge == "standalone" and wanted.http_port != 80:
            lines.append(f"http-01-port = {wanted.http_port}")
    if deploy:
        lines.append(f"deploy-hook = /bin/sh {services.DEPLOY} certbot")
    if gate:
        lines += [f"pre-hook = {gate} open", f"post-hook = {gate} close"]
    return services.BANNER + "\n".join(lines) + "\n"


def files(wanted: Wanted, name: str) -> list[dict[str, Any]]:
    """What certbot needs on a device to keep the certificate that it calls ``name``."""
    result: list[dict[str, Any]] = [
        {
            "dest": INI,
            "content": ini(
                wanted,
                webroot=wanted.webroot,
                hook=HOOK,
                credentials=CREDENTIALS,
                deploy=True,
                gate=gate(wanted),
            ),
            "mode": "0600",
            "secret": True,
        },
        {
            "dest": TIMER_DROP_IN,
            "content": f"{services.BANNER}[Timer]\nRandomizedDelaySec={wanted.renew_jitter}\nPersistent=true\n",
            "mode": "0644",
        },
        {"dest": services.LINEAGE, "content": f"{name}\n", "mode": "0644"},
        {"dest": services.SOURCE, "state": "absent"},  # it comes from no delivery
    ]
    drop_in = (
        f"{services.BANNER}[Service]\nExecStartPre=/bin/sh -c '{_ROOTS}'\nEnvironment=REQUESTS_CA_BUNDLE={ROOTS}\n"
        if wanted.acme_root
        else ""
    )
    for dest, content, mode, secret in (
        (ROOT, wanted.acme_root, "0644", False),
        (SERVICE_DROP_IN, drop_in, "0644", False),
        (HOOK, wanted.dns_hook, "0700", True),
        (CREDENTIALS, wanted.dns_credentials, "0600", True),
    ):
        if content:
            text = content.strip() + "\n"
            result.append({"dest": dest, "content": text, "mode": mode, "secret": secret})
        else:  # what an earlier run left would still count: a root that is no longer the directory's, a secret
            result.append({"dest": dest, "state": "absent"})
    return result


TRACES = (INI, TIMER_DROP_IN, SERVICE_DROP_IN, ROOT, HOOK, CREDENTIALS, services.LINEAGE)
"""What a device has of ``files``, which is of no use, and partly secret, where certbot there is not to issue."""

# Where there are no public roots the site's own is all there is.
_ROOTS = f"cat /etc/ssl/certs/ca-certificates.crt {ROOT} >{ROOTS} 2>/dev/null || :"


def lineage(wanted: Wanted) -> str:
    """What certbot calls a first certificate: a wildcard's star is no part of a folder's name."""
    return wanted.name.replace("*.", "")


def renewal(name: str) -> str:
    """Where certbot writes down how it renews a certificate."""
    return f"/etc/letsencrypt/renewal/{name}.conf"


_ARMED = re.compile(rf"^renew_hook\s*=\s*/bin/sh {services.DEPLOY} certbot\s*$", re.M)
_OURS = re.compile(rf"^[a-z]+_hook\s*=\s*/bin/sh {services.DEPLOY}\b.*\n", re.M)
_AUTORENEW = re.compile(r"^autorenew\s*=.*\n", re.M)


def armed(text: str) -> bool:
    """Whether what certbot renews by this would be handed to the services of this role."""
    return bool(_ARMED.search(text))


def disarmed(text: str) -> str:
    """The same without our hooks, and without renewal: nobody wants that certificate any more.

    It is not deleted: it and its account are the CA's business too.
    """
    kept = _AUTORENEW.sub("", _OURS.sub("", text))
    return kept.replace("[renewalparams]\n", "[renewalparams]\nautorenew = False\n", 1)


def let_go(state_dir: str) -> str:
    """sh for the way back to before the first generation: what certbot issued meanwhile is no file of any generation.

    A first delivery that takes itself back leaves the key that waits: it is what the CA's answer is for.
    """
    hooks = f"^[a-z]*_hook *= */bin/sh {services.DEPLOY} "
    return (
        f"if [ ! -f {services.DEPLOY} ]; then\n"
        f"  rm -f {services.CERT} {services.KEY} {STILL} {ROOTS}\n"
        f"  [ -e {shlex.quote(f'{state_dir}/armed/tx/reverted')} ] || rm -f {services.NEXT_KEY} {services.NEXT_REQUEST}\n"
        f"  for conf in {renewal('*')}; do\n"
        f"    if grep -qs '{hooks}' \"$conf\"; then\n"
        f"      sed -i -e '\\#{hooks}#d' -e '/^autorenew/d' -e '/^\\[renewalparams\\]$/a autorenew = False' \"$conf\"\n"
        "    fi\n  done\nfi"
    )


_NO_ACCOUNT = re.compile(r"account that does not exist|Account \S+ not found")


def account_unknown(output: str) -> bool:
    """Whether the CA does not know the account that certbot has there."""
    return bool(_NO_ACCOUNT.search(output))


def account_folder(wanted: Wanted) -> str:
    """Where certbot keeps its account at this directory, below its folder `accounts`."""
    return wanted.acme_directory.partition("://")[2].rstrip("/")


# Debian 12's certbot lets an error of its own take the place of what the CA said; its log has the CA's words.
_RUN = r"""
run_certbot() {
  out=$("$@" 2>&1) && code=0 || code=$?
  case $code:$out in [1-9]*"can't set attribute"*) ;; *) return 0 ;; esac
  said=$(grep '^acme[.]messages[.]Error: ' /var/log/letsencrypt/letsencrypt.log | tail -n 1) || :
  [ -z "$said" ] || out=$said
}
""".lstrip("\n")
_SAID = re.compile(r"^acme\.messages\.Error: .+", re.M)


def really(output: str, log: str) -> str:
    """The same for certbot on the controller: its words, or the CA's where its log has them.

    >>> really("AttributeError: can't set attribute", "acme.messages.Error: no such account")
    'acme.messages.Error: no such account'
    """
    said = _SAID.findall(log) if "can't set attribute" in output else []
    return said[-1] if said else output


def issue(wanted: Wanted, name: str, *, force: bool) -> str:
    """The exchange that has certbot get a certificate on a device, and hands it to the services.

    Args:
        name: what certbot calls it. It stays the same whatever names it is for: so nothing is left that renews besides.
    """
    words = ["certbot", "certonly", "-c", INI, "--cert-name", name, "--renew-with-new-domains"]
    words += ["--force-renewal"] if force else []
    for each in wanted.names:
        words += ["-d", each]
    live = shlex.quote(f"/etc/letsencrypt/live/{name}")
    account = shlex.quote(f"/etc/letsencrypt/accounts/{account_folder(wanted)}")
    return (
        f"{_RUN}umask 022\nmkdir -p {shlex.quote(wanted.webroot)}\n{_trust(wanted)}umask 077\n"
        f"run_certbot {shlex.join(words)}\n"
        # A private CA that was set up anew knows nobody: the old account is laid aside, and a new one made.
        f'case $code:$out in\n  [1-9]*"account that does not exist"* | [1-9]*"Account http"*" not found"*)\n'
        f"    rm -rf {account}.unknown\n    mv {account} {account}.unknown\n"
        f"    run_certbot {shlex.join(words)}\n  ;;\nesac\n"
        'say code "$code"\nprintf \'%s\\n\' "$out" | tail -n 40 | blob output\n'
        f'if [ "$code" = 0 ] && [ -f {shlex.quote(renewal(name))} ]; then\n'
        f"  said=$(/bin/sh {services.DEPLOY} take {live} 2>&1) && taken=0 || taken=$?\n"
        '  say taken "$taken"\n  printf \'%s\\n\' "$said" | tail -n 10 | blob said\n'
        "fi\n"
    )


def _trust(wanted: Wanted) -> str:
    return f"{_ROOTS}\nREQUESTS_CA_BUNDLE={ROOTS}\nexport REQUESTS_CA_BUNDLE\n" if wanted.acme_root else ""


def due_line(wanted: Wanted, certificate: Certificate) -> str:
    """What tells certbot when a certificate is due: at the same moment as this role finds it due."""
    lifetime = (certificate.not_after - certificate.not_before).total_seconds()
    hours = max(1, int(min(wanted.renew_days * 86400.0, lifetime / 3) // 3600))
    return f"renew_before_expiry = {hours} hours"


def renew_at(name: str, line: str) -> str:
    """sh that writes this line into the device's own notes."""
    conf = shlex.quote(renewal(name))
    return (
        f"if [ -f {conf} ] && ! grep -qx {shlex.quote(line)} {conf}; then\n"
        f"  sed -i -e '/^renew_before_expiry/d' -e '1i {line}' {conf}\nfi\n"
    )


def remember(reason: str) -> str:
    """sh that keeps in mind why the certificate that was just issued does not do; "" where it does."""
    if not reason:
        return f"rm -f {STILL}\n"
    return f"(umask 022; printf '%s\\n' {shlex.quote(reason)} >{STILL})\n"


def take(name: str) -> str:
    """The exchange that hands over what certbot got earlier: the last run died in between. The CA is not asked."""
    live = shlex.quote(f"/etc/letsencrypt/live/{name}")
    return (
        f"said=$(/bin/sh {services.DEPLOY} take {live} 2>&1) && taken=0 || taken=$?\n"
        'say code 0\nsay taken "$taken"\nprintf \'%s\\n\' "$said" | tail -n 10 | blob said\n'
    )


def dry_run(wanted: Wanted) -> str:
    """The exchange that asks whether the next renewal would work, at the directory that this site uses."""
    words = ["certbot", "renew", "--dry-run", "--non-interactive"]
    words += ["--server", wanted.acme_directory, "--no-random-sleep-on-renew"]
    return (
        f"{_RUN}{_trust(wanted)}name=$(cat {services.LINEAGE} 2>/dev/null) || name={shlex.quote(lineage(wanted))}\n"
        f'run_certbot {shlex.join(words)} --cert-name "$name"\n'
        'say code "$code"\nprintf \'%s\\n\' "$out" | tail -n 40 | blob output\n'
    )


def gate(wanted: Wanted) -> str:
    """The command that opens and closes port 80 of a device for a challenge, "" where it stands open."""
    return f"/bin/sh {services.DEPLOY}" if wanted.gate and wanted.challenge != "dns" else ""


def renews_otherwise(text: str, wanted: Wanted) -> str:
    """How a device's certbot would renew, if that is not what the site wants; empty where it is.

    certbot goes by what it wrote down when it issued, whatever its settings say now.
    """
    said = dict(re.findall(r"^(\w+)\s*=\s*(.*?)\s*$", text, re.M))
    if said.get("autorenew", "True").lower() == "false":
        return "nothing renews it"
    if said.get("server") != wanted.acme_directory:
        return f"it came from {said.get('server') or 'an unknown directory'}"
    by = {"dns": f"dns-{wanted.dns_plugin}" if wanted.dns_plugin else "manual"}.get(
        wanted.challenge, wanted.challenge
    )
    found = said.get("authenticator", "").rpartition(":")[2]  # older ones write the package before the plugin
    if found != by:
        return f"it would be renewed by {found or 'nobody'}, wanted is {by}"
    if by == "webroot" and said.get("webroot_path", "").rstrip(",") != wanted.webroot:
        return f"its renewal would use {said.get('webroot_path', 'no folder').rstrip(',')}, wanted is {wanted.webroot}"
    if by == "standalone" and said.get("http01_port", "80") != str(wanted.http_port):
        return (
            f"its renewal would listen on port {said.get('http01_port', '80')}, wanted is {wanted.http_port}"
        )
    opens = said.get("pre_hook") == f"/bin/sh {services.DEPLOY} open"
    if opens != bool(gate(wanted)):
        return f"its renewal would {'' if opens else 'not '}open port 80"
    if said.get("renew_hook") != f"/bin/sh {services.DEPLOY} certbot":
        return "its renewal would not be handed to the services"
    return ""


_NOISE = re.compile(
    r"^(Saving debug log|Plugins selected|Ask for help|See the logfile|- - -|\s*$|Requesting a cert|Renewing an existing|Performing|Waiting for)"
)


def reason(output: str) -> str:
    """certbot's words without what is in every run."""
    lines = [line.strip() for line in output.splitlines() if not _NOISE.match(line)]
    return " ".join(lines)[-800:] or "certbot said nothing"


def explain(output: str, wanted: Wanted) -> str:
    """What went wrong, and what to do about it."""
    text = reason(output)
    lowered = text.lower()
    if "rate limit" in lowered or "ratelimited" in lowered.replace(" ", ""):
        advice = "the CA's rate limit is reached: wait for what it names, and try with its staging directory meanwhile"
    elif "certificate_verify_failed" in lowered or "certificate verify failed" in lowered:
        advice = "the ACME server's own certificate is not trusted: set tls_acme_root to its CA's root"
    elif wanted.challenge == "dns" and ("unauthorized" in lowered or "challenge" in lowered):
        by = f"certbot's plugin dns-{wanted.dns_plugin}" if wanted.dns_plugin else "tls_dns_hook"
        advice = (
            f"the CA did not find the TXT record that {by} was to make at _acme-challenge. and the name: see that it is made "
            "where the CA asks, and that it is there before the CA looks (a plugin waits for tls_dns_propagation seconds)"
        )
    elif "unauthorized" in lowered or "challenge" in lowered:
        advice = (
            "the CA could not verify the names: for HTTP-01 each must lead to this device's port 80 as the CA sees it; "
            "behind NAT use tls_challenge: dns, or tls_mode: controller"
        )
    elif "connection" in lowered and (
        "refused" in lowered or "establish" in lowered or "max retries" in lowered
    ):
        advice = f"check that {wanted.acme_directory} can be reached, and for HTTP-01 that the CA reaches port 80 by name"
    elif "rejectedidentifier" in lowered or "will not issue" in lowered or "policy forbids" in lowered:
        advice = (
            "the CA does not issue for one of the names: take it out of tls_names, or ask the CA to allow it"
        )
    elif "external account" in lowered or "eab" in lowered:
        advice = "the CA wants an external account binding: set tls_acme_eab_kid and tls_acme_eab_key"
    elif "does not appear to be installed" in lowered or "unrecognized arguments: --dns-" in lowered:
        advice = (
            f"certbot has no plugin dns-{wanted.dns_plugin} there. Install it (Debian: apt-get install "
            f"python3-certbot-dns-{wanted.dns_plugin}), or use tls_dns_hook"
        )
    elif "no space left" in lowered:
        advice = "the disk is full"
    else:
        advice = "see what it said"
    return f"{advice}. certbot said: {text}"
