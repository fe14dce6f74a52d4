"""`interface.Transaction` over `Rows`, the same for both engines.

It neither begins nor commits: the engine does, and rolls back if `finish` raises.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from operator import not_
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from keyauthority.model import (
    Change,
    ChangeType,
    Key,
    Project,
    Revision,
    UsageRow,
)
from keyauthority_server.store.interface import StoreError, StoreReadOnly
from keyauthority_server.store.rows import Row, Rows
from keyauthority_server.store.sql.known_rows import KnownRows
from keyauthority_server.store.sql.queries import digests, observations, usage
from keyauthority_server.store.sql.row_codec import (
    KEY_COLUMNS,
    PROJECT_COLUMNS,
    RowDict,
    change_from,
    flat_from,
    flat_key,
    flat_project,
    microseconds,
    time_from,
    to_json,
    values_of,
)
from keyauthority_server.store.sql.scopes import in_scope
from keyauthority_server.store.sql.statements import (
    APPEND_CHANGE,
    DROP_REQUESTS,
    DROP_SEALED,
    EVIDENCE_WIDTH,
    GET_CHANGE,
    GET_KEY,
    GET_PROJECT,
    GET_REQUEST,
    PUT_KEY,
    PUT_PROJECT,
    PUT_REQUEST,
    RECORD_AT,
    REQUEST_ENDED,
)
from keyauthority_server.store.types import (
    NOT_OBSERVED,
    Applied,
    DigestUpgrade,
    Entry,
    EntrySigner,
    IdempotencyRecord,
    Mutation,
    Observations,
    Scope,
    StoredKey,
)

T = TypeVar("T")
P = ParamSpec("P")

SALT_BYTES: Final = 16
REQUESTS_DROPPED: Final = 4  # for each one stored: deletion outruns insertion

# For each record of a change, keys then project: is it new?
_SHAPES: Final[Mapping[ChangeType, tuple[bool, ...]]] = {
    ChangeType.KEY_CREATED: (True,),
    ChangeType.KEY_UPDATED: (False,),
    ChangeType.KEY_ROTATED: (False, True),
    ChangeType.KEY_REVOKED: (False,),
    ChangeType.PROJECT_CREATED: (True,),
    ChangeType.PROJECT_UPDATED: (False,),
}


class SqlTransaction:
    """One unit of work; see `interface.Transaction`."""

    def __init__(self, rows: Rows, sign: EntrySigner, known: KnownRows | None = None) -> None:
        """Share `known` with the other units of a group, which saves it at its end."""
        self._known = KnownRows() if known is None else known
        self._grouped = known is not None
        head = self._known.head(rows, sign)
        self.head = head.revision
        """The newest revision, including those of this transaction."""
        self.newest_time = self._known.newest_time
        """The newest committed time; a mutation never has an earlier one."""
        self._hash, self._closed = head.hash, head.closed
        self._rows = rows
        self._sign = sign
        self._checked = self._known.checked
        self._usable = True
        self._incomplete = False
        self.entries: list[Entry] = []
        """The changes made so far."""

    def query(
        self, read: Callable[Concatenate[Rows, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Return the result of `read`; see `interface.Transaction.query`."""
        return read(self._live(), *args, **kwargs)

    def bookkeep(
        self, write: Callable[Concatenate[Rows, P], None], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Run `write`; see `interface.Transaction.bookkeep`."""
        write(self._open(), *args, **kwargs)

    def key(self, access_key: str, scope: Scope) -> StoredKey | None:
        """Return the key as it is now, or None if it is absent or out of scope."""
        row = self._row(GET_KEY, access_key)
        if row is None:
            return None
        stored = self._checked.key(row)
        return stored if in_scope(stored.key, scope) else None

    def project(self, project_id: str, scope: Scope) -> Project | None:
        """Return the project as it is now, or None if it is absent or out of scope."""
        if scope is not None and project_id not in scope:
            return None
        row = self._row(GET_PROJECT, project_id)
        return None if row is None else self._checked.project(row)

    def apply(self, mutation: Mutation) -> Applied:
        """Make one change; see `interface.Transaction.apply`."""
        rows = self._open()
        revision = Revision(self.head + 1)
        time = max(mutation.time, self.newest_time or mutation.time)
        before = [self._key_before(stored.key.access_key) for stored in mutation.keys]
        keys = tuple(
            stored._replace(key=_stamped_key(stored.key, old, revision, time))
            for stored, old in zip(mutation.keys, before, strict=True)
        )
        project = None
        if mutation.project is not None:
            old = self._project_before(mutation.project.project_id)
            before.append(old)
            project = _stamped_project(mutation.project, old, revision, time)
        if tuple(map(not_, before)) != _SHAPES[mutation.type]:
            raise ValueError(f"not the records of {mutation.type}")
        entry = _entry(mutation, revision, time, keys, project, before, self._hash)
        self._incomplete = True
        self._put(rows, keys, project, entry)
        self._append(rows, entry)
        self._incomplete = False
        self.head, self.newest_time = revision, time
        self.entries.append(entry)
        return Applied(revision, tuple(stored.key for stored in keys), project)

    def change(self, revision: Revision) -> Change:
        """Return a committed change, with the records as of that change."""
        row = self._live().one(GET_CHANGE, (revision,))
        if row is None:
            raise StoreError("a change is missing from the log")
        return change_from(revision, row)

    def find_request(self, name: bytes, now: datetime) -> IdempotencyRecord | None:
        """Return the stored record of a request, or None if absent or expired."""
        row = self._live().one(GET_REQUEST, (name, microseconds(now)))
        if row is None:
            return None
        name, content, revision, access_key, sealed, pepper_version, end = row
        return IdempotencyRecord(
            name, content, revision, access_key, sealed, pepper_version, time_from(end)
        )

    def save_request(self, record: IdempotencyRecord, now: datetime) -> None:
        """Store the record of a request, and delete some expired ones."""
        rows = self._open()
        time = microseconds(now)
        if rows.one(REQUEST_ENDED, (time,)) is not None:
            rows.run(DROP_REQUESTS, (time, REQUESTS_DROPPED))
        rows.run(PUT_REQUEST, (*record[:-1], microseconds(record.end)))

    def delete_sealed_tokens(self, access_key: str) -> None:
        """Delete every stored sealed token of a key."""
        self._open().run(DROP_SEALED, (access_key,))

    def count_usage(
        self,
        batch_id: str,
        rows: Sequence[UsageRow],
        now: datetime,
        end: datetime,
        observed: Observations = NOT_OBSERVED,
    ) -> None:
        """Add counts to their hours and days, unless the batch was counted before."""
        for row in rows:  # `last_used_time` is in the rows of the keys
            self._known.records.pop((GET_KEY, row.access_key), None)
        if not usage.count(self._open(), batch_id, rows, now, end):
            return
        observations.add(self._open(), observed)
        if self.newest_time is None or now > self.newest_time:
            self.newest_time = now

    def key_checks(self) -> Mapping[str, bytes]:
        """Return the check values that identify key files, by name."""
        return self._known.key_checks(self._live())

    def set_key_checks(self, checks: Mapping[str, bytes]) -> None:
        """Store check values for names that have none yet."""
        digests.set_key_checks(self._open(), checks)
        self._known.forget_key_checks()

    def drop_key_check(self, name: str) -> None:
        """Delete the check value of one key version."""
        digests.drop_key_check(self._open(), name)
        self._known.forget_key_checks()

    def upgrade_digests(self, upgrades: Sequence[DigestUpgrade]) -> None:
        """Replace digests, except those that have changed since they were read."""
        self._known.forget_records()
        digests.upgrade_digests(self._open(), upgrades)

    def finish(self) -> None:
        """End the use of this transaction; StoreError if a change in it is incomplete.

        That happens if work continues after `apply` has raised: it must not be committed.
        """
        self._usable = False
        if self._incomplete:
            raise StoreError("a change is incomplete: the transaction must not be committed")
        if not self._grouped:
            self.publish()
            self._known.save(self._rows, self._sign)

    def publish(self) -> None:
        """Move the head of the log for the next units of the group; call it after `finish`."""
        time = self.newest_time
        if time is not None and (self.entries or time != self._known.newest_time):
            self._known.advance(self.head, self._hash, time)

    def _live(self) -> Rows:
        if not self._usable:
            raise StoreError("the transaction is over")
        return self._rows

    def _open(self) -> Rows:
        rows = self._live()
        if self._closed:
            raise StoreReadOnly("the store was closed for writing: it was copied to another")
        return rows

    def _row(self, statement: str, name: str) -> Row | None:
        """Return a record's current row; it is read once, until it is written."""
        rows, records, lookup = self._live(), self._known.records, (statement, name)
        if lookup not in records:
            records[lookup] = rows.one(statement, (name,))
        return records[lookup]

    def _key_before(self, access_key: str) -> RowDict:
        row = self._row(GET_KEY, access_key)
        if row is None:
            return {}
        self._checked.key(row)
        return flat_from(KEY_COLUMNS, row[RECORD_AT:-EVIDENCE_WIDTH])

    def _project_before(self, project_id: str) -> RowDict:
        row = self._row(GET_PROJECT, project_id)
        if row is None:
            return {}
        self._checked.project(row)
        return flat_from(PROJECT_COLUMNS, row[:-EVIDENCE_WIDTH])

    def _put(
        self, rows: Rows, keys: tuple[StoredKey, ...], project: Project | None, entry: Entry
    ) -> None:
        for stored, flat in zip(keys, entry.keys, strict=True):
            values = values_of(KEY_COLUMNS, flat)
            values += (stored.digest, stored.pepper_version, stored.lineage, entry.revision)
            rows.run(PUT_KEY, values)
            self._known.records.pop((GET_KEY, stored.key.access_key), None)
        if project is not None and entry.project is not None:
            values = values_of(PROJECT_COLUMNS, entry.project)
            rows.run(PUT_PROJECT, [*values, entry.revision])
            self._known.records.pop((GET_PROJECT, project.project_id), None)

    def _append(self, rows: Rows, entry: Entry) -> None:
        mac = self._sign(entry)
        time = microseconds(entry.time)
        values: tuple[Any, ...] = (
            entry.revision,
            time,
            entry.type.value,
            entry.project_id or None,
            entry.access_key or None,
            entry.actor,
            entry.peer,
            to_json(entry.keys),
            None if entry.project is None else to_json(entry.project),
            to_json(entry.before),
            entry.salt,
            mac.key_version,
            mac.hash,
        )
        rows.run(APPEND_CHANGE, values)
        self._hash = mac.hash


def _stamped_key(key: Key, before: RowDict, revision: Revision, time: datetime) -> Key:
    create_time = time_from(before["create_time"]) if before else time
    return replace(key, state=None, revision=revision, update_time=time, create_time=create_time)


def _stamped_project(
    project: Project, before: RowDict, revision: Revision, time: datetime
) -> Project:
    create_time = time_from(before["create_time"]) if before else time
    return replace(project, revision=revision, update_time=time, create_time=create_time)


def _entry(
    mutation: Mutation,
    revision: Revision,
    time: datetime,
    keys: tuple[StoredKey, ...],
    project: Project | None,
    before: list[RowDict],
    previous_hash: bytes,
) -> Entry:
    first = keys[0].key if keys else None
    owner = first or project
    return Entry(
        revision=revision,
        time=time,
        type=mutation.type,
        project_id=owner.project_id if owner else "",
        access_key=first.access_key if first else "",
        actor=mutation.author.actor,
        peer=mutation.author.peer,
        keys=[flat_key(stored.key) for stored in keys],
        project=None if project is None else flat_project(project),
        before=before,
        salt=secrets.token_bytes(SALT_BYTES),
        previous_hash=previous_hash,
    )
