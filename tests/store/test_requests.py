"""Idempotency records: the stored requests that carried a request_id."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from keyauthority.model import Revision
from keyauthority_server.store.interface import Store, Transaction
from keyauthority_server.store.types import IdempotencyRecord
from tests.store.engines import Engine
from tests.store.factories import NOON, create_project


def keep(one: IdempotencyRecord, now: datetime) -> Callable[[Transaction], None]:
    """Return work that keeps a request."""
    return lambda transaction: transaction.save_request(one, now)


async def test_expired_request_is_not_found_and_its_id_is_reusable(store: Store) -> None:
    """An expired request is not found, and its id can be stored again, deleted or not."""
    name, ends = b"n" * 32, NOON + timedelta(hours=24)
    others = [
        IdempotencyRecord(bytes([number]) * 32, b"", Revision(1), "", None, 1, NOON)
        for number in range(8)  # more than one call drops
    ]
    first = IdempotencyRecord(name, b"first", Revision(1), "KA1", b"sealed", 1, ends)
    again = first._replace(content=b"again", end=ends + timedelta(hours=24))
    await create_project(store)

    def find(now: datetime) -> Callable[[Transaction], IdempotencyRecord | None]:
        return lambda transaction: transaction.find_request(name, now)

    for one in (*others, first):
        await store.write(keep(one, NOON - timedelta(days=1)))
    assert first == await store.write(find(ends - timedelta(microseconds=1)))
    assert await store.write(find(ends)) is None
    await store.write(keep(again, ends))
    assert again == await store.write(find(ends))
    await store.write(lambda transaction: transaction.delete_sealed_tokens("KA1"))
    assert again._replace(sealed=None) == await store.write(find(ends))


async def test_expired_requests_are_deleted_faster_than_new_ones_arrive(
    store: Store, engine: Engine, place: str
) -> None:
    """Each insert deletes several expired requests, oldest first, and no others."""
    await create_project(store)
    last = NOON + timedelta(hours=20)
    for hours in range(21):
        end = NOON + timedelta(hours=hours)
        one = IdempotencyRecord(bytes([hours]) * 32, b"", Revision(1), "", None, 1, end)
        await store.write(keep(one, NOON - timedelta(days=1)))
    left = []
    for number in range(6):
        new = IdempotencyRecord(bytes([100 + number]) * 32, b"", Revision(1), "", None, 1, last)
        await store.write(keep(new, last - timedelta(hours=1)))
        names = sorted(bytes(name)[0] for (name,) in engine.rows(place, "SELECT name FROM request"))
        left.append((names[0], len(names)))
    assert [(4, 18), (8, 15), (12, 12), (16, 9), (20, 6), (20, 7)] == left
