"""Text that others wrote, made safe to print: one function for every program of this project."""

from __future__ import annotations


def one_line(text: str) -> str:
    """Return the text with all that could break a line or steer a terminal written out."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )
