# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""sallyport.iot.tls: a certificate, and services that serve it. Documented in plugins/modules."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.sallyport.iot.plugins.plugin_utils.access import driver, policy_view
from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials.quiet import quiet
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Exchange
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.inquiry import FACT
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls import (
    admission,
    certbot,
    certificates,
    controller,
    options,
    services,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls import device as devices
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls.certificates import (
    Certificate,
    CertificateError,
)

TLS_FACT = "sallyport_tls"


@dataclass
class _Pair:
    """A certificate and key to deliver."""

    certificate: str
    leaf: Certificate
    key: str = ""
    """PEM, or "" where it waits on the device."""
    where: str = ""
    """Who made the key."""
    still: str = ""
    """Why another one would be asked for, right after this one was issued."""
    useless: str = ""
    """The same if the site has no use for it: another one would be no better."""


class ActionModule(ActionBase):
    """Looks at what the device has, gets what is missing in the way that the site chose, and commits the rest."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        del tmp
        self._vars = task_vars or {}
        self._host = str(self._vars.get("inventory_hostname"))
        self._remarks: list[str] = []
        _, arguments = self.validate_argument_spec(argument_spec={**options.SPEC, **driver.SETTINGS})
        self._settings = {name: arguments.pop(name) for name in driver.SETTINGS}
        if arguments["mode"] == "none":
            message = "tls_mode is none: this device's certificates are left as they are"
            return {**result, "changed": False, "state": "unchanged", "exchanges": 0, "msg": message}
        try:
            wanted = options.parse(arguments, datetime.now(timezone.utc))
            device = driver.device_of(self, self._vars, result)
            self._exchange = Exchange(self)
            found = devices.read(self._exchange.ask(devices.query(wanted)))
            problem = devices.clock_problem(found, time.time())
            if problem:
                raise services.Refused(problem)
            result.update(self._converge(wanted, device, found))
        except (options.OptionError, services.Refused, CertificateError) as error:
            message = f"{self._host}: tls was refused, nothing was changed: {error}"
            result.update(failed=True, changed=False, state="refused", msg=message)
        except controller.NotIssued as error:
            result.update(
                failed=True, changed=False, state="refused", msg=self._not_issued(str(error), found)
            )
        return result

    def _not_issued(self, reason: str, found: devices.Found) -> str:
        still = "the old certificate is still served" if found.certificate else "there is no certificate yet"
        return f"{self._host}: no new certificate was issued, {still}: {reason}"

    # --- what this device cannot have ---------------------------------------------------------------------------

    def _plan(
        self,
        wanted: options.Wanted,
        device: dict[str, Any],
        found: devices.Found,
        *,
        pair: bool = True,
        ocsp: bool = False,
    ) -> services.Plan:
        return services.plan(
            wanted, device, found.has, pair=pair, ocsp=ocsp, texts=found.texts, links=found.links,
            plain_sites=found.plain_sites, served=found.served,
        )  # fmt: skip

    def _refuse_early(self, wanted: options.Wanted, device: dict[str, Any], found: devices.Found) -> None:
        """Whatever cannot be had is refused before anything is changed, and before a CA is asked."""
        plan = self._plan(wanted, device, found)
        policy = policy_view.of(self._vars, device)
        problem = admission.refusal(policy, wanted, plan.services)
        if problem:
            raise services.Refused(problem)
        self._remarks = [*plan.warnings, *admission.warnings(policy, plan.services)]

    # --- the way to a certificate -----------------------------------------------------------------------------

    def _converge(
        self, wanted: options.Wanted, device: dict[str, Any], found: devices.Found
    ) -> dict[str, Any]:
        now = datetime.now(timezone.utc)
        if wanted.mode == "device":
            result = self._on_device(wanted, device, found, now)
        else:
            result = self._delivered(wanted, device, found, now)
        if self._remarks:
            result["warnings"] = [
                *result.get("warnings", []),
                *(f"{self._host}: {one}" for one in self._remarks),
            ]
        if result.get("changed") and not self._task.check_mode:
            found = devices.read(self._exchange.ask(devices.query(wanted)))
        if found.certificate:
            result["certificate"] = found.certificate.report(now)
            result["shared_with"] = self._shared_with(found.certificate)
            known = {TLS_FACT: {"public_key": found.certificate.public_key}}
            result["ansible_facts"] = {**result.get("ansible_facts", {}), **known}
        result["verdict"] = devices.judge(found, wanted, now)
        result["exchanges"] = self._exchange.count
        return result

    def _shared_with(self, certificate: Certificate) -> list[str]:
        """Other devices of this play that are known to have the same key."""
        hostvars = self._vars.get("hostvars") or {}
        names = self._vars.get("ansible_play_hosts_all") or []
        return [
            str(name)
            for name in names
            if name != self._host
            and name in hostvars
            and ((hostvars[name].get("ansible_facts") or {}).get(TLS_FACT) or {}).get("public_key")
            == certificate.public_key
        ]

    def _delivered(
        self, wanted: options.Wanted, device: dict[str, Any], found: devices.Found, now: datetime
    ) -> dict[str, Any]:
        """Modes own and controller: the pair comes with the change."""
        self._refuse_early(wanted, device, found)
        reason, pair, again = "", None, False
        if wanted.certificate:
            leaf = certificates.describe(wanted.certificate)
            pair = _Pair(
                wanted.certificate.strip() + "\n", leaf, wanted.private_key.strip() + "\n", "operator"
            )
        else:
            reason = self._why_new(wanted, found, now)
            again = bool(reason) and reason == devices.still_so(found, wanted)
            if reason and not again and not self._task.check_mode:
                pair = self._new_pair(wanted, found, now)
        ocsp = pair.leaf.ocsp if pair else bool(found.certificate and found.certificate.ocsp)
        plan = self._plan(wanted, device, found, ocsp=ocsp)
        if reason and self._task.check_mode and found.certificate is None:
            # Nothing can be checked against a certificate that is not there yet.
            plan.check.clear()
        self._without_certbot(plan, found)
        if pair or not reason:
            came = {"dest": services.SOURCE, "content": f"{devices.source(wanted)}\n", "mode": "0644"}
            plan.files.append(came)
        files = [driver.file(entry) for entry in plan.files]
        settle: list[str] = []
        if pair:
            entry: dict[str, Any] = {"dest": services.KEY, "mode": "0600", "secret": True}
            if pair.key:
                entry["content"] = pair.key
            else:
                entry["generate"] = f'cp {services.NEXT_KEY} "$1"'
                settle.append(f"rm -f {services.NEXT_KEY} {services.NEXT_REQUEST}")
            files = [
                driver.file({"dest": services.CERT, "content": pair.certificate, "mode": "0644"}),
                driver.file(entry),
                driver.file(_remembered(devices.in_mind(wanted, pair.still))),
                *files,
            ]
        result = self._commit(wanted, device, plan, files, settle)
        if wanted.mode == "controller" and not self._task.check_mode and not result.get("failed"):
            has = pair.leaf if pair else found.certificate
            if has:
                controller.delivered(wanted, has.public_key)
        if again or (pair and pair.useless):
            return self._as_before(result, reason if again else pair.useless)  # type: ignore[union-attr]
        if reason:
            result["reason"] = reason
            result["changed"] = result["changed"] or self._task.check_mode
        if result["changed"] and reason and self._task.check_mode:
            result["state"] = "would_change"
            result["msg"] = f"a certificate would be issued: {reason}"
        if pair and not result.get("failed"):
            result["key_made"] = pair.where
        if wanted.ca_certificate:
            said = certificates.remarks(wanted.ca_certificate, now, wanted.lifetime_days)
            result["warnings"] = [*result.get("warnings", []), *said]
        return result

    def _as_before(self, result: dict[str, Any], reason: str) -> dict[str, Any]:
        """What the CA gives does not do; asking it again would cost an order in every run, and bring the same."""
        if result.get("failed"):
            return result
        message = f"{self._host}: {devices.not_asked_again(reason)}"
        return {**result, "failed": True, "reason": reason, "msg": message}

    def _without_certbot(self, plan: services.Plan, found: devices.Found) -> None:
        """What certbot on the device renews is not what is wanted here, and the secrets it did so with are nobody's."""
        plan.files += [{"dest": dest, "state": "absent"} for dest in found.traces]
        self._leave_behind(plan, found)
        if {certbot.TIMER_DROP_IN, certbot.SERVICE_DROP_IN} & set(found.traces):
            plan.activate.insert(0, "systemctl daemon-reload")
            plan.revert.insert(0, "systemctl daemon-reload")

    def _leave_behind(self, plan: services.Plan, found: devices.Found, keep: str = "") -> None:
        for dest, content in devices.left_behind(found, keep).items():
            plan.files.append({"dest": dest, "content": content, "mode": "keep"})
        plan.revert.insert(0, certbot.let_go(self._settings["state_dir"]))

    def _why_new(self, wanted: options.Wanted, found: devices.Found, now: datetime) -> str:
        reason = devices.why_new(
            found.certificate, wanted, now, key=found.key, still=devices.still_so(found, wanted)
        )
        if (
            not reason
            and wanted.ca_certificate
            and not certificates.signed_by(found.pem, wanted.ca_certificate)
        ):
            reason = "another CA issued it"
        if not reason and wanted.also_client and found.certificate and not found.certificate.client:
            reason = "it is not one for a client too"
        if not reason and wanted.mode == "controller" and found.source != devices.source(wanted):
            reason = f"it came from elsewhere ({found.source or 'nobody wrote down where'})"
        return reason

    def _new_pair(self, wanted: options.Wanted, found: devices.Found, now: datetime) -> _Pair:
        """From the fleet's CA or the controller's certbot. The key is made on the device if that can be done."""
        if "openssl" in found.has:
            csr, where = self._request(wanted), "device"
        else:
            csr, where = self._bring_key(wanted, found), "controller"
        if wanted.mode == "controller":
            pem = controller.issue(wanted, csr, now)
        else:
            pem = certificates.issue(
                wanted.ca_certificate, wanted.ca_key, csr, wanted.names, days=wanted.lifetime_days, now=now,
                client=wanted.also_client,
            )  # fmt: skip
        leaf = certificates.describe(pem)
        if leaf.public_key != certificates.requested(csr):
            raise CertificateError("the CA answered with a certificate for another key; it is not used")
        pair = _Pair(pem, leaf, where=where)
        if wanted.mode == "controller":
            pair.still = devices.why_new(leaf, wanted, now, key=True)
            pair.useless = devices.why_new(leaf, wanted, now, key=True, still=pair.still)
        return pair

    def _request(self, wanted: options.Wanted) -> str:
        """A signing request for a key that is made on the device, waits there, and never leaves it."""
        make = (
            "EC -pkeyopt ec_paramgen_curve:P-256"
            if wanted.key_type == "ecdsa"
            else "RSA -pkeyopt rsa_keygen_bits:2048"
        )
        names = ",".join(f"{'IP' if policy_view.is_address(name) else 'DNS'}:{name}" for name in wanted.names)
        common = certificates.common(wanted.names)
        subject = f"/CN={common}" if common else "/"
        # One of another kind, or half of one, is none. Of two runs at once the first one's key is the one that both use.
        kind = "id-ecPublicKey" if wanted.key_type == "ecdsa" else "rsaEncryption"
        reply = self._exchange.run(
            f"(umask 022; mkdir -p {services.HOME})\numask 077\nnext={services.NEXT_KEY}\n"
            'openssl pkey -in "$next" -pubout 2>/dev/null | openssl asn1parse 2>/dev/null | '
            f'grep -q {kind} || rm -f "$next"\n'
            'if [ ! -f "$next" ]; then\n'
            f'  openssl genpkey -algorithm {make} -out "$next.$$" 2>/dev/null\n'
            '  ln "$next.$$" "$next" 2>/dev/null || [ -f "$next" ] || cp "$next.$$" "$next"\n  rm -f "$next.$$"\nfi\n'
            f'openssl req -new -sha256 -key "$next" -subj {shlex.quote(subject)} '
            f"-addext {shlex.quote(f'subjectAltName={names}')} | blob request\n"
        )
        if reply.status != 0 or not reply.get("request"):
            raise services.Refused(
                f"openssl on this device made no signing request: {reply.errors.strip()[-300:]}"
            )
        return reply.get("request")

    def _bring_key(self, wanted: options.Wanted, found: devices.Found) -> str:
        """The same for a device without openssl: the key is made here, and waits there beside its request."""
        if certificates.asks_for(found.request, wanted.names, wanted.key_type):
            return found.request
        key = certificates.new_key(wanted.key_type)
        csr = certificates.request(key, wanted.names)
        lines = [f"(umask 022; mkdir -p {services.HOME})", "umask 077", f"rm -f {services.NEXT_REQUEST}"]
        for path, text in ((services.NEXT_KEY, key), (services.NEXT_REQUEST, csr)):
            lines += [f"cat >{path}.new <<'END'", text.strip(), "END", f"mv -f {path}.new {path}"]
        with quiet(self):
            reply = self._exchange.run("\n".join(lines) + "\n")
        if reply.status != 0:
            raise services.Refused(f"the key could not be written: {reply.errors.strip()[-300:]}")
        return csr

    def _on_device(
        self, wanted: options.Wanted, device: dict[str, Any], found: devices.Found, now: datetime
    ) -> dict[str, Any]:
        """Mode device: certbot there gets it and keeps it renewed; the key never leaves the device."""
        if "certbot" not in found.has:
            raise services.Refused(
                "tls_mode is device, and this device has no certbot. Install it (Debian: apt-get install certbot), or set "
                "tls_mode: controller for a device that cannot have it"
            )
        self._check_challenge(wanted, device, found)
        self._refuse_early(wanted, device, found)
        if not found.renews:
            if device.get("init") == "systemd":
                raise services.Refused(
                    "this device has no certbot.timer, so nothing would renew (certbot from pip or snap brings none). Install the "
                    "distribution's certbot, or set tls_mode: controller"
                )
            self._remarks.append(
                "nothing here starts certbot for renewals: have cron call `certbot renew -q` twice a day"
            )
        name = devices.lineage(found, wanted)
        there = found.lineages.get(name, devices.Lineage())
        still = devices.still_so(found, wanted)
        reason = devices.why_new(there.issued, wanted, now, key=True, still=still)
        reason = reason or certbot.renews_otherwise(there.renewal, wanted)
        again = bool(reason) and reason == still
        order = reason if not again else ""
        waiting = not order and (
            found.certificate is None
            or not found.key
            or (there.issued is not None and there.issued.fingerprint != found.certificate.fingerprint)
            or found.status.endswith(devices.INTERRUPTED)
        )
        had = found.certificate is not None and found.key
        ocsp = bool(found.certificate and found.certificate.ocsp)
        result = self._commit_device(wanted, device, found, name, pair=had, ocsp=ocsp)
        if result.get("failed"):
            return result
        if not (order or waiting):
            return (
                self._as_before(result, reason)
                if again
                else self._renew_when_due(wanted, there, name, result)
            )
        if self._task.check_mode:
            what = (
                f"a certificate would be issued: {order}"
                if order
                else "a certificate that waits would be deployed"
            )
            return {**result, "changed": True, "state": "would_change", "reason": order, "msg": what}
        force = bool(order) and there.issued is not None and set(there.issued.names) == set(wanted.names)
        began = time.monotonic()
        with quiet(self):
            asked = certbot.issue(wanted, name, force=force) if order else certbot.take(name)
            reply = self._exchange.run(asked)
        if reply.get("code") != "0":
            why = certbot.explain(reply.get("output") or reply.errors, wanted)
            why = self._not_issued(
                why.replace(wanted.acme_eab_key, "***") if wanted.acme_eab_key else why, found
            )
            return {**result, "failed": True, "state": "refused", "reason": order, "msg": why}
        if reply.get("taken") != "0":
            message = f"{self._host}: a new certificate was issued but not taken: {certbot.reason(reply.get('said'))}"
            return {**result, "failed": True, "state": "reverted", "reason": order, "msg": message}
        issued = {"issue_seconds": round(time.monotonic() - began, 1)} if order else {}
        fresh = devices.read(self._exchange.ask(devices.query(wanted)))
        useless = (
            self._after_issue(wanted, fresh.lineages.get(name, devices.Lineage()), name, now) if order else ""
        )
        if not had or bool(fresh.certificate and fresh.certificate.ocsp) != ocsp:
            facts = (result.get("ansible_facts") or {}).get(FACT, device)
            ocsp = bool(fresh.certificate and fresh.certificate.ocsp)
            try:
                result = self._commit_device(wanted, facts, fresh, name, pair=True, ocsp=ocsp)
            except services.Refused as error:
                # Somebody came between: all that could be known was refused before the CA was asked.
                message = f"{self._host}: a certificate was issued, and is not served yet: {error}"
                result = {"failed": True, "state": "reverted", "msg": message}
        result["changed"] = True
        if result.get("failed"):
            return {**result, "reason": order, **issued}
        if useless or again:
            return self._as_before({**result, **issued}, useless or reason)
        done = f"a certificate was issued: {order}" if order else "a certificate that waited was deployed"
        return {
            **result, **issued, "state": "confirmed", "reason": order, "msg": done, "key_made": "device",
        }  # fmt: skip

    def _after_issue(self, wanted: options.Wanted, fresh: devices.Lineage, name: str, now: datetime) -> str:
        """Has the device keep in mind what this certificate lacks, and when it is due. Why it is useless, if it is."""
        otherwise = certbot.renews_otherwise(fresh.renewal, wanted)
        still = devices.why_new(fresh.issued, wanted, now, key=True) or otherwise
        due = certbot.renew_at(name, certbot.due_line(wanted, fresh.issued)) if fresh.issued else ""
        self._exchange.run(certbot.remember(devices.in_mind(wanted, still)) + due)
        return devices.why_new(fresh.issued, wanted, now, key=True, still=still) or otherwise

    def _renew_when_due(
        self, wanted: options.Wanted, there: devices.Lineage, name: str, result: dict[str, Any]
    ) -> dict[str, Any]:
        """With another tls_renew_days certbot must renew at another time; the certificate is the same."""
        line = certbot.due_line(wanted, there.issued) if there.issued else ""
        if not line or f"{line}\n" in there.renewal:
            return result
        if self._task.check_mode:
            return {
                **result,
                "changed": True,
                "state": "would_change",
                "msg": f"certbot would be told: {line}",
            }
        self._exchange.run(certbot.renew_at(name, line))
        return {**result, "changed": True, "state": "confirmed", "msg": f"certbot was told: {line}"}

    def _check_challenge(self, wanted: options.Wanted, device: dict[str, Any], found: devices.Found) -> None:
        if wanted.gate and wanted.challenge != "dns" and not found.gate:
            raise services.Refused(
                "tls_gate is true, and the firewall in force has no gate. Add to the policy: defaults: {gate: [80]}, and run "
                "the role firewall first. Plain iptables has no sets: there use tls_challenge: dns, or tls_mode: controller"
            )
        if wanted.challenge == "nginx" and "nginx" not in found.has:
            raise services.Refused(
                "tls_challenge is nginx, which this device does not have. Use webroot, standalone or dns"
            )
        if (
            wanted.challenge == "webroot"
            and wanted.webroot == options.WEBROOT
            and services.front(wanted, found.has) != "nginx"
        ):
            raise services.Refused(
                "tls_challenge is webroot, and no nginx of this role serves port 80 here. Set tls_webroot to the folder that "
                "this device's web server serves, or use standalone or dns"
            )
        if wanted.challenge == "standalone":
            holders = sorted(
                {
                    str(one.get("process") or "a process")
                    for one in device.get("listening") or []
                    if one["protocol"] == "tcp" and one["port"] == wanted.http_port
                }
            )
            if holders:
                raise services.Refused(
                    f"tls_challenge is standalone, which needs port {wanted.http_port} for itself, and {', '.join(holders)} "
                    "listens there. Use webroot or nginx, or set tls_redirect: false and free the port, or have the CA's port 80 "
                    "lead to another one (tls_http_port)"
                )

    # --- the change -------------------------------------------------------------------------------------------

    def _commit_device(
        self,
        wanted: options.Wanted,
        device: dict[str, Any],
        found: devices.Found,
        name: str,
        *,
        pair: bool,
        ocsp: bool,
    ) -> dict[str, Any]:
        plan = self._plan(wanted, device, found, pair=pair, ocsp=ocsp)
        plan.files += certbot.files(wanted, name)
        self._leave_behind(plan, found, keep=name)
        if device.get("init") == "systemd":
            timer = "systemctl daemon-reload\nsystemctl enable --now certbot.timer"
            plan.activate.insert(0, timer)
            plan.revert.insert(0, "systemctl daemon-reload")
        return self._commit(wanted, device, plan, [driver.file(entry) for entry in plan.files], [])

    def _commit(
        self,
        wanted: options.Wanted,
        device: dict[str, Any],
        plan: services.Plan,
        files: list[Any],
        settle: list[str],
    ) -> dict[str, Any]:
        running = " ".join(name for name in plan.services if name != "stunnel")
        live = [f"systemctl is-active {running} || :"] if running else []
        change = driver.transaction(
            "tls",
            files,
            self._settings,
            note=f"{wanted.mode}: {', '.join(wanted.names)}",
            commands={
                "check": plan.check,
                "activate": plan.activate,
                "verify": plan.verify,
                "revert": plan.revert,
                "settle": settle,
                "live": live,
            },
        )
        outcome = driver.run(self, self._vars, change, self._exchange)
        return driver.with_fresh_facts(self, outcome, device, plan.files)


def _remembered(still: str) -> dict[str, Any]:
    if still:
        return {"dest": certbot.STILL, "content": f"{still}\n", "mode": "0644"}
    return {"dest": certbot.STILL, "state": "absent"}
