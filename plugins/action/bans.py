# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Action for sallyport.iot.bans; documented in plugins/modules/bans.py."""

from __future__ import annotations

import shlex
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.sallyport.iot.plugins.plugin_utils.device import inquiry
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Exchange, Reply
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy import bans, fleet

_SPEC: dict[str, Any] = {
    "ban": {"type": "str", "default": ""},
    "for": {"type": "str", "default": "1h"},
    "lift": {"type": "str", "default": ""},
    "policy_dir": {"type": "path", "default": ""},
}

# What is in force, and who is banned. Each in a subshell: whatever goes wrong here, the rest of the program runs.
_LOOK = r"""
look() (
  loader=/etc/sallyport/firewall-load
  held=/etc/sallyport/firewall
  if [ "$(id -u 2>/dev/null || echo 0)" != 0 ]; then
    say in-force not-root
  elif [ ! -e "$loader" ] || { [ ! -e "$held/nft" ] && [ ! -e "$held/v4" ]; }; then
    say in-force none
  elif ! sh "$loader" verify; then
    say in-force broken
  elif [ ! -e "$held/nft" ] && [ ! -e "$held/sets" ]; then
    say in-force iptables
    listed=$(sh "$loader" bans) && printf '%s\n' "$listed" | blob "$1"
  else
    say in-force sets
    listed=$(sh "$loader" bans) && printf '%s\n' "$listed" | blob "$1"
  fi
)
"""
_REFUSALS = {
    "not-root": "this login is not root, so the firewall cannot be asked. Set ansible_become: true for this host, and "
    "ansible_become_method and ansible_become_password where the device needs them",
    "none": "this device has no firewall of Sallyport's. Give it one first: ansible-playbook sallyport.iot.harden",
    "broken": "the firewall is not in force as it was loaded; ansible-playbook sallyport.iot.harden repairs it. The "
    "device says: ",
}


class _Refused(Exception):
    """Why the task cannot be done."""


class _Alongside(Exchange):
    """The probe's exchange, with our question in front: both are answered at once."""

    reply: Reply

    def run(self, program: bytes | str) -> Reply:
        rest = program.decode() if isinstance(program, bytes) else program
        self.reply = super().run(f"{_LOOK}look before || :\n{rest}")
        return self.reply


class ActionModule(ActionBase):
    """List, add and lift bans on one device."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        del tmp
        variables = task_vars or {}
        _, arguments = self.validate_argument_spec(argument_spec=_SPEC)
        host = variables["inventory_hostname"]
        try:
            if arguments["ban"] and arguments["lift"]:
                raise _Refused(f"say either ban={arguments['ban']} or lift={arguments['lift']}, not both")
            if arguments["ban"]:
                seconds = bans.duration(arguments["for"])
                return {**result, **self._ban(bans.subject(arguments["ban"]), seconds, arguments, variables)}
            if arguments["lift"]:
                return {**result, **self._lift(bans.subject(arguments["lift"]))}
            reply = Exchange(self).ask(f"{_LOOK}look before || :\n")
            found = _bans(reply, "before")
        except (_Refused, bans.BadBan) as error:
            return {**result, "failed": True, "changed": False, "msg": f"{host}: {error}"}
        lines = "\n".join(f"{one.text}  {_ends(one)}" for one in found)
        return {**result, "changed": False, "bans": _plain(found), "msg": lines or "nobody is banned"}

    def _ban(
        self, whom: bans.Subject, seconds: int, arguments: dict[str, Any], variables: dict[str, Any]
    ) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        device = fleet.device_of(variables)
        if device is None:
            # Who must not be banned is known only when the device has said where this controller comes from.
            first = _Alongside(self)
            device = inquiry.ask(self, first)
            facts = {"ansible_facts": {inquiry.FACT: device}}
            reply = first.reply
        else:
            reply = Exchange(self).ask(f"{_LOOK}look before || :\n")
        before = _bans(reply, "before")
        host = variables["inventory_hostname"]
        resolved = fleet.resolve_host(variables, host, arguments["policy_dir"] or None, device)
        if resolved.policy is None:
            raise _Refused(
                f"{whom.text} was not banned: the policy has errors, so who must not be cut off is not known: "
                f"{resolved.errors[0].message}. ansible-playbook sallyport.iot.policy lists them all"
            )
        why = bans.why_protected(resolved.policy, device, whom)
        if why:
            raise _Refused(
                f"{whom.text} was not banned: {why}, and such addresses are never cut off. If it must be kept out, "
                "change the policy first"
            )
        kept = resolved.policy.traps.ban_seconds if resolved.policy.traps else bans.LONGEST
        # Plain iptables remembers when it last saw an address, and its rule says for all of them how long that counts.
        timeless = reply.get("in-force") == "iptables"
        if timeless and seconds != kept:
            raise _Refused(
                f"{whom.text} was not banned: this device has no ipset, and every ban there lasts {kept}s "
                f"(`traps.ban` of the policy). Say for={kept}s"
            )
        already = [one for one in before if one.text == whom.text]
        if already and not timeless:
            message = f"{whom.text} is banned already: {_ends(already[0])}. For another time, lift it first"
            return {**facts, "changed": False, "bans": _plain(before), "msg": message}
        now = [*(one for one in before if one not in already), bans.Ban(whom.text, seconds)]
        message = f"{whom.text} is banned for {bans.for_people(seconds)}"
        if not self._task.check_mode:
            # What was before is known: nothing stands between the decision and the ban.
            words = f"ban {shlex.quote(whom.address)} {seconds}"
            reply = Exchange(self).run(f"{_LOOK}{_tell(words)}look after || :\n")
            now = _bans(reply, "after")
            if whom.text not in [one.text for one in now]:
                raise _Refused(f"{whom.text} was not banned. The device says: {_said(reply)}")
        else:
            message = f"{whom.text} would be banned for {bans.for_people(seconds)}"
        return {**facts, **_changed(before, now), "msg": message}

    def _lift(self, whom: bans.Subject) -> dict[str, Any]:
        words = f"lift {shlex.quote(whom.address)}"
        program = f"{_LOOK}look before || :\n"
        if not self._task.check_mode:
            program += f"{_tell(words)}look after || :\n"
        reply = Exchange(self).run(program)
        before = _bans(reply, "before")
        left = [one for one in before if one.text != whom.text]
        if len(left) == len(before):
            return {"changed": False, "bans": _plain(before), "msg": f"{whom.text} is not banned"}
        if self._task.check_mode:
            return {**_changed(before, left), "msg": f"the ban of {whom.text} would be lifted"}
        now = _bans(reply, "after")
        if whom.text in [one.text for one in now]:
            raise _Refused(f"the ban of {whom.text} was not lifted. The device says: {_said(reply)}")
        return {**_changed(before, now), "msg": f"the ban of {whom.text} is lifted"}


def _tell(words: str) -> str:
    """A change that the loader refuses shows in what is seen afterwards."""
    return f"sh /etc/sallyport/firewall-load {words} || :\n"


def _bans(reply: Reply, when: str) -> list[bans.Ban]:
    state = reply.get("in-force")
    if state in _REFUSALS:
        raise _Refused(_REFUSALS[state] + (_said(reply) if state == "broken" else ""))
    if when not in reply:
        raise _Refused(f"the device did not list its bans. It says: {_said(reply)}")
    return bans.read(reply.get(when))


def _said(reply: Reply) -> str:
    return " ".join(reply.errors.split())[-300:] or "nothing"


def _changed(before: list[bans.Ban], now: list[bans.Ban]) -> dict[str, Any]:
    texts = ["".join(f"{one.text}\n" for one in some) for some in (before, now)]
    return {
        "changed": True,
        "bans": _plain(now),
        "diff": {"before": texts[0], "after": texts[1], "before_header": "bans", "after_header": "bans"},
    }


def _plain(found: list[bans.Ban]) -> list[dict[str, Any]]:
    return [{"address": one.text, "seconds": one.seconds} for one in found]


def _ends(one: bans.Ban) -> str:
    return f"ends in {bans.for_people(one.seconds)}"
