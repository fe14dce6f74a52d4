"""Digests and pepper versions: upgraded, counted, listed and dropped."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from keyauthority.model import ChangeType, Revision
from keyauthority_server.store.interface import Store, Transaction
from keyauthority_server.store.sql.queries.digests import (
    keys_needing,
    keys_under_older,
    pepper_usage,
    sealed_until,
)
from keyauthority_server.store.types import DigestUpgrade, IdempotencyRecord, PepperUsage
from tests.store.engines import Engine, digests
from tests.store.factories import NOON, SECOND, create, create_project, held, key, put

NEW = b"d" * 32


async def test_digest_upgrade_makes_no_change(store: Store, engine: Engine, place: str) -> None:
    """The next read shows the new digest; no revision is used and only the key's row changes."""
    made = await create(store, key((await create_project(store)).project_id))
    before, found = digests(engine, place), held(made)
    anew = DigestUpgrade(made.access_key, found.digest, 1, NEW, 2)
    await store.write(lambda transaction: transaction.upgrade_digests([anew]))
    snapshot = await store.read(made.access_key, made.access_key)
    assert (NEW, 2, made) == (
        snapshot.stored and snapshot.stored.digest,
        snapshot.stored and snapshot.stored.pepper_version,
        snapshot.stored and snapshot.stored.key,
    )
    assert snapshot.stored == snapshot.operator
    after = digests(engine, place)
    assert {"key"} == {table for table in before if before[table] != after[table]}


async def test_digest_upgrade_of_a_changed_digest_is_skipped(
    store: Store, engine: Engine, place: str
) -> None:
    """A digest of another pepper version or another token is not overwritten."""
    made = await create(store, key((await create_project(store)).project_id))
    before, found = digests(engine, place), held(made)
    late = [
        DigestUpgrade(made.access_key, found.digest, 3, NEW, 2),
        DigestUpgrade(made.access_key, NEW, 1, NEW, 2),
        DigestUpgrade("KA000000000000000000", found.digest, 1, NEW, 2),
    ]
    await store.write(lambda transaction: transaction.upgrade_digests(late))
    assert before == digests(engine, place)


async def test_transaction_reads_its_own_digest_upgrade(store: Store) -> None:
    """The transaction sees the new digest even if it had read the key before."""
    made = await create(store, key((await create_project(store)).project_id))

    def work(transaction: Transaction) -> tuple[bytes, bytes]:
        before = transaction.key(made.access_key, None)
        assert before is not None
        transaction.upgrade_digests([DigestUpgrade(made.access_key, before.digest, 1, NEW, 2)])
        after = transaction.key(made.access_key, None)
        return before.digest, after.digest if after else b""

    assert (held(made).digest, NEW) == await store.write(work)


async def test_ended_keys_do_not_hold_a_pepper_version(store: Store) -> None:
    """Revoked and superseded keys are not counted; disabled, expired and overlapping ones are."""
    project = (await create_project(store)).project_id
    kept = [
        await create(store, key(project)),
        await create(store, key(project, disabled=True)),
        await create(store, key(project, expire_time=NOON)),
        await create(store, key(project, supersede_time=NOON + SECOND)),
    ]
    await create(store, key(project, supersede_time=NOON))
    revoked = await create(store, key(project))
    await put(store, ChangeType.KEY_REVOKED, replace(revoked, revoke_time=NOON))

    def work(transaction: Transaction) -> tuple[list[str], int, list[str]]:
        return (
            sorted(transaction.query(keys_needing, 1, NOON, 10)),
            len(transaction.query(keys_needing, 1, NOON, 3)),
            list(transaction.query(keys_needing, 2, NOON, 10)),
        )

    assert (sorted(one.access_key for one in kept), 3, []) == await store.write(work)
    assert [PepperUsage(1, 4, 2, 0, None)] == await store.query(pepper_usage, NOON)
    assert (0, 4, 3) == (
        await store.query(keys_under_older, 1, NOON),
        await store.query(keys_under_older, 2, NOON),
        await store.query(keys_under_older, 2, NOON + SECOND),
    )


async def test_sealed_tokens_hold_a_pepper_version_until_they_expire(store: Store) -> None:
    """Expired and dropped requests hold no pepper version."""
    await create_project(store)
    ends = NOON + timedelta(hours=1)
    sealed = [
        IdempotencyRecord(b"a" * 32, b"", Revision(1), "KA1", b"sealed", 1, ends),
        IdempotencyRecord(b"b" * 32, b"", Revision(1), "KA2", b"sealed", 1, ends + SECOND),
        IdempotencyRecord(b"c" * 32, b"", Revision(1), "", None, 1, ends + 2 * SECOND),
    ]

    def keep(transaction: Transaction) -> None:
        for one in sealed:
            transaction.save_request(one, NOON)

    await store.write(keep)
    assert [PepperUsage(1, 0, 0, 2, ends + SECOND)] == await store.query(pepper_usage, NOON)
    assert [PepperUsage(1, 0, 0, 1, ends + SECOND)] == await store.query(pepper_usage, ends)
    until = [
        await store.write(lambda transaction: transaction.query(sealed_until, 1, ends)),
        await store.write(lambda transaction: transaction.query(sealed_until, 1, ends + SECOND)),
        await store.write(lambda transaction: transaction.query(sealed_until, 2, NOON)),
    ]
    assert [ends + SECOND, None, None] == until


async def test_dropped_check_value_stays_dropped(store: Store) -> None:
    """The first value of a name stays until it is dropped; other names are unaffected."""
    await store.set_key_checks({"pepper/1": b"first", "audit.key/1": b"other"})

    def work(transaction: Transaction) -> None:
        transaction.set_key_checks({"pepper/1": b"second", "pepper/2": b"new"})
        assert transaction.key_checks()["pepper/1"] == b"first"
        transaction.drop_key_check("pepper/1")

    await store.write(work)
    assert {"audit.key/1": b"other", "pepper/2": b"new"} == await store.key_checks()
