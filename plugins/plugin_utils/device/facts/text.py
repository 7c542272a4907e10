# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Text from a device is anybody's: cleaned here before anything else sees it."""

from __future__ import annotations

import ipaddress
import re

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def clean(text: str) -> str:
    """``text`` as valid Unicode on one line: what is not UTF-8 or a control character becomes U+FFFD."""
    return _CONTROL.sub("\ufffd", _valid(text)).strip()


def utf8(text: str) -> str | None:
    """``text`` unchanged, or None where it was not UTF-8 and could not be written back as it was."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return None
    return text


def number(text: str) -> int:
    """The decimal number that ``text`` is, else 0. Other digits than 0 to 9 are no numbers here."""
    return int(text) if re.fullmatch(r"[0-9]{1,20}", text) else 0


def hexadecimal(text: str) -> int:
    """The number that ``text`` is in base 16, else 0."""
    return int(text, 16) if re.fullmatch(r"[0-9A-Fa-f]{1,32}", text) else 0


def address(text: str) -> str:
    """The address in its shortest form, without a zone index, or "" for what is no address."""
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return ""
    return str(found)


def _valid(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
