"""The HTTP server for metrics: one path, bounded connections."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from keyauthority_server.config import HostPort

PATH: Final = "/metrics"
CONNECTIONS_MAX: Final = 32  # at once, one thread each; a scrape takes some milliseconds
READ_SECONDS: Final = 5.0  # timeout for the next bytes of a request
PAUSE_SECONDS: Final = 0.1  # before the next accept after a failed one


class MetricsServer(ThreadingHTTPServer):
    """Serves the metrics of a registry; beyond `CONNECTIONS_MAX` it closes the oldest."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128  # beyond, a client tries again after 1, 3 and 7 seconds

    def __init__(self, address: HostPort, registry: CollectorRegistry) -> None:
        """Bind the address; raises OSError."""
        family, *_, found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        self.address_family = family
        self.registry = registry
        self._open: dict[socket.socket, None] = {}
        self._changing = threading.Lock()
        super().__init__((str(found[0]), int(found[1])), _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; pause after a failure, such as without descriptors."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(PAUSE_SECONDS)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread; close the oldest if there are too many."""
        with self._changing:
            oldest = next(iter(self._open)) if len(self._open) >= CONNECTIONS_MAX else None
            if oldest is not None:
                del self._open[oldest]
                _cut(oldest)
            self._open[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        with self._changing:
            self._open.pop(request, None)
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing: any client can make its connection fail."""


class _Handler(BaseHTTPRequestHandler):
    server: MetricsServer
    timeout = READ_SECONDS
    server_version = "keyauthority"
    sys_version = ""

    def do_GET(self) -> None:
        """Respond with all metrics."""
        if self.path.partition("?")[0] != PATH:
            self.send_error(404)
            return
        encode, content_type = choose_encoder(self.headers.get("Accept", ""))
        body = encode(self.server.registry)
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):  # already closed
        connection.shutdown(socket.SHUT_RDWR)
