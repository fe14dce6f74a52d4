"""RotateKey: a successor with all settings, and a chosen overlap for the old key."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from google.protobuf.duration_pb2 import Duration

from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority.v1 import key_pb2
from keyauthority.v1.project_service_pb2 import ListProjectsRequest
from tests.service.callers import (
    ABSENT_KEY,
    Caller,
    bearer,
    get_key,
    new_key,
    new_operator,
    new_project,
    revoke,
    verdict,
)
from tests.service.lifecycle import (
    HOUR,
    IN_STATE,
    from_now,
    passed,
    rotate,
    seconds,
    state,
    update,
    update_request,
)

DAY: Final = 86_400
SETTINGS: Final[dict[str, Any]] = {
    "purpose": "nightly export",
    "permissions": ["orders:read"],
    "restrictions": key_pb2.Restrictions(allowed_ips=["127.0.0.1"]),
    "rate_limit": key_pb2.RateLimit(limit=5, period=Duration(seconds=DAY)),
    "quota": key_pb2.Quota(limit=6, period=key_pb2.QUOTA_PERIOD_TOTAL),
    "labels": {"team": "a"},
}
# Fields of the successor's own; it copies all others from the old key.
OWN: Final = (
    *("access_key", "predecessor_access_key", "publishable_key", "create_time", "update_time"),
    *("expire_time", "etag", "revision", "created_by", "created_from", "last_used_time"),
)


def time_of(moment: Any) -> datetime:
    """A moment of an answer."""
    return moment.ToDatetime(UTC)  # type: ignore[no-any-return]


def without(key: key_pb2.Key, *fields: str) -> key_pb2.Key:
    """The record without some of its fields."""
    copy = key_pb2.Key()
    copy.CopyFrom(key)
    for field in fields:
        copy.ClearField(field)  # type: ignore[arg-type]
    return copy


def refused(caller: Caller, access_key: str, **fields: Any) -> tuple[str, str, set[str]]:
    """The failure of a rotation."""
    refusal = caller.refused(pb.RotateKeyRequest(access_key=access_key, **fields))
    return (refusal.code.name, refusal.reason, refusal.fields)


@pytest.mark.parametrize("overlap", [None, 0, 1, 0.000_001, 7 * DAY])
def test_old_key_ends_after_the_overlap(root: Caller, project: str, overlap: float | None) -> None:
    """supersede_time is the change's time plus the overlap; the default is a day."""
    made = new_key(root, project)
    answer = rotate(root, made.key.access_key, overlap)
    span = timedelta(seconds=DAY if overlap is None else overlap)
    assert span == time_of(answer.previous.supersede_time) - time_of(answer.key.create_time)
    assert ("ACTIVE" if overlap != 0 else "SUPERSEDED") == state(answer.previous)
    assert "ACTIVE" == state(answer.key)
    if overlap in (None, 0, 7 * DAY):  # the others may have ended by now
        expected = "SUPERSEDED" if overlap == 0 else "VALID"
        assert expected == verdict(root, made.secret_key)
    assert "VALID" == verdict(root, answer.secret_key)


@pytest.mark.parametrize(
    "overlap", [seconds(7 * DAY + 0.000_001), Duration(seconds=-1), Duration(seconds=1, nanos=-1)]
)
def test_overlap_out_of_bounds_is_rejected(root: Caller, project: str, overlap: Duration) -> None:
    """Over 7 days, negative and malformed durations are INVALID_ARGUMENT."""
    key = new_key(root, project).key
    expected = ("INVALID_ARGUMENT", "INVALID_FIELD", {"overlap"})
    assert expected == refused(root, key.access_key, overlap=overlap)
    assert key == get_key(root, key.access_key)


def test_old_key_is_valid_until_the_end_of_the_overlap(root: Caller, project: str) -> None:
    """It verifies until then and is SUPERSEDED after; the successor is unaffected."""
    made = new_key(root, project)
    answer = rotate(root, made.key.access_key, 0.5)
    end = time_of(answer.previous.supersede_time)
    seen: list[tuple[datetime, str]] = []
    while not seen or "VALID" == seen[-1][1]:
        start = datetime.now(UTC)
        seen.append((start, verdict(root, made.secret_key)))
    assert "SUPERSEDED" == seen[-1][1]
    assert all(start < end for start, found in seen if found == "VALID")
    assert datetime.now(UTC) >= end
    assert "SUPERSEDED" == state(get_key(root, made.key.access_key))
    assert "VALID" == verdict(root, answer.secret_key)


@pytest.mark.parametrize("overlap", [None, 7 * DAY])
def test_overlap_ends_no_later_than_the_old_key(
    root: Caller, project: str, overlap: float | None
) -> None:
    """A key that ends sooner is superseded at its own end, even an expired one."""
    made = new_key(root, project, ttl=HOUR)
    previous = rotate(root, made.key.access_key, overlap).previous
    assert previous.expire_time == previous.supersede_time
    expired = IN_STATE["EXPIRED"](root, project)
    previous = rotate(root, expired.key.access_key, overlap).previous
    assert (previous.expire_time, "SUPERSEDED") == (previous.supersede_time, state(previous))


@pytest.mark.parametrize("kind", ["SECRET", "RESTRICTED", "PUBLISHABLE"])
def test_successor_inherits_all_settings(root: Caller, project: str, kind: str) -> None:
    """Only names and creation facts differ; both records link to each other."""
    settings = {
        name: one for name, one in SETTINGS.items() if (kind, name) != ("SECRET", "permissions")
    }
    made = new_key(root, project, kind, mode=key_pb2.KEY_MODE_LIVE, ttl=HOUR, **settings)
    answer = rotate(root, made.key.access_key)
    old, new = answer.previous, answer.key
    assert without(made.key, *OWN) == without(new, *OWN)
    assert (old.access_key, new.access_key) == (
        new.predecessor_access_key,
        old.successor_access_key,
    )
    linked = ("successor_access_key", "supersede_time", "etag", "revision", "update_time")
    assert without(made.key, *linked) == without(old, *linked)
    assert answer.secret_key.startswith(made.secret_key[:8] + new.access_key)
    assert (answer.secret_key if kind == "PUBLISHABLE" else "") == new.publishable_key
    assert old == get_key(root, old.access_key)
    assert new == get_key(root, new.access_key)
    assert not new.HasField("supersede_time")


def test_rotation_is_one_change_with_two_keys(root: Caller, project: str) -> None:
    """Both records carry the answer's revision, the only one of the call."""
    made = new_key(root, project)
    answer = rotate(root, made.key.access_key)
    assert {answer.revision} == {answer.key.revision, answer.previous.revision}
    assert answer.key.create_time == answer.key.update_time == answer.previous.update_time
    assert (answer.revision, answer.log_id) == (made.revision + 1, made.log_id)
    assert answer.revision + 1 == new_key(root, project).revision


def test_successor_gets_the_full_lifetime_of_the_old_key(root: Caller, project: str) -> None:
    """The lifetime, as updated, starts again; a key without an end stays so."""
    made = new_key(root, project, ttl=HOUR)
    key = rotate(root, made.key.access_key).key
    assert HOUR == time_of(key.expire_time) - time_of(key.create_time)
    longer = update(root, key.access_key, expire_time=from_now(9 * HOUR)).key
    again = rotate(root, key.access_key).key
    given = time_of(longer.expire_time) - time_of(longer.create_time)
    assert given == time_of(again.expire_time) - time_of(again.create_time)
    endless = rotate(root, new_key(root, project).key.access_key).key
    assert not endless.HasField("expire_time")


def test_rotation_with_an_expiry_sets_the_successors_end(root: Caller, project: str) -> None:
    """It replaces the inherited lifetime and must be in the future."""
    for ttl in (None, HOUR):
        made = new_key(root, project, ttl=ttl)
        past = from_now(-HOUR)
        expected = ("INVALID_ARGUMENT", "INVALID_FIELD", {"expire_time"})
        for access_key in (made.key.access_key, ABSENT_KEY):  # errors in the request come first
            assert expected == refused(root, access_key, expire_time=past)
        end = from_now(3 * HOUR)
        answer = rotate(root, made.key.access_key, expire_time=end)
        assert end == answer.key.expire_time
        assert made.key.expire_time == answer.previous.expire_time


def test_rotation_of_an_expired_key_restores_service(root: Caller, project: str) -> None:
    """The successor's secret works; the old one stays expired."""
    made = IN_STATE["EXPIRED"](root, project)
    answer = rotate(root, made.key.access_key, expire_time=from_now(HOUR))
    assert "VALID" == verdict(root, answer.secret_key)
    assert "SUPERSEDED" == verdict(root, made.secret_key)


def test_rotated_key_cannot_be_rotated_again(root: Caller, project: str) -> None:
    """Neither in its overlap nor after it: only the newest key of a lineage rotates."""
    made = new_key(root, project)
    first = rotate(root, made.key.access_key)
    again = root.refused(pb.RotateKeyRequest(access_key=made.key.access_key))
    assert ("FAILED_PRECONDITION", "KEY_STATE") == (again.code.name, again.reason)
    assert {"successor_access_key": first.key.access_key} == again.metadata
    second = rotate(root, first.key.access_key, 0)
    assert "KEY_STATE" == refused(root, first.key.access_key)[1]
    found = [verdict(root, one.secret_key) for one in (made, first, second)]
    assert ["VALID", "SUPERSEDED", "VALID"] == found


@pytest.mark.parametrize("named", ["old", "new"])
def test_revocation_ends_only_the_named_key_of_a_rotation(
    root: Caller, project: str, named: str
) -> None:
    """Old key and successor are separate keys."""
    made = new_key(root, project)
    answer = rotate(root, made.key.access_key)
    access_key = {"old": made.key.access_key, "new": answer.key.access_key}[named]
    revoke(root, access_key=access_key)
    found = {"old": verdict(root, made.secret_key), "new": verdict(root, answer.secret_key)}
    assert {"old": "VALID", "new": "VALID"} | {named: "REVOKED"} == found


def test_update_in_the_overlap_changes_only_the_old_key(root: Caller, project: str) -> None:
    """It neither reaches the successor nor moves the end of the overlap."""
    made = new_key(root, project)
    answer = rotate(root, made.key.access_key, 1)
    changed = update(root, made.key.access_key, purpose="old", expire_time=from_now(HOUR)).key
    assert answer.previous.supersede_time == changed.supersede_time
    assert answer.key == get_key(root, answer.key.access_key)
    passed(answer.previous.supersede_time)
    late = root.refused(update_request(made.key.access_key, expire_time=from_now(HOUR)))
    assert {"state": "KEY_STATE_SUPERSEDED"} == late.metadata


def test_rotated_operator_key_is_accepted_through_the_overlap(root: Caller) -> None:
    """Old and new key work during the overlap, only the new one after it."""
    operator = new_operator(root, "operators:rotate", "projects:read")
    answer = rotate(operator, operator.key.access_key, 1)
    successor = root.bearing(bearer(answer.secret_key))
    listing = ListProjectsRequest(page_size=1)
    operator.ask(listing)
    successor.ask(listing)
    assert ["operators:rotate", "projects:read"] == list(answer.key.permissions)
    passed(answer.previous.supersede_time)
    assert "CREDENTIAL_INVALID" == operator.refused(listing).reason
    successor.ask(listing)
    assert operator.key.access_key == answer.key.created_by


def test_rotation_of_an_operator_key_beyond_the_caller_is_refused(
    root: Caller, project: str
) -> None:
    """The successor's secret carries its rights, so the caller must hold them."""
    maker = new_operator(root, "operators:*", "keys:read", ttl=HOUR)
    beyond = ("PERMISSION_DENIED", "BEYOND_OWN_RIGHTS", set[str]())
    wider = new_operator(root, "keys:*", ttl=seconds(1800))
    assert beyond == refused(maker, wider.key.access_key)
    endless = new_operator(root, "keys:read")
    assert beyond == refused(maker, endless.key.access_key)
    assert beyond == refused(maker, root_key(root, maker))
    assert beyond == refused(maker, wider.key.access_key, expire_time=from_now(-HOUR))
    assert beyond == refused(maker, maker.key.access_key)  # a new life of an hour ends later
    own = rotate(maker, maker.key.access_key, expire_time=maker.key.expire_time)
    assert maker.key.expire_time == own.key.expire_time
    clerk = new_operator(root, "keys:*")
    denied = clerk.refused(pb.RotateKeyRequest(access_key=clerk.key.access_key))
    assert {"permission": "operators:rotate"} == denied.metadata


def root_key(root: Caller, made: Caller) -> str:
    """The access key of the first operator, who made the other."""
    return get_key(root, made.key.created_by).access_key  # type: ignore[no-any-return]


def test_rotation_of_absent_and_foreign_key_returns_identical_bytes(
    root: Caller, project: str
) -> None:
    """A foreign key equals an absent one for a confined operator."""
    foreign = new_key(root, new_project(root)).key
    confined = new_operator(root, "*:*", projects=[project])
    assert ("NOT_FOUND", "KEY_NOT_FOUND", set()) == refused(root, ABSENT_KEY)
    absent, hidden = (
        confined.refused(pb.RotateKeyRequest(access_key=access_key))
        for access_key in (ABSENT_KEY, foreign.access_key)
    )
    assert absent == hidden
