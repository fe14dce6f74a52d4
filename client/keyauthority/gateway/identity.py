"""The headers that tell the upstream who calls, and those that must not reach it.

Upstreams read header names in different ways: CGI, WSGI and others treat `-`, `_` and `.` alike.
Names are therefore compared with every other character than letters and digits taken for `-`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum
from functools import lru_cache
from typing import Final, NamedTuple

from keyauthority.http.credentials import HEADERS, carriers
from keyauthority.model import KeyKind, Verdict

NAMESPACE: Final = "x-keyauthority-"
ACCESS_KEY: Final = "x-keyauthority-access-key"
PROJECT_ID: Final = "x-keyauthority-project-id"
MODE: Final = "x-keyauthority-mode"
KIND: Final = "x-keyauthority-kind"
PERMISSIONS: Final = "x-keyauthority-permissions"
REVISION: Final = "x-keyauthority-revision"
NAMES: Final = (ACCESS_KEY, PROJECT_ID, MODE, KIND, PERMISSIONS, REVISION)
"""The identity headers. All are always set, so that none of the client's passes."""

_OTHER: Final = re.compile(r"[^a-z0-9]")
_CACHED: Final = 4_096  # names; a client can send any
_CACHED_LENGTH: Final = 64  # characters of a name; longer ones would fill the memory


class Identity(NamedTuple):
    """The caller, as the upstream sees it: words in lower case, empty if unknown."""

    access_key: str
    project_id: str
    mode: str
    kind: str
    permissions: tuple[str, ...]
    """The grants; empty for a secret key, which has every permission."""


def identity(verdict: Verdict) -> Identity:
    """Return the identity of a caller."""
    kind = verdict.kind
    return Identity(
        verdict.access_key,
        verdict.project_id,
        verdict.mode.value if verdict.mode else "",
        kind.value if kind else "",
        () if kind is KeyKind.SECRET else verdict.permissions,
    )


def identity_headers(caller: Identity) -> list[tuple[str, str]]:
    """Return the headers of an identity: all of `NAMES` except the revision."""
    texts = (*caller[:-1], ",".join(caller.permissions))
    return list(zip(NAMES, texts, strict=False))


def names_to_remove(
    headers: Iterable[tuple[str, str]], key: str, *, keep_credential: bool
) -> tuple[str, ...]:
    """Return the names of the client's headers that must not reach the upstream.

    These are other spellings of the identity headers, and the credential: the headers that carry
    the key, and other spellings of them. A user's token in another header is left alone.
    """
    headers = list(headers)
    removed = set() if keep_credential else carriers(headers, key)
    for name, _ in headers:
        sort = _cached_sort(name) if len(name) <= _CACHED_LENGTH else _sort(name)
        if sort is _Sort.FORGED or (sort is _Sort.CREDENTIAL and not keep_credential):
            removed.add(name)
    return tuple(sorted(removed))


class _Sort(Enum):
    """Sorts of header names that are removed."""

    FORGED = "another spelling of an identity header"
    CREDENTIAL = "another spelling of a header of keys"


def _sort(name: str) -> _Sort | None:
    canonical = _OTHER.sub("-", name)
    if canonical.startswith(NAMESPACE) and name not in NAMES:
        return _Sort.FORGED
    return _Sort.CREDENTIAL if canonical in HEADERS and name not in HEADERS else None


_cached_sort: Final = lru_cache(_CACHED)(_sort)
