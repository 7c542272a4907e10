# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Which cryptography a device's sshd is told to offer, computed from what it can.

The lists are ordered by preference and are cut to what the device's own sshd knows. What the oldest client
that the site must admit needs is kept, and named; what this controller's own ssh cannot speak at all is
refused before any change, because then nobody could come back to confirm it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

KINDS = ("kex", "cipher", "mac", "hostkeyalgs")

# First choice first. The order within a kind is also what ssh-audit's policies for Debian expect.
PREFERRED: dict[str, tuple[str, ...]] = {
    "kex": (
        "mlkem768x25519-sha256",
        "sntrup761x25519-sha512",
        "sntrup761x25519-sha512@openssh.com",
        "curve25519-sha256",
        "curve25519-sha256@libssh.org",
    ),
    "cipher": (
        "chacha20-poly1305@openssh.com",
        "aes256-gcm@openssh.com",
        "aes256-ctr",
        "aes192-ctr",
        "aes128-gcm@openssh.com",
        "aes128-ctr",
    ),
    "mac": (
        "hmac-sha2-512-etm@openssh.com",
        "hmac-sha2-256-etm@openssh.com",
        "umac-128-etm@openssh.com",
    ),
    "hostkeyalgs": (
        "ssh-ed25519-cert-v01@openssh.com",
        "rsa-sha2-512-cert-v01@openssh.com",
        "rsa-sha2-256-cert-v01@openssh.com",
        "ssh-ed25519",
        "rsa-sha2-512",
        "rsa-sha2-256",
    ),
}

# Key exchange without a post-quantum half; kept only for the clients that have nothing better.
_CLASSICAL_KEX = ("curve25519-sha256", "curve25519-sha256@libssh.org")

# Where ssh-audit's policies differ from the preferred lists. Debian 13's is post-quantum only and agrees with the rest;
# the older ones have their own order of MACs, and the one for OpenSSH 8.4 of ciphers too.
_AUDIT_MACS = (
    "hmac-sha2-256-etm@openssh.com",
    "hmac-sha2-512-etm@openssh.com",
    "umac-128-etm@openssh.com",
)
_AUDIT_KEX = (
    "sntrup761x25519-sha512",
    "sntrup761x25519-sha512@openssh.com",
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "diffie-hellman-group16-sha512",
    "diffie-hellman-group18-sha512",
    "diffie-hellman-group-exchange-sha256",
)
_AUDIT_CIPHERS_8_4 = (
    "chacha20-poly1305@openssh.com",
    "aes256-gcm@openssh.com",
    "aes128-gcm@openssh.com",
    "aes256-ctr",
    "aes192-ctr",
    "aes128-ctr",
)
_POST_QUANTUM = ("mlkem768x25519-sha256", "sntrup761x25519-sha512", "sntrup761x25519-sha512@openssh.com")

# Kinds of keys that people may log in with. Elliptic curves of NIST stay: refusing a key type that somebody
# uses is a lock-out, and no attack on them is known. SHA-1 signatures and DSA go.
_USER_KEYS = (
    "ssh-ed25519",
    "ssh-ed25519-cert-v01@openssh.com",
    "sk-ssh-ed25519@openssh.com",
    "sk-ssh-ed25519-cert-v01@openssh.com",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp256-cert-v01@openssh.com",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp384-cert-v01@openssh.com",
    "ecdsa-sha2-nistp521",
    "ecdsa-sha2-nistp521-cert-v01@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "sk-ecdsa-sha2-nistp256-cert-v01@openssh.com",
    "rsa-sha2-512",
    "rsa-sha2-512-cert-v01@openssh.com",
    "rsa-sha2-256",
    "rsa-sha2-256-cert-v01@openssh.com",
)


class AlgorithmsRefused(ValueError):
    """No list can be made that both this device and this controller speak."""


@dataclass(frozen=True)
class Algorithms:
    """The lists for one device.

    Attributes:
        lists: kind -> names in order of preference; a kind that the device did not tell about is missing.
        user_keys: signature algorithms that people may log in with; empty where the device did not tell.
        kept_for_clients: names that stay only because the oldest client of the site needs them.
        unknown: kinds that could not be computed, because the device did not tell what it supports.
    """

    lists: Mapping[str, tuple[str, ...]]
    user_keys: tuple[str, ...]
    kept_for_clients: tuple[str, ...]
    unknown: tuple[str, ...]


def parse_client(name: str) -> tuple[int, int]:
    """``openssh-8.4`` -> (8, 4).

    Raises:
        AlgorithmsRefused: another form.
    """
    prefix, _, version = name.partition("-")
    major, _, minor = version.partition(".")
    if prefix != "openssh" or not (major.isdecimal() and (minor or "0").isdecimal()):
        raise AlgorithmsRefused(
            f"ssh_clients: expected the oldest client to admit, as openssh-MAJOR.MINOR, found {name!r}"
        )
    oldest = (6, 5)
    if (int(major), int(minor or "0")) < oldest:
        raise AlgorithmsRefused(
            f"ssh_clients: expected openssh-{oldest[0]}.{oldest[1]} or later, found {name!r}: older clients speak "
            "none of the key exchanges that are still safe"
        )
    return int(major), int(minor or "0")


def choose(
    supported: Mapping[str, Iterable[str]], *, oldest_client: str = "openssh-8.4", profile: str = "default"
) -> Algorithms:
    """The lists for a device whose sshd supports ``supported`` (kind -> names, as probe reports them).

    Args:
        supported: empty or missing kinds are reported in ``unknown`` and left as the device has them.
        oldest_client: as ``openssh-8.4``.
        profile: ``default``, or ``ssh-audit`` for exactly what ssh-audit's Debian policies expect.

    Raises:
        AlgorithmsRefused: the device has none of the strong names of a kind, or an argument is wrong.
    """
    if profile not in ("default", "ssh-audit"):
        raise AlgorithmsRefused(f"ssh_profile: expected default or ssh-audit, found {profile!r}")
    needs_classical = parse_client(oldest_client) < (8, 5)
    audited = _audited(set(supported.get("kex") or ())) if profile == "ssh-audit" else {}
    lists: dict[str, tuple[str, ...]] = {}
    unknown: list[str] = []
    kept: list[str] = []
    for kind in KINDS:
        has = set(supported.get(kind) or ())
        if kind == "hostkeyalgs" and not has:
            has = set(supported.get("key") or ())
        if not has:
            unknown.append(kind)
            continue
        wanted = audited.get(kind, PREFERRED[kind])
        chosen = [name for name in wanted if name in has]
        if kind == "kex" and profile == "default":
            stronger = [name for name in chosen if name not in _CLASSICAL_KEX]
            if stronger and not needs_classical:
                chosen = stronger
            else:
                kept = [name for name in chosen if name in _CLASSICAL_KEX]
        if not chosen:
            raise AlgorithmsRefused(
                f"this device's sshd has no strong {kind} algorithm; it has {', '.join(sorted(has))}. "
                f"Update its OpenSSH before it is hardened."
            )
        lists[kind] = tuple(chosen)
    keys = set(supported.get("key") or ()) | set(supported.get("hostkeyalgs") or ())
    if keys and not any(name.startswith("rsa-sha2-") for name in keys) and "ssh-rsa" in keys:
        # `ssh -Q key` names key types; every OpenSSH since 7.2 signs ssh-rsa keys with SHA-2 too.
        keys |= {"rsa-sha2-256", "rsa-sha2-512"}
    return Algorithms(lists, tuple(name for name in _USER_KEYS if name in keys), tuple(kept), tuple(unknown))


def _audited(kex: set[str]) -> dict[str, tuple[str, ...]]:
    """What the policy of ssh-audit for this release has its own way of; the key exchanges tell the release."""
    if "mlkem768x25519-sha256" in kex:
        return {"kex": _POST_QUANTUM}
    if kex & set(_POST_QUANTUM):
        return {"kex": _AUDIT_KEX, "mac": _AUDIT_MACS}
    return {"kex": _AUDIT_KEX, "mac": _AUDIT_MACS, "cipher": _AUDIT_CIPHERS_8_4}


def left_out(chosen: Algorithms, oldest_client: str) -> bool:
    """Whether a client of the release that the site says must get in finds no key exchange."""
    names = chosen.lists.get("kex", ())
    return bool(names) and parse_client(oldest_client) < (8, 5) and not set(names) & set(_CLASSICAL_KEX)


def check_controller(chosen: Algorithms, speaks: Mapping[str, Iterable[str]]) -> None:
    """Refuse lists of which this controller speaks nothing.

    Args:
        speaks: kind -> names of this controller's own ssh; a kind it did not tell about is not judged.

    Raises:
        AlgorithmsRefused: naming the kind, both lists, and what to do.
    """
    for kind, names in chosen.lists.items():
        ours = set(speaks.get(kind) or ())
        if ours and not ours & set(names):
            raise AlgorithmsRefused(
                f"this controller's ssh speaks none of the {kind} algorithms chosen for this device "
                f"({', '.join(names)}), so nobody could come back to confirm the change. Nothing was "
                "changed. "
                f"Update the controller's OpenSSH client, or set ssh_clients to its version."
            )


def controller_speaks(ssh: str = "ssh") -> dict[str, list[str]]:
    """What this controller's own ssh can speak, kind -> names; empty where it cannot be asked."""
    query = {"kex": "kex", "cipher": "cipher", "mac": "mac", "hostkeyalgs": "HostKeyAlgorithms"}
    result: dict[str, list[str]] = {}
    for kind, name in query.items():
        try:
            done = subprocess.run([ssh, "-Q", name], capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.SubprocessError):
            continue
        if done.returncode == 0:
            result[kind] = done.stdout.split()
    return result


def running_with(config: Mapping[str, Any], chosen: Algorithms) -> bool:
    """Whether sshd's own settings (``sshd -T``: option -> values) are the chosen lists already."""
    option = {"kex": "kexalgorithms", "cipher": "ciphers", "mac": "macs", "hostkeyalgs": "hostkeyalgorithms"}
    return all(config.get(option[kind]) == [",".join(names)] for kind, names in chosen.lists.items())
