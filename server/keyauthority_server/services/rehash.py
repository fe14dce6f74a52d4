"""Loads new pepper versions, and rehashes digests under the newest version on use.

A digest can be rehashed only when its token is presented, since only the caller has the token.
Pending upgrades are bookkeeping: kept in memory, written to the store every second, and harmless
to lose, since the next use of a key queues its upgrade again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import islice
from typing import Any, Final, TypeVar

import structlog

from keyauthority_server.background import flushing
from keyauthority_server.keyring import Keyring, KeyringError, UnknownVersion, newest_version
from keyauthority_server.services.token_digests import token_digest
from keyauthority_server.store.interface import Store, StoreError, StoreUnavailable, Transaction
from keyauthority_server.store.types import DigestUpgrade, StoredKey

BATCH_ROWS: Final = 200  # in one transaction, which a RevokeKey waits for: some 5 ms
PENDING_MAX: Final = 10_000  # some 4 MB; further keys are queued at their next use

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class Rehasher:
    """Keeps the peppers of a process current, and the digests of used keys under them."""

    def __init__(self, store: Store, peppers: Keyring) -> None:
        self.peppers = peppers
        self._store = store
        self._pending: dict[str, DigestUpgrade] = {}
        self._last_error = ""

    def enqueue(self, stored: StoredKey, message: bytes) -> None:
        """Queue a digest upgrade; the key's digest was found to be that of `message`."""
        access_key = stored.key.access_key
        if access_key in self._pending or len(self._pending) >= PENDING_MAX:
            return
        version = self.peppers.current
        digest = token_digest(self.peppers, message, access_key, version)
        if version > stored.pepper_version:
            self._pending[access_key] = DigestUpgrade(
                access_key, stored.digest, stored.pepper_version, digest, version
            )

    async def with_current_peppers(
        self, attempt: Callable[..., Awaitable[T]], *arguments: Any
    ) -> T:
        """Run `attempt`; after UnknownVersion, reload the peppers and run it once more.

        StoreUnavailable if the database names a version that the pepper file lacks: such digests
        cannot be compared. `attempt` must be safe to run twice.
        """
        try:
            return await attempt(*arguments)
        except UnknownVersion:
            await self.reload_peppers()
        try:
            return await attempt(*arguments)
        except UnknownVersion as missing:
            raise StoreUnavailable(
                f"{self.peppers.name} lacks version {missing.version}; add it to the file"
            ) from missing

    async def reload_peppers(self) -> None:
        """Activate the pepper versions recorded in the database; log a failure once."""
        try:
            self.peppers.use(await self._store.key_checks())
        except KeyringError as failure:
            if self._last_error != str(failure):
                self._last_error = str(failure)
                _log.error("pepper_not_read", failure=self._last_error)

    async def refresh(self) -> None:
        """Reload the peppers, and flush; a failure is logged, and the next call tries again."""
        try:
            await self.reload_peppers()
            await self.flush()
        except StoreError as failure:
            _log.warning(
                "digest_upgrades_delayed", digests=len(self._pending), failure=str(failure)
            )

    async def flush(self) -> None:
        """Write the pending upgrades. On StoreError the unwritten ones stay pending."""
        while self._pending:
            batch = list(islice(self._pending.values(), BATCH_ROWS))
            await self._store.write(partial(_write_upgrades, self.peppers.name, batch))
            for upgrade in batch:
                del self._pending[upgrade.access_key]


def _write_upgrades(name: str, batch: list[DigestUpgrade], transaction: Transaction) -> None:
    """Replace digests, except those under a version that is not the newest any longer."""
    newest = newest_version(name, transaction.key_checks())
    transaction.upgrade_digests([upgrade for upgrade in batch if upgrade.pepper_version == newest])


@asynccontextmanager
async def rehasher(store: Store, peppers: Keyring) -> AsyncIterator[Rehasher]:
    """Yield a Rehasher that is refreshed each second and when the context ends."""
    rehash = Rehasher(store, peppers)
    async with flushing(rehash.refresh):
        yield rehash
