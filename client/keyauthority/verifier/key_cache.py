"""Cache of a verifier: keys and projects at one revision, found by the hash of the token.

The cache is bounded. Its records are never older than its revision: a record from a Verify response
is stored only if it is at least as new. Tokens are stored only as hashes, keyed with a random value
per process.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from hashlib import blake2b
from threading import Lock
from typing import Final, Generic, NamedTuple, TypeVar

from keyauthority.model import Change, Key, Project, Verdict, VerdictCode

T = TypeVar("T")

UNKNOWN_MAX: Final = 16_384  # unknown tokens, some 5 MB; the oldest is evicted
ANSWERS_MIN: Final = 1_024  # lower bound of the number of cached answers

_HASH_BYTES: Final = 16  # collisions cannot be searched for without the hash key
_KEY_BYTES: Final = 32


class Generation(NamedTuple, Generic[T]):
    """One state of the cache; every change of a record starts a new generation.

    A thread that finishes late writes its answer into an old generation, which is never read again.
    """

    revision: int
    log_id: str
    answers: dict[object, T]
    """Answers given in this generation."""


class CachedKey:
    """A key whose token has been verified before, with its project."""

    __slots__ = ("key", "project")

    def __init__(self, key: Key, project: CachedProject) -> None:
        self.key = key
        self.project = project


class CachedProject:
    """A project, shared by its cached keys."""

    __slots__ = ("keys", "record")

    def __init__(self, record: Project | None) -> None:
        self.record = record
        self.keys = 0


class KeyCache(Generic[T]):
    """The cache. Threads may read during a write, provided they read `generation` first."""

    def __init__(self, size: int) -> None:
        self.generation: Generation[T] = Generation(0, "", {})
        self._size = size
        self._answers_max = max(size, ANSWERS_MIN)
        self._lock = Lock()
        # Hashed before the token instead of as BLAKE2's key, which adds a block to every hash.
        self._hash = blake2b(secrets.token_bytes(_KEY_BYTES), digest_size=_HASH_BYTES)
        self._keys: dict[bytes, CachedKey] = {}
        self._hashes: dict[str, bytes] = {}
        self._projects: dict[str, CachedProject] = {}
        self._unknown: dict[bytes, str] = {}
        self._unknown_hashes: dict[str, set[bytes]] = {}
        self.find = self._keys.get
        self.is_unknown = self._unknown.__contains__

    def __len__(self) -> int:
        return len(self._keys)

    def token_hash(self, secret_key: str) -> bytes:
        """Return the hash that a token is stored under."""
        hashed = self._hash.copy()
        hashed.update(secret_key.encode("utf-8", "surrogatepass"))
        return hashed.digest()

    def store_answer(self, generation: Generation[T], question: object, answer: T) -> None:
        """Store an answer in the generation that was read before it was computed."""
        if len(generation.answers) >= self._answers_max:
            with self._lock:
                if self.generation is generation:
                    self._advance(generation.revision, generation.log_id)
            return
        generation.answers[question] = answer

    def learn(self, token_hash: bytes, access_key: str, verdict: Verdict) -> None:
        """Store the records of a server's verdict, unless the watch has newer state."""
        with self._lock:
            revision, log_id, _ = self.generation
            if verdict.log_id != log_id or verdict.revision < revision:
                return  # the watch may have delivered a change of the key since
            if verdict.key is not None:
                self._add(token_hash, verdict.key, verdict.project)
            elif verdict.code is VerdictCode.UNKNOWN:
                self._add_unknown(token_hash, access_key)

    def apply(self, changes: Iterable[Change], revision: int, log_id: str) -> None:
        """Apply changes from the watch and advance to its revision."""
        with self._lock:
            for change in changes:
                for key in change.keys:
                    self._update(key)
                if change.project is not None:
                    self._update_project(change.project)
            if (revision, log_id) != self.generation[:2]:
                self._advance(revision, log_id)  # last: readers read it first

    def drop_answers(self) -> None:
        """Drop all answers and keep the records."""
        with self._lock:
            self._advance(self.generation.revision, self.generation.log_id)

    def clear(self) -> None:
        """Drop all records and answers."""
        with self._lock:
            self._keys.clear()
            self._hashes.clear()
            self._projects.clear()
            self._unknown.clear()
            self._unknown_hashes.clear()
            self._advance(0, "")

    def _advance(self, revision: int, log_id: str) -> None:
        self.generation = Generation(revision, log_id, {})

    def _add(self, token_hash: bytes, key: Key, project: Project | None) -> None:
        if token_hash in self._keys:
            self._update(key)
        else:
            if len(self._keys) >= self._size:
                self._evict(next(iter(self._keys)))
            shared = self._projects.setdefault(key.project_id, CachedProject(project))
            shared.keys += 1
            self._keys[token_hash] = CachedKey(key, shared)
            self._hashes[key.access_key] = token_hash
        if project is not None:
            self._update_project(project)

    def _update(self, key: Key) -> None:
        token_hash = self._hashes.get(key.access_key)
        if token_hash is not None and key.revision > self._keys[token_hash].key.revision:
            self._keys[token_hash].key = key
            self._invalidate_before(key.revision)
        for unknown in self._unknown_hashes.pop(key.access_key, ()):  # the key may be new
            del self._unknown[unknown]

    def _update_project(self, project: Project) -> None:
        shared = self._projects.get(project.project_id)
        if shared is not None and (
            shared.record is None or project.revision > shared.record.revision
        ):
            shared.record = project
            self._invalidate_before(project.revision)

    def _invalidate_before(self, revision: int) -> None:
        """Drop answers that predate a change the watch has not delivered yet."""
        if revision > self.generation.revision:
            self._advance(self.generation.revision, self.generation.log_id)

    def _evict(self, token_hash: bytes) -> None:
        evicted = self._keys.pop(token_hash)
        del self._hashes[evicted.key.access_key]
        evicted.project.keys -= 1
        if not evicted.project.keys:
            del self._projects[evicted.key.project_id]

    def _add_unknown(self, token_hash: bytes, access_key: str) -> None:
        if token_hash in self._unknown:
            return
        if len(self._unknown) >= UNKNOWN_MAX:
            oldest, owner = next(iter(self._unknown.items()))
            del self._unknown[oldest]
            self._unknown_hashes[owner].discard(oldest)
            if not self._unknown_hashes[owner]:
                del self._unknown_hashes[owner]
        self._unknown[token_hash] = access_key
        self._unknown_hashes.setdefault(access_key, set()).add(token_hash)
