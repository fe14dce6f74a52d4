"""What a transport hands to `rpc`, and gets back: bytes and names, no gRPC type."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple

Metadata = Sequence[tuple[str, str | bytes]]


class Call(NamedTuple):
    """What a call says of itself besides its message."""

    metadata: Metadata
    peer: str
    """As gRPC names it: `ipv4:127.0.0.1:5000`, `ipv6:%5B::1%5D:5000`, `unix:`."""


class Refusal(Exception):
    """The status that a call ends with instead of an answer."""

    def __init__(self, code: int, message: str, status: bytes) -> None:
        """`code` is gRPC's number, `status` the google.rpc.Status that says all of it."""
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status

    @property
    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        """What carries `status` to the client."""
        return (("grpc-status-details-bin", self.status),)


Answer = Callable[[bytes, Call], Coroutine[Any, Any, bytes]]
"""A unary method: a request's bytes in, the answer's out. Raises Refusal and nothing else."""

Services = Mapping[str, Mapping[str, Answer]]
"""A service's full name to the names of its methods."""
