"""The RPC layer: authorizes callers, parses and validates requests, and serializes responses.

It must not decide a verdict or read the store: `keyauthority_server.services` does. Begin reading
with `services` below, which builds a handler for every method of the protos from its row in
`policy.POLICY` and its check in `validate.CHECKS`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Final, Protocol

from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor

from keyauthority.v1 import (
    advisory_service_pb2,
    audit_service_pb2,
    key_authority_service_pb2,
    project_service_pb2,
    usage_service_pb2,
)
from keyauthority_server.overload.concurrency import CallClass, concurrency_limits
from keyauthority_server.overload.refused_work import RefusedWork
from keyauthority_server.overload.throttle import FailureThrottle, throttle_failures
from keyauthority_server.rpc.advisories import AdvisoryServicer
from keyauthority_server.rpc.audit import AuditServicer, denials_of
from keyauthority_server.rpc.cached_verify import CachedVerify
from keyauthority_server.rpc.credentials import by_operator, rejects_unparsed
from keyauthority_server.rpc.handlers import CallMetrics, Check, authorize, map_errors, serialize
from keyauthority_server.rpc.key_authority import KeyAuthorityServicer
from keyauthority_server.rpc.policy import POLICY, RpcPolicy
from keyauthority_server.rpc.projects import ProjectServicer
from keyauthority_server.rpc.request_reader import RequestReader
from keyauthority_server.rpc.streams import StreamHandlers, StreamMetrics
from keyauthority_server.rpc.usage import UsageServicer
from keyauthority_server.rpc.validate import CHECKS
from keyauthority_server.rpc.watch import WatchServicer
from keyauthority_server.rpc_types import Services, StreamMethod, UnaryMethod
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
    watch = WatchServicer(authority)
    servicers: Mapping[str, object] = {
        "KeyAuthorityService": KeyAuthorityServicer(authority, count),
        "ProjectService": ProjectServicer(authority),
        "UsageService": UsageServicer(authority),
        "AuditService": AuditServicer(authority),
        "AdvisoryService": AdvisoryServicer(authority),
    }
    limits, throttled, refused = concurrency_limits(), FailureThrottle(), RefusedWork(metrics)
    streams = StreamHandlers(authority, throttled, metrics)

    def unary_method(method: MethodDescriptor, policy: RpcPolicy) -> UnaryMethod:
        service = method.containing_service
        counter = metrics.call(service.full_name, method.name) if metrics else None
        served = getattr(servicers[service.name], _attribute(method))
        denied = denials_of(authority, method.name) if policy.mutates else None
        serve = authorize(authority, policy, *_request(method), served, denied, refused)
        serve = partial(authority.with_current_peppers, serve)
        handler = map_errors(serialize(serve), counter)
        handler = throttle_failures(handler, by_operator(policy.credentials), throttled, metrics)
        handler = limits[policy.call_class].around(handler, metrics)
        shortcut = CachedVerify(authority, counter, count) if method.name == "Verify" else None
        urgent = policy.call_class is CallClass.URGENT
        return UnaryMethod(handler, shortcut, rejects_unparsed(policy.credentials), urgent=urgent)

    def stream_method(method: MethodDescriptor, policy: RpcPolicy) -> StreamMethod:
        service = method.containing_service
        counter = metrics.stream(service.full_name, method.name) if metrics else None
        served = getattr(watch, _attribute(method))
        authorized = streams.authorize(policy, *_request(method), served)
        handler = streams.map_errors(authorized, counter)
        return StreamMethod(handler, watch.end, rejects_unparsed(policy.credentials))

    return {
        service.full_name: {
            method.name: (stream_method if method.server_streaming else unary_method)(
                method, POLICY[method.full_name]
            )
            for method in service.methods
        }
        for proto in PROTOS
        for service in proto.DESCRIPTOR.services_by_name.values()
    }


def _attribute(method: MethodDescriptor) -> str:
    """Return the name of the servicer's method."""
    return _HUMP.sub("_", method.name).lower()


def _request(method: MethodDescriptor) -> tuple[RequestReader, Check]:
    """Return the reader of the method's requests, and the check of their fields."""
    request_type = message_factory.GetMessageClass(method.input_type)
    return RequestReader(request_type), CHECKS[request_type]
