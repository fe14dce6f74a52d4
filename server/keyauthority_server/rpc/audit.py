"""The servicer of AuditService, and what notes refused mutations around the others' methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from google.protobuf.message import Message

from keyauthority import convert
from keyauthority.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    KeyAuthorityError,
    NotFound,
    PermissionDenied,
)
from keyauthority.token import ACCESS_KEY_PATTERN
from keyauthority.v1 import audit_service_pb2 as pb
from keyauthority_server.audit.denials import DeniedCall
from keyauthority_server.rpc.credentials import credential_of
from keyauthority_server.rpc.field_rules import is_uuid
from keyauthority_server.rpc.fingerprint import DEFAULT_PAGE_SIZE, content_of
from keyauthority_server.rpc.handlers import Serve
from keyauthority_server.rpc.request_reader import RequestReader
from keyauthority_server.rpc_types import Call
from keyauthority_server.services import Authority, CertificateIdentity, Principal

# Given only to a caller who is known. INVALID_ARGUMENT is not among them: who mistypes a request
# has tried nothing, and what he wrote need not be of any form.
_NOTED: Final = (PermissionDenied, NotFound, AlreadyExists, Aborted, FailedPrecondition)


class AuditServicer:
    """Methods in the order of the proto."""

    def __init__(self, authority: Authority) -> None:
        self._audit = authority.audit

    async def list_events(
        self, caller: Principal, request: pb.ListEventsRequest
    ) -> pb.ListEventsResponse:
        """See the proto."""
        query = convert.event_query_from_proto(request)
        page = await self._audit.list(
            caller, query, content_of(request), query.page_size or DEFAULT_PAGE_SIZE
        )
        return convert.event_page_to_proto(page)


def record_denials(authority: Authority, method: str, reader: RequestReader, serve: Serve) -> Serve:
    """Return a method that changes something so that its refusals are noted."""

    async def noted(call: Call, body: bytes) -> Any:
        try:
            return await serve(call, body)
        except _NOTED as refusal:
            request = reader.read_or_none(body)
            authority.audit.denied(_attempt(call, method, request, refusal))
            raise

    return noted


def _attempt(
    call: Call, method: str, request: Message | None, refusal: KeyAuthorityError
) -> DeniedCall:
    credential = credential_of(call)
    named = credential.key if isinstance(credential, CertificateIdentity) else credential.token
    return DeniedCall(
        actor=named.access_key,
        peer=credential.address,
        method=method,
        reason=refusal.reason.value if refusal.reason else "",
        project_id=_if_one(is_uuid, getattr(request, "project_id", "")),
        access_key=_if_one(ACCESS_KEY_PATTERN.fullmatch, getattr(request, "access_key", "")),
    )


def _if_one(shaped: Callable[[str], object], text: str) -> str:
    """Return what stands for an id if it has the shape of one, else nothing.

    Who lacks the right is refused before his request is read: it may have a secret in that place.
    """
    return text if shaped(text) else ""
