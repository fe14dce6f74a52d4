"""Answers that are given again while what they rest on stands, without being worked out again.

The same keys come again and again, presented alike. For as long as no change was made, which the
store is asked each time, such a call has the answer that it had: it is counted, and neither read,
looked up nor judged. What is kept is named by a hash under a key that is of this process alone, so
no token lies in memory.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Hashable
from hashlib import blake2b
from typing import Final, Generic, NamedTuple, TypeVar

from google.protobuf.message import Message

from keyauthority_server.rpc.credentials import caller_of
from keyauthority_server.rpc.interceptors import Serve, read
from keyauthority_server.wire import Answer, Call

L = TypeVar("L")

ANSWERS_MAX: Final = 16_384  # some 1 KB each
REQUEST_MAX: Final = 1_024  # bytes: an odd call shall not cost the hash of a large message
NAME_BYTES: Final = 16  # of a keyed hash: nobody can aim at another's name


class _Kept(NamedTuple, Generic[L]):
    answer: bytes
    rests_on: L


def remembered(request_type: type[Message], serve: Serve, again: Callable[[L], bool]) -> Answer:
    """Return the method as bytes in, bytes out; an answer is given again if `again` says so.

    `serve` gives the answer's message and what it rests on, None if it is good for once only;
    `again` is told what an answer rests on.
    """
    key = secrets.token_bytes(blake2b.MAX_KEY_SIZE)
    kept: dict[tuple[Hashable, bytes], _Kept[L]] = {}

    async def fresh(body: bytes, call: Call) -> tuple[bytes, L | None]:
        message, rests_on = await serve(call, read(request_type, body))
        return message.SerializeToString(), rests_on

    async def answer(body: bytes, call: Call) -> bytes:
        if len(body) > REQUEST_MAX:
            return (await fresh(body, call))[0]
        name = caller_of(call), blake2b(body, key=key, digest_size=NAME_BYTES).digest()
        known = kept.get(name)
        if known is not None:
            if again(known.rests_on):
                return known.answer
            kept.pop(name, None)
        made, rests_on = await fresh(body, call)
        if rests_on is not None:
            if len(kept) >= ANSWERS_MAX:
                del kept[next(iter(kept))]  # the one kept longest
            kept[name] = _Kept(made, rests_on)
        return made

    return answer
