# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Does an SNMP agent answer versions 1 and 2c? Judged by a real GET with each community that is known.

The known ones are the everyday words, the operator's own, and those in the agent's configuration. The device asks itself,
past any firewall; the controller asks too, since an agent may answer by source. Version 3 is asked for its engine, which it
tells everybody: an agent that answers that and no community is version 3 only.
"""

from __future__ import annotations

import re
import select
import shlex
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.access.boot_files import MARK

PORT = 161
EVERYDAY = (
    "public", "private", "admin", "manager", "monitor", "default", "snmp", "snmpd", "community", "cisco", "read", "write",
    "secret", "password", "system", "security", "router", "switch", "guest", "test",
)  # fmt: skip
FILES = "/etc/snmp/snmpd.conf /etc/snmp/snmpd.local.conf /etc/snmp/snmpd.conf.d/*.conf /etc/snmpd.conf /var/lib/snmp/snmpd.conf"
# sysUpTime.0, which every agent has.
_NAME = bytes((0x2B, 6, 1, 2, 1, 1, 3, 0))
_COMMUNITY = re.compile(r"^\s*(?:ro|rw)community6?\s+(?:\"([^\"]+)\"|(\S+))", re.I)
_COM2SEC = re.compile(r"^\s*com2sec6?\s+(?:-C[a-z]\s+\S+\s+)?\S+\s+\S+\s+(?:\"([^\"]+)\"|(\S+))", re.I)
_OPENS = re.compile(r"^\s*(?:(?:ro|rw)community6?|com2sec6?|com2secunix)\s", re.I)
_USER = re.compile(r"^\s*(?:ro|rw)user\s+\S", re.I)

_ASK = r"""
ask_snmp() { # ADDRESS REQUEST...: an answer a line, in hexadecimal digits
  if command -v python3 >/dev/null; then
    python3 - "$@" <<'ASK_SNMP_END'
import select, socket, sys, time
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
one = socket.socket(family, socket.SOCK_DGRAM)
for turn in range(2):
    for word in sys.argv[2:]:
        try:
            one.sendto(bytes.fromhex(word), (sys.argv[1], 161))
        except OSError:
            pass
    end = time.monotonic() + 0.5
    while select.select([one], [], [], max(0, end - time.monotonic()))[0]:
        try:
            print(one.recv(65535).hex())
        except OSError:
            pass
ASK_SNMP_END
  elif command -v perl >/dev/null; then
    perl - "$@" <<'ASK_SNMP_END'
use Socket qw(:all);
my $address = shift;
my $six = $address =~ /:/;
socket(my $one, $six ? PF_INET6 : PF_INET, SOCK_DGRAM, 0) or exit 1;
my $to = $six ? pack_sockaddr_in6(161, inet_pton(AF_INET6, $address)) : pack_sockaddr_in(161, inet_aton($address));
for my $turn (1, 2) {
  send($one, pack("H*", $_), 0, $to) for @ARGV;
  my $end = time + 2;
  while (time < $end) {
    my $bits = '';
    vec($bits, fileno($one), 1) = 1;
    last unless select($bits, undef, undef, 0.5) > 0;
    my $answer = '';
    print unpack("H*", $answer), "\n" if defined recv($one, $answer, 65535, 0);
  }
}
ASK_SNMP_END
  else
    return 3
  fi
}
"""


@dataclass(frozen=True)
class Answers:
    """What an agent answers.

    Attributes:
        asked: somebody could ask it at all.
        versions: ``1``, ``2c``, ``3``.
        from_network: a community was answered to the controller itself.
    """

    asked: bool
    versions: tuple[str, ...] = ()
    from_network: bool = False

    @property
    def clear_text(self) -> bool:
        """Whether it takes a community."""
        return bool({"1", "2c"} & set(self.versions))


def _tlv(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 128:
        return bytes((tag, length)) + content
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(size))) + size + content


def _integer(value: int) -> bytes:
    return _tlv(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def get(version: int, community: str, number: int) -> bytes:
    """A GET of sysUpTime; ``version`` as on the wire: 0 is version 1, 1 is version 2c."""
    binding = _tlv(0x30, _tlv(0x30, _tlv(6, _NAME) + _tlv(5, b"")))
    request = _tlv(0xA0, _integer(number) + _integer(0) + _integer(0) + binding)
    return _tlv(0x30, _integer(version) + _tlv(4, community.encode("utf-8", "surrogateescape")) + request)


def discovery(number: int) -> bytes:
    """Version 3's question for the engine, which needs no user."""
    header = _tlv(0x30, _integer(number) + _integer(65507) + _tlv(4, b"\x04") + _integer(3))
    security = _tlv(4, _tlv(0x30, _tlv(4, b"") + _integer(0) + _integer(0) + _tlv(4, b"") * 3))
    request = _tlv(0xA0, _integer(number) + _integer(0) + _integer(0) + _tlv(0x30, b""))
    scoped = _tlv(0x30, _tlv(4, b"") + _tlv(4, b"") + request)
    return _tlv(0x30, _integer(3) + header + security + scoped)


def _parts(data: bytes) -> list[tuple[int, bytes]]:
    """The elements of a sequence's content; ValueError where it is none."""
    result = []
    while data:
        if len(data) < 2:
            raise ValueError("cut")
        length, start = data[1], 2
        if length & 0x80:
            count = length & 0x7F
            length, start = int.from_bytes(data[2 : 2 + count], "big"), 2 + count
        if len(data) < start + length:
            raise ValueError("cut")
        result.append((data[0], data[start : start + length]))
        data = data[start + length :]
    return result


def read(answer: bytes) -> tuple[str, int] | None:
    """(version, number of the request) of an answer; None for anything else."""
    try:
        ((tag, content),) = _parts(answer)
        parts = _parts(content)
        version = int.from_bytes(parts[0][1], "big")
        if tag != 0x30 or version not in (0, 1, 3):
            return None
        if version == 3:
            return "3", int.from_bytes(_parts(parts[1][1])[0][1], "big")
        if parts[2][0] != 0xA2:
            return None
        return ("1", "2c")[version], int.from_bytes(_parts(parts[2][1])[0][1], "big")
    except (ValueError, IndexError):
        return None


def communities(texts: Iterable[str]) -> list[str]:
    """Those that configuration files name."""
    found = []
    for text in texts:
        for line in text.splitlines():
            match = _COMMUNITY.match(line) or _COM2SEC.match(line)
            if match:
                found.append(match[1] or match[2])
    return list(dict.fromkeys(found))


def requests(words: Iterable[str]) -> list[bytes]:
    """The discovery, and a GET of both versions with every community."""
    result = [discovery(1)]
    for word in dict.fromkeys(words):
        result += [get(version, word, len(result) + 1 + version) for version in (0, 1)]
    return result


def local_address(device: Mapping[str, Any]) -> str:
    """Where the device reaches its own agent."""
    listening = [
        one for one in device.get("listening") or [] if one["protocol"] == "udp" and int(one["port"]) == PORT
    ]
    addresses = sorted((str(one["address"]) for one in listening), key=lambda each: ":" in each)
    first = addresses[0].partition("%")[0] if addresses else "0.0.0.0"
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "*": "127.0.0.1"}.get(first, first)


def asking(device: Mapping[str, Any], words: Iterable[str]) -> str:
    """sh with which the device asks itself: shows the configuration, then an answer a record."""
    # Those in the configuration are not known before it was read: a second exchange asks for them.
    listed = " ".join(one.hex() for one in requests(words))
    return (
        f'{_ASK}\nfor file in {FILES}; do\n  if [ -r "$file" ]; then blob "snmp $file" <"$file"; fi\ndone\n'
        f"if answers=$(ask_snmp {shlex.quote(local_address(device))} {listed}); then\n"
        '  say snmp_asked yes\n  for each in $answers; do say snmp_answer "$each"; done\nfi\n'
    )


def nobody_answers(device: Mapping[str, Any], words: Iterable[str]) -> str:
    """sh that fails while the agent answers a community, or no longer answers version 3; for ``verify``."""
    sent = requests(words)
    # The answer carries the number of the question, and versions 1 and 2c begin with another version than 3.
    return (
        f"{_ASK}\nleft=10\nwhile :; do\n"
        f"  answers=$(ask_snmp {shlex.quote(local_address(device))} {' '.join(one.hex() for one in sent)}) || exit 0\n"
        "  clear='' three=''\n"
        "  for each in $answers; do\n"
        "    case $each in 30??02010[01]*|3081??02010[01]*|3082????02010[01]*) clear=yes ;; "
        "30??020103*|3081??020103*|3082????020103*) three=yes ;; esac\n"
        "  done\n"
        '  if [ -z "$clear" ] && [ -n "$three" ]; then break; fi\n'
        '  [ "$left" -gt 0 ] || { echo "SNMP: a community is still answered, or version 3 no longer is" >&2; exit 1; }\n'
        "  left=$((left - 1)); sleep 1\ndone"
    )


def from_controller(address: str, words: Iterable[str], seconds: float = 1.0) -> list[bytes]:
    """Ask over the network, as anybody there could."""
    sent = requests(words)
    found = []
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.setblocking(False)
            for request in sent:
                one.sendto(request, (address, PORT))
            end = time.monotonic() + seconds
            while select.select([one], [], [], max(0.0, end - time.monotonic()))[0]:
                found.append(one.recv(65535))
    except OSError:
        pass
    return found


def judge(answers: Sequence[bytes], asked: bool, network: Sequence[bytes]) -> Answers:
    """What the agent takes."""
    near = {found[0] for found in map(read, answers) if found}
    far = {found[0] for found in map(read, network) if found}
    return Answers(asked or bool(far), tuple(sorted(near | far)), bool({"1", "2c"} & far))


def without_communities(texts: Mapping[str, str]) -> dict[str, str] | None:
    """The files with every community marked as switched off; None where nothing would be left that version 3 could serve."""
    if not any(_USER.match(line) for text in texts.values() for line in text.splitlines()):
        return None
    result = {}
    for path, text in texts.items():
        lines = text.splitlines(keepends=True)
        after = "".join(f"{MARK}{line}" if _OPENS.match(line) else line for line in lines)
        if after != text:
            result[path] = after
    return result or None
