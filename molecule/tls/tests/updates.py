"""A DNS server for `lab.` that takes TXT records by signed updates (RFC 2136), and hands them to the ACME server's resolver.

usage: updates.py KEYNAME SECRET      runs beside the ACME server, on TCP port 53
"""

from __future__ import annotations

import json
import socketserver
import sys
import urllib.request

import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.rrset
import dns.tsigkeyring
import dns.update

KEYS = dns.tsigkeyring.from_text({sys.argv[1]: sys.argv[2]})
ZONE = "lab."


def record(what: str, values: dict[str, str]) -> None:
    request = urllib.request.Request(f"http://127.0.0.1:8055/{what}", json.dumps(values).encode())
    urllib.request.urlopen(request, timeout=10).read()


def answer(wire: bytes) -> bytes:
    asked = dns.message.from_wire(wire, keyring=KEYS)  # a wrong signature raises, and the asker gets nothing
    reply = dns.message.make_response(asked)
    reply.flags |= dns.flags.AA
    if asked.opcode() == dns.opcode.QUERY:
        if asked.question[0].name.to_text() == ZONE:
            reply.answer.append(dns.rrset.from_text(ZONE, 1, "IN", "SOA", "ns.lab. root.lab. 1 60 60 60 60"))
    elif not asked.had_tsig:
        reply.set_rcode(dns.rcode.REFUSED)
    else:
        for one in asked.sections[2]:
            if one.deleting:
                record("clear-txt", {"host": one.name.to_text()})
            elif one.rdtype == dns.rdatatype.TXT:
                record("set-txt", {"host": one.name.to_text(), "value": b"".join(one[0].strings).decode()})
    return reply.to_wire()


class Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while size := self.rfile.read(2):
            made = answer(self.rfile.read(int.from_bytes(size, "big")))
            self.wfile.write(len(made).to_bytes(2, "big") + made)


if __name__ == "__main__":
    socketserver.ThreadingTCPServer.allow_reuse_address = True
    socketserver.ThreadingTCPServer(("0.0.0.0", 53), Handler).serve_forever()
