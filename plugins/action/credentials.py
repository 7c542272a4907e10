# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""sallyport.iot.credentials: no account with a password that the world knows. Documented in plugins/modules."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.sallyport.iot.plugins.plugin_utils.access import driver
from ansible_collections.sallyport.iot.plugins.plugin_utils.access.second_factor import (
    KEYS_DIR,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials import (
    hashing,
    hygiene,
    judge,
    lockout,
    reading,
    shadow,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials.handover import (
    HandoverError,
    Keeper,
    concluded,
    keeper,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials.judge import Verdict
from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials.quiet import quiet
from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials.record import (
    Record,
    default_directory,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials.shadow import Account
from ansible_collections.sallyport.iot.plugins.plugin_utils.device import inquiry
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Exchange
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.transaction import File

_ACTIONS = ("lock", "replace", "expire", "report")


DUE = "must change at the next login"


@dataclass(frozen=True)
class Change:
    """What happens to one account: its new field (None: it stays, and its change is due), the password, and in words."""

    field: str | None
    password: str
    action: str


class Refused(Exception):
    """Nothing may be changed on this device. The message says why, and what to do."""


class ActionModule(ActionBase):
    """Reads the hashes, judges them here, and takes the bad ones away through commit. Hashes and passwords
    stay in memory.
    """

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        del tmp
        task_vars = task_vars or {}
        _, arguments = self.validate_argument_spec(
            argument_spec={
                "action": {"type": "str", "default": "lock", "choices": list(_ACTIONS)},
                "lists": {"type": "list", "elements": "str", "default": []},
                "vault_directory": {"type": "str", "default": ""},
                "command": {"type": "list", "elements": "str", "default": []},
                "record_directory": {"type": "str", "default": ""},
                "keep_shells": {"type": "list", "elements": "str", "default": []},
                "lockout_attempts": {"type": "int", "default": 5},
                "lockout_seconds": {"type": "int", "default": 600},
                "only_if_shared": {"type": "bool", "default": False},
                **driver.SETTINGS,
            }
        )
        host = str(task_vars.get("inventory_hostname"))
        if arguments["only_if_shared"] and not Record(_directory(arguments), host, "").is_new_to(
            _others(task_vars, host)
        ):
            return {**result, "skipped": True, "changed": False, "msg": "no other device has shown the same"}
        try:
            result.update(self._run(host, driver.device_of(self, task_vars, result), arguments, task_vars))
        except (
            Refused,
            reading.Unreadable,
            inquiry.NotRoot,
            judge.ListError,
            hashing.NoLibrary,
            HandoverError,
            OSError,
        ) as error:
            message = f"{host}: credentials was refused, nothing was changed: {error}"
            result.update(failed=True, changed=False, state="refused", msg=message)
        return result

    def _run(
        self, host: str, device: dict[str, Any], arguments: dict[str, Any], task_vars: dict[str, Any]
    ) -> dict[str, Any]:
        exchange = Exchange(self)
        found = reading.read(self, exchange)
        record, verdicts = self._verdicts(host, device, found, arguments, task_vars)
        bad = [verdict for verdict in verdicts if verdict.usable_by_strangers]
        tidying = hygiene.look(
            found.accounts,
            found.modes,
            login=str(device.get("login_user")),
            with_keys=reading.without_passwords(device, found),
            keep_shells=arguments["keep_shells"],
            no_shell=next(iter(found.reply.all("no_shell")), ""),
            has_shadow=bool(found.texts[shadow.SHADOW]),
        )
        locks = lockout.plan(
            found.pam,
            "faillock" in found.reply,
            int(arguments["lockout_attempts"]),
            int(arguments["lockout_seconds"]),
            spare_root=self._asks_for() == "su",
        )
        result: dict[str, Any] = {
            "accounts": [_report(verdict, "") for verdict in verdicts if verdict.verdict != "locked"],
            "remarks": [remark.report() for remark in tidying.remarks],
            "lockout": locks.report(),
            "changed": False,
            "state": "unchanged",
            "msg": "no account has a password that strangers know",
            "exchanges": exchange.count,
        }
        if arguments["action"] == "report":
            if bad:
                names = ", ".join(sorted(verdict.account for verdict in bad))
                result["msg"] = f"passwords that strangers know: {names}"
            return result
        bad, kept = self._spared(device, bad, tidying.removed)
        if kept:
            result["warnings"] = [f"{host}: {line}" for line in kept]
        new = self._changes(host, device, found, bad, arguments, exchange)
        if not new and not tidying and not locks.files:
            result["exchanges"] = exchange.count
            if bad:
                result["msg"] = "; ".join(f"{one.account}: must change at the next login" for one in bad)
                for entry in result["accounts"]:
                    entry["action"] = DUE if entry["account"] in {one.account for one in bad} else ""
            return result
        vault = self._keeper(host, arguments) if any(change.password for change in new.values()) else None
        if vault is not None and not self._task.check_mode:
            vault.prepare({name: change.password for name, change in new.items() if change.password})
        outcome = self._commit(found, new, tidying, locks, arguments, task_vars, exchange)
        result.update(driver.with_fresh_facts(self, outcome, device, ()))
        result["exchanges"] = exchange.count
        problem = ""
        if vault is not None:
            if result.get("state") == "confirmed":
                problem = concluded(vault, taken=True)
                result["kept_in"] = problem or vault.where
            elif result.get("state") in ("refused", "reverted"):
                concluded(vault, taken=False)
        if not result.get("failed"):
            result["accounts"] = [
                _report(verdict, new[verdict.account].action if verdict.account in new else "")
                for verdict in verdicts
                if verdict.verdict != "locked"
            ]
            result["diff"] = _diff(bad, new, tidying, locks)
            result["msg"] = _message(bad, new, tidying, locks)
        if result.get("state") == "confirmed":
            changed = {name: change.field for name, change in new.items() if change.field is not None}
            record.save(
                (replace(account, field=changed[account.name]), _unique(account, changed[account.name]))
                if account.name in changed
                else (account, verdict)
                for account, verdict in zip(found.accounts, verdicts, strict=True)
            )
        if problem:
            result.update(failed=True, msg=f"{host}: {problem}. {result['msg']}")
        return result

    def _verdicts(
        self,
        host: str,
        device: Mapping[str, Any],
        found: reading.Found,
        arguments: Mapping[str, Any],
        task_vars: Mapping[str, Any],
    ) -> tuple[Record, list[Verdict]]:
        """What is known of every password, guessed at only where its hash has changed."""
        lists = [judge.DEFAULT_LIST, *(Path(name).expanduser() for name in arguments["lists"])]
        pairs = [pair for path in lists for pair in judge.load_list(path)]
        words = judge.device_words(
            {**device, "macs": found.reply.all("mac"), "serials": found.reply.all("serial")}
        )
        fleet = reading.fleet_passwords(task_vars, host)
        record = Record(_directory(arguments), host, repr((pairs, words, fleet)))
        verdicts = judge.judge_all(found.accounts, pairs, words, known=record.known, fleet=fleet)
        record.save(zip(found.accounts, verdicts, strict=True))
        shared = record.shared_with(found.accounts, _others(task_vars, host))
        if shared:
            record.save(zip(found.accounts, verdicts, strict=True))
        return record, [_with_shared(verdict, shared.get(verdict.account, [])) for verdict in verdicts]

    def _asks_for(self) -> str:
        """How this run becomes root by a password: ``su``, ``sudo``, ``doas``, or "" where it needs none."""
        become = self._connection.become
        if become is None or not become.get_option("become_pass"):
            return ""
        return str(become.name.rpartition(".")[2])

    def _spared(
        self, device: Mapping[str, Any], bad: Sequence[Verdict], removed: set[str]
    ) -> tuple[list[Verdict], list[str]]:
        """Those to act on, and in words those that are left alone because the run could not go on without them."""
        user = str(device.get("login_user"))
        method = self._asks_for()
        needed = "root" if method == "su" else user if method else ""
        acted, kept = [], []
        for verdict in bad:
            if verdict.account in removed:
                continue
            if verdict.account == needed and verdict.verdict == "shared":
                kept.append(
                    f"{verdict.account}: {verdict.why}; left alone, because {method} asks for it: give every device its own "
                    "with ansible-playbook sallyport.iot.rotate"
                )
                continue
            acted.append(verdict)
        self._check_way_in(device, {verdict.account for verdict in acted})
        return acted, kept

    def _check_way_in(self, device: Mapping[str, Any], names: set[str]) -> None:
        """The commit's new connection is the proof; this only spares the wait where failure is certain."""
        user = str(device.get("login_user"))
        listed: list[dict[str, Any]] = [a for a in device.get("accounts") or [] if a["name"] == user]
        account = listed[0] if listed else {}
        if user in names:
            ssh = device.get("ssh") or {}
            config = ssh.get("config") or {}
            elsewhere = KEYS_DIR in " ".join(config.get("authorizedkeysfile") or [])
            if not int(account.get("authorized_keys") or 0) and not elsewhere:
                raise Refused(
                    f"{user}, with whom Ansible logs in, has a password that strangers know and no key. "
                    f"Run the ssh role first (it installs ssh_authorized_keys), then this one"
                )
        become = self._connection.become
        if become is None or not become.get_option("become_pass"):
            return
        # sudo and doas ask for the caller's password, su for root's.
        needed = "root" if become.name.rpartition(".")[2] == "su" else user
        if needed in names and user != "root":
            raise Refused(
                f"the password of {needed} is one that strangers know, and {become.name} asks for it: "
                "without it "
                f"Ansible could not become root any more. Set a new one by hand and in "
                "ansible_become_password"
            )

    def _changes(
        self,
        host: str,
        device: Mapping[str, Any],
        found: reading.Found,
        bad: Sequence[Verdict],
        arguments: Mapping[str, Any],
        exchange: Exchange,
    ) -> dict[str, Change]:
        """account -> what happens to it."""
        wanted = arguments["action"]
        accounts = {account.name: account for account in found.accounts}
        with_keys = reading.without_passwords(device, found)
        scheme = ""
        result = {}
        for verdict in bad:
            account = accounts[verdict.account]
            if wanted == "replace" and verdict.verdict in ("default", "shared"):
                self._keeper(host, arguments)
                if not scheme:
                    tried = reading.read(self, exchange, reading.trial(device)).reply.all("verified")
                    scheme = reading.scheme_for(device, tried)
                password = hashing.generate_password()
                result[verdict.account] = Change(
                    hashing.hash_password(password, scheme), password, "replaced"
                )
            elif wanted == "expire" and verdict.verdict in ("default", "shared"):
                if shadow.change_is_due(found.texts[shadow.SHADOW], account.name):
                    continue
                # A key-only login has no terminal to ask on ("Password change required but no TTY"), and BusyBox's login
                # never looks: there the password goes.
                alone = account.name == device.get("login_user") or account.name in with_keys
                possible = account.file == shadow.SHADOW and shadow_pam(found.pam) and not alone
                result[verdict.account] = (
                    Change(None, "", DUE) if possible else Change(shadow.LOCKED, "", "locked")
                )
            else:
                result[verdict.account] = Change(shadow.LOCKED, "", "locked")
        return result

    def _keeper(self, host: str, arguments: Mapping[str, Any]) -> Keeper:
        found = keeper(self, host, arguments["vault_directory"], arguments["command"])
        if found is None:
            raise Refused(
                "credentials_action is replace, so new passwords have to be kept for you: set credentials_vault_directory and "
                "give this run a vault password (--vault-password-file), or set credentials_command"
            )
        return found

    def _commit(
        self,
        found: reading.Found,
        new: Mapping[str, Change],
        tidying: hygiene.Tidying,
        locks: lockout.Lockout,
        arguments: Mapping[str, Any],
        task_vars: dict[str, Any],
        exchange: Exchange,
    ) -> dict[str, Any]:
        after = _texts(found, new, tidying)
        paths = [path for path, text in found.texts.items() if after[path] != text or path in tidying.modes]
        paths += [path for path in tidying.modes if path not in found.texts]
        files = []
        for path in paths:
            mode, owner, group = tidying.modes.get(path, ("keep", "root", "root"))
            text = after[path] if path in found.texts else found.reply.get(path)
            files.append(
                File(
                    path,
                    content=text.encode("utf-8", "surrogateescape"),
                    mode=mode,
                    owner=owner,
                    group=group,
                    secret=True,
                    # Nobody else's change may be undone; see reading.Found.replaces.
                    replaces=found.replaces(path),
                )
            )
        files += [
            File(
                path,
                content=text.encode("utf-8", "surrogateescape"),
                mode="keep" if path in found.pam else "0644",
            )
            for path, text in locks.files.items()
        ]
        verify = (
            [reading.still_becomes(found.pam.get(lockout.PROGRAMS[1], ""))]
            if locks.files and locks.state == "set"
            else []
        )
        change = driver.transaction(
            "credentials", files, arguments, note=_note(new, tidying, locks), commands={"verify": verify}
        )
        with quiet(self):
            if verify and not self._task.check_mode:
                exchange.run(reading.trial_account())
            return driver.run(self, task_vars, change, exchange)


def _directory(arguments: Mapping[str, Any]) -> Path:
    directory = arguments["record_directory"]
    return Path(directory).expanduser() if directory else default_directory()


def _others(task_vars: Mapping[str, Any], host: str) -> list[str]:
    return [name for name in task_vars.get("ansible_play_hosts_all") or [] if name != host]


def shadow_pam(pam: Mapping[str, str]) -> bool:
    """Whether logins of this device look at the age of a password: PAM does."""
    return lockout.COMMON in pam


def _texts(found: reading.Found, new: Mapping[str, Change], tidying: hygiene.Tidying) -> dict[str, str]:
    """passwd and shadow as they are to be."""
    result = dict(found.texts)
    for path in result:
        fields = {
            a.name: new[a.name].field or ""
            for a in found.accounts
            if a.file == path and a.name in new and new[a.name].field is not None
        }
        result[path] = shadow.replaced(result[path], fields)
    due = [name for name, change in new.items() if change.field is None]
    result[shadow.SHADOW] = shadow.with_change_due(result[shadow.SHADOW], due)
    # Nobody has to choose another one in place of a password that was made now.
    made = [name for name, change in new.items() if change.password]
    result[shadow.SHADOW] = shadow.with_change_on(result[shadow.SHADOW], made, int(time.time() // 86400))
    result[shadow.PASSWD] = shadow.with_shells(result[shadow.PASSWD], tidying.shells)
    if tidying.shadowed:
        result[shadow.PASSWD], result[shadow.SHADOW] = shadow.moved(
            result[shadow.PASSWD], result[shadow.SHADOW], tidying.shadowed
        )
    return {path: shadow.without(text, tidying.removed) for path, text in result.items()}


def _unique(account: Account, changed: str) -> Verdict:
    return Verdict(account.name, account.uid, "unique", hashing.scheme(changed))


def _with_shared(verdict: Verdict, others: Sequence[str]) -> Verdict:
    if not others or verdict.verdict not in ("unique", "not assessed"):
        return verdict
    why = f"the same password hash is on {', '.join(others)}"
    return Verdict(verdict.account, verdict.uid, "shared", verdict.scheme, why)


def _report(verdict: Verdict, action: str) -> dict[str, Any]:
    return {
        "account": verdict.account,
        "uid": verdict.uid,
        "verdict": verdict.verdict,
        "scheme": verdict.scheme,
        "why": verdict.why,
        "action": action,
    }


def _note(new: Mapping[str, Change], tidying: hygiene.Tidying, locks: lockout.Lockout) -> str:
    parts = [f"passwords of {', '.join(sorted(new))}"] if new else []
    parts += [f"{remark.what}: {remark.action}" for remark in tidying.remarks if remark.action]
    if locks.files:
        parts.append("lock-out against guessing" if locks.state == "set" else "no lock-out against guessing")
    return "; ".join(parts)


def _message(
    bad: Sequence[Verdict], new: Mapping[str, Change], tidying: hygiene.Tidying, locks: lockout.Lockout
) -> str:
    parts = [f"{one.account}: {one.why or one.verdict}" for one in bad if one.account in new]
    parts += [f"{remark.what} {remark.why}" for remark in tidying.remarks if remark.action]
    if locks.files:
        parts.append(f"lock-out against guessing with login and su: {locks.state}")
    return "; ".join(parts)


def _diff(
    bad: Sequence[Verdict], new: Mapping[str, Change], tidying: hygiene.Tidying, locks: lockout.Lockout
) -> dict[str, str]:
    dealt = [one for one in bad if one.account in new]
    before = [f"{one.account}: {one.verdict} password" for one in dealt]
    before += [f"{one.what}: {one.why}" for one in tidying.remarks if one.action]
    before += [f"{path}: without lock-out as wanted" for path in sorted(locks.files)]
    after = [
        f"{one.account}: {_IN_WORDS.get(new[one.account].action, new[one.account].action)}" for one in dealt
    ]
    after += [f"{one.what}: {one.action}" for one in tidying.remarks if one.action]
    after += [f"{path}: lock-out {locks.state}" for path in sorted(locks.files)]
    return {
        "before_header": "passwords",
        "after_header": "passwords",
        "before": "".join(f"{line}\n" for line in before),
        "after": "".join(f"{line}\n" for line in after),
    }


_IN_WORDS = {"replaced": "new password, unique to this device"}
