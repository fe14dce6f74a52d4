"""The page that the client came from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from keyauthority.restrictions import REFERRER_MAX

REFERER: Final = "referer"  # RFC 9110, section 10.1.3: a misspelling


def read_referrer(headers: Iterable[tuple[str, str]]) -> str:
    """Return the first referrer; empty if it is not printable or too long."""
    text = next((text for name, text in headers if name == REFERER), "")
    return text if text.isprintable() and len(text) <= REFERRER_MAX else ""
