"""One request as the app sees it: headers that occur once, the call's attributes, the body."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from urllib.parse import unquote

from keyauthority_server.overload import PendingMessages, network_of
from keyauthority_server.overload.errors import message_overdue, overloaded
from keyauthority_server.rpc_types import CREDENTIAL_HEADERS, Call, RpcError
from keyauthority_server.transport.http.errors import (
    bad_encoding,
    bad_host,
    bad_request,
    bad_timeout,
    bad_version,
    body_too_large,
    repeated,
)
from keyauthority_server.transport.limits import (
    MESSAGE_MAX,
    MESSAGE_SECONDS,
    PENDING_MAX,
    PENDING_OF_PEER_MAX,
)

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]

# A connection that is closed with unread bytes is reset, and its client may not see the response.
DISCARDED_MAX: Final = 16 * MESSAGE_MAX  # bytes of a refused body

_SERVICE: Final = re.compile(rb"(?:^|&)service=([^&]*)")
_TIMEOUT: Final = re.compile(rb"[0-9]{1,10}", re.ASCII)
_ONCE: Final = frozenset(
    {
        b"connect-content-encoding",
        b"connect-protocol-version",
        b"connect-timeout-ms",
        b"content-encoding",
        b"content-type",
        b"host",
    }
)
METADATA: Final = {name.encode(): name for name in CREDENTIAL_HEADERS}
"""The headers that become metadata of a call."""


class Disconnected(Exception):
    """The client has gone before its request was complete."""


class Bodies:
    """Waits for the bodies of requests, within the limits of gRPC's messages."""

    def __init__(self) -> None:
        crowded = overloaded("too many calls whose message has not come")
        self._pending = PendingMessages(
            PENDING_MAX, PENDING_OF_PEER_MAX, MESSAGE_SECONDS, crowded, message_overdue
        )

    async def read(self, request: Request) -> bytes:
        """Return the body. HttpError if it is too large, RpcError if it comes too late."""
        task, ended = asyncio.current_task(), list[RpcError]()
        assert task is not None  # noqa: S101 - tells mypy so

        def end(refusal: RpcError) -> None:
            ended.append(refusal)
            task.cancel()

        if request.has_arrived:  # the common case: with its headers
            return await request.read()
        entry = self._pending.enter(network_of(request.call.peer), end)
        try:
            return await request.read()
        except asyncio.CancelledError:
            if not ended:
                raise
            task.uncancel()
            raise ended[0] from None
        finally:
            self._pending.leave(entry)


class Request:
    """A request, whose body has not been read."""

    def __init__(
        self, scope: Scope, receive: Receive, named: Mapping[bytes, str] = METADATA
    ) -> None:
        """`named` are the headers that become metadata of the call, with their names."""
        self.method: str = scope["method"]
        self.path: bytes = scope["raw_path"]
        self.abort: Callable[[], None] = scope["state"]["abort"]
        self._cycle: Any = scope["state"]["cycle"]
        self._receive = receive
        self._query: bytes = scope["query_string"]
        self._version: str = scope["http_version"]
        self._headers: dict[bytes, bytes] = {}
        self._repeated = False
        self.is_read = False
        """True when the body has been read to its end."""
        metadata = []
        for name, value in scope["headers"]:
            if name in named:
                metadata.append((named[name], value.decode("latin-1")))
            elif name in _ONCE and name in self._headers:
                self._repeated = True
            self._headers[name] = value
        state = scope["state"]
        self.call = Call(tuple(metadata), state["peer"], state["certificates"])

    @property
    def has_arrived(self) -> bool:
        """True if the whole body can be read without waiting."""
        return not self._cycle.more_body

    @property
    def is_client_slow(self) -> bool:
        """True while a response waits for the client to read those before."""
        return bool(self._cycle.flow.write_paused)

    @property
    def health_service(self) -> str:
        """The value of `service` in the query; empty without one."""
        found = _SERVICE.search(self._query)
        return unquote(found[1].decode("latin-1")) if found else ""

    def check(self) -> None:
        """Raise HttpError if headers of HTTP or Connect are malformed."""
        if self._version not in ("1.0", "1.1"):
            raise bad_request()
        if self._repeated:
            raise repeated()
        if b"host" not in self._headers and self._version != "1.0":
            raise bad_host()
        if self._headers.get(b"connect-protocol-version", b"1") != b"1":
            raise bad_version()
        timeout = self._headers.get(b"connect-timeout-ms")
        if timeout is not None and not _TIMEOUT.fullmatch(timeout):
            raise bad_timeout()

    @property
    def timeout(self) -> float | None:
        """The seconds that the client waits. TimeoutError if it waits for none."""
        timeout = self._headers.get(b"connect-timeout-ms")
        if timeout is not None and not int(timeout):
            raise TimeoutError
        return None if timeout is None else int(timeout) / 1000

    @property
    def content_type(self) -> bytes:
        """The media type of the body, without parameters."""
        return self._headers.get(b"content-type", b"").partition(b";")[0].strip().lower()

    def is_gzip(self, header: bytes) -> bool:
        """Return whether a header names gzip. HttpError for other encodings."""
        encoding = self._headers.get(header, b"identity").lower()
        if encoding not in (b"gzip", b"identity"):
            raise bad_encoding()
        return encoding == b"gzip"

    async def read(self) -> bytes:
        """Return the body. HttpError if it is too large."""
        pieces = [await self._next()]
        size = len(pieces[0])
        while not self.is_read and size <= MESSAGE_MAX:
            pieces.append(await self._next())
            size += len(pieces[-1])
        if size > MESSAGE_MAX:
            raise body_too_large()
        return b"".join(pieces)

    async def discard(self) -> None:
        """Read what is left of the body, within limits: see `is_read`."""
        if b"expect" in self._headers:  # the client waits for our word before it sends a body
            return
        left = DISCARDED_MAX
        try:
            async with asyncio.timeout(MESSAGE_SECONDS):
                while not self.is_read and left > 0:
                    left -= len(await self._next())
        except TimeoutError:
            pass

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] != "http.request":
            raise Disconnected
        self.is_read = not message["more_body"]
        piece: bytes = message["body"]
        return piece
