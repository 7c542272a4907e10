# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Password hashes on the controller: tried and made by the system's own crypt library, through ctypes.

Python's ``crypt`` module is gone from 3.13, and no package that the controller must have knows yescrypt.
Every Linux with glibc or libxcrypt has ``libcrypt``. A scheme that this library cannot compute is *not
assessed*, never "fine": whether it can is found out by asking it, not assumed.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import hmac
import secrets
from typing import Any

SCHEMES = {
    "1": "md5",
    "2a": "bcrypt",
    "2b": "bcrypt",
    "2y": "bcrypt",
    "5": "sha256",
    "6": "sha512",
    "7": "scrypt",
    "y": "yescrypt",
    "gy": "gost-yescrypt",
    "sm3": "sm3",
}
STRONGEST_FIRST = ("yescrypt", "sha512")
"""Schemes for new passwords. bcrypt is left out: it cuts passwords at 72 bytes and is no stronger than yescrypt."""
EVERYWHERE = "sha512"
"""What every login program reads, BusyBox's own included."""
_ITOA64 = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# struct crypt_data: 32 KiB in libxcrypt, 128 KiB and a little in old glibc; too much does no harm.
_DATA_SIZE = 262144
# A hash may ask for any number of rounds, and for memory: a device must not be able to keep the controller busy for hours.
_MAX_ROUNDS = 1_000_000
_MAX_COST = 14
_MAX_BYTES = 64 << 20


class NoLibrary(RuntimeError):
    """This controller has no libcrypt."""


def scheme(field: str) -> str:
    """What a shadow field holds: ``empty``, ``locked`` (text that no scheme can have made, ``NP`` for instance, matches no
    password either), a scheme's name, or ``unknown``.
    """
    if field == "":
        return "empty"
    if field[0] in "!*" or field == "x":
        return "locked"
    if field[0] == "$":
        name = field[1:].partition("$")[0]
        return SCHEMES.get(name, "unknown")
    if field[0] == "_" and len(field) == 20:
        return "bsdi-des"
    if len(field) == 13 and all(letter in _ITOA64 for letter in field):
        return "des"
    return "locked"


@functools.lru_cache(maxsize=1)
def _library() -> Any:
    candidates = ["libcrypt.so.1", "libcrypt.so.2", ctypes.util.find_library("crypt") or ""]
    for name in filter(None, candidates):
        try:
            library = ctypes.CDLL(name)
            function = library.crypt_r
        except (OSError, AttributeError):
            continue
        function.restype = ctypes.c_char_p
        function.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p]
        return function
    raise NoLibrary(
        "this controller has no libcrypt (libcrypt.so.1 or .2), so no password hash can be assessed. "
        "Install libcrypt1 (Debian), libxcrypt or libxcrypt-compat (Fedora, RHEL)"
    )


def compute(password: str, setting: str) -> str | None:
    """The hash of ``password`` under ``setting`` (a salt, or a whole hash); None where the library cannot
    make it.

    The library releases Python's lock while it works, so threads run in parallel.

    Raises:
        NoLibrary: there is none.
    """
    if "\0" in password or "\0" in setting or _too_expensive(setting):
        return None
    data = ctypes.create_string_buffer(_DATA_SIZE)
    result: bytes | None = _library()(
        password.encode("utf-8", "surrogateescape"), setting.encode("utf-8", "surrogateescape"), data
    )
    # libxcrypt answers *0 or *1 for what it does not know.
    if not result or result.startswith(b"*"):
        return None
    return result.decode("ascii", "replace")


def _too_expensive(setting: str) -> bool:
    parts = setting.split("$")
    if len(parts) > 2 and parts[1] in ("5", "6", "sm3") and parts[2].startswith("rounds="):
        rounds = parts[2][len("rounds=") :]
        return not rounds.isdecimal() or int(rounds) > _MAX_ROUNDS
    if len(parts) > 2 and parts[1] in ("2a", "2b", "2y"):
        return not parts[2].isdecimal() or int(parts[2]) > _MAX_COST
    try:
        if setting.startswith("_"):
            return _number(setting[1:5]) > _MAX_ROUNDS
        if len(parts) > 2 and parts[1] == "7":
            return _scrypt_bytes(parts[2]) > _MAX_BYTES
        if len(parts) > 2 and parts[1] in ("y", "gy"):
            return _yescrypt_bytes(parts[2]) > _MAX_BYTES
    except (ValueError, IndexError):
        # Nobody can say what it costs.
        return True
    return False


def _number(letters: str) -> int:
    return sum(_ITOA64.index(letter) << 6 * place for place, letter in enumerate(letters))


def _scrypt_bytes(text: str) -> int:
    """Memory that passes through the hands of one guess: the logarithm of N, then r and p of five letters each."""
    return (128 << _ITOA64.index(text[0])) * _number(text[1:6]) * _number(text[6:11])


def _yescrypt_bytes(text: str) -> int:
    """The same for yescrypt: its kind, the logarithm of N, r, and if more follows a mark of what, p and t."""
    letters = list(text)
    _variable(letters, 0)
    logarithm, size = _variable(letters, 1), _variable(letters, 1)
    lanes, passes = 1, 0
    if letters:
        marks = _variable(letters, 1)
        lanes = _variable(letters, 2) if marks & 1 else 1
        passes = _variable(letters, 1) if marks & 2 else 0
    return (128 << logarithm) * size * lanes * (passes + 1)


def _variable(letters: list[str], least: int) -> int:
    """A number as yescrypt writes it: the larger the first letter, the more letters follow."""
    first, start, end, more = _ITOA64.index(letters.pop(0)), 0, 47, 0
    result = least
    while first > end:
        result += (end + 1 - start) << 6 * more
        start, end, more = end + 1, end + 1 + (62 - end) // 2, more + 1
    result += (first - start) << 6 * more
    for place in range(more - 1, -1, -1):
        result += _ITOA64.index(letters.pop(0)) << 6 * place
    return result


def can_assess(hashed: str) -> bool:
    """Whether guesses against this hash mean anything: the library must give back a hash of the same form."""
    made = compute("sallyport", hashed)
    return made is not None and len(made) == len(hashed) and scheme(made) == scheme(hashed)


def matches(password: str, hashed: str) -> bool:
    """Whether this password has this hash. Only meaningful where ``can_assess``."""
    made = compute(password, hashed)
    return made is not None and hmac.compare_digest(made.encode(), hashed.encode("utf-8", "surrogateescape"))


def generate_password(length: int = 24) -> str:
    """A password from the system's random source, of letters and digits that nobody confuses: about 5.8 bits
    each.
    """
    alphabet = "abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
    return "".join(secrets.choice(alphabet) for _ in range(length))


def hash_password(password: str, name: str = EVERYWHERE) -> str:
    """A new hash with a new salt.

    Raises:
        NoLibrary: there is none.
        ValueError: the library cannot make this scheme.
    """
    prefix = {"yescrypt": "$y$", "sha512": "$6$", "sha256": "$5$", "md5": "$1$"}.get(name)
    if prefix is None:
        raise ValueError(
            f"cannot make hashes of the scheme {name!r}; expected yescrypt, sha512, sha256 or md5"
        )
    # yescrypt's usual cost (j9T), and a salt of 128 bits; 22 letters of which the last holds two bits only.
    if name == "yescrypt":
        setting = f"$y$j9T${_letters(21)}{secrets.choice('./01')}"
    else:
        setting = prefix + _letters(8 if name == "md5" else 16)
    made = compute(password, setting)
    if made is None or not made.startswith(prefix):
        raise ValueError(f"this controller's libcrypt cannot make {name} hashes")
    return made


def _letters(count: int) -> str:
    return "".join(secrets.choice(_ITOA64) for _ in range(count))
