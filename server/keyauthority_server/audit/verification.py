"""Verifies the audit chain: every entry against its MAC, the end of the log, and all records.

1. Revisions start at 1 and have no gap.
2. Each entry has the HMAC of its canonical bytes, which include the previous hash.
3. Each entry continues the log: its `before` equals the record in the newest earlier entry of that
   record. So an altered row is found permanently, even after later changes.
4. The counter row names the revision and hash of the log's end, and its time has a valid MAC.
5. The log has the id of the saved head, and holds its revision with its hash.
6. The schema is that of the migrations, without additional triggers or views.
7. Each key and project equals its newest change; none is missing, and there are no others.

The log is read in pages, each one state of a log that may grow meanwhile. Records are compared
with entries that are verified at the latest afterwards, so a change between two pages causes no
finding.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator, Sequence
from typing import Concatenate, Final, NamedTuple, ParamSpec, Protocol, TypeVar

from keyauthority.model import Revision
from keyauthority_server.audit.chain import canonical_bytes, time_bytes
from keyauthority_server.keyring import Keyring, UnknownVersion
from keyauthority_server.store.rows import Rows
from keyauthority_server.store.sql.log_head import read_head
from keyauthority_server.store.sql.queries.events import read_log
from keyauthority_server.store.sql.reconcile import compare_records
from keyauthority_server.store.sql.row_codec import microseconds
from keyauthority_server.store.types import CorruptEntry, LogHead, NewestTime, SignedEntry

T = TypeVar("T")
P = ParamSpec("P")

PAGE_ROWS: Final = 1_000
FINDINGS_MAX: Final = 100  # reported for one log: with more, restore a backup
NAME_MAX: Final = 64  # characters; ids are shorter
_BELOW_ALL: Final = -(2**63)
_BUILT_ON_ALTERED: Final = (
    "its previous record differs from the log: the record was altered before this change"
)


class Finding(NamedTuple):
    """A deviation from the written log, records or schema."""

    revision: int
    """The entry, or the change that a record contradicts; 0 for the schema."""
    what: str


class Verified(NamedTuple):
    """The result of a verification; without findings the log is intact."""

    head: LogHead
    """The end of the log; save it if the log is intact."""
    findings: Sequence[Finding]
    """Findings of the schema first, then of the chain, then of the records, each in order."""


class Log(Protocol):
    """The reads of a store that a verification needs."""

    async def schema_differences(self) -> Sequence[str]:
        """See `Store.schema_differences`."""
        ...

    async def query(
        self, read: Callable[Concatenate[Rows, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """See `Store.query`."""
        ...


class _Chain:
    """The state of a walk along the log: cursor, running hash and findings."""

    def __init__(self, audit_key: Keyring, saved: LogHead | None) -> None:
        self._audit_key = audit_key
        self._saved = saved
        self.cursor = _BELOW_ALL
        self.revision = 0
        self.hash = b""
        self.time: int | None = None
        self.findings: list[Finding] = []

    def follow(self, rows: Sequence[SignedEntry | CorruptEntry]) -> None:
        """Check the next rows of the log."""
        for row in rows:
            revision = row.revision if isinstance(row, CorruptEntry) else row.entry.revision
            mac = row.hash if isinstance(row, CorruptEntry) else row.mac.hash
            self.findings += [Finding(*finding) for finding in self._check(row, revision)]
            at_saved = self._saved is not None and revision == self._saved.revision
            if self._saved and at_saved and not hmac.compare_digest(mac, self._saved.hash):
                self.find(revision, "its hash is not that of the saved head")
            self.cursor, self.revision, self.hash = revision, revision, mac
            self.time = None if isinstance(row, CorruptEntry) else microseconds(row.entry.time)

    def _check(self, row: SignedEntry | CorruptEntry, revision: int) -> Iterator[tuple[int, str]]:
        if revision < 1:
            yield revision, "no change has this number: the entry was inserted"
            return
        first = max(self.revision, 0) + 1
        if revision > first:
            last = revision - 1
            which = f"{first} to {last} are" if last > first else f"{first} is"
            yield first, f"revision {which} missing: removed, or given another number"
        if isinstance(row, CorruptEntry):
            yield revision, "the row holds no valid entry: altered"
            return
        if revision > first:
            return  # its MAC covers the hash of a missing entry
        try:
            mac = self._audit_key.digest(canonical_bytes(row.entry), row.mac.key_version)
        except UnknownVersion:
            yield revision, f"it names version {row.mac.key_version} of the audit key: unknown"
            return
        if not hmac.compare_digest(mac, row.mac.hash):
            yield revision, "the MAC of the entry does not match: altered, inserted or moved"
        elif list(row.entry.before) != list(row.earlier):
            yield revision, _BUILT_ON_ALTERED

    def proves_time(self, head: LogHead) -> bool:
        """True if the MAC of the newest time matches; without one it must be the last entry's."""
        if head.time is None or head.time_mac is None:
            return head.time == self.time
        version = head.time_mac.key_version
        try:
            mac = self._audit_key.digest(time_bytes(NewestTime(head.time)), version)
        except UnknownVersion:
            return False
        return hmac.compare_digest(mac, head.time_mac.hash)

    def find(self, revision: int, text: str) -> None:
        """Add a finding."""
        self.findings.append(Finding(revision, text))


async def verify(store: Log, audit_key: Keyring, saved: LogHead | None = None) -> Verified:
    """Verify the whole log and its records; the numbers refer to the module's documentation.

    Raises StoreError if the store cannot be read.
    """
    chain = _Chain(audit_key, saved)
    await _walk(chain, store)  # 1, 2, 3
    after: int | None = 0
    records: list[Finding] = []
    while after is not None and len(records) < FINDINGS_MAX:  # 7
        mismatches, after = await store.query(compare_records, after, PAGE_ROWS)
        records += [
            Finding(mismatch.revision, f"{_shortened(mismatch.name)}: {mismatch.why}")
            for mismatch in mismatches
        ]
    head = await _end(chain, store)  # 4
    if saved is not None:  # 5
        _compare(chain, head, saved)
    differences = await store.schema_differences()  # 6
    schema = [Finding(0, f"the schema: {difference}") for difference in differences]
    findings = [*schema, *sorted(set(chain.findings)), *sorted(set(records))]
    return Verified(
        LogHead(head.log_id, Revision(chain.revision), chain.hash), findings[:FINDINGS_MAX]
    )


def _shortened(name: str) -> str:
    """Return a bounded form of a name, which in an altered database may be any text."""
    return name if 0 < len(name) <= NAME_MAX else f"{name[:NAME_MAX]}…" if name else "a record"


async def _walk(chain: _Chain, store: Log) -> None:
    while len(chain.findings) < FINDINGS_MAX:
        rows = await store.query(read_log, chain.cursor, PAGE_ROWS)
        if not rows:
            return
        chain.follow(rows)


async def _end(chain: _Chain, store: Log) -> LogHead:
    """Compare the counter row with the end of the log, which may grow meanwhile."""
    while True:
        head = await store.query(read_head)
        await _walk(chain, store)
        if len(chain.findings) >= FINDINGS_MAX:
            return head
        if head.revision >= chain.revision:
            break
        if (await store.query(read_head)).revision == head.revision:
            chain.find(chain.revision, f"the log is counted up to {head.revision} only")
            return head
    if head.revision > chain.revision:
        chain.find(
            chain.revision + 1, f"the log is counted up to {head.revision}: its tail was cut off"
        )
    elif not hmac.compare_digest(head.hash, chain.hash):
        chain.find(chain.revision, "the last hash is not that of the counter row")
    elif not chain.proves_time(head):
        chain.find(chain.revision, "the MAC of the log's newest time does not match: altered")
    return head


def _compare(chain: _Chain, head: LogHead, saved: LogHead) -> None:
    if head.log_id != saved.log_id:
        chain.find(saved.revision, f"this is log {head.log_id}, the saved head is of another")
    if chain.revision < saved.revision:
        chain.find(
            chain.revision + 1, f"the saved head is at {saved.revision}: the log's tail was cut off"
        )
