"""A server in this process with scripted answers, for tests of a client's requests and results.

It judges nothing: that the real server gives such answers is for the tests of the service.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from keyauthority.convert import status_from_error
from keyauthority.errors import KeyAuthorityError
from keyauthority.v1 import (
    advisory_service_pb2,
    audit_service_pb2,
    key_authority_service_pb2,
    project_service_pb2,
    usage_service_pb2,
)

Answer = Callable[[grpc.ServicerContext], Message]


class Seen(NamedTuple):
    """A call as it arrived."""

    method: str
    request: Any
    metadata: dict[str, str | bytes]
    seconds_left: float


class FakeAuthority:
    """Answers each call with the next of `answers`, the last one again and again."""

    def __init__(self) -> None:
        self.address = ""
        self.seen: list[Seen] = []
        self.answers: deque[Answer] = deque()

    def will(self, *answers: Message | KeyAuthorityError | Answer) -> None:
        """Set the answer of the next calls: a message, an error, or a function to call."""
        self.answers = deque(_answer(one) for one in answers)

    def handle(self, method: str, request: Message, context: grpc.ServicerContext) -> Message:
        """Note the call and answer it."""
        metadata = dict(context.invocation_metadata())
        self.seen.append(Seen(method, request, metadata, context.time_remaining()))
        answer = self.answers.popleft() if len(self.answers) > 1 else self.answers[0]
        return answer(context)


def _answer(given: Message | KeyAuthorityError | Answer) -> Answer:
    if isinstance(given, KeyAuthorityError):
        return lambda context: _abort(context, given)
    if isinstance(given, Message):
        return lambda context: given
    return given


def _abort(context: grpc.ServicerContext, error: KeyAuthorityError) -> NoReturn:
    details = status_from_error(error).SerializeToString()
    context.set_trailing_metadata((("grpc-status-details-bin", details),))
    context.abort(grpc.StatusCode[error.status], error.message)
    raise AssertionError("abort returns")


def _handlers(fake: FakeAuthority, service: ServiceDescriptor) -> grpc.GenericRpcHandler:
    def handler(name: str, request_type: type[Message]) -> grpc.RpcMethodHandler[Any, Any]:
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: fake.handle(name, request, context),
            request_deserializer=request_type.FromString,
            response_serializer=lambda response: response.SerializeToString(),
        )

    return grpc.method_handlers_generic_handler(
        service.full_name,
        {
            method.name: handler(method.name, GetMessageClass(method.input_type))
            for method in service.methods
        },
    )


@contextmanager
def fake_authority() -> Iterator[FakeAuthority]:
    """Serve on a port of its own until the block ends."""
    fake = FakeAuthority()
    server = grpc.server(ThreadPoolExecutor(max_workers=4))
    for file in (
        advisory_service_pb2,
        audit_service_pb2,
        key_authority_service_pb2,
        project_service_pb2,
        usage_service_pb2,
    ):
        server.add_generic_rpc_handlers(
            [_handlers(fake, service) for service in file.DESCRIPTOR.services_by_name.values()]
        )
    fake.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield fake
    finally:
        server.stop(None).wait()
