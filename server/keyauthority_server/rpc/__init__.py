"""The wire's side of the authority: unpack, who calls, may he, pack. It decides nothing.

`services` gives what a transport serves: a handler for every method of every service that the
protos describe, each behind its row of the policy and its check.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NoReturn, Protocol

from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from keyauthority.errors import ErrorReason, error
from keyauthority.v1 import (
    audit_service_pb2,
    key_authority_service_pb2,
    project_service_pb2,
    usage_service_pb2,
)
from keyauthority_server.authority import Authority
from keyauthority_server.rpc.interceptors import CallMetrics, guard, unary
from keyauthority_server.rpc.key_authority import KeyAuthorityServicer
from keyauthority_server.rpc.policy import POLICY
from keyauthority_server.rpc.projects import ProjectServicer
from keyauthority_server.rpc.usage import UsageServicer
from keyauthority_server.rpc.validate import CHECKS
from keyauthority_server.wire import Answer, Call, Services

PROTOS: Final = (
    key_authority_service_pb2,
    project_service_pb2,
    usage_service_pb2,
    audit_service_pb2,
)

_HUMP: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")


class Metrics(Protocol):
    """Gives each method its counter, and counts verdicts."""

    def call(self, service: str, method: str) -> CallMetrics:
        """Return the counter of a method."""
        ...

    def verification(self, verdict: str) -> None:
        """Count one verdict."""
        ...


def services(authority: Authority, metrics: Metrics | None) -> Services:
    """Return all methods of all services, as a transport takes them."""
    count = metrics.verification if metrics else None
    servicers: Mapping[str, object] = {
        "KeyAuthorityService": KeyAuthorityServicer(authority, count),
        "ProjectService": ProjectServicer(authority),
        "UsageService": UsageServicer(authority),
    }
    return {
        service.full_name: {
            method.name: _answer(authority, servicers.get(service.name), method, metrics)
            for method in service.methods
        }
        for proto in PROTOS
        for service in proto.DESCRIPTOR.services_by_name.values()
    }


def _answer(
    authority: Authority, servicer: object, method: MethodDescriptor, metrics: Metrics | None
) -> Answer:
    row = POLICY[method.full_name]
    request_type = message_factory.GetMessageClass(method.input_type)
    served = getattr(servicer, _HUMP.sub("_", method.name).lower(), None)
    serve = guard(authority, row, CHECKS[request_type], served) if served else _unimplemented
    counter = metrics.call(method.containing_service.full_name, method.name) if metrics else None
    return unary(request_type, serve, counter)


async def _unimplemented(call: Call, request: Message | None) -> NoReturn:
    raise error(ErrorReason.UNIMPLEMENTED, "this version of the server does not serve the call")
