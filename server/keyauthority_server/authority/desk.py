"""What every use case stands on: the store, the clock, the peppers, and admission."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final, TypeVar

from keyauthority.clock import Clock
from keyauthority.errors import ErrorReason, KeyAuthorityError, bad_field, error
from keyauthority.model import KeyKind
from keyauthority.token import Token
from keyauthority_server.authority.callers import (
    Caller,
    Certified,
    Credential,
    admit,
    judge,
    operator_of,
    proves,
)
from keyauthority_server.authority.pages import Pages
from keyauthority_server.authority.redigesting import Redigesting
from keyauthority_server.store.base import Store, Transaction
from keyauthority_server.store.looks import Looks
from keyauthority_server.store.values import ANY, Held, Wanted

T = TypeVar("T")

_CHANGES: Final = frozenset({"create", "update", "rotate", "revoke"})
_UNPROVEN: Final = Wanted(proven=False)


class Desk:
    """Holds the parts, admits callers, and makes changes on their behalf."""

    def __init__(
        self, store: Store, clock: Clock, redigesting: Redigesting, looks: Looks | None = None
    ) -> None:
        """Look single records up in the store, unless `looks` answers for it."""
        self.store = store
        self.looks = looks or store
        self.log_id = store.log_id
        self.clock = clock
        self.peppers = redigesting.peppers
        self.pages = Pages(self.peppers)
        self._redigesting = redigesting

    async def admit(self, credential: Credential | Certified, rights: Sequence[str]) -> Caller:
        """Return the caller if his key holds one of the rights; see `callers.admit`.

        Who wants to change something is judged again when that is done, and so may be admitted
        while nobody can tell how fresh his record is.
        """
        wanted = _UNPROVEN if _CHANGES.issuperset(map(_action, rights)) else ANY

        async def look() -> Caller:
            sight = await self.looks.look(None, operator_of(credential), wanted)
            return self.admitted(sight.operator, credential, rights, self.clock.now())

        return await self._redigesting.learned(look)

    def admitted(
        self,
        held: Held | None,
        credential: Credential | Certified,
        rights: Sequence[str],
        now: datetime,
    ) -> Caller:
        """Do what `callers.admit` does; a digest under an old pepper is made anew."""
        caller = admit(held, credential, rights, now, self.peppers)
        if (
            held is not None
            and held.pepper_version != self.peppers.current
            and isinstance(credential, Credential)
        ):
            self._redigesting.note(held, credential.text)
        return caller

    def proves(self, held: Held | None, token: Token, text: str) -> bool:
        """Do what `callers.proves` does; a digest under an old pepper is made anew."""
        if not proves(held, token, text, self.peppers):
            return False
        if held is not None and held.pepper_version != self.peppers.current:
            self._redigesting.note(held, text)
        return True

    async def keys_under_old_peppers(self) -> int:
        """Return how many keys need a version of the pepper before the newest."""
        return await self.store.keys_under_older(self.peppers.newest, self.clock.now())

    async def right_on(self, caller: Caller, action: str, access_key: str) -> str:
        """Return the right that the caller needs for an action on a key, and has.

        To a confined caller no operator key is visible: it is as absent as one that does not exist.
        """
        key = await self.store.get_key(access_key, caller.scope)
        right = right_for(action, key.kind if key else None)
        caller.require(right)
        return right

    async def change(
        self,
        caller: Caller,
        right: str,
        work: Callable[[Transaction, Caller, datetime], T],
        *,
        urgent: bool = False,
    ) -> T:
        """Run `work` in a transaction at its own time, for a caller who still has the right in it.

        An operator who lost his right after he was admitted, and before the commit, is refused.
        `urgent` is for what takes access away: see `store.base`.
        """

        def in_transaction(transaction: Transaction) -> T:
            now = self.time_in(transaction)
            present = _present(transaction, caller)
            judge(present.key, present.peer, now)
            present.require(right)
            return work(transaction, present, now)

        return await self.store.write(in_transaction, urgent=urgent)

    def time_in(self, transaction: Transaction) -> datetime:
        """Return the time for a change: now, and never before the newest that is committed."""
        now, newest = self.clock.now(), transaction.newest_time
        return now if newest is None else max(now, newest)


def _present(transaction: Transaction, caller: Caller) -> Caller:
    """Return the caller with his key as it is now; a certificate's is as it was."""
    if caller.certified:
        return caller
    held = transaction.key(caller.actor, None)
    if held is None:
        raise gone(ErrorReason.KEY_NOT_FOUND)
    return Caller(held.key, caller.peer)


def _action(right: str) -> str:
    return right.rpartition(":")[2]


def gone(reason: ErrorReason) -> KeyAuthorityError:
    """Return the one answer for what is absent and for what is not the caller's."""
    what = "key" if reason is ErrorReason.KEY_NOT_FOUND else "project"
    return error(reason, f"no such {what}")


def require_future(expire_time: datetime, now: datetime) -> None:
    """Raise InvalidArgument for an expiry that has come."""
    if expire_time <= now:
        raise bad_field("expire_time", "it is not in the future")


def right_for(action: str, kind: KeyKind | None) -> str:
    """Return the right that an action on a key of this kind needs."""
    return f"{'operators' if kind is KeyKind.OPERATOR else 'keys'}:{action}"
