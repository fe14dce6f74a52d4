"""Rejections of an overloaded server: cheap, and with the time to retry after.

A rejection must cost a fraction of the call, so its status is built once, in advance. The exception
is made for each call: one that is raised again keeps all earlier frames, and their objects, for
ever.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from enum import StrEnum
from functools import partial
from typing import Final, Protocol

from keyauthority.errors import ErrorReason, KeyAuthorityError, error
from keyauthority_server.rpc_types import RpcError, rpc_error_from

RETRY_AFTER: Final = timedelta(seconds=1)  # by then the calls that wait now have been served


class ShedReason(StrEnum):
    """Why a call was turned away."""

    WAITING = "waiting"
    """Those before it had waited too long already."""
    LANE = "lane"
    """Too many calls of its class were admitted."""
    PEER = "peer"
    """Its peer had made too many calls that no operator key answers for, or its operator too many
    large requests that are invalid."""


class CloseReason(StrEnum):
    """Why the server closed a TLS connection."""

    HANDSHAKE = "handshake"
    """No TLS handshake with HTTP/2 and, if demanded, a client certificate."""
    CONNECTIONS = "connections"
    """Too many connections, of all peers or of this one."""
    DESCRIPTORS = "descriptors"
    """The process had no file descriptor left."""
    PROTOCOL = "protocol"
    """Not HTTP/2, or not as gRPC clients use it."""
    HELD = "held"
    """Too many bytes of incomplete requests."""
    UNREAD = "unread"
    """The client did not take the bytes that waited for it."""


class ShedCounter(Protocol):
    """Counts the calls that were turned away."""

    def refused(self, reason: str, calls: int = 1) -> None:
        """Count calls that were turned away for a `ShedReason`."""
        ...


class TransportCounter(ShedCounter, Protocol):
    """Counts connections, too."""

    def connection_closed(self, reason: str) -> None:
        """Count a connection that was closed for a `CloseReason`."""
        ...


def prepared(known: KeyAuthorityError) -> Callable[[], RpcError]:
    """Return a factory of this error's RpcError; the status is serialized once."""
    made = rpc_error_from(known)
    return partial(RpcError, made.code, made.message, made.status)


def overloaded(message: str) -> Callable[[], RpcError]:
    """Return a factory of OVERLOADED errors, to be retried after `RETRY_AFTER`."""
    return prepared(error(ErrorReason.OVERLOADED, message, retry_after=RETRY_AFTER))


busy: Final = overloaded("the server has more calls than it can serve")
malformed_message: Final = prepared(error(ErrorReason.INVALID_MESSAGE, "malformed request message"))
message_too_large: Final = prepared(
    error(ErrorReason.MESSAGE_TOO_LARGE, "the request message is larger than 4 MiB")
)
shutting_down: Final = prepared(
    error(ErrorReason.SHUTTING_DOWN, "the server is shutting down; try again")
)
timed_out: Final = prepared(
    error(ErrorReason.TIMED_OUT, "the call took too long; the outcome of a write is unknown")
)
message_overdue: Final = prepared(
    error(ErrorReason.TIMED_OUT, "the request message did not arrive in time; not executed")
)
unread: Final = overloaded("the stream was not read for too long")
