"""Servicer of AuditService, and the record of denied mutations."""

from __future__ import annotations

from collections.abc import Callable

from google.protobuf.message import Message

from keyauthority import convert
from keyauthority.errors import KeyAuthorityError
from keyauthority.token import ACCESS_KEY_PATTERN
from keyauthority.v1 import audit_service_pb2 as pb
from keyauthority_server.audit.denials import DeniedCall
from keyauthority_server.rpc.credentials import credential_of
from keyauthority_server.rpc.field_rules import is_uuid
from keyauthority_server.rpc.fingerprint import DEFAULT_PAGE_SIZE, content_of
from keyauthority_server.rpc.handlers import Denied
from keyauthority_server.rpc_types import Call
from keyauthority_server.services import Authority, CertificateIdentity, Principal


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


def denials_of(authority: Authority, method: str) -> Denied:
    """Return a function that records the denials of a mutating method."""

    def denied(call: Call, request: Message | None, denial: KeyAuthorityError) -> None:
        authority.audit.denied(_denied_call(call, method, request, denial))

    return denied


def _denied_call(
    call: Call, method: str, request: Message | None, denial: KeyAuthorityError
) -> DeniedCall:
    credential = credential_of(call)
    identity = credential.key if isinstance(credential, CertificateIdentity) else credential.token
    return DeniedCall(
        actor=identity.access_key,
        peer=credential.address,
        method=method,
        reason=denial.reason.value if denial.reason else "",
        project_id=_if_valid(is_uuid, getattr(request, "project_id", "")),
        access_key=_if_valid(ACCESS_KEY_PATTERN.fullmatch, getattr(request, "access_key", "")),
    )


def _if_valid(is_valid: Callable[[str], object], text: str) -> str:
    """Return the text of an id field if it is valid, else an empty string.

    A caller without the right is denied before validation: the field may hold a secret by mistake.
    """
    return text if is_valid(text) else ""
