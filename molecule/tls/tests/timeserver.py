"""An NTP server that tells the machine's time, and writes down who asked.

usage: timeserver.py LOG      UDP port 123
"""

from __future__ import annotations

import socket
import struct
import sys
import time

EPOCH = 2208988800  # of NTP, in seconds before 1970


def stamp() -> int:
    return int((time.time() + EPOCH) * 2**32)


def main() -> None:
    server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.bind(("::", 123))
    with open(sys.argv[1], "a", encoding="ascii", buffering=1) as log:
        while True:
            asked, client = server.recvfrom(512)
            came = stamp()
            if len(asked) < 48 or asked[0] & 7 != 3:
                continue
            (theirs,) = struct.unpack("!Q", asked[40:48])
            head = struct.pack("!BBbb", (asked[0] & 0x38) | 4, 2, 6, -20)
            rest = struct.pack("!II4sQQQQ", 0, 64, b"LAB\0", came - 2**32, theirs, came, stamp())
            server.sendto(head + rest, client)
            log.write(f"{client[0].removeprefix('::ffff:')}\n")


if __name__ == "__main__":
    main()
