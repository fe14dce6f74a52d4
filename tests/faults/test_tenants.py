"""Isolation of two projects: to an operator confined to one the other does not exist."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from keyauthority.v1 import (
    advisory_service_pb2,
    audit_service_pb2,
    key_authority_service_pb2,
    key_pb2,
    project_service_pb2,
    usage_service_pb2,
)
from tests.conftest import each_transport, one_server
from tests.faults.fields import Path, empty, text_fields, with_value
from tests.faults.matrix import RENAMED, report
from tests.service.callers import (
    ABSENT_KEY,
    METHODS,
    Caller,
    absent_project,
    bearer,
    get_key,
    key_request,
    lasting,
    mended,
    new_key,
    new_operator,
    new_project,
    verdict,
    verify,
)

_keys, _projects = key_authority_service_pb2, project_service_pb2

IDS: Final = {"project_id": "project", "access_key": "key", "operator_projects": "project"}
"""Fields that name a record, and its type."""

Make = Callable[[str, Any], Message]

OWN: Final[Mapping[str, Make]] = {
    "CreateKey": lambda p, k: key_request(p),
    "CreateKey of an operator": lambda p, k: key_request(
        "", "OPERATOR", operator_projects=[p], permissions=["keys:read"]
    ),
    "GetKey": lambda p, k: _keys.GetKeyRequest(access_key=k.key.access_key),
    "ListKeys": lambda p, k: _keys.ListKeysRequest(project_id=p),
    "UpdateKey": lambda p, k: _keys.UpdateKeyRequest(
        access_key=k.key.access_key, purpose="mine", update_mask=RENAMED
    ),
    "RotateKey": lambda p, k: _keys.RotateKeyRequest(access_key=k.key.access_key),
    "RevokeKey": lambda p, k: _keys.RevokeKeyRequest(access_key=k.key.access_key),
    "Verify": lambda p, k: _verification(p, k),
    "BatchVerify": lambda p, k: _keys.BatchVerifyRequest(requests=[_verification(p, k)]),
    "LookupKey": lambda p, k: _keys.LookupKeyRequest(secret_key=k.secret_key),
    "WatchChanges": lambda p, k: _keys.WatchChangesRequest(project_id=p),
    "GetProject": lambda p, k: _projects.GetProjectRequest(project_id=p),
    "UpdateProject": lambda p, k: _projects.UpdateProjectRequest(
        project_id=p, suspended=True, update_mask=FieldMask(paths=["suspended"])
    ),
    "GetUsage": lambda p, k: usage_service_pb2.GetUsageRequest(
        project_id=p, access_key=k.key.access_key
    ),
    "ReportUsage": lambda p, k: report(k.key.access_key, p, absent_project()),
    "ListEvents": lambda p, k: audit_service_pb2.ListEventsRequest(
        project_id=p, access_key=k.key.access_key
    ),
    "ListAdvisories": lambda p, k: advisory_service_pb2.ListAdvisoriesRequest(project_id=p),
}
"""Requests of an operator about its own project and key, in which every id is set."""

ANSWERED: Final = frozenset({"Verify", "BatchVerify", "ReportUsage"})
"""Calls that compare ids, or skip foreign records, and succeed."""


def _verification(project: str, made: Any) -> Any:
    return _keys.VerifyRequest(
        secret_key=made.secret_key,
        project_id=project,
        access_key=made.key.access_key,
        explain=True,
    )


def ids_in(method: str) -> list[Path]:
    """The places of the ids in a request."""
    return [path for path in text_fields(empty(method)) if path[-1] in IDS]


def told(caller: Caller, method: str, request: Message) -> bytes | tuple[str, bytes]:
    """Everything that the caller sees: the bytes of the answer, or code and status."""
    refused = caller.outcome(method, request.SerializeToString())
    return (refused.code.name, refused.status) if refused else b"answered"


def of(root: Caller, project: str) -> list[Message]:
    """All records of a project, without usage."""
    keys = root.ask(_keys.ListKeysRequest(project_id=project, page_size=1000)).keys
    own = root.ask(_projects.GetProjectRequest(project_id=project)).project
    usage = root.ask(usage_service_pb2.GetUsageRequest(project_id=project)).rows
    return [own, *map(lasting, keys), *usage]


def head(root: Caller) -> int:
    """The revision of the newest change."""
    return int(verify(root, "").revision)


def test_every_id_field_of_every_request_is_covered() -> None:
    """An id field without a row is found by the descriptors.

    GetProjectId has no caller to confine; ImportKeys is denied to confined ones.
    """
    missing = []
    for method in METHODS:
        ids = ids_in(method)
        rows = [one for one in OWN if one.split()[0] == method]
        sample = new_sample()
        for path in ids:
            set_ids = [one for one in rows if path in _set_in(OWN[one](*sample))]
            if not set_ids and method not in ("GetProjectId", "ImportKeys"):
                missing.append((method, path))
    assert [] == missing


def new_sample() -> tuple[str, Any]:
    """A project and a key that are nowhere."""
    key = key_pb2.Key(access_key=ABSENT_KEY)
    return absent_project(), _keys.CreateKeyResponse(key=key, secret_key="x")


def _set_in(message: Message, before: Path = ()) -> set[Path]:
    found: set[Path] = set()
    for field, value in message.ListFields():
        place = (*before, field.name)
        found.add(place)
        for one in value if field.is_repeated else [value]:
            if isinstance(one, Message):
                found |= _set_in(one, place)
    return found


@one_server
@pytest.mark.parametrize("name", OWN)
def test_foreign_and_absent_ids_return_identical_bytes(root: Caller, name: str) -> None:
    """Each id field in turn, compared byte for byte."""
    method = name.split()[0]
    mine, foreign = new_project(root), new_project(root)
    confined = new_operator(root, "*:*", projects=[mine])
    key, other = new_key(root, mine), new_key(root, foreign)
    request = OWN[name](mine, key)
    before, revision = of(root, foreign), head(root)
    swapped = {"project": foreign, "key": other.key.access_key}
    absent = {"project": absent_project(), "key": ABSENT_KEY}
    for path in sorted(_set_in(request) & set(ids_in(method))):
        kind = IDS[path[-1]]
        got = told(confined, method, with_value(request, path, swapped[kind]))
        assert told(confined, method, with_value(request, path, absent[kind])) == got, path
        if method not in ANSWERED:
            expected = "PERMISSION_DENIED" if path == ("operator_projects",) else "NOT_FOUND"
            assert (path, expected) == (path, got[0])
    assert (before, revision) == (of(root, foreign), head(root))
    assert confined.outcome(method, request.SerializeToString()) is None


@one_server
def test_verify_of_foreign_and_absent_keys_returns_identical_bytes(root: Caller) -> None:
    """With right or wrong secret, with or without ids."""
    mine, foreign = new_project(root), new_project(root)
    confined = new_operator(root, "*:*", projects=[mine])
    other = new_key(root, foreign)
    absent = mended(other.secret_key[:8] + ABSENT_KEY + other.secret_key[28:])
    for facts in ({}, {"project_id": foreign}, {"access_key": other.key.access_key}):
        for more in ({}, {"explain": True}, {"include_record": True}):
            got = verify(confined, other.secret_key, **facts, **more)
            assert _keys.VERDICT_UNKNOWN == got.verdict
            assert verify(confined, absent, **facts, **more) == got
    assert "VALID" == verdict(root, other.secret_key)


@one_server
def test_lists_without_a_project_show_the_callers_own(root: Caller) -> None:
    """Keys, projects and usage: no foreign record and no operator."""
    mine, foreign = new_project(root), new_project(root)
    confined = new_operator(root, "*:*", projects=[mine])
    new_key(root, mine), new_key(root, foreign)
    keys = confined.ask(_keys.ListKeysRequest(page_size=1000)).keys
    assert {mine} == {key.project_id for key in keys}
    projects = confined.ask(_projects.ListProjectsRequest(page_size=1000)).projects
    assert [mine] == [project.project_id for project in projects]
    usage = confined.ask(usage_service_pb2.GetUsageRequest(page_size=1000)).rows
    assert {row.project_id for row in usage} <= {mine}


@one_server
def test_usage_of_a_foreign_key_is_not_stored(root: Caller) -> None:
    """A confined operator's report of it counts under no project."""
    mine, foreign = new_project(root), new_project(root)
    reporter = new_operator(root, "usage:report", projects=[mine])
    own, other = new_key(root, mine).key, new_key(root, foreign).key
    for access_key in (own.access_key, other.access_key):
        for project in ("", mine, foreign):
            reporter.ask(report(access_key, project, absent_project()))
    rows = root.ask(usage_service_pb2.GetUsageRequest(access_key=own.access_key)).rows
    assert [2] == [row.count for row in rows]
    assert not root.ask(usage_service_pb2.GetUsageRequest(project_id=foreign)).rows


@one_server
def test_operator_key_is_absent_for_a_confined_operator(root: Caller) -> None:
    """Rotate, extend, widen, read and revoke answer as for no such key."""
    mine = new_project(root)
    confined = new_operator(root, "*:*", projects=[mine], ttl=Duration(seconds=3600))
    first = confined.key.created_by
    wide = new_operator(root, "keys:read")
    for access_key in (first, wide.key.access_key):
        before = get_key(root, access_key)
        for request in (
            _keys.RotateKeyRequest(access_key=access_key),
            _keys.RotateKeyRequest(access_key=access_key, overlap=Duration()),
            _keys.UpdateKeyRequest(
                access_key=access_key,
                permissions=["*:*"],
                update_mask=FieldMask(paths=["permissions"]),
            ),
            _keys.UpdateKeyRequest(
                access_key=access_key, update_mask=FieldMask(paths=["expire_time"])
            ),
            _keys.GetKeyRequest(access_key=access_key),
            _keys.RevokeKeyRequest(access_key=access_key),
        ):
            refused = confined.refused(request)
            assert ("NOT_FOUND", "KEY_NOT_FOUND") == (refused.code.name, refused.reason)
            request.access_key = ABSENT_KEY
            assert refused == confined.refused(request)
        assert before == get_key(root, access_key)


@each_transport
def test_project_key_is_no_operator_credential(root: Caller, project: str) -> None:
    """For any number of permissions; and Verify does not know operator keys."""
    secret = new_key(root, project, "RESTRICTED", permissions=["*:*"]).secret_key
    as_operator = mended("op_live_" + secret[8:])
    for token in (secret, as_operator):
        for metadata in (bearer(token), ("x-auth-token", token)):
            refused = root.bearing(metadata).refused(_projects.ListProjectsRequest())
            assert "CREDENTIAL_INVALID" == refused.reason
    operator = root.metadata[0][1].removeprefix("Bearer ")
    as_secret = mended("sk_live_" + operator[8:])
    for token in (operator, as_secret):
        assert "UNKNOWN" == verdict(root, token)
        refused = Caller(root.channel).refused(_keys.GetProjectIdRequest(secret_key=token))
        assert "CREDENTIAL_INVALID" == refused.reason


@each_transport
def test_claims_in_metadata_are_not_trusted(root: Caller) -> None:
    """Identity, address and purpose come from credential, peer and message."""
    mine, foreign = new_project(root), new_project(root)
    confined = new_operator(root, "*:*", projects=[mine])
    other = new_key(root, foreign)
    claims = (
        *(("x-project-id", foreign), ("project_id", foreign), ("x-operator-projects", foreign)),
        *(("x-forwarded-for", "203.0.113.7"), ("forwarded", "for=203.0.113.7;proto=https")),
        *(("x-real-ip", "203.0.113.7"), ("x-forwarded-client-cert", "URI=spiffe://a/root")),
        *(("x-actor", confined.key.created_by), ("x-permissions", "*:*"), ("cookie", "root=1")),
        *(("x-http-method-override", "DELETE"), ("grpc-previous-rpc-attempts", "9")),
    )
    claiming = confined.bearing(*confined.metadata, *claims)
    assert (
        "KEY_NOT_FOUND"
        == claiming.refused(_keys.GetKeyRequest(access_key=other.key.access_key)).reason
    )
    assert "UNKNOWN" == verdict(claiming, other.secret_key)
    made = new_key(claiming, mine).key
    plain = new_key(confined, mine).key
    assert confined.key.access_key == made.created_by
    assert plain.created_from == made.created_from
    assert "203.0.113.7" not in made.created_from
    for header in ("proxy-authorization", "x-api-key", "x-goog-api-key", "authorization-bin"):
        value: Any = (
            root.metadata[0][1].encode() if header.endswith("-bin") else root.metadata[0][1]
        )
        refused = root.bearing((header, value)).refused(_projects.ListProjectsRequest())
        assert "CREDENTIAL_MISSING" == refused.reason


@one_server
def test_empty_request_of_each_rpc_is_answered_or_rejected_by_name(root: Caller) -> None:
    """A request without an id touches no record."""
    for method in METHODS:
        refused = root.outcome(method, empty(method).SerializeToString())
        codes = ("INVALID_ARGUMENT", "UNAUTHENTICATED")
        assert refused is None or refused.code.name in codes, (method, refused)
