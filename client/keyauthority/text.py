"""Escaping of untrusted text for terminals and logs."""

from __future__ import annotations


def one_line(text: str) -> str:
    """Return the text with line breaks and control characters escaped."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
