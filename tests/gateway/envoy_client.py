"""Envoy's side of an authorization check, for tests without Envoy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import grpc

from keyauthority.gateway.envoy import SERVICE
from keyauthority.gateway.v1 import check_pb2 as pb

CHECK = f"/{SERVICE}/Check"
HEALTH = "/grpc.health.v1.Health/Check"
CALL_SECONDS = 30


def request(
    headers: Mapping[str, str], *, source: str = "192.0.2.7", **extensions: str
) -> pb.CheckRequest:
    """Return a check of a request with these headers and requirements."""
    address = pb.Address(socket_address=pb.SocketAddress(address=source))
    return pb.CheckRequest(
        attributes=pb.AttributeContext(
            source=pb.Peer(address=address),
            request=pb.Request(http=pb.HttpRequest(headers=headers)),
            context_extensions=extensions,
        )
    )


def raw(headers: Sequence[tuple[str, str]], **extensions: str) -> pb.CheckRequest:
    """Return the same as Envoy sends it with `encode_raw_headers`."""
    asked = request({}, **extensions)
    asked.attributes.request.http.header_map.headers.extend(
        pb.Header(key=name, raw_value=text.encode("latin-1")) for name, text in headers
    )
    return asked


def ask(address: str, asked: pb.CheckRequest) -> pb.CheckResponse:
    """Ask a gateway."""
    return pb.CheckResponse.FromString(call(address, CHECK, asked.SerializeToString()))


def call(address: str, method: str, body: bytes) -> bytes:
    """Make one call in bytes."""
    with grpc.insecure_channel(address) as channel:
        ask_for: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
        return ask_for(body, timeout=CALL_SECONDS)


def word(response: pb.CheckResponse) -> tuple[int, str]:
    """Return the HTTP status and body of a response: 200 if the request is allowed."""
    if response.WhichOneof("http_response") == "ok_response":
        return 200, ""
    denied = response.denied_response
    return denied.status.code, denied.body
