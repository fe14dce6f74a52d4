"""The exceptions of Key Authority: raised by the server's use cases, and again by the client.

One tree for both ends, so that what the authority means is what its caller catches. No grpc here:
`convert` turns an error into a status and back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from enum import StrEnum
from typing import ClassVar, Final, NamedTuple


class ErrorReason(StrEnum):
    """Why a call failed: the values of the proto enum ErrorReason, which explains each."""

    CREDENTIAL_MISSING = "credential_missing"
    CREDENTIAL_INVALID = "credential_invalid"
    CREDENTIAL_AMBIGUOUS = "credential_ambiguous"
    PERMISSION_MISSING = "permission_missing"
    ADDRESS_NOT_ALLOWED = "address_not_allowed"
    BEYOND_OWN_RIGHTS = "beyond_own_rights"
    INVALID_FIELD = "invalid_field"
    INVALID_MESSAGE = "invalid_message"
    KEY_NOT_FOUND = "key_not_found"
    PROJECT_NOT_FOUND = "project_not_found"
    REQUEST_ID_REUSED = "request_id_reused"
    ETAG_MISMATCH = "etag_mismatch"
    KEY_STATE = "key_state"
    REPLAY_REVOKED = "replay_revoked"
    REVISION_AHEAD = "revision_ahead"
    LOG_MISMATCH = "log_mismatch"
    STORE_CLOSED = "store_closed"
    OVERLOADED = "overloaded"
    DISK_LOW = "disk_low"
    STORE_UNAVAILABLE = "store_unavailable"
    STALE = "stale"
    CLOCK_JUMPED = "clock_jumped"
    UNIMPLEMENTED = "unimplemented"
    INTERNAL = "internal"
    MESSAGE_TOO_LARGE = "message_too_large"
    SHUTTING_DOWN = "shutting_down"
    TIMED_OUT = "timed_out"


class FieldViolation(NamedTuple):
    """A field that breaks its rule."""

    field: str
    description: str


class KeyAuthorityError(Exception):
    """Any failure of a call. A denied verification is none: it is a verdict.

    `reason` is None if the failure did not come from the authority, but from the way to it or from
    this library.
    """

    status: ClassVar[str] = "UNKNOWN"
    """The name of the gRPC status that carries this error."""

    def __init__(
        self,
        message: str,
        reason: ErrorReason | None = None,
        *,
        metadata: Mapping[str, str] | None = None,
        fields: Sequence[FieldViolation] = (),
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.fields = tuple(fields)
        self.retry_after = retry_after


class Unauthenticated(KeyAuthorityError):
    """No credential, a bad one, or more than one."""

    status = "UNAUTHENTICATED"


class PermissionDenied(KeyAuthorityError):
    """The operator lacks the right."""

    status = "PERMISSION_DENIED"


class InvalidArgument(KeyAuthorityError):
    """Fields break their rules; `fields` names them."""

    status = "INVALID_ARGUMENT"


class NotFound(KeyAuthorityError):
    """Absent, or not yours: one answer."""

    status = "NOT_FOUND"


class AlreadyExists(KeyAuthorityError):
    """The request_id was used with other content."""

    status = "ALREADY_EXISTS"


class Aborted(KeyAuthorityError):
    """The record has changed since its etag was read: read it again."""

    status = "ABORTED"


class FailedPrecondition(KeyAuthorityError):
    """The state of the key, of the log, of the store or of the client does not allow it."""

    status = "FAILED_PRECONDITION"


class ResourceExhausted(KeyAuthorityError):
    """Load was shed or the disk is full; `retry_after` says when to come back."""

    status = "RESOURCE_EXHAUSTED"


class Unavailable(KeyAuthorityError):
    """The authority cannot answer now: of a verification nothing is known, of a write neither."""

    status = "UNAVAILABLE"


class DeadlineExceeded(KeyAuthorityError):
    """No answer came in time; the outcome of a write is unknown."""

    status = "DEADLINE_EXCEEDED"


class Unimplemented(KeyAuthorityError):
    """The server does not know the call."""

    status = "UNIMPLEMENTED"


class Internal(KeyAuthorityError):
    """A fault of the server; `metadata["correlation_id"]` finds it in the server's log."""

    status = "INTERNAL"


TYPES: Final = (
    Unauthenticated,
    PermissionDenied,
    InvalidArgument,
    NotFound,
    AlreadyExists,
    Aborted,
    FailedPrecondition,
    ResourceExhausted,
    Unavailable,
    DeadlineExceeded,
    Unimplemented,
    Internal,
)

REASONS: Final[Mapping[ErrorReason, type[KeyAuthorityError]]] = {
    ErrorReason.CREDENTIAL_MISSING: Unauthenticated,
    ErrorReason.CREDENTIAL_INVALID: Unauthenticated,
    ErrorReason.CREDENTIAL_AMBIGUOUS: Unauthenticated,
    ErrorReason.PERMISSION_MISSING: PermissionDenied,
    ErrorReason.ADDRESS_NOT_ALLOWED: PermissionDenied,
    ErrorReason.BEYOND_OWN_RIGHTS: PermissionDenied,
    ErrorReason.INVALID_FIELD: InvalidArgument,
    ErrorReason.INVALID_MESSAGE: InvalidArgument,
    ErrorReason.KEY_NOT_FOUND: NotFound,
    ErrorReason.PROJECT_NOT_FOUND: NotFound,
    ErrorReason.REQUEST_ID_REUSED: AlreadyExists,
    ErrorReason.ETAG_MISMATCH: Aborted,
    ErrorReason.KEY_STATE: FailedPrecondition,
    ErrorReason.REPLAY_REVOKED: FailedPrecondition,
    ErrorReason.REVISION_AHEAD: FailedPrecondition,
    ErrorReason.LOG_MISMATCH: FailedPrecondition,
    ErrorReason.STORE_CLOSED: FailedPrecondition,
    ErrorReason.OVERLOADED: ResourceExhausted,
    ErrorReason.DISK_LOW: ResourceExhausted,
    ErrorReason.STORE_UNAVAILABLE: Unavailable,
    ErrorReason.STALE: Unavailable,
    ErrorReason.CLOCK_JUMPED: Unavailable,
    ErrorReason.UNIMPLEMENTED: Unimplemented,
    ErrorReason.INTERNAL: Internal,
    ErrorReason.MESSAGE_TOO_LARGE: ResourceExhausted,
    ErrorReason.SHUTTING_DOWN: Unavailable,
    ErrorReason.TIMED_OUT: DeadlineExceeded,
}
"""The one status of each reason."""


def error(
    reason: ErrorReason,
    message: str,
    *,
    metadata: Mapping[str, str] | None = None,
    fields: Sequence[FieldViolation] = (),
    retry_after: timedelta | None = None,
) -> KeyAuthorityError:
    """Return the error of a reason, of the type that `REASONS` gives it."""
    return REASONS[reason](
        message, reason, metadata=metadata, fields=fields, retry_after=retry_after
    )


def bad_field(field: str, description: str) -> KeyAuthorityError:
    """Return the error that names one field and the rule that it breaks."""
    return error(
        ErrorReason.INVALID_FIELD,
        f"{field}: {description}",
        fields=[FieldViolation(field, description)],
    )
