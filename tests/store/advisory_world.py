"""A project at a time that tests set: its keys, their presentations, and its advisories."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from keyauthority.decision import decide
from keyauthority.model import AdvisoryType, ChangeType, Facts, Key, VerdictCode
from keyauthority.results import Advisory
from keyauthority_server.metering.usage import Meter
from keyauthority_server.services.advisories import (
    DORMANT_AFTER,
    EXPIRES_WITHIN,
    advisories_of,
)
from keyauthority_server.services.key_updates import note_grants
from keyauthority_server.store.interface import Store
from keyauthority_server.store.sql.queries.advisories import AdvisorySearch, list_advisories
from keyauthority_server.store.sql.queries.lists import PAGE_CHARACTERS
from keyauthority_server.store.types import KeyObservations, Scope
from tests.store.factories import NOON, create_project, key, put

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
EVERY = frozenset(AdvisoryType)


class World:
    """Keys of one project in a store, at `now`, which never runs backwards."""

    def __init__(self, store: Store, project_id: str) -> None:
        self.store = store
        self.project_id = project_id
        self.now = NOON
        self.meter = Meter(store)
        self._keys: dict[str, Key] = {}

    @classmethod
    async def begin(cls, store: Store) -> World:
        """Make the project."""
        return cls(store, (await create_project(store)).project_id)

    def after(self, time: timedelta) -> None:
        """Let time pass."""
        self.now += time

    async def create(self, **fields: Any) -> str:
        """Create a key, and return its access key."""
        record = key(self.project_id, **fields)
        return await self._put(ChangeType.KEY_CREATED, record)

    async def update(self, name: str, **fields: Any) -> None:
        """Change fields of a key, as UpdateKey does."""
        old, new = self._keys[name], replace(self._keys[name], **fields)
        await self._put(ChangeType.KEY_UPDATED, new)
        await self.store.write(lambda work: note_grants(work, old, new, self.now))

    async def revoke(self, name: str) -> None:
        """Revoke a key."""
        await self._put(ChangeType.KEY_REVOKED, replace(self._keys[name], revoke_time=self.now))

    async def rotate(self, name: str, overlap: timedelta) -> str:
        """Rotate a key, and return the access key of its successor."""
        old = self._keys[name]
        new = key(
            self.project_id,
            kind=old.kind,
            mode=old.mode,
            permissions=old.permissions,
            restrictions=old.restrictions,
            predecessor_access_key=name,
        )
        old = replace(old, supersede_time=self.now + overlap, successor_access_key=new.access_key)
        applied = await put(
            self.store, ChangeType.KEY_ROTATED, old, new, time=self.now, lineage=name
        )
        self._keys.update((one.access_key, one) for one in applied.keys)
        return new.access_key

    async def present(
        self, name: str, *permissions: str, times: int = 1, peer: str = "192.0.2.1", **facts: Any
    ) -> VerdictCode:
        """Verify a key some times at this moment, and flush the counts."""
        given = Facts(permissions=permissions, **facts)
        code = decide(self._keys[name], None, given, self.now)
        for _ in range(times):
            self.meter.count(self._keys[name], code, 1, self.now, given, peer)
        await self.meter.flush()
        return code

    async def advisories(
        self,
        *types: AdvisoryType,
        dormant_after: timedelta = DORMANT_AFTER,
        expires_within: timedelta = EXPIRES_WITHIN,
        scope: Scope = None,
        limit: int = 1000,
        characters: int = PAGE_CHARACTERS,
    ) -> list[Advisory]:
        """Return all pages, each within its bounds."""
        wanted = AdvisorySearch(frozenset(types) or EVERY, dormant_after, expires_within, self.now)

        def judge(record: Key, observed: KeyObservations) -> Any:
            return advisories_of(record, observed, wanted)

        found: list[Advisory] = []
        after: int | None = 0
        while after is not None:
            page, after = await self.store.query(
                list_advisories, None, scope, wanted, judge, after, limit
            )
            assert len(page) <= limit
            lengths = [len(text) for one in page for text in one.permissions]
            assert len(page) <= 1 or sum(lengths) <= characters
            found += page
        return found

    async def types_of(self, name: str, **windows: Any) -> set[AdvisoryType]:
        """Return the types of the advisories on one key."""
        return {one.type for one in await self.advisories(**windows) if one.access_key == name}

    async def _put(self, type_: ChangeType, record: Key) -> str:
        applied = await put(self.store, type_, record, time=self.now)
        (stored,) = applied.keys
        self._keys[stored.access_key] = stored
        return stored.access_key
