"""The TLS endpoint of one worker, in front of the native server.

It accepts connections on every address, makes the handshakes, and connects each client to the
native server over a unix socket in a folder of this user only. `origins` tells the native server
peer and certificate of each connection.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Hashable
from pathlib import Path
from typing import Final

from keyauthority_server.certificates import TlsMaterial
from keyauthority_server.config import HostPort
from keyauthority_server.overload import OpenCalls, PendingMessages, network_of, peer_name
from keyauthority_server.overload.errors import (
    CloseReason,
    TransportCounter,
    busy,
    message_overdue,
)
from keyauthority_server.rpc_types import RpcError
from keyauthority_server.transport import limits
from keyauthority_server.transport.origins import MARK, Origin, Origins
from keyauthority_server.transport.tls import CallerResolver, server_context
from keyauthority_server.transport.tls_connection import (
    ServerSide,
    TlsConnection,
)

CONNECTIONS_MAX: Final = 10_000  # some 50 KB each
HANDSHAKES_MAX: Final = 2_000  # at once: of 1,000 clients that come back together none is cut
HELD_MAX: Final = 256 * 1024 * 1024  # bytes of incomplete requests
LOOK_SECONDS: Final = 1.0
CLOSE_SECONDS: Final = 2.0  # for a client to take the last bytes

_SHARE: Final = 2  # one peer has at most a half
_DESCRIPTORS: Final = 3  # of a connection: its own and both ends of the one behind
_DESCRIPTORS_KEPT: Final = 128  # for files, pipes and the listening socket
_BACKLOG: Final = 1_024
_ACCEPTS: Final = 64  # in one turn of the event loop
_HANDSHAKES_IN_TURN: Final = 8  # some 5 ms, as long as calls are served in a turn
_AGAIN_SECONDS: Final = 0.1  # until the next try, if descriptors or memory are exhausted


class TlsFront:
    """Serves TLS on one address. Used in the event loop only, except `take_over`."""

    def __init__(
        self,
        listen: HostPort,
        callers: CallerResolver,
        shed: TransportCounter | None = None,
    ) -> None:
        """Bind; OSError if the address is taken."""
        self.origins = Origins()
        self._callers = callers
        self._shed = shed
        self._context: ssl.SSLContext | None = None
        self._behind = ""
        self._connections: dict[TlsConnection, asyncio.Task[None]] = {}
        most = _connections_max()
        self._open = OpenCalls(most, most // _SHARE)
        self._held = OpenCalls(HELD_MAX, HELD_MAX // _SHARE)
        self._handshakes = PendingMessages(
            HANDSHAKES_MAX,
            HANDSHAKES_MAX // _SHARE,
            limits.HANDSHAKE_SECONDS,
            busy,
            message_overdue,
        )
        self._waiting: list[asyncio.Future[None]] = []
        self._tasks: list[asyncio.Task[None]] = []
        family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._socket.bind((listen.host, listen.port))

    def take_over(self, material: TlsMaterial) -> None:
        """Make handshakes with these from now on; ConfigError if OpenSSL refuses them."""
        self._context = server_context(material, "h2")

    def start(self, behind: Path) -> None:
        """Accept connections; `behind` is the socket of the native server."""
        self._behind = str(behind)
        self._socket.listen(_BACKLOG)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket, self._accept)
        self._tasks.append(loop.create_task(self._look()))

    def leave(self) -> None:
        """Stop accepting connections, and send the clients of the open ones away."""
        self._accept()  # those that wait would be reset
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        for connection in self._connections:
            connection.send_away()

    async def end(self) -> None:
        """Wait until clients have taken the last bytes; cut those that do not."""
        made = [task for one, task in self._connections.items() if one.session is not None]
        if made:
            await asyncio.wait(made, timeout=CLOSE_SECONDS)
        tasks = [*self._connections.values(), *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS):
            try:
                accepted, address = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as failure:
                if failure.errno != errno.ECONNABORTED:
                    self._pause()
                    return
                continue
            self._begin(accepted, peer_name(address))

    def _pause(self) -> None:
        """Accept again later: descriptors or memory are exhausted."""
        self._count(CloseReason.DESCRIPTORS)
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket)
        loop.call_later(_AGAIN_SECONDS, self._resume)

    def _resume(self) -> None:
        if self._socket.fileno() >= 0:
            asyncio.get_running_loop().add_reader(self._socket, self._accept)

    def _begin(self, accepted: socket.socket, peer: str) -> None:
        network = network_of(peer)
        if not self._open.enter(network):
            accepted.close()
            self._count(CloseReason.CONNECTIONS)
            return
        connection = TlsConnection(lambda number: self._hold(network, number))
        running = self._run(connection, accepted, peer, network)
        self._connections[connection] = asyncio.get_running_loop().create_task(running)

    def _hold(self, network: Hashable, number: int) -> bool:
        if number > 0:
            return self._held.enter(network, number)
        if number < 0:
            self._held.leave(network, -number)
        return True

    async def _run(
        self, connection: TlsConnection, accepted: socket.socket, peer: str, network: Hashable
    ) -> None:
        """Serve a connection to its end."""
        secret, reason = "", None
        try:
            if not await self._shake_hands(connection, accepted, network):
                reason = CloseReason.HANDSHAKE
                return
            transport = await self._connect(connection)
            origin = Origin(peer, self._callers.of_session(connection.session))
            secret = self.origins.add(origin, connection.unmark)
            connection.serve(transport, (MARK, secret))
            reason = await asyncio.shield(connection.done)
        except OSError:
            reason = CloseReason.DESCRIPTORS
        finally:
            connection.close()
            self.origins.remove(secret)
            del self._connections[connection]
            self._open.leave(network)
            if reason is not None:
                self._count(reason)

    async def _shake_hands(
        self, connection: TlsConnection, accepted: socket.socket, network: Hashable
    ) -> bool:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None  # noqa: S101 - runs as one

        def end(_: RpcError) -> None:
            task.cancel()

        pending = self._handshakes.enter(network, end)
        try:
            await self._first_bytes(accepted)
            await self._turn()
            await loop.connect_accepted_socket(
                lambda: connection,
                accepted,
                ssl=self._context,
                ssl_handshake_timeout=2 * limits.HANDSHAKE_SECONDS,  # `end` comes first
                ssl_shutdown_timeout=CLOSE_SECONDS,
            )
        except (OSError, asyncio.CancelledError):
            accepted.close()
            return False
        finally:
            self._handshakes.leave(pending)
        session = connection.session
        return session is not None and session.selected_alpn_protocol() == "h2"

    async def _first_bytes(self, accepted: socket.socket) -> None:
        """Wait until the client has sent something: before, a session would only take memory."""
        loop = asyncio.get_running_loop()
        sent = asyncio.Event()
        accepted.setblocking(False)
        loop.add_reader(accepted, sent.set)
        try:
            await sent.wait()
        finally:
            loop.remove_reader(accepted)

    async def _turn(self) -> None:
        """Wait for a turn of the event loop in which few handshakes begin: calls come between."""
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._begin_some)
        self._waiting.append(turn)
        await turn

    def _begin_some(self) -> None:
        for turn in self._waiting[:_HANDSHAKES_IN_TURN]:
            if not turn.done():
                turn.set_result(None)
        del self._waiting[:_HANDSHAKES_IN_TURN]
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._begin_some)

    async def _connect(self, connection: TlsConnection) -> asyncio.Transport:
        """Connect to the native server."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                transport, _ = await loop.create_unix_connection(
                    lambda: ServerSide(connection), self._behind
                )
            except BlockingIOError:  # its queue is full
                await asyncio.sleep(_AGAIN_SECONDS)
            else:
                return transport

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = loop.time()
            for connection in list(self._connections):
                connection.look(now)

    def _count(self, reason: CloseReason) -> None:
        if self._shed is not None:
            self._shed.connection_closed(reason)


def _connections_max() -> int:
    """Return how many connections the descriptors of this process allow."""
    possible = (limits.descriptors_max() - _DESCRIPTORS_KEPT) // _DESCRIPTORS
    return min(CONNECTIONS_MAX, max(possible, 1))
