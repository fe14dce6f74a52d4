"""Tokens and texts that nearly are tokens."""

from __future__ import annotations

import random
import string

from keyauthority.model import KeyKind, KeyMode
from keyauthority.token import make, new_access_key, new_secret


def new_token(kind: KeyKind = KeyKind.SECRET, prefix: str = "") -> str:
    """Return a live token that no authority has issued."""
    secret = None if kind is KeyKind.PUBLISHABLE else new_secret()
    return make(kind, KeyMode.LIVE, new_access_key(), secret, prefix).reveal()


def near_misses(count: int, source: random.Random) -> list[str]:
    """Return texts that differ from a token in little."""
    misses = []
    for number in range(count):
        token = new_token()
        at = source.randrange(8, len(token))
        other = source.choice(string.ascii_letters.replace(token[at], ""))
        misses.append(
            (
                token[:at] + other + token[at + 1 :],
                token[:at] + token[at + 1 :],
                token[:at] + token[at] + token[at:],
                token[:8] + token[28:],
                "sk_live_" + token[30:54],
            )[number % 5]
        )
    return misses
