"""The oracle: compares the answers that clients got with server and store after a fault.

Clients write down each operation in a `Journal`, before and after it. Then `judge` asks the server
over the wire, and the store by the engine's own means (`Store`), and fails at the first
contradiction:

1. acknowledged effects are present: a created key verifies unless its revocation was requested, a
   revoked one does not;
2. an unacknowledged call took effect entirely or not at all: key, request_id and change;
3. a retry with the same request_id gives one key, and the first answer's secret;
4. the store is whole, revisions have no gap, and the chain holds.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import grpc

from keyauthority.v1 import key_authority_service_pb2 as service
from keyauthority_server import config
from keyauthority_server.audit import verify as verify_log
from keyauthority_server.runtime import bootstrap
from keyauthority_server.store.sqlite.connection import sqlite3
from tests.postgres import execute
from tests.service.callers import Caller, key_request, revoke, verify

CREATE: Final = "CreateKey"
REVOKE: Final = "RevokeKey"
OK: Final = grpc.StatusCode.OK

_BATCH: Final = 1000
_VALID: Final = service.VERDICT_VALID
_REVOKED: Final = service.VERDICT_REVOKED
_NAMES: Final[dict[int, str]] = {number: name for name, number in service.Verdict.items()}


@dataclass
class Line:
    """One operation of one client."""

    operation: str
    request_id: str
    access_key: str
    """Of a creation: empty until it is known."""
    start: float
    """Seconds of the monotonic clock, as `end`."""
    secret_key: str = ""
    secret_hash: str = ""
    end: float | None = None
    status: grpc.StatusCode | None = None
    """None if no answer came."""


@dataclass
class Journal:
    """The operations of all clients. Any thread may write."""

    project_id: str
    lines: list[Line] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def acknowledged(self, operation: str) -> list[Line]:
        """The operations that ended well."""
        with self.lock:
            return [one for one in self.lines if (one.operation, one.status) == (operation, OK)]

    def unknown(self, operation: str) -> list[Line]:
        """The operations of unknown outcome."""
        with self.lock:
            return [one for one in self.lines if one.operation == operation and one.status != OK]

    def create(self, caller: Caller, **settings: Any) -> Line:
        """Make a key; raises grpc.RpcError, and has it written down.

        One with `settings` has to be revoked: it is not valid for ever.
        """
        return self.send(caller, Line(CREATE, str(uuid.uuid4()), "", time.monotonic()), **settings)

    def send(self, caller: Caller, line: Line, **settings: Any) -> Line:
        """Send a creation, the first time or again."""
        request = key_request(self.project_id, request_id=line.request_id, **settings)
        answer = self._written(line, lambda: caller.ask(request))
        line.access_key, line.secret_key = answer.key.access_key, answer.secret_key
        line.secret_hash = _hash(answer.secret_key)
        line.status = OK  # the last that is written: now the line is whole
        return line

    def revoke(self, caller: Caller, access_key: str) -> Line:
        """Revoke a key; raises grpc.RpcError, and has it written down."""
        line = Line(REVOKE, "", access_key, time.monotonic())
        self._written(line, lambda: revoke(caller, access_key=access_key))
        line.status = OK
        return line

    def _written(self, line: Line, call: Callable[[], Any]) -> Any:
        with self.lock:
            if line not in self.lines:
                self.lines.append(line)
        try:
            return call()
        except grpc.RpcError as error:
            line.status = error.code()
            raise
        finally:
            line.end = time.monotonic()


class Made(NamedTuple):
    """The store's records of created keys."""

    keys: set[str]
    """Access keys of the table of keys."""
    changes: set[str]
    """Access keys that a change has made."""
    requests: set[str]
    """Access keys that a request_id leads to."""


class Store(Protocol):
    """Looks at a store by the engine's own means, while a server may run on it."""

    def made(self) -> Made:
        """The keys in the store, in one state."""
        ...

    def revisions(self) -> tuple[int, list[int]]:
        """The head's revision, and those of all changes in order, at one moment."""
        ...

    def faults(self) -> list[str]:
        """Findings of the engine's integrity check and of the chain's verification."""
        ...


class SqliteStore:
    """The store of a data folder."""

    def __init__(self, data: Path) -> None:
        self._data = data

    def made(self) -> Made:
        """The keys in the store, in one state."""
        with closing(self._open()) as connection:
            connection.execute("BEGIN")
            return Made(*({row[0] for row in connection.execute(one)} for one in _MADE))

    def revisions(self) -> tuple[int, list[int]]:
        """The head's revision, and those of all changes in order, at one moment."""
        with closing(self._open()) as connection:
            connection.execute("BEGIN")
            (head,) = connection.execute("SELECT revision FROM log").fetchone()
            rows = connection.execute("SELECT revision FROM change ORDER BY revision")
            return head, [row[0] for row in rows]

    def faults(self) -> list[str]:
        """Findings of the integrity check and of the chain's verification."""
        with closing(self._open()) as connection:
            rows = connection.execute("PRAGMA integrity_check").fetchall()
        return [row[0] for row in rows if row != ("ok",)] + asyncio.run(
            _verified({"data": str(self._data)})
        )

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self._data / "keyauthority.db", isolation_level=None)


_MADE: Final = (
    "SELECT access_key FROM key WHERE kind <> 'operator'",
    (
        "SELECT access_key FROM change WHERE type = 'key_created'"
        " AND json_extract(keys, '$[0].kind') <> 'operator'"
    ),
    "SELECT access_key FROM request WHERE access_key <> ''",
)


class PostgresStore:
    """`journal.Store` on PostgreSQL."""

    def __init__(self, data: Path, url: str) -> None:
        self._data, self._url = data, url

    def made(self) -> Made:
        """The keys in the store; no client writes meanwhile."""
        return Made(*({row[0] for row in execute(self._url, one)} for one in _MADE_POSTGRES))

    def revisions(self) -> tuple[int, list[int]]:
        """The head's revision, and those of all changes in order; no client writes meanwhile."""
        ((head,),) = execute(self._url, "SELECT revision FROM log")
        rows = execute(self._url, "SELECT revision FROM change ORDER BY revision")
        return head, [row[0] for row in rows]

    def faults(self) -> list[str]:
        """Findings of the chain's verification."""
        return asyncio.run(_verified({"data": str(self._data), "store": self._url}))


_MADE_POSTGRES: Final = (
    "SELECT access_key FROM key WHERE kind <> 'operator'",
    (
        "SELECT access_key FROM change WHERE type = 'key_created'"
        " AND keys::json -> 0 ->> 'kind' <> 'operator'"
    ),
    "SELECT access_key FROM request WHERE access_key <> ''",
)


async def _verified(flags: dict[str, str]) -> list[str]:
    async with bootstrap.open_audit(config.load(flags, {})) as (store, audit_key):
        found = await verify_log(store, audit_key, None)
    return [f"revision {revision}: {what}" for revision, what in found.findings]


def write_half(caller: Caller, journal: Journal, stop: threading.Event) -> None:
    """Make keys, revoke every second one, and verify as often, until stopped.

    Failures are recorded, and the client continues.
    """
    while not stop.is_set():
        try:
            kept, ended = (journal.create(caller) for _ in range(2))
            verify(caller, kept.secret_key)
            journal.revoke(caller, ended.access_key)
            for line in (kept, ended, kept):
                verify(caller, line.secret_key)
        except grpc.RpcError:
            stop.wait(0.02)  # a server that is gone is not asked as fast as one can


def judge(journal: Journal, caller: Caller, store: Store) -> None:
    """Hold a server that runs, and its store, to the journal; AssertionError at a contradiction.

    No client may write meanwhile. Creations of unknown outcome are settled by retries.
    """
    assert [] == store.faults()
    head, revisions = store.revisions()
    assert list(range(1, head + 1)) == revisions
    _judge_verdicts(journal, caller)
    _judge_retries(journal, caller, store)


def _judge_verdicts(journal: Journal, caller: Caller) -> None:
    created = journal.acknowledged(CREATE)
    revoked = {line.access_key for line in journal.acknowledged(REVOKE)}
    asked = {line.access_key for line in journal.unknown(REVOKE)}
    found = _verdicts(caller, [line.secret_key for line in created])
    for line, verdict in zip(created, found, strict=True):
        if line.access_key in revoked:
            allowed: tuple[int, ...] = (_REVOKED,)
        elif line.access_key in asked:
            allowed = (_VALID, _REVOKED)
        else:
            allowed = (_VALID,)
        assert verdict in allowed, f"{line.access_key}: {_NAMES[verdict]}"
    lost = revoked - {line.access_key for line in created}
    assert not lost, f"revoked, and never made: {lost}"


def _judge_retries(journal: Journal, caller: Caller, store: Store) -> None:
    before = store.made()
    assert before.keys == before.changes == before.requests
    known = {line.access_key for line in journal.acknowledged(CREATE)}
    assert known <= before.keys, f"acknowledged, and not there: {known - before.keys}"
    unknown = journal.unknown(CREATE)
    for line in unknown:
        journal.send(caller, line)
    settled = {line.access_key for line in unknown}
    assert before.keys - known <= settled, "a key that no request leads to"
    for line in journal.acknowledged(CREATE)[-1:]:
        first = (line.access_key, line.secret_hash)
        again = journal.send(caller, line) if line.access_key not in _ended(journal) else line
        assert first == (again.access_key, again.secret_hash)
    after = store.made()
    assert known | settled == after.keys == after.changes == after.requests
    assert len(known | settled) == len(known) + len(unknown)


def _ended(journal: Journal) -> set[str]:
    return {line.access_key for line in journal.lines if line.operation == REVOKE}


def _verdicts(caller: Caller, tokens: Sequence[str]) -> list[int]:
    found: list[int] = []
    for first in range(0, len(tokens), _BATCH):
        requests = [
            service.VerifyRequest(secret_key=token) for token in tokens[first : first + _BATCH]
        ]
        answer = caller.ask(service.BatchVerifyRequest(requests=requests))
        found += [one.verdict for one in answer.responses]
    return found


def _hash(secret_key: str) -> str:
    return hashlib.sha256(secret_key.encode()).hexdigest()
