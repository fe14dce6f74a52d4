"""A fake store with a change feed that a test scripts, for tests of the record cache."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from keyauthority.clock import Reference, monotonic
from keyauthority.model import Change, ChangeType, Key, Project, Revision
from keyauthority_server.store.snapshots import Committed
from keyauthority_server.store.types import DatedSnapshot, Snapshots, StoredKey
from tests.store.factories import NOON, held


class FakeStore:
    """A store and its change feed, with contents that a test sets."""

    def __init__(self) -> None:
        self.head = Revision(1)
        self.keys: dict[str, StoredKey] = {}
        self.projects: dict[str, Project] = {}
        self.reads = 0
        self.as_of = self.proven_at = self.read_as_of = monotonic()
        self.reference = Reference()
        self.acknowledged = Revision(0)
        self.gate = asyncio.Event()
        self.gate.set()
        self.reading = asyncio.Event()

    def deliver_commits(self, deliver: Committed) -> None:
        """Commit nothing."""

    async def start_heartbeats(self, seconds: float) -> None:
        """Prove nothing."""

    async def read_dated(self, access_keys: Sequence[str], operator: str | None) -> DatedSnapshot:
        """Read the present records, and answer when the gate is open."""
        self.reads += 1
        pairs = [self.pair(name) for name in access_keys]
        snapshots = Snapshots(self.head, pairs, self.keys.get(operator or ""))
        self.reading.set()
        await self.gate.wait()
        return DatedSnapshot(snapshots, self.read_as_of)

    def pair(self, name: str) -> tuple[StoredKey | None, Project | None]:
        """Return a key and its project, None for each that is absent."""
        found = self.keys.get(name)
        return found, self.projects.get(found.key.project_id) if found else None

    def change(self, *records: Key | Project) -> Change:
        """Commit a change of these records, and return it as the feed would publish it."""
        self.head = Revision(self.head + 1)
        keys = [replace(one, revision=self.head) for one in records if isinstance(one, Key)]
        projects = [one for one in records if isinstance(one, Project)]
        for one in keys:
            kept = self.keys.get(one.access_key, held(one))
            self.keys[one.access_key] = kept._replace(key=one)
        for of in projects:
            self.projects[of.project_id] = replace(of, revision=self.head)
        return Change(
            revision=self.head,
            time=NOON,
            type=ChangeType.KEY_UPDATED,
            project_id="",
            keys=tuple(keys),
            project=self.projects[projects[0].project_id] if projects else None,
        )
