# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The pull agent: a device that applies Sallyport to itself, from a git revision that somebody it knows has signed.

Decisions only. ``fetch.sh`` beside this asks the server, as a user that may do nothing else; ``agent.sh`` verifies what came,
and applies it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents.base import (
    Agent,
    Found,
    Part,
    Unsupported,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents.pull import source
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents.pull.source import Source
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.settings import Settings

FOLDER = "/usr/local/lib/sallyport/updates/pull"
STATE = "/var/lib/sallyport-updates/pull"
FETCH, CONFIG, SIGNERS, REVOKED, KEY, KNOWN_HOSTS, CA, PROXY = (
    f"{FOLDER}/{name}"
    for name in ("fetch.sh", "ansible.cfg", "signers", "revoked", "key", "known_hosts", "ca.pem", "proxy")
)
UNIT = "/etc/systemd/system/sallyport-pull@.service"
USER = "sallyport-pull"
ANSIBLE = "/usr/bin/ansible-playbook"
# Older ones know no SSH signatures, or are older than the collection wants.
OLDEST_GIT, OLDEST_ANSIBLE = (2, 34), (2, 17)
_INSTALL_SECONDS = 600
_MANAGED = "# Managed by Sallyport: role update_agent.\n"

_QUESTION = r"""
say answer asked yes
if command -v git >/dev/null; then say answer git "$(git --version)"; fi
if command -v ssh-keygen >/dev/null; then say answer ssh yes; fi
if [ -x /usr/bin/ansible-playbook ]; then
  say answer ansible "$(dpkg-query -W -f '${Version}' ansible-core 2>/dev/null || echo unknown)"
elif command -v apt-cache >/dev/null; then
  say answer offered "$(apt-cache policy ansible-core 2>/dev/null | sed -n 's/^ *Candidate: //p')"
fi
"""


class Pull(Agent):
    """git brings a signed revision, Ansible on the device applies it, and commit's own checks confirm it."""

    name = "pull"
    folder = Path(__file__).parent
    own = (FETCH, CONFIG, SIGNERS, REVOKED, KEY, KNOWN_HOSTS, CA, PROXY, UNIT)

    def unsuited(self, device: Mapping[str, Any]) -> str:
        if device.get("init") != "systemd":
            return f"its timer needs systemd, and the device's init is {device.get('init')}"
        if not device.get("python"):
            return "Ansible on the device needs Python, and the device has none"
        return ""

    def question(self) -> str:
        return _QUESTION

    def plan(self, settings: Settings, device: Mapping[str, Any], found: Found) -> Part:
        _only_revisions(settings)
        told = source.read(settings.options.get("pull", {}), settings.host)
        missing = self._missing(told, settings, device, found)
        files: list[dict[str, Any]] = [
            _file(FETCH, (self.folder / "fetch.sh").read_text(encoding="utf-8"), "0755"),
            _file(CONFIG, _config()),
            _file(SIGNERS, told.signers),
            _file(UNIT, _unit()),
            *(
                _given(path, text)
                for path, text in ((REVOKED, told.revoked), (KNOWN_HOSTS, told.known_hosts))
            ),
            _given(CA, told.ca),
            _given(KEY, told.ssh_key, secret=True),
            _given(PROXY, f"{settings.proxy}\n" if settings.proxy else "", secret=True),
        ]
        ansible = told.ansible or ANSIBLE
        notes, warnings = [], []
        if missing:
            notes.append(f"installed from the device's sources: {' '.join(missing)}")
        if told.scheme in ("http", "git"):
            warnings.append(
                f"update_agent_pull.url: {told.scheme} shows the repository to everybody on the way, who can also keep newer "
                "revisions back. What is applied is signed all the same; https or ssh would hide it"
            )
        return Part(
            files=tuple(files),
            shell={
                "PULL_URL": told.url,
                "PULL_REF": told.ref,
                "PULL_SINCE": told.since,
                "PULL_PLAYBOOK": told.playbook,
                "PULL_INVENTORY": told.inventory,
                "PULL_HOST": told.host,
                "PULL_ANSIBLE": ansible,
                "RING": told.name,
                # What harms always goes back: commit has kept what was there before.
                "ROLLBACK": "revision drift",
            },
            check=(f'sh -n "$(staged {FETCH})"',),
            activate=(*((_install(missing),) if missing else ()), _USER_ADDED),
            verify=(_able(ansible),),
            revert=(_LEAVE,),
            notes=tuple(notes),
            warnings=tuple(warnings),
            slow=_INSTALL_SECONDS if missing else 0,
        )

    def _missing(
        self, told: Source, settings: Settings, device: Mapping[str, Any], found: Found
    ) -> tuple[str, ...]:
        """The packages that have to be installed first. Raises Unsupported where that would not help."""
        answers = found.answers
        if answers.get("asked") != "yes" or settings.mode == "manual":
            return ()
        missing = []
        git = answers.get("git", "")
        if git and _version(git) < OLDEST_GIT:
            raise Unsupported(
                f"{git} on this device cannot verify SSH signatures, which came with git 2.34 (Debian 12). Update the system, or "
                "let a controller push to it"
            )
        if not git:
            missing.append("git")
        if answers.get("ssh") != "yes":
            missing.append("openssh-client")
        if not told.ansible:
            version = answers.get("ansible", "") or answers.get("offered", "")
            if version != "unknown" and _version(version) < OLDEST_ANSIBLE:
                have = "has" if answers.get("ansible") else "offers"
                raise Unsupported(
                    f"{(device.get('os') or {}).get('pretty') or 'this system'} {have} ansible-core {version or '(none)'}, and the "
                    "collection needs 2.17 or later (Debian 13 has it). Put one with netaddr into a virtual environment of the "
                    "image, and name it: update_agent_pull.ansible: /opt/ansible/bin/ansible-playbook"
                )
            if not answers.get("ansible"):
                missing.append("ansible-core")
        if missing and device.get("packages") != "apt":
            raise Unsupported(
                f"{', '.join(missing)} must be installed, and the device has no apt. Put it into the image"
            )
        if missing and not settings.install:
            raise Unsupported(
                f"{', '.join(missing)} must be installed. Let the role do so (update_agent_install: true), or put it into the image"
            )
        return tuple(missing)


def _only_revisions(settings: Settings) -> None:
    """What is said of packages means nothing here, and would be waited for in vain."""
    given = {
        "repository": settings.repository, "pins": settings.pins, "blocked": settings.blocked, "origins": settings.origins,
        "rollback": settings.rollback, "bandwidth_kb": settings.bandwidth_kb,
    }  # fmt: skip
    for name, value in given.items():
        if value:
            raise Unsupported(
                f"update_agent_{name} is about packages, and the pull agent applies revisions of a repository: leave it out"
            )


def _version(text: str) -> tuple[int, int]:
    """
    >>> _version("git version 2.39.5"), _version("2.19.11-0+deb13u1"), _version("")
    ((2, 39), (2, 19), (0, 0))
    """
    match = re.search(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _file(path: str, content: str, mode: str = "0644", secret: bool = False) -> dict[str, Any]:
    return {"dest": path, "content": content, "mode": mode, "secret": secret}


def _given(path: str, content: str, secret: bool = False) -> dict[str, Any]:
    if not content:
        return {"dest": path, "state": "absent"}
    return _file(path, content, "0600" if secret else "0644", secret)


def _config() -> str:
    """Ansible's settings on the device. Those of the repository are not read: they may name any program."""
    tree = f"{STATE}/tree"
    return (
        f"{_MANAGED}[defaults]\n"
        f"home = {STATE}/ansible\nlocal_tmp = {STATE}/ansible/tmp\nremote_tmp = {STATE}/ansible/tmp\n"
        f"collections_path = {tree}/collections:{tree}/.collections\nroles_path = {tree}/roles\n"
        "gathering = explicit\ninterpreter_python = auto_silent\nretry_files_enabled = False\ntimeout = 15\n"
        "stdout_callback = ansible.builtin.default\ncallback_result_format = yaml\ncallbacks_enabled = sallyport.iot.summary\n\n"
        "[inventory]\nignore_patterns = ^policy$\n"
    )


def _unit() -> str:
    """Whatever answers at that address is talked to by a user that can write one folder, and read nothing that matters."""
    return (
        f"{_MANAGED}[Unit]\nDescription=Sallyport: ask the repository (%i)\nStartLimitIntervalSec=0\n\n"
        f"[Service]\nType=oneshot\nExecStart=/bin/sh {FETCH} %i\nTimeoutStartSec=30min\nNice=10\nIOSchedulingClass=idle\n"
        f"User={USER}\nGroup={USER}\nUMask=0077\n"
        f"ProtectSystem=strict\nReadWritePaths={STATE}/incoming\nProtectHome=yes\nPrivateTmp=yes\nPrivateDevices=yes\n"
        "ProtectKernelTunables=yes\nProtectKernelModules=yes\nProtectKernelLogs=yes\nProtectControlGroups=yes\nProtectClock=yes\n"
        "ProtectHostname=yes\nProtectProc=invisible\nRestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK\n"
        "RestrictNamespaces=yes\nRestrictRealtime=yes\nRestrictSUIDSGID=yes\nLockPersonality=yes\nMemoryDenyWriteExecute=yes\n"
        "NoNewPrivileges=yes\nCapabilityBoundingSet=\nSystemCallArchitectures=native\nSystemCallFilter=@system-service\n"
        "SystemCallErrorNumber=EPERM\n"
    )


_USER_ADDED = (
    f"id -u {USER} >/dev/null 2>&1 ||\n"
    f"  useradd --system --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin {USER}"
)


def _able(ansible: str) -> str:
    """Whether what runs on the device's own is there, and new enough. Said here, not at three in the morning."""
    return (
        f"said=$(LC_ALL=C.UTF-8 ANSIBLE_CONFIG={CONFIG} {shlex.quote(ansible)} --version | head -n 1)\n"
        'version=${said##*core }; version=${version%%"]"*}\n'
        'case $version in 2.1[0-6]* | 2.?.* | "" | *[!0-9.abcr]*)\n'
        f"  echo {shlex.quote(ansible)} 'is no ansible-core 2.17 or later, but:' \"$said\" >&2; exit 1 ;;\n"
        "esac"
    )


# What the role brought goes again with the role: the list of packages that were not there before.
_LIST = "dpkg-query -W -f '${db:Status-Abbrev}${Package}\\n' | grep '^ii' | sort"


def _install(packages: tuple[str, ...]) -> str:
    return (
        f"mkdir -p {STATE}\n"
        f"{_LIST} >{STATE}/before\n"
        "apt-get -q update >&2\n"
        f"DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install {' '.join(packages)} >&2\n"
        f"{_LIST} | comm -13 {STATE}/before - | sed 's/^ii *//' >>{STATE}/brought"
    )


_LEAVE = f"""
if [ ! -e {SIGNERS} ]; then
  if [ -s {STATE}/brought ]; then
    # shellcheck disable=SC2046
    DEBIAN_FRONTEND=noninteractive apt-get -q -y purge $(cat {STATE}/brought) >&2 || :
  fi
  systemctl reset-failed 'sallyport-pull@*' 2>/dev/null || :
  if id -u {USER} >/dev/null 2>&1; then userdel {USER}; fi
  rm -rf {STATE}
fi
""".strip("\n")
