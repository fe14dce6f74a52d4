"""What every use case stands on: the store, the clock, the peppers, and admission."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from enum import Enum
from typing import Final, NamedTuple, TypeVar

from keyauthority.clock import Clock
from keyauthority.decision import end_of
from keyauthority.errors import ErrorReason, KeyAuthorityError, bad_field, error
from keyauthority.model import KeyKind
from keyauthority.token import Token
from keyauthority_server.records import CachedKey, RecordCache
from keyauthority_server.services.page_tokens import PageTokens
from keyauthority_server.services.principal import (
    CertificateIdentity,
    Credential,
    Principal,
    authenticate,
    check_active,
    digest_matches,
    invalid_credential,
    operator_of,
)
from keyauthority_server.services.rehash import Rehasher
from keyauthority_server.store.interface import Store, Transaction
from keyauthority_server.store.snapshots import LocalLog
from keyauthority_server.store.types import ANY, ReadOptions, Scope, StoredKey

T = TypeVar("T")

_CHANGES: Final = frozenset({"create", "update", "rotate", "revoke"})
_UNPROVEN: Final = ReadOptions(proven=False)


class NotCached(Enum):
    """The type of NOT_CACHED."""

    NOT_CACHED = ""


NOT_CACHED: Final = NotCached.NOT_CACHED


class _Admission(NamedTuple):
    """That an operator's key holds a right when it is used from an address, until its end."""

    address: str
    right: str
    scope: Scope
    end: datetime


class ServiceContext:
    """Holds the parts, admits callers, and makes changes on their behalf."""

    def __init__(
        self, store: Store, clock: Clock, rehasher: Rehasher, records: RecordCache
    ) -> None:
        self.store = store
        self.records = records
        self.log_id = store.log_id
        self.clock = clock
        self.peppers = rehasher.peppers
        self.pages = PageTokens(self.peppers)
        self._rehasher = rehasher

    async def authenticate(
        self, credential: Credential | CertificateIdentity, rights: Sequence[str]
    ) -> Principal:
        """Return the caller if his key holds one of the rights; see `callers.admit`.

        Who wants to change something is judged again when that is done, and so may be admitted
        while nobody can tell how fresh his record is.
        """
        wanted = _UNPROVEN if _CHANGES.issuperset(map(_action, rights)) else ANY

        async def look() -> Principal:
            cached = self.cached_operator(credential) if self.records.is_current(wanted) else None
            name = operator_of(credential)
            stored = cached.stored if cached else None
            if cached is None and isinstance(credential, Credential):
                if self.is_unknown(credential.token, credential.text):
                    raise invalid_credential()
                stored = (await self.records.read((), name, wanted)).operator
            return self.authenticate_snapshot(
                stored, credential, rights, self.clock.now(), proven=bool(cached)
            )

        return await self._rehasher.with_current_peppers(look)

    def cached_operator(self, credential: Credential | CertificateIdentity) -> CachedKey | None:
        """Return the operator's key that a credential has proven, if it is in memory.

        To be asked once the records are known to be current.
        """
        if isinstance(credential, CertificateIdentity):
            return None
        return self.records.proven(credential.text)

    def admit_cached(self, credential: Credential, right: str, now: datetime) -> Scope | NotCached:
        """Admit the operator of a credential from memory alone; return its scope.

        To be asked once the records are known to be current. NOT_CACHED if that takes a read, or
        is refused: `authenticate` tells why.
        """
        cached = self.records.proven(credential.text)
        if cached is None:
            return NOT_CACHED
        admission = cached.admission
        if (
            not isinstance(admission, _Admission)
            or admission.address != credential.address
            or admission.right != right
        ):
            try:
                caller = authenticate(
                    cached.stored, credential, (right,), now, self.peppers, proven=True
                )
            except KeyAuthorityError:
                return NOT_CACHED
            end = end_of(cached.stored.key)
            admission = _Admission(credential.address, right, caller.scope, end)
            cached.admission = admission
        return admission.scope if now < admission.end else NOT_CACHED

    def authenticate_snapshot(
        self,
        stored: StoredKey | None,
        credential: Credential | CertificateIdentity,
        rights: Sequence[str],
        now: datetime,
        *,
        proven: bool = False,
    ) -> Principal:
        """Do what `callers.admit` does; note that the credential is proven.

        A digest under an old pepper is made again under the current one.
        """
        caller = authenticate(stored, credential, rights, now, self.peppers, proven=proven)
        if stored is not None and not proven and isinstance(credential, Credential):
            self._note_proof(stored, credential.text)
        return caller

    def is_unknown(self, token: Token, text: str, scope: Scope = None) -> bool:
        """True if a token proves no key that is visible in a scope, found out without its record.

        Where the store reads keys at once: an outline of the key is compared, with the same work
        if it does not exist. False where that would be a network round trip.
        """
        if not isinstance(self.store, LocalLog):
            return False
        outline = self.store.outline(token.access_key)
        proven = digest_matches(outline, token, text, self.peppers)
        return not proven or not (scope is None or outline.key.project_id in scope)

    def digest_matches(self, stored: StoredKey | None, token: Token, text: str) -> bool:
        """Do what `callers.proves` does, and note that the token is proven; see `admitted`."""
        if not digest_matches(stored, token, text, self.peppers):
            return False
        if stored is not None:
            self._note_proof(stored, text)
        return True

    def _note_proof(self, stored: StoredKey, text: str) -> None:
        if stored.pepper_version == self.peppers.current:
            self.records.prove(text, stored)
        else:
            self._rehasher.note(stored, text)

    async def keys_under_old_peppers(self) -> int:
        """Return how many keys need a version of the pepper before the newest."""
        return await self.store.keys_under_older(self.peppers.newest, self.clock.now())

    async def authorize_key_action(self, caller: Principal, action: str, access_key: str) -> str:
        """Return the right that the caller needs for an action on a key, and has.

        To a confined caller no operator key is visible: it is as absent as one that does not exist.
        """
        key = await self.store.get_key(access_key, caller.scope)
        right = right_for(action, key.kind if key else None)
        caller.require(right)
        return right

    async def change(
        self,
        caller: Principal,
        right: str,
        work: Callable[[Transaction, Principal, datetime], T],
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
            check_active(present.key, present.peer, now)
            present.require(right)
            return work(transaction, present, now)

        return await self.store.write(in_transaction, urgent=urgent)

    def time_in(self, transaction: Transaction) -> datetime:
        """Return the time for a change: now, and never before the newest that is committed."""
        now, newest = self.clock.now(), transaction.newest_time
        return now if newest is None else max(now, newest)


def _present(transaction: Transaction, caller: Principal) -> Principal:
    """Return the caller with his key as it is now; a certificate's is as it was."""
    if caller.certified:
        return caller
    stored = transaction.key(caller.actor, None)
    if stored is None:
        raise gone(ErrorReason.KEY_NOT_FOUND)
    return Principal(stored.key, caller.peer)


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
