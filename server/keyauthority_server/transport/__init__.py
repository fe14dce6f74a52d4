"""What carries the calls: which server, its limits, and the services that every server has.

The only place that knows the native front from grpcio. It makes no decision about calls.
"""

from keyauthority_server.transport.grpcio import Server, loop_factory

__all__ = ["Server", "loop_factory"]
