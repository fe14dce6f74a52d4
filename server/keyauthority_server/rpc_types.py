"""What a transport hands to `rpc`, and gets back: bytes and names, no gRPC type."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol

import structlog

from keyauthority.convert import status_from_error
from keyauthority.errors import ErrorReason, KeyAuthorityError, error

_log = structlog.get_logger(__name__)

Metadata = Sequence[tuple[str, str | bytes]]


class Certificate(NamedTuple):
    """A caller that the configuration knows by a name in his verified client certificate."""

    name: str
    permissions: tuple[str, ...]
    projects: tuple[str, ...]
    """The projects that he is confined to; empty means all."""
    expire_time: datetime
    """When his certificate expires."""


class Call(NamedTuple):
    """What a call says of itself besides its message."""

    metadata: Metadata
    peer: str
    """As gRPC names it: `ipv4:127.0.0.1:5000`, `ipv6:%5B::1%5D:5000`, `unix:`."""
    certificates: tuple[Certificate, ...] = ()
    """The callers that the client's certificate stands for."""


class RpcError(Exception):
    """The status that a call ends with instead of an answer."""

    def __init__(self, code: int, message: str, status: bytes = b"") -> None:
        """`code` is gRPC's number, `status` the google.rpc.Status that says all of it."""
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status

    @property
    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        """What carries `status` to the client."""
        return (("grpc-status-details-bin", self.status),) if self.status else ()


def rpc_error_from(known: KeyAuthorityError) -> RpcError:
    """Return the refusal that tells of an error of the contract."""
    status = status_from_error(known)
    return RpcError(status.code, status.message, status.SerializeToString())


def internal_error(failure: BaseException) -> RpcError:
    """Return the refusal of a call that failed by a fault of ours: INTERNAL, and nothing of why.

    Its correlation id stands in the log too, beside the failure.
    """
    correlation_id = secrets.token_hex(8)
    _log.error("internal_error", correlation_id=correlation_id, exc_info=failure)
    told = {"correlation_id": correlation_id}
    return rpc_error_from(error(ErrorReason.INTERNAL, "internal error", metadata=told))


Handler = Callable[[bytes, Call], Coroutine[Any, Any, bytes]]
"""A unary method: a request's bytes in, the answer's out. Raises Refusal and nothing else."""


class Shortcut(Protocol):
    """Answers calls at once, or not at all."""

    def begin_turn(self) -> None:
        """Begin a turn: the calls that follow have arrived, and are answered within it.

        What is read at its start, the head of the log and the time, holds for all of them.
        """
        ...

    def __call__(self, body: bytes, call: Call) -> bytes | None:
        """Return the answer, or None and have done nothing. Raises nothing."""
        ...


class UnaryMethod:
    """A method that answers with one message."""

    __slots__ = ("answer", "refuses_unread", "shortcut")

    def __init__(
        self,
        answer: Handler,
        shortcut: Shortcut | None = None,
        refuses_unread: Callable[[Call], bool] | None = None,
    ) -> None:
        """`shortcut` is tried before `answer`.

        `refuses_unread` is true for a call that is refused whatever its message says.
        """
        self.answer = answer
        self.shortcut = shortcut
        self.refuses_unread = refuses_unread

    async def __call__(self, body: bytes, call: Call) -> bytes:
        """Return the answer. Raises Refusal and nothing else."""
        if self.shortcut is not None:
            self.shortcut.begin_turn()
            if (answered := self.shortcut(body, call)) is not None:
                return answered
        return await self.answer(body, call)


class StreamMethod(NamedTuple):
    """A method that answers with a stream."""

    open: Callable[[bytes, Call], AsyncGenerator[bytes]]
    """A request's bytes in, messages out, each of them made when it can be sent. Raises Refusal and
    nothing else."""
    end: Callable[[], None]
    """Ends all that are open: each says what there is to say, and raises Refusal."""
    refuses_unread: Callable[[Call], bool] | None = None
    """As that of `UnaryMethod`."""


Services = Mapping[str, Mapping[str, UnaryMethod | StreamMethod]]
"""A service's full name to the names of its methods."""
