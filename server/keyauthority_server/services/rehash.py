"""Peppers in use: learning of new versions, and making old digests anew under the newest.

A digest is made anew when its token was proven, since nothing else knows the token. That is
bookkeeping: counted in memory, handed to the store each second, and lost without harm.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import islice
from typing import Final, TypeVar

import structlog

from keyauthority_server.keyring import Keyring, KeyringError, UnknownVersion, newest_version
from keyauthority_server.store.interface import Store, StoreError, StoreUnavailable, Transaction
from keyauthority_server.store.types import DigestUpgrade, StoredKey

FLUSH_SECONDS: Final = 1.0  # also how often it looks for a new version
BATCH_ROWS: Final = 200  # in one transaction, which a RevokeKey waits for: some 5 ms
NOTED_MAX: Final = 10_000  # some 4 MB; more come again with their next use

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class Rehasher:
    """Keeps the peppers of a process up to date, and digests with them."""

    def __init__(self, store: Store, peppers: Keyring) -> None:
        self.peppers = peppers
        self._store = store
        self._noted: dict[str, DigestUpgrade] = {}
        self._told = ""

    def note(self, stored: StoredKey, text: str) -> None:
        """Have the digest of a key made anew: `text` is its token, and was proven."""
        name = stored.key.access_key
        if name in self._noted or len(self._noted) >= NOTED_MAX:
            return
        digest, version = self.peppers.digest(text.encode()), self.peppers.current
        if version > stored.pepper_version:
            self._noted[name] = DigestUpgrade(
                name, stored.digest, stored.pepper_version, digest, version
            )

    async def with_current_peppers(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Return what an attempt does, once more with the newest peppers if it lacked one.

        StoreUnavailable if the database knows a version that the file lacks: nobody can tell then
        what a token is worth. The attempt must be one that can be made twice.
        """
        try:
            return await attempt()
        except UnknownVersion:
            await self.learn()
        try:
            return await attempt()
        except UnknownVersion as lacking:
            raise StoreUnavailable(
                f"{self.peppers.name} lacks version {lacking.version}"
            ) from lacking

    async def learn(self) -> None:
        """Take over the versions that the database knows by now."""
        try:
            self.peppers.use(await self._store.key_checks())
        except KeyringError as failure:
            if self._told != str(failure):
                self._told = str(failure)
                _log.error("pepper_not_read", failure=self._told)

    async def run(self) -> None:
        """Learn and flush each second, for ever."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            try:
                await self.learn()
                await self.flush()
            except StoreError as failure:
                _log.warning("digests_kept_back", digests=len(self._noted), failure=str(failure))

    async def flush(self) -> None:
        """Hand over what is noted. Raises StoreError, and keeps what was not taken."""
        while self._noted:
            batch = list(islice(self._noted.values(), BATCH_ROWS))
            await self._store.write(partial(_exchange, self.peppers.name, batch))
            for one in batch:
                del self._noted[one.access_key]


def _exchange(name: str, batch: list[DigestUpgrade], transaction: Transaction) -> None:
    """Exchange digests, if they are under the version that is the newest by now."""
    newest = newest_version(name, transaction.key_checks())
    transaction.redigest([one for one in batch if one.pepper_version == newest])


@asynccontextmanager
async def rehasher(store: Store, peppers: Keyring) -> AsyncIterator[Rehasher]:
    """Give one that learns and flushes each second, and flushes once more when the context ends."""
    keeper = Rehasher(store, peppers)
    running = asyncio.create_task(keeper.run())
    try:
        yield keeper
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        with contextlib.suppress(StoreError):  # each comes again with its next use
            await keeper.flush()
