"""The native transport in this process: TLS beside plaintext, deadlines and limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from keyauthority_server import config
from keyauthority_server.rpc_types import UnaryMethod
from keyauthority_server.transport import Server, grpcio, limits
from tests.service.certificates import Issuer
from tests.service.transport.fronts import hang

CALL_SECONDS = 10
HANG = "/a.B/C"
CHECK = "/grpc.health.v1.Health/Check"


async def call(channel: grpc.aio.Channel, path: str, seconds: float | None) -> grpc.StatusCode:
    """Make a call of no bytes; return its status."""
    method: Any = channel.unary_unary(path)
    try:
        await method(b"", timeout=seconds)
    except grpc.aio.AioRpcError as failed:
        return failed.code()
    return grpc.StatusCode.OK


@asynccontextmanager
async def serving(address: str, transport: str) -> AsyncIterator[str]:
    """Serve a method that never answers."""
    settings = config.load({"listen": address, "transport": transport}, {})
    running = Server(settings, {"a.B": {"C": UnaryMethod(hang)}})
    await running.start()
    yield address
    await running.drain(0)


async def test_call_without_a_deadline_gets_the_servers_deadline(
    monkeypatch: pytest.MonkeyPatch, transport: str, tmp_path: Path
) -> None:
    """A unary call without a deadline ends at the server's; one with keeps its own."""
    monkeypatch.setattr(limits, "UNARY_SECONDS", 0.05)
    async with (
        serving(f"unix:{tmp_path}/s", transport) as address,
        grpc.aio.insecure_channel(address) as channel,
        asyncio.timeout(CALL_SECONDS),
    ):
        assert grpc.StatusCode.DEADLINE_EXCEEDED == await call(channel, HANG, None)
        waiting = asyncio.create_task(call(channel, HANG, CALL_SECONDS))
        ended, _ = await asyncio.wait([waiting], timeout=0.3)
        assert set() == ended
        waiting.cancel()


async def test_concurrent_calls_are_bounded(
    monkeypatch: pytest.MonkeyPatch, transport: str, tmp_path: Path
) -> None:
    """A call beyond the process limit is rejected; the others are served."""
    monkeypatch.setattr(limits, "CALLS_MAX", 3)
    async with (
        serving(f"unix:{tmp_path}/s", transport) as address,
        grpc.aio.insecure_channel(address) as channel,
        asyncio.timeout(CALL_SECONDS),
    ):
        calls = [asyncio.create_task(call(channel, HANG, CALL_SECONDS)) for _ in range(4)]
        ended, held = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        assert [grpc.StatusCode.RESOURCE_EXHAUSTED] == [one.result() for one in ended]
        for one in held:
            one.cancel()
        await asyncio.wait(held)


async def test_connection_at_its_maximum_age_closes_without_a_failed_call(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The client continues on a new connection."""
    states: list[grpc.ChannelConnectivity] = []
    monkeypatch.setattr(grpcio, "_CLIENTS_OPTIONS", (("grpc.max_connection_age_ms", 50),))
    async with (
        serving(f"unix:{tmp_path}/s", "grpcio") as address,
        grpc.aio.insecure_channel(address) as channel,
        asyncio.timeout(CALL_SECONDS),
    ):
        watching = asyncio.create_task(_watch(channel, states))
        while states.count(grpc.ChannelConnectivity.READY) < 3:
            assert grpc.StatusCode.OK == await call(channel, CHECK, CALL_SECONDS)
        watching.cancel()


async def _watch(channel: grpc.aio.Channel, states: list[grpc.ChannelConnectivity]) -> None:
    state = channel.get_state()
    while True:
        await channel.wait_for_state_change(state)
        state = channel.get_state()
        states.append(state)


async def test_tls_client_never_falls_back_to_plaintext(transport: str, tmp_path: Path) -> None:
    """At a plaintext server a TLS client makes no call."""
    async with serving(f"unix:{tmp_path}/s", transport) as address:
        trusted = grpc.ssl_channel_credentials(Issuer().pem)
        async with (
            grpc.aio.secure_channel(address, trusted) as secured,
            grpc.aio.insecure_channel(address) as plain,
        ):
            assert grpc.StatusCode.UNAVAILABLE == await call(secured, CHECK, CALL_SECONDS)
            assert grpc.StatusCode.OK == await call(plain, CHECK, CALL_SECONDS)
