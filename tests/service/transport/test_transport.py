"""Transport: health, reflection, malformed calls and size limits on every server."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from keyauthority.v1 import key_authority_service_pb2, key_authority_service_pb2_grpc
from tests.conftest import Start
from tests.service.callers import Caller, refusal
from tests.service.processes import ServerProcess

CALL_SECONDS = 10
NAMES = ("KeyAuthority", "Project", "Usage", "Audit", "Advisory")
OURS = {f"keyauthority.v1.{name}Service" for name in NAMES}
REFLECTION = {"grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"}
HEALTH = "grpc.health.v1.Health"
VERIFY = "/keyauthority.v1.KeyAuthorityService/Verify"
NO_MESSAGE = b"\xff\xff\xff"
LIST_SERVICES = b"\x3a\x00"  # field 7 of ServerReflectionRequest, empty


def tool(*arguments: str) -> str:
    """Run a client installed beside this Python, and return its output."""
    name, *rest = arguments
    program = Path(sys.executable).with_name(name)
    done = subprocess.run(
        [program, *rest], capture_output=True, check=False, text=True, timeout=CALL_SECONDS
    )
    assert 0 == done.returncode, done.stderr
    return done.stdout


def health(channel: grpc.Channel) -> Any:
    """The stub of health; its types know only the servicer."""
    return health_pb2_grpc.HealthStub(channel)


def call(
    channel: grpc.Channel,
    path: str,
    body: bytes = b"",
    metadata: tuple[tuple[str, str], ...] = (),
) -> bytes:
    """Make a unary call of bytes."""
    method: Any = channel.unary_unary(path)
    return cast("bytes", method(body, timeout=CALL_SECONDS, metadata=metadata))


def reflect(channel: grpc.Channel, service: str, requests: Iterator[bytes]) -> Iterator[bytes]:
    """Open a stream of reflection."""
    method: Any = channel.stream_stream(f"/{service}/ServerReflectionInfo")
    return cast("Iterator[bytes]", method(requests, timeout=CALL_SECONDS))


def status(error: BaseException) -> grpc.Call:
    """The failure of a call."""
    assert isinstance(error, grpc.RpcError)
    return cast("grpc.Call", error)


def refused(channel: grpc.Channel, path: str, body: bytes = b"") -> grpc.StatusCode:
    """The code that a unary call of bytes fails with."""
    with pytest.raises(grpc.RpcError) as failed:
        call(channel, path, body)
    return status(failed.value).code()


@pytest.mark.parametrize("service", ["", "keyauthority.changes", *sorted(OURS)])
def test_health_of_each_service_is_serving(channel: grpc.Channel, service: str) -> None:
    """Health knows the server as a whole and each of its services."""
    request = health_pb2.HealthCheckRequest(service=service)
    answer = health(channel).Check(request, timeout=CALL_SECONDS)
    assert health_pb2.HealthCheckResponse.SERVING == answer.status


def test_health_of_an_unknown_service_is_not_found(channel: grpc.Channel) -> None:
    """Check answers NOT_FOUND, Watch SERVICE_UNKNOWN, as the health protocol defines."""
    request = health_pb2.HealthCheckRequest(service="no.such.Service")
    code = refused(channel, f"/{HEALTH}/Check", request.SerializeToString())
    assert grpc.StatusCode.NOT_FOUND == code
    watch = health(channel).Watch(request, timeout=CALL_SECONDS)
    assert health_pb2.HealthCheckResponse.SERVICE_UNKNOWN == next(watch).status
    watch.cancel()


def test_health_list_names_the_server_and_each_service(channel: grpc.Channel) -> None:
    """List is reflected, so it is served: one status for each name that Check knows."""
    answer = health(channel).List(cast("Any", health_pb2).HealthListRequest(), timeout=CALL_SECONDS)
    statuses = {name: one.status for name, one in answer.statuses.items()}
    assert (
        dict.fromkeys({"", "keyauthority.changes", *OURS}, health_pb2.HealthCheckResponse.SERVING)
        == statuses
    )


@pytest.mark.parametrize(
    "path",
    [
        "/keyauthority.v1.KeyAuthorityService/NoSuchMethod",
        "/no.such.Service/Method",
        f"/{HEALTH}/X",
    ],
)
def test_unknown_method_is_unimplemented(channel: grpc.Channel, path: str) -> None:
    """The error carries a reason, like that of every refused call."""
    with pytest.raises(grpc.RpcError) as failed:
        call(channel, path)
    told = refusal(failed.value)
    assert (grpc.StatusCode.UNIMPLEMENTED, "UNIMPLEMENTED") == (told.code, told.reason)


@pytest.mark.parametrize("service", [HEALTH, *sorted(REFLECTION)])
def test_malformed_message_error_contains_no_exception_text(
    channel: grpc.Channel, service: str
) -> None:
    """It is INVALID_ARGUMENT, the client's fault, and shows no internals."""

    def send() -> object:
        if service == HEALTH:
            return call(channel, f"/{HEALTH}/Check", NO_MESSAGE)
        return list(reflect(channel, service, iter([NO_MESSAGE])))

    with pytest.raises(grpc.RpcError) as failed:
        send()
    told = refusal(failed.value)
    assert (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_MESSAGE") == (told.code, told.reason)
    details = told.details.lower()
    assert [] == [word for word in ("exception", "error:", "decode", "<class") if word in details]


def test_message_over_4_mib_is_rejected(root: Caller) -> None:
    """It is RESOURCE_EXHAUSTED before the message is parsed."""
    request = key_authority_service_pb2.VerifyRequest(secret_key="x" * (4 * 1024 * 1024))
    told = root.refused(request)
    assert (grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE") == (told.code, told.reason)


def test_metadata_over_8_kib_is_rejected(server: ServerProcess, channel: grpc.Channel) -> None:
    """Metadata over the limit is rejected, smaller metadata is read.

    The native transport answers HTTP 431, which clients report as UNKNOWN.
    """
    path = f"/{HEALTH}/Check"
    call(channel, path, metadata=(("x-filler", "x" * 7000),))
    with pytest.raises(grpc.RpcError) as failed:
        call(channel, path, metadata=(("x-filler", "x" * 8192),))
    native = "transport=native" in server.log_text()
    expected = grpc.StatusCode.UNKNOWN if native else grpc.StatusCode.RESOURCE_EXHAUSTED
    assert expected == status(failed.value).code()


def test_grpcurl_lists_and_describes_services_by_reflection(server: ServerProcess) -> None:
    """A client that only knows v1alpha finds every service."""
    listed = tool("grpcurl", "-plaintext", server.address, "list")
    assert OURS | REFLECTION | {HEALTH} == set(listed.split())
    described = tool(
        "grpcurl", "-plaintext", server.address, "describe", "keyauthority.v1.KeyAuthorityService"
    )
    assert "rpc Verify" in described


@pytest.mark.parametrize(
    ("symbol", "shown"),
    [
        ("keyauthority.v1.KeyAuthorityService.Verify", "rpc Verify"),
        ("keyauthority.v1.VerifyRequest", "string secret_key"),
        ("keyauthority.v1.ErrorReason", "ERROR_REASON_KEY_STATE"),
        ("google.rpc.ErrorInfo", "string reason"),
    ],
)
def test_reflection_describes_every_kind_of_symbol(
    server: ServerProcess, symbol: str, shown: str
) -> None:
    """Methods, messages and types used only in errors are found by name."""
    assert shown in tool("grpcurl", "-plaintext", server.address, "describe", symbol)


def test_buf_lists_and_calls_by_reflection(server: ServerProcess) -> None:
    """A client that asks for v1 finds every service and can call one."""
    curl = ("buf", "curl", "--protocol", "grpc", "--http2-prior-knowledge")
    listed = tool(*curl, "--list-services", f"http://{server.address}")
    assert OURS | REFLECTION | {HEALTH} == set(listed.split())
    answer = tool(*curl, "-d", "{}", f"http://{server.address}/{HEALTH}/Check")
    assert '{"status":"SERVING"}' == "".join(answer.split())


def test_disabled_reflection_is_unimplemented(start_server: Start, transport: str) -> None:
    """With --no-reflection nothing is described."""
    server = start_server("--transport", transport, "--no-reflection")
    with grpc.insecure_channel(server.address) as channel:
        for service in sorted(REFLECTION):
            with pytest.raises(grpc.RpcError) as failed:
                list(reflect(channel, service, iter([LIST_SERVICES])))
            assert grpc.StatusCode.UNIMPLEMENTED == status(failed.value).code()


def test_open_reflection_stream_does_not_delay_the_drain(
    start_server: Start, transport: str
) -> None:
    """The server ends the stream of an idle client."""
    server = start_server("--transport", transport)
    ended = threading.Event()

    def requests() -> Iterator[bytes]:
        yield LIST_SERVICES
        ended.wait(CALL_SECONDS)

    with grpc.insecure_channel(server.address) as channel:
        stream = reflect(channel, min(REFLECTION), requests())
        assert next(stream)
        server.terminate()
        assert [] == list(stream)
        ended.set()
    assert 0 == server.wait().code


def test_verify_is_served_on_every_connection(server: ServerProcess) -> None:
    """Connections spread over the workers, and each worker serves."""
    for _ in range(16):
        options = (("grpc.use_local_subchannel_pool", 1),)
        with grpc.insecure_channel(server.address, options) as channel:
            stub = key_authority_service_pb2_grpc.KeyAuthorityServiceStub(channel)
            answer = stub.Verify(
                key_authority_service_pb2.VerifyRequest(secret_key="no key"),
                metadata=server.metadata,
                timeout=CALL_SECONDS,
            )
            assert key_authority_service_pb2.VERDICT_MALFORMED == answer.verdict
