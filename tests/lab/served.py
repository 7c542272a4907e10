"""What a lab's servers share. It is put beside them: they run on a lab's vantage point, alone, as ``python3 PROGRAM FOLDER PORT``."""

from __future__ import annotations

import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def serve(handler: type[BaseHTTPRequestHandler]) -> None:
    """Over TLS, by the certificate and key in FOLDER/server.pem, until it is ended."""
    server = ThreadingHTTPServer(("0.0.0.0", int(sys.argv[2])), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(Path(sys.argv[1]) / "server.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()
