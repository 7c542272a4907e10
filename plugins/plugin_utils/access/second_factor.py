# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""One-time codes as a second factor: secrets, the files of libpam-google-authenticator, and what forbids it.

sshd asks PAM through keyboard-interactive, which only those reach whose Match block asks for it. So our lines
in its PAM file may end the authentication there: nobody's password is asked for beside the code.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from ansible_collections.sallyport.iot.plugins.plugin_utils.access.ssh_plan import Refused
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply

# The module replaces its file at each login (a code counts once), so this is no place for configuration.
SECRETS_DIR = "/var/lib/sallyport-totp"
PAM_FILE = "/etc/pam.d/sshd"
PACKAGE = "libpam-google-authenticator"
BEGIN = (
    "# BEGIN Sallyport (this block is managed; it must stay at the top: only one-time codes are asked for)"
)
END = "# END Sallyport"
KEYS_DIR = "/etc/ssh/authorized_keys.d"
PRINCIPALS_DIR = "/etc/ssh/sallyport/principals"
MARK = "Managed by Sallyport"

# A code counts for 30 s and the one before and after it too: more than that and good codes are refused.
MOST_SKEW = 30
_KEEPERS = ("chronyd", "ntpd", "ntpsec", "openntpd", "systemd-timesyn")


@dataclass(frozen=True)
class Answers:
    """What the device said to ``question``.

    Attributes:
        ours: key and principals files of earlier runs, by path.
        enrolled: accounts that have a secret.
        digests: account -> digest of its secret and ``salt``, where that was asked for.
        groups: names of groups.
        must_change: accounts whose password has to be changed at the next login.
        module: path of the PAM module; empty where it is not installed.
        pam: sshd's PAM file; None where there is none.
        skew: seconds by which the device's clock is ahead of the controller's.
        keeps_time: whether something sets the clock right after a power cut: a clock chip or a time client.
    """

    ours: tuple[str, ...] = ()
    enrolled: frozenset[str] = frozenset()
    digests: Mapping[str, str] = field(default_factory=dict)
    salt: str = ""
    groups: frozenset[str] = frozenset()
    must_change: frozenset[str] = frozenset()
    module: str = ""
    pam: str | None = None
    skew: float = 0.0
    keeps_time: bool = True

    def has_secret(self, name: str, secret: str) -> bool:
        """Whether this is the account's secret on the device already."""
        digest = hashlib.sha256(f"{self.salt}{secret}".encode()).hexdigest()
        return bool(self.salt) and self.digests.get(name) == digest


def question(salt: str = "") -> str:
    """The read-only program for the device. No secret and no hash of a password leaves it.

    Args:
        salt: random; with it comes a digest of every one-time secret, to compare those with that the site has given.
    """
    compare = rf"""
for file in {SECRETS_DIR}/*; do
  secret=''
  {{ read -r secret <"$file"; }} 2>/dev/null || continue
  digest=$(printf '%s' '{salt}'"$secret" | sha256sum)
  say digest "${{file##*/}} ${{digest%% *}}"
done
"""
    return (
        (compare if salt else "")
        + rf"""
for file in {KEYS_DIR}/* {PRINCIPALS_DIR}/*; do
  [ -f "$file" ] || continue
  first=''
  IFS= read -r first <"$file" || :
  case "$first" in *{shlex.quote(MARK)}*) say ours "$file" ;; esac
done
for file in {SECRETS_DIR}/*; do [ ! -f "$file" ] || say enrolled "${{file##*/}}"; done
while IFS=: read -r name _; do say group "$name"; done </etc/group
if [ -r /etc/shadow ]; then
  while IFS=: read -r name _ changed _; do case "$changed" in 0) say must_change "$name" ;; esac; done </etc/shadow
fi
for file in /lib/security /lib64/security /lib/*/security /usr/lib/security /usr/lib64/security /usr/lib/*/security; do
  [ ! -f "$file/pam_google_authenticator.so" ] || say module "$file/pam_google_authenticator.so"
done
if [ -f {PAM_FILE} ]; then blob pam <{PAM_FILE}; fi
for file in /dev/rtc /dev/rtc[0-9]* /sys/class/rtc/rtc[0-9]*; do [ ! -e "$file" ] || say clock chip; done
for file in /proc/[0-9]*/comm; do
  name=''
  IFS= read -r name 2>/dev/null <"$file" || continue
  case "$name" in {"|".join(_KEEPERS)}) say clock "$name" ;; esac
done
say epoch "$(date +%s)"
"""
    )


def answers(reply: Reply, now: float, *, container: bool, salt: str = "") -> Answers:
    """The reply as facts.

    Args:
        now: the controller's clock when the reply came.
        container: whether the device shares its machine's clock.
        salt: as in the question.
    """
    epoch = reply.get("epoch")
    return Answers(
        ours=tuple(reply.all("ours")),
        enrolled=frozenset(reply.all("enrolled")),
        digests={name: digest for name, _, digest in (line.partition(" ") for line in reply.all("digest"))},
        salt=salt,
        groups=frozenset(reply.all("group")),
        must_change=frozenset(reply.all("must_change")),
        module=reply.get("module"),
        pam=reply.get("pam") if "pam" in reply else None,
        skew=float(epoch) - now if epoch.isdigit() else -now,
        keeps_time=container or "clock" in reply,
    )


def require(who: Iterable[str], got: Answers, config: dict[str, Any]) -> None:
    """Refuse one-time codes where they cannot work.

    Args:
        who: accounts that are to have them.
        config: ``sshd -T`` of the device.

    Raises:
        Refused: with the reason and what to do.
    """
    names = ", ".join(who)
    if config and "usepam" not in config:
        raise Refused(
            f"one-time codes for {names}: this device's sshd was built without PAM, which asks for them. "
            "Use second_factor: fido2, or another build"
        )
    if got.pam is None:
        raise Refused(
            f"one-time codes for {names}: there is no {PAM_FILE} on this device, so PAM asks for nothing"
        )
    if abs(got.skew) > MOST_SKEW:
        raise Refused(
            f"one-time codes for {names}: this device's clock differs from the controller's by {abs(got.skew):.0f} s, "
            f"and codes count for {MOST_SKEW} s. Set the clock right (role time_sync) and run again"
        )
    if not got.keeps_time:
        raise Refused(
            f"one-time codes for {names}: this device has neither a clock chip nor a time client, so after a power "
            "cut its clock is wrong and nobody gets in. Install one (role time_sync), or use second_factor: fido2"
        )


def new_secret() -> str:
    """160 random bits, base32."""
    return base64.b32encode(secrets.token_bytes(20)).decode()


def new_emergency_codes(count: int = 5) -> tuple[str, ...]:
    """Each counts once, whatever the clock says."""
    return tuple(str(10_000_000 + secrets.randbelow(90_000_000)) for _ in range(count))


def secret_file(secret: str, emergency: Iterable[str]) -> str:
    """What the module reads: a code counts once, three tries in half a minute, one step of clock error."""
    options = ('" RATE_LIMIT 3 30', '" WINDOW_SIZE 3', '" DISALLOW_REUSE', '" TOTP_AUTH')
    return "".join(f"{line}\n" for line in (secret, *options, *emergency))


def uri(host: str, user: str, secret: str) -> str:
    """What authenticator apps read out of the QR code."""
    label = quote(f"{host}:{user}", safe=":")
    return f"otpauth://totp/{label}?secret={secret}&issuer={quote(host, safe='')}"


def pam_with(text: str, wanted: bool) -> str:
    """sshd's PAM file with our block on top, or without it."""
    bare = re.sub(rf"^{re.escape(BEGIN)}\n.*?^{re.escape(END)}\n", "", text, flags=re.M | re.S)
    if not wanted:
        return bare
    line = (
        "auth [success=done default=die] pam_google_authenticator.so "
        f"secret={SECRETS_DIR}/${{USER}} user=root allowed_perm=0600"
    )
    return f"{BEGIN}\n{line}\n{END}\n{bare}"


def install() -> str:
    """sh that installs the package, or fails with apt's own words."""
    return (
        f"DEBIAN_FRONTEND=noninteractive timeout 300 apt-get -y -q -o Acquire::Retries=1 -o Acquire::http::Timeout=20 "
        f"-o DPkg::Lock::Timeout=60 install --no-install-recommends {PACKAGE} >&2 </dev/null && say installed yes\n"
    )
