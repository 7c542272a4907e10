# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""sallyport.iot.ssh: keys only and strong cryptography for the daemon that this device has. Documented in
plugins/modules.
"""

from __future__ import annotations

import dataclasses
import secrets
import shlex
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.sallyport.iot.plugins.plugin_utils.access import (
    admission,
    algorithms,
    driver,
    dropbear,
    enrolment,
    host_keys,
    known_hosts,
    offers,
    openssh,
    options,
    policy_view,
    second_factor,
    sshd_config,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.access.ssh_plan import (
    Plan,
    Refused,
    login_account,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Exchange
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.transaction import File

BANNER = "Managed by Sallyport (role ssh); changes here are overwritten"


_SPEC: dict[str, dict[str, Any]] = {
    "authorized_keys": {"type": "list", "elements": "str", "default": []},
    "authorized_keys_exclusive": {"type": "bool", "default": False},
    "password_authentication": {"type": "bool", "default": False},
    "permit_root_login": {"type": "str", "default": "auto"},
    "allow_users": {"type": "list", "elements": "str", "default": []},
    "max_auth_tries": {"type": "int", "default": 4},
    "login_grace_time": {"type": "int", "default": 30},
    "forwarding": {"type": "bool", "default": False},
    "exempt_sources": {"type": "list", "elements": "str", "default": []},
    "clients": {"type": "str", "default": "openssh-8.4"},
    "profile": {"type": "str", "default": "default"},
    "renew_shared_host_keys": {"type": "bool", "default": True},
    "known_hosts": {"type": "bool", "default": True},
    "options": {"type": "dict", "default": {}},
    "users": {"type": "list", "elements": "raw", "default": []},
    "groups": {"type": "list", "elements": "raw", "default": []},
    "second_factor": {"type": "str", "default": "none"},
    "enrolment_directory": {"type": "str", "default": ""},
    "enrol_again": {"type": "list", "elements": "str", "default": []},
    "trusted_user_ca": {"type": "list", "elements": "str", "default": []},
    "revoked_keys": {"type": "list", "elements": "raw", "default": []},
    "host_certificates": {"type": "list", "elements": "str", "default": []},
    "idle_timeout": {"type": "int", "default": 0},
    "max_startups_per_source": {"type": "int", "default": 10},
}


class ActionModule(ActionBase):
    """Computes the change for this device's daemon and makes it through commit."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        del tmp
        task_vars = task_vars or {}
        self._enrolments: list[enrolment.Enrolment] = []
        device = driver.device_of(self, task_vars, result)
        _, arguments = self.validate_argument_spec(argument_spec={**_SPEC, **driver.SETTINGS})
        settings = {name: arguments.pop(name) for name in driver.SETTINGS}
        try:
            wanted = admission.with_login_keys(device, options.parse(arguments))
            options.check_settings(settings)
            exchange = Exchange(self)
            plan = self._plan(device, wanted, task_vars, exchange)
            if wanted.renew_shared_host_keys:
                plan.notes += filter(None, [driver.not_compared(task_vars)])
            if not self._task.check_mode:
                for one in self._enrolments:
                    one.prepare()
        except (enrolment.EnrolmentError, Refused, ValueError) as error:
            enrolment.discard_all(self._enrolments)
            host = task_vars.get("inventory_hostname")
            message = f"{host}: ssh was refused, nothing was changed: {error}"
            return {**result, "failed": True, "changed": False, "state": "refused", "msg": message}
        outcome = self._change(plan, device, wanted, settings, task_vars, exchange)
        keys = len(wanted.authorized_keys)
        result.update(driver.with_fresh_facts(self, outcome, device, plan.files, keys))
        result["notes"] = plan.notes
        self._hand_over(result)
        return result

    def _hand_over(self, result: dict[str, Any]) -> None:
        """Files with second factors count once their device has confirmed."""
        if result.get("state") == "confirmed":
            problems = [problem for one in self._enrolments if (problem := one.concluded())]
            if problems:
                result.update(failed=True, msg="; ".join([*problems, str(result.get("msg", ""))]))
            if self._enrolments:
                result["enrolled"] = [{"user": one.user, "file": str(one.path)} for one in self._enrolments]
        elif result.get("state") in ("refused", "reverted", "unchanged"):
            enrolment.discard_all(self._enrolments)

    def _plan(
        self,
        device: dict[str, Any],
        wanted: options.SshOptions,
        task_vars: dict[str, Any],
        exchange: Exchange,
    ) -> Plan:
        ssh = device["ssh"]
        shared = host_keys.shared_with(ssh.get("host_keys") or [], driver.fleet_host_keys(task_vars))
        if ssh["server"] == "openssh":
            needs_policy = openssh.punishes(device) or wanted.chooses_people
            written = policy_view.resolved(task_vars, device) if needs_policy else None
            policy = written.policy if written else None
            port = int((device.get("connection") or {}).get("server_port") or 22)
            if policy is not None and openssh.punishes(device):
                sources = (*wanted.exempt_sources, *policy_view.management_sources(policy, port))
                wanted = dataclasses.replace(wanted, exempt_sources=sources)
            if written is not None and policy is None and wanted.chooses_people:
                raise Refused(
                    f"the policy, which says from where people may come, has errors: {written.errors[0].message}. "
                    "Correct it (playbooks/policy.yml lists all), or set from in every entry and take the policy away"
                )
            admitted, answers = self._admitted(device, wanted, exchange, written, port)
            chosen = algorithms.choose(
                ssh.get("supported") or {}, oldest_client=wanted.clients, profile=wanted.profile
            )
            # A daemon that runs with these lists has just proved that this controller speaks them.
            if exchange.transport == "ssh" and not algorithms.running_with(ssh.get("config") or {}, chosen):
                algorithms.check_controller(chosen, algorithms.controller_speaks(self._ssh()))
            password = exchange.transport == "ssh" and bool(self._connection.get_option("password"))
            plan = openssh.plan(device, wanted, chosen, shared, BANNER, admitted, answers, password)
            if admitted is not None and admitted.with_factor("totp"):
                self._enrol(
                    plan, device, wanted, admitted, exchange, str(task_vars.get("inventory_hostname"))
                )
                # One that is replaced was seen by somebody, or lost: no way back may bring it again.
                had = {f"{second_factor.SECRETS_DIR}/{name}" for name in admitted.answers.enrolled}
                plan.forgets = [
                    entry["dest"] for entry in plan.files if entry["dest"] in had and "content" in entry
                ]
            return plan
        if ssh["server"] == "dropbear":
            return dropbear.plan(device, wanted, shared, self._keys_before(device, exchange))
        raise Refused(
            "neither OpenSSH nor dropbear was found on this device, so its way in cannot be secured by this "
            "role. "
            "Leave the role out for this host, or install one of them"
        )

    def _admitted(
        self,
        device: dict[str, Any],
        wanted: options.SshOptions,
        exchange: Exchange,
        written: Any,
        port: int,
    ) -> tuple[admission.Admission | None, second_factor.Answers | None]:
        """Who may log in; asks the device where that was or is to be said."""
        files = device.get("files") or {}
        before = "".join(str(files.get(path, "")) for path in (sshd_config.MAIN, sshd_config.DROP_IN))
        if not wanted.chooses_people and admission.EVERYBODY not in before:
            return None, None
        salt = secrets.token_hex(16) if any(person.totp_secret for person in wanted.users) else ""
        reply = exchange.run(second_factor.question(salt))
        answers = second_factor.answers(
            reply, time.time(), container=bool(device.get("container")), salt=salt
        )
        ports = {port, *(int(one) for one in device["ssh"].get("ports") or [])}

        def resolve(where: str, texts: Sequence[str]) -> Sequence[str]:
            return policy_view.sources(where, texts, written)

        default: Sequence[str] = []
        if wanted.chooses_people:
            default = policy_view.admitted_sources(written.policy if written else None, ports)
        return admission.admit(device, wanted, answers, resolve, default), answers

    def _enrol(
        self,
        plan: Plan,
        device: dict[str, Any],
        wanted: options.SshOptions,
        admitted: admission.Admission,
        exchange: Exchange,
        host: str,
    ) -> None:
        """A secret for each who has none, in the plan and in a file for the operator; PAM's module where it is missing."""
        names = admitted.enrol()
        if names and not wanted.enrolment_directory:
            raise Refused(
                f"{', '.join(names)} would get a second factor that nobody is told: set ssh_enrolment_directory to a "
                "directory of this controller"
            )
        if not admitted.answers.module:
            self._install(plan, device, exchange)
        for name in names:
            one = enrolment.Enrolment(Path(wanted.enrolment_directory).expanduser(), host, name)
            self._enrolments.append(one)
            plan.files.append(_secret(name, one.device_file()))
        # The site's own secrets have their own way to their people: nothing is made, and nothing handed over.
        plan.files += [
            _secret(name, second_factor.secret_file(secret, ())) for name, secret in admitted.given().items()
        ]

    def _install(self, plan: Plan, device: dict[str, Any], exchange: Exchange) -> None:
        package = second_factor.PACKAGE
        if device.get("packages") != "apt":
            raise Refused(
                f"one-time codes need PAM's module pam_google_authenticator.so, and this device has no apt to "
                f"install {package} with; put it into the image, or use second_factor: fido2"
            )
        if self._task.check_mode:
            plan.notes.append(f"{package} would be installed first")
            return
        reply = exchange.run(second_factor.install())
        if "installed" not in reply:
            last = [line for line in reply.errors.splitlines() if line.strip()][-1:] or ["no output"]
            raise Refused(
                f"one-time codes need the package {package}, and apt could not install it: {last[0].strip()}. Make a "
                "package source reachable for this device, or put the package into its image"
            )
        plan.notes.append(f"{package} was installed")

    def _keys_before(self, device: dict[str, Any], exchange: Exchange) -> str:
        path = dropbear.keys_file(device, login_account(device))
        files = device.get("files") or {}
        if path in files:
            return str(files[path])
        reply = exchange.run(f"if [ -f {shlex.quote(path)} ]; then blob keys <{shlex.quote(path)}; fi")
        return reply.get("keys")

    def _ssh(self) -> str:
        return str(self._connection.get_option("ssh_executable") or "ssh")

    def _change(
        self,
        plan: Plan,
        device: dict[str, Any],
        wanted: options.SshOptions,
        settings: dict[str, Any],
        task_vars: dict[str, Any],
        exchange: Exchange,
    ) -> dict[str, Any]:
        files = [driver.file(entry) for entry in plan.files]
        files += self._generated(plan, device, len(files))
        change = driver.transaction(
            "ssh",
            files,
            settings,
            new_daemon=plan.new_daemon,
            # With new keys in play only those that the device has now may answer, and none that it shares.
            host_keys=plan.stays if plan.renewals else (),
            note="ssh role",
            forgets=plan.forgets,
            commands={
                "check": plan.check,
                "activate": plan.activate,
                "verify": plan.verify,
                "revert": plan.revert,
                "live": plan.live,
            },
        )
        target = None
        converged = not plan.renewals and all(
            (device.get("files") or {}).get(entry["dest"]) == entry.get("content")
            for entry in plan.files
            if entry["dest"] in (device.get("files") or {})
        )
        if not converged and wanted.known_hosts and not self._task.check_mode and exchange.transport == "ssh":
            target = known_hosts.resolve(self._ssh_command(device))
            self._learn(target, plan.stays)
        made: list[str] = []

        def learn_new(public: dict[str, str]) -> None:
            made.extend(key for key in public.values() if key)
            self._learn(target, made)

        outcome = driver.run(self, task_vars, change, exchange, learn_new)
        if target is not None and plan.renewals:
            if outcome.get("state") == "confirmed":
                self._forget(target, plan.gone)
            elif outcome.get("state") in ("refused", "reverted"):
                self._forget(target, made)
        if made and outcome.get("state") == "confirmed":
            outcome["host_keys"] = [
                {"type": key.split()[0], "fingerprint": host_keys.fingerprint(key), "public": key}
                for key in made
            ]
        if device["ssh"]["server"] == "dropbear" and outcome.get("state") == "confirmed":
            for kind, names in offers.weaker(offers.ask(self._ssh_command(device))).items():
                plan.notes.append(f"dropbear still offers as {kind}, compiled in: {', '.join(names)}")
        for item in plan.renewals:
            plan.notes.append(f"host key {item.path} is made anew: {item.why}")
        return outcome

    def _generated(self, plan: Plan, device: dict[str, Any], first: int) -> list[File]:
        """Private keys that are made on the device and never leave it, and for OpenSSH the public half beside
        each.
        """
        dropbear_server = device["ssh"]["server"] == "dropbear"
        files: list[File] = []
        for item in plan.renewals:
            number = first + len(files) + 1
            snippet = (
                dropbear.generate_key(item.type)
                if dropbear_server
                else openssh.generate_key(item.type, item.bits)
            )
            files.append(File(item.path, mode="0600", secret=True, generate=snippet))
            if not dropbear_server:
                copy = f'cat "${{1%/*}}/{number}.pub" >"$1"'
                files.append(File(f"{item.path}.pub", mode="0644", generate=copy))
        return files

    def _ssh_command(self, device: dict[str, Any]) -> list[str]:
        """ssh and its arguments as this connection uses them, up to the host."""
        get = self._connection.get_option
        words = [self._ssh()]
        for name in ("ssh_args", "ssh_common_args", "ssh_extra_args"):
            words += shlex.split(get(name) or "")
        if get("port"):
            words += ["-p", str(get("port"))]
        if get("remote_user"):
            words += ["-l", str(get("remote_user"))]
        return [*words, str(get("host") or self._play_context.remote_addr)]

    def _learn(self, target: known_hosts.Target | None, publics: Iterable[str]) -> None:
        if target is not None:
            lines = list(publics)
            known_hosts.edit(target.path, lambda text: known_hosts.added(text, target.names, lines))

    def _forget(self, target: known_hosts.Target, publics: Iterable[str]) -> None:
        blobs = [host_keys.blob(public) for public in publics if public]
        known_hosts.edit(target.path, lambda text: known_hosts.removed(text, target.names, blobs))


def _secret(name: str, content: str) -> dict[str, Any]:
    return {"dest": f"{second_factor.SECRETS_DIR}/{name}", "content": content, "mode": "0600", "secret": True}
