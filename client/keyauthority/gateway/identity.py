"""The headers that tell the upstream who calls, and those that must not reach it.

Upstreams read header names in different ways: CGI, WSGI and others treat `-`, `_` and `.` alike.
Names are therefore compared with every other character than letters and digits taken for `-`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

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


def grants(verdict: Verdict) -> tuple[str, ...]:
    """Return the grants of the caller; empty for SECRET, which has every permission."""
    return () if verdict.kind is KeyKind.SECRET else verdict.permissions


def identity_headers(verdict: Verdict) -> list[tuple[str, str]]:
    """Return the identity headers of a caller, in the order of `NAMES`."""
    return [
        (ACCESS_KEY, verdict.access_key),
        (PROJECT_ID, verdict.project_id),
        (MODE, verdict.mode.value if verdict.mode else ""),
        (KIND, verdict.kind.value if verdict.kind else ""),
        (PERMISSIONS, ",".join(grants(verdict))),
        (REVISION, str(verdict.revision)),
    ]


def names_to_remove(
    headers: Iterable[tuple[str, str]], key: str, *, keep_credential: bool
) -> tuple[str, ...]:
    """Return the names of the client's headers that must not reach the upstream.

    These are other spellings of the identity headers, and the credential: the headers that carry
    the key, and other spellings of them. A user's token in another header is left alone.
    """
    headers = list(headers)
    removed = {name for name, _ in headers if _is_forged(name)}
    if not keep_credential:
        removed |= carriers(headers, key)
        removed |= {name for name, _ in headers if _is_respelled_credential(name)}
    return tuple(sorted(removed))


@lru_cache(_CACHED)
def _canonical(name: str) -> str:
    return _OTHER.sub("-", name)


def _is_forged(name: str) -> bool:
    return _canonical(name).startswith(NAMESPACE) and name not in NAMES


def _is_respelled_credential(name: str) -> bool:
    return _canonical(name) in HEADERS and name not in HEADERS
