"""Which right each RPC needs. What is not listed is refused: a server with a gap does not start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Any, Final, NamedTuple

from keyauthority.v1 import key_authority_service_pb2, key_pb2


class Admission(Enum):
    """How an RPC comes to know its caller."""

    OPERATOR = auto()
    """By his operator key, before anything else is done."""
    OPERATOR_INLINE = auto()
    """By his operator key, which is read in the same statement as what he asks for."""
    SECRET = auto()
    """By a key's secret in the request; metadata is not looked at."""
    OPERATOR_OR_SECRET = auto()
    """By his operator key, or by a key's secret in the request."""


MUTATIONS: Final = frozenset(
    {"CreateKey", "UpdateKey", "RotateKey", "RevokeKey", "CreateProject", "UpdateProject"}
)
"""The RPCs that make changes: what is refused of them is noted."""


class RpcPolicy(NamedTuple):
    """What an RPC demands: one of the rights.

    Where there are two, the use case demands the one that fits the kind of the key.
    """

    admission: Admission
    rights: tuple[str, ...]
    needs: Callable[[Any], str] | None = None
    """The right that a request shows to need, empty for none: demanded before its fields are read.
    """


def _create(request: key_authority_service_pb2.CreateKeyRequest) -> str:
    return "operators:create" if request.kind == key_pb2.KEY_KIND_OPERATOR else "keys:create"


def _list(request: key_authority_service_pb2.ListKeysRequest) -> str:
    operators = request.filter.kind == key_pb2.KEY_KIND_OPERATOR and not request.project_id
    return "operators:read" if operators else "keys:read"


def _record(request: key_authority_service_pb2.VerifyRequest) -> str:
    return "keys:read" if request.include_record else ""


def _records(request: key_authority_service_pb2.BatchVerifyRequest) -> str:
    return "keys:read" if any(map(_record, request.requests)) else ""


def _keys(
    action: str,
    admission: Admission = Admission.OPERATOR,
    needs: Callable[[Any], str] | None = None,
) -> RpcPolicy:
    return RpcPolicy(admission, (f"keys:{action}", f"operators:{action}"), needs)


def _right(right: str) -> RpcPolicy:
    return RpcPolicy(Admission.OPERATOR, (right,))


def _verify(needs: Callable[[Any], str]) -> RpcPolicy:
    return RpcPolicy(Admission.OPERATOR_INLINE, ("keys:verify",), needs)


POLICY: Final[Mapping[str, RpcPolicy]] = {
    "keyauthority.v1.KeyAuthorityService.CreateKey": _keys("create", needs=_create),
    "keyauthority.v1.KeyAuthorityService.GetKey": _keys("read"),
    "keyauthority.v1.KeyAuthorityService.ListKeys": _keys("read", needs=_list),
    "keyauthority.v1.KeyAuthorityService.UpdateKey": _keys("update"),
    "keyauthority.v1.KeyAuthorityService.RotateKey": _keys("rotate"),
    "keyauthority.v1.KeyAuthorityService.RevokeKey": _keys("revoke", Admission.OPERATOR_OR_SECRET),
    "keyauthority.v1.KeyAuthorityService.Verify": _verify(_record),
    "keyauthority.v1.KeyAuthorityService.BatchVerify": _verify(_records),
    "keyauthority.v1.KeyAuthorityService.GetProjectId": RpcPolicy(Admission.SECRET, ()),
    "keyauthority.v1.KeyAuthorityService.WatchChanges": _right("changes:watch"),
    "keyauthority.v1.ProjectService.CreateProject": _right("projects:create"),
    "keyauthority.v1.ProjectService.GetProject": _right("projects:read"),
    "keyauthority.v1.ProjectService.ListProjects": _right("projects:read"),
    "keyauthority.v1.ProjectService.UpdateProject": _right("projects:update"),
    "keyauthority.v1.UsageService.GetUsage": _right("usage:read"),
    "keyauthority.v1.UsageService.ReportUsage": _right("usage:report"),
    "keyauthority.v1.AuditService.ListEvents": _right("audit:read"),
}
