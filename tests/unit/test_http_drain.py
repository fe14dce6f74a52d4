"""The drain of the HTTP end: connections that were being accepted when it began."""

from __future__ import annotations

from unittest.mock import Mock

from uvicorn import Config

from keyauthority_server.transport.http.connection import HttpConnections
from keyauthority_server.transport.tls import CallerResolver


def transport() -> Mock:
    """A transport of a client in plaintext."""
    return Mock(get_extra_info=lambda name, default=None: default)


async def test_connection_made_after_the_drain_began_is_closed() -> None:
    """Its socket was accepted before; a client that goes on asking would be served to the end."""
    config = Config(Mock(), lifespan="off", log_config=None)
    config.load()
    connections = HttpConnections(config, CallerResolver(()))
    before, late = transport(), transport()
    connections.accept().connection_made(before)
    accepted = connections.accept()
    before.close.assert_not_called()
    connections.drain()
    before.close.assert_called_once()
    accepted.connection_made(late)
    late.close.assert_called_once()
