"""Shared parsing of call arguments: enums, lists, update masks, request IDs."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Callable, Iterable
from enum import StrEnum
from functools import wraps
from types import UnionType
from typing import Any, ParamSpec, TypeVar, get_args, get_type_hints

from keyauthority.errors import FieldViolation, InvalidArgument
from keyauthority.requests import UNCHANGED, Unchanged

E = TypeVar("E", bound=StrEnum)
P = ParamSpec("P")
R = TypeVar("R")


def as_invalid_argument(build: Callable[P, R]) -> Callable[P, R]:
    """Raise InvalidArgument in place of the ValueError of a request builder.

    A TypeError names the argument.
    """

    @wraps(build)
    def built(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return build(*args, **kwargs)
        # Not chained: an error of encoding holds the text, which may be a secret.
        except UnicodeEncodeError:
            raise InvalidArgument("a text cannot be sent: it is not valid Unicode") from None
        except ValueError as error:
            raise InvalidArgument(str(error)) from None
        except (TypeError, AttributeError) as error:
            raise TypeError(_wrong_type(build, args, kwargs) or str(error)) from None

    return built


def _wrong_type(
    build: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]
) -> str:
    """Return a message that names the first argument of the wrong type; empty if there is none.

    Elements of lists are not examined.
    """
    hints = get_type_hints(build)
    for name, value in inspect.signature(build).bind(*args, **kwargs).arguments.items():
        hint = hints[name]
        types = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        if all(isinstance(type_, type) for type_ in types) and not isinstance(value, types):
            names = (type_.__name__ for type_ in types if type_ is not Unchanged)
            expected = " or ".join("None" if name == "NoneType" else name for name in names)
            return f"{name} is {expected}, not {type(value).__name__}"
    return ""


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
