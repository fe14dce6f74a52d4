"""The verification of the chain: every entry against its seal, the ends, and what the log made.

1. Revisions begin with 1 and have no gap.
2. Each entry bears the HMAC of its canonical bytes, which hold the hash before it.
3. Each entry was built on what the log said last: its `before` is the record as the newest earlier
   entry of that record left it. So a row that was altered is found for ever, whatever came later.
4. The counter row ends the log where the log ends, with the same hash, and its time is sealed.
5. The log is the one of the saved head, and holds its revision with its hash.
6. The schema is the one that the migrations make: no trigger or view acts beside it.
7. Each key and project is as its newest change has left it, and none is missing or besides.

Reading goes by pages, each one state of a log that may grow meanwhile. What was read from tables is
compared with entries that are verified afterwards at the latest, so a change that comes between two
pages is no finding.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, Protocol

from keyauthority_server.audit.chain import canonical_bytes, time_bytes
from keyauthority_server.audit.saved_head import SavedHead
from keyauthority_server.keyring import Keyring, UnknownVersion
from keyauthority_server.store.sql.row_codec import microseconds
from keyauthority_server.store.types import CorruptEntry, LogHead, Mismatch, NewestTime, SignedEntry

PAGE_ROWS: Final = 1_000
FINDINGS_MAX: Final = 100  # told of one log: who has more needs a backup, not a longer list
NAME_MAX: Final = 64  # characters; ids are shorter
_BELOW_ALL: Final = -(2**63)
_BUILT_ON_ALTERED: Final = (
    "it was built on a record that was not as the log had left it: altered before this change"
)


class Finding(NamedTuple):
    """Something that is not as it was written."""

    revision: int
    """Where: the entry, or the change that a record disagrees with; 0 for the schema."""
    what: str


class Verified(NamedTuple):
    """What a verification found; the log is whole if that is nothing."""

    head: SavedHead
    """Where the log ends: to be saved if it is whole."""
    findings: Sequence[Finding]
    """Those of the schema first, then those of the chain and of records, each in order."""


class Log(Protocol):
    """What is read of a store."""

    async def schema_differences(self) -> Sequence[str]:
        """See `Store.schema_differences`."""
        ...

    async def log_head(self) -> LogHead:
        """See `Store.log_head`."""
        ...

    async def read_log(self, after: int, limit: int) -> Sequence[SignedEntry | CorruptEntry]:
        """See `Store.read_log`."""
        ...

    async def compare_records(
        self, after: int, limit: int
    ) -> tuple[Sequence[Mismatch], int | None]:
        """See `Store.compare_records`."""
        ...


class _Chain:
    """The walk along the log: where it is, and what it found."""

    def __init__(self, audit_key: Keyring, saved: SavedHead | None) -> None:
        self._audit_key = audit_key
        self._saved = saved
        self.place = _BELOW_ALL
        self.revision = 0
        self.hash = b""
        self.time: int | None = None
        self.findings: list[Finding] = []

    def follow(self, rows: Sequence[SignedEntry | CorruptEntry]) -> None:
        """Go on along these rows, which come next."""
        for row in rows:
            revision = row.revision if isinstance(row, CorruptEntry) else row.entry.revision
            seal = row.hash if isinstance(row, CorruptEntry) else row.seal.hash
            self.findings += [Finding(*one) for one in self._judged(row, revision)]
            at_saved = self._saved is not None and revision == self._saved.revision
            if self._saved and at_saved and not hmac.compare_digest(seal, self._saved.hash):
                self.find(revision, "its hash is not that of the saved head")
            self.place, self.revision, self.hash = revision, revision, seal
            self.time = None if isinstance(row, CorruptEntry) else microseconds(row.entry.time)

    def _judged(self, row: SignedEntry | CorruptEntry, revision: int) -> Iterator[tuple[int, str]]:
        if revision < 1:
            yield revision, "no change has this number: the entry was inserted"
            return
        first = max(self.revision, 0) + 1
        if revision > first:
            last = revision - 1
            which = f"{first} to {last} are" if last > first else f"{first} is"
            yield first, f"revision {which} missing: removed, or given another number"
        if isinstance(row, CorruptEntry):
            yield revision, "the row is no entry: it was altered"
            return
        if revision > first:
            return  # its seal is over the hash of an entry that is missing
        try:
            sealed = self._audit_key.digest(canonical_bytes(row.entry), row.seal.key_version)
        except UnknownVersion:
            yield revision, f"it names version {row.seal.key_version} of the audit key: unknown"
            return
        if not hmac.compare_digest(sealed, row.seal.hash):
            yield revision, "the entry does not bear its seal: altered, inserted or moved"
        elif list(row.entry.before) != list(row.earlier):
            yield revision, _BUILT_ON_ALTERED

    def proves_time(self, head: LogHead) -> bool:
        """True if the newest time bears a seal; where there is none yet it is the last entry's."""
        if head.time is None or head.time_seal is None:
            return head.time == self.time
        version = head.time_seal.key_version
        try:
            sealed = self._audit_key.digest(time_bytes(NewestTime(head.time)), version)
        except UnknownVersion:
            return False
        return hmac.compare_digest(sealed, head.time_seal.hash)

    def find(self, revision: int, what: str) -> None:
        """Note a finding."""
        self.findings.append(Finding(revision, what))


async def verify(store: Log, audit_key: Keyring, saved: SavedHead | None = None) -> Verified:
    """Verify the whole log, and the records that it made. Numbers as in the module's text.

    Raises StoreError if it cannot be read.
    """
    chain = _Chain(audit_key, saved)
    await _walk(chain, store)  # 1, 2, 3
    after: int | None = 0
    records: list[Finding] = []
    while after is not None and len(records) < FINDINGS_MAX:  # 7
        strays, after = await store.compare_records(after, PAGE_ROWS)
        records += [Finding(one.revision, f"{_shown(one.name)}: {one.why}") for one in strays]
    head = await _end(chain, store)  # 4
    if saved is not None:  # 5
        _compare(chain, head, saved)
    schema = [Finding(0, f"the schema: {one}") for one in await store.schema_differences()]  # 6
    findings = [*schema, *sorted(set(chain.findings)), *sorted(set(records))]
    return Verified(SavedHead(head.log_id, chain.revision, chain.hash), findings[:FINDINGS_MAX])


def _shown(name: str) -> str:
    """Return what is told of a name, which may be any text that somebody put into the database."""
    return name if 0 < len(name) <= NAME_MAX else f"{name[:NAME_MAX]}…" if name else "a record"


async def _walk(chain: _Chain, store: Log) -> None:
    while len(chain.findings) < FINDINGS_MAX:
        rows = await store.read_log(chain.place, PAGE_ROWS)
        if not rows:
            return
        chain.follow(rows)


async def _end(chain: _Chain, store: Log) -> LogHead:
    """Compare the counter row with the end of the log, which may have gone on meanwhile."""
    while True:
        head = await store.log_head()
        await _walk(chain, store)
        if len(chain.findings) >= FINDINGS_MAX:
            return head
        if head.revision >= chain.revision:
            break
        if (await store.log_head()).revision == head.revision:
            chain.find(chain.revision, f"the log is counted up to {head.revision} only")
            return head
    if head.revision > chain.revision:
        chain.find(
            chain.revision + 1, f"the log is counted up to {head.revision}: its tail was cut off"
        )
    elif not hmac.compare_digest(head.hash, chain.hash):
        chain.find(chain.revision, "the last hash is not that of the counter row")
    elif not chain.proves_time(head):
        chain.find(chain.revision, "the newest time of the log does not bear its seal: altered")
    return head


def _compare(chain: _Chain, head: LogHead, saved: SavedHead) -> None:
    if head.log_id != saved.log_id:
        chain.find(saved.revision, f"this is log {head.log_id}, the saved head is of another")
    if chain.revision < saved.revision:
        chain.find(
            chain.revision + 1, f"the saved head is at {saved.revision}: the log's tail was cut off"
        )
