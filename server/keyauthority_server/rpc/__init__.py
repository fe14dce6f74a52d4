"""The RPC layer: authorizes callers, parses and validates requests, and serializes responses.

It must not decide a verdict or read the store: `keyauthority_server.services` does. Begin reading
with `services` below, which builds a handler for every method of the protos from its row in
`policy.POLICY` and its check in `validate.CHECKS`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn, Protocol

from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor

from keyauthority.errors import ErrorReason, error
from keyauthority.v1 import (
    advisory_service_pb2,
    audit_service_pb2,
    key_authority_service_pb2,
    project_service_pb2,
    usage_service_pb2,
)
from keyauthority_server.keyring import UnknownVersion
from keyauthority_server.overload.concurrency import CallClass, concurrency_limits
from keyauthority_server.overload.refused_work import RefusedWork
from keyauthority_server.overload.throttle import FailureThrottle, throttle_failures
from keyauthority_server.rpc.advisories import AdvisoryServicer
from keyauthority_server.rpc.audit import AuditServicer, denials_of
from keyauthority_server.rpc.cached_verify import CachedVerify
from keyauthority_server.rpc.credentials import by_operator, rejects_unparsed
from keyauthority_server.rpc.handlers import CallMetrics, Serve, authorize, map_errors, serialize
from keyauthority_server.rpc.key_authority import KeyAuthorityServicer
from keyauthority_server.rpc.policy import POLICY
from keyauthority_server.rpc.projects import ProjectServicer
from keyauthority_server.rpc.request_reader import RequestReader
from keyauthority_server.rpc.streams import StreamMetrics, Streams
from keyauthority_server.rpc.usage import UsageServicer
from keyauthority_server.rpc.validate import CHECKS
from keyauthority_server.rpc.watch import WatchServicer
from keyauthority_server.rpc_types import Call, Handler, Services, StreamMethod, UnaryMethod
from keyauthority_server.services import Authority

PROTOS: Final = (
    key_authority_service_pb2,
    project_service_pb2,
    usage_service_pb2,
    audit_service_pb2,
    advisory_service_pb2,
)

_HUMP: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")


class Metrics(Protocol):
    """Counters of calls, streams, verdicts and shed calls."""

    def call(self, service: str, method: str) -> CallMetrics:
        """Return the counter of a method."""
        ...

    def stream(self, service: str, method: str) -> StreamMetrics:
        """Return the counter of a streaming method."""
        ...

    def verification(self, verdict: str, number: int = 1) -> None:
        """Count verdicts of one kind."""
        ...

    def refused(self, reason: str, calls: int = 1) -> None:
        """Count calls that were shed."""
        ...


def services(authority: Authority, metrics: Metrics | None) -> Services:
    """Return all methods of all services, for a transport to serve."""
    count = metrics.verification if metrics else None
    servicers: Mapping[str, object] = {
        "KeyAuthorityService": KeyAuthorityServicer(authority, count),
        "ProjectService": ProjectServicer(authority),
        "UsageService": UsageServicer(authority),
        "AuditService": AuditServicer(authority),
        "AdvisoryService": AdvisoryServicer(authority),
    }
    limits, throttled, refused = concurrency_limits(), FailureThrottle(), RefusedWork(metrics)
    streams, watch = Streams(authority, throttled, metrics), WatchServicer(authority)

    def unary_method(method: MethodDescriptor) -> UnaryMethod:
        service, policy = method.containing_service, POLICY[method.full_name]
        counter = metrics.call(service.full_name, method.name) if metrics else None
        handler = _handler(authority, servicers.get(service.name), method, counter, refused)
        handler = throttle_failures(handler, by_operator(policy.credentials), throttled, metrics)
        handler = limits[policy.call_class].around(handler, metrics)
        shortcut = CachedVerify(authority, counter, count) if method.name == "Verify" else None
        urgent = policy.call_class is CallClass.URGENT
        return UnaryMethod(handler, shortcut, rejects_unparsed(policy.credentials), urgent=urgent)

    return {
        service.full_name: {
            method.name: _stream_method(streams, watch, method, metrics)
            if method.server_streaming
            else unary_method(method)
            for method in service.methods
        }
        for proto in PROTOS
        for service in proto.DESCRIPTOR.services_by_name.values()
    }


def _stream_method(
    streams: Streams, servicer: WatchServicer, method: MethodDescriptor, metrics: Metrics | None
) -> StreamMethod:
    request_type = message_factory.GetMessageClass(method.input_type)
    served = getattr(servicer, _HUMP.sub("_", method.name).lower())
    reader = RequestReader(request_type)
    policy = POLICY[method.full_name]
    authorized = streams.authorize(policy, reader, CHECKS[request_type], served)
    counter = metrics.stream(method.containing_service.full_name, method.name) if metrics else None
    handler = streams.map_errors(authorized, counter)
    return StreamMethod(handler, servicer.end, rejects_unparsed(policy.credentials))


def _handler(
    authority: Authority,
    servicer: object,
    method: MethodDescriptor,
    counter: CallMetrics | None,
    refused: RefusedWork,
) -> Handler:
    policy = POLICY[method.full_name]
    request_type = message_factory.GetMessageClass(method.input_type)
    reader, check = RequestReader(request_type), CHECKS[request_type]
    served = getattr(servicer, _HUMP.sub("_", method.name).lower(), None)
    denied = denials_of(authority, method.name) if policy.mutates else None
    serve = (
        authorize(authority, policy, reader, check, served, denied, refused)
        if served
        else _unimplemented
    )
    serve = _retry_on_new_pepper(authority, serve)
    return map_errors(serialize(serve), counter)


def _retry_on_new_pepper(authority: Authority, serve: Serve) -> Serve:
    """Return the method, retried once with reloaded peppers after UnknownVersion."""

    async def retried(call: Call, body: bytes) -> Any:
        try:
            return await serve(call, body)
        except UnknownVersion:  # raised before any write and before any limit is spent
            return await authority.with_current_peppers(lambda: serve(call, body))

    return retried


async def _unimplemented(call: Call, body: bytes) -> NoReturn:
    raise error(ErrorReason.UNIMPLEMENTED, "method not implemented by this version of the server")
