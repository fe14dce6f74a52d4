"""The authorization matrix: a row for each RPC and right, and the callers to try."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from keyauthority.v1 import (
    advisory_service_pb2,
    audit_service_pb2,
    key_authority_service_pb2,
    key_pb2,
    project_service_pb2,
    usage_service_pb2,
)
from tests.service.callers import (
    METHODS,
    Caller,
    Refusal,
    bearer,
    key_request,
    new_key,
    new_operator,
    new_project,
    revoke,
)
from tests.service.lifecycle import update
from tests.service.processes import wait_until

NO_MESSAGE: Final = b"\xff\xff\xff"
OPERATORS: Final = key_authority_service_pb2.KeyFilter(kind=key_pb2.KEY_KIND_OPERATOR)
MAKE_OPERATOR: Final = key_request("", "OPERATOR", permissions=["operators:create"])
IMPORT_SET: Final = key_authority_service_pb2.ImportSet(
    name="set",
    scheme=key_authority_service_pb2.IMPORT_SCHEME_SHA256_HEX,
    token_prefix="old_",
    token_length_min=36,
    token_length_max=36,
)
RENAMED: Final = FieldMask(paths=["purpose"])
BATCH_ID: Final = "33333333-3333-4333-8333-333333333333"
LONG_AGO: Final = Timestamp(seconds=1_600_000_000)

_keys, _projects = key_authority_service_pb2, project_service_pb2


class World(NamedTuple):
    """The records and callers of the calls on one server."""

    root: Caller
    project: str
    access_key: str
    operator: str
    """The access key of an operator key that the calls are about."""
    secret_key: str
    ended: tuple[tuple[tuple[str, str], ...], ...]
    """The metadata of operators whose keys are revoked, expired, disabled."""
    elsewhere: tuple[tuple[str, str], ...]
    """The metadata of an operator who may do everything, in another project."""


class Row(NamedTuple):
    """A call that is served to every caller with the right."""

    method: str
    right: str
    request: Callable[[World], Message]
    elsewhere: str = "NOT_FOUND"
    """How it ends for an operator who has the right, and is confined to another project."""

    def __str__(self) -> str:
        return f"{self.method}-{self.right}"


def report(access_key: str, project_id: str = "", batch_id: str = BATCH_ID) -> Message:
    """A ReportUsageRequest of one verification, and of what was observed of its key."""
    row = usage_service_pb2.UsageRow(
        project_id=project_id,
        access_key=access_key,
        verdict=_keys.VERDICT_VALID,
        bucket_time=LONG_AGO,
        last_used_time=LONG_AGO,
        count=1,
    )
    observed = usage_service_pb2.KeyObservation(access_key=access_key)
    return usage_service_pb2.ReportUsageRequest(
        batch_id=batch_id, rows=[row], observations=[observed]
    )


ROWS: Final = (
    Row("CreateKey", "keys:create", lambda w: key_request(w.project)),
    Row("CreateKey", "operators:create", lambda w: MAKE_OPERATOR, "PERMISSION_DENIED"),
    Row("GetKey", "keys:read", lambda w: _keys.GetKeyRequest(access_key=w.access_key)),
    Row("GetKey", "operators:read", lambda w: _keys.GetKeyRequest(access_key=w.operator)),
    Row("ListKeys", "keys:read", lambda w: _keys.ListKeysRequest(project_id=w.project)),
    Row("ListKeys", "operators:read", lambda w: _keys.ListKeysRequest(filter=OPERATORS), "OK"),
    Row(
        "UpdateKey",
        "keys:update",
        lambda w: _keys.UpdateKeyRequest(access_key=w.access_key, update_mask=RENAMED),
    ),
    Row(
        "UpdateKey",
        "operators:update",
        lambda w: _keys.UpdateKeyRequest(access_key=w.operator, update_mask=RENAMED),
    ),
    Row("RotateKey", "keys:rotate", lambda w: _keys.RotateKeyRequest(access_key=w.access_key)),
    Row(
        "RotateKey",
        "operators:rotate",
        lambda w: _keys.RotateKeyRequest(access_key=w.operator),
    ),
    Row("RevokeKey", "keys:revoke", lambda w: _keys.RevokeKeyRequest(access_key=w.access_key)),
    Row("RevokeKey", "operators:revoke", lambda w: _keys.RevokeKeyRequest(access_key=w.operator)),
    Row("Verify", "keys:verify", lambda w: _keys.VerifyRequest(secret_key=w.secret_key), "OK"),
    Row(
        "BatchVerify",
        "keys:verify",
        lambda w: _keys.BatchVerifyRequest(requests=[_keys.VerifyRequest(secret_key=w.secret_key)]),
        "OK",
    ),
    Row(
        "ImportKeys",
        "keys:import",
        lambda w: _keys.ImportKeysRequest(import_set=IMPORT_SET, keys=[_keys.ImportedKey()]),
        "PERMISSION_DENIED",
    ),
    Row("LookupKey", "keys:read", lambda w: _keys.LookupKeyRequest(secret_key=w.secret_key)),
    Row(
        "WatchChanges",
        "changes:watch",
        lambda w: _keys.WatchChangesRequest(project_id=w.project),
    ),
    Row(
        "CreateProject",
        "projects:create",
        lambda w: _projects.CreateProjectRequest(),
        "PERMISSION_DENIED",
    ),
    Row("GetProject", "projects:read", lambda w: _projects.GetProjectRequest(project_id=w.project)),
    Row("ListProjects", "projects:read", lambda w: _projects.ListProjectsRequest(), "OK"),
    Row(
        "UpdateProject",
        "projects:update",
        lambda w: _projects.UpdateProjectRequest(
            project_id=w.project, update_mask=FieldMask(paths=["display_name"])
        ),
    ),
    Row(
        "GetUsage",
        "usage:read",
        lambda w: usage_service_pb2.GetUsageRequest(project_id=w.project),
    ),
    Row("ReportUsage", "usage:report", lambda w: report(w.access_key), "OK"),
    Row(
        "ListEvents",
        "audit:read",
        lambda w: audit_service_pb2.ListEventsRequest(project_id=w.project),
    ),
    Row(
        "ListAdvisories",
        "usage:read",
        lambda w: advisory_service_pb2.ListAdvisoriesRequest(project_id=w.project),
    ),
)

WITHOUT_RIGHT: Final = frozenset({"GetProjectId", "GetCaller"})
"""RPCs that need no right: see `verify/test_get_project_id.py` and `keys/test_get_caller.py`."""

RIGHTS: Final = sorted({row.right for row in ROWS})


def without_row(methods: Iterable[str]) -> set[str]:
    """Return the RPCs that lack a row."""
    return set(methods) - {row.method for row in ROWS} - WITHOUT_RIGHT


def new_world(root: Caller) -> World:
    """Create the records of the calls."""
    project, other = new_project(root), new_project(root)
    key = new_key(root, project)
    revoked, disabled = new_operator(root, "*:*"), new_operator(root, "*:*")
    expired = new_operator(root, "*:*", ttl=Duration(nanos=1_000_000))
    revoke(root, access_key=revoked.key.access_key)
    update(root, disabled.key.access_key, disabled=True)
    end = expired.key.expire_time.ToDatetime(UTC) + timedelta(milliseconds=1)
    wait_until(lambda: datetime.now(UTC) > end)
    return World(
        root=root,
        project=project,
        access_key=key.key.access_key,
        operator=new_operator(root, "keys:read").key.access_key,
        secret_key=key.secret_key,
        ended=(revoked.metadata, expired.metadata, disabled.metadata),
        elsewhere=new_operator(root, "*:*", projects=[other]).metadata,
    )


def fresh(world: World, row: Row) -> World:
    """The world with a key, and an operator key without rights, that the call may change."""
    if row.method not in ("UpdateKey", "RotateKey", "RevokeKey"):
        return world
    if row.right.startswith("keys:"):
        return world._replace(access_key=new_key(world.root, world.project).key.access_key)
    return world._replace(operator=new_operator(world.root, row.right).key.access_key)


def outcome(caller: Caller, world: World, row: Row) -> Refusal | None:
    """How the call of a row ends for a caller; None if it is answered."""
    return caller.outcome(row.method, row.request(world).SerializeToString())


def bad_credentials(world: World, token: str) -> Mapping[str, tuple[tuple[str, str], ...]]:
    """Invalid credentials in metadata, by their fault; `token` is a valid one."""
    return {
        "malformed": (bearer("op_live_wrong"),),
        "empty": (bearer(""),),
        "cut": (bearer(token[:-1]),),
        "no scheme": (("authorization", token),),
        "other scheme": (("authorization", f"Basic {token}"),),
        "scheme in the other header": (("x-auth-token", f"Bearer {token}"),),
        "of a project": (bearer(world.secret_key),),
        "white space": (bearer(f" {token}"),),
        "revoked": world.ended[0],
        "expired": world.ended[1],
        "disabled": world.ended[2],
    }


STREAMS: Final[Mapping[str, Any]] = {
    name: method for name, method in METHODS.items() if method.server_streaming
}
