"""One TLS connection: decrypted bytes go to the native server over a unix socket, and back.

Each side is read only as fast as the other takes the bytes. The limits are kept here, because the
native server reads messages whole and knows neither age nor peer of a connection.
"""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections.abc import Callable
from typing import Final, cast

from keyauthority_server.overload.errors import CloseReason, message_overdue
from keyauthority_server.transport import limits
from keyauthority_server.transport.http2_frames import (
    GO_AWAY,
    Calls,
    ClientFrames,
    FrameError,
    ServerFrames,
    refusal_frame,
    reset,
)

UNREAD_SECONDS: Final = (limits.KEEPALIVE_MS + limits.KEEPALIVE_TIMEOUT_MS) / 1000
"""For a client to take some bytes of those that wait for it."""
WRITE_BUFFER: Final = 64 * 1024  # bytes for one side; beyond it the other side is not read
AGE_SPREAD: Final = 0.1  # so that clients of one moment do not come back at one moment
LINGER_SECONDS: Final = 5.0  # in which a client that is sent away has opened its last call


class TlsConnection(asyncio.Protocol):
    """The client's side of a connection."""

    def __init__(self, hold: Callable[[int], bool]) -> None:
        """`hold` reserves bytes of incomplete requests, and returns False if they are too many.

        It takes a negative number for bytes that are free again.
        """
        self.done = asyncio.get_running_loop().create_future()
        """Resolved when the client's side has ended, to the reason if this end closed it."""
        self._hold = hold
        self._held = 0
        self._calls = Calls()
        self._from_client = ClientFrames(self._calls, limits.MESSAGE_MAX)
        self._from_server = ServerFrames(self._calls)
        self._newest = 0
        self._born = self._busy = asyncio.get_running_loop().time()
        spread = 1 + AGE_SPREAD * (secrets.randbelow(201) - 100) / 100
        self._old = self._born + limits.AGE_SECONDS * spread
        self._leaves_by: float | None = None
        self._unread_since: float | None = None
        self._to_client = b""
        self._to_server = b""
        self._closed_for: CloseReason | None = None
        self._client: asyncio.Transport | None = None
        self._server: asyncio.Transport | None = None

    @property
    def session(self) -> ssl.SSLObject | None:
        """The client's TLS session; None before the end of the handshake."""
        if self._client is None:
            return None
        return cast("ssl.SSLObject", self._client.get_extra_info("ssl_object"))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is done; nothing is read until `serve`."""
        self._client = cast("asyncio.Transport", transport)
        self._client.set_write_buffer_limits(WRITE_BUFFER)
        self._client.pause_reading()

    def serve(self, server: asyncio.Transport, mark: tuple[str, str]) -> None:
        """Exchange bytes with the native server from now on; calls have the mark as metadata."""
        self._from_client.mark = mark
        self._server = server
        server.set_write_buffer_limits(WRITE_BUFFER)
        if self._client is None or self.done.done():
            server.abort()
        else:
            self._client.resume_reading()

    def unmark(self) -> None:
        """Stop adding the mark to calls."""
        self._from_client.mark = None

    def data_received(self, data: bytes) -> None:
        """Pass bytes of the client on."""
        if self._server is None or self._closed_for:
            return
        try:
            passed = self._from_client.read(data)
        except FrameError:
            self.close(CloseReason.PROTOCOL)
            return
        calls = self._calls
        if calls.held != self._held and not self._reserve():
            self.close(CloseReason.HELD)
            return
        if passed:
            self._server.write(passed)
        if calls.refused or self._to_server:
            self._send_own()

    def receive_from_server(self, data: bytes) -> None:
        """Pass bytes of the server on."""
        if self._client is None or self._client.is_closing():
            return
        self._client.write(self._from_server.read(data))
        if self._to_client:
            self._send_own()

    def connection_lost(self, _: Exception | None) -> None:
        """Have the server end the calls."""
        if self._server is not None:
            self._server.abort()
        self._hold(-self._held)
        self._held = 0
        if not self.done.done():
            self.done.set_result(self._closed_for)

    def close_client(self) -> None:
        """The server has closed: close when the client has the rest."""
        if self._client is not None:
            self._client.close()

    def pause_writing(self) -> None:
        """The client does not read: do not read the server."""
        self._unread_since = asyncio.get_running_loop().time()
        if self._server is not None:
            self._server.pause_reading()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._unread_since = None
        if self._server is not None:
            self._server.resume_reading()

    def pause_client(self) -> None:
        """The server does not take more: do not read the client."""
        if self._client is not None and not self._client.is_closing():
            self._client.pause_reading()

    def resume_client(self) -> None:
        """The server takes bytes again."""
        if self._client is not None and not self._client.is_closing():
            self._client.resume_reading()

    def look(self, now: float) -> None:
        """Keep the limits of time; called every second or so."""
        calls = self._calls
        if self._unread_since is not None and now - self._unread_since > UNREAD_SECONDS:
            self.close(CloseReason.UNREAD)
        if not self._from_client.begun:
            if self._client is not None and now - self._born > limits.HANDSHAKE_SECONDS:
                self.close(CloseReason.HANDSHAKE)
            return
        for stream in calls.overdue(now, limits.MESSAGE_SECONDS) if calls.uploads else ():
            calls.refuse(stream, message_overdue())
        self._send_own()
        if calls.open or calls.newest != self._newest:
            self._newest, self._busy = calls.newest, now
        if self._leaves_by is None:
            if now > self._old or now - self._busy > limits.IDLE_SECONDS:
                self.send_away()
        elif now > self._leaves_by or now - self._busy > LINGER_SECONDS:
            self.close()

    def send_away(self) -> None:
        """Ask the client to open its next calls elsewhere; close when the open ones are done."""
        self._busy = asyncio.get_running_loop().time()
        self._leaves_by = self._busy + limits.UNARY_SECONDS
        self._to_client += GO_AWAY
        self._send_own()

    def close(self, reason: CloseReason | None = None) -> None:
        """Close at once, without the bytes that the client has not taken."""
        self._closed_for = self._closed_for or reason
        if self._client is not None:
            self._client.abort()

    def _reserve(self) -> bool:
        """Account for the bytes of incomplete requests; False if they are too many."""
        held = self._calls.held
        if held > limits.HELD_MAX or not self._hold(held - self._held):
            return False
        self._held = held
        return True

    def _send_own(self) -> None:
        """Send the frames of this end, where those of the others have ended."""
        for stream, refusal in self._calls.refused:
            self._to_client += refusal_frame(stream, refusal)
            self._to_server += reset(stream)
        self._calls.refused.clear()
        if self._client is None or self._server is None or self._client.is_closing():
            return
        if self._to_client and self._from_server.between_frames:
            self._client.write(self._to_client)
            self._to_client = b""
        if self._to_server and self._from_client.between_frames:
            self._server.write(self._to_server)
            self._to_server = b""


class ServerSide(asyncio.Protocol):
    """The native server's side of a connection."""

    def __init__(self, connection: TlsConnection) -> None:
        # The methods themselves, which saves a call for each.
        self.data_received = connection.receive_from_server  # type: ignore[method-assign]
        self.pause_writing = connection.pause_client  # type: ignore[method-assign]
        self.resume_writing = connection.resume_client  # type: ignore[method-assign]
        self._connection = connection

    def connection_lost(self, _: Exception | None) -> None:
        """Close the client's side."""
        self._connection.close_client()
