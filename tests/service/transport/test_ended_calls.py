"""Calls that the server ends say so: TIMED_OUT and SHUTTING_DOWN as ErrorInfo, per transport."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
import pytest

from keyauthority_server.config import load
from keyauthority_server.rpc_types import Call, StreamMethod, UnaryMethod
from keyauthority_server.transport import Server, limits
from tests.conftest import TRANSPORTS
from tests.service.callers import refusal

SERVICE: Final = "slow.Service"
SOON: Final = 0.1  # seconds, in place of those that a call may take
TIMEOUT: Final = 20  # seconds, of a client that waits longer than the server

pytestmark = pytest.mark.parametrize("transport", TRANSPORTS)


class Slow:
    """Methods that answer never."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self._end = asyncio.Event()
        self.methods: dict[str, UnaryMethod | StreamMethod] = {
            "Unary": UnaryMethod(self._unary),
            "Stream": StreamMethod(self._stream, lambda: None),
        }

    async def _unary(self, _: bytes, __: Call) -> bytes:
        self.begun.set()
        await self._end.wait()
        return b""

    async def _stream(self, _: bytes, __: Call) -> AsyncGenerator[bytes]:
        self.begun.set()
        await self._end.wait()
        yield b""


@asynccontextmanager
async def serving(
    transport: str, folder: Path
) -> AsyncIterator[tuple[Server, Slow, grpc.aio.Channel]]:
    """A server of slow methods, and a connection to it."""
    slow, listen = Slow(), f"unix:{folder / 's'}"
    server = Server(load({"listen": listen, "transport": transport}, {}), {SERVICE: slow.methods})
    await server.start()
    async with grpc.aio.insecure_channel(listen) as channel:
        yield server, slow, channel


async def ended(call: Any) -> tuple[str, str]:
    """Return status and reason of a call that the server ends."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    told = refusal(failed.value)
    return told.code.name, told.reason


async def test_call_without_deadline_ends_as_timed_out(
    transport: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unary call whose client has set no deadline ends after the server's."""
    monkeypatch.setattr(limits, "UNARY_SECONDS", SOON)
    async with serving(transport, tmp_path) as (server, _, channel):
        call: Any = channel.unary_unary(f"/{SERVICE}/Unary")
        assert ("DEADLINE_EXCEEDED", "TIMED_OUT") == await ended(call(b""))
        await server.drain(0)


async def test_message_that_does_not_come_ends_as_timed_out(
    transport: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that sends its headers only ends after the server's bound on them."""
    if transport == "native":
        pytest.skip("the native front has no call before its message")
    monkeypatch.setattr(limits, "MESSAGE_SECONDS", SOON)
    async with serving(transport, tmp_path) as (server, _, channel):
        call: Any = channel.stream_unary(f"/{SERVICE}/Unary")
        assert ("DEADLINE_EXCEEDED", "TIMED_OUT") == await ended(call(timeout=TIMEOUT))
        await server.drain(0)


async def test_call_cut_by_the_drain_ends_as_shutting_down(transport: str, tmp_path: Path) -> None:
    """A unary call that is still open after the grace period."""
    async with serving(transport, tmp_path) as (server, slow, channel):
        call: Any = channel.unary_unary(f"/{SERVICE}/Unary")
        waiting = asyncio.create_task(ended(call(b"", timeout=TIMEOUT)))
        await slow.begun.wait()
        await server.drain(SOON)
        assert ("UNAVAILABLE", "SHUTTING_DOWN") == await waiting
