"""Properties of each RPC: rights, credential, class; an unlisted RPC prevents the start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum, auto
from functools import partial
from typing import Any, Final, NamedTuple

from keyauthority.v1 import key_authority_service_pb2, key_pb2
from keyauthority_server.overload.concurrency import CallClass
from keyauthority_server.rpc.field_rules import BATCH_MAX

INLINE_MAX: Final = 1024  # bytes of a request that may be parsed for a caller not yet known


class CredentialSource(Enum):
    """The credential by which an RPC authenticates its caller."""

    OPERATOR = auto()
    """An operator key or certificate, checked first."""
    OPERATOR_INLINE = auto()
    """An operator key or certificate, read in the same statement as the records of the call.

    It is also checked first if the request is large.
    """
    SECRET = auto()
    """The secret of a key in the request; metadata is ignored."""
    OPERATOR_OR_SECRET = auto()
    """An operator key or certificate, or the secret of a key in the request."""


class RpcPolicy(NamedTuple):
    """The properties of an RPC by which the layers of a call treat it."""

    rights: tuple[str, ...]
    """Those of which the caller needs one; none if empty.

    If there are two, the service requires the one for the kind of the key.
    """
    credentials: CredentialSource = CredentialSource.OPERATOR
    call_class: CallClass = CallClass.READ
    """Whose concurrency limit a unary call counts against."""
    mutates: bool = False
    """It changes keys or projects: its denials are recorded.

    The caller is checked again in the transaction of the change, so it may be authenticated by a
    record whose freshness is not proven.
    """
    needs: Callable[[Any], str] | None = None
    """Returns the right that a request needs, empty for none; checked before its fields are."""
    inline_max: int = 0
    """Bytes of a request that is parsed before its caller is known, for OPERATOR_INLINE."""


def _create(request: key_authority_service_pb2.CreateKeyRequest) -> str:
    return "operators:create" if request.kind == key_pb2.KEY_KIND_OPERATOR else "keys:create"


def _list(request: key_authority_service_pb2.ListKeysRequest) -> str:
    operators = request.filter.kind == key_pb2.KEY_KIND_OPERATOR and not request.project_id
    return "operators:read" if operators else "keys:read"


def _record(request: key_authority_service_pb2.VerifyRequest) -> str:
    return "keys:read" if request.include_record else ""


def _records(request: key_authority_service_pb2.BatchVerifyRequest) -> str:
    if len(request.requests) > BATCH_MAX:  # refused without a look at its items
        return ""
    return "keys:read" if any(map(_record, request.requests)) else ""


def _for_kinds(action: str) -> tuple[str, str]:
    return f"keys:{action}", f"operators:{action}"


_page: Final = partial(RpcPolicy, call_class=CallClass.PAGE)
_mutation: Final = partial(RpcPolicy, call_class=CallClass.WRITE, mutates=True)
_verify: Final = partial(RpcPolicy, ("keys:verify",), credentials=CredentialSource.OPERATOR_INLINE)

POLICY: Final[Mapping[str, RpcPolicy]] = {
    "keyauthority.v1.KeyAuthorityService.CreateKey": _mutation(_for_kinds("create"), needs=_create),
    "keyauthority.v1.KeyAuthorityService.GetKey": RpcPolicy(_for_kinds("read")),
    "keyauthority.v1.KeyAuthorityService.ListKeys": _page(_for_kinds("read"), needs=_list),
    "keyauthority.v1.KeyAuthorityService.UpdateKey": _mutation(_for_kinds("update")),
    "keyauthority.v1.KeyAuthorityService.RotateKey": _mutation(_for_kinds("rotate")),
    "keyauthority.v1.KeyAuthorityService.RevokeKey": _mutation(
        _for_kinds("revoke"),
        credentials=CredentialSource.OPERATOR_OR_SECRET,
        call_class=CallClass.URGENT,
    ),
    "keyauthority.v1.KeyAuthorityService.Verify": _verify(needs=_record, inline_max=INLINE_MAX),
    "keyauthority.v1.KeyAuthorityService.BatchVerify": _verify(needs=_records),
    "keyauthority.v1.KeyAuthorityService.GetProjectId": RpcPolicy((), CredentialSource.SECRET),
    "keyauthority.v1.KeyAuthorityService.LookupKey": RpcPolicy(("keys:read",)),
    "keyauthority.v1.KeyAuthorityService.ImportKeys": _mutation(("keys:import",)),
    "keyauthority.v1.KeyAuthorityService.GetCaller": RpcPolicy(()),
    "keyauthority.v1.KeyAuthorityService.WatchChanges": RpcPolicy(("changes:watch",)),
    "keyauthority.v1.ProjectService.CreateProject": _mutation(("projects:create",)),
    "keyauthority.v1.ProjectService.GetProject": RpcPolicy(("projects:read",)),
    "keyauthority.v1.ProjectService.ListProjects": _page(("projects:read",)),
    "keyauthority.v1.ProjectService.UpdateProject": _mutation(("projects:update",)),
    "keyauthority.v1.UsageService.GetUsage": _page(("usage:read",)),
    "keyauthority.v1.UsageService.ReportUsage": RpcPolicy(
        ("usage:report",), call_class=CallClass.WRITE
    ),
    "keyauthority.v1.AuditService.ListEvents": _page(("audit:read",)),
    "keyauthority.v1.AdvisoryService.ListAdvisories": _page(("usage:read",)),
}
