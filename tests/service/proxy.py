"""A TCP proxy that cuts, delays and stalls connections, like the network between machines."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

CHUNK: Final = 65_536


class Proxy:
    """Forwards bytes both ways until it is ordered otherwise. Any thread may order it."""

    def __init__(self, target: str) -> None:
        """`target` is where it leads to, and may be led elsewhere later."""
        self.target = target
        self.delay = 0.0
        """Seconds that the server's bytes are delayed."""
        self.address = ""
        self._hanging: set[asyncio.Task[None]] = set()
        self._open: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()

    def hang(self) -> None:
        """Hand on nothing more on the connections that are open, and close none of them."""
        asyncio.run_coroutine_threadsafe(self._hang(), self._loop).result()

    @contextmanager
    def running(self) -> Iterator[Proxy]:
        """Serve on a free port for as long as the context lasts."""
        started = threading.Event()
        ended = asyncio.Event()
        thread = threading.Thread(
            target=self._loop.run_until_complete, args=[self._serve(started, ended)]
        )
        thread.start()
        started.wait()
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(ended.set)
            thread.join()
            self._loop.close()

    async def _serve(self, started: threading.Event, ended: asyncio.Event) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        started.set()
        await ended.wait()
        server.close()
        for task in (*self._open, *self._hanging):
            task.cancel()
        await asyncio.gather(*self._open, *self._hanging, return_exceptions=True)

    async def _accept(self, inward: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        with suppress(OSError, asyncio.CancelledError):
            host, _, port = self.target.rpartition(":")
            outward_reader, outward = await asyncio.open_connection(host, int(port))
            pumps = [
                asyncio.ensure_future(self._pump(task, inward, outward, late=False)),
                asyncio.ensure_future(self._pump(task, outward_reader, back, late=True)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
                outward.close()
        back.close()
        self._open.discard(task)
        self._hanging.discard(task)

    async def _pump(
        self,
        connection: asyncio.Task[None],
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        *,
        late: bool,
    ) -> None:
        loop = asyncio.get_running_loop()
        while chunk := await source.read(CHUNK):
            if connection in self._hanging:
                await asyncio.Event().wait()  # for ever: neither read nor closed
            if late and self.delay:
                loop.call_later(self.delay, self._write, connection, sink, chunk)
            else:
                self._write(connection, sink, chunk)

    def _write(
        self, connection: asyncio.Task[None], sink: asyncio.StreamWriter, chunk: bytes
    ) -> None:
        if connection not in self._hanging and not sink.is_closing():
            sink.write(chunk)

    async def _hang(self) -> None:
        self._hanging |= self._open


@contextmanager
def proxy_to(target: str) -> Iterator[Proxy]:
    """Give a proxy that leads to an address."""
    with Proxy(target).running() as running:
        yield running
