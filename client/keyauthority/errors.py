"""Exceptions of Key Authority, raised by the server's services and by the client.

Client and server share one hierarchy, so that an error keeps its type across the wire. Independent
of grpc: `convert` translates between errors and statuses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from enum import StrEnum
from typing import ClassVar, Final, NamedTuple


class ErrorReason(StrEnum):
    """The reason of a failed call: the values of the proto enum ErrorReason."""

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
    IMPORT_SET_MISMATCH = "import_set_mismatch"
    DIGEST_TAKEN = "digest_taken"


class FieldViolation(NamedTuple):
    """A field of a request that violates its rule."""

    field: str
    description: str


class KeyAuthorityError(Exception):
    """Base class of all failures of a call. A denied verification is a verdict, not an error.

    `reason` is None if the failure came from the network or this library, not the authority.
    `retry_after` is the delay that the authority requests before the next attempt, or None.
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
    """The credential is missing, invalid or ambiguous."""

    status = "UNAUTHENTICATED"


class PermissionDenied(KeyAuthorityError):
    """The operator lacks the required permission."""

    status = "PERMISSION_DENIED"


class InvalidArgument(KeyAuthorityError):
    """Arguments violate their rules; `fields` names them."""

    status = "INVALID_ARGUMENT"


class NotFound(KeyAuthorityError):
    """The resource does not exist or the caller may not see it."""

    status = "NOT_FOUND"


class AlreadyExists(KeyAuthorityError):
    """The request_id was used before with other arguments."""

    status = "ALREADY_EXISTS"


class Aborted(KeyAuthorityError):
    """The record has changed since its etag was read: read it again and retry."""

    status = "ABORTED"


class FailedPrecondition(KeyAuthorityError):
    """The state of the key, the log, the store or the client does not allow the call."""

    status = "FAILED_PRECONDITION"


class ResourceExhausted(KeyAuthorityError):
    """The server is overloaded or its disk is full; retry after `retry_after`."""

    status = "RESOURCE_EXHAUSTED"


class Unavailable(KeyAuthorityError):
    """The authority cannot be reached or cannot serve; the outcome of a write is unknown."""

    status = "UNAVAILABLE"


class DeadlineExceeded(KeyAuthorityError):
    """The call timed out; the outcome of a write is unknown."""

    status = "DEADLINE_EXCEEDED"


class Unimplemented(KeyAuthorityError):
    """The server does not implement the call."""

    status = "UNIMPLEMENTED"


class Internal(KeyAuthorityError):
    """A defect of the server; find it in the server's log by `metadata["correlation_id"]`."""

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
    ErrorReason.IMPORT_SET_MISMATCH: FailedPrecondition,
    ErrorReason.DIGEST_TAKEN: AlreadyExists,
}
"""The exception type, and so the gRPC status, of each reason."""


def error(
    reason: ErrorReason,
    message: str,
    *,
    metadata: Mapping[str, str] | None = None,
    fields: Sequence[FieldViolation] = (),
    retry_after: timedelta | None = None,
) -> KeyAuthorityError:
    """Return the exception of a reason, with the type from `REASONS`."""
    return REASONS[reason](
        message, reason, metadata=metadata, fields=fields, retry_after=retry_after
    )


def bad_field(field: str, description: str) -> KeyAuthorityError:
    """Return the INVALID_FIELD error for one field and the rule it violates."""
    return error(
        ErrorReason.INVALID_FIELD,
        f"{field}: {description}",
        fields=[FieldViolation(field, description)],
    )
