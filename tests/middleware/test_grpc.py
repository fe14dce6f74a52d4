"""gRPC servers of both kinds with a real authority."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import grpc
import grpc.aio
import pytest

from keyauthority import Client, RateLimit, Restrictions, SecretKey
from keyauthority.http.client_address import TrustedProxies
from keyauthority.middleware.admission import Permissions
from keyauthority.middleware.grpc import AsyncKeyInterceptor, KeyInterceptor, caller
from keyauthority.testing import Authority

RULES: dict[str, Permissions] = {
    "/shop.Health/*": None,
    "/shop.Orders/One": ["orders:read"],
    "/shop.Orders/Many": ["orders:read"],
    "/shop.Orders/Add": ["orders:write"],
}
OK = grpc.StatusCode.OK
CASES = [
    ("/shop.Orders/One", True, OK),
    ("/shop.Orders/Many", True, OK),
    ("/shop.Orders/Add", True, grpc.StatusCode.PERMISSION_DENIED),
    ("/shop.Orders/Other", True, grpc.StatusCode.PERMISSION_DENIED),
    ("/shop.Orders/One", False, grpc.StatusCode.UNAUTHENTICATED),
    ("/shop.Orders/Many", False, grpc.StatusCode.UNAUTHENTICATED),
    ("/shop.Health/Check", False, OK),
]


def project_of_caller() -> bytes:
    """The project whose call is served, `nobody` if no key was needed."""
    try:
        return caller().project_id.encode()
    except LookupError:
        return b"nobody"


def one(request: bytes, context: object) -> bytes:
    """Answer once."""
    return project_of_caller()


def many(request: bytes, context: object) -> Iterator[bytes]:
    """Answer twice."""
    yield project_of_caller()
    yield project_of_caller()


async def one_later(request: bytes, context: object) -> bytes:
    """Answer once."""
    return project_of_caller()


async def many_later(request: bytes, context: object) -> AsyncIterator[bytes]:
    """Answer twice."""
    yield project_of_caller()
    yield project_of_caller()


def handlers(one: Callable[..., Any], many: Callable[..., Any]) -> list[grpc.GenericRpcHandler]:
    """The services of a shop."""
    unary: Any = grpc.unary_unary_rpc_method_handler(one)
    orders = {
        **dict.fromkeys(("One", "Add", "Other"), unary),
        "Many": grpc.unary_stream_rpc_method_handler(many),
    }
    return [
        grpc.method_handlers_generic_handler("shop.Orders", orders),
        grpc.method_handlers_generic_handler("shop.Health", {"Check": unary}),
    ]


@contextlib.contextmanager
def serving(verifier: Client, trusted_proxies: TrustedProxies = 0) -> Iterator[str]:
    """A threaded server with one interceptor."""
    interceptor = KeyInterceptor(verifier, RULES, trusted_proxies=trusted_proxies)
    with serving_with([interceptor]) as address:
        yield address


@contextlib.contextmanager
def serving_with(interceptors: Sequence[grpc.ServerInterceptor]) -> Iterator[str]:
    """A threaded server of one thread, so that a call has that of the call before."""
    server = grpc.server(ThreadPoolExecutor(1), handlers(one, many), list(interceptors))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@contextlib.asynccontextmanager
async def serving_later(authority: Authority) -> AsyncIterator[str]:
    """A server of asyncio."""
    async with authority.async_client() as verifier:
        server = grpc.aio.server(
            handlers=handlers(one_later, many_later),
            interceptors=[AsyncKeyInterceptor(verifier, RULES)],
        )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        yield f"127.0.0.1:{port}"
        await server.stop(None)


def answers(address: str, method: str, *metadata: tuple[str, str]) -> Any:
    """The answer to a call: its messages, or its status."""
    with grpc.insecure_channel(address) as channel:
        opened: Any = (channel.unary_stream if method.endswith("Many") else channel.unary_unary)(
            method
        )
        try:
            answer = opened(b"", metadata=metadata, timeout=10)
            return list(answer) if method.endswith("Many") else [answer]
        except grpc.RpcError as failed:
            return failed.code()


def expected(method: str, code: grpc.StatusCode, project_id: str) -> Any:
    """The expected answer."""
    if code is not OK:
        return code
    name = b"nobody" if "Health" in method else project_id.encode()
    return [name] * (2 if method.endswith("Many") else 1)


def test_threaded_server_applies_the_rules(
    client: Client, project_id: str, reader: SecretKey
) -> None:
    """Every kind of call knows its caller; unmatched calls are rejected."""
    with serving(client) as address:
        for method, with_key, code in CASES:
            metadata = [("x-api-key", reader.reveal())] if with_key else []
            assert expected(method, code, project_id) == answers(address, method, *metadata)


async def test_asyncio_server_applies_the_rules(
    key_authority: Authority, project_id: str, reader: SecretKey
) -> None:
    """The same rules and answers."""
    async with serving_later(key_authority) as address, grpc.aio.insecure_channel(address) as shop:
        for method, with_key, code in CASES:
            metadata = [("authorization", f"Bearer {reader.reveal()}")] if with_key else []
            assert expected(method, code, project_id) == await answers_later(shop, method, metadata)


async def answers_later(
    shop: grpc.aio.Channel, method: str, metadata: list[tuple[str, str]]
) -> Any:
    """The answer to a call: its messages, or its status."""
    try:
        if method.endswith("Many"):
            stream: Any = shop.unary_stream(method)
            return [answer async for answer in stream(b"", metadata=metadata, timeout=10)]
        unary: Any = shop.unary_unary(method)
        return [await unary(b"", metadata=metadata, timeout=10)]
    except grpc.aio.AioRpcError as failed:
        return failed.code()


def test_address_is_the_peers_unless_proxies_are_trusted(client: Client, project_id: str) -> None:
    """A caller that writes the header itself gains nothing."""
    key = client.create_key(
        project_id,
        mode="test",
        kind="secret",
        restrictions=Restrictions(allowed_ips=("192.0.2.0/24",)),
    ).secret_key.reveal()
    forged = [("x-api-key", key), ("x-forwarded-for", "192.0.2.7")]
    with serving(client) as address:
        assert grpc.StatusCode.PERMISSION_DENIED is answers(address, "/shop.Orders/One", *forged)
    for trusted in (1, ["127.0.0.0/8", "::1"]):
        with serving(client, trusted_proxies=trusted) as address:
            assert [project_id.encode()] == answers(address, "/shop.Orders/One", *forged)


def test_unreachable_authority_is_unavailable(reader: SecretKey) -> None:
    """An unknown result is neither valid nor denied."""
    with Client("127.0.0.1:1", timeout=0.5) as gone, serving(gone) as address:
        answer = answers(address, "/shop.Orders/One", ("x-api-key", reader.reveal()))
    assert grpc.StatusCode.UNAVAILABLE is answer


def test_status_text_is_fixed(key_authority: Authority, client: Client) -> None:
    """Clients learn nothing of the service's own key or faults."""
    powerless = client.create_key(kind="operator", permissions=["usage:read"]).secret_key
    metadata = ("x-api-key", "sk_live_unknown")
    with (
        Client(key_authority.address, operator_key=powerless) as verifier,
        serving(verifier) as address,
    ):
        assert (grpc.StatusCode.UNAVAILABLE, "unavailable") == status(address, metadata)
    with serving_with([KeyInterceptor(lambda: vars()["verifier"], RULES)]) as address:
        assert (grpc.StatusCode.INTERNAL, "internal") == status(address, metadata)
    with serving(client) as address:
        assert (grpc.StatusCode.UNAUTHENTICATED, "malformed") == status(address, metadata)
        assert (grpc.StatusCode.UNAUTHENTICATED, "no_key") == status(address)


def status(address: str, *metadata: tuple[str, str]) -> tuple[grpc.StatusCode, str]:
    """The status that a call ends with, and its text."""
    with grpc.insecure_channel(address) as channel:
        unary: Any = channel.unary_unary("/shop.Orders/One")
        with pytest.raises(grpc.RpcError) as refused:
            unary(b"", metadata=metadata, timeout=10)
    found: Any = refused.value
    return found.code(), found.details()


@pytest.mark.parametrize("method", ["/shop.Orders/One", "/shop.Orders/Many"])
def test_nested_interceptors_spend_a_limit_once(
    client: Client, project_id: str, method: str
) -> None:
    """The second one checks its permissions against the first verdict."""
    key = limited_key(client, project_id)
    interceptors: list[grpc.ServerInterceptor] = [
        KeyInterceptor(client, {"*": []}),
        KeyInterceptor(client, RULES),
    ]
    with serving_with(interceptors) as address:
        for _ in range(2):
            assert [project_id.encode()] == answers(address, method, ("x-api-key", key))[:1]
        limited = answers(address, method, ("x-api-key", key))
        assert grpc.StatusCode.RESOURCE_EXHAUSTED is limited


def limited_key(client: Client, project_id: str) -> str:
    """A key that may be used twice a day."""
    created = client.create_key(
        project_id,
        mode="test",
        kind="restricted",
        permissions=["orders:read"],
        rate_limit=RateLimit(2, timedelta(days=1)),
    )
    return created.secret_key.reveal()
