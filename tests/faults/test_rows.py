"""Every mutation changes exactly its own rows, compared over all tables."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, Final

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from keyauthority.v1 import key_authority_service_pb2 as service
from keyauthority.v1 import project_service_pb2, usage_service_pb2
from tests.conftest import Start
from tests.faults.test_kills import calling
from tests.service.callers import METHODS, Caller, key_request, new_key, new_project
from tests.service.imports import import_set, item, new_token
from tests.store.engines import Sqlite, digests

READS: Final = frozenset(
    {
        *("GetKey", "ListKeys", "GetProject", "ListProjects", "GetUsage", "ListEvents"),
        *("GetProjectId", "LookupKey", "GetCaller", "WatchChanges", "ListAdvisories"),
    }
)
JUDGES: Final = frozenset({"Verify", "BatchVerify"})
"""RPCs that write bookkeeping only, and later."""

Rows = Mapping[str, Mapping[Any, str]]
ADDED, ALTERED, GONE = "added", "altered", "gone"


def differences(before: Rows, after: Rows) -> dict[str, list[str]]:
    """The effect on the rows of each changed table, a word for each row."""
    found = {}
    for table, old in before.items():
        new = after[table]
        words = [ADDED] * len(new.keys() - old.keys()) + [GONE] * len(old.keys() - new.keys())
        words += [ALTERED for name in old.keys() & new.keys() if old[name] != new[name]]
        if words:
            found[table] = sorted(words)
    return found


CHANGE: Final = {"log": [ALTERED], "change": [ADDED]}
NEW_KEY: Final = CHANGE | {"key": [ADDED]}
ALTERED_KEY: Final = CHANGE | {"key": [ALTERED]}
REMEMBERED: Final = {"request": [ADDED]}
COUNTED: Final = {
    "log": [ALTERED],  # its time: no clock starts before a counted time
    "key": [ALTERED],
    "usage": [ADDED, ADDED],
    "usage_batch": [ADDED],
}


def mutations(caller: Caller) -> list[tuple[Message, dict[str, list[str]]]]:
    """Each form of each mutating RPC, with its effect on rows."""
    owner = new_project(caller)
    kept, rotated, again, ended = (new_key(caller, owner) for _ in range(4))
    remembered = new_key(caller, owner, request_id=str(uuid.uuid4()))
    names = [one.key.access_key for one in (kept, rotated, again, ended, remembered)]
    update = service.UpdateKeyRequest(
        access_key=names[0], purpose="other", update_mask=FieldMask(paths=["purpose"])
    )
    suspend = project_service_pb2.UpdateProjectRequest(
        project_id=owner, suspended=True, update_mask=FieldMask(paths=["suspended"])
    )
    row = usage_service_pb2.UsageRow(
        project_id=owner, access_key=names[0], verdict=service.VERDICT_VALID, count=2, cost=2
    )
    row.bucket_time.GetCurrentTime()
    row.bucket_time.FromSeconds(row.bucket_time.seconds // 3600 * 3600)
    row.last_used_time.GetCurrentTime()
    report = usage_service_pb2.ReportUsageRequest(batch_id=str(uuid.uuid4()), rows=[row])
    imported = service.ImportKeysRequest(import_set=import_set(), keys=[item(new_token(), owner)])
    project, rotate = project_service_pb2.CreateProjectRequest, service.RotateKeyRequest
    return [
        (key_request(owner), NEW_KEY),
        (key_request(owner, request_id=str(uuid.uuid4())), NEW_KEY | REMEMBERED),
        (key_request("", "OPERATOR", permissions=["keys:verify"]), NEW_KEY),
        (update, ALTERED_KEY),
        (update, {}),
        (rotate(access_key=names[1]), CHANGE | {"key": [ADDED, ALTERED]}),
        (
            rotate(access_key=names[2], request_id=str(uuid.uuid4())),
            CHANGE | {"key": [ADDED, ALTERED]} | REMEMBERED,
        ),
        (service.RevokeKeyRequest(access_key=names[3]), ALTERED_KEY),
        (service.RevokeKeyRequest(access_key=names[3]), {}),
        (
            service.RevokeKeyRequest(secret_key=remembered.secret_key),
            ALTERED_KEY | {"request": [ALTERED]},
        ),
        (imported, NEW_KEY | {"import_set": [ADDED]}),
        (imported, {}),
        (project(display_name="new"), CHANGE | {"project": [ADDED]}),
        (
            project(display_name="new", request_id=str(uuid.uuid4())),
            CHANGE | {"project": [ADDED]} | REMEMBERED,
        ),
        (suspend, CHANGE | {"project": [ALTERED]}),
        (suspend, {}),
        (report, COUNTED),
        (report, {}),
    ]


@pytest.mark.case(18)
def test_mutation_changes_exactly_its_rows(start_server: Start) -> None:
    """All other rows stay; every writing RPC is among the calls."""
    server = start_server("--transport", "native")
    place, engine = str(server.data / "keyauthority.db"), Sqlite()
    tried = set()
    with calling(server) as caller:
        calls = mutations(caller)
        before = digests(engine, place)
        for request, expected in calls:
            name = request.DESCRIPTOR.name.removesuffix("Request")
            tried.add(name)
            by_secret = isinstance(request, service.RevokeKeyRequest) and request.secret_key
            caller_now = caller.bearing() if by_secret else caller
            failed = caller_now.outcome(name, request.SerializeToString())
            assert failed is None, (name, failed)
            after = digests(engine, place)
            assert expected == differences(before, after), request
            before = after
    assert METHODS.keys() - READS - JUDGES == tried
    assert 0 == server.stop().code


@pytest.mark.case(18)
def test_unexpected_row_change_is_reported() -> None:
    """Control: an added, altered or removed row is reported."""
    before: Rows = {"key": {"a": "1", "b": "2"}, "log": {1: "x"}}
    after: Rows = {"key": {"a": "1", "b": "3", "c": "4"}, "log": {}}
    assert {"key": [ADDED, ALTERED], "log": [GONE]} == differences(before, after)
