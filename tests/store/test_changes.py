"""Changes: revisions, audit entries, the hash chain, and isolation between units of work."""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from keyauthority.model import ChangeType, Project
from keyauthority_server.store.interface import Store, StoreError, StoreReadOnly, Transaction
from keyauthority_server.store.sql.row_codec import flat_key, flat_project, time_from
from keyauthority_server.store.types import Actor, Applied, Entry, Mutation
from tests.store.engines import TABLES, Engine, digests
from tests.store.factories import (
    NOON,
    SECOND,
    applying,
    create,
    create_project,
    held,
    key,
    mutation,
    operator,
    project,
    put,
    sign,
)

CHANGES = (
    "SELECT revision, time, type, project_id, access_key, actor, peer, keys, project, before, salt,"
    " hash FROM change ORDER BY revision"
)


def entries(engine: Engine, place: str) -> list[tuple[Entry, bytes]]:
    """Return the log, each entry with its hash."""
    found: list[tuple[Entry, bytes]] = []
    previous_hash = b""
    for row in engine.rows(place, CHANGES):
        entry = Entry(
            revision=row[0],
            time=time_from(row[1]),
            type=ChangeType(row[2]),
            project_id=row[3] or "",
            access_key=row[4] or "",
            actor=row[5],
            peer=row[6],
            keys=json.loads(row[7]),
            project=None if row[8] is None else json.loads(row[8]),
            before=json.loads(row[9]),
            salt=row[10],
            previous_hash=previous_hash,
        )
        previous_hash = row[11]
        found.append((entry, previous_hash))
    return found


async def life(store: Store) -> tuple[Project, list[Applied]]:
    """Make one change of each type."""
    owner = await create_project(store, display_name="Shop")
    first = await create(store, key(owner.project_id))
    updated = await put(store, ChangeType.KEY_UPDATED, replace(first, purpose="export"))
    successor = key(owner.project_id, predecessor_access_key=first.access_key)
    old = replace(updated.keys[0], successor_access_key=successor.access_key)
    rotated = await put(store, ChangeType.KEY_ROTATED, old, successor)
    revoked = await put(store, ChangeType.KEY_REVOKED, replace(rotated.keys[0], revoke_time=NOON))
    suspended = await put(store, ChangeType.PROJECT_UPDATED, replace(owner, suspended=True))
    return owner, [updated, rotated, revoked, suspended]


async def test_every_change_has_one_entry_with_before_and_after(
    store: Store, engine: Engine, place: str
) -> None:
    """Each entry holds the records after the change and the ones it replaced, in order."""
    owner, (updated, rotated, revoked, suspended) = await life(store)
    log = [entry for entry, _ in entries(engine, place)]
    assert list(range(1, 7)) == [entry.revision for entry in log]
    assert list(ChangeType)[4:5] + list(ChangeType)[:4] + list(ChangeType)[5:] == [
        entry.type for entry in log
    ]
    assert [flat_key(one) for one in rotated.keys] == log[3].keys
    assert [flat_key(updated.keys[0]), {}] == log[3].before
    assert [flat_key(rotated.keys[0])] == log[4].before
    assert [flat_key(revoked.keys[0])] == log[4].keys
    assert suspended.project is not None
    assert (flat_project(suspended.project), [flat_project(owner)]) == (
        log[5].project,
        log[5].before,
    )
    assert [{}] == log[0].before
    assert {owner.project_id} == {entry.project_id for entry in log}
    assert ["", *[updated.keys[0].access_key] * 4, ""] == [entry.access_key for entry in log]


async def test_chain_recomputed_from_the_log_matches(
    store: Store, engine: Engine, place: str
) -> None:
    """Each hash covers the stored entry and the previous hash; the counter row has the last."""
    await life(store)
    log = entries(engine, place)
    assert [sign(entry).hash for entry, _ in log] == [stored for _, stored in log]
    assert [(6, log[-1][1])] == engine.rows(place, "SELECT revision, hash FROM log")
    assert len(log) == len({entry.salt for entry, _ in log})


async def test_apply_stamps_records_with_revision_and_time(store: Store) -> None:
    """Revision and update_time come from the change; create_time never changes."""
    owner = await create_project(store)
    first = await create(store, key(owner.project_id))
    later = NOON + SECOND
    wrong = replace(first, create_time=later, revision=99)
    second = (await put(store, ChangeType.KEY_UPDATED, wrong, time=later)).keys[0]
    assert (2, NOON, NOON) == (first.revision, first.create_time, first.update_time)
    assert (3, NOON, later) == (second.revision, second.create_time, second.update_time)


async def test_change_time_before_the_newest_is_raised_to_it(store: Store) -> None:
    """No change is dated earlier than the one before it."""
    await put(store, ChangeType.PROJECT_CREATED, project(), time=NOON)
    earlier = await put(store, ChangeType.PROJECT_CREATED, project(), time=NOON - timedelta(days=1))
    assert earlier.project is not None
    assert NOON == earlier.project.create_time == await store.newest_time()


async def test_lineage_of_a_key_never_changes(store: Store, engine: Engine, place: str) -> None:
    """A key keeps the lineage that it was created with through every later change."""
    owner = await create_project(store)
    first = await create(store, key(owner.project_id))
    await put(store, ChangeType.KEY_ROTATED, first, key(owner.project_id), lineage=first.access_key)
    await put(store, ChangeType.KEY_UPDATED, replace(first, purpose="x"), lineage="KA-other")
    assert [(first.access_key,)] == engine.rows(place, "SELECT DISTINCT lineage FROM key")


async def test_mutation_changes_exactly_the_rows_it_names(
    store: Store, engine: Engine, place: str
) -> None:
    """A change writes its records, the counter row and one new entry, and nothing else."""
    owner = await create_project(store)
    others = [await create(store, key(owner.project_id)) for _ in range(3)]
    target = others[1]
    successor = key(owner.project_id, predecessor_access_key=target.access_key)
    for type_, records in (
        (ChangeType.KEY_UPDATED, (replace(target, disabled=True),)),
        (ChangeType.KEY_ROTATED, (target, successor)),
        (ChangeType.KEY_REVOKED, (replace(target, revoke_time=NOON),)),
        (ChangeType.PROJECT_UPDATED, (replace(owner, suspended=True),)),
    ):
        before = digests(engine, place)
        applied = await put(store, type_, *records)
        named: dict[str, set[Any]] = {
            **{table: set() for table in TABLES},
            "log": {1},
            "change": {applied.revision},
            "key": {one.access_key for one in applied.keys},
            "project": {owner.project_id} if applied.project else set(),
        }
        assert named == changed(before, digests(engine, place))


def changed(
    before: dict[str, dict[Any, str]], after: dict[str, dict[Any, str]]
) -> dict[str, set[Any]]:
    """Return the primary keys of the rows that differ, by table."""
    return {
        table: {name for name, _ in before[table].items() ^ after[table].items()}
        for table in before
    }


@pytest.mark.parametrize("type_", [ChangeType.KEY_CREATED, ChangeType.KEY_UPDATED])
async def test_apply_of_records_that_do_not_fit_the_type_is_refused(
    store: Store, engine: Engine, place: str, type_: ChangeType
) -> None:
    """Creating an existing record or changing an absent one fails and writes nothing."""
    owner = await create_project(store)
    existing = await create(store, key(owner.project_id))
    record = existing if type_ is ChangeType.KEY_CREATED else key(owner.project_id)
    before = digests(engine, place)
    with pytest.raises(ValueError, match="not the records"):
        await put(store, type_, record)
    assert before == digests(engine, place)


async def test_failed_unit_in_a_group_commit_undoes_only_itself(
    store: Store, engine: Engine, place: str
) -> None:
    """A unit that raises leaves nothing behind, not even a revision; the others commit."""

    def spoilt(transaction: Transaction) -> None:
        transaction.apply(mutation(ChangeType.PROJECT_CREATED, project(display_name="spoilt")))
        raise KeyError("spoilt")

    good = [project(display_name=f"good {i}") for i in range(20)]
    results = await asyncio.gather(
        *(
            store.write(
                spoilt if i % 3 == 0 else applying(mutation(ChangeType.PROJECT_CREATED, one))
            )
            for i, one in enumerate(good)
        ),
        return_exceptions=True,
    )
    kept = {one.project_id for i, one in enumerate(good) if i % 3}
    assert 7 == sum(isinstance(result, KeyError) for result in results)
    assert kept == {row[0] for row in engine.rows(place, "SELECT project_id FROM project")}
    assert list(range(1, 14)) == [entry.revision for entry, _ in entries(engine, place)]
    assert [sign(entry).hash for entry, _ in entries(engine, place)] == [
        stored for _, stored in entries(engine, place)
    ]


async def test_unit_with_several_changes_is_atomic(
    store: Store, engine: Engine, place: str
) -> None:
    """If the second change of a unit fails, the first is rolled back."""

    def work(transaction: Transaction) -> None:
        transaction.apply(mutation(ChangeType.PROJECT_CREATED, project()))
        transaction.apply(mutation(ChangeType.KEY_CREATED, key("no such project")))

    before = digests(engine, place)
    with pytest.raises(StoreError):
        await store.write(work)
    assert before == digests(engine, place)


async def test_unit_that_continues_after_a_failed_apply_commits_nothing(
    store: Store, engine: Engine, place: str
) -> None:
    """No record is ever stored without its entry."""

    def work(transaction: Transaction) -> None:
        wanted = replace(mutation(ChangeType.PROJECT_CREATED, project()), author=Actor(None))  # type: ignore[arg-type]
        try:
            transaction.apply(wanted)
        except StoreError:
            return

    before = digests(engine, place)
    with pytest.raises(StoreError, match="a change is incomplete"):
        await store.write(work)
    assert before == digests(engine, place)


async def test_transaction_reads_its_own_changes_and_closes_with_its_unit(store: Store) -> None:
    """Head and records include the unit's own writes; after it every use raises."""
    leaked: list[Transaction] = []

    def work(transaction: Transaction) -> None:
        leaked.append(transaction)
        one = project()
        assert (0, None) == (transaction.head, transaction.newest_time)
        assert one.project_id == str(
            transaction.apply(mutation(ChangeType.PROJECT_CREATED, one)).project.project_id  # type: ignore[union-attr]
        )
        mine = key(one.project_id)
        transaction.apply(mutation(ChangeType.KEY_CREATED, mine))
        assert (2, NOON) == (transaction.head, transaction.newest_time)
        found = transaction.key(mine.access_key, frozenset({one.project_id}))
        assert found is not None
        assert (held(mine).digest, 2) == (found.digest, found.key.revision)
        assert transaction.key(mine.access_key, frozenset({"another"})) is None
        assert transaction.project(one.project_id, None) is not None
        assert transaction.project(one.project_id, frozenset()) is None
        assert transaction.project(mine.access_key, None) is None
        assert transaction.key(one.project_id, None) is None

    await store.write(work)
    with pytest.raises(StoreError, match="over"):
        leaked[0].key("KA000000000000000000", None)


async def test_operator_key_is_outside_every_project_scope(store: Store) -> None:
    """A caller confined to projects cannot read an operator key, even by its access key."""
    root = await create(store, operator())
    assert root == await store.get_key(root.access_key, None)
    for scope in (frozenset[str](), frozenset({""}), frozenset({"p"})):
        assert await store.get_key(root.access_key, scope) is None
        assert await store.write(partial(_key_in, root.access_key, scope)) is None


def _key_in(access_key: str, scope: frozenset[str], transaction: Transaction) -> object:
    return transaction.key(access_key, scope)


async def test_update_stores_digest_and_pepper_version(store: Store) -> None:
    """An update stores the digest and the pepper version that it is given."""
    owner = await create_project(store)
    record = await create(store, key(owner.project_id))
    anew = held(record, pepper_version=2)._replace(digest=hashlib.sha256(b"anew").digest())
    await store.write(applying(Mutation(Actor("a", "p"), ChangeType.KEY_UPDATED, NOON, (anew,))))
    found = (await store.read(record.access_key, None)).stored
    assert found is not None
    assert (anew.digest, 2) == (found.digest, found.pepper_version)


async def test_closed_log_refuses_changes_and_serves_reads(
    store: Store, engine: Engine, place: str
) -> None:
    """The source of a completed copy refuses changes and still answers reads."""
    owner = await create_project(store)
    engine.rows(place, "UPDATE log SET closed = 1")
    with pytest.raises(StoreReadOnly):
        await create_project(store)
    assert owner == await store.get_project(owner.project_id, None)


async def test_log_entry_cannot_be_updated_or_deleted(
    store: Store, engine: Engine, place: str
) -> None:
    """The database itself refuses UPDATE and DELETE on the log of changes."""
    await create_project(store)
    for statement in ("UPDATE change SET actor = 'x'", "DELETE FROM change"):
        with pytest.raises(Exception, match="append-only"):
            engine.rows(place, statement)
    assert [("KA7Q2M9X4T8B3N6W5R1P",)] == engine.rows(place, "SELECT actor FROM change")


async def test_check_value_is_recorded_once(store: Store, engine: Engine, place: str) -> None:
    """The first check value of a name stays; recording one makes no change."""
    await store.set_key_checks({"pepper-1": b"one"})
    await store.set_key_checks({"pepper-1": b"other", "audit": b"two"})
    assert {"pepper-1": b"one", "audit": b"two"} == await store.key_checks()
    assert [] == entries(engine, place)
