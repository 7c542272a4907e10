# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""sallyport.iot.rotate: new passwords and keys for a device, now. Documented in plugins/modules."""

from __future__ import annotations

import contextlib
import fcntl
import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.sallyport.iot.plugins.plugin_utils.access import admission, driver
from ansible_collections.sallyport.iot.plugins.plugin_utils.access.host_keys import blob, fingerprint
from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials import (
    hashing,
    reading,
    rotation,
    shadow,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials.handover import (
    HandoverError,
    Keeper,
    concluded,
    keeper,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials.quiet import quiet
from ansible_collections.sallyport.iot.plugins.plugin_utils.device import inquiry
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Exchange
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.transaction import File

_SPEC: dict[str, Any] = {
    "key": {"type": "str", "default": ""},
    "keep_keys": {"type": "list", "elements": "str", "default": []},
    "vault_directory": {"type": "str", "default": ""},
    "command": {"type": "list", "elements": "str", "default": []},
    **driver.SETTINGS,
}


class Refused(Exception):
    """Nothing may be changed on this device. The message says why, and what to do."""


class _WithNewKey(Exchange):
    """Exchanges whose new connections log in with the new key and nothing else: no password, no agent, no old key."""

    key: Path
    become_password = ""

    @contextlib.contextmanager
    def as_new_connection(self, known_hosts: str = "", timeout: int = 0) -> Iterator[None]:
        connection, become = self._connection, self._connection.become
        with super().as_new_connection(known_hosts, timeout):
            if self.transport != "ssh":
                yield
                return
            saved = connection.get_option("private_key_file"), connection.get_option("ssh_args")
            was = connection.get_option("ssh_extra_args")
            only = (
                "-o IdentitiesOnly=yes -o IdentityAgent=none -o PreferredAuthentications=publickey "
                "-o PasswordAuthentication=no -o KbdInteractiveAuthentication=no"
            )
            known = become.get_option("become_pass") if become is not None and self.become_password else None
            try:
                connection.set_option("private_key_file", str(self.key))
                connection.set_option("ssh_args", f"{only} {saved[1] or ''}")
                connection.set_option("ssh_extra_args", (was or "").replace(_offer(self.key), "").strip())
                if known is not None:
                    become.set_option("become_pass", self.become_password)
                yield
            finally:
                connection.set_option("private_key_file", saved[0])
                connection.set_option("ssh_args", saved[1])
                connection.set_option("ssh_extra_args", was)
                if known is not None:
                    become.set_option("become_pass", known)


class ActionModule(ActionBase):
    """Two commits: the new key beside the old ones, then the old ones and the passwords away."""

    _added = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        del tmp
        task_vars = task_vars or {}
        host = str(task_vars.get("inventory_hostname"))
        _, arguments = self.validate_argument_spec(argument_spec=_SPEC)
        started = time.monotonic()
        try:
            result.update(self._run(host, arguments, task_vars))
        except (
            Refused,
            reading.Unreadable,
            inquiry.NotRoot,
            hashing.NoLibrary,
            HandoverError,
            OSError,
        ) as error:
            so_far = "the new key was added, nothing was taken away" if self._added else "nothing was changed"
            message = f"{host}: rotate was refused, {so_far}: {error}"
            result.update(failed=True, changed=self._added, state="refused", msg=message)
        result["seconds"] = round(time.monotonic() - started, 1)
        return result

    def _run(self, host: str, arguments: Mapping[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        path, new_key = self._key(str(arguments["key"]))
        exchange = _WithNewKey(self)
        exchange.key = exchange.next_key = path
        if exchange.transport == "ssh":
            # A run that was broken off has rotated some devices already: those know the new key only.
            before = self._connection.get_option("ssh_extra_args") or ""
            self._connection.set_option("ssh_extra_args", f"{before} {_offer(path)}".strip())
        elif exchange.transport != "local":
            raise Refused(f"keys can be rotated over ssh, not over the connection {exchange.transport!r}")
        device = inquiry.recall(task_vars) or inquiry.ask(self, exchange)
        inquiry.require_root(device)
        account = _login(device)
        found = reading.read(self, exchange, rotation.reading(device) + reading.trial(device))
        wanted = rotation.plan(
            device,
            account,
            rotation.key_files(found.reply),
            new_key,
            arguments["keep_keys"],
            found.reply.all("loginkeys"),
        )
        if not wanted.replace:
            raise Refused(
                f"no file is left for the new key: {', '.join(wanted.gone)} has to be taken away first"
            )
        kept_by = keeper(self, host, arguments["vault_directory"], arguments["command"])
        scheme = reading.scheme_for(device, found.reply.all("verified"))
        new = self._passwords(found, scheme, kept_by, device, exchange)
        # Lines that are no keys are taken away too.
        keys = sum(bool(one["key"]) for one in wanted.removed)
        fields = {name: field for name, (field, _) in new.items()}
        result: dict[str, Any] = {
            "changed": True,
            "accounts": [
                {"account": name, "action": "replaced" if password else "locked"}
                for name, (_, password) in sorted(new.items())
            ],
            "keys_removed": wanted.removed,
            "key": fingerprint(new_key),
            "key_file": str(path),
            "diff": _diff(new, wanted, new_key),
        }
        if self._task.check_mode:
            message = f"{_count(len(new), 'password')} and {_count(keys, 'key')} would be replaced"
            return {**result, "state": "would_change", "exchanges": exchange.count, "msg": message}
        if kept_by is not None:
            # Before anything changes: who cannot keep them says so now.
            kept_by.prepare({name: password for name, (_, password) in new.items() if password})
        if wanted.add:
            outcome = self._commit("rotate_key", wanted.add, arguments, task_vars, exchange)
            if outcome.get("failed"):
                if kept_by is not None:
                    kept_by.discard()
                return {**outcome, "exchanges": exchange.count}
            self._added = True
        secret = [
            File(name, content=content, mode="keep", secret=True, replaces=found.replaces(name))
            for name, content in rotation.new_passwords(
                found.accounts, found.texts, fields, int(time.time() // 86400)
            ).items()
        ]
        files = [*wanted.replace, *secret]
        exchange.become_password = self._become_password(device, new)
        # Should the controller die here, what was prepared stays where it is, for whoever looks.
        outcome = self._commit(
            "rotate",
            files,
            arguments,
            task_vars,
            exchange,
            # A leaked password or key must not return with a generation.
            # Whether this change writes them or not: they may have been locked, and kept, by an earlier one.
            forgets=sorted({*(one.dest for one in files), *rotation.ACCOUNT_FILES}),
            forgets_like=rotation.forms(device),
            settle=[rotation.end_sessions(device), *rotation.afterwards(wanted)],
        )
        problem = ""
        if kept_by is not None:
            if outcome.get("state") == "confirmed" or outcome.get("changed"):
                problem = concluded(kept_by, taken=True)
                result["kept_in"] = problem or kept_by.where
            elif outcome.get("state") in ("refused", "reverted"):
                concluded(kept_by, taken=False)
        exchange.forget_connection()
        if outcome.get("failed"):
            return {**outcome, "exchanges": exchange.count}
        result.update(
            {key: outcome[key] for key in ("state", "generation", "files", "confirmed") if key in outcome}
        )
        # Nothing can be left unchanged: an earlier run with this very key may have done all there was to do.
        result["changed"] = bool(outcome.get("changed") or wanted.add)
        result["exchanges"] = exchange.count
        result["msg"] = (
            f"{_count(len(new), 'password')} and {_count(keys, 'key')} replaced, sessions ended. From now on: "
            f"ansible_ssh_private_key_file: {path}, and {path}.pub in ssh_authorized_keys in place of the old key"
        )
        for remark in _what_stays(device, found.reply.all("enrolled")):
            result["msg"] += f"; {remark}"
        if exchange.become_password:
            result["msg"] += (
                f"; ansible_become_password: the new one of {self._needed(device)} ({result['kept_in']})"
            )
        if problem:
            result.update(failed=True, msg=f"{host}: {problem}. {result['msg']}")
        return result

    def _key(self, name: str) -> tuple[Path, str]:
        """The new private key's file, made now if it is not there, and the public half."""
        if not name:
            raise Refused(
                "rotate_key must name the file of the new private key, which is made if it is not there: "
                "-e rotate_key=keys/fleet-2"
            )
        path = Path(name).expanduser().absolute()
        odd = sorted({one for one in str(path) if one in "%$\"'\\" or not one.isprintable()})
        if odd:
            raise Refused(
                f"rotate_key is {name!r}: ssh itself would read {' '.join(odd)!r} in it otherwise. Name another file"
            )
        public = path.with_name(f"{path.name}.pub")
        current = (
            self._connection.get_option("private_key_file") if self._connection.transport == "ssh" else ""
        )
        if current and Path(current).expanduser().absolute() == path:
            raise Refused(
                f"rotate_key is {path}, the key with which this inventory logs in already. Name a new file"
            )
        if not path.exists():
            if self._task.check_mode:
                return path, "ssh-ed25519 AAAA made-by-the-run"
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Several forks come here at once: one makes the key, all use it.
            with (path.parent / f".{path.name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not path.exists():
                    made = path.with_name(f".{path.name}.new")
                    for old in (made, made.with_name(f"{made.name}.pub")):
                        old.unlink(missing_ok=True)
                    command = [
                        "ssh-keygen",
                        "-q",
                        "-t",
                        "ed25519",
                        "-N",
                        "",
                        "-C",
                        f"sallyport {path.name}",
                        "-f",
                    ]
                    done = subprocess.run([*command, str(made)], capture_output=True, text=True, check=False)
                    if done.returncode:
                        raise Refused(f"{path}: ssh-keygen could not make it: {done.stderr.strip()}")
                    made.with_name(f"{made.name}.pub").replace(public)
                    made.replace(path)
        if not public.exists():
            raise Refused(f"{public} is missing; make it with: ssh-keygen -y -f {path} > {public}")
        text = public.read_text(encoding="utf-8").strip()
        if "\n" in text or not blob(text):
            raise Refused(f"{public} does not hold one public key")
        return path, text

    def _passwords(
        self,
        found: reading.Found,
        scheme: str,
        kept_by: Keeper | None,
        device: Mapping[str, Any],
        exchange: Exchange,
    ) -> dict[str, tuple[str, str]]:
        """account -> (new field, new password) for every account that has a password; locked where nobody keeps it."""
        result = {}
        for account in found.accounts:
            kind = hashing.scheme(account.field)
            if kind == "locked":
                continue
            if kept_by is None or kind == "empty":
                result[account.name] = (shadow.LOCKED, "")
                continue
            password = hashing.generate_password()
            result[account.name] = (hashing.hash_password(password, scheme), password)
        needed = self._needed(device)
        if needed in result and not result[needed][1]:
            raise Refused(
                f"becoming root asks for the password of {needed}, and a new one has to be kept for you: set "
                "credentials_vault_directory and give this run a vault password, or set credentials_command"
            )
        return result

    def _needed(self, device: Mapping[str, Any]) -> str:
        """The account whose password the run needs to become root; "" for none."""
        become = self._connection.become
        if become is None or not become.get_option("become_pass"):
            return ""
        # sudo and doas ask for the caller's password, su for root's.
        return "root" if become.name.rpartition(".")[2] == "su" else str(device.get("login_user"))

    def _become_password(self, device: Mapping[str, Any], new: Mapping[str, tuple[str, str]]) -> str:
        needed = self._needed(device)
        return new[needed][1] if needed in new else ""

    def _commit(
        self,
        name: str,
        files: Sequence[File],
        arguments: Mapping[str, Any],
        task_vars: dict[str, Any],
        exchange: Exchange,
        forgets: Sequence[str] = (),
        forgets_like: Sequence[str] = (),
        settle: Sequence[str] = (),
    ) -> dict[str, Any]:
        change = driver.transaction(
            name,
            files,
            # Old generations are forgotten by the next run: this one's way in has just changed.
            {**arguments, "keep": 1000},
            note="new keys and passwords",
            forgets=forgets,
            forgets_like=forgets_like,
            commands={"settle": settle},
        )
        with quiet(self):
            return driver.run(self, task_vars, change, exchange)


def _what_stays(device: Mapping[str, Any], enrolled: Sequence[str]) -> Iterator[str]:
    """What leaked too, perhaps, and is not replaced here."""
    if enrolled:
        names = ", ".join(sorted(set(enrolled)))
        yield (
            f"whoever was root has read the secrets of one-time codes of {names}: name them in ssh_enrol_again, or give "
            "them another totp_secret, and run harden.yml"
        )
    for port, process, unit, pid in admission.other_daemons(device):
        if process == "sshd":
            yield (
                f"a second sshd on port {port} ({unit or 'no unit'}, process {pid}) has settings of its own: its keys were "
                "not replaced. Stop it, or take them away"
            )
    trusted = " ".join(((device.get("ssh") or {}).get("config") or {}).get("trustedusercakeys") or [])
    if trusted not in ("", "none"):
        yield f"certificates of the user CA in {trusted} still let in: revoke those that leaked (ssh_revoked_keys)"
    if rotation.asks_a_program(device):
        yield "AuthorizedKeysCommand is set: the keys that this program names still let in"


def _offer(path: Path) -> str:
    return f"-i {shlex.quote(str(path))}"


def _login(device: Mapping[str, Any]) -> Mapping[str, Any]:
    user = str(device.get("login_user"))
    for account in device.get("accounts") or []:
        if account["name"] == user:
            return account  # type: ignore[no-any-return]
    raise Refused(f"{user}, with whom Ansible logs in, is no account in /etc/passwd of this device")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _diff(new: Mapping[str, tuple[str, str]], wanted: rotation.Plan, new_key: str) -> dict[str, str]:
    before = "".join(f"{name}: a password\n" for name in sorted(new))
    before += "".join(f"{one['file']}: {one['key']} {one['comment']}\n" for one in wanted.removed)
    after = "".join(
        f"{name}: {'a new password' if password else 'locked'}\n"
        for name, (_, password) in sorted(new.items())
    )
    after += "".join(
        f"{one.dest}: {fingerprint(new_key)}\n"
        for one in wanted.replace
        if blob(new_key).encode() in one.content
    )
    return {"before_header": "credentials", "after_header": "credentials", "before": before, "after": after}
