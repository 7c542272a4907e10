# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The policy language as data: which keys there are, what they hold, and the JSON Schema that follows.

One description serves the reader and the schema, so that an editor and the compiler cannot disagree on a key.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import Finding, Where
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.source import Node, describe, short

NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}"
INTERFACE = r"(?!\.{1,2}\*?$)(?:[A-Za-z0-9_.@=-]{1,15}|[A-Za-z0-9_.@=-]{1,14}\*)"
RATE = r"([1-9][0-9]{0,6})/(second|minute|hour|day)( burst ([1-9][0-9]{0,4}))?"
_NAME_PATTERN = rf"^(?!any$)(?![0-9.]*\.[0-9.]*$){NAME}$"
"""``is_name`` for editors."""
_NAME_REMEDY = "use letters, digits, _, . and -, at most 64, and neither `any` nor an address"
_ADDRESS_LIKE = re.compile(r"[0-9.]+|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*", re.ASCII)


class Said(str):
    """Text that knows where it was written."""

    __slots__ = ("where",)
    where: Where

    def __new__(cls, text: str, where: Where) -> Said:
        said = super().__new__(cls, text)
        said.where = where
        return said


class Entry(dict[str, Any]):
    """A map of the policy whose keys are all known and whose values all have the right type."""

    __slots__ = ("broken", "keys_at", "memo", "where")

    def __init__(self, where: Where, keys_at: Mapping[str, Where]) -> None:
        super().__init__()
        self.where = where
        self.keys_at = keys_at
        self.broken = False
        """Something in it has a finding, so nothing may be concluded from it."""
        self.memo: Any = None
        """What was computed from this entry alone, kept because hosts share layers."""

    def at(self, key: str) -> Where:
        """Where ``key`` was written, or the entry itself."""
        return self.keys_at.get(key, self.where)


@dataclass(slots=True)
class Reader:
    """Collects what is wrong while a tree is read."""

    findings: list[Finding] = field(default_factory=list)

    def add(self, identity: str, where: Where, message: str, remedy: str) -> None:
        """Note one error."""
        self.findings.append(Finding(identity, "error", message, remedy, where))

    def warn(self, identity: str, where: Where, message: str, remedy: str) -> None:
        """Note one warning."""
        self.findings.append(Finding(identity, "warning", message, remedy, where))


BROKEN = object()
"""Stands for a value that a finding was already written about."""


class Spec:
    """What a value must be."""

    what = "a value"

    def read(self, reader: Reader, node: Node, name: str) -> Any:
        """The value, or ``BROKEN`` after noting why not. ``name`` says in messages what is read."""
        raise NotImplementedError

    def schema(self) -> dict[str, Any]:
        """The same as JSON Schema (draft 2020-12)."""
        raise NotImplementedError

    def wrong(self, reader: Reader, node: Node, name: str) -> object:
        """Note that ``node`` is of another type."""
        if node.kind == "odd" or (node.kind == "bool" and self.what == "text"):
            said = node.where.text
            reader.add(
                "quote-it",
                node.where,
                f"{name} must be {self.what}; `{said}` is {describe(node)} to YAML",
                self.instead(said),
            )
        elif node.kind == "map" and node.value and self.what != "a list":
            key = next(iter(node.value)).lstrip("\0")
            if node.value and ":" in key and next(iter(node.value.values())).kind == "null":
                reader.add(
                    "quote-it",
                    node.where,
                    f"{name} must be {self.what}; `{short(key)}:` is a map to YAML",
                    f'quote it: "{short(key)}:"',
                )
            else:
                self._wrong_type(reader, node, name)
        else:
            self._wrong_type(reader, node, name)
        return BROKEN

    def _wrong_type(self, reader: Reader, node: Node, name: str) -> None:
        found = describe(node)
        if node.where.text and node.kind not in ("map", "list"):
            found += f" `{node.where.text}`"
        said = f"{name or 'a policy'} must be {self.what}, found {found}"
        reader.add("wrong-type", node.where, said, self.remedy())

    def instead(self, said: str) -> str:
        """What to write where YAML took ``said`` for something else."""
        return f'quote it: "{said}"'

    def remedy(self) -> str:
        """What to write."""
        return f"write {self.what}; docs/policy.md shows each key"


@dataclass(frozen=True)
class Text(Spec):
    """Text, whole matching ``pattern``; ``form`` says so in words."""

    pattern: str = ""
    form: str = ""
    choices: tuple[str, ...] = ()
    identity: str = "bad-value"
    limit: int = 4096
    number: bool = False
    """Plain decimal integers are taken as their text."""

    what = "text"

    def read(self, reader: Reader, node: Node, name: str) -> Any:
        if node.kind == "int" and self.number:
            return Said(str(node.value), node.where)
        if node.kind != "text":
            return self.wrong(reader, node, name)
        text: str = node.value
        if self.choices:
            if text not in self.choices:
                reader.add(
                    self.identity,
                    node.where,
                    f"{name} must be one of {', '.join(self.choices)}; found `{short(text)}`",
                    _nearest(text, self.choices),
                )
                return BROKEN
        elif len(text) > self.limit or (self.pattern and not re.fullmatch(self.pattern, text, re.ASCII)):
            remedy = f"write {'an' if self.form[0] in 'aeiou' else 'a'} {self.form}"
            reader.add(self.identity, node.where, f"{name} is no {self.form}: `{short(text)}`", remedy)
            return BROKEN
        return Said(text, node.where)

    def schema(self) -> dict[str, Any]:
        if self.choices:
            return {"enum": list(self.choices)}
        result: dict[str, Any] = {"type": ["string", "integer"] if self.number else "string"}
        if self.pattern:
            result["pattern"] = f"^(?:{self.pattern})$"
        return result


@dataclass(frozen=True)
class Printable(Text):
    """Printable text on one line, not empty."""

    def read(self, reader: Reader, node: Node, name: str) -> Any:
        said = super().read(reader, node, name)
        if isinstance(said, Said) and (not said.strip() or not said.isprintable()):
            message = f"{name} must be printable text of at most {self.limit} characters"
            reader.add(
                self.identity,
                node.where,
                message,
                "write some letters, without line breaks or control characters",
            )
            return BROKEN
        return said

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": r"\S", "maxLength": self.limit}


@dataclass(frozen=True)
class Name(Text):
    """What a list of addresses may be called: the same as a zone or service."""

    pattern: str = NAME

    def read(self, reader: Reader, node: Node, name: str) -> Any:
        if node.kind == "text" and not is_name(node.value):
            reader.add("bad-name", node.where, f"{name} cannot be `{short(node.value)}`", _NAME_REMEDY)
            return BROKEN
        return super().read(reader, node, name)

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": _NAME_PATTERN}


@dataclass(frozen=True)
class Number(Spec):
    """A decimal integer from ``low`` to ``high``."""

    low: int
    high: int
    identity: str = "bad-value"

    what = "a number"

    def instead(self, said: str) -> str:
        return "write a decimal number, such as 22"

    def read(self, reader: Reader, node: Node, name: str) -> Any:
        if node.kind != "int":
            return self.wrong(reader, node, name)
        if not self.low <= node.value <= self.high:
            message = f"{name} must lie between {self.low} and {self.high}; found {node.where.text}"
            reader.add(self.identity, node.where, message, "write a number in that range")
            return BROKEN
        return node.value

    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True)
class Flag(Spec):
    """true or false."""

    what = "true or false"

    def instead(self, said: str) -> str:
        return {"yes": "write true", "on": "write true"}.get(said.lower(), "write true or false")

    def read(self, reader: Reader, node: Node, name: str) -> Any:
        return node.value if node.kind == "bool" else self.wrong(reader, node, name)

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


@dataclass(frozen=True)
class Spans(Spec):
    """A list of numbers and ``first-last`` ranges from ``low`` to ``high``: ports or ICMP types."""

    low: int
    high: int
    noun: str

    what = "a list"

    def read(self, reader: Reader, node: Node, name: str) -> Any:
        if node.kind != "list":
            return self.wrong(reader, node, name)
        if not node.value:
            return _empty(reader, node, name)
        pairs: Any = []
        for item in node.value:
            pair = self._one(item)
            if pair is None:
                pairs = BROKEN
                if item.kind in ("text", "int"):
                    reader.add(
                        f"bad-{self.noun}",
                        item.where,
                        f"{name} holds `{item.where.text}`, which is no {self.noun} or range of them",
                        f'write a number from {self.low} to {self.high}, or a range such as "{_RANGES[self.noun]}"',
                    )
                else:
                    _ONE_SPAN.wrong(reader, item, f"a {self.noun} in {name}")
            elif pairs is not BROKEN:
                pairs.append(pair)
        return pairs

    def _one(self, item: Node) -> tuple[int, int] | None:
        if item.kind == "int":
            first = last = item.value
        elif item.kind == "text":
            match = re.fullmatch(r"(0|[1-9][0-9]{0,4})(?:-(0|[1-9][0-9]{0,4}))?", item.value, re.ASCII)
            if not match:
                return None
            first = int(match[1])
            last = int(match[2] or first)
        else:
            return None
        return (first, last) if self.low <= first <= last <= self.high else None

    def schema(self) -> dict[str, Any]:
        number = {"type": "integer", "minimum": self.low, "maximum": self.high}
        text = {"type": "string", "pattern": "^[0-9]{1,5}(-[0-9]{1,5})?$"}
        return {"type": "array", "minItems": 1, "items": {"anyOf": [number, text]}}


@dataclass(frozen=True)
class ListOf(Spec):
    """A list that is not empty, of one kind of item."""

    item: Spec
    noun: str
    may_be_empty: bool = False

    what = "a list"

    def read(self, reader: Reader, node: Node, name: str) -> Any:
        if node.kind != "list":
            return self.wrong(reader, node, name)
        if not node.value and not self.may_be_empty:
            return _empty(reader, node, name)
        result = [self.item.read(reader, one, f"{self.noun} of {name}") for one in node.value]
        return BROKEN if any(one is BROKEN for one in result) else result

    def schema(self) -> dict[str, Any]:
        result: dict[str, Any] = {"type": "array", "items": self.item.schema()}
        return result if self.may_be_empty else result | {"minItems": 1}


@dataclass(frozen=True)
class Entries(Spec):
    """A list of maps that are read one by one, so that one broken entry does not hide the others."""

    item: Table
    noun: str

    what = "a list"

    def read(self, reader: Reader, node: Node, name: str) -> Any:
        if node.kind != "list":
            return self.wrong(reader, node, name)
        # An empty section says nothing and hides nothing.
        return [self.item.read(reader, one, f"{self.noun} in {name}") for one in node.value]

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": self.item.schema()}


@dataclass(frozen=True)
class Key:
    """One key of a table."""

    spec: Spec
    doc: str
    required: bool = False


@dataclass(frozen=True)
class Table(Spec):
    """A map with known keys."""

    keys: Mapping[str, Key]
    one_of: tuple[str, ...] = ()
    """Exactly one of these keys must be there."""

    what = "a map"

    def read(self, reader: Reader, node: Node, name: str) -> Any:
        if node.kind != "map":
            return self.wrong(reader, node, name)
        entry = Entry(node.where, node.keys or {})
        broken = unknown = False
        label = node.value.get("name")
        if label is not None and label.kind == "text" and "name" in self.keys:
            name = f"{name} `{short(label.value, 40)}`"
        for key, value in node.value.items():
            known = self.keys.get(key)
            if known is None:
                # What is missing below may be what was misspelt here: one mistake, one finding.
                broken = unknown = True
                where = entry.at(key)
                if key.startswith("\0"):
                    _misread(reader, node, key, where)
                    continue
                reader.add(
                    "unknown-key",
                    where,
                    f"{name or 'a policy'} has no key `{short(key)}`",
                    _nearest(key, tuple(self.keys)),
                )
                continue
            read = known.spec.read(reader, value, f"`{key}` of {name}" if name else f"`{key}`")
            if read is BROKEN:
                broken = True
            entry[key] = read
        for key, known in self.keys.items():
            if known.required and key not in node.value and not unknown:
                broken = True
                reader.add("missing-key", node.where, f"{name} needs `{key}`", f"add `{key}`: {known.doc}")
        if self.one_of:
            given = [key for key in self.one_of if key in node.value]
            if len(given) != 1 and not (unknown and not given):
                broken = True
                found = "none" if not given else " and ".join(f"`{key}`" for key in given)
                words = ", ".join(f"`{key}`" for key in self.one_of)
                message = f"{name} must have exactly one of {words}; found {found}"
                reader.add(
                    "missing-key" if not given else "one-verdict", node.where, message, "keep one of them"
                )
        entry.broken = broken
        return entry

    def schema(self) -> dict[str, Any]:
        result: dict[str, Any] = {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                key: known.spec.schema() | {"description": known.doc} for key, known in self.keys.items()
            },
        }
        required = [key for key, known in self.keys.items() if known.required]
        if required:
            result["required"] = required
        if self.one_of:
            result["oneOf"] = [{"required": [key]} for key in self.one_of]
        return result


@dataclass(frozen=True)
class Names(Spec):
    """A map from names to tables: zones and services."""

    item: Table
    noun: str

    what = "a map"

    def read(self, reader: Reader, node: Node, name: str) -> Any:
        if node.kind != "map":
            return self.wrong(reader, node, name)
        entry = Entry(node.where, node.keys or {})
        for key, value in node.value.items():
            where = entry.at(key)
            if key.startswith("\0"):
                _misread(reader, node, key, where)
                continue
            if not is_name(key):
                message = f"`{short(key)}` cannot name a {self.noun}"
                reader.add("bad-name", where, message, _NAME_REMEDY)
                continue
            entry[key] = self.item.read(reader, value, f"{self.noun} `{key}`")
        return entry

    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "propertyNames": {"pattern": _NAME_PATTERN},
            "additionalProperties": self.item.schema(),
        }


@dataclass(frozen=True)
class WordOrList(Spec):
    """The word ``any`` or a list."""

    word: str
    items: ListOf

    what = "a list"

    def read(self, reader: Reader, node: Node, name: str) -> Any:
        if node.kind == "text" and node.value == self.word:
            return [Said(self.word, node.where)]
        return self.items.read(reader, node, name)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"const": self.word}, self.items.schema()]}


@dataclass(frozen=True)
class FlagOrKeys(Spec):
    """true, false or a list of keys: what is locked."""

    items: ListOf

    what = "true or false"

    def read(self, reader: Reader, node: Node, name: str) -> Any:
        if node.kind == "list":
            return self.items.read(reader, node, name)
        return node.value if node.kind == "bool" else self.wrong(reader, node, name)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"type": "boolean"}, self.items.schema()]}


def is_name(text: str) -> bool:
    """Whether ``text`` may name a zone, service or list."""
    if text == "any" or not re.fullmatch(NAME, text, re.ASCII):
        return False
    return not _ADDRESS_LIKE.fullmatch(text) or text.isdigit()


def _misread(reader: Reader, node: Node, key: str, where: Where) -> None:
    """A key that is no text. In files the source says so; in variables its type is all that is left."""
    if node.where.source.startswith("sallyport_policy__"):
        said = short(key[1:])
        reader.add("quote-it", where, f"the key `{said}` is no text", f'quote it: "{said}":')


def _empty(reader: Reader, node: Node, name: str) -> object:
    reader.add(
        "empty-list", node.where, f"{name} is an empty list", "leave the key out, or name at least one"
    )
    return BROKEN


def _nearest(text: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(short(text), known, 1)
    if near:
        return f"did you mean `{near[0]}`?"
    shown = ", ".join(sorted(known)[:12] if len(known) > 12 else known)
    return f"known are {shown}" + (f" and {len(known) - 12} more" if len(known) > 12 else "")


nearest = _nearest

_ONE_SPAN = Number(0, 65535)
_RANGES = {"port": "5000-5010", "type": "13-17", "protocol": "50-51"}

_OVERRIDE = Key(Flag(), "this entry replaces the one of that name from an earlier layer")
_LOCKED = Key(Flag(), "later layers must not change this entry")
_ITEM = Text(form="zone, CIDR or any", limit=256)
_SOURCES = ListOf(_ITEM, "an entry")
_INTERFACES = ListOf(
    Text(INTERFACE, "interface name, at most 15 characters, `*` only at the end", identity="bad-interface"),
    "an entry",
)
_SERVICES = ListOf(Text(NAME, "service name", identity="bad-name"), "an entry")
_PORTS = Spans(1, 65535, "port")
_TYPES = Spans(0, 255, "type")
_RATE = Text(RATE, "rate such as 50/second or 10/minute burst 20", identity="bad-rate")
_REASON = Key(Printable(form="reason", limit=200), "why it is so, for those who read the policy")
_DATE = Text(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", 'date such as "2027-01-31"', identity="bad-date")
_RULE_NAME = Key(Printable(form="rule name", limit=200, identity="bad-name"), "unique in its section", True)
_LIST_NAME = Key(Name(), "unique in its section", True)

ZONE = Table(
    {
        "cidrs": Key(ListOf(Text(form="CIDR", limit=256), "an entry"), "CIDRs and addresses"),
        "except": Key(
            ListOf(Text(form="CIDR", limit=256), "an entry"), "CIDRs inside the zone that do not belong to it"
        ),
        "hosts": Key(
            ListOf(Text(form="host or group", limit=256), "an entry"),
            "inventory hosts and groups, by address",
        ),
        "interfaces": Key(_INTERFACES, "addresses count on these interfaces only"),
        "local": Key(Flag(), "adds 0.0.0.0, :: and fe80::/10, for DHCP and mDNS"),
        "override": _OVERRIDE,
        "locked": _LOCKED,
    }
)

SERVICE = Table(
    {
        "tcp": Key(_PORTS, "TCP ports and ranges"),
        "udp": Key(_PORTS, "UDP ports and ranges"),
        "sctp": Key(_PORTS, "SCTP ports and ranges"),
        "icmp": Key(_TYPES, "ICMP types"),
        "icmpv6": Key(_TYPES, "ICMPv6 types"),
        "protocols": Key(Spans(0, 255, "protocol"), "IP protocol numbers"),
        "override": _OVERRIDE,
        "locked": _LOCKED,
    }
)

RULE = Table(
    {
        "name": _RULE_NAME,
        "allow": Key(_SERVICES, "services to admit; `any` is every IP protocol"),
        "deny": Key(_SERVICES, "services to drop"),
        "reject": Key(_SERVICES, "services to refuse audibly"),
        "from": Key(_SOURCES, "zones, CIDRs or any; missing means any"),
        "to": Key(_SOURCES, "zones, CIDRs or any; missing means any"),
        "rate": Key(_RATE, "flows a source may start: N/unit, `burst B`"),
        "until": Key(_DATE, "the last day of the rule (UTC)"),
        "on_device": Key(Flag(), "also end it by the device's own clock"),
        "cut": Key(Flag(), "also end running connections when the rule goes"),
        "log": Key(Flag(), "log the first packet of each flow"),
        "reason": _REASON,
        "override": _OVERRIDE,
        "locked": _LOCKED,
    },
    one_of=("allow", "deny", "reject"),
)

PUBLISH = Table(
    {
        "name": _RULE_NAME,
        "from": Key(_SOURCES, "whose connections are translated; missing means any"),
        "protocol": Key(Text(choices=("tcp", "udp")), "tcp (default) or udp"),
        "port": Key(Number(1, 65535, "bad-port"), "port on this device", True),
        "to": Key(
            Text(form="address:port", limit=80), 'where it goes: "10.20.0.9:443" or "[fd00::9]:443"', True
        ),
        "override": _OVERRIDE,
        "locked": _LOCKED,
    }
)

NAT = Table(
    {
        "masquerade": Key(_INTERFACES, "interfaces whose address replaces forwarded sources"),
        "publish": Key(Entries(PUBLISH, "entry"), "destination translations"),
        "clamp_mss": Key(Flag(), "fit TCP segments to PPP and tunnel links"),
    }
)

BLOCKLIST = Table(
    {
        "name": _LIST_NAME,
        "file": Key(Text(form="file name"), "file of CIDRs, beside the policy", True),
        "interfaces": Key(_INTERFACES, "interfaces where the list stands; missing means all"),
        "direction": Key(Text(choices=("in", "both")), "both also drops new flows to the list"),
        "overlap": Key(Text(choices=("accept",)), "the list may overlap zones that are admitted"),
        "reason": _REASON,
        "override": _OVERRIDE,
        "locked": _LOCKED,
    }
)

TRAPS = Table(
    {
        "tcp": Key(_PORTS, "ports that no honest client tries", True),
        "ban": Key(
            Text(r"[1-9][0-9]{0,4}[smh]", "duration such as 30m or 1h", identity="bad-ban"), "at most 1h"
        ),
        "size": Key(Number(1, 4096, "bad-size"), "most addresses banned at one time"),
        "proof": Key(Text(choices=("handshake", "syn")), "what it takes to be banned"),
        "never": Key(_SOURCES, "zones and CIDRs that are dropped, not banned"),
        "override": _OVERRIDE,
        "locked": _LOCKED,
    }
)

_VERDICTS = ("drop", "reject", "allow")


def _locked_keys(*keys: str) -> Key:
    """A key that nothing has would lock nothing."""
    return Key(
        FlagOrKeys(ListOf(Text(choices=keys), "an entry")),
        "true locks the keys that stand here, a list locks those",
    )


DEFAULTS = Table(
    {
        "inbound": Key(Text(choices=_VERDICTS), "what happens when no rule decides; default drop"),
        "outbound": Key(Text(choices=_VERDICTS), "default allow"),
        "forward": Key(Text(choices=_VERDICTS), "default drop"),
        "ping": Key(
            Table(
                {
                    "from": Key(WordOrList("any", _SOURCES), "who may ping; `any` or a list"),
                    "rate": Key(_RATE, "for all sources together"),
                }
            ),
            "inbound echo requests",
        ),
        "gate": Key(_PORTS, "TCP ports that root on the device may open for ten minutes at a time"),
        "reason": _REASON,
        "locked": _locked_keys("inbound", "outbound", "forward", "ping", "gate", "reason"),
    }
)

LOG = Table(
    {
        "drops": Key(_RATE, "how many drops to log"),
        "prefix": Key(
            Text(
                r"[A-Za-z0-9_-]{1,20}",
                "prefix of letters, digits, _ and -, at most 20",
                identity="bad-prefix",
            ),
            "stands before each line",
        ),
        "group": Key(Number(0, 65535), "NFLOG group instead of the kernel log"),
        "locked": _locked_keys("drops", "prefix", "group"),
    }
)

CONTAINERS = Table(
    {
        "outbound": Key(
            Text(choices=("allow", "as_device", "drop")), "new flows that containers start; default allow"
        ),
        "locked": _locked_keys("outbound"),
    }
)

ASSERT = Table(
    {
        "service": Key(Text(NAME, "service name", identity="bad-name"), "the service that is bound"),
        "only_from": Key(_SOURCES, "nobody else may reach it"),
        "defaults": Key(
            Table(
                {
                    hook: Key(Text(choices=_VERDICTS), "must be this")
                    for hook in ("inbound", "outbound", "forward")
                }
            ),
            "the defaults must end up so",
        ),
        "reason": _REASON,
    }
)

_RULES = Entries(RULE, "rule")

POLICY = Table(
    {
        "zones": Key(Names(ZONE, "zone"), "sets of addresses by name"),
        "services": Key(Names(SERVICE, "service"), "ports and types by name, beside the built-in ones"),
        "inbound": Key(_RULES, "who may reach this device"),
        "outbound": Key(_RULES, "whom this device may reach"),
        "forward": Key(_RULES, "what may pass through a gateway"),
        "nat": Key(NAT, "address translation on a gateway"),
        "containers": Key(CONTAINERS, "what containers on the device may do"),
        "defaults": Key(DEFAULTS, "what happens when no rule decides"),
        "blocklists": Key(Entries(BLOCKLIST, "list"), "lists of addresses that are dropped"),
        "traps": Key(TRAPS, "ports whose callers are banned"),
        "log": Key(LOG, "logging of drops"),
        "assert": Key(Entries(ASSERT, "assertion"), "what must hold whatever other layers add"),
    }
)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a policy file, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Sallyport CIDR policy",
        "description": "One layer of a policy (fleet.yml, groups/<group>.yml, hosts/<host>.yml).",
    } | POLICY.schema()
