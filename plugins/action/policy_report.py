# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Action for sallyport.iot.policy_report; documented in plugins/modules/policy_report.py."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import date, datetime, timezone
from typing import Any, cast

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import (
    cidrs,
    compare,
    explain,
    exposure,
    fleet,
    flows,
    load,
    report,
    versions,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.load import Resolved
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import Addresses

_SHOWN = 5
"""Hosts that get the same answer, by name."""
_FORMS = ("text", "json", "markdown")
Answer = tuple[str, Any, bool]
"""Text or Markdown, the same as plain data, and whether to fail."""


class ActionModule(ActionBase):
    """Answers a question about the policies of all hosts of the play, on the controller."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        del tmp
        self.variables = task_vars or {}
        self.known = fleet.Addresses(self.variables.get("hostvars") or {})
        self.form = self._choice("form", _FORMS, "text")
        self.day = self._day()
        self.hosts = [str(host) for host in self.variables.get("ansible_play_hosts") or ()]
        work: dict[str, Callable[[], Answer]] = {
            "check": self._check,
            "exposure": self._exposure,
            "explain": self._explain,
            "compare": self._compare,
        }
        what = self._choice("what", tuple(work), "check")
        try:
            text, data, failed = work[what]()
        except (explain.BadQuestion, cidrs.NotACidr, flows.TooManyPieces, versions.NoSuchVersion) as error:
            raise AnsibleActionFail(f"policy {what}: {error}") from None
        if self.form == "json":
            text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
        path = self._text("path")
        if path:
            try:
                with open(path, "w", encoding="utf-8") as file:
                    file.write(text)
            except OSError as error:
                raise AnsibleActionFail(
                    f"policy {what}: {path} cannot be written: {error.strerror}"
                ) from None
        result.update(changed=False, data=data, text=text)
        if failed:
            result.update(failed=True, msg=f"policy {what}: see above" if path else text)
        else:
            result["msg"] = f"written to {path}" if path else text
        return result

    # The questions

    def _check(self) -> Answer:
        findings = load.gather([self._resolve(host) for host in self.hosts])
        errors = sum(one.severity == "error" for one in findings)
        warnings = len(findings) - errors
        counted = f"{len(self.hosts)} hosts, {errors} errors, {warnings} warnings"
        lines = [report.finding_text(one) for one in findings]
        text = "\n".join([*lines, counted]) + "\n"
        if self.form == "markdown":
            text = f"{report.findings_markdown(findings)}\n{counted}\n"
        strict = bool(self._task.args.get("strict"))
        return text, [report.finding_data(one) for one in findings], bool(errors or (strict and warnings))

    def _exposure(self) -> Answer:
        source = self._text("source")
        alike: dict[Any, list[Resolved]] = {}
        for found in self._sound():
            alike.setdefault(_sameness(found), []).append(found)
        texts: list[str] = []
        data: dict[str, Any] = {}
        for hosts in alike.values():
            one, names = hosts[0], _names(found.host for found in hosts)
            answer: Any
            if source:
                answer = report.exposed_data(
                    exposure.for_vantage(
                        one.tentative, source, self._text("interface"), self._text("destination"), self.day
                    )
                )
                texts.append(report.exposed_text(names, source, answer))
            else:
                answer = report.opening_data(exposure.openings(one.tentative, one.services, on=self.day))
                write = report.openings_markdown if self.form == "markdown" else report.openings_text
                texts.append(write(names, answer))
            data.update((found.host, answer) for found in hosts)
        return "\n".join(texts), data, False

    def _explain(self) -> Answer:
        source, service = self._text("source"), self._text("service")
        if not source or not service:
            raise AnsibleActionFail(
                "policy explain: needs `source` (an address) and `service` (ssh, tcp/22, icmp/8)"
            )
        hook = self._choice("hook", ("inbound", "outbound", "forward"), "inbound")
        question = explain.Question(
            source,
            service,
            self._text("destination"),
            self._text("interface"),
            self._text("out_interface"),
            cast(Any, hook),
        )
        texts: list[str] = []
        data: dict[str, Any] = {}
        for found in self._sound():
            answers = explain.ask(found.tentative, found.services, found.zones, question, self.day)
            data[found.host] = explain.as_data(answers)
            texts.append(f"{found.host}: {explain.as_text(question, answers)}")
        return "\n".join(texts), data, False

    def _compare(self) -> Answer:
        old, new = self._text("old"), self._text("new")
        if not old:
            raise AnsibleActionFail("policy compare: needs `old`, a folder or git revision")
        data: list[Any] = []
        worst: set[str] = set()
        # Hosts of a fleet mostly fare alike, and an answer is costly: each is worked out, and told, once.
        alike: dict[Any, tuple[compare.Comparison, dict[str, Any], list[str]]] = {}
        with ExitStack() as stack:
            folders: dict[tuple[str, str], str] = {}

            def folder(version: str, home: str) -> str:
                # Hosts of one inventory share a folder, and so its parsing.
                if (version, home) not in folders:
                    folders[version, home] = stack.enter_context(versions.folder_of(version, home))
                return folders[version, home]

            for host in self.hosts:
                home = self._home(host)
                before = self._sound_in(host, folder(old, home), load.JUDGEMENTS)
                after = self._sound_in(host, folder(new, home) if new else home)
                both = (_sameness(before), _sameness(after))
                if both not in alike:
                    names = {**before.services, **after.services}
                    found = compare.compare(before.tentative, after.tentative, names, on=self.day)
                    alike[both] = (found, compare.as_data(found), [])
                found, answer, hosts = alike[both]
                hosts.append(host)
                data.append({**answer, "host": host})
                worst.update(one.kind for one in found.every)
                worst.update("lists" for _one in found.lists)
                worst.update("nat" for _one in found.nat)
        write = compare.as_markdown if self.form == "markdown" else compare.as_text
        texts = [write(replace(found, host=_names(hosts))) for found, _answer, hosts in alike.values()]
        forbidden = self._choice("fail_on", ("nothing", "gained", "any"), "nothing")
        return "\n".join(texts), data, bool(worst) if forbidden == "any" else forbidden in worst

    # What they need

    def _resolve(self, host: str, policy_dir: str | None = None) -> Resolved:
        folder = policy_dir or self._text("policy_dir") or None
        return fleet.resolve_host(self.variables, host, folder, None, self.known)

    def _sound(self) -> list[Resolved]:
        found = [self._resolve(host) for host in self.hosts]
        self._refuse([one for one in found if one.policy is None])
        return found

    def _sound_in(self, host: str, folder: str, passing: Container[str] = ()) -> Resolved:
        found = self._resolve(host, folder)
        if any(one.id not in passing for one in found.errors):
            self._refuse([found])
        return found

    def _refuse(self, broken: list[Resolved]) -> None:
        if broken:
            lines = [report.finding_text(one) for one in load.gather(broken) if one.severity == "error"]
            raise AnsibleActionFail("the policy has errors:\n" + "\n".join(lines))

    def _home(self, host: str) -> str:
        own: Mapping[str, Any] = self.variables["hostvars"][host]
        return os.path.abspath(self._text("policy_dir") or fleet.folder_of(own))

    def _text(self, key: str) -> str:
        return str(self._task.args.get(key) or "")

    def _choice(self, key: str, known: tuple[str, ...], default: str) -> str:
        said = self._text(key) or default
        if said not in known:
            raise AnsibleActionFail(f"`{key}` must be one of {', '.join(known)}; found `{said}`")
        return said

    def _day(self) -> date:
        said = self._text("now")
        if not said:
            return datetime.now(timezone.utc).date()
        try:
            return date.fromisoformat(said)
        except ValueError:
            raise AnsibleActionFail(f'`now` must be a day such as "2027-01-31"; found `{said}`') from None


def _sameness(found: Resolved) -> Any:
    """What two hosts have in common that get the same answer."""
    policy = found.tentative
    # Where its own addresses lie matters to a host only that publishes ports.
    own = policy.own_addresses if policy.nat.publish else Addresses()
    return replace(policy, host="", own_addresses=own), tuple(found.services.items())


def _names(hosts: Iterable[str]) -> str:
    named = list(hosts)
    more = len(named) - _SHOWN
    return ", ".join(named[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
