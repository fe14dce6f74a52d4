"""The parts of `interface.Store` that both engines share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Concatenate, ParamSpec, TypeVar

from keyauthority.model import Key
from keyauthority_server.store.interface import Transaction
from keyauthority_server.store.rows import Rows
from keyauthority_server.store.sql.log_head import read_head
from keyauthority_server.store.sql.scopes import in_scope
from keyauthority_server.store.types import (
    NO_READS,
    LogHead,
    Reads,
    Scope,
    Snapshot,
)

T = TypeVar("T")
P = ParamSpec("P")


class SqlStore(ABC):
    """Reads and writes in terms of `query`, `read` and `write`; see `interface.Store`."""

    @abstractmethod
    async def query(
        self, read: Callable[Concatenate[Rows, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Return the result of `read` in one read transaction, in a thread."""

    @abstractmethod
    async def read(self, access_key: str | None, operator: str | None) -> Snapshot:
        """Return a key with its project, and an operator's key, in one state."""

    @abstractmethod
    async def write(
        self, work: Callable[[Transaction], T], *, urgent: bool = False, reads: Reads = NO_READS
    ) -> T:
        """Run `work` in a transaction, commit, and return its result."""

    async def get_key(self, access_key: str, scope: Scope) -> Key | None:
        """Return the key, or None if it is absent or out of scope."""
        stored = (await self.read(access_key, None)).stored
        return stored.key if stored is not None and in_scope(stored.key, scope) else None

    async def log_head(self) -> LogHead:
        """Return the current content of the counter row."""
        return await self.query(read_head)

    async def set_key_checks(self, checks: Mapping[str, bytes]) -> None:
        """Store check values for names that have none yet."""
        await self.write(lambda transaction: transaction.set_key_checks(checks))
