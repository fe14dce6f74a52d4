"""The record cache: keys and projects as of one position in the change log.

Every record is stamped with the revision at which it was read, and is served only once the position
has reached it. A read can therefore never undo an applied change. Records do not expire by age:
`freshness` decides for each call whether the position is current, and advances it if that takes
microseconds.

**Only a verified token is answered from memory.** A token that was compared with the digest of a
cached key is found again by a keyed hash, without parsing and without HMAC. Every other token reads
its row, so neither result nor timing of a rejection depends on the cache, and absence is never
cached.

**Bookkeeping** makes no change, so the cache does not follow it. A digest under another pepper
version than the current one is read each time, as is last use on request
(`ReadOptions.bookkeeping`).
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Final, NamedTuple

from keyauthority.model import Change, Key, Project, Revision
from keyauthority.weight import weight_of
from keyauthority_server.keyring import Keyring
from keyauthority_server.records.freshness import ANY, Freshness, ReadOptions
from keyauthority_server.store.interface import StoreUnavailable
from keyauthority_server.store.snapshots import DatedSnapshotReader
from keyauthority_server.store.types import Snapshots, StoredKey
from keyauthority_server.weighted_cache import WeightedCache

KEYS_MAX: Final = 100_000  # usual keys, of some 2 KB each, and as many projects
READ_SHARE: Final = 4  # of the cache, at most a quarter is replaced by one read of many keys
TOKEN_MAX: Final = 128  # characters: no token is longer, and hashing a megabyte takes 1 ms
PROOF_BYTES: Final = 16  # of a keyed hash: a caller cannot construct a collision

_UNPROVEN: Final = b""


class CachedKey:
    """A cached key. A change of its record replaces it, never modifies it."""

    __slots__ = ("admission", "answer", "at", "item", "limits", "proof", "stored")

    def __init__(self, at: Revision, stored: StoredKey) -> None:
        self.at = at
        """Valid as of revision `at`, until a change is applied."""
        self.stored = stored
        self.proof = _UNPROVEN
        """The keyed hash of the token that was verified; see `RecordCache.mark_verified`."""
        self.answer: bytes | None = None
        """The constant part of the answer to a VALID Verify, encoded once."""
        self.item: bytes | None = None
        """The same for an answer of BatchVerify."""
        self.admission: object = None
        """The last admission of an operator's key, for `services`."""
        self.limits: object = None
        """The limits that were last in force, for `services`."""


class _CachedProject(NamedTuple):
    at: Revision
    project: Project


class CacheCounts(NamedTuple):
    """Counts since the last `take_counts`."""

    hit: int
    """Tokens found verified."""
    miss: int
    """Reads of the store."""
    catch_up: int
    """Records dropped or replaced because of changes in the log."""


class RecordCache:
    """Keys and projects of one process, for one event loop.

    With a change feed it is a `Subscriber` of the feed, and `position` must be set to the revision
    that subscribing returned.
    """

    def __init__(
        self,
        store: DatedSnapshotReader,
        freshness: Freshness,
        peppers: Keyring,
        keys_max: int = KEYS_MAX,
    ) -> None:
        self._store = store
        self._freshness = freshness
        self._peppers = peppers
        self._keys: WeightedCache[str, CachedKey] = WeightedCache(keys_max, self._forget_proof)
        self._projects: WeightedCache[str, _CachedProject] = WeightedCache(keys_max)
        self._proofs: dict[bytes, CachedKey] = {}
        self._share = keys_max // READ_SHARE
        self._proof_key = secrets.token_bytes(blake2b.MAX_KEY_SIZE)
        self._losses = 0
        self._hits = 0
        self._misses = 0
        self._catch_ups = 0
        self.position = Revision(0)
        """The revision of the served state: all changes up to it are applied."""

    @property
    def staleness(self) -> float:
        """How old, in seconds, an answer from memory may be; unbounded if that is unknown."""
        return self._freshness.staleness

    @property
    def keys(self) -> int:
        """How many keys are cached."""
        return len(self._keys)

    def catch_up(self, options: ReadOptions = ANY) -> bool:
        """Bring the cache up to date if that needs no wait; True if it may answer now.

        Call this before using cached records. The result holds until control returns to the event
        loop. Raises StoreUnavailable.
        """
        return self._freshness.catch_up(self, options)

    def check_fresh(self) -> None:
        """Raise StoreStale if neither cache nor store can answer with proven freshness."""
        self._freshness.check_fresh()

    def verified(self, token: str) -> CachedKey | None:
        """Return the key of a token that was verified before, if it is cached and may be served."""
        cached = self._proofs.get(self._proof_of(token)) if len(token) <= TOKEN_MAX else None
        if (
            cached is None
            or cached.at > self.position
            or cached.stored.pepper_version != self._peppers.current
        ):
            return None
        self._hits += 1
        return cached

    def project(self, project_id: str) -> Project | None:
        """Return a cached project, if it may be served."""
        cached = self._projects.get(project_id)
        return None if cached is None or cached.at > self.position else cached.project

    def mark_verified(self, token: str, stored: StoredKey) -> None:
        """Record that a token matched the digest of a key, if that state is cached."""
        cached = self._keys.get(stored.key.access_key)
        if cached is not None and not cached.proof and _is_same(cached.stored, stored):
            self._note_proof(self._proof_of(token), stored.key.access_key)

    async def read(
        self,
        access_keys: Sequence[str],
        operator: str | CachedKey | None,
        options: ReadOptions = ANY,
    ) -> Snapshots:
        """Read keys with their projects, and an operator's key, in one state; cache them.

        An operator's key from `verified` is not read again unless the log has moved. Raises
        StoreStale if a required proof of freshness is missing.
        """
        if isinstance(operator, CachedKey):
            snapshots = await self._read(access_keys, None, options)
            name = operator.stored.key.access_key
            if snapshots.head == self.position and self._keys.get(name) is operator:
                return snapshots._replace(operator=operator.stored)
            operator = name
        return await self._read(access_keys, operator, options)

    def changed(self, changes: Sequence[Change], position: Revision) -> None:
        """Apply changes of the feed, and serve the resulting state."""
        for change in changes:
            revision = Revision(change.revision)
            for key in change.keys:
                self._change_key(key, revision)
            if change.project is not None and change.project.project_id in self._projects:
                self._catch_ups += 1
                self._keep_project(change.project, revision)
        self.position = position

    def beat(self, position: Revision, as_of: float) -> None:
        """Do nothing: each call checks freshness itself."""

    def lost(self, position: Revision) -> None:
        """Discard all records, including those of pending reads: the log has lost changes."""
        self.clear()
        self._losses += 1
        self.position = position

    def drop(self, names: Sequence[str]) -> None:
        """Discard these records, named by access key or project id."""
        for name in names:
            self._catch_ups += self._keys.drop(name) or self._projects.drop(name)

    def clear(self) -> None:
        """Discard all records."""
        self._keys.clear()
        self._projects.clear()
        self._proofs.clear()

    def take_counts(self) -> CacheCounts:
        """Return the counts, and reset them."""
        counts = CacheCounts(self._hits, self._misses, self._catch_ups)
        self._hits = self._misses = self._catch_ups = 0
        return counts

    async def _read(
        self, access_keys: Sequence[str], operator: str | None, options: ReadOptions
    ) -> Snapshots:
        self._misses += 1
        self._freshness.check_read(None, options)
        losses = self._losses
        snapshots, as_of = await self._store.read_dated(access_keys, operator)
        if losses != self._losses:
            raise StoreUnavailable("the log lost changes while it was read")
        if self._freshness.check_read(as_of, options):
            if snapshots.head > self.position:
                self.catch_up()
            if snapshots.head >= self.position:
                self._keep_all(snapshots)
        return snapshots

    def _proof_of(self, token: str) -> bytes:
        return blake2b(token.encode(), key=self._proof_key, digest_size=PROOF_BYTES).digest()

    def _keep_all(self, snapshots: Snapshots) -> None:
        """Cache the records. Keys of a batch beyond a share of the cache are not cached.

        A thousand keys with long lists would evict all others, and take a second.
        """
        kept = 0
        for stored, project in snapshots.pairs:
            if stored is not None and kept <= self._share:
                kept += self._keep(CachedKey(snapshots.head, stored))
            if project is not None:
                self._keep_project(project, snapshots.head)
        if snapshots.operator is not None:
            self._keep(CachedKey(snapshots.head, snapshots.operator))

    def _keep(self, cached: CachedKey) -> int:
        """Cache a key; return its weight, 0 if this state of it is cached already."""
        key = cached.stored.key
        present = self._keys.get(key.access_key)
        if present is not None and _is_same(present.stored, cached.stored):
            return 0
        weight = weight_of(key)
        self._keys.keep(key.access_key, cached, weight)
        return weight

    def _keep_project(self, project: Project, at: Revision) -> None:
        self._projects.keep(project.project_id, _CachedProject(at, project), weight_of(project))

    def _change_key(self, key: Key, revision: Revision) -> None:
        """Apply a change to a cached key, keeping the fields that changes do not carry."""
        cached = self._keys.get(key.access_key)
        if cached is None:
            return
        self._catch_ups += 1
        if key.revoke_time is not None and cached.at < revision:  # final, and rarely read again
            self._keys.drop(key.access_key)
            return
        last_used_time = cached.stored.key.last_used_time
        changed = cached.stored._replace(key=replace(key, last_used_time=last_used_time))
        self._keep(CachedKey(revision, changed))
        if cached.proof:  # changes never alter a digest: the token still matches
            self._note_proof(cached.proof, key.access_key)

    def _note_proof(self, proof: bytes, access_key: str) -> None:
        cached = self._keys.get(access_key)
        if cached is not None and not cached.proof:
            cached.proof = proof
            self._proofs[proof] = cached

    def _forget_proof(self, cached: CachedKey) -> None:
        self._proofs.pop(cached.proof, None)


def _is_same(one: StoredKey, other: StoredKey) -> bool:
    """True if revision and digest are equal: they differ at most in bookkeeping."""
    return (
        one.key.revision == other.key.revision
        and one.pepper_version == other.pepper_version
        and hmac.compare_digest(one.digest, other.digest)
    )
