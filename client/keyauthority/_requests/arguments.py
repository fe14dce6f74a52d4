"""Shared parsing of call arguments: enums, lists, update masks, request IDs."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from enum import StrEnum
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from keyauthority.errors import FieldViolation, InvalidArgument
from keyauthority.requests import UNCHANGED

E = TypeVar("E", bound=StrEnum)
P = ParamSpec("P")
R = TypeVar("R")


def as_invalid_argument(build: Callable[P, R]) -> Callable[P, R]:
    """Raise InvalidArgument in place of the ValueError of a request builder."""

    @wraps(build)
    def built(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return build(*args, **kwargs)
        # Not chained: an error of encoding holds the text, which may be a secret.
        except UnicodeEncodeError:
            raise InvalidArgument("a text cannot be sent: it is not valid Unicode") from None
        except ValueError as error:
            raise InvalidArgument(str(error)) from None

    return built


def parse_enum(enum: type[E], value: E | str | None, field: str) -> E | None:
    """Return the member of the enum; None for None. Raises InvalidArgument, naming the field."""
    if value is None:
        return None
    try:
        return enum(value)
    except ValueError:
        rule = f"is one of {', '.join(enum)}"
        raise InvalidArgument(f"{field}: {rule}", fields=[FieldViolation(field, rule)]) from None


def texts(values: Iterable[str], field: str) -> tuple[str, ...]:
    """Return the strings. Raises TypeError for a single string, which iterates by letter."""
    if isinstance(values, str):
        raise TypeError(f"{field} is a list of strings, not a string")
    return tuple(values)


def update_mask(fields: dict[str, Any]) -> tuple[frozenset[str], dict[str, Any]]:
    """Return the paths of an update, and the values of the paths that are not cleared."""
    changed = {name: value for name, value in fields.items() if value is not UNCHANGED}
    return frozenset(changed), {name: value for name, value in changed.items() if value is not None}


def request_id_or_new(request_id: str | None) -> str:
    """Return the request ID, or a new UUID shared by all attempts of the call."""
    return request_id or str(uuid.uuid4())
