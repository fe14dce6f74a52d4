"""Envoy's external authorization: `Authorization/Check` in bytes, in and out.

A denial carries its HTTP status and body, so Envoy passes them on regardless of its settings
`failure_mode_allow` and `status_on_error`, which apply to a gateway that does not respond.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from google.protobuf.message import DecodeError

from keyauthority.gateway.check import Admitted, Checker
from keyauthority.gateway.identity import (
    REVISION,
    Identity,
    identity,
    identity_headers,
    names_to_remove,
)
from keyauthority.gateway.metrics import GRPC
from keyauthority.gateway.requirements import from_extensions
from keyauthority.gateway.v1 import check_pb2 as pb
from keyauthority.http import responses
from keyauthority.http.client_address import client_ip
from keyauthority.http.rejection import UNAVAILABLE, Rejection, RejectionKind

SERVICE: Final = "envoy.service.auth.v3.Authorization"

_CACHED: Final = 10_000  # callers, some 1 KB each
_CACHED_LENGTH: Final = 1_000  # characters of the grants; they may be 50 KB
_OVERWRITE: Final = 2  # HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
_CODES: Final = {  # of gRPC; not UNAVAILABLE, for which Envoy has a status of its own
    RejectionKind.UNAUTHENTICATED: 16,
    RejectionKind.FORBIDDEN: 7,
    RejectionKind.LIMITED: 8,
    RejectionKind.UNAVAILABLE: 7,
}


class EnvoyEnd:
    """Answers Envoy's checks."""

    def __init__(self, checker: Checker, *, keep_credential: bool) -> None:
        self._checker = checker
        self._keep_credential = keep_credential

    async def check(self, body: bytes) -> bytes:
        """Return the response to one CheckRequest; a malformed one is denied with 503."""
        try:
            attributes = pb.CheckRequest.FromString(body).attributes
        except DecodeError:
            return _denied(UNAVAILABLE)
        headers = _headers(attributes.request.http)
        address = client_ip(attributes.source.address.socket_address.address, (), 0)
        requirements = from_extensions(attributes.context_extensions)
        outcome = await self._checker.check(GRPC, headers, address, requirements)
        if isinstance(outcome, Rejection):
            return _denied(outcome)
        return self._admitted(headers, outcome)

    def _admitted(self, headers: list[tuple[str, str]], admitted: Admitted) -> bytes:
        verdict = admitted.verdict
        removed = names_to_remove(headers, admitted.key, keep_credential=self._keep_credential)
        varying = pb.OkResponse(
            headers=_options([(REVISION, str(verdict.revision))]),
            headers_to_remove=removed,
            response_headers_to_add=_options(responses.rate_limit_headers(verdict)),
        )
        caller = identity(verdict)
        long = sum(map(len, caller.permissions)) > _CACHED_LENGTH
        constant = _constant(caller) if long else _cached_constant(caller)
        # Parsers merge the two: a message field that occurs twice is one message.
        return constant + pb.CheckResponse(ok_response=varying).SerializeToString()


def _headers(request: pb.HttpRequest) -> list[tuple[str, str]]:
    """Return the headers, which Envoy sends in one of two forms."""
    if request.header_map.headers:
        return [
            (header.key.lower(), header.value or header.raw_value.decode("latin-1"))
            for header in request.header_map.headers
        ]
    return list(request.headers.items())


def _constant(caller: Identity) -> bytes:
    """Return the part of the response that is the same for each request of a caller."""
    response = pb.CheckResponse(
        status=pb.Status(), ok_response=pb.OkResponse(headers=_options(identity_headers(caller)))
    )
    fields = caller._asdict() | {"permissions": list(caller.permissions)}
    response.dynamic_metadata.update({"keyauthority": fields})
    return response.SerializeToString()


_cached_constant: Final = lru_cache(_CACHED)(_constant)


def _options(headers: Iterable[tuple[str, str]]) -> list[pb.HeaderOption]:
    return [
        pb.HeaderOption(
            header=pb.Header(key=name, value=text),
            append_action=_OVERWRITE,
            keep_empty_value=True,
        )
        for name, text in headers
    ]


def _denied(rejection: Rejection) -> bytes:
    status, _ = responses.STATUS[rejection.kind]
    headers = [("content-type", "application/json"), *responses.headers(rejection)]
    return pb.CheckResponse(
        status=pb.Status(code=_CODES[rejection.kind]),
        denied_response=pb.DeniedResponse(
            status=pb.HttpStatus(code=status),
            headers=_options(headers),
            body=responses.body(rejection).decode("ascii"),
        ),
    ).SerializeToString()
