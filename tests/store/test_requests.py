"""What is kept of requests that carry a request_id."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from keyauthority.model import Revision
from keyauthority_server.store.base import Store, Transaction
from keyauthority_server.store.values import Remembered
from tests.store.making import NOON, create_project


async def test_request_whose_end_has_come_is_as_if_it_had_never_been(store: Store) -> None:
    """After its end a request is not found, and its name can be kept anew, dropped or not."""
    name, ends = b"n" * 32, NOON + timedelta(hours=24)
    others = [
        Remembered(bytes([number]) * 32, b"", Revision(1), "", None, 1, NOON)
        for number in range(8)  # more than one call drops
    ]
    first = Remembered(name, b"first", Revision(1), "KA1", b"sealed", 1, ends)
    again = first._replace(content=b"again", end=ends + timedelta(hours=24))
    await create_project(store)

    def keep(one: Remembered, now: datetime) -> Callable[[Transaction], None]:
        return lambda transaction: transaction.remember(one, now)

    def find(now: datetime) -> Callable[[Transaction], Remembered | None]:
        return lambda transaction: transaction.remembered(name, now)

    for one in (*others, first):
        await store.write(keep(one, NOON - timedelta(days=1)))
    assert first == await store.write(find(ends - timedelta(microseconds=1)))
    assert await store.write(find(ends)) is None
    await store.write(keep(again, ends))
    assert again == await store.write(find(ends))
    await store.write(lambda transaction: transaction.forget_token("KA1"))
    assert again._replace(sealed=None) == await store.write(find(ends))
