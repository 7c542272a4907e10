# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Where a device pulls from, and whom it believes: the variable ``update_agent_pull``, checked and typed. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.settings import SettingsError

_WHERE = "update_agent_pull"
KEYS = (
    "url", "branch", "tag", "signers", "revoked", "since", "playbook", "inventory", "host", "ssh_key", "known_hosts", "ca",
    "ansible",
)  # fmt: skip
_SCHEMES = ("https", "ssh", "file", "http", "git")
_REF = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(?:[./][A-Za-z0-9_-]+)*")
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*/?")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_PUBLIC_KEY = re.compile(r"(?:ssh-|ecdsa-|sk-)[a-z0-9@.-]+ [A-Za-z0-9+/=]{16,}")
_NAMESPACES = re.compile(r'(?:^|[ ,])namespaces="([^"]*)"', re.IGNORECASE)
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True)
class Source:
    """A repository, the one ref of it that counts, and the keys that may sign what stands there."""

    url: str
    ref: str
    signers: str
    revoked: str = ""
    since: str = ""
    playbook: str = "sallyport.iot.harden"
    inventory: str = "inventory"
    host: str = ""
    ssh_key: str = ""
    known_hosts: str = ""
    ca: str = ""
    ansible: str = ""

    @property
    def scheme(self) -> str:
        return urlsplit(self.url).scheme

    @property
    def name(self) -> str:
        """The branch or tag, as people say it."""
        return self.ref.split("/", 2)[2]


def read(value: Mapping[str, Any], host: str) -> Source:
    """The variable as a source.

    Args:
        host: the inventory's name of the device, by which it knows itself in the repository too.

    Raises:
        SettingsError: naming the key, what was expected, and what was found.
    """
    for key in value:
        if key not in KEYS:
            raise SettingsError(f"{_WHERE}.{key}: there is no such key; expected {', '.join(KEYS)}")
    texts = {key: str(value.get(key) or "").strip() for key in KEYS}
    url = _url(texts["url"])
    if url.startswith("ssh:") and not texts["known_hosts"]:
        raise SettingsError(
            f"{_WHERE}.known_hosts: expected the server's host key, as ssh-keyscan prints it, and it is missing: the device has "
            "nobody to ask whether it is the right server"
        )
    if texts["branch"] and texts["tag"]:
        raise SettingsError(f"{_WHERE}: branch and tag are both given; leave one of them out")
    kind = "tag" if texts["tag"] else "branch"
    name = _matching(_REF, texts["tag"] or texts["branch"] or "main", kind, f"the name of a {kind}")
    if texts["since"]:
        _matching(_COMMIT, texts["since"], "since", "a whole commit id, as git rev-parse prints it")
    if texts["ansible"] and not re.fullmatch(r"/[A-Za-z0-9._/-]+", texts["ansible"]):
        raise SettingsError(
            f"{_WHERE}.ansible: expected the path of ansible-playbook on the device, found {texts['ansible']!r}"
        )
    return Source(
        url=url,
        ref=f"refs/{'tags' if texts['tag'] else 'heads'}/{name}",
        signers=_signers(texts["signers"]),
        revoked=_public_keys(texts["revoked"], "revoked"),
        since=texts["since"],
        playbook=_matching(
            _PATH,
            texts["playbook"] or Source.playbook,
            "playbook",
            "a path in the repository, or a full name",
        ),
        inventory=_matching(
            _PATH, texts["inventory"] or Source.inventory, "inventory", "a path in the repository"
        ),
        host=_matching(_HOST, texts["host"] or host, "host", "this device's name in that inventory"),
        ssh_key=_ended(texts["ssh_key"]),
        known_hosts=_ended(texts["known_hosts"]),
        ca=_ended(texts["ca"]),
        ansible=texts["ansible"],
    )


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        known = parts.scheme in _SCHEMES and (bool(parts.hostname) or parts.scheme == "file")
    except ValueError:
        known = False
    if not known or re.search(r"[\s'\"\\]|[^ -~]", text):
        raise SettingsError(
            f"{_WHERE}.url: expected an address as https://git.example.com/site.git or ssh://git@git.example.com/site.git, found "
            f"{text.rpartition('@')[2]!r}"
        )
    if parts.password is not None:
        raise SettingsError(
            f"{_WHERE}.url: a password in an address is readable by everybody on the device; use ssh_key"
        )
    if parts.username is not None and parts.scheme in ("https", "http"):
        # It is all that a token needs, so it is one.
        raise SettingsError(
            f"{_WHERE}.url: the name in an address of {parts.scheme} is a token, and everybody on the device could read it; use ssh_key"
        )
    if (parts.hostname or "").startswith("-") or (parts.username or "").startswith("-"):
        raise SettingsError(f"{_WHERE}.url: a name that begins with - would be taken for an option")
    return text


def _matching(pattern: re.Pattern[str], text: str, key: str, what: str) -> str:
    if not pattern.fullmatch(text) or ".." in text or text.endswith(".lock"):
        raise SettingsError(f"{_WHERE}.{key}: expected {what}, found {text!r}")
    return text


def _signers(text: str) -> str:
    """OpenSSH's allowed signers: a name, options, a public key on each line."""
    lines = [line for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
    if not lines:
        raise SettingsError(
            f"{_WHERE}.signers: expected who may sign revisions, one line each as  alice@example.com ssh-ed25519 AAAA..., and "
            "there is none: nothing unsigned is ever applied"
        )
    for number, line in enumerate(lines):
        name, _, rest = line.partition(" ")
        if not _PUBLIC_KEY.search(rest) or _PUBLIC_KEY.match(line):
            raise SettingsError(
                f"{_WHERE}.signers: line {number + 1} begins with {name[:40]!r}; expected a name and a public key, as  "
                "alice@example.com ssh-ed25519 AAAA..."
            )
        uses = _NAMESPACES.search(rest)
        if uses and "git" not in uses[1].split(","):
            raise SettingsError(
                f"{_WHERE}.signers: line {number + 1}: {name[:40]!r} may sign for {uses[1]} and not for git, so no revision of theirs "
                'would ever count; say namespaces="git", or leave that out'
            )
    return _ended(text)


def _public_keys(text: str, key: str) -> str:
    for number, line in enumerate(text.splitlines()):
        if line.strip() and not line.startswith("#") and not _PUBLIC_KEY.match(line):
            raise SettingsError(
                f"{_WHERE}.{key}: line {number + 1}: expected a public key as  ssh-ed25519 AAAA..., found {line[:40]!r}"
            )
    return _ended(text)


def _ended(text: str) -> str:
    return text + "\n" if text else ""
