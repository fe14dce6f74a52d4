"""JSON over HTTP/1.1: the Connect protocol in front of the same handlers as gRPC.

It translates bytes, headers and statuses; it maps no resource and decides nothing about calls.
Begin with `app.ConnectApp`, which answers a request; `connection` bounds each connection, `server`
binds, follows the certificates and drains.
"""

from keyauthority_server.transport.http.server import HttpServer

__all__ = ["HttpServer"]
