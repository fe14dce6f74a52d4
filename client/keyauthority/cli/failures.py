"""Messages and exit codes of failed commands, in terms of options and variables.

Exit codes: 0 success, 1 rejected by the authority, 2 wrong usage or configuration, 3 authority
unreachable or outcome unknown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

import click

from keyauthority._requests import unreachable
from keyauthority.convert import REASON_TO_NAME
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
_PROJECTS: Final = "; `keyauthority projects list` shows them"
_HINTS: Final = {"project_id": _PROJECTS, "operator_projects": _PROJECTS}
_FLAGS: Final = {
    "use TLS, or allow plaintext": "use --tls, or --allow-plaintext",
    "use TLS": "use --tls",
}
"""Advice of the library, and the same with options."""
_INDEX: Final = re.compile(r"\[(\d+)\]")


class Misused(click.ClickException):
    """The environment lacks a required setting."""

    exit_code = MISUSED


class Unanswered(click.ClickException):
    """The outcome of the call is unknown."""

    exit_code = CANNOT_TELL


class Interrupted(click.ClickException):
    """The command was interrupted before the authority responded."""

    exit_code = INTERRUPTED

    def __init__(self) -> None:
        super().__init__(f"interrupted{how_to_repeat()}")


class NotConfirmed(click.ClickException):
    """The action was not confirmed."""

    exit_code = MISUSED

    def __init__(self) -> None:
        super().__init__("not confirmed, nothing was done; confirm with --yes")


def failed(
    error: KeyAuthorityError, sources: Mapping[str, str], *, verifying: bool
) -> click.ClickException:
    """Return the exception that ends the command after a failed call.

    `sources` maps `address` and `operator_key` to their option or variable. When `verifying`, a
    rejected caller says nothing about the token, so the exit code must not be that of a denial.
    """
    reason = f" ({error.reason})" if error.reason else ""
    text = f"{_message(error, sources)}{reason} [{error.status}]"
    ended: click.ClickException
    if isinstance(error, _UNANSWERED):
        ended = Unanswered(text + how_to_repeat())
    elif error.reason is ErrorReason.CREDENTIAL_MISSING:
        ended = Misused(text)
    else:
        ended = Unanswered(text) if verifying else click.ClickException(text)  # which exits with 1
    ended.__cause__ = error
    return ended


def as_json(ended: click.ClickException, message: str) -> str:
    """Return a failure as one JSON object: code, reason, message and fields."""
    error = ended.__cause__
    code, reason, fields = "INVALID_ARGUMENT", "", list[FieldViolation]()
    if isinstance(error, KeyAuthorityError):
        code, fields = error.status, list(error.fields)
        reason = REASON_TO_NAME[error.reason] if error.reason else ""
    elif ended.exit_code == CANNOT_TELL:
        code = "UNAVAILABLE"
    named = [{"field": field, "description": description} for field, description in fields]
    return json.dumps({"code": code, "reason": reason, "message": message, "fields": named})


def how_to_repeat() -> str:
    """Return the hint for repeating a create command safely; empty for other commands."""
    context = click.get_current_context(silent=True)
    request_id = context.meta.get("keyauthority.request_id") if context else None
    if not request_id:
        return ""
    return f"; the outcome is unknown: repeat the command with --request-id {request_id}"


def unsent(error: KeyAuthorityError, sources: Mapping[str, str]) -> click.UsageError:
    """Return the error of a call that this library rejected before sending."""
    message = error.message
    for argument, flags in _FLAGS.items():
        message = message.replace(argument, flags)
    name, colon, rest = message.partition(": ")
    if colon and name in sources:
        return click.UsageError(f"{sources[name]}: {rest}")
    if rest == "cert and key belong together":
        return click.UsageError(f"give both {sources['tls.cert']} and {sources['tls.key']}")
    name, colon, rest = rest.partition(": ")
    if colon and f"tls.{name}" in sources:
        return click.UsageError(f"{sources[f'tls.{name}']}: {rest}")
    return click.UsageError(_message(error, sources))


def _message(error: KeyAuthorityError, sources: Mapping[str, str]) -> str:
    if error.reason is ErrorReason.CREDENTIAL_MISSING:
        return "no operator key: set KEYAUTHORITY_OPERATOR_KEY or KEYAUTHORITY_OPERATOR_KEY_FILE"
    if error.reason is ErrorReason.CREDENTIAL_INVALID and "operator_key" in sources:
        return f"{sources['operator_key']}: the operator key is not valid: {sources['credential']}"
    if error.fields:
        return "; ".join(map(_violation, error.fields))
    address = sources.get("given address", "")
    if error.reason is None and address and address in error.message:
        text = error.message.replace(unreachable.CA, "--tls-ca")
        return text.replace(address, f"{address} ({sources['address']})", 1)
    return error.message or "no reason given"


def _violation(violation: FieldViolation) -> str:
    """Return the option of the field, its value if repeatable, and the violated rule."""
    context = click.get_current_context()
    options = {parameter.name: parameter for parameter in context.command.params}
    for part in violation.field.split("."):
        name = _INDEX.sub("", part)
        if name in options:
            flag = options[name].opts[0]
            hint = _HINTS.get(name, "") if violation.description.startswith("not a ") else ""
            value = _value(context.params.get(name), part)
            return f"{flag}{value}: {violation.description}{hint}"
    return f"{violation.field}: {violation.description}"


def _value(value: Any, part: str) -> str:
    index = _INDEX.search(part)
    if index is None or not isinstance(value, tuple) or int(index[1]) >= len(value):
        return ""
    value = value[int(index[1])]
    return f" {value}" if isinstance(value, str) else f" number {int(index[1]) + 1}"
