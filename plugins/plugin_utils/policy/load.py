# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""From policy files, variables, inventory and device to one host's policy and everything wrong with it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import check, layers, resolve
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.language import Reader
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import (
    Endpoint,
    Finding,
    HostPolicy,
    Rule,
    ServiceSet,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.pause import no_collector

JUDGEMENTS = frozenset(
    ("lock-out", "bad-controller", "management-open", "assert-failed", "blocklist-overlap", "expired-new", "unknown-file")
)  # fmt: skip
"""Errors about a policy that is whole all the same. The version before a change may have them: the change mends them,
or takes a host and its file away."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """One host's policy. ``policy`` is None when any finding is an error.

    ``tentative`` is what could be made of it all the same, for looking at, never for loading.
    """

    host: str
    policy: HostPolicy | None
    findings: tuple[Finding, ...]
    tentative: HostPolicy
    zones: Mapping[str, Endpoint] = field(default_factory=dict)
    services: Mapping[str, ServiceSet] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    """All rules as written, expired ones included."""

    @property
    def fingerprints(self) -> frozenset[str]:
        """Of all rules; hand them to the next run as ``previous_rules``."""
        return frozenset(check.fingerprint(rule) for rule in self.rules)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that forbid to go on."""
        return tuple(one for one in self.findings if one.severity == "error")


@no_collector()
def load_host(
    policy_dir: str | None,
    host: str,
    groups: Sequence[str] = (),
    inventory: Mapping[str, Sequence[str]] | None = None,
    group_members: Mapping[str, Sequence[str]] | None = None,
    variables: Mapping[str, Any] | None = None,
    device: Mapping[str, Any] | None = None,
    controller: Sequence[str] = (),
    brokers: Sequence[str] = (),
    management_ports: Sequence[int] = (22,),
    now: date | None = None,
    known_hosts: Collection[str] | None = None,
    known_groups: Collection[str] | None = None,
    previous_rules: Collection[str] | None = None,
    list_dirs: Sequence[str] = (),
) -> Resolved:
    """Load, merge, resolve and check the policy of ``host``.

    ``groups`` come parents first. ``inventory`` gives the addresses of hosts, ``group_members`` the hosts of
    groups. ``device`` is probe's result, None without one. ``controller`` are addresses of this controller and of
    execution nodes as the device sees them, ``brokers`` those of message brokers. ``now`` is the controller's day in UTC. With ``known_hosts`` and
    ``known_groups`` files for any other host or group are errors. ``previous_rules`` are the ``fingerprints`` of
    what the host has now, None where that is unknown. Block lists lie in the policy's folder or in ``list_dirs``.
    """
    reader = Reader()
    found, problems = layers.layers(policy_dir, host, groups, variables or {}, known_hosts, known_groups)
    reader.findings += problems
    merged = layers.merge(found, reader)
    if any(one.id in ("no-fleet", "unreadable") for one in problems):
        merged.tainted.update(layers.HOOKS)
    around = resolve.Surroundings(
        host=host,
        policy_dir=policy_dir,
        inventory=inventory or {},
        group_members=group_members or {},
        device=device,
        controller=tuple(controller),
        brokers=tuple(brokers),
        management_ports=tuple(management_ports),
        list_dirs=tuple(list_dirs),
        now=now or date.min,
    )
    draft = resolve.resolve(merged, around, reader)
    policy = check.finish(draft, around, reader, previous_rules)
    findings = tuple(
        Finding(one.id, one.severity, one.message, one.remedy, one.where, (host,))
        for one in sorted(dict.fromkeys(reader.findings), key=_order)
    )
    failed = any(one.severity == "error" for one in findings)
    return Resolved(
        host=host,
        policy=None if failed else policy,
        findings=findings,
        tentative=policy,
        zones=draft.zones,
        services=draft.services,
        rules=tuple(rule for rules in draft.rules.values() for rule in rules),
    )


def gather(results: Sequence[Resolved]) -> list[Finding]:
    """The findings of many hosts, each mistake once with all its hosts; errors first, then by place."""
    hosts: dict[Finding, list[str]] = {}
    for resolved in results:
        for one in resolved.findings:
            key = Finding(one.id, one.severity, one.message, one.remedy, one.where)
            hosts.setdefault(key, []).append(resolved.host)
    merged = [
        Finding(one.id, one.severity, one.message, one.remedy, one.where, tuple(names))
        for one, names in hosts.items()
    ]
    return sorted(merged, key=_order)


def _order(one: Finding) -> tuple[str, str, int]:
    return one.severity, one.where.source, one.where.line
