"""Answers that are given again while what they rest on stands, without being worked out again.

The same keys come again and again, presented alike. For as long as no change was made, which the
store is asked each time, such a call has the answer that it had: it is counted, and neither looked
up nor judged. What is kept is named by a hash under a key that is of this process alone, so no
token that was to be verified lies in memory.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from hashlib import blake2b
from typing import Any, Final, NamedTuple, Protocol

from google.protobuf.message import Message

from keyauthority_server.bounded import Bounded
from keyauthority_server.rpc.credentials import caller_of
from keyauthority_server.rpc.interceptors import Serve
from keyauthority_server.rpc.item_counts import split_items
from keyauthority_server.rpc.rules import BATCH_MAX
from keyauthority_server.wire import Answer, Call

ANSWERS_MAX: Final = 16_384  # with what they rest on, which mostly is kept elsewhere as well
CALLERS_MAX: Final = 1_024  # whose answers are found; few make most calls
REQUEST_MAX: Final = 1_024  # bytes: an odd call shall not cost the hash of a large message
NAME_BYTES: Final = 16  # of a keyed hash: nobody can aim at another's name

_NAMELESS: Final = b""


class Ground(Protocol):
    """What a verdict rests on."""

    @property
    def revision(self) -> int:
        """The newest change when it was found; once there is another it never stands again."""
        ...

    @property
    def weight(self) -> int:
        """What it weighs in memory, the answer with it; see `bounded`."""
        ...


class Rested(NamedTuple):
    """An answer, and for each verdict in it what that rests on; None for what is good for once."""

    message: Message
    grounds: Sequence[Ground | None]
    kept: Sequence[Message]
    """What is kept of each verdict."""


class _Kept(NamedTuple):
    answer: bytes
    ground: Ground


class _Memory:
    """Answers by what was asked and who asked, all of the newest revision that one was of."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(blake2b.MAX_KEY_SIZE)
        self._salts: dict[Hashable, bytes] = {}  # of callers who have proven themselves
        self._kept: Bounded[bytes, _Kept] = Bounded(ANSWERS_MAX)
        self._revision = 0
        self.find = self._kept.get

    def knows(self, call: Call) -> bool:
        """True if an answer to this caller was kept; raises what `caller_of` does."""
        return caller_of(call) in self._salts

    def names(self, call: Call, requests: Iterable[bytes]) -> list[bytes]:
        """Return what the answer to each request of a caller is kept under."""
        caller = caller_of(call)
        salt = self._salts.get(caller)
        if salt is None:
            if len(self._salts) >= CALLERS_MAX:
                del self._salts[next(iter(self._salts))]
            salt = self._salts[caller] = secrets.token_bytes(blake2b.SALT_SIZE)
        return [
            blake2b(one, key=self._key, salt=salt, digest_size=NAME_BYTES).digest()
            if len(one) <= REQUEST_MAX
            else _NAMELESS
            for one in requests
        ]

    def keep(self, name: bytes, answer: bytes, ground: Ground) -> None:
        """Keep an answer in the place of the one that there is, if it has a name."""
        if ground.revision > self._revision:
            self._kept.clear()
            self._revision = ground.revision
        if name != _NAMELESS and ground.revision == self._revision:
            self._kept.keep(name, _Kept(answer, ground), ground.weight)


def remembered(serve: Serve, again: Callable[[Any, bytes], Awaitable[bytes | None]]) -> Answer:
    """Return a method with one verdict as bytes in, bytes out.

    `serve` gives it `Rested`; `again` makes the answer anew of a ground and what was kept with it,
    None if it has to be worked out.
    """
    memory = _Memory()

    async def answer(body: bytes, call: Call) -> bytes:
        if memory.knows(call):
            (name,) = memory.names(call, (body,))
            known = memory.find(name)
            if known is not None and (made := await again(known.ground, known.answer)) is not None:
                return made
        rested: Rested = await serve(call, body)
        made = rested.message.SerializeToString()
        (ground,), (kept,) = rested.grounds, rested.kept
        if ground is not None:
            (name,) = memory.names(call, (body,))
            memory.keep(name, made if kept is rested.message else kept.SerializeToString(), ground)
        return made

    return answer


def remembered_each(serve: Serve, again: Callable[[Sequence[Any]], bool]) -> Answer:
    """Return a method with many verdicts likewise: all are given again, or none.

    `again` is true if what rests on these grounds is given again as it was.

    Its messages have one field, a list, so that the bytes of lists joined are those of one list.
    """
    memory = _Memory()

    async def answer(body: bytes, call: Call) -> bytes:
        if memory.knows(call):
            names = memory.names(call, split_items(body, BATCH_MAX))
            known = [kept for name in names if (kept := memory.find(name))]
            if names and len(known) == len(names) and again([kept.ground for kept in known]):
                return b"".join([kept.answer for kept in known])
        rested: Rested = await serve(call, body)
        response = type(rested.message)
        if any(ground is not None for ground in rested.grounds):
            names = memory.names(call, split_items(body, BATCH_MAX))
            for name, one, ground in zip(names, rested.kept, rested.grounds, strict=False):
                if ground is not None:
                    memory.keep(name, _list_of(response, one), ground)
        return rested.message.SerializeToString()

    return answer


def _list_of(message_type: type[Message], item: Message) -> bytes:
    """Return the bytes of a message whose list has this item only."""
    message = message_type()
    getattr(message, message.DESCRIPTOR.fields[0].name).append(item)
    return message.SerializeToString()
