# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The evidence for readers: a table for the terminal, HTML for people, JUnit for CI. All made from the JSON."""

from __future__ import annotations

import html
import textwrap
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.sallyport.iot.plugins.module_utils.ports import parse_ports
from ansible_collections.sallyport.iot.plugins.plugin_utils.audit.updates import describe

SIGNS = {"pass": "ok", "waived": "waived", "differences": "DIFFERS", "not assessed": "NOT ASSESSED"}
HEADINGS = ("DEVICE", "FROM", "OPEN", "POLICY ADMITS", "DEFAULT LOGIN")
NAMES = {22: "ssh", 23: "telnet", 80: "http", 443: "https", 21: "ftp", 161: "snmp", 1900: "upnp"}


def shorten(text: str, most: int = 60) -> str:
    """Port sets can be as long as 65,535 ports: past ``most`` characters, say how many there are."""
    return (
        text
        if len(text) <= most
        else f"{text[: most - 20].rsplit(',', 1)[0]},... ({len(parse_ports(text))} ports)"
    )


def _rows(document: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """One row for each device and vantage; families that saw the same share it."""
    for name, device in document["devices"].items():
        if not device["vantages"]:
            yield (name, "-", "-", "-", "-")
        for vantage, sight in device["vantages"].items():
            alike: dict[tuple[str, str], list[str]] = {}
            for family, seen in sight["families"].items():
                alike.setdefault((_open(seen), _admitted(seen)), []).append(family)
            if not alike:
                yield (name, vantage, "?", "?", "?")
            for (opened, admitted), families in alike.items():
                yield (name, f"{vantage} {'+'.join(families)}", opened, admitted, _logins(sight, families))


def _open(seen: Mapping[str, Any]) -> str:
    greetings = {int(port): heard["kind"] for port, heard in seen["greetings"].items()}
    named = []
    for protocol in ("tcp", "udp"):
        for port in sorted(parse_ports(seen[protocol]["open"])):
            kind = greetings.get(port, "") if protocol == "tcp" else ""
            kind = kind if kind in ("ssh", "telnet", "ftp", "smtp") else NAMES.get(port, "")
            named.append(f"{port}/{protocol}" + (f" {kind}" if kind else ""))
    if not named:
        return "nothing"
    return ", ".join(named) if len(named) <= 12 else ", ".join(named[:12]) + f" and {len(named) - 12} more"


def _admitted(seen: Mapping[str, Any]) -> str:
    admitted = seen.get("admitted")
    if admitted is None:
        return "unknown"
    parts = [f"{shorten(admitted[p], 40)}/{p}" for p in ("tcp", "udp") if admitted[p]]
    return ", ".join(parts) or "nothing"


def _logins(sight: Mapping[str, Any], families: Sequence[str]) -> str:
    trials = [t for t in sight["logins"] if ("ipv6" if ":" in t["address"] else "ipv4") in families]
    if not trials:
        return "-"
    said = []
    for trial in trials:
        if trial["accepted"]:
            said.append(f"{trial['kind']}: LET IN")
        elif trial["not_assessed"]:
            said.append(f"{trial['kind']}: not assessed")
        else:
            said.append(f"{trial['kind']}: refused")
    return ", ".join(sorted(set(said)))


def as_text(document: Mapping[str, Any]) -> str:
    """A table that fits a terminal, the findings below it, and one line of verdict."""
    cells = [HEADINGS, *_rows(document)]
    widths = [min(46, max(len(row[column]) for row in cells)) for column in range(len(HEADINGS))]
    lines = []
    before = ""
    for row in cells:
        shown = (row[0] if row[0] != before else "", *row[1:])
        before = row[0]
        wrapped = [textwrap.wrap(cell, width) or [""] for cell, width in zip(shown, widths, strict=True)]
        for number in range(max(map(len, wrapped))):
            parts = (w[number] if number < len(w) else "" for w in wrapped)
            lines.append("  ".join(p.ljust(width) for p, width in zip(parts, widths, strict=True)).rstrip())
    lines.append("")
    for name, device in document["devices"].items():
        shown_findings = [f for f in device["findings"] if f["weight"] != "note"]
        sign = SIGNS[device["verdict"]]
        lines.append(f"{name}: {sign}" + ("" if shown_findings else ", as the policy says"))
        for finding in shown_findings if document["enforced"] else ():
            lines += _finding_lines(finding)
    lines += ["", verdict_line(document)]
    return _printable("\n".join(lines))


def _finding_lines(finding: Mapping[str, Any]) -> list[str]:
    what = f"{shorten(finding['ports'])}/{finding['protocol']} " if finding["ports"] else ""
    seen = f" (from {', '.join(finding['seen_from'])})" if finding["seen_from"] else ""
    lines = [f"  [{finding['control']}] {what}{finding['message']}{seen}"]
    if finding["waiver"]:
        lines.append(f"      waived until {finding['waiver']['until']}: {finding['waiver']['reason']}")
    else:
        lines.append(f"      {finding['remedy']}")
    return lines


def verdict_line(document: Mapping[str, Any]) -> str:
    """One line that names every host that is not fine."""
    by_verdict: dict[str, list[str]] = {}
    for name, device in document["devices"].items():
        by_verdict.setdefault(device["verdict"], []).append(name)
    total, passed = len(document["devices"]), len(by_verdict.get("pass", ()))
    parts = [f"{passed} of {total} devices are as the policy says"]
    for result, words in (("differences", "differences on"), ("not assessed", "not fully assessed")):
        if by_verdict.get(result):
            parts.append(f"{words}: {', '.join(by_verdict[result])}")
    return "AUDIT: " + "; ".join(parts)


def as_junit(document: Mapping[str, Any]) -> str:
    """One suite for each device, one case for each control; a difference fails, what was not assessed is an error,
    a waiver skips."""
    root = ElementTree.Element("testsuites", name="sallyport audit")
    for name, device in document["devices"].items():
        suite = ElementTree.SubElement(root, "testsuite", name=name, timestamp=document["when"])
        counts = {"failures": 0, "errors": 0, "skipped": 0}
        for control, result in device["controls"].items():
            title = document["controls"][control]["title"]
            case = ElementTree.SubElement(
                suite, "testcase", classname=f"sallyport.{name}", name=f"{control}: {title}"
            )
            own = [f for f in device["findings"] if f["control"] == control and f["weight"] != "note"]
            text = "\n".join(line for finding in own for line in _finding_lines(finding))
            tag, count = {
                "differences": ("failure", "failures"),
                "not assessed": ("error", "errors"),
                "waived": ("skipped", "skipped"),
            }.get(result, ("", ""))
            if tag:
                counts[count] += 1
                element = ElementTree.SubElement(case, tag, message=_printable(own[0]["message"]))
                element.text = _printable(text)
        suite.set("tests", str(len(device["controls"])))
        for count, number in counts.items():
            suite.set(count, str(number))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _printable(text: str) -> str:
    """Text without control characters, which XML cannot hold and terminals obey; a device chooses what it says."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


STYLE = """
body{font:15px/1.45 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
table{border-collapse:collapse;width:100%;margin:1rem 0}th,td{text-align:left;padding:.35rem .6rem;vertical-align:top;
border-bottom:1px solid #ddd}th{background:#f4f4f4}.pass{color:#176b2c}.differences{color:#a3121c;font-weight:600}
.waived,.not{color:#8a5a00}code{background:#f4f4f4;padding:0 .2rem}small{color:#666}
"""


def as_html(document: Mapping[str, Any]) -> str:
    """One page without scripts or outside resources, to keep or to mail."""
    e = html.escape
    page = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width'>",
        f"<title>Sallyport audit, {e(document['when'])}</title><style>{STYLE}</style>",
        f"<h1>Sallyport audit</h1><p class={_css(document['verdict'])}>{e(verdict_line(document))}</p>",
        f"<p><small>{e(document['when'])}</small></p><h2>What can be reached</h2>",
        "<table><tr>" + "".join(f"<th>{e(h.capitalize())}" for h in HEADINGS),
    ]
    page += ["<tr>" + "".join(f"<td>{e(cell)}" for cell in row) for row in _rows(document)]
    page.append("</table><h2>Controls</h2><table><tr><th>Control<th>EN 303 645")
    page += [f"<th>{e(name)}" for name in document["devices"]]
    for control, about in document["controls"].items():
        page.append(f"<tr><td>{e(about['title'])}<br><small>{e(control)}: {e(about['method'])}</small>")
        page.append(f"<td>{e(', '.join(about['provisions']))}")
        for device in document["devices"].values():
            result = device["controls"][control]
            page.append(f"<td class={_css(result)}>{e(SIGNS[result])}")
    page.append("</table>")
    for name, device in document["devices"].items():
        page.append(
            f"<h2>{e(name)}: <span class={_css(device['verdict'])}>{e(SIGNS[device['verdict']])}</span></h2>"
        )
        page.append(f"<p><small>{e(device['system'])}</small></p>")
        said = describe(device.get("updates") or {})
        if said:
            page.append(f"<p>Updates: {e(said)}</p>")
        if device["findings"]:
            page.append("<table><tr><th>Control<th>Port<th>Found<th>What to do")
        for finding in device["findings"]:
            port = f"{shorten(finding['ports'])}/{finding['protocol']}" if finding["ports"] else ""
            todo = finding["remedy"]
            if finding["waiver"]:
                todo = f"waived until {finding['waiver']['until']}: {finding['waiver']['reason']}"
            seen = ", ".join(finding["seen_from"])
            page.append(
                f"<tr><td>{e(finding['control'])}<td>{e(port)}<td>{e(finding['message'])} <small>{e(seen)}</small>"
                f"<td>{e(todo)}"
            )
        page.append("</table>" if device["findings"] else "<p>As the policy says.</p>")
    return _printable("\n".join(page)) + "</html>\n"


def _css(result: str) -> str:
    return result.partition(" ")[0]
