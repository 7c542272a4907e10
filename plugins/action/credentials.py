# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""sallyport.iot.credentials: no account with a password that the world knows. Documented in plugins/modules."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.parsing.vault import VaultLib
from ansible.plugins.action import ActionBase
from ansible_collections.sallyport.iot.plugins.plugin_utils.access import driver
from ansible_collections.sallyport.iot.plugins.plugin_utils.access.openssh import KEYS_DIR
from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials import hashing, judge, shadow
from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials.handover import (
    HandoverError,
    VaultFile,
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

# The accounts with their hashes, and what a factory might have made passwords from. Read in one exchange
# whose reply never leaves this process.
_READ = r"""
digest() {
  if command -v sha256sum >/dev/null; then sha256sum; elif command -v md5sum >/dev/null; then md5sum; else cksum; fi
}
for file in /etc/passwd /etc/shadow; do
  if [ -r "$file" ]; then say "digest $file $(digest <"$file")"; blob "$file" <"$file"; fi
done
for file in /sys/class/net/*/address; do
  line=
  if [ -r "$file" ] && IFS= read -r line <"$file"; then say mac "$line"; fi
done
for file in /proc/device-tree/serial-number /sys/class/dmi/id/product_serial /sys/class/dmi/id/board_serial; do
  line=
  if [ -r "$file" ]; then IFS= read -r line <"$file" 2>/dev/null || :; say serial "$line"; fi
done
"""
_ACTIONS = ("lock", "replace", "report")


class Refused(Exception):
    """Nothing may be changed on this device. The message says why, and what to do."""


class ActionModule(ActionBase):
    """Reads the hashes, judges them here, and takes the bad ones away through commit. Hashes and passwords
    stay in memory.
    """

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_diff = True
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        del tmp
        task_vars = task_vars or {}
        _, arguments = self.validate_argument_spec(
            argument_spec={
                "action": {"type": "str", "default": "lock", "choices": list(_ACTIONS)},
                "lists": {"type": "list", "elements": "str", "default": []},
                "vault_directory": {"type": "str", "default": ""},
                "record_directory": {"type": "str", "default": ""},
                **driver.SETTINGS,
            }
        )
        host = str(task_vars.get("inventory_hostname"))
        try:
            result.update(self._run(host, driver.device_of(self, task_vars, result), arguments, task_vars))
        except (
            Refused,
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
        with quiet(self):
            reply = exchange.run(_READ)
        texts = {path: reply.get(path) for path in (shadow.PASSWD, shadow.SHADOW)}
        # The form that this device's own tool gives, so that commit can compare with it.
        digests = {path: value for path, _, value in (d.partition(" ") for d in reply.all("digest"))}
        accounts = shadow.parse(texts[shadow.PASSWD], texts[shadow.SHADOW])
        if not accounts:
            raise Refused("/etc/passwd could not be read on this device; is become set?")
        if not texts[shadow.SHADOW] and any(account.file == shadow.SHADOW for account in accounts):
            raise Refused("/etc/shadow could not be read on this device; is become set?")
        lists = [judge.DEFAULT_LIST, *(Path(name).expanduser() for name in arguments["lists"])]
        pairs = [pair for path in lists for pair in judge.load_list(path)]
        words = judge.device_words({**device, "macs": reply.all("mac"), "serials": reply.all("serial")})
        context = hashlib.sha256(repr((pairs, words)).encode("utf-8", "surrogateescape")).hexdigest()
        directory = (
            Path(arguments["record_directory"]).expanduser()
            if arguments["record_directory"]
            else default_directory()
        )
        record = Record(directory, host, context)
        verdicts = judge.judge_all(accounts, pairs, words, known=record.known)
        record.save(zip(accounts, verdicts, strict=True))
        others = [name for name in task_vars.get("ansible_play_hosts_all") or [] if name != host]
        shared = record.shared_with(accounts, others)
        verdicts = [_with_shared(verdict, shared.get(verdict.account, [])) for verdict in verdicts]
        bad = [verdict for verdict in verdicts if verdict.usable_by_strangers or _second_root(verdict)]
        result: dict[str, Any] = {
            "accounts": [_report(verdict, "") for verdict in verdicts if verdict.verdict != "locked"],
            "changed": False,
            "state": "unchanged",
            "msg": "no account has a password that strangers know",
            "exchanges": exchange.count,
        }
        if not bad:
            return result
        names = {verdict.account for verdict in bad}
        if arguments["action"] == "report":
            result["msg"] = f"passwords that strangers know: {', '.join(sorted(names))}"
            return result
        self._check_way_in(device, names)
        new = self._new_fields(bad, arguments)
        vault = self._vault(host, arguments) if arguments["action"] == "replace" else None
        if vault is not None and not self._task.check_mode:
            vault.prepare({name: password for name, (_, password) in new.items() if password})
        outcome = self._commit(accounts, texts, digests, new, arguments, task_vars, exchange)
        result.update(driver.with_fresh_facts(self, outcome, device, ()))
        result["exchanges"] = exchange.count
        if vault is not None:
            if result.get("state") == "confirmed":
                vault.commit()
                result["kept_in"] = str(vault.path)
            elif result.get("state") in ("refused", "reverted"):
                vault.discard()
        if not result.get("failed"):
            result["accounts"] = [
                _report(verdict, "replaced" if new[verdict.account][1] else "locked")
                if verdict.account in new
                else _report(verdict, "")
                for verdict in verdicts
                if verdict.verdict != "locked"
            ]
            result["diff"] = _diff(bad, new)
            result["msg"] = "; ".join(
                f"{verdict.account}: {verdict.why or verdict.verdict}" for verdict in bad
            )
        if result.get("state") == "confirmed":
            changed = [
                Account(a.name, a.uid, a.home, a.shell, a.file, new[a.name][0]) if a.name in new else a
                for a in accounts
            ]
            record.save(
                (account, Verdict(account.name, account.uid, "unique", hashing.scheme(account.field)))
                if account.name in new
                else (account, verdict)
                for account, verdict in zip(changed, verdicts, strict=True)
            )
        return result

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

    def _new_fields(self, bad: Sequence[Verdict], arguments: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
        """account -> (new field, new password); no password where the account is locked."""
        result = {}
        for verdict in bad:
            if arguments["action"] == "replace" and verdict.verdict in ("default", "shared"):
                password = hashing.generate_password()
                result[verdict.account] = (hashing.hash_password(password), password)
            else:
                result[verdict.account] = (shadow.LOCKED, "")
        return result

    def _vault(self, host: str, arguments: Mapping[str, Any]) -> VaultFile:
        secrets = getattr(getattr(self._loader, "_vault", None), "secrets", None)
        if not secrets or not arguments["vault_directory"]:
            raise Refused(
                "credentials_action is replace, so new passwords have to be kept for you in encrypted files: "
                "set "
                "credentials_vault_directory, and give this run a vault password (--vault-password-file)"
            )
        vault = VaultLib(secrets)
        return VaultFile(
            Path(arguments["vault_directory"]).expanduser(),
            host,
            lambda text: bytes(vault.encrypt(text)).decode("ascii"),
            lambda text: bytes(vault.decrypt(text)).decode("utf-8"),
        )

    def _commit(
        self,
        accounts: Sequence[Account],
        texts: Mapping[str, str],
        digests: Mapping[str, str],
        new: Mapping[str, tuple[str, str]],
        arguments: Mapping[str, Any],
        task_vars: dict[str, Any],
        exchange: Exchange,
    ) -> dict[str, Any]:
        files = []
        for path, text in texts.items():
            fields = {a.name: new[a.name][0] for a in accounts if a.file == path and a.name in new}
            if not fields:
                continue
            content = shadow.replaced(text, fields).encode("utf-8", "surrogateescape")
            before = digests[path].split()[0]
            # Somebody may set a password while this runs: theirs must not be undone by a file that was read
            # before.
            files.append(File(path, content=content, mode="keep", secret=True, replaces=before))
        change = driver.transaction(
            "credentials",
            files,
            arguments,
            note=f"passwords of {', '.join(sorted(new))}",
        )
        with quiet(self):
            return driver.run(self, task_vars, change, exchange)


def _with_shared(verdict: Verdict, others: Sequence[str]) -> Verdict:
    if not others or verdict.verdict not in ("unique", "not assessed"):
        return verdict
    why = f"the same password hash is on {', '.join(others)}"
    return Verdict(verdict.account, verdict.uid, "shared", verdict.scheme, why)


def _second_root(verdict: Verdict) -> bool:
    return verdict.uid == 0 and verdict.account != "root" and verdict.verdict != "locked"


def _report(verdict: Verdict, action: str) -> dict[str, Any]:
    return {
        "account": verdict.account,
        "uid": verdict.uid,
        "verdict": verdict.verdict,
        "scheme": verdict.scheme,
        "why": verdict.why,
        "action": action,
    }


def _diff(bad: Sequence[Verdict], new: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    before = "".join(f"{verdict.account}: {verdict.verdict} password\n" for verdict in bad)
    after = "".join(
        f"{verdict.account}: "
        f"{'new password, unique to this device' if new[verdict.account][1] else 'locked'}\n"
        for verdict in bad
    )
    return {"before_header": "passwords", "after_header": "passwords", "before": before, "after": after}
