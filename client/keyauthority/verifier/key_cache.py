"""Cache of a verifier: keys and projects at one revision, found by the hash of the token.

The cache is bounded. Its records are never older than its revision: a record from a Verify response
is stored only if it is at least as new. Tokens are stored only as hashes, keyed with a random value
per process.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from datetime import datetime
from hashlib import blake2b
from threading import Lock
from typing import Final, NamedTuple

from keyauthority.decision import has_limits
from keyauthority.model import Change, Key, Project, Verdict, VerdictCode
from keyauthority.verifier.usage_buffer import Count
from keyauthority.weight import weight_of

UNKNOWN_MAX: Final = 16_384  # unknown tokens, some 5 MB; the oldest is evicted

_HASH_BYTES: Final = 16  # collisions cannot be searched for without the hash key
_KEY_BYTES: Final = 32


class Position(NamedTuple):
    """The state of the authority that the records are of."""

    revision: int
    log_id: str


class Counted(NamedTuple):
    """A verdict as of a position, and the counter of its uses."""

    position: Position
    verdict: Verdict
    counter: Count


class Evaluation:
    """The verdicts on a key and its project, by code, for a span of the server's time.

    A verdict depends on the code alone: the facts of a call decide which code it is.
    """

    __slots__ = ("counted", "key", "limited", "project", "since", "time", "until")

    def __init__(
        self, key: Key, project: Project | None, time: datetime, since: float, until: float
    ) -> None:
        self.key = key
        self.project = project
        self.time = time
        """A time within the span: no check has another result at any other."""
        self.since = since
        """Seconds since the Unix epoch, as `until`."""
        self.until = until
        self.limited = has_limits(key, project)
        """True if only the server can give the verdict VALID, since it spends from a limit."""
        self.counted: dict[VerdictCode, Counted] = {}


class CachedKey:
    """A key whose token has been verified before, with its project."""

    __slots__ = ("counts", "evaluation", "key", "project")

    def __init__(self, key: Key, project: CachedProject) -> None:
        self.key = key
        self.project = project
        self.evaluation: Evaluation | None = None
        """The newest one, which may be of earlier records or of an earlier time."""


class CachedProject:
    """A project, shared by its cached keys."""

    __slots__ = ("keys", "record")

    def __init__(self, record: Project | None) -> None:
        self.record = record
        self.keys = 0


class KeyCache:
    """The cache. Threads may read during a write, provided they read `position` first."""

    def __init__(self, size: int) -> None:
        """Keep at most `size` usual keys; one with long lists counts as several."""
        self.position = Position(0, "")
        self._size = size
        self._lock = Lock()
        # Hashed before the token instead of as BLAKE2's key, which adds a block to every hash.
        self._hash = blake2b(secrets.token_bytes(_KEY_BYTES), digest_size=_HASH_BYTES)
        self._keys: dict[bytes, CachedKey] = {}
        self._weight = 0  # of all keys
        self._hashes: dict[str, bytes] = {}
        self._projects: dict[str, CachedProject] = {}
        self._unknown: dict[bytes, str] = {}
        self._unknown_hashes: dict[str, set[bytes]] = {}
        self.imports: bool | None = None
        """True if keys of other systems were imported, so that any text may be a token; None if
        that is not known yet."""
        self.find = self._keys.get
        self.is_unknown = self._unknown.__contains__

    def __len__(self) -> int:
        return len(self._keys)

    def token_hash(self, secret_key: str) -> bytes:
        """Return the hash that a token is stored under."""
        hashed = self._hash.copy()
        hashed.update(secret_key.encode("utf-8", "surrogatepass"))
        return hashed.digest()

    def learn(self, token_hash: bytes, access_key: str, verdict: Verdict) -> None:
        """Store the records of a server's verdict, unless the watch has newer state."""
        with self._lock:
            revision, log_id = self.position
            if verdict.log_id != log_id or verdict.revision < revision:
                return  # the watch may have delivered a change of the key since
            if verdict.key is not None:
                self._add(token_hash, verdict.key, verdict.project)
            elif verdict.code is VerdictCode.UNKNOWN:
                self._add_unknown(token_hash, access_key)

    def learn_imports(self, log_id: str, found: bool) -> None:
        """Store whether the log has imported keys, unless the watch has delivered one since."""
        with self._lock:
            if self.imports is None and self.position.log_id == log_id:
                self.imports = found

    def apply(self, changes: Iterable[Change], revision: int, log_id: str) -> None:
        """Apply changes from the watch and advance to its revision."""
        with self._lock:
            for change in changes:
                for key in change.keys:
                    self._update(key)
                if change.project is not None:
                    self._update_project(change.project)
            if (revision, log_id) != self.position:
                self.position = Position(revision, log_id)  # last: readers read it first

    def clear(self) -> None:
        """Drop all records."""
        with self._lock:
            self._keys.clear()
            self._weight = 0
            self._hashes.clear()
            self._projects.clear()
            self._unknown.clear()
            self._unknown_hashes.clear()
            self.imports = None
            self.position = Position(0, "")

    def _add(self, token_hash: bytes, key: Key, project: Project | None) -> None:
        if token_hash in self._keys:
            self._update(key)
        else:
            self._make_room(weight_of(key))
            shared = self._projects.setdefault(key.project_id, CachedProject(project))
            shared.keys += 1
            self._keys[token_hash] = CachedKey(key, shared)
            self._hashes[key.access_key] = token_hash
        if project is not None:
            self._update_project(project)

    def _update(self, key: Key) -> None:
        token_hash = self._hashes.get(key.access_key)
        if token_hash is not None and key.revision > self._keys[token_hash].key.revision:
            self._weight -= weight_of(self._keys[token_hash].key)
            self._keys[token_hash].key = key
            self._make_room(weight_of(key))
        self._forget_unknown(key.access_key)  # the key may be new
        if key.import_set:
            self.imports = True
            self._forget_unknown("")

    def _forget_unknown(self, access_key: str) -> None:
        for unknown in self._unknown_hashes.pop(access_key, ()):
            del self._unknown[unknown]

    def _update_project(self, project: Project) -> None:
        shared = self._projects.get(project.project_id)
        if shared is not None and (
            shared.record is None or project.revision > shared.record.revision
        ):
            shared.record = project

    def _make_room(self, weight: int) -> None:
        """Add the weight of a key, and evict the oldest keys beyond the bound."""
        self._weight += weight
        while self._weight > self._size and self._keys:
            self._evict(next(iter(self._keys)))

    def _evict(self, token_hash: bytes) -> None:
        evicted = self._keys.pop(token_hash)
        self._weight -= weight_of(evicted.key)
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
