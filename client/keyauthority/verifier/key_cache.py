"""What a verifier knows: keys and projects as of one revision, found by the hash of their tokens.

Bounded, and never older than the revision that it names: a record that comes by another way than
the watch is taken in only if it is as new. A token is kept as a hash only, under a key that is made
anew in each process.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from hashlib import blake2b
from threading import Lock
from typing import Final, Generic, NamedTuple, TypeVar

from keyauthority.model import Change, Key, Project, Verdict, VerdictCode

T = TypeVar("T")

REFUSED_MAX: Final = 16_384  # unknown tokens, some 5 MB; the oldest makes room
ANSWERS_MIN: Final = 1_024  # answers that are kept even of few keys

_HASH_BYTES: Final = 16  # without the key nobody can look for two tokens with one hash
_KEY_BYTES: Final = 32


class Generation(NamedTuple, Generic[T]):
    """What all that is known is of. When any of it changes, there is another state.

    A thread that is late writes its answer into a state that nobody reads any more.
    """

    revision: int
    log_id: str
    answers: dict[object, T]
    """What was answered in this state."""


class CachedKey:
    """A key whose token has been seen, and its project."""

    __slots__ = ("key", "project")

    def __init__(self, key: Key, project: CachedProject) -> None:
        self.key = key
        self.project = project


class CachedProject:
    """A project, which all its keys point to."""

    __slots__ = ("keys", "record")

    def __init__(self, record: Project | None) -> None:
        self.record = record
        self.keys = 0


class Memory(Generic[T]):
    """See the module's text. Threads may read while others write; they read `state` first."""

    def __init__(self, size: int) -> None:
        self.state: Generation[T] = Generation(0, "", {})
        self._size = size
        self._answers_max = max(size, ANSWERS_MIN)
        self._lock = Lock()
        # Before the token, not as BLAKE2's key: that would be a block of its own in each hash.
        self._hash = blake2b(secrets.token_bytes(_KEY_BYTES), digest_size=_HASH_BYTES)
        self._keys: dict[bytes, CachedKey] = {}
        self._names: dict[str, bytes] = {}
        self._projects: dict[str, CachedProject] = {}
        self._refused: dict[bytes, str] = {}
        self._refused_names: dict[str, set[bytes]] = {}
        self.find = self._keys.get
        self.is_refused = self._refused.__contains__

    def __len__(self) -> int:
        return len(self._keys)

    def name(self, secret_key: str) -> bytes:
        """Return what a token is found by."""
        hashed = self._hash.copy()
        hashed.update(secret_key.encode("utf-8", "surrogatepass"))
        return hashed.digest()

    def answered(self, state: Generation[T], question: object, answer: T) -> None:
        """Keep an answer for as long as the state is what it was. It was read before all else."""
        if len(state.answers) >= self._answers_max:
            with self._lock:
                if self.state is state:
                    self._move(state.revision, state.log_id)
            return
        state.answers[question] = answer

    def learn(self, name: bytes, access_key: str, verdict: Verdict) -> None:
        """Take in what the server has answered about a token, unless the watch knows better."""
        with self._lock:
            revision, log_id, _ = self.state
            if verdict.log_id != log_id or verdict.revision < revision:
                return  # a change of the key may have been told since
            if verdict.key is not None:
                self._keep(name, verdict.key, verdict.project)
            elif verdict.code is VerdictCode.UNKNOWN:
                self._refuse(name, access_key)

    def apply(self, changes: Iterable[Change], revision: int, log_id: str) -> None:
        """Bring what is known up to a revision that the watch has reached."""
        with self._lock:
            for change in changes:
                for key in change.keys:
                    self._update(key)
                if change.project is not None:
                    self._update_project(change.project)
            if (revision, log_id) != self.state[:2]:
                self._move(revision, log_id)  # last: readers look at it first

    def renew(self) -> None:
        """Forget what was answered."""
        with self._lock:
            self._move(self.state.revision, self.state.log_id)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            for kept in (
                self._keys,
                self._names,
                self._projects,
                self._refused,
                self._refused_names,
            ):
                kept.clear()
            self._move(0, "")

    def _move(self, revision: int, log_id: str) -> None:
        self.state = Generation(revision, log_id, {})

    def _keep(self, name: bytes, key: Key, project: Project | None) -> None:
        known = self._keys.get(name)
        if known is not None:
            self._update(key)
        else:
            if len(self._keys) >= self._size:
                self._drop(next(iter(self._keys)))
            shared = self._projects.setdefault(key.project_id, CachedProject(project))
            shared.keys += 1
            self._keys[name] = CachedKey(key, shared)
            self._names[key.access_key] = name
        if project is not None:
            self._update_project(project)

    def _update(self, key: Key) -> None:
        name = self._names.get(key.access_key)
        if name is not None and key.revision > self._keys[name].key.revision:
            self._keys[name].key = key
            self._overtake(key.revision)
        for refused in self._refused_names.pop(key.access_key, ()):  # made since, perhaps
            del self._refused[refused]

    def _update_project(self, project: Project) -> None:
        shared = self._projects.get(project.project_id)
        if shared is not None and (
            shared.record is None or project.revision > shared.record.revision
        ):
            shared.record = project
            self._overtake(project.revision)

    def _overtake(self, revision: int) -> None:
        """Answer nothing from before a change that the watch is yet to tell."""
        if revision > self.state.revision:
            self._move(self.state.revision, self.state.log_id)

    def _drop(self, name: bytes) -> None:
        known = self._keys.pop(name)
        del self._names[known.key.access_key]
        known.project.keys -= 1
        if not known.project.keys:
            del self._projects[known.key.project_id]

    def _refuse(self, name: bytes, access_key: str) -> None:
        if name in self._refused:
            return
        if len(self._refused) >= REFUSED_MAX:
            oldest, owner = next(iter(self._refused.items()))
            del self._refused[oldest]
            self._refused_names[owner].discard(oldest)
            if not self._refused_names[owner]:
                del self._refused_names[owner]
        self._refused[name] = access_key
        self._refused_names.setdefault(access_key, set()).add(name)
