# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""sallyport.iot.legacy_services: telnet and its kin, stopped and kept away. Documented in plugins/modules."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.sallyport.iot.plugins.plugin_utils.access import (
    driver,
    legacy,
    owners,
    policy_view,
    snmp,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials.quiet import quiet
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Exchange
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import HostPolicy


class ActionModule(ActionBase):
    """Finds them in what probe saw, and takes them away through commit; a device without any costs one exchange where
    systemd has to be asked what its units run, or cron has a file of root's, and none elsewhere.
    """

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        del tmp
        task_vars = task_vars or {}
        host = task_vars.get("inventory_hostname")
        _, arguments = self.validate_argument_spec(
            argument_spec={
                "allow": {"type": "list", "elements": "dict", "default": []},
                "snmp_communities": {"type": "list", "elements": "str", "default": []},
                **driver.SETTINGS,
            }
        )
        device = driver.device_of(self, task_vars, result)
        try:
            allow = legacy.allow_list(arguments["allow"])
        except legacy.AllowListError as error:
            return {**result, "failed": True, "changed": False, "state": "refused", "msg": f"{host}: {error}"}
        findings = legacy.find(device, allow)
        exchange = Exchange(self)
        policy = policy_view.of(task_vars, device)
        device, findings, outside = self._look_closer(
            device, allow, findings, policy, list(arguments["snmp_communities"]), exchange
        )
        result["services"] = [finding.report() for finding in findings]
        if policy is not None:
            result["outside_policy"] = outside
        plan = legacy.plan(device, findings)
        if plan:
            change = driver.transaction(
                "legacy_services",
                [driver.file(entry) for entry in plan.files],
                arguments,
                note=", ".join(finding.kind for finding in findings if not finding.reason),
                commands={
                    "check": plan.check,
                    "activate": plan.activate,
                    "verify": plan.verify,
                    "revert": plan.revert,
                },
            )
            with quiet(self):
                outcome = driver.run(self, task_vars, change, exchange)
            shown = [entry for entry in plan.files if not entry.get("secret")]
            result.update(driver.with_fresh_facts(self, outcome, legacy.shown(device), shown))
            result["exchanges"] = exchange.count
        else:
            message = "no legacy service was found"
            result.update(changed=False, state="unchanged", exchanges=exchange.count, msg=message)
        unhandled = [
            f"{finding.kind}: {reason}"
            for finding in findings
            if not finding.reason
            for reason in finding.unhandled
        ]
        unhandled += legacy.unread(device)
        if unhandled and not result.get("failed"):
            # Said after what could be done was done: half the services gone is better than none.
            result["failed"] = True
            result["msg"] = (
                f"{host}: {'; '.join(unhandled)}. Stop it where it is started, or name it in "
                f"legacy_services_allow with a reason"
            )
        return result

    def _look_closer(
        self,
        device: dict[str, Any],
        allow: dict[str, str],
        findings: list[legacy.Finding],
        policy: HostPolicy | None,
        own: list[str],
        exchange: Exchange,
    ) -> tuple[dict[str, Any], list[legacy.Finding], list[dict[str, str]]]:
        """What the probe cannot tell: what units run, who packaged a listener, and what an SNMP agent answers."""
        words = [*snmp.EVERYDAY, *own]
        outside = _outside(policy, device, findings)
        asked_agent = _agent(findings) is not None
        program = legacy.asking(device) + owners.asking(device, outside)
        if asked_agent:
            program += snmp.asking(device, words)
        if not program:
            return device, findings, outside
        with quiet(self):
            reply = exchange.run(program)
        device = legacy.with_commands(device, reply)
        findings = legacy.find(device, allow)
        outside = _outside(policy, device, findings)
        owners.fill(device, outside, reply)
        agent = _agent(findings)
        if agent is None:
            return device, findings, outside
        if not asked_agent:
            with quiet(self):
                reply = exchange.run(snmp.asking(device, words))
        prefix = "snmp /"
        texts = {key[len("snmp ") :]: value for key, value in reply.records if key.startswith(prefix)}
        answers = [bytes.fromhex(text) for text in reply.all("snmp_answer")]
        asked = "snmp_asked" in reply
        configured = [word for word in snmp.communities(texts.values()) if word not in words]
        if configured:
            words += configured
            with quiet(self):
                reply = exchange.run(snmp.asking(device, configured))
            answers += [bytes.fromhex(text) for text in reply.all("snmp_answer")]
        address = str((device.get("connection") or {}).get("server") or "")
        network = snmp.from_controller(address, words) if address and exchange.transport == "ssh" else []
        legacy.judge_snmp(device, agent, snmp.judge(answers, asked, network), texts, words)
        return device, findings, outside


def _agent(findings: list[legacy.Finding]) -> legacy.Finding | None:
    return next((one for one in findings if one.kind == "snmp" and not one.reason), None)


def _outside(
    policy: HostPolicy | None, device: dict[str, Any], findings: list[legacy.Finding]
) -> list[dict[str, str]]:
    if policy is None:
        return []
    named = {f"{port}/{protocol}" for one in findings for protocol, port in one.sockets | one.suspected}
    return [one for one in policy_view.outside(policy, device) if one["listens"] not in named]
