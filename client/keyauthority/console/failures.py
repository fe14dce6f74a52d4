"""Failed calls as pages and form errors: status, title and text of each kind of failure."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from keyauthority.errors import (
    Aborted,
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
    KeyAuthorityError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)

GENERAL: Final = ""
"""The name under which a form shows an error that belongs to no field."""

_PART: Final = re.compile(r"([a-z_]+)(?:\[(\d+)\])?", re.ASCII)


class Failure(NamedTuple):
    """A failure as it is shown."""

    status: int
    title: str
    text: str

    @property
    def is_temporary(self) -> bool:
        """True if the same request may succeed later."""
        return self.status == _UNREACHABLE


_UNREACHABLE: Final = 503
NOT_FOUND: Final = Failure(404, "Not found", "It does not exist, or you may not see it.")
_TITLES: Final = (
    (PermissionDenied, 403, "Not allowed"),
    (InvalidArgument, 422, "The input was refused"),
    (AlreadyExists, 409, "Nothing was changed"),
    (FailedPrecondition, 409, "Nothing was changed"),
    (ResourceExhausted, _UNREACHABLE, "The authority is busy"),
    (Unavailable, _UNREACHABLE, "The authority cannot be reached"),
    (DeadlineExceeded, _UNREACHABLE, "The authority does not answer"),
)


def failure_of(error: Exception) -> Failure:
    """Return the status, title and text of a failed call."""
    if isinstance(error, NotFound):
        return NOT_FOUND
    if isinstance(error, Unauthenticated):
        text = "The authority no longer accepts the operator key that you signed in with."
        return Failure(401, "Signed out", text)
    if isinstance(error, Aborted):
        return Failure(409, "Changed meanwhile", "The record was changed after this form was made.")
    message = _sentence(error.message) if isinstance(error, KeyAuthorityError) else ""
    for kind, status, title in _TITLES:
        if isinstance(error, kind):
            return Failure(status, title, message)
    return Failure(500, "The authority failed", message)


def field_errors(violations: tuple[FieldViolation, ...]) -> dict[str, list[str]]:
    """Return the violations by form field, with line numbers for entries of lists."""
    errors: dict[str, list[str]] = {}
    for path, description in violations:
        name, line = _form_field(path)
        text = f"line {line}: {description}" if line else description
        errors.setdefault(name, []).append(_sentence(text))
    return errors


def _form_field(path: str) -> tuple[str, int]:
    """Return the form field of a request's field, and the line of a list's entry; else 0."""
    match = _PART.match(path.removeprefix("restrictions."))
    return (match[1], int(match[2]) + 1 if match[2] else 0) if match else (GENERAL, 0)


def _sentence(text: str) -> str:
    text = text.strip()
    if not text:
        return ""
    return text[0].upper() + text[1:] + ("" if text[-1] in ".!?" else ".")
