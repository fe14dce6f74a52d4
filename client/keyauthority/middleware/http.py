"""CORS preflights, and the rate-limit headers for handlers that respond themselves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from keyauthority.http.responses import rate_limit_headers

__all__ = ["is_preflight", "rate_limit_headers"]

PREFLIGHT: Final = "access-control-request-method"


def is_preflight(method: str, headers: Iterable[str]) -> bool:
    """Return True for a CORS preflight, which a browser sends without a key."""
    return method == "OPTIONS" and PREFLIGHT in headers
