"""The limits that all transports keep, and the open calls of each class on one address."""

from __future__ import annotations

import resource
from typing import Final

from keyauthority_server.overload import OpenCalls
from keyauthority_server.rpc_types import StreamMethod, UnaryMethod
from keyauthority_server.transport.health import SERVICE as HEALTH

MESSAGE_MAX: Final = 4 * 1024 * 1024  # bytes; gRPC's default, and twice a full BatchVerify
METADATA_MAX: Final = 8 * 1024  # bytes; gRPC's default. A credential takes 100
CONNECTION_CALLS_MAX: Final = 1000  # at once; beyond it grpcio's client sees failures
HELD_MAX: Final = 64 * 1024 * 1024  # bytes of incomplete requests on one connection

HANDSHAKE_SECONDS: Final = 20  # grpcio's default is 2 minutes
MESSAGE_SECONDS: Final = 10  # for the message of a call; clients send both at once
UNARY_SECONDS: Final = 60  # for a call whose client has set no deadline: twice the longest drain
UNREAD_SECONDS: Final = 10  # that a client may take to read one message of a stream
KEEPALIVE_MS: Final = 60_000  # ping silent connections: those of clients that vanished are closed
KEEPALIVE_TIMEOUT_MS: Final = 20_000
IDLE_SECONDS: Final = 15 * 60
AGE_SECONDS: Final = 60 * 60

CALLS_MAX: Final = 10_000  # unary calls at once in one process, over all connections
URGENT_MAX: Final = 2_000  # RevokeKey beside them
WATCHES_MAX: Final = 6_000  # streams of WatchChanges, some 40 KB each
CHECKS_MAX: Final = 2_000  # unary calls of health
HEALTH_WATCHES_MAX: Final = 1_000
REFLECTIONS_MAX: Final = 200
PENDING_MAX: Final = 4_000  # calls without a message in one process, some 20 KB each
PENDING_OF_PEER_MAX: Final = 1_000


class CallLimits:
    """The open calls of each class, of which one peer may have a half or a tenth."""

    def __init__(self, *, apart: bool = True) -> None:
        """Without `apart` all calls come from one peer, which may have all."""

        def limit(most: int, share: int) -> OpenCalls:
            return OpenCalls(most, most // share if apart else most)

        self.calls = limit(CALLS_MAX, 2)
        self.urgent = limit(URGENT_MAX, 2)
        self.watches = limit(WATCHES_MAX, 2)
        self.checks = limit(CHECKS_MAX, 2)
        self.health_watches = limit(HEALTH_WATCHES_MAX, 10)
        self.reflections = limit(REFLECTIONS_MAX, 10)

    def of(self, service: str, method: UnaryMethod | StreamMethod) -> OpenCalls:
        """Return the limit of a method."""
        if isinstance(method, StreamMethod):
            return self.health_watches if service == HEALTH else self.watches
        if service == HEALTH:
            return self.checks
        return self.urgent if method.urgent else self.calls


def descriptors_max() -> int:
    """Raise the limit on file descriptors of this process to the greatest possible; return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
