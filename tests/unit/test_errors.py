"""The exceptions: one type for each reason, one status for each type."""

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
    """The table has exactly the known reasons."""
    assert set(REASONS) == set(ErrorReason)


def test_every_type_has_its_own_status() -> None:
    """The status alone determines the type."""
    assert len(TYPES) == len(STATUSES)
    assert {one.status for one in TYPES} == STATUSES


def test_types_lists_every_exception() -> None:
    """TYPES holds every subclass, so every error can cross the wire."""
    assert set(TYPES) == set(KeyAuthorityError.__subclasses__())
    assert set(REASONS.values()) <= set(TYPES)


@pytest.mark.parametrize("reason", ErrorReason)
def test_error_of_a_reason_has_its_type(reason: ErrorReason) -> None:
    """`error` builds the type of the table, with all its details."""
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


def test_error_survives_pickling() -> None:
    """An error can pass between processes with all its details."""
    made = error(ErrorReason.INVALID_FIELD, "no", fields=[FieldViolation("ttl", "more than 0")])
    copied = pickle.loads(pickle.dumps(made))  # noqa: S301 the pickle is the test's own
    assert type(copied) is InvalidArgument
    assert vars(copied) == vars(made)
