"""Messages and exit codes of failed commands, with the names of options and variables.

Exit codes: 0 done, 1 refused by the authority, 2 used or configured wrongly, 3 cannot tell.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import click

from keyauthority._requests import unreachable
from keyauthority.errors import (
    DeadlineExceeded,
    ErrorReason,
    FieldViolation,
    Internal,
    KeyAuthorityError,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)

REFUSED: Final = 1
MISUSED: Final = 2
CANNOT_TELL: Final = 3
INTERRUPTED: Final = 130  # 128 + SIGINT, as a shell has it

_UNANSWERED: Final = (Unavailable, DeadlineExceeded, ResourceExhausted, Internal, Unimplemented)
_INDEX: Final = re.compile(r"\[(\d+)\]")


class Misused(click.ClickException):
    """A call that lacks what the environment has to give."""

    exit_code = MISUSED


class Unanswered(click.ClickException):
    """A call whose outcome is unknown."""

    exit_code = CANNOT_TELL


class Interrupted(click.ClickException):
    """A command that was interrupted while the authority had yet to answer."""

    exit_code = INTERRUPTED

    def __init__(self) -> None:
        super().__init__(f"interrupted{how_to_repeat()}")


def failed(
    error: KeyAuthorityError, sources: Mapping[str, str], *, verifying: bool
) -> click.ClickException:
    """Return what ends the command after a call that failed.

    `sources` names the option or variable of `address` and `operator_key`. When `verifying`, a
    refusal of the caller tells nothing of the token, and must not be taken for a denial.
    """
    reason = f" ({error.reason})" if error.reason else ""
    text = f"{_message(error, sources)}{reason} [{error.status}]"
    if isinstance(error, _UNANSWERED):
        return Unanswered(text + how_to_repeat())
    if error.reason is ErrorReason.CREDENTIAL_MISSING:
        return Misused(text)
    return Unanswered(text) if verifying else click.ClickException(text)  # which exits with 1


def how_to_repeat() -> str:
    """Return how to learn the outcome of a command that creates something; empty for others."""
    context = click.get_current_context(silent=True)
    request_id = context.meta.get("keyauthority.request_id") if context else None
    if not request_id:
        return ""
    return f"; the outcome is unknown: repeat the command with --request-id {request_id}"


def unsent(error: KeyAuthorityError, sources: Mapping[str, str]) -> click.UsageError:
    """Return the error of a call that this library refused to send."""
    name, colon, rest = error.message.partition(": ")
    if colon and name in sources:
        return click.UsageError(f"{sources[name]}: {rest}")
    name, colon, rest = rest.partition(": ")
    if colon and f"tls.{name}" in sources:
        return click.UsageError(f"{sources[f'tls.{name}']}: {rest}")
    return click.UsageError(_message(error, sources))


def _message(error: KeyAuthorityError, sources: Mapping[str, str]) -> str:
    if error.reason is ErrorReason.CREDENTIAL_MISSING:
        return "no operator key: set KEYAUTHORITY_OPERATOR_KEY or KEYAUTHORITY_OPERATOR_KEY_FILE"
    if error.reason is ErrorReason.CREDENTIAL_INVALID and "operator_key" in sources:
        return f"{sources['operator_key']}: the operator key is not valid"
    if error.fields:
        return "; ".join(map(_violation, error.fields))
    address = sources.get("given address", "")
    if error.reason is None and address and address in error.message:
        text = error.message.replace(unreachable.CA, "--tls-ca")
        return text.replace(address, f"{address} ({sources['address']})", 1)
    return error.message or "no reason given"


def _violation(violation: FieldViolation) -> str:
    """Name the option that sets the field, with its value if it may be repeated."""
    context = click.get_current_context()
    options = {parameter.name: parameter for parameter in context.command.params}
    for part in violation.field.split("."):
        name = _INDEX.sub("", part)
        if name in options:
            flag = options[name].opts[0]
            return f"{flag}{_value(context.params.get(name), part)}: {violation.description}"
    return f"{violation.field}: {violation.description}"


def _value(given: Any, part: str) -> str:
    index = _INDEX.search(part)
    if index is None or not isinstance(given, tuple) or int(index[1]) >= len(given):
        return ""
    value = given[int(index[1])]
    return f" {value}" if isinstance(value, str) else f" number {int(index[1]) + 1}"
