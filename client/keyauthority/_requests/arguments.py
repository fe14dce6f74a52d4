"""What the arguments of calls have in common: words, lists, updates, ids of requests."""

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
    """Make InvalidArgument of the ValueError by which a request refuses what it cannot hold."""

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
    """Return the value of the enum, None for None. InvalidArgument, by name, if it has no such."""
    if value is None:
        return None
    try:
        return enum(value)
    except ValueError:
        text = f"is one of {', '.join(enum)}"
        raise InvalidArgument(f"{field}: {text}", fields=[FieldViolation(field, text)]) from None


def texts(values: Iterable[str], field: str) -> tuple[str, ...]:
    """Return the strings. TypeError for a string, which would be a list of its letters."""
    if isinstance(values, str):
        raise TypeError(f"{field} is a list of strings, not a string")
    return tuple(values)


def update_mask(fields: dict[str, Any]) -> tuple[frozenset[str], dict[str, Any]]:
    """Return the paths of an update, and the values of those that it does not clear."""
    named = {name: value for name, value in fields.items() if value is not UNCHANGED}
    return frozenset(named), {name: value for name, value in named.items() if value is not None}


def fresh_id(given: str | None) -> str:
    """Return the id that was given, else a new one: the attempts of one call are one request."""
    return given or str(uuid.uuid4())
