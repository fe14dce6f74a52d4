"""One authority at several addresses: calls take turns over those that serve."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from keyauthority import AsyncClient, Client, InvalidArgument, Tls
from keyauthority._channel import target
from tests.conftest import one_server
from tests.service.processes import ServerProcess

CALLS: Final = 20
DEAD: Final = "127.0.0.1:1"


@pytest.fixture
def draining() -> Iterator[str]:
    """The address of one that is there, says that it does not serve, and does not."""
    servicer = health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    server = grpc.server(ThreadPoolExecutor(4))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@one_server
def test_addresses_that_do_not_serve_are_left_out(server: ServerProcess, draining: str) -> None:
    """Neither the dead nor the draining get a call."""
    addresses = ",".join((DEAD, draining, server.address))
    with Client(addresses, operator_key=server.operator_key) as client:
        assert ["malformed"] * CALLS == [client.verify("none").code for _ in range(CALLS)]


@one_server
async def test_addresses_that_do_not_serve_are_left_out_awaited(
    server: ServerProcess, draining: str
) -> None:
    """The same, by the other client."""
    addresses = ",".join((DEAD, draining, server.address))
    async with AsyncClient(addresses, operator_key=server.operator_key) as client:
        codes = [(await client.verify("none")).code for _ in range(CALLS)]
    assert ["malformed"] * CALLS == codes


@one_server
def test_name_with_several_addresses_is_one_authority(server: ServerProcess) -> None:
    """`localhost` may be two; calls go where somebody serves."""
    address = "dns:///" + server.address.replace("127.0.0.1", "localhost")
    with Client(address, operator_key=server.operator_key) as client:
        assert ["malformed"] * CALLS == [client.verify("none").code for _ in range(CALLS)]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:1", "127.0.0.1:1"),
        ("127.0.0.1:1,127.0.0.1:2", "ipv4:127.0.0.1:1,127.0.0.1:2"),
        ("[::1]:1,[::1]:2", "ipv6:[::1]:1,[::1]:2"),
        ("dns:///authority:50051", "dns:///authority:50051"),
        ("unix:/run/a,b", "unix:/run/a,b"),
    ],
)
def test_addresses_are_written_as_grpc_reads_them(address: str, expected: str) -> None:
    """A user writes a list; gRPC has a scheme for it."""
    assert expected == target(address, tls=False).address


@pytest.mark.parametrize("address", ["a:1,b:1", "127.0.0.1:1,[::1]:1", "127.0.0.1:1,"])
def test_list_that_grpc_would_not_understand_is_refused(address: str) -> None:
    """It says how several are written."""
    with pytest.raises(InvalidArgument, match="dns:///name:port"):
        Client(address, allow_plaintext=True)


def test_list_with_tls_is_refused() -> None:
    """No certificate names a list."""
    with pytest.raises(InvalidArgument, match="certificate"):
        Client("127.0.0.1:1,127.0.0.1:2", tls=Tls(ca=b"-----BEGIN CERTIFICATE-----"))
