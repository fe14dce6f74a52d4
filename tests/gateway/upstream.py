"""An HTTP service behind a proxy that shows the requests it receives, byte for byte."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

HEAD_END = b"\r\n\r\n"


class _Handler(socketserver.StreamRequestHandler):
    """Answers with the lines of the request's head as JSON, and closes."""

    def handle(self) -> None:
        head = b""
        while not head.endswith(HEAD_END):
            line = self.rfile.readline()
            if not line:
                return
            head += line
        lines = head.decode("latin-1").split("\r\n")[:-2]
        body = json.dumps(lines).encode()
        self.wfile.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n" % len(body) + body
        )


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


@contextmanager
def upstream() -> Iterator[int]:
    """Give the port of a running service."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
