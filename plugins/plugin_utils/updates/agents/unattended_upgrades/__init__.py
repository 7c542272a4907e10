# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""unattended-upgrades: the agent of the Debian family. Decisions only; ``agent.sh`` beside this does the work."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.updates import origins, sources
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.agents.base import (
    Agent,
    Found,
    Part,
    Unsupported,
)
from ansible_collections.sallyport.iot.plugins.plugin_utils.updates.settings import Repository, Settings

# Read after all others there: the last word counts.
CONFIG = "/etc/apt/apt.conf.d/zzz-sallyport-updates"
PREFERENCES = "/etc/apt/preferences.d/99-sallyport"
SOURCE = "/etc/apt/sources.list.d/sallyport.sources"
KEY = "/etc/apt/keyrings/sallyport.asc"
PENDING = "/usr/local/lib/sallyport/updates/pending.py"
NEEDRESTART = "/etc/needrestart/conf.d/sallyport.conf"
# An index that is older than this is not believed, whatever it says of itself: nobody can hold a device back for ever.
OLDEST_INDEX = 30 * 86400
INSTALL_SECONDS = 600
_HERE = Path(__file__).parent

_DEBIAN = (
    "origin=Debian,codename=${distro_codename},label=Debian",
    "origin=Debian,codename=${distro_codename},label=Debian-Security",
    "origin=Debian,codename=${distro_codename}-security,label=Debian-Security",
)
_ORIGINS = {
    # Raspberry Pi OS calls itself debian where it is built from Debian's own packages.
    "debian": (*_DEBIAN, "origin=Raspberry Pi Foundation,codename=${distro_codename}"),
    "raspbian": (
        "origin=Raspbian,codename=${distro_codename}",
        "origin=Raspberry Pi Foundation,codename=${distro_codename}",
    ),
    "ubuntu": (
        "origin=Ubuntu,archive=${distro_codename}-security",
        "origin=Ubuntu,archive=${distro_codename}-updates",
        "origin=Ubuntu,archive=${distro_codename}",
    ),
}

# /etc/apt/apt.conf comes after all of the folder: whoever has the last word there, it must not be for the unsigned. A line of
# ``apt-config dump`` that is, as grep -iE knows it.
_LAX = (
    r"^(APT::Get::AllowUnauthenticated|Acquire::Allow(Insecure|Weak|DowngradeToInsecure)Repositories) "
    r'"(1|true|yes|on|with|enable)"|^Acquire::Check-(Valid-Until|Date) "(0|false|no|off|without|disable)"'
)
_ASK = f"lax=$(apt-config dump | grep -iE {shlex.quote(_LAX)} | head -n 1)"
_TAKE_OUT = (
    "apt would take what nobody has signed, or an index of any age: {} stands in /etc/apt/apt.conf or a file behind ours in "
    "/etc/apt/apt.conf.d. Take it out"
)
_EFFECTIVE = f'{_ASK}\n[ -z "$lax" ] || {{ printf \'{_TAKE_OUT.format("%s")}\\n\' "$lax" >&2; exit 1; }}'
_QUESTION = rf"""
if command -v apt-config >/dev/null; then
{_ASK}
[ -z "$lax" ] || say answer lax "$lax"
fi
if [ -f {sources.DEBIAN_KEYRING} ]; then say answer keyring yes; fi
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
  if [ -f "$file" ]; then blob "text $file" <"$file"; fi
done
if command -v apt-cache >/dev/null; then apt-cache policy 2>/dev/null | blob policy; fi
if command -v unattended-upgrade >/dev/null; then say answer installed yes; fi
"""


class UnattendedUpgrades(Agent):
    """apt, its signed sources, and unattended-upgrades to install what they offer."""

    name = "unattended-upgrades"
    folder = _HERE
    own = (CONFIG, PREFERENCES, SOURCE, KEY, PENDING, NEEDRESTART)

    def unsuited(self, device: Mapping[str, Any]) -> str:
        if device.get("packages") != "apt":
            return f"it needs apt, and the device's packages are {device.get('packages') or 'unknown'}"
        if device.get("init") != "systemd":
            return f"its timer needs systemd, and the device's init is {device.get('init')}"
        return ""

    def question(self) -> str:
        return _QUESTION

    def plan(self, settings: Settings, device: Mapping[str, Any], found: Found) -> Part:
        repository = settings.repository
        patterns = self._origins(settings, device)
        files: list[dict[str, Any]] = []
        notes, warnings = [], []
        for path, text in sorted(found.texts.items()):
            if path == SOURCE:
                continue
            exclusive = repository is not None and repository.exclusive
            keyring = found.answers.get("keyring") == "yes"
            new, remarks = sources.harden(path, text, disable=exclusive, keyring=keyring)
            notes += [f"{one.where}: {one.text}" for one in remarks]
            if new != text:
                files.append({"dest": path, "content": new, "mode": "keep"})
        files.append(_own(SOURCE, _source(repository) if repository else None))
        files.append(_own(KEY, repository.key if repository else None))
        files.append(_own(PREFERENCES, _preferences(settings) or None))
        files.append(_own(PENDING, (_HERE / "pending.py").read_text(encoding="utf-8")))
        files.append(_own(NEEDRESTART, _NEEDRESTART))
        secret = "@" in settings.proxy
        files.append(
            {
                "dest": CONFIG,
                "content": _config(settings, patterns),
                "mode": "0600" if secret else "0644",
                "secret": secret,
            }
        )
        releases = origins.read_policy(found.answers.get("policy", ""))
        codename = str((device.get("os") or {}).get("codename") or "")
        if repository is None and releases and origins.idle(patterns, releases, codename):
            offered = sorted({f"origin={one.get('o', '')},label={one.get('l', '')}" for one in releases})
            warnings.append(
                f"no origin that may update this device matches any of its sources ({'; '.join(offered)}): nothing would ever be "
                "updated. Name them in update_agent_origins"
            )
        # Before our file is there it may be the one that mends it, and ``verify`` tells.
        lax = found.answers.get("lax", "")
        if lax and CONFIG in found.digests:
            warnings.append(_TAKE_OUT.format(lax))
        missing = found.answers.get("installed") != "yes"
        if missing and not settings.install and settings.mode != "manual":
            raise Unsupported(
                "unattended-upgrades is not installed. Let the role install it (update_agent_install: true), or put it into "
                "the image"
            )
        missing = missing and settings.mode != "manual"
        if missing:
            notes.append("unattended-upgrades is installed from the device's sources")
        return Part(
            files=tuple(files),
            shell={
                "OWN_URI": repository.uri if repository else "",
                "OWN_SUITE": repository.suites[0] if repository else "",
                "LAX": _LAX,
            },
            check=(f'APT_CONFIG="$(staged {CONFIG})" apt-config dump >/dev/null',),
            activate=(install(["unattended-upgrades"], "brought"),) if missing else (),
            verify=(_EFFECTIVE, "apt-get indextargets >/dev/null"),
            revert=(uninstall(CONFIG, "brought"),),
            notes=tuple(notes),
            warnings=tuple(warnings),
            slow=INSTALL_SECONDS if missing else 0,
        )

    def _origins(self, settings: Settings, device: Mapping[str, Any]) -> tuple[str, ...]:
        repository = settings.repository
        own: tuple[str, ...] = ()
        if repository is not None:
            # What stands in ring0-previous is where to go back to, never what to update to.
            suites = repository.suites[:1] if settings.ring else repository.suites
            own = tuple(f"site={repository.host},suite={suite}" for suite in suites)
        if repository is not None and repository.exclusive:
            return (*own, *settings.origins)
        known = _ORIGINS.get(str((device.get("os") or {}).get("id") or ""), ())
        patterns = (*own, *(settings.origins or known))
        if not patterns:
            raise Unsupported(
                f"which origins may update {(device.get('os') or {}).get('pretty') or 'this system'} is not known: name them in "
                "update_agent_origins, as origin=Name,label=Name (apt-cache policy shows them)"
            )
        return patterns


def _own(path: str, content: str | None) -> dict[str, Any]:
    return (
        {"dest": path, "state": "absent"}
        if content is None
        else {"dest": path, "content": content, "mode": "0644"}
    )


def _source(repository: Repository) -> str:
    return (
        "# Managed by Sallyport: role update_agent.\n"
        f"Types: deb\nURIs: {repository.uri}/\nSuites: {' '.join(repository.suites)}\n"
        f"Components: {' '.join(repository.components)}\nSigned-By: {KEY}\n"
        f"Check-Valid-Until: yes\nValid-Until-Max: {OLDEST_INDEX}\n"
    )


def _preferences(settings: Settings) -> str:
    """Pins hold a package where it is told to be; what is offered for going back never counts as an update."""
    text = ""
    for pin in settings.pins:
        text += f"Package: {pin.package}\nPin: version {pin.version}\nPin-Priority: 1001\n\n"
    if settings.ring and settings.repository is not None:
        text += f"Package: *\nPin: release a={settings.repository.suites[1]}\nPin-Priority: 1\n\n"
    return "# Managed by Sallyport: role update_agent.\n" + text if text else ""


def _config(settings: Settings, patterns: tuple[str, ...]) -> str:
    lines = [
        "// Managed by Sallyport: role update_agent. One timer of ours does what Debian's own would do beside it.",
        'APT::Periodic::Enable "0";',
        "",
        "// Nothing unsigned, whatever a source says of itself.",
        'APT::Get::AllowUnauthenticated "false";',
        'Acquire::AllowInsecureRepositories "false";',
        'Acquire::AllowWeakRepositories "false";',
        'Acquire::AllowDowngradeToInsecureRepositories "false";',
        'Acquire::Check-Valid-Until "true";',
        'Acquire::Check-Date "true";',
        "",
        'Acquire::Retries "2";',
        'Acquire::http::Timeout "30";',
        'Acquire::https::Timeout "30";',
    ]
    if settings.bandwidth_kb:
        lines += [f'Acquire::{way}::Dl-Limit "{settings.bandwidth_kb}";' for way in ("http", "https")]
    if settings.proxy:
        lines += [f'Acquire::{way}::Proxy "{settings.proxy}";' for way in ("http", "https")]
    lines += [
        "",
        "// Settings that somebody changed stay as they are; nobody is there to ask.",
        'Dpkg::Options { "--force-confdef"; "--force-confold"; };',
        "",
        "#clear Unattended-Upgrade::Allowed-Origins;",
        "#clear Unattended-Upgrade::Origins-Pattern;",
        "Unattended-Upgrade::Origins-Pattern {",
        *(f'  "{pattern}";' for pattern in patterns),
        "};",
    ]
    blocked = [*settings.blocked, *(pin.package for pin in settings.pins)]
    if blocked:
        names = [f'  "^{_escaped(name)}$";' for name in dict.fromkeys(blocked)]
        lines += ["Unattended-Upgrade::Package-Blacklist {", *names, "};"]
    lines += [
        'Unattended-Upgrade::AutoFixInterruptedDpkg "true";',
        'Unattended-Upgrade::MinimalSteps "true";',
        'Unattended-Upgrade::InstallOnShutdown "false";',
        'Unattended-Upgrade::Automatic-Reboot "false";',
        'Unattended-Upgrade::Allow-downgrade "false";',
        "// When it may is for run.sh to say: what has been chosen is not passed over.",
        "#clear Unattended-Upgrade::Update-Days;",
        'Unattended-Upgrade::OnlyOnACPower "false";',
        'Unattended-Upgrade::Skip-Updates-On-Metered-Connections "false";',
        "",
    ]
    return "\n".join(lines)


def _escaped(name: str) -> str:
    return name.replace(".", r"\.").replace("+", r"\+")


def install(names: Sequence[str], record: str) -> str:
    """sh that installs what is missing of ``names``, and writes down in ``record`` what came with it."""
    return _INSTALL.format(names=" ".join(shlex.quote(name) for name in names), record=record)


def uninstall(guard: str, record: str) -> str:
    """sh that takes away again what :func:`install` brought, once the file ``guard`` has gone."""
    return _UNINSTALL.format(guard=shlex.quote(guard), record=record)


# A run that updates the C library would be stopped in its middle, as one more user of the old one.
_NEEDRESTART = """# Managed by Sallyport: role update_agent.
$nrconf{restart} = 'a';
$nrconf{kernelhints} = 0;
$nrconf{override_rc}->{qr(^sallyport-)} = 0;
"""

# What the role brought goes again with the role: the list of packages that were not there before.
_INSTALL = """
mkdir -p /var/lib/sallyport-updates
missing=''
for name in {names}; do
  [ "$(dpkg-query -W -f '${{db:Status-Status}}' "$name" 2>/dev/null)" = installed ] || missing="$missing $name"
done
if [ -n "$missing" ]; then
  list() {{ dpkg-query -W -f '${{db:Status-Abbrev}}${{Package}}\\n' | sed -n 's/^ii *//p' | sort; }}
  cd /var/lib/sallyport-updates
  list >before
  apt-get -q update >&2
  # shellcheck disable=SC2086
  DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 --no-install-recommends install $missing >&2
  {{ cat {record} 2>/dev/null || :; list | comm -13 before -; }} | sort -u >{record}.new
  mv -f {record}.new {record}
fi
""".strip("\n")
_UNINSTALL = """
if [ ! -e {guard} ] && [ -s /var/lib/sallyport-updates/{record} ]; then
  # shellcheck disable=SC2046
  DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 purge $(cat /var/lib/sallyport-updates/{record}) >&2 || :
  rm -f /var/lib/sallyport-updates/{record}
fi
""".strip("\n")
