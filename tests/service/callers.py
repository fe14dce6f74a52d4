"""Callers of a server: a connection, a credential, and the results of calls.

Black-box: nothing here knows more of the server than the protos and the metadata of section 7.
"""

from __future__ import annotations

import string
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple, cast

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status

from keyauthority.v1 import (
    advisory_service_pb2,
    audit_service_pb2,
    key_authority_service_pb2,
    key_pb2,
    project_service_pb2,
    usage_service_pb2,
)

CALL_SECONDS: Final = 20
MIB: Final = 1024 * 1024
BASE62: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
DETAILS: Final = "grpc-status-details-bin"
ABSENT_KEY: Final = "KA000000000000000000"
OK: Final = grpc.StatusCode.OK

METHODS: Final[dict[str, MethodDescriptor]] = {
    method.name: method
    for file in (
        key_authority_service_pb2,
        project_service_pb2,
        usage_service_pb2,
        audit_service_pb2,
        advisory_service_pb2,
    )
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
"""Every RPC of every service, by its name, which no two share."""


class Refusal(NamedTuple):
    """The failure of a call, as the caller sees it."""

    code: grpc.StatusCode
    reason: str
    """The name of the ErrorReason without its prefix; empty without one."""
    fields: set[str]
    """The fields that BadRequest names."""
    metadata: dict[str, str]
    """The metadata of ErrorInfo."""
    details: str
    status: bytes
    """The whole google.rpc.Status."""


@dataclass(frozen=True)
class Caller:
    """Makes calls over one connection with one set of metadata."""

    channel: grpc.Channel
    metadata: tuple[tuple[str, str], ...] = ()
    key: key_pb2.Key = field(default_factory=key_pb2.Key)
    """The operator key of this caller, if a test made it."""

    def bearing(self, *metadata: tuple[str, str]) -> Caller:
        """Return the same caller with other metadata."""
        return replace(self, metadata=metadata, key=key_pb2.Key())

    def send(self, name: str, body: bytes) -> bytes:
        """Make a call of bytes; of a stream, return the first message."""
        method = METHODS[name]
        path = f"/{method.containing_service.full_name}/{name}"
        if method.server_streaming:
            opened: Any = self.channel.unary_stream(path)
            stream = opened(body, metadata=self.metadata, timeout=CALL_SECONDS)
            try:
                return cast("bytes", next(stream))
            finally:
                stream.cancel()
        unary: Any = self.channel.unary_unary(path)
        return cast("bytes", unary(body, metadata=self.metadata, timeout=CALL_SECONDS))

    def ask(self, request: Message) -> Any:
        """Make the call that this request belongs to; return its response."""
        name = request.DESCRIPTOR.name.removesuffix("Request")
        response = message_factory.GetMessageClass(METHODS[name].output_type)
        return response.FromString(self.send(name, request.SerializeToString()))

    def refused(self, request: Message) -> Refusal:
        """Make a call that must fail; return how it did."""
        with pytest.raises(grpc.RpcError) as failed:
            self.ask(request)
        return refusal(failed.value)

    def outcome(self, name: str, body: bytes) -> Refusal | None:
        """Make a call of bytes; return how it failed, None if it did not."""
        try:
            self.send(name, body)
        except grpc.RpcError as error:
            return refusal(error)
        return None


def refusal(failure: BaseException) -> Refusal:
    """Return the details of a failed call."""
    call = cast("grpc.Call", failure)
    raw = dict(call.trailing_metadata() or ()).get(DETAILS, b"")
    body = raw if isinstance(raw, bytes) else raw.encode("latin-1")
    status, info, bad = Status.FromString(body), ErrorInfo(), BadRequest()
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad)
    assert not info.reason or info.domain == "keyauthority"
    return Refusal(
        call.code(),
        info.reason.removeprefix("ERROR_REASON_"),
        {violation.field for violation in bad.field_violations},
        dict(info.metadata),
        call.details() or "",
        body,
    )


def bearer(token: str) -> tuple[str, str]:
    """The metadata that carries an operator key."""
    return ("authorization", f"Bearer {token}")


def new_project(root: Caller, display_name: str = "") -> str:
    """Make a project; return its id."""
    request = project_service_pb2.CreateProjectRequest(display_name=display_name)
    return str(root.ask(request).project.project_id)


def key_request(project_id: str, kind: str = "SECRET", **fields: Any) -> Any:
    """A CreateKeyRequest that is served: TEST by default, with permissions where needed."""
    if kind != "SECRET":
        right = "keys:read" if kind == "OPERATOR" else "orders:read"
        fields.setdefault("permissions", [right])
    if kind != "OPERATOR":
        fields.setdefault("mode", key_pb2.KEY_MODE_TEST)
    return key_authority_service_pb2.CreateKeyRequest(
        project_id=project_id, kind=key_pb2.KeyKind.Value(f"KEY_KIND_{kind}"), **fields
    )


def new_key(root: Caller, project_id: str, kind: str = "SECRET", **fields: Any) -> Any:
    """Make a key; return the CreateKeyResponse."""
    return root.ask(key_request(project_id, kind, **fields))


def new_operator(
    root: Caller, *permissions: str, projects: Sequence[str] = (), **fields: Any
) -> Caller:
    """Make an operator key with these rights; return who calls with it."""
    made = new_key(
        root,
        "",
        "OPERATOR",
        permissions=permissions,
        operator_projects=projects,
        **fields,
    )
    return Caller(root.channel, (bearer(made.secret_key),), made.key)


def verify(caller: Caller, secret_key: str, **facts: Any) -> Any:
    """Verify a token; return the VerifyResponse."""
    return caller.ask(key_authority_service_pb2.VerifyRequest(secret_key=secret_key, **facts))


def verdict(caller: Caller, secret_key: str, **facts: Any) -> str:
    """Verify a token; return the verdict's name without its prefix."""
    answer = verify(caller, secret_key, **facts)
    name = key_authority_service_pb2.Verdict.Name(answer.verdict).removeprefix("VERDICT_")
    assert answer.valid is (name == "VALID")
    return name


def lasting(key: key_pb2.Key) -> key_pb2.Key:
    """The record without its usage, which is no change."""
    copy = key_pb2.Key()
    copy.CopyFrom(key)
    copy.ClearField("last_used_time")
    return copy


def revoke(caller: Caller, **fields: Any) -> Any:
    """Revoke a key; return the RevokeKeyResponse."""
    return caller.ask(key_authority_service_pb2.RevokeKeyRequest(**fields))


def get_key(caller: Caller, access_key: str) -> Any:
    """Return a key's record."""
    return caller.ask(key_authority_service_pb2.GetKeyRequest(access_key=access_key)).key


def mended(token: str) -> str:
    """Return the token with recomputed check digits."""
    number = zlib.crc32(token[:-6].encode("ascii"))
    digits = ""
    for _ in range(6):
        number, place = divmod(number, 62)
        digits = BASE62[place] + digits
    return token[:-6] + digits


def with_other_secret(token: str) -> str:
    """Return a well-formed token of the same key with another secret."""
    digit = "1" if token[40] != "1" else "2"
    return mended(token[:40] + digit + token[41:])


def absent_project() -> str:
    """An id that no project has."""
    return str(uuid.uuid4())
