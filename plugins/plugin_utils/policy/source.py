# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Read policy text or variables into one plain tree in which every value knows where it was written.

Text is YAML, but only what means the same to every reader of it: maps, lists, text, decimal integers, true
and false. Everything that YAML would quietly turn into something else (``22:22`` is 1342, ``on`` is true,
``0777`` is 511, ``[fd00::]`` is a map) becomes a finding that says to quote it. The tree is built from parser
events without recursion, so deep nesting and aliases cost nothing before they are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal, cast

import yaml
from ansible_collections.sallyport.iot.plugins.plugin_utils.policy.model import Finding, Where

MAX_BYTES = 16 << 20
MAX_DEPTH = 12

Kind = Literal["map", "list", "text", "int", "bool", "null", "odd"]

_PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_INT = re.compile(r"-?(0|[1-9][0-9]{0,18})\Z", re.ASCII)
_ODD = re.compile(
    r"""(?: (?P<boolean> yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF|True|TRUE|False|FALSE|y|Y|n|N )
    | (?P<sexagesimal> [-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)? )
    | (?P<date> [0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt\s].*)? )
    | (?P<number> [-+]?(?:0[0-7_]+|0x[0-9a-fA-F_]+|0b[01_]+|0o[0-7]+|[1-9][0-9_]*|0|\+[0-9]+)
        | [-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9_]+)(?:[eE][-+]?[0-9]+)?
        | [-+]?\.(?:inf|Inf|INF) | \.(?:nan|NaN|NAN) )
    | (?P<special> <<|= ) )\Z""",
    re.ASCII | re.VERBOSE,
)
_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_SURPRISE = {
    "boolean": "a boolean",
    "sexagesimal": "a number to the base of 60",
    "date": "a date",
    "number": "another number than it looks, or none that a policy uses",
    "special": "an instruction of its own",
}


@dataclass(slots=True)
class Node:
    """A value and where it stands.

    ``value`` is a dict of ``Node`` by key for ``map``, a list of ``Node`` for ``list``, else the plain value;
    for ``odd`` (what a policy cannot hold) it says in words what YAML or Jinja made of the text.
    """

    kind: Kind
    value: Any
    where: Where
    keys: dict[str, Where] | None = None


def describe(node: Node) -> str:
    """What ``node`` is, in words, for messages."""
    if node.kind == "odd":
        return str(node.value)
    words = {"map": "a map", "list": "a list", "text": "text", "int": "a number", "bool": "true or false"}
    return words.get(node.kind, "nothing (null)")


def short(text: str, limit: int = 80) -> str:
    """``text`` on one line, printable, cut to ``limit``, as messages show it."""
    if len(text) <= limit and text.isprintable():
        return text
    line = text.split("\n", 1)[0]
    if len(line) < len(text) or len(line) > limit:
        line = line[: limit - 3] + "..."
    return "".join(letter if letter.isprintable() else "?" for letter in line)


class _Refused(Exception):
    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.message)
        self.finding = finding


def read_text(raw: bytes, source: str) -> tuple[Node | None, list[Finding]]:
    """Read one policy file; ``source`` names it in findings. None, with findings, where it cannot be used.

    An empty file is an empty map.
    """
    if len(raw) > MAX_BYTES:
        return None, [
            Finding(
                "too-large",
                "error",
                f"the file has {len(raw)} bytes; a policy file has at most {MAX_BYTES}",
                "move long address lists into blocklists, which are files of their own",
                Where(source),
            )
        ]
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        return None, [
            Finding(
                "not-utf8", "error", "the file is not UTF-8 text", "save it as UTF-8", Where(source, line)
            )
        ]
    findings: list[Finding] = []
    try:
        try:
            node = _build(text, source, findings, _PARSER)
        except yaml.YAMLError:
            # The C parser refuses `[fd00::]`; the other one reads a map: then "quote it" can be said.
            if _PARSER is yaml.SafeLoader or len(text) > 1 << 18:
                raise
            findings.clear()
            node = _build(text, source, findings, yaml.SafeLoader)
    except _Refused as refused:
        return None, [*findings, refused.finding]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line = mark.line + 1 if mark else text.count("\n", 0, getattr(error, "position", 0)) + 1
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be parsed"
        return None, [
            Finding(
                "not-yaml",
                "error",
                f"this is not YAML: {short(str(problem))}",
                "check indentation, brackets and quotes at and above this line",
                Where(source, line, _line(text, line)),
            )
        ]
    return node, findings


def _line(text: str, number: int) -> str:
    lines = text.split("\n", number)
    return short(lines[number - 1].strip()) if 0 < number <= len(lines) else ""


def _build(text: str, source: str, findings: list[Finding], parser: Any) -> Node:
    """Turn parser events into a tree. Raises ``_Refused`` and yaml.YAMLError."""
    root: Node | None = None
    stack: list[tuple[Node, Where | None, str | None]] = []
    documents = 0

    def refuse(identity: str, line: int, message: str, remedy: str) -> _Refused:
        return _Refused(Finding(identity, "error", message, remedy, Where(source, line, _line(text, line))))

    def attach(node: Node) -> None:
        nonlocal root
        if not stack:
            root = node
            return
        parent, key_where, key = stack[-1]
        if parent.kind == "list":
            parent.value.append(node)
        elif key is None:
            name, where = _key(node, findings)
            if name in parent.value:
                earlier = cast(dict[str, Where], parent.keys)[name].line
                findings.append(
                    Finding(
                        "duplicate-key",
                        "error",
                        f"`{short(name)}` stands here for the second time; the first is in line {earlier}",
                        "merge the two or remove one",
                        where,
                    )
                )
                name = f"\0{len(parent.value)}"
            stack[-1] = (parent, where, name)
        else:
            parent.value[key] = node
            cast(dict[str, Where], parent.keys)[key] = cast(Where, key_where)
            stack[-1] = (parent, None, None)

    event: Any
    for event in yaml.parse(text, Loader=parser):
        kind = type(event)
        line = event.start_mark.line + 1
        if getattr(event, "anchor", None):
            raise refuse("anchor", line, "anchors and aliases are not part of the language", "write it out")
        if getattr(event, "tag", None):
            said = short(event.tag)
            raise refuse("tag", line, f"the tag `{said}` is not part of the language", "remove it")
        if kind is yaml.ScalarEvent:
            attach(_scalar(event.value, not event.style, Where(source, line, short(event.value))))
        elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
            if len(stack) >= MAX_DEPTH:
                message = f"nested deeper than {MAX_DEPTH} levels"
                raise refuse("too-deep", line, message, "no policy needs that; see docs/policy.md")
            if stack and stack[-1][0].kind == "map" and stack[-1][2] is None:
                message = "a map or list stands where a name belongs"
                raise refuse("bad-key", line, message, "write the name as text")
            where = Where(source, line)
            map_begins = kind is yaml.MappingStartEvent
            stack.append((Node("map", {}, where, {}) if map_begins else Node("list", [], where), None, None))
        elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
            attach(stack.pop()[0])
        elif kind is yaml.DocumentStartEvent:
            documents += 1
            if documents > 1:
                raise refuse("documents", line, "a second document begins here", "keep one policy a file")
    if root is None or (root.kind == "null" and not root.where.text):
        return Node("map", {}, Where(source, 1), {})
    return root


def _key(node: Node, findings: list[Finding]) -> tuple[str, Where]:
    if node.kind == "text":
        if node.value.startswith("\0"):
            # What begins so stands for a key that cannot be used; this one cannot either.
            said, remedy = "a name begins with a control character", "write it without"
            findings.append(Finding("bad-key", "error", said, remedy, node.where))
        return node.value, node.where
    if node.kind == "null" and not node.where.text:
        node.value = "nothing"
    said = node.where.text
    what = f"is {node.value}" if node.kind == "odd" else "is no text"
    findings.append(
        Finding(
            "quote-it",
            "error",
            f"the key `{said}` {what} to YAML",
            f'quote it: "{said}":',
            node.where,
        )
    )
    return f"\0{said}", node.where


def _scalar(value: str, plain: bool, where: Where) -> Node:
    if not plain:
        return Node("text", value, where)
    if value == "true" or value == "false":
        return Node("bool", value == "true", where)
    if value in _NULL:
        return Node("null", None, where)
    if _INT.match(value):
        return Node("int", int(value), where)
    surprise = _ODD.match(value)
    if surprise:
        return Node("odd", _SURPRISE[cast(str, surprise.lastgroup)], where)
    return Node("text", value, where)


def read_value(value: Any, path: str) -> Node:
    """Read one Ansible variable. ``path`` is its name; values inside get theirs, such as ``name.zones.a[0]``.

    Types are already lost here, so a float, boolean, date or map where text belongs is said to need quotes.
    """
    return _value(value, path, 0)


def _value(value: Any, path: str, depth: int) -> Node:
    if depth > MAX_DEPTH:
        return Node("odd", f"nested deeper than {MAX_DEPTH} levels", Where(path))
    if isinstance(value, str):
        return Node("text", value, Where(path, 0, short(value)))
    if isinstance(value, bool):
        return Node("bool", value, Where(path, 0, str(value).lower()))
    if isinstance(value, int):
        said = str(value) if abs(value) < 1 << 64 else "a huge number"
        return Node("int", int(value), Where(path, 0, said))
    if value is None:
        return Node("null", None, Where(path))
    if isinstance(value, Mapping):
        node = Node("map", {}, Where(path), {})
        for key, inner in value.items():
            # A key that YAML made a boolean or a number is no text in whatever section it stands.
            name = key if isinstance(key, str) else f"\0{key}"
            where = Where(f"{path}.{short(str(key))}" if path else short(str(key)), 0, short(str(key)))
            node.value[name] = _value(inner, where.source, depth + 1)
            cast(dict[str, Where], node.keys)[name] = where
        return node
    if isinstance(value, (list, tuple)):
        return Node(
            "list", [_value(one, f"{path}[{i}]", depth + 1) for i, one in enumerate(value)], Where(path)
        )
    if isinstance(value, date):
        return Node("odd", "a date", Where(path, 0, short(str(value))))
    if isinstance(value, float):
        return Node("odd", "a number with a fraction", Where(path, 0, repr(value)))
    return Node("odd", f"a {type(value).__name__}", Where(path))
