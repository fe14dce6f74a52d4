"""Verify as JSON over HTTP, beside gRPC, on one core."""

from __future__ import annotations

from contextlib import closing
from typing import Final

from google.protobuf import json_format

from benchmarks.authority import ASKED, serving
from benchmarks.figures import Part
from benchmarks.h2load import CONNECTIONS, STREAMS, Http1Load, Load, Target, require
from benchmarks.run import Run, take_turns
from keyauthority.v1 import key_authority_service_pb2 as pb
from tests.service.http_channel import HttpChannel

_GRPC: Final = "gRPC, native transport"
_GRPCIO: Final = "gRPC, grpcio"
_JSON: Final = "JSON over HTTP"
_PROTO: Final = "protobuf over HTTP"
_TEXT: Final = f"""\
Calls a second of Verify with a permission and an address, SQLite, one core: one question, repeated
by {CONNECTIONS * STREAMS} callers. HTTP/1.1 has a connection for each caller, gRPC {CONNECTIONS}
connections. The same handlers answer; the difference is the conversion of JSON and the library for
HTTP, both in Python."""


def measure(run: Run) -> Part:
    """Measure both transports of gRPC and both formats over HTTP, in turn."""
    require()
    part = Part("Verify over HTTP", _TEXT)
    with (
        serving(run, "http", "--transport", "native", "--http", "127.0.0.1:0") as authority,
        serving(run, "http-grpcio", "--transport", "grpcio") as reference,
    ):
        asked = authority.verify(authority.strict(), **ASKED)
        http = authority.server.http
        sides = {
            _GRPC: Load(run, asked),
            _GRPCIO: Load(run, reference.verify(reference.strict(), **ASKED)),
            _JSON: Http1Load(run, _as_json(asked, http), "application/json"),
            _PROTO: Http1Load(run, asked._replace(address=http), "application/proto"),
        }
        part.add("calls/s", take_turns(sides, run.rounds))
    part.compare("JSON over HTTP to gRPC", _JSON, _GRPC, "≥ 0.15")
    part.compare("protobuf over HTTP to gRPC", _PROTO, _GRPC)
    part.compare("JSON over HTTP to gRPC on grpcio", _JSON, _GRPCIO)
    return part


def _as_json(asked: Target, address: str) -> Target:
    """Return the same call as JSON, once it has been made and answered."""
    request = pb.VerifyRequest.FromString(asked.body)
    body = json_format.MessageToJson(request, indent=None).encode()
    name, _, value = asked.headers[0].partition(": ")
    with closing(HttpChannel(address)) as channel:
        answer = channel.request(asked.path, body, [(name, value)])
    assert answer.json["valid"], answer
    return asked._replace(address=address, body=body, answer=len(answer.body))
