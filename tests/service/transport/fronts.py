"""A server with TLS in this process, and clients that write HTTP/2 by hand."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from keyauthority_server import config
from keyauthority_server.rpc_types import Call, Services, StreamMethod, UnaryMethod
from keyauthority_server.transport import Server
from tests.faults.frames import (
    ACK,
    END_STREAM,
    GOAWAY,
    PREFACE,
    SETTINGS,
    Frame,
    frame,
)
from tests.ports import free_port
from tests.service.certificates import LOOPBACK, Issuer

CALL_SECONDS: Final = 10
ISSUER: Final = Issuer()
ORIGIN: Final = "/a.B/Origin"
SIZE: Final = "/a.B/Size"
HANG: Final = "/a.B/Hang"
PAGES: Final = "/a.B/Pages"
PAGE: Final = b"x" * 200_000
PAGES_MAX: Final = 60


async def origin(_: bytes, call: Call) -> bytes:
    """Answer with the peer, and the callers of its certificate."""
    return " ".join([call.peer, *(one.name for one in call.certificates)]).encode()


async def size(body: bytes, _: Call) -> bytes:
    """Answer with the number of bytes of the message."""
    return str(len(body)).encode()


async def hang(_: bytes, __: Call) -> bytes:
    """Answer never."""
    await asyncio.get_running_loop().create_future()
    return b""


class Counts:
    """Counts calls and connections that were turned away."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.connections: Counter[str] = Counter()
        self.changed = asyncio.Event()

    def refused(self, ground: str, calls: int = 1) -> None:
        """Count calls."""
        self.calls[ground] += calls

    def connection_closed(self, ground: str) -> None:
        """Count a connection."""
        self.connections[ground] += 1
        self.changed.set()


@dataclass
class Front:
    """A server that runs, and its counts."""

    server: Server
    address: tuple[str, int]
    counts: Counts
    pages: list[int]
    """The pages that a stream has produced."""
    opened: list[Raw] = field(default_factory=list)
    is_drained: bool = False

    async def drain(self) -> None:
        """End the server."""
        self.is_drained = True
        await self.server.drain(CALL_SECONDS)

    async def closed(self, ground: str, number: int = 1) -> None:
        """Wait until so many connections were closed for a reason."""
        async with asyncio.timeout(CALL_SECONDS):
            while self.counts.connections[ground] < number:
                await self.counts.changed.wait()
                self.counts.changed.clear()

    def channel(self, **options: Any) -> grpc.aio.Channel:
        """Return a channel of its own connection that trusts the server."""
        trusted = grpc.ssl_channel_credentials(ISSUER.pem)
        target = f"{self.address[0]}:{self.address[1]}"
        # Without the probe the window stays small: an idle client takes little ahead.
        own = (("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0))
        return grpc.aio.secure_channel(target, trusted, options=own, **options)

    async def connect(self, source: str = "127.0.0.1", protocols: tuple[str, ...] = ("h2",)) -> Raw:
        """Make a handshake from an address of this machine."""
        context = ssl.create_default_context(cadata=ISSUER.pem.decode())
        context.check_hostname = False
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return await self.dial(ssl=context, local_addr=(source, 0), ssl_shutdown_timeout=1)

    async def dial(self, path: Path | None = None, **options: Any) -> Raw:
        """Open a connection of bytes, to a unix socket if one is named."""
        streams = await (
            asyncio.open_connection(*self.address, **options)
            if path is None
            else asyncio.open_unix_connection(path)
        )
        self.opened.append(Raw(*streams))
        return self.opened[-1]


@dataclass
class Raw:
    """A connection of bytes."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    is_sent_away: bool = False

    def send(self, *frames: bytes) -> None:
        """Write frames."""
        self.writer.write(b"".join(frames))

    def begin(self) -> None:
        """Write the preface, and accept the settings of the server."""
        self.send(PREFACE, frame(SETTINGS, 0, 0), frame(SETTINGS, ACK, 0))

    async def frame(self) -> Frame:
        """Read a frame; IncompleteReadError at the end."""
        async with asyncio.timeout(CALL_SECONDS):
            head = await self.reader.readexactly(9)
            body = await self.reader.readexactly(int.from_bytes(head[:3]))
        self.is_sent_away = self.is_sent_away or head[3] == GOAWAY
        return Frame(head[3], head[4], int.from_bytes(head[5:]), body)

    async def stream_end(self, stream: int) -> list[Frame]:
        """Read up to the end of a stream; return the frames of it."""
        found: list[Frame] = []
        while True:
            one = await self.frame()
            found += [one] if one.stream == stream else []
            if one.stream == stream and (one.flags & END_STREAM or one.kind == 3):
                return found

    async def is_closed(self) -> bool:
        """Read up to the end of the connection."""
        async with asyncio.timeout(CALL_SECONDS):
            try:
                while await self.reader.read(65_536):
                    pass
            except OSError:
                pass
        return True

    def close(self) -> None:
        """Close at once."""
        if not self.writer.is_closing():
            self.writer.transport.abort()


@asynccontextmanager
async def fronting(folder: Path, *, native: bool = True, **settings: str) -> AsyncIterator[Front]:
    """Serve methods over TLS, on any free port."""
    cert, key = ISSUER.issue(*LOOPBACK).write(folder, "server")
    transport = "native" if native else "grpcio"
    files = {"tls_cert": str(cert), "tls_key": str(key)}
    with_port = {"listen": f"127.0.0.1:{free_port()}", "transport": transport}
    loaded = config.load({**with_port, **files, **settings}, {})
    assert isinstance(loaded.listen, config.HostPort)
    pages: list[int] = []

    async def produce(_: bytes, __: Call) -> AsyncGenerator[bytes]:
        for number in range(PAGES_MAX):
            pages.append(number)
            yield number.to_bytes(4) + PAGE

    services: Services = {
        "a.B": {
            "Origin": UnaryMethod(origin),
            "Size": UnaryMethod(size),
            "Hang": UnaryMethod(hang),
            "Pages": StreamMethod(produce, lambda: None),
        }
    }
    counts = Counts()
    server = Server(loaded, services, counts)
    await server.start()
    front = Front(server, (loaded.listen.host, loaded.listen.port), counts, pages)
    try:
        yield front
    finally:
        for raw in front.opened:
            raw.close()
        if not front.is_drained:
            await server.drain(0)
