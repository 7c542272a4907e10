# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Lists of package sources, in both of apt's formats: what in them lets unsigned packages in, and how it goes. Pure.

A file keeps its comments and its order; only the words that matter change.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# Each of them installs what nobody signed, or signs off what was tampered with; or believes an index of any age.
_LAX = ("trusted", "allow-insecure", "allow-weak", "allow-downgrade-to-insecure")
_CHECKS = ("check-valid-until", "check-date")
_TRUE = ("yes", "true", "with", "on", "enable", "1")
_FALSE = ("no", "false", "without", "off", "disable", "0")
_OFF = "# Sallyport: "
_LONG_URIS = re.compile(r"(?im)^uris:.*\n[ \t]")
# Debian's own archive, as long as it is supported, and the keys that its package brings for it.
_DEBIAN = re.compile(r"https?://(?!archive\.)[a-z0-9.-]+\.debian\.org/debian(-security)?/?")
DEBIAN_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


@dataclass(frozen=True)
class Remark:
    """Something about one source: where it stands and what it means. ``mended``: the new text is without it."""

    where: str
    text: str
    mended: bool


def harden(path: str, text: str, *, disable: bool = False, keyring: bool = False) -> tuple[str, list[Remark]]:
    """The file without what lets unsigned packages in, and remarks about it.

    Args:
        disable: another repository takes its place: every source in it is switched off.
        keyring: the device has Debian's own keys, which alone are to sign for Debian.

    >>> harden("/etc/apt/sources.list", "deb [trusted=yes] http://a.example stable main\\n")[0]
    'deb http://a.example stable main\\n'
    """
    if path.endswith(".sources"):
        return _deb822(path, text, disable, keyring)
    return _one_line(path, text, disable, keyring)


def _one_line(path: str, text: str, disable: bool, keyring: bool) -> tuple[str, list[Remark]]:
    lines, remarks = [], []
    for number, found in enumerate(text.split("\n"), 1):
        line = found
        match = re.match(r"\s*(deb(?:-src)?)\s+(?:\[([^\]]*)\]\s*)?(.*)$", line)
        if not match:
            lines.append(line)
            continue
        where = f"{path}:{number}"
        kind, options, rest = match.group(1), (match.group(2) or "").split(), match.group(3)
        kept = [word for word in options if not _lax(*word.lower().partition("=")[::2])]
        if len(kept) != len(options):
            gone = " ".join(word for word in options if word not in kept)
            remarks.append(Remark(where, f"{gone} lets in what nobody has signed, or signed long ago", True))
        bound = any(word.lower().startswith("signed-by=") for word in kept)
        known = keyring and not disable and not bound and _is_debians(rest.split(maxsplit=1)[:1])
        if known:
            kept.append(f"signed-by={DEBIAN_KEYRING}")
        if kept != options:
            line = " ".join(filter(None, (kind, f"[{' '.join(kept)}]" if kept else "", rest)))
        if disable:
            remarks.append(Remark(where, "update_agent_repository takes its place", True))
            line = _OFF + line
        elif not bound:
            remarks.append(_unbound(where, known))
        lines.append(line)
    return "\n".join(lines), remarks


def _deb822(path: str, text: str, disable: bool, keyring: bool) -> tuple[str, list[Remark]]:
    remarks = []
    stanzas = []
    for number, found in _stanzas(text):
        stanza = found
        where = f"{path}:{number}"
        fields = {name.lower(): value for name, value in re.findall(r"^([A-Za-z-]+):\s*(.*)$", stanza, re.M)}
        if "uris" in fields:
            for name, value in fields.items():
                if _lax(name, value.strip().lower()):
                    remarks.append(
                        Remark(
                            where,
                            f"{name}: {value.strip()} lets in what nobody has signed, or signed long ago",
                            True,
                        )
                    )
                    stanza = re.sub(rf"(?im)^{re.escape(name)}:.*\n?", "", stanza)
            if fields.get("enabled", "yes").strip().lower() in ("no", "false", "off", "0"):
                pass
            elif disable:
                remarks.append(Remark(where, "update_agent_repository takes its place", True))
                stanza = "Enabled: no\n" + re.sub(r"(?im)^enabled:.*\n?", "", stanza)
            elif "signed-by" not in fields:
                # A value may go on over more lines; one that does is left alone.
                known = keyring and _is_debians(fields["uris"].split()) and not _LONG_URIS.search(stanza)
                if known:
                    stanza = re.sub(r"(?im)^(?=uris:)", f"Signed-By: {DEBIAN_KEYRING}\n", stanza, count=1)
                remarks.append(_unbound(where, known))
        stanzas.append(stanza)
    return "".join(stanzas), remarks


def _is_debians(uris: Sequence[str]) -> bool:
    """
    >>> _is_debians(["http://deb.debian.org/debian/"]), _is_debians(["http://deb.debian.org/debian-ports"]), _is_debians([])
    (True, False, False)
    """
    return bool(uris) and all(_DEBIAN.fullmatch(uri) for uri in uris)


def _unbound(where: str, known: bool) -> Remark:
    after = f"; from now on it is {DEBIAN_KEYRING}" if known else ""
    return Remark(where, f"no Signed-By: every key that apt trusts may sign for it{after}", known)


def _lax(name: str, value: str) -> bool:
    return (name in _LAX and value in _TRUE) or (name in _CHECKS and value in _FALSE)


def _stanzas(text: str) -> Iterator[tuple[int, str]]:
    """Paragraphs with the empty lines that end them, and the number of the first line of each."""
    number, ended = 1, False
    lines: list[str] = []
    for index, line in enumerate(text.splitlines(keepends=True), 1):
        if ended and line.strip():
            yield number, "".join(lines)
            number, lines, ended = index, [], False
        lines.append(line)
        ended = not line.strip()
    if lines:
        yield number, "".join(lines)
