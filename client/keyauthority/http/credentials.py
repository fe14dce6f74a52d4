"""Reads the key from the headers of a request.

    key = read_key([("authorization", "Bearer sk_live_…")])

Values that cannot be a key are ignored: a user's token in `Authorization` does not conflict with a
key in `X-API-Key`.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from typing import Final

from keyauthority.http.rejection import MALFORMED, NO_KEY, SEVERAL_KEYS, Rejection
from keyauthority.token import TOKEN_PATTERN

AUTHORIZATION: Final = "authorization"
HEADERS: Final = (AUTHORIZATION, "x-api-key", "x-auth-token")

_SPACE: Final = " \t\r\n\f\v"
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+", re.ASCII)  # RFC 9110, section 5.6.2
_JWT: Final = re.compile(r"eyJ[\w-]*\.[\w-]+\.[\w-]*", re.ASCII)  # RFC 7515: `{"` in base64url


def check_header(name: str | None) -> str | None:
    """Return the header name in lower case. Raises ValueError for an invalid name."""
    if name is None:
        return None
    lowered = name.lower()
    if not _NAME.fullmatch(lowered):
        raise ValueError(f"header is the name of an HTTP header, such as x-shop-key, not {name!r}")
    return lowered


def read_key(headers: Iterable[tuple[str, str]], header: str | None = None) -> str | Rejection:
    """Return the key in the headers, whose names must be in lower case.

    `header` is the only header to read. The same key twice counts once. A value without the form of
    a key is ignored if another has it; alone it is returned, and the authority rejects it.
    """
    names = HEADERS if header is None else (header,)
    candidates: list[str | Rejection] = []
    for name, text in headers:
        if name in names:
            candidates += _values(name, text)
    values = list(dict.fromkeys(candidates))
    if len(values) > 1:
        values = [value for value in values if _has_key_form(value)] or [
            value for value in values if isinstance(value, str) and not _JWT.fullmatch(value)
        ]
    if not values:
        return MALFORMED if candidates else NO_KEY
    return values[0] if len(values) == 1 else SEVERAL_KEYS


def carriers(headers: Iterable[tuple[str, str]], key: str) -> set[str]:
    """Return the names of the headers that carry the key, among the default ones."""
    return {name for name, text in headers if name in HEADERS and key in _values(name, text)}


def _values(name: str, text: str) -> Iterable[str | Rejection]:
    return _authorization(text) if name == AUTHORIZATION else _bare(text)


def _has_key_form(value: str | Rejection) -> bool:
    return isinstance(value, str) and TOKEN_PATTERN.fullmatch(value) is not None


def _bare(text: str) -> list[str | Rejection]:
    return [part.strip(_SPACE) for part in text.split(",") if part.strip(_SPACE)]


def _authorization(text: str) -> Iterator[str | Rejection]:
    """Yield the keys of an Authorization header, which a proxy may have joined with commas."""
    for index, part in enumerate(_bare(text)):
        assert isinstance(part, str)  # noqa: S101 - for mypy
        scheme, _, rest = part.partition(" ")
        value = rest.strip(_SPACE)
        if scheme.lower() == "bearer":
            if value:
                yield value
        elif scheme.lower() == "basic":
            yield _user_name(value)
        elif index and _has_key_form(part):
            yield part


def _user_name(encoded: str) -> str | Rejection:
    """Return the user name of Basic credentials with an empty password (RFC 7617)."""
    try:
        text = base64.b64decode(encoded, validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        return MALFORMED
    name, colon, password = text.partition(":")
    return name if name and colon and not password else MALFORMED
