"""Connection of a blocking client: its channel, unary and streaming calls, paged lists."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, Generic, NamedTuple, Self, TypeVar

import grpc
import grpc._channel  # grpc imports both with the first channel: in the thread of a
import grpc.experimental  # verifier, a process forked meanwhile would keep a half of them

from keyauthority import _channel, _requests
from keyauthority._address import parse
from keyauthority._requests.processes import (
    abandon,
    is_outdated,
    on_fork,
    refuse_green_threads,
)
from keyauthority.results import Page
from keyauthority.v1.advisory_service_pb2_grpc import AdvisoryServiceStub
from keyauthority.v1.audit_service_pb2_grpc import AuditServiceStub
from keyauthority.v1.key_authority_service_pb2_grpc import KeyAuthorityServiceStub
from keyauthority.v1.project_service_pb2_grpc import ProjectServiceStub
from keyauthority.v1.usage_service_pb2_grpc import UsageServiceStub

Q = TypeVar("Q")
A = TypeVar("A")
R = TypeVar("R")
T = TypeVar("T")


class Listing(Generic[T]):
    """A paged list on the server: iterate over all items, or fetch page by page."""

    def __init__(self, fetch: Callable[[str], Page[T]]) -> None:
        self._fetch = fetch

    def __iter__(self) -> Iterator[T]:
        page = self._fetch("")
        yield from page.items
        while page.next_page_token:
            page = self._fetch(page.next_page_token)
            yield from page.items

    def page(self, page_token: str = "") -> Page[T]:
        """Return one page: the first, or the one for the `next_page_token` of another page."""
        return self._fetch(page_token)


class Watch(Generic[T]):
    """A stream of updates: iterate over it, and close it when done.

    It is a context manager. Any thread may close it, which ends the iteration.
    """

    def __init__(
        self,
        responses: Iterator[A],
        cancel: Callable[[], object],
        read: Callable[[A], T],
        address: str,
    ) -> None:
        self._address = address
        self._updates = (_requests.parse_response(read, response) for response in responses)
        self._cancel = cancel
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        try:
            return next(self._updates)
        except grpc.RpcError as failed:
            if self._closed:
                raise StopIteration from None
            raise _requests.error_of(failed, self._address) from None

    def close(self) -> None:
        """Cancel the stream."""
        self._closed = True
        self._cancel()


class _Live(NamedTuple):
    """The channel of this process and its stubs."""

    channel: grpc.Channel
    keys: KeyAuthorityServiceStub
    projects: ProjectServiceStub
    usage: UsageServiceStub
    audit: AuditServiceStub
    advisories: AdvisoryServiceStub


def _open(target: _channel.Target, pem: _channel.ChannelCredentials | None) -> _Live:
    channel = (
        grpc.insecure_channel(*target)
        if pem is None
        else grpc.secure_channel(target.address, grpc.ssl_channel_credentials(*pem), target.options)
    )
    return _Live(
        channel,
        KeyAuthorityServiceStub(channel),
        ProjectServiceStub(channel),
        UsageServiceStub(channel),
        AuditServiceStub(channel),
        AdvisoryServiceStub(channel),
    )


class Connection:
    """A channel to the authority, with the credential and default timeout of its calls."""

    def __init__(
        self,
        address: str = _channel.DEFAULT_ADDRESS,
        *,
        operator_key: str | None = None,
        timeout: float = _channel.DEFAULT_TIMEOUT,
        tls: _channel.Tls | bool = False,
        allow_plaintext: bool = False,
    ) -> None:
        refuse_green_threads(asyncio=False)
        self._address = address
        self._timeout = timeout
        self._closed = False
        self._metadata = _channel.metadata(operator_key)
        parsed = parse(address)
        self._pem = _channel.credentials(parsed, tls, allow_plaintext=allow_plaintext)
        self._target = _channel.target(parsed, tls)
        self._lock = threading.Lock()
        self._live: _Live | None = None
        on_fork(self)

    @property
    def _stubs(self) -> _Live:
        return self._live or self._connect()

    def _connect(self) -> _Live:
        """Create the channel on the first call, so that an earlier fork costs no connection."""
        if is_outdated(self._lock):
            self._forked()
        with self._lock:
            if self._closed:
                raise _requests.closed()
            if self._live is None:
                refuse_green_threads(asyncio=False)  # threads may have been patched since __init__
                self._live = _open(self._target, self._pem)
            return self._live

    def _forked(self) -> None:
        self._lock = threading.Lock()
        if self._live is not None:
            abandon(self._live)
            self._live = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._address!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls in progress fail."""
        with self._lock:
            self._closed = True
            if self._live is not None:
                self._live.channel.close()

    def _watch(
        self,
        method: grpc.UnaryStreamMultiCallable[Q, A],
        request: Q,
        read: Callable[[A], R],
        timeout: float | None,
    ) -> Watch[R]:
        try:
            call = method(request, timeout=timeout, metadata=self._metadata)
        except ValueError:
            self._refuse_if_closed()
            raise
        return Watch(call, call.cancel, read, self._address)

    def check_health(self, *, changes: bool = False, timeout: float | None = None) -> bool:
        """Return whether the authority can answer now; needs no credential.

        With `changes`, whether it can also commit changes: after a failure of its disk it may go on
        to verify only. Raises Unavailable if it cannot be reached.
        """
        request = _requests.health_check(changes=changes)
        channel = self._stubs.channel
        check: Any = channel.unary_unary("/grpc.health.v1.Health/Check")  # of bytes
        return self._call(check, request, _requests.is_serving, timeout, metadata=())

    def _call(
        self,
        method: grpc.UnaryUnaryMultiCallable[Q, A],
        request: Q,
        read: Callable[[A], R],
        timeout: float | None,
        metadata: _channel.Metadata | None = None,
    ) -> R:
        try:
            response = method(
                request,
                timeout=self._timeout if timeout is None else timeout,
                metadata=self._metadata if metadata is None else metadata,
            )
        except grpc.RpcError as failed:
            raise _requests.error_of(failed, self._address) from None
        except ValueError:
            self._refuse_if_closed()
            raise
        return _requests.parse_response(read, response)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise _requests.closed() from None
