"""What every use case stands on: the store, the clock, the peppers, and admission."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

from keyauthority.clock import Clock
from keyauthority.decision import state_of
from keyauthority.errors import ErrorReason, KeyAuthorityError, error
from keyauthority.model import Key, KeyKind
from keyauthority_server.authority.callers import Caller, Credential, admit, judge
from keyauthority_server.authority.pages import Pages
from keyauthority_server.peppers import Keyring
from keyauthority_server.store.base import Store, Transaction

T = TypeVar("T")


class Desk:
    """Holds the parts, admits callers, and makes changes on their behalf."""

    def __init__(self, store: Store, clock: Clock, peppers: Keyring) -> None:
        self.store = store
        self.log_id = store.log_id
        self.clock = clock
        self.peppers = peppers
        self.pages = Pages(peppers)

    async def admit(self, credential: Credential, rights: Sequence[str]) -> Caller:
        """Return the caller if his key holds one of the rights; see `callers.admit`."""
        sight = await self.store.look(None, credential.token.access_key)
        return admit(sight.operator, credential, rights, self.clock.now(), self.peppers)

    async def change(
        self, caller: Caller, right: str, work: Callable[[Transaction, Caller, datetime], T]
    ) -> T:
        """Run `work` in a transaction at its own time, for a caller who still has the right in it.

        An operator who lost his right after he was admitted, and before the commit, is refused.
        """

        def in_transaction(transaction: Transaction) -> T:
            now = self.time_in(transaction)
            held = transaction.key(caller.actor, None)
            if held is None:
                raise gone(ErrorReason.KEY_NOT_FOUND)
            judge(held.key, caller.peer, now)
            present = Caller(held.key, caller.peer)
            present.require(right)
            return work(transaction, present, now)

        return await self.store.write(in_transaction)

    def time_in(self, transaction: Transaction) -> datetime:
        """Return the time for a change: now, and never before the newest that is committed."""
        now, newest = self.clock.now(), transaction.newest_time
        return now if newest is None else max(now, newest)


def gone(reason: ErrorReason) -> KeyAuthorityError:
    """Return the one answer for what is absent and for what is not the caller's."""
    what = "key" if reason is ErrorReason.KEY_NOT_FOUND else "project"
    return error(reason, f"no such {what}")


def right_for(action: str, kind: KeyKind | None) -> str:
    """Return the right that an action on a key of this kind needs."""
    return f"{'operators' if kind is KeyKind.OPERATOR else 'keys'}:{action}"


def shown(key: Key, now: datetime) -> Key:
    """Return the key with the state that it is in, as callers see it."""
    return replace(key, state=state_of(key, now))
