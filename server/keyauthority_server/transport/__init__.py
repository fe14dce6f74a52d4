"""Transports: they carry calls between sockets and the handlers of `rpc`.

Only this package depends on a gRPC server; it must not decide about a call beyond its limits. Begin
with `Server`, which chooses the transport, then `native` or `grpcio`.
"""

from keyauthority_server.transport.http import HttpServer
from keyauthority_server.transport.server import Server, loop_factory

__all__ = ["HttpServer", "Server", "loop_factory"]
