"""Requirements of a route: the demands of the proxy's configuration on a key.

    from_query(b"permission=orders:read&mode=live")

An unknown name or a malformed value gives None, for which every request is rejected: a misspelt
requirement never opens.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

from keyauthority.model import ApiTarget, KeyMode
from keyauthority.permissions import is_concrete
from keyauthority.text import UUID, one_line
from keyauthority.token import TOKEN_PATTERN

PERMISSION: Final = "permission"
NAMES: Final = frozenset({PERMISSION, "mode", "project_id", "cost", "service", "method"})

_COST_MAX: Final = 2**31  # the limit of a Verifier
_TEXT_MAX: Final = 255  # characters, the limit of Verify
_PERMISSIONS_MAX: Final = 100  # the limit of Verify
_LENGTH_MAX: Final = 8_192  # characters of all requirements, which are kept in memory
_TOO_LONG: Final = f"more than {_LENGTH_MAX} characters in all"
_NUMBER: Final = re.compile(r"[0-9]{1,10}", re.ASCII)
_CACHED: Final = 1_024  # routes; a client that reaches the gateway directly can name others

_log: Final = logging.getLogger(__name__)


class Requirements(NamedTuple):
    """The arguments of Verify that a route sets."""

    permissions: tuple[str, ...] = ()
    mode: KeyMode | None = None
    project_id: str = ""
    cost: int = 1
    api_target: ApiTarget | None = None


def from_query(query: bytes) -> Requirements | None:
    """Return the requirements in the query of an auth URL; `permission` may be repeated."""
    if len(query) > _LENGTH_MAX:
        _complain(_TOO_LONG)
        return None
    return _query(query)


@lru_cache(_CACHED)
def _query(query: bytes) -> Requirements | None:
    if not query:
        return Requirements()
    try:
        pairs = parse_qsl(
            query.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
        )
    except ValueError:
        _complain("the query of the auth URL is malformed")
        return None
    return _parsed(pairs)


def from_extensions(extensions: Mapping[str, str]) -> Requirements | None:
    """Return the requirements in Envoy's `context_extensions`; `permission` is a list by commas."""
    pairs = tuple(extensions.items())
    if sum(len(name) + len(value) for name, value in pairs) > _LENGTH_MAX:
        _complain(_TOO_LONG)
        return None
    return _extensions(pairs)


@lru_cache(_CACHED)
def _extensions(pairs: tuple[tuple[str, str], ...]) -> Requirements | None:
    split: list[tuple[str, str]] = []
    for name, value in pairs:
        parts = value.split(",") if name == PERMISSION else [value]
        split += [(name, part.strip(" ")) for part in parts]
    return _parsed(split)


def _parsed(pairs: Iterable[tuple[str, str]]) -> Requirements | None:
    try:
        return _parse(pairs)
    except ValueError as error:
        _complain(str(error))
        return None


def _parse(pairs: Iterable[tuple[str, str]]) -> Requirements:
    permissions: list[str] = []
    single: dict[str, str] = {}
    for name, value in pairs:
        if name not in NAMES:
            raise ValueError(f"'{name}' is unknown: use {', '.join(sorted(NAMES))}")
        if name == PERMISSION:
            permissions.append(value)
        elif name in single:
            raise ValueError(f"{name} is given twice")
        else:
            single[name] = value
    for permission in permissions:
        if not is_concrete(permission):
            raise ValueError(f"permission '{permission}' is not resource:action")
    if len(permissions) > _PERMISSIONS_MAX:
        raise ValueError(f"more than {_PERMISSIONS_MAX} permissions")
    return Requirements(
        tuple(permissions),
        _mode(single.get("mode")),
        _project_id(single.get("project_id")),
        _cost(single.get("cost")),
        _target(single.get("service"), single.get("method")),
    )


def _mode(text: str | None) -> KeyMode | None:
    if text is None:
        return None
    if text not in set(KeyMode):
        raise ValueError(f"mode '{text}' is not test or live")
    return KeyMode(text)


def _project_id(text: str | None) -> str:
    if text is not None and not UUID.fullmatch(text):
        raise ValueError(f"project_id '{text}' is not a UUID in lower case")
    return text or ""


def _cost(text: str | None) -> int:
    if text is None:
        return 1
    if not _NUMBER.fullmatch(text) or int(text) > _COST_MAX:
        raise ValueError(f"cost '{text}' is not a number from 0 to {_COST_MAX}")
    return int(text)


def _target(service: str | None, method: str | None) -> ApiTarget | None:
    if service is None:
        if method is not None:
            raise ValueError("method needs service")
        return None
    for name, text in (("service", service), ("method", method)):
        if text is not None and not (0 < len(text) <= _TEXT_MAX and text.isprintable()):
            raise ValueError(f"{name} is not 1 to {_TEXT_MAX} printable characters")
    return ApiTarget(service, method or "")


def _complain(reason: str) -> None:
    """Log a malformed requirement, which only a change of the proxy's configuration removes."""
    text = one_line(TOKEN_PATTERN.sub("**********", reason)[:_TEXT_MAX])
    _log.error("requests are rejected: requirement of a route: %s", text)
