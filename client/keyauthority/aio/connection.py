"""The connection of a client: its channel, how one call is made on it, and lists by pages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Self, TypeVar

import grpc
import grpc.aio

from keyauthority import _channel, _requests
from keyauthority._address import parse
from keyauthority._requests.processes import (
    abandon,
    on_fork,
    refuse_after_fork,
    refuse_green_threads,
)
from keyauthority.errors import FailedPrecondition
from keyauthority.results import Page
from keyauthority.v1.advisory_service_pb2_grpc import AdvisoryServiceStub
from keyauthority.v1.audit_service_pb2_grpc import AuditServiceStub
from keyauthority.v1.key_authority_service_pb2_grpc import KeyAuthorityServiceStub
from keyauthority.v1.project_service_pb2_grpc import ProjectServiceStub
from keyauthority.v1.usage_service_pb2_grpc import UsageServiceStub

if TYPE_CHECKING:  # the stubs at run time are one class for both kinds of channels
    from keyauthority.v1.advisory_service_pb2_grpc import AdvisoryServiceAsyncStub
    from keyauthority.v1.audit_service_pb2_grpc import AuditServiceAsyncStub
    from keyauthority.v1.key_authority_service_pb2_grpc import KeyAuthorityServiceAsyncStub
    from keyauthority.v1.project_service_pb2_grpc import ProjectServiceAsyncStub
    from keyauthority.v1.usage_service_pb2_grpc import UsageServiceAsyncStub

Q = TypeVar("Q")
A = TypeVar("A")
R = TypeVar("R")
T = TypeVar("T")


class AsyncListing(Generic[T]):
    """A paged list on the server: iterate with `async for`, or fetch page by page."""

    def __init__(self, fetch: Callable[[str], Awaitable[Page[T]]]) -> None:
        self._fetch = fetch

    async def __aiter__(self) -> AsyncIterator[T]:
        page = await self._fetch("")
        for item in page.items:
            yield item
        while page.next_page_token:
            page = await self._fetch(page.next_page_token)
            for item in page.items:
                yield item

    async def page(self, page_token: str = "") -> Page[T]:
        """Return one page: the first, or the one for the `next_page_token` of another page."""
        return await self._fetch(page_token)


class AsyncWatch(Generic[T]):
    """A stream of updates: iterate with `async for`, and close it when done.

    It is an async context manager. Any task may close it, which ends the iteration.
    """

    def __init__(
        self, call: grpc.aio.UnaryStreamCall[Q, A], read: Callable[[A], T], address: str
    ) -> None:
        self._address = address
        self._call = call
        self._read: Callable[[Any], T] = lambda response: _requests.parse_response(read, response)
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        try:
            response = await self._call.read()
        except grpc.aio.AioRpcError as failed:
            if self._closed:
                raise StopAsyncIteration from None
            raise _requests.error_of(failed, self._address) from None
        except asyncio.CancelledError:
            if self._closed:  # the call was cancelled, not the task
                raise StopAsyncIteration from None
            raise
        if response is grpc.aio.EOF:
            raise StopAsyncIteration
        return self._read(response)

    async def close(self) -> None:
        """Cancel the stream."""
        self._closed = True
        self._call.cancel()


class _Live(NamedTuple):
    """The channel of one event loop and its stubs."""

    channel: grpc.aio.Channel
    keys: KeyAuthorityServiceAsyncStub
    projects: ProjectServiceAsyncStub
    usage: UsageServiceAsyncStub
    audit: AuditServiceAsyncStub
    advisories: AdvisoryServiceAsyncStub


def _open(target: _channel.Target, pem: _channel.ChannelCredentials | None) -> _Live:
    channel = (
        grpc.aio.insecure_channel(*target)
        if pem is None
        else grpc.aio.secure_channel(
            target.address, grpc.ssl_channel_credentials(*pem), target.options
        )
    )
    return _Live(
        channel,
        KeyAuthorityServiceStub(channel),
        ProjectServiceStub(channel),
        UsageServiceStub(channel),
        AuditServiceStub(channel),
        AdvisoryServiceStub(channel),
    )


class AsyncConnection:
    """A channel to the authority, the credential and the timeout that calls on it have."""

    def __init__(
        self,
        address: str = _channel.DEFAULT_ADDRESS,
        *,
        operator_key: str | None = None,
        timeout: float = _channel.DEFAULT_TIMEOUT,
        tls: _channel.Tls | bool = False,
        allow_plaintext: bool = False,
    ) -> None:
        refuse_green_threads(asyncio=True)
        self._address = address
        self._timeout = timeout
        self._closed = False
        self._metadata = _channel.metadata(operator_key)
        parsed = parse(address)
        self._pem = _channel.credentials(parsed, tls, allow_plaintext=allow_plaintext)
        self._target = _channel.target(parsed, tls)
        self._live: dict[asyncio.AbstractEventLoop, _Live] = {}
        on_fork(self)

    @property
    def _stubs(self) -> _Live:
        """Return the channel of the running loop; gRPC binds each channel to one loop."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise FailedPrecondition("no event loop is running: use Client, or await") from None
        return self._live.get(loop) or self._connect(loop)

    def _connect(self, loop: asyncio.AbstractEventLoop) -> _Live:
        if self._closed:
            raise _requests.closed()
        refuse_green_threads(asyncio=True)
        refuse_after_fork()
        for closed_loop in [open_loop for open_loop in self._live if open_loop.is_closed()]:
            self._live.pop(closed_loop, None)
        return self._live.setdefault(loop, _open(self._target, self._pem))

    def _forked(self) -> None:
        if self._live:
            abandon(self._live, asyncio=True)
            self._live = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._address!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of the connection; calls that are under way end."""
        self._closed = True
        live = self._live.pop(asyncio.get_running_loop(), None)
        self._live.clear()  # those of other loops end with their last call
        if live is not None:
            await live.channel.close()

    def _watch(
        self,
        method: grpc.aio.UnaryStreamMultiCallable[Q, A],
        request: Q,
        read: Callable[[A], R],
        timeout: float | None,
    ) -> AsyncWatch[R]:
        try:
            call = method(request, timeout=timeout, metadata=self._metadata)
        except grpc.aio.UsageError:
            raise _requests.closed() from None
        return AsyncWatch(call, read, self._address)

    async def check_health(self, *, changes: bool = False, timeout: float | None = None) -> bool:
        """Return whether the authority can answer now; needs no credential.

        With `changes`, whether it can also commit changes: after a failure of its disk it may go on
        to verify only. Raises Unavailable if it cannot be reached.
        """
        request = _requests.health_check(changes=changes)
        channel = self._stubs.channel
        check: Any = channel.unary_unary("/grpc.health.v1.Health/Check")  # of bytes
        return await self._call(check, request, _requests.is_serving, timeout, metadata=())

    async def _call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Q, A],
        request: Q,
        read: Callable[[A], R],
        timeout: float | None,
        metadata: _channel.Metadata | None = None,
    ) -> R:
        try:
            response = await method(
                request,
                timeout=self._timeout if timeout is None else timeout,
                metadata=self._metadata if metadata is None else metadata,
            )
        except grpc.aio.AioRpcError as failed:
            raise _requests.error_of(failed, self._address) from None
        except grpc.aio.UsageError:
            raise _requests.closed() from None
        return _requests.parse_response(read, response)
