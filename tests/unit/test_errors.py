"""The exceptions: each reason has one type, each type one status."""

from __future__ import annotations

import pickle
from datetime import timedelta

import pytest

from keyauthority.errors import (
    REASONS,
    TYPES,
    ErrorReason,
    FieldViolation,
    InvalidArgument,
    KeyAuthorityError,
    error,
)

# Every status of gRPC that a caller of the authority can meet.
STATUSES = {
    "UNAUTHENTICATED", "PERMISSION_DENIED", "INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS",
    "ABORTED", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED",
    "UNIMPLEMENTED", "INTERNAL",
}  # fmt: skip


def test_every_reason_has_a_type() -> None:
    """No reason is left out of the table, and none is in it that is not one."""
    assert set(REASONS) == set(ErrorReason)


def test_every_type_has_a_status_of_its_own() -> None:
    """From the status alone the type can be told."""
    assert len(TYPES) == len(STATUSES)
    assert {one.status for one in TYPES} == STATUSES


def test_types_are_all_there_are() -> None:
    """TYPES holds every subclass, so that no error is without a way over the wire."""
    assert set(TYPES) == set(KeyAuthorityError.__subclasses__())
    assert set(REASONS.values()) <= set(TYPES)


@pytest.mark.parametrize("reason", ErrorReason)
def test_error_of_a_reason_is_of_its_type(reason: ErrorReason) -> None:
    """`error` makes what the table says, with all that it was told."""
    made = error(
        reason,
        "what happened",
        metadata={"state": "REVOKED"},
        fields=[FieldViolation("purpose", "at most 200 characters")],
        retry_after=timedelta(seconds=1),
    )
    assert type(made) is REASONS[reason]
    assert made.reason is reason
    assert str(made) == "what happened"
    assert made.metadata == {"state": "REVOKED"}
    assert made.fields == (FieldViolation("purpose", "at most 200 characters"),)
    assert made.retry_after == timedelta(seconds=1)


def test_error_survives_a_pickle() -> None:
    """An error can be handed from process to process with all that it says."""
    made = error(ErrorReason.INVALID_FIELD, "no", fields=[FieldViolation("ttl", "more than 0")])
    copied = pickle.loads(pickle.dumps(made))  # noqa: S301 the pickle is the test's own
    assert type(copied) is InvalidArgument
    assert vars(copied) == vars(made)
