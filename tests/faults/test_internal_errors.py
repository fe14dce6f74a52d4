"""Internal faults anywhere in a call: INTERNAL with a correlation id and no detail."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
import pytest
from grpc_reflection.v1alpha.reflection import aio as library
from structlog.testing import capture_logs

from keyauthority_server.config import load
from keyauthority_server.rpc.handlers import map_errors, serialize
from keyauthority_server.rpc_types import Call, StreamMethod, UnaryMethod
from keyauthority_server.transport import Server
from keyauthority_server.transport.reflection import SERVICES
from tests.conftest import TRANSPORTS
from tests.service.callers import refusal

SERVICE: Final = "faulty.Service"
WHY: Final = "cannot open /srv/keys, SELECT of op_live_KA0123456789ABCDEFGH_secret"
SECONDS: Final = 10


def fails(*_: object) -> Any:
    """Meet a fault."""
    raise ValueError(WHY)


async def bare(_: bytes, __: Call) -> bytes:
    """A method with nothing around it."""
    return bytes(fails())


async def served(_: Call, __: object) -> Any:
    """A method of a servicer, which the interceptors are around."""
    return fails()


async def streamed(_: bytes, __: Call) -> AsyncGenerator[bytes]:
    """A stream that nothing is wrong with."""
    yield b""


METHODS: Final[dict[str, UnaryMethod | StreamMethod]] = {
    "Bare": UnaryMethod(bare),
    "Served": UnaryMethod(map_errors(serialize(served), None)),
    "Streamed": StreamMethod(streamed, lambda: None),
}


@pytest.fixture
def log() -> Iterator[list[Any]]:
    """The lines that are logged."""
    with capture_logs() as lines:
        yield lines


@asynccontextmanager
async def serving(transport: str, folder: Path) -> AsyncIterator[grpc.aio.Channel]:
    """A connection to a server of these methods."""
    listen = f"unix:{folder / 's'}"
    server = Server(load({"listen": listen, "transport": transport}, {}), {SERVICE: METHODS})
    await server.start()
    try:
        async with grpc.aio.insecure_channel(listen) as channel:
            yield channel
    finally:
        await server.drain(0)


def assert_told_nothing(failure: grpc.aio.AioRpcError, log: list[Any]) -> None:
    """The caller has a correlation id, by which the log has the reason."""
    told = refusal(failure)
    assert ("INTERNAL", "INTERNAL", "internal error") == (told.code.name, told.reason, told.details)
    assert {"correlation_id"} == told.metadata.keys()
    everything = repr(failure.trailing_metadata()) + told.details
    assert not [word for word in (*WHY.split(), "ValueError") if word in everything]
    (line,) = [one for one in log if one.get("correlation_id") == told.metadata["correlation_id"]]
    assert WHY == str(line["exc_info"])


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("method", ["Bare", "Served"])
async def test_fault_in_a_call_returns_only_a_correlation_id(
    transport: str, method: str, tmp_path: Path, log: list[Any]
) -> None:
    """In a servicer and around it; the next call is served normally."""
    async with serving(transport, tmp_path) as channel:
        call: Any = channel.unary_unary(f"/{SERVICE}/{method}")
        for _ in range(2):
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await call(b"", timeout=SECONDS)
            assert_told_nothing(failed.value, log)


async def test_fault_in_authentication_returns_only_a_correlation_id(
    tmp_path: Path,
    log: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stream whose caller grpcio cannot tell is not opened; the front hands it over itself."""
    monkeypatch.setattr("keyauthority_server.transport.server.reader", lambda _: fails)
    async with serving("grpcio", tmp_path) as channel:
        stream: Any = channel.unary_stream(f"/{SERVICE}/Streamed")
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stream(b"", timeout=SECONDS).read()
        assert_told_nothing(failed.value, log)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("service", SERVICES)
async def test_fault_in_reflection_returns_only_a_correlation_id(
    transport: str,
    service: str,
    tmp_path: Path,
    log: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Any exception of its library is covered."""
    monkeypatch.setattr(library.ReflectionServicer, "ServerReflectionInfo", fails)
    async with serving(transport, tmp_path) as channel:
        stream: Any = channel.stream_stream(f"/{service}/ServerReflectionInfo")
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stream(iter([b""]), timeout=SECONDS).read()
        assert_told_nothing(failed.value, log)
