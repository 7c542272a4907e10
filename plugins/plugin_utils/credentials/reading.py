# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The accounts of a device with their hashes, read in one exchange whose reply never leaves this process."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.access import sshd_config
from ansible_collections.sallyport.iot.plugins.plugin_utils.access.second_factor import PRINCIPALS_DIR
from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials import hashing, shadow
from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials.quiet import quiet
from ansible_collections.sallyport.iot.plugins.plugin_utils.credentials.shadow import Account
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Exchange, Reply

SECRET_FILES = ("/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-")
"""Files that hold hashes. passwd's own copies hold none where shadow is used."""

_PASSWORD_VARIABLES = (
    "ansible_password",
    "ansible_ssh_pass",
    "ansible_become_password",
    "ansible_become_pass",
)
# What a factory might have made passwords from comes along: names, serial numbers, addresses.
_READ = r"""
digest() {
  if command -v sha256sum >/dev/null; then sha256sum; elif command -v md5sum >/dev/null; then md5sum; else cksum; fi
}
for file in /etc/passwd /etc/shadow; do
  if [ -r "$file" ]; then say "digest $file $(digest <"$file")"; blob "$file" <"$file"; fi
done
for file in SECRET_FILES; do
  if [ -f "$file" ]; then
    mode=$(ls -ld "$file")
    say "mode $mode"
    # Its text only where its mode has to change.
    case $mode in -??-?-----*) ;; *) say "digest $file $(digest <"$file")"; blob "$file" <"$file" ;; esac
  fi
done
for file in /etc/pam.d/common-auth /etc/pam.d/login /etc/pam.d/su /etc/pam.d/sallyport-auth; do
  if [ -r "$file" ]; then blob "$file" <"$file"; fi
done
for file in /lib/security /lib64/security /usr/lib/security /lib/*/security /usr/lib/*/security; do
  if [ -e "$file/pam_faillock.so" ]; then say faillock "$file/pam_faillock.so"; fi
done
for file in /usr/sbin/nologin /sbin/nologin /bin/false; do
  if [ -x "$file" ]; then say no_shell "$file"; fi
done
for file in PRINCIPALS/*; do
  if [ -s "$file" ]; then say principals "${file##*/}"; fi
done
for file in /sys/class/net/*/address; do
  line=
  if [ -r "$file" ] && IFS= read -r line <"$file"; then say mac "$line"; fi
done
for file in /proc/device-tree/serial-number /sys/class/dmi/id/product_serial /sys/class/dmi/id/board_serial; do
  line=
  if [ -r "$file" ]; then IFS= read -r line <"$file" 2>/dev/null || :; say serial "$line"; fi
done
""".replace("SECRET_FILES", " ".join(SECRET_FILES)).replace("PRINCIPALS", PRINCIPALS_DIR)

# A login program verifies a scheme or it does not; asking its documentation is guessing. So one account that
# exists in a mount namespace alone gets a hash of each scheme, and somebody who is not root becomes it through
# the device's own su: the same libraries, or the same BusyBox, as its login. Nothing outside sees any of it.
# A busy device needs seconds for it; who has not agreed after ten has refused.
# Where su is for some people only, a copy that everybody may run, with rules of our own, tries the same libraries.
_BECOMES = r"""
becomes() { # HASH PASSWORD [RULES [anybody]]: RULES stand in place of /etc/pam.d/su
  # Not as arguments: everybody could read those, and so could the next probe.
  FIELD=$1 PASSWORD=$2 RULES=${3:-} ANYBODY=${4:-} unshare -m /bin/sh -eu -c '
    field=$FIELD password=$PASSWORD
    unset FIELD PASSWORD
    mount --make-rprivate / 2>/dev/null || :
    mount -t tmpfs -o mode=0711 tmpfs /tmp
    umask 022
    { cat /etc/passwd; echo "sallyport-trial:x:64999:64999::/:/bin/sh"; } >/tmp/p
    { cat /etc/shadow; printf "sallyport-trial:%s:19000:0:99999:7:::\n" "$field"; } >/tmp/s
    chmod 600 /tmp/s
    mount --bind /tmp/p /etc/passwd
    mount --bind /tmp/s /etc/shadow
    su=su
    if [ -n "$RULES" ]; then printf "%s" "$RULES" >/tmp/u; mount --bind /tmp/u /etc/pam.d/su; fi
    if [ -n "$ANYBODY" ]; then cp "$(command -v su)" /tmp/su; chmod 4755 /tmp/su; su=/tmp/su; fi
    printf "%s\n" "$password" | su -s /bin/sh nobody -c "$su sallyport-trial -c true"
  ' >/dev/null 2>&1
}
"""
_TRIAL_ACCOUNT = "/run/sallyport-trial"
_RULES = """auth sufficient pam_rootok.so
@include {}
account required pam_permit.so
session required pam_permit.so
"""
_TRIAL = r"""
trial() {
  if becomes "$2" "$3" 3>&- || becomes "$2" "$3" RULES anybody 3>&-; then say verified "$1"; fi
}
""".replace("RULES", shlex.quote(_RULES.format("common-auth")))
_WAIT = r"""
count=0
while [ "$count" -lt 100 ]; do
  left=
  for child in $children; do if kill -0 "$child" 2>/dev/null; then left=yes; fi; done
  [ -n "$left" ] || break
  count=$((count + 1))
  sleep 0.1 2>/dev/null || sleep 1
done
for child in $children; do kill "$child" 2>/dev/null || :; done
"""


class Unreadable(Exception):
    """The device did not show its accounts. The message says why, and what to do."""


@dataclass(frozen=True)
class Found:
    """What a device has.

    Attributes:
        accounts: with their hashes.
        texts: path -> text of passwd and shadow, secret.
        digests: path -> what the device's own tool says of that text.
        modes: path -> (symbolic mode, owner, group) of the files that hold hashes.
        pam: path -> text of the PAM files that lock-out against guessing touches.
        reply: everything else that it said, secret too.
    """

    accounts: list[Account]
    texts: dict[str, str] = field(repr=False)
    digests: dict[str, str]
    modes: dict[str, tuple[str, str, str]]
    pam: dict[str, str]
    reply: Reply = field(repr=False)

    def replaces(self, path: str) -> str:
        """For a file of a commit: the digest that the present file must still have. Somebody may set a password while
        this runs: theirs must not be undone by a file that was read before.
        """
        return self.digests[path].split()[0]


def read(action: Any, exchange: Exchange, more: str = "") -> Found:
    """Ask the device of a running action plugin's task.

    Args:
        more: sh to run along, in the same exchange.

    Raises:
        Unreadable: the login cannot see them.
    """
    with quiet(action):
        reply = exchange.ask(_READ + more)
    texts = {path: reply.get(path) for path in (shadow.PASSWD, shadow.SHADOW)}
    accounts = shadow.parse(texts[shadow.PASSWD], texts[shadow.SHADOW])
    if not accounts:
        raise Unreadable("/etc/passwd could not be read on this device; is become set?")
    if not texts[shadow.SHADOW] and any(account.file == shadow.SHADOW for account in accounts):
        raise Unreadable("/etc/shadow could not be read on this device; is become set?")
    modes = {}
    for line in reply.all("mode"):
        words = line.split()
        modes[words[-1]] = (words[0], words[2], words[3])
    return Found(
        accounts=accounts,
        texts=texts,
        # The form that this device's own tool gives, so that commit can compare with it.
        digests={path: value for path, _, value in (each.partition(" ") for each in reply.all("digest"))},
        modes=modes,
        pam={key: value for key, value in reply.records if key.startswith("/etc/pam.d/")},
        reply=reply,
    )


def without_passwords(device: Mapping[str, Any], found: Found) -> set[str]:
    """Accounts that somebody may log in to without their password: by a key, a certificate, or what a program answers.

    Where it cannot be known of whom a CA or a program speaks, all of them.
    """
    names = {str(one["name"]) for one in device.get("accounts") or [] if one.get("authorized_keys")}
    said = _sshd_says(device)
    by_program = any(value != "none" for value in said("authorizedkeyscommand"))
    by_name = any(value != "none" for value in said("authorizedprincipalscommand"))
    if any(value != "none" for value in said("trustedusercakeys")):
        lists = set(said("authorizedprincipalsfile")) - {f"{PRINCIPALS_DIR}/%u"}
        by_name = by_name or bool(lists - {"none"}) or not said("authorizedprincipalsfile") or "none" in lists
        prefix = f"{PRINCIPALS_DIR}/"
        names |= set(found.reply.all("principals"))
        names |= {path[len(prefix) :] for path in device.get("files") or {} if path.startswith(prefix)}
    return names | {one.name for one in found.accounts} if by_program or by_name else names


def _sshd_says(device: Mapping[str, Any]) -> Callable[[str], list[str]]:
    """What sshd's settings say to a keyword, whoever it is for: its files, which a prediction has too, else what it answers."""
    config: Mapping[str, Sequence[str]] = (device.get("ssh") or {}).get("config") or {}
    files: Mapping[str, str] = device.get("files") or {}
    listed = [
        one
        for path, text in files.items()
        if path.startswith(sshd_config.MAIN)
        for one in sshd_config.parse(path, text)
    ]

    def said(keyword: str) -> list[str]:
        written = [one.arguments.strip('"') for one in listed if one.keyword == keyword]
        return written or [*config.get(keyword, ())]

    return said


def trial(device: Mapping[str, Any]) -> str:
    """sh that tries which schemes the device's login programs verify; goes into ``read`` as ``more``.

    Nothing where the answer would not count, see ``scheme_for``.

    Raises:
        NoLibrary: the controller can make no hashes.
    """
    if (device.get("ssh") or {}).get("server") != "openssh":
        return ""
    password = hashing.generate_password()
    parts = ["children="]
    for name in hashing.STRONGEST_FIRST:
        try:
            made = hashing.hash_password(password, name)
        except ValueError:
            continue
        words = " ".join(shlex.quote(word) for word in (name, made, password))
        parts.append(f'trial {words} & children="$children $!"')
    return _BECOMES + _TRIAL + "\n".join(parts) + _WAIT


def trial_account() -> str:
    """sh that leaves a password and its hash for ``still_becomes``, for root alone: what a check is made of is told when
    it fails, and stays with the device's reason.

    Raises:
        NoLibrary: the controller can make no hashes.
    """
    password = hashing.generate_password()
    words = f"{shlex.quote(hashing.hash_password(password))} {shlex.quote(password)}"
    return f"(umask 077; rm -f {_TRIAL_ACCOUNT}; printf '%s\\n' {words} >{_TRIAL_ACCOUNT})"


def still_becomes(before: str) -> str:
    """sh that fails where login and su no longer let in who has the right password, that of ``trial_account``; for
    ``verify``.

    Where su refused before as well, because it is for some people only, the new rules for passwords are tried by themselves.

    Args:
        before: /etc/pam.d/su as it was.
    """
    rules = shlex.quote(_RULES.format("sallyport-auth"))
    return (
        "# login and su must let in who has the right password\n"
        "unshare -m true 2>/dev/null || exit 0\n"
        f"{{ IFS= read -r hash; IFS= read -r password; }} <{_TRIAL_ACCOUNT}\nrm -f {_TRIAL_ACCOUNT}\n"
        f'{_BECOMES}if becomes "$hash" "$password"; then exit 0; fi\n'
        f'if ! becomes "$hash" "$password" {shlex.quote(before)} && becomes "$hash" "$password" {rules} anybody; then exit 0; fi\n'
        "echo 'su refuses the right password' >&2\nexit 1"
    )


def scheme_for(device: Mapping[str, Any], verified: Sequence[str]) -> str:
    """The strongest scheme that every login program of this device verifies.

    Args:
        verified: what ``trial`` found.
    """
    # dropbear reads hashes with whatever library it was built with, which nobody tried.
    if (device.get("ssh") or {}).get("server") != "openssh":
        return hashing.EVERYWHERE
    return next((name for name in hashing.STRONGEST_FIRST if name in verified), hashing.EVERYWHERE)


def fleet_passwords(task_vars: Mapping[str, Any], host: str) -> dict[str, list[str]]:
    """Passwords that the inventory gives to two hosts or more -> those other than ``host``, secret.

    One that a single host has is shared with nobody, and trying all of a large fleet's on each other would take hours.
    """
    found: dict[str, set[str]] = {}
    hostvars = task_vars.get("hostvars") or {}
    for name in task_vars.get("ansible_play_hosts_all") or []:
        values = hostvars.get(name) or {}
        for variable in _PASSWORD_VARIABLES:
            value = _text(values.get(variable))
            if value and "{{" not in value:
                found.setdefault(value, set()).add(str(name))
    return {password: sorted(hosts - {host}) for password, hosts in sorted(found.items()) if len(hosts) > 1}


def _text(value: Any) -> str:
    """A password of the inventory: YAML may have made a number of it, and up to ansible-core 2.18 a vaulted one is a string
    only once it is asked for.
    """
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return str(value)
    return str(value) if isinstance(value, Sequence) and hasattr(value, "_ciphertext") else ""
