"""Types shared by transports and `rpc`: bytes and names, no gRPC types."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any, Final, NamedTuple, Protocol

import structlog

from keyauthority.convert import status_from_error
from keyauthority.errors import ErrorReason, KeyAuthorityError, error

_log = structlog.get_logger(__name__)

Metadata = Sequence[tuple[str, str | bytes]]

CREDENTIAL_HEADERS: Final = frozenset({"authorization", "x-auth-token"})
"""The metadata that may carry an operator key."""


class Certificate(NamedTuple):
    """A caller configured by a name in its verified client certificate."""

    name: str
    permissions: tuple[str, ...]
    projects: tuple[str, ...]
    """The projects to which the caller is confined; empty means all."""
    expire_time: datetime
    """When the certificate expires."""


class Call(NamedTuple):
    """The attributes of a call apart from its message."""

    metadata: Metadata
    peer: str
    """In gRPC's notation: `ipv4:127.0.0.1:5000`, `ipv6:%5B::1%5D:5000`, `unix:`."""
    certificates: tuple[Certificate, ...] = ()
    """The configured callers named in the client's certificate."""


class RpcError(Exception):
    """The status of a call that failed."""

    def __init__(self, code: int, message: str, status: bytes = b"") -> None:
        """`code` is gRPC's number, `status` the serialized google.rpc.Status with details."""
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status

    @property
    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        """The metadata that carries `status` to the client."""
        return (("grpc-status-details-bin", self.status),) if self.status else ()


def rpc_error_from(cause: KeyAuthorityError) -> RpcError:
    """Return the status of an error of the contract."""
    status = status_from_error(cause)
    return RpcError(status.code, status.message, status.SerializeToString())


def internal_error(failure: BaseException) -> RpcError:
    """Return the status INTERNAL for a server fault, without its cause.

    The status and the log entry of the failure share a correlation id.
    """
    metadata = {"correlation_id": secrets.token_hex(8)}
    _log.error("internal_error", **metadata, exc_info=failure)
    return rpc_error_from(error(ErrorReason.INTERNAL, "internal error", metadata=metadata))


class JsonBody(bytes):
    """A request in protobuf's JSON mapping; other bytes are a serialized message."""

    __slots__ = ()


Handler = Callable[[bytes, Call], Coroutine[Any, Any, bytes]]
"""A unary method from request bytes to response bytes. Raises only RpcError.

The response is a serialized message, also to a request in JSON.
"""


Ticket = int
"""A transport's number for a call that it answers later."""
Settle = Callable[[Ticket, bytes | RpcError], None]
"""Answers a deferred call with its response or its error."""


class Deferred(Enum):
    """The type of DEFERRED."""

    DEFERRED = ""


DEFERRED: Final = Deferred.DEFERRED


class Shortcut(Protocol):
    """Answers a call synchronously, or leaves it to the handler."""

    def begin_turn(self) -> None:
        """Begin a turn of the event loop, after the calls of the turn have arrived.

        The log head and the time read at its start hold for all of them.
        """
        ...

    def __call__(
        self, body: bytes, call: Call, ticket: Ticket | None = None, /
    ) -> bytes | Deferred | None:
        """Return the response, or None without side effects. Raises nothing.

        A call with a `ticket` may be DEFERRED: `end_turn` answers it.
        """
        ...

    def end_turn(self, settle: Settle, /) -> Coroutine[Any, Any, None] | None:
        """Settle the deferred calls of the turn; return a coroutine to run if that must wait.

        Neither raises an error.
        """
        ...


class UnaryMethod:
    """A method with a single response message."""

    __slots__ = ("answer", "rejects_unparsed", "shortcut", "urgent")

    def __init__(
        self,
        answer: Handler,
        shortcut: Shortcut | None = None,
        rejects_unparsed: Callable[[Call], bool] | None = None,
        *,
        urgent: bool = False,
    ) -> None:
        """`shortcut` is tried before `answer`.

        `rejects_unparsed` is true for a call that fails regardless of its message. The calls of an
        `urgent` method have a limit of their own, and do not wait for those of others.
        """
        self.answer = answer
        self.shortcut = shortcut
        self.rejects_unparsed = rejects_unparsed
        self.urgent = urgent

    async def __call__(self, body: bytes, call: Call) -> bytes:
        """Return the response. Raises only RpcError."""
        if self.shortcut is not None:
            self.shortcut.begin_turn()
            response = self.shortcut(body, call)
            if isinstance(response, bytes):
                return response
        return await self.answer(body, call)


class StreamMethod(NamedTuple):
    """A method with a stream of response messages."""

    open: Callable[[bytes, Call], AsyncGenerator[bytes]]
    """From request bytes to messages, each produced when it can be sent. Raises only RpcError."""
    end: Callable[[], None]
    """Ends all open streams: each sends its pending messages, then raises RpcError."""
    rejects_unparsed: Callable[[Call], bool] | None = None
    """As in `UnaryMethod`."""


Services = Mapping[str, Mapping[str, UnaryMethod | StreamMethod]]
"""Full service name to method name to method."""
