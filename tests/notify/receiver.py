"""A receiver of webhooks that answers as its test says, and keeps every request."""

from __future__ import annotations

import json
import socketserver
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from standardwebhooks import Webhook

from tests.service.processes import wait_until


class Reply(NamedTuple):
    """The answer to a request."""

    status: int = 204
    headers: Mapping[str, str] = MappingProxyType({})
    wait: Callable[[], object] = lambda: None
    """Called before the answer."""


class Request(NamedTuple):
    """A request and the status of its answer."""

    headers: Mapping[str, str]
    body: bytes
    status: int

    @property
    def id(self) -> str:
        """The identity of the event."""
        return self.headers["webhook-id"]

    @property
    def event(self) -> dict[str, Any]:
        """The event."""
        event: dict[str, Any] = json.loads(self.body)
        return event

    def verify(self, secret: str) -> None:
        """Raise WebhookVerificationError unless the signature is right."""
        Webhook(secret).verify(self.body, dict(self.headers))


Answer = Callable[[str, int], Reply]
"""Returns the answer to an event, given its identity and the number of its request, from 1."""

OK: Final = Reply()


class Receiver:
    """A running receiver."""

    def __init__(self, port: int, scheme: str) -> None:
        self.port = port
        self.url = f"{scheme}://127.0.0.1:{port}/hooks?tenant=1"
        self.answer: Answer = lambda event_id, number: OK
        self.requests: list[Request] = []
        self._numbers: Counter[str] = Counter()
        self._lock = threading.Lock()

    def receive(self, headers: Mapping[str, str], body: bytes) -> Reply:
        """Return the answer to a request."""
        event_id = headers.get("webhook-id", "")
        with self._lock:
            self._numbers[event_id] += 1
            number = self._numbers[event_id]
        reply = self.answer(event_id, number)
        with self._lock:
            self.requests.append(Request(headers, body, reply.status))
        reply.wait()
        return reply

    @property
    def taken(self) -> Counter[str]:
        """The events that were answered with 2xx, and how often."""
        with self._lock:
            return Counter(request.id for request in self.requests if 200 <= request.status < 300)

    def wait_for(self, *event_ids: str) -> None:
        """Wait until these events have been answered with 2xx."""
        wait_until(lambda: set(event_ids) <= self.taken.keys())


@contextmanager
def receiver(certificate: tuple[Path, Path] | None = None) -> Iterator[Receiver]:
    """Run a receiver; over TLS with a certificate and its key."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("content-length", "0"))
            body = self.rfile.read(length)
            if len(body) < length:  # the sender was killed
                return
            headers = {name.lower(): value for name, value in self.headers.items()}
            reply = running.receive(headers, body)
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()

        do_GET = do_POST  # noqa: N815 - the name is that of the base class

        def log_message(self, *args: object) -> None:
            """Keep quiet."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *args: object) -> None:
            """Keep quiet when a sender is killed."""

    with Server(("127.0.0.1", 0), Handler) as server:
        if certificate:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(*certificate)
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        running = Receiver(server.server_address[1], "https" if certificate else "http")
        serving = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        serving.start()
        try:
            yield running
        finally:
            server.shutdown()
            serving.join()


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Give the URL of a receiver that answers each request with these bytes."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline().strip():
                pass
            with suppress(OSError):  # a sender that has read enough
                self.wfile.write(answer)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            serving.join()
