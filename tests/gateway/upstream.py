"""An HTTP service behind a proxy that shows the requests it receives, byte for byte."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile


class _Handler(socketserver.StreamRequestHandler):
    """Answers with the lines of the request as JSON, those of a chunked body included."""

    def handle(self) -> None:
        lines = self._lines()
        if "transfer-encoding: chunked" in map(str.lower, lines):
            lines += self._lines()  # of a body without an empty line, and its trailers
        if not lines:
            return
        body = json.dumps(lines).encode()
        self.wfile.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n" % len(body) + body
        )

    def _lines(self) -> list[str]:
        """Return the lines up to an empty one."""
        texts = (line.decode("latin-1").rstrip("\r\n") for line in iter(self.rfile.readline, b""))
        return list(takewhile(bool, texts))


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
