"""Several addresses of one authority: calls rotate over those that serve."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from keyauthority import AsyncClient, Client, InvalidArgument, Tls
from keyauthority._address import parse
from tests.client.conftest import Call
from tests.client.fake_authority import FakeAuthority
from tests.client.records import TOKEN, UNKNOWN_ANSWER
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
def test_addresses_that_do_not_serve_get_no_call(server: ServerProcess, draining: str) -> None:
    """Unreachable and draining servers are skipped."""
    addresses = ",".join((DEAD, draining, server.address))
    with Client(addresses, operator_key=server.operator_key) as client:
        assert ["malformed"] * CALLS == [client.verify("none").code for _ in range(CALLS)]


@one_server
async def test_addresses_that_do_not_serve_get_no_async_call(
    server: ServerProcess, draining: str
) -> None:
    """The asynchronous client does the same."""
    addresses = ",".join((DEAD, draining, server.address))
    async with AsyncClient(addresses, operator_key=server.operator_key) as client:
        codes = [(await client.verify("none")).code for _ in range(CALLS)]
    assert ["malformed"] * CALLS == codes


@one_server
def test_name_with_several_addresses_is_one_authority(server: ServerProcess) -> None:
    """`localhost` may have two addresses; calls reach the one that serves."""
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
def test_address_list_is_translated_for_grpc(address: str, expected: str) -> None:
    """A user writes a comma-separated list; gRPC has a scheme for it."""
    assert expected == parse(address).target


@pytest.mark.parametrize("address", ["a:1,b:1", "127.0.0.1:1,[::1]:1", "127.0.0.1:1,"])
def test_malformed_address_list_is_refused(address: str) -> None:
    """The error explains how to write several addresses."""
    with pytest.raises(InvalidArgument, match="dns:///name:port"):
        Client(address, allow_plaintext=True)


def test_address_list_with_tls_is_refused() -> None:
    """No certificate names a list."""
    with pytest.raises(InvalidArgument, match="certificate"):
        Client("127.0.0.1:1,127.0.0.1:2", tls=Tls(ca=b"-----BEGIN CERTIFICATE-----"))


@pytest.mark.parametrize(
    "address",
    [
        "dns:///10.9.8.7:50051#/127.0.0.1:1",
        "10.9.8.7:50051#/127.0.0.1:1",
        "dns:///10.9.8.7:50051?/127.0.0.1:1",
        "127.0.0.1:50051?x",
        "dns://8.8.8.8/localhost:50051",
        "dns:/localhost:50051",
        "dns:////localhost:50051",
        "dns:///user@localhost:50051",
        "user@127.0.0.1:50051",
        "127.0.0.1:50051@10.9.8.7:50051",
        "dns:///10.9.8.7%3A50051/127.0.0.1:1",
        "localhost%2e:50051",
        "ipv4:10.9.8.7:1#,127.0.0.1:1",
        "ipv4:///127.0.0.1:1",
        "ipv4://10.9.8.7/127.0.0.1:1",
        "ipv4:127.0.0.1",
        "ipv4:[::1]:1",
        "ipv6:127.0.0.1:1",
        "ipv6:[::1%25lo/x]:1",
        "ipv4:localhost:1",
        "unix://10.9.8.7/run/x",
        "unix:",
        "unix:/run/a#b",
        "unix:/run/a?b",
        "unix:/run/a%2fb",
        "unix:/run/a b",
        "UNIX:/run/x",
        "xds:///keyauthority",
        "passthrough:///127.0.0.1:1",
        "127.0.0.1",
        "[::1]",
        "::1:50051",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "127.0.0.1:http",
        "127.0.0.1:50051/",
        "127.0.0.1:50051 ",
        "127.0.0.1:\u0665",
        "127.0.0.1:50051\n",
        "host\x00:1",
        "-host:1",
        "fa\xdf.example:1",
        "a" * 64 + ":1",
        ":50051",
        "",
    ],
)
@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_ambiguous_address_is_refused(
    client: type[Client] | type[AsyncClient], address: str
) -> None:
    """The plaintext rule checks the text, so gRPC must not connect elsewhere."""
    with pytest.raises(InvalidArgument, match=r"^address: ") as refused:
        client(address)

    assert ["address"] == [violation.field for violation in refused.value.fields]


def test_localhost_resolving_elsewhere_is_not_loopback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A host table can send `localhost` to another machine."""
    elsewhere = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.9.8.7", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: elsewhere)

    with pytest.raises(InvalidArgument, match="plaintext"):
        Client("localhost:50051")


def test_operator_key_is_not_sent_to_an_environment_proxy(
    call: Call, authority: FakeAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client connects to its address for any proxy variable of gRPC."""
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        port = proxy.getsockname()[1]
        for name in ("grpc_proxy", "https_proxy", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        monkeypatch.setenv("GRPC_ADDRESS_HTTP_PROXY", f"127.0.0.1:{port}")
        monkeypatch.setenv("GRPC_ADDRESS_HTTP_PROXY_ENABLED_ADDRESSES", "0.0.0.0/0")
        monkeypatch.delenv("no_proxy", raising=False)
        authority.will(UNKNOWN_ANSWER)

        assert "unknown" == call("verify", TOKEN).code

        proxy.setblocking(False)
        with pytest.raises(BlockingIOError):
            proxy.accept()
