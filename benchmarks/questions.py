"""Questions as users ask them: many keys, and another client address in each."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, Final, NamedTuple

from benchmarks.authority import ALLOWED, NEEDED, rate_limit
from benchmarks.run import Run
from benchmarks.stores import Filled, filled
from keyauthority.v1 import key_authority_service_pb2 as pb

KEYS: Final = 10_000  # without a rate limit, and as many with one
VALID: Final = b"\x08\x01\x10\x01"  # the beginning of VerifyResponse: valid = 1, verdict = 2
ADDRESSES: Final = 2**24  # below 10.0.0.0/8


class Keys(NamedTuple):
    """Keys to ask about, in a store that servers begin with a copy of."""

    store: Filled
    plain: list[str]
    limited: list[str]
    """Those that have a rate limit, which no load reaches."""


class Question(NamedTuple):
    """One verification."""

    token: str
    client_ip: str
    permissions: Sequence[str]

    @property
    def asked(self) -> dict[str, Any]:
        """The arguments of `verify`, without the token."""
        return {"client_ip": self.client_ip, "permissions": self.permissions}

    def request(self) -> pb.VerifyRequest:
        """Return the message."""
        return pb.VerifyRequest(secret_key=self.token, **self.asked)


def make_keys(run: Run) -> Keys:
    """Make the store: all keys have permissions, every second one is restricted to addresses."""
    number = min(KEYS, max(run.keys))

    def fields(place: int) -> dict[str, Any]:
        limited = {"rate_limit": rate_limit()} if place >= number else {}
        return limited | ({"restrictions": ALLOWED} if place % 2 else {})

    store = asyncio.run(filled(run.stores / "questions", 2 * number, fields))
    return Keys(store, store.tokens[:number], store.tokens[number:])


def draw(items: Sequence[str], count: int, *, zipf: bool = False) -> list[str]:
    """Draw so many items: all equally likely, or item N as likely as 1/N (Zipf, exponent 1)."""
    weights = list(accumulate(1 / rank for rank in range(1, len(items) + 1))) if zipf else None
    return random.choices(items, cum_weights=weights, k=count)  # noqa: S311 - no secret


def questions(tokens: Sequence[str], count: int, *, zipf: bool = False) -> Iterator[Question]:
    """Yield questions about drawn keys; no address comes twice, every second needs a permission."""
    addresses = random.sample(range(ADDRESSES), count)
    for place, token in enumerate(draw(tokens, count, zipf=zipf)):
        address = addresses[place].to_bytes(3)
        client_ip = "10." + ".".join(map(str, address))
        yield Question(token, client_ip, NEEDED if place % 2 else ())
