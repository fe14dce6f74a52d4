"""The connection of a client: its channel, how one call is made on it, and lists by pages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

import grpc.aio

from keyauthority import _calls, _channel
from keyauthority.results import Page
from keyauthority.v1.key_authority_service_pb2_grpc import KeyAuthorityServiceStub
from keyauthority.v1.project_service_pb2_grpc import ProjectServiceStub
from keyauthority.v1.usage_service_pb2_grpc import UsageServiceStub

Q = TypeVar("Q")
A = TypeVar("A")
R = TypeVar("R")
T = TypeVar("T")


class AsyncListing(Generic[T]):
    """A list that the authority holds: iterate with `async for`, or take it by pages."""

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
        """Return one page: the first, or that which a page's `next_page_token` leads to."""
        return await self._fetch(page_token)


class AsyncConnection:
    """A channel to the authority, the credential and the timeout that calls on it have."""

    def __init__(
        self,
        address: str = _channel.DEFAULT_ADDRESS,
        *,
        operator_key: str | None = None,
        timeout: float = _channel.DEFAULT_TIMEOUT,
    ) -> None:
        self._address = address
        self._timeout = timeout
        self._metadata = _channel.metadata(operator_key)
        self._channel = grpc.aio.insecure_channel(address, _channel.CHANNEL_OPTIONS)
        self._keys = KeyAuthorityServiceStub(self._channel)
        self._projects = ProjectServiceStub(self._channel)
        self._usage = UsageServiceStub(self._channel)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._address!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of the connection; calls that are under way end."""
        await self._channel.close()

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
            raise _calls.error_of(failed) from None
        return _calls.answer(read, response)
