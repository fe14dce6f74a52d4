"""Two callers and a stranger, interleaved on one gRPC connection: none is taken for another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

import grpc
import grpc.aio
import pytest

from keyauthority import Client, Verdict, Verifier
from keyauthority.middleware.admission import Permissions
from keyauthority.middleware.grpc import AsyncKeyInterceptor, KeyInterceptor, caller
from keyauthority.testing import Authority

SHORT, FULL = 60, 10_020
AT_ONCE: Final = 12  # a multiple of two callers and a stranger
RULES: Final[dict[str, Permissions]] = {"/shop.Open/*": None, "/shop.Orders/*": ["orders:read"]}
Serving = Callable[[Authority], AbstractAsyncContextManager[str]]


def seen() -> bytes:
    """The access key of the caller whose call is served."""
    try:
        return caller().access_key.encode()
    except LookupError:
        return b"nobody"


def handlers(one: Any, many: Any) -> list[grpc.GenericRpcHandler]:
    """A guarded service and an open one."""
    methods: dict[str, Any] = {
        "One": grpc.unary_unary_rpc_method_handler(one),
        "Many": grpc.unary_stream_rpc_method_handler(many),
    }
    return [
        grpc.method_handlers_generic_handler(f"shop.{name}", methods) for name in ("Orders", "Open")
    ]


@asynccontextmanager
async def in_threads(authority: Authority, times: int = 1) -> AsyncIterator[str]:
    """A threaded server, whose few threads serve all callers in turn."""

    def many(request: bytes, context: Any) -> Any:
        return (seen() for _ in range(2))

    with authority.client() as client, Verifier(client) as verifier:
        interceptors: list[grpc.ServerInterceptor] = [
            KeyInterceptor(verifier, RULES) for _ in range(times)
        ]
        server = grpc.server(ThreadPoolExecutor(4), handlers(lambda *_: seen(), many), interceptors)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        await asyncio.to_thread(server.stop(None).wait)


@asynccontextmanager
async def in_tasks(authority: Authority, times: int = 1) -> AsyncIterator[str]:
    """A server of asyncio, whose calls wait for each other's turns."""

    async def one(request: bytes, context: Any) -> bytes:
        await asyncio.sleep(0)
        return seen()

    async def many(request: bytes, context: Any) -> AsyncIterator[bytes]:
        for _ in range(2):
            await asyncio.sleep(0)
            yield seen()

    async with authority.async_client() as verifier:
        interceptors = [AsyncKeyInterceptor(verifier, RULES) for _ in range(times)]
        server = grpc.aio.server(handlers=handlers(one, many), interceptors=interceptors)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        yield f"127.0.0.1:{port}"
        await server.stop(None)


@asynccontextmanager
async def nested_in_threads(authority: Authority) -> AsyncIterator[str]:
    """Two interceptors, one within the other."""
    async with in_threads(authority, times=2) as address:
        yield address


@asynccontextmanager
async def nested_in_tasks(authority: Authority) -> AsyncIterator[str]:
    """Two interceptors, one within the other."""
    async with in_tasks(authority, times=2) as address:
        yield address


SERVERS: Final = (in_threads, in_tasks, nested_in_threads, nested_in_tasks)


async def mistaken(
    authority: Authority, client: Client, project_id: str, serving: Serving, calls: int
) -> int:
    """How many of so many calls were served as somebody else's."""
    keys = [
        client.create_key(project_id, mode="test", kind="restricted", permissions=["orders:read"])
        for _ in range(2)
    ]
    right = 0
    async with serving(authority) as address, grpc.aio.insecure_channel(address) as channel:

        async def is_right(number: int) -> bool:
            created = [*keys, None][number % 3]
            service = "Open" if created is None else "Orders"
            metadata = [("x-api-key", created.secret_key.reveal())] if created else []
            expected = created.key.access_key.encode() if created else b"nobody"
            if number % 2:
                one: Any = channel.unary_unary(f"/shop.{service}/One")
                return bool(expected == await one(b"", metadata=metadata, timeout=60))
            many: Any = channel.unary_stream(f"/shop.{service}/Many")
            answers = [answer async for answer in many(b"", metadata=metadata, timeout=60)]
            return [expected] * 2 == answers

        for start in range(0, calls, AT_ONCE):
            right += sum(await asyncio.gather(*map(is_right, range(start, start + AT_ONCE))))
    return calls - right


@pytest.mark.parametrize("serving", SERVERS, ids=lambda one: str(one.__name__))
async def test_callers_on_one_grpc_connection_are_not_confused(
    key_authority: Authority, client: Client, project_id: str, serving: Serving
) -> None:
    """Neither with each other nor on an open method, unary and streamed."""
    assert 0 == await mistaken(key_authority, client, project_id, serving, SHORT)


@pytest.mark.prove
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("serving", SERVERS, ids=lambda one: str(one.__name__))
async def test_callers_on_one_grpc_connection_are_not_confused_in_10000_calls(
    key_authority: Authority, client: Client, project_id: str, serving: Serving
) -> None:
    """The same, often."""
    assert 0 == await mistaken(key_authority, client, project_id, serving, FULL)


@pytest.mark.parametrize("serving", SERVERS, ids=lambda one: str(one.__name__))
async def test_caller_in_a_variable_of_the_process_is_confused(
    key_authority: Authority,
    client: Client,
    project_id: str,
    serving: Serving,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Control: the tests above detect a caller that calls share."""
    newest: list[Verdict] = []

    class Shared:
        def get(self) -> Any:
            return newest[-1] if newest else None

        def set(self, admission: Any) -> None:
            if admission is not None:
                newest.append(admission)

    monkeypatch.setattr("keyauthority.middleware.grpc._ADMISSION", Shared())
    assert await mistaken(key_authority, client, project_id, serving, SHORT) > 0
