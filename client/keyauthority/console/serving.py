"""The console's process: its socket, its certificate, and its end."""

from __future__ import annotations

import errno
import ipaddress
import logging
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette

from keyauthority.aio import AsyncClient
from keyauthority.console.app import Console
from keyauthority.console.guard import Hosts
from keyauthority.console.rendering import Renderer, Static
from keyauthority.console.sessions import Sessions, ShownSecrets
from keyauthority.console.signing_in import Entrance
from keyauthority.console.visits import Services
from keyauthority.endpoint.http_server import bounded_protocol, connections_max
from keyauthority.secret_files import warn_if_open
from keyauthority.token import SecretKey

DRAIN_SECONDS: Final = 3  # for answers that are under way; streams of changes end at once

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_COOKIE: Final = "keyauthority-console"


class CannotServe(Exception):
    """The console cannot be served as it is configured."""


class AddressInUse(Exception):
    """Another process serves on the address."""


@dataclass(frozen=True)
class Settings:
    """How the console is served, and the authority that it shows."""

    host: str
    port: int
    connect: Callable[[str | None], AsyncClient]
    """Returns a client of the authority with an operator key."""
    address: str
    operator_key: SecretKey | None
    sign_in: bool
    tls_cert: str | None = None
    tls_key: str | None = None

    @property
    def scheme(self) -> str:
        """`https` with a certificate."""
        return "https" if self.tls_cert else "http"


def serve(settings: Settings, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT. `announce` is given the lines of standard output."""
    names = {_host_text(settings.host)}
    if settings.tls_cert:
        names |= _certificate_names(settings.tls_cert, settings.tls_key)
    listening = _listen(settings.host, settings.port)
    port = listening.getsockname()[1]
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"{settings.scheme}://{host}:{port}"
    sessions = Sessions(settings.connect)
    services = Services(
        sessions=sessions,
        shown=ShownSecrets(),
        renderer=Renderer(Static()),
        address=settings.address,
        has_link=not settings.sign_in,
        cookie=f"__Host-{_COOKIE}" if settings.scheme == "https" else f"{_COOKIE}-{port}",
    )
    hosts = Hosts(url, names, port, _DEFAULT_PORTS[settings.scheme])

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        announce(f"keyauthority console ready on {url}")
        if not settings.sign_in:
            announce(f"{url}/sign-in?token={sessions.new_link_token()}")
        yield
        await sessions.close()

    entrance = Entrance(services, settings.scheme, settings.operator_key)
    console = Console(services, entrance, lambda: server.should_exit)
    server = uvicorn.Server(_config(settings, console.application(hosts, lifespan)))
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them again at its end
        signal.signal(number, lambda *_: None)
    with listening:
        server.run([listening])


def _config(settings: Settings, app: Any) -> uvicorn.Config:
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    return uvicorn.Config(
        app,
        http=bounded_protocol(connections_max()),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # the peer is the peer
        server_header=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        message = f"--listen: {host}:{port}: {error.strerror or error}"
        failed = AddressInUse if error.errno == errno.EADDRINUSE else CannotServe
        raise failed(message) from None


def _certificate_names(cert: str, key: str | None) -> set[str]:
    """Return the names of the certificate, under which browsers may load the console.

    They are read by a handshake in memory, in which the certificate is its own root.
    """
    if key is not None:
        warn_if_open(key)
    try:
        server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server_side.load_cert_chain(cert, key)
        client_side = ssl.create_default_context(cafile=cert)
        client_side.check_hostname = False
        client_side.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        certificate = _handshake(client_side, server_side)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CannotServe(f"--tls-cert, --tls-key: {cert}, {key}: {reason}") from None
    return {_host_text(str(name)) for kind, name in certificate.get("subjectAltName", ())}


def _handshake(client_side: ssl.SSLContext, server_side: ssl.SSLContext) -> dict[str, Any]:
    """Return the server's certificate as the client reads it."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_side.wrap_bio(to_client, to_server)
    server = server_side.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return client.getpeercert() or {}


def _host_text(name: str) -> str:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name
    return f"[{address}]" if address.version == 6 else str(address)
