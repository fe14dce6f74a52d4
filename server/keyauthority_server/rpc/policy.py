"""Credentials and rights of each RPC; a server with an unlisted RPC does not start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Any, Final, NamedTuple

from keyauthority.v1 import key_authority_service_pb2, key_pb2
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


MUTATIONS: Final = frozenset(
    {
        *("CreateKey", "UpdateKey", "RotateKey", "RevokeKey", "ImportKeys"),
        *("CreateProject", "UpdateProject"),
    }
)
"""The RPCs that make changes; their denials are recorded."""


class RpcPolicy(NamedTuple):
    """The credential of an RPC, and its rights, of which the caller needs one; none if empty.

    If there are two, the service requires the one for the kind of the key.
    """

    credentials: CredentialSource
    rights: tuple[str, ...]
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


def _keys(
    action: str,
    credentials: CredentialSource = CredentialSource.OPERATOR,
    needs: Callable[[Any], str] | None = None,
) -> RpcPolicy:
    return RpcPolicy(credentials, (f"keys:{action}", f"operators:{action}"), needs)


def _right(right: str) -> RpcPolicy:
    return RpcPolicy(CredentialSource.OPERATOR, (right,))


def _verify(needs: Callable[[Any], str], inline_max: int) -> RpcPolicy:
    return RpcPolicy(CredentialSource.OPERATOR_INLINE, ("keys:verify",), needs, inline_max)


POLICY: Final[Mapping[str, RpcPolicy]] = {
    "keyauthority.v1.KeyAuthorityService.CreateKey": _keys("create", needs=_create),
    "keyauthority.v1.KeyAuthorityService.GetKey": _keys("read"),
    "keyauthority.v1.KeyAuthorityService.ListKeys": _keys("read", needs=_list),
    "keyauthority.v1.KeyAuthorityService.UpdateKey": _keys("update"),
    "keyauthority.v1.KeyAuthorityService.RotateKey": _keys("rotate"),
    "keyauthority.v1.KeyAuthorityService.RevokeKey": _keys(
        "revoke", CredentialSource.OPERATOR_OR_SECRET
    ),
    "keyauthority.v1.KeyAuthorityService.Verify": _verify(_record, INLINE_MAX),
    "keyauthority.v1.KeyAuthorityService.BatchVerify": _verify(_records, 0),
    "keyauthority.v1.KeyAuthorityService.GetProjectId": RpcPolicy(CredentialSource.SECRET, ()),
    "keyauthority.v1.KeyAuthorityService.LookupKey": _right("keys:read"),
    "keyauthority.v1.KeyAuthorityService.ImportKeys": _right("keys:import"),
    "keyauthority.v1.KeyAuthorityService.GetCaller": RpcPolicy(CredentialSource.OPERATOR, ()),
    "keyauthority.v1.KeyAuthorityService.WatchChanges": _right("changes:watch"),
    "keyauthority.v1.ProjectService.CreateProject": _right("projects:create"),
    "keyauthority.v1.ProjectService.GetProject": _right("projects:read"),
    "keyauthority.v1.ProjectService.ListProjects": _right("projects:read"),
    "keyauthority.v1.ProjectService.UpdateProject": _right("projects:update"),
    "keyauthority.v1.UsageService.GetUsage": _right("usage:read"),
    "keyauthority.v1.UsageService.ReportUsage": _right("usage:report"),
    "keyauthority.v1.AuditService.ListEvents": _right("audit:read"),
    "keyauthority.v1.AdvisoryService.ListAdvisories": _right("usage:read"),
}
