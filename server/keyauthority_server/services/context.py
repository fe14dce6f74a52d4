"""Dependencies shared by all services: store, clock, peppers, authentication, transactions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from enum import Enum
from typing import Final, NamedTuple, TypeVar

from keyauthority.clock import Clock
from keyauthority.decision import end_of
from keyauthority.errors import ErrorReason, KeyAuthorityError, bad_field, error
from keyauthority.model import KeyKind
from keyauthority_server.records import ANY, CachedKey, ReadOptions, RecordCache
from keyauthority_server.services.page_tokens import PageTokens
from keyauthority_server.services.presented_tokens import (
    ImportedTokens,
    PresentedToken,
    presented,
)
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
from keyauthority_server.store.sql.queries.digests import keys_under_older
from keyauthority_server.store.types import NO_READS, Reads, Scope, StoredKey

T = TypeVar("T")

_UNPROVEN: Final = ReadOptions(proven=False)


class NotCached(Enum):
    """The type of NOT_CACHED."""

    NOT_CACHED = ""


NOT_CACHED: Final = NotCached.NOT_CACHED


class _CachedAuthorization(NamedTuple):
    """A successful check of an operator key: this right, from this address, until `end`."""

    address: str
    right: str
    scope: Scope
    end: datetime


class ServiceContext:
    """Holds the dependencies, authenticates callers and commits their changes."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        rehasher: Rehasher,
        records: RecordCache,
        token_prefix: str = "",
    ) -> None:
        """`token_prefix` is the prefix of new tokens, without its underscore; empty for none."""
        self.store = store
        self.records = records
        self.log_id = store.log_id
        self.clock = clock
        self.peppers = rehasher.peppers
        self.token_prefix = token_prefix
        self.pages = PageTokens(self.peppers)
        self.imported = ImportedTokens(store, self.peppers, records)
        self._rehasher = rehasher
        self._outlines = store if isinstance(store, LocalLog) else None

    async def authenticate(
        self,
        credential: Credential | CertificateIdentity,
        rights: Sequence[str],
        *,
        mutates: bool = False,
    ) -> Principal:
        """Return the caller if its key holds one of the rights; see `principal.authenticate`.

        A call that `mutates` checks the caller again inside its transaction (`mutate`), so it may
        start from a record whose freshness is not proven. Raises UnknownVersion; see
        `Rehasher.with_current_peppers`.
        """
        options = _UNPROVEN if mutates else ANY
        cached = self.cached_operator(credential) if self.records.catch_up(options) else None
        stored = cached.stored if cached else None
        if cached is None and isinstance(credential, Credential):
            self._check_outline(credential)
            stored = (await self.records.read((), operator_of(credential), options)).operator
        return self.authenticate_stored(
            stored, credential, rights, self.clock.now(), verified=bool(cached)
        )

    def cached_operator(self, credential: Credential | CertificateIdentity) -> CachedKey | None:
        """Return the cached operator key whose token was verified before; None if not cached.

        Call it only while the record cache is current.
        """
        if isinstance(credential, CertificateIdentity):
            return None
        return self.records.verified(credential.text)

    def authenticate_cached(
        self, credential: Credential, right: str, now: datetime
    ) -> Scope | NotCached:
        """Authenticate an operator key from memory alone; return its scope.

        Call it only while the record cache is current. Returns NOT_CACHED if a read is needed or
        the caller is denied; `authenticate` then raises the error.
        """
        cached = self.records.verified(credential.text)
        if cached is None:
            return NOT_CACHED
        authorization = cached.admission
        if (
            not isinstance(authorization, _CachedAuthorization)
            or authorization.address != credential.address
            or authorization.right != right
        ):
            try:
                caller = authenticate(
                    cached.stored, credential, (right,), now, self.peppers, verified=True
                )
            except KeyAuthorityError:
                return NOT_CACHED
            end = end_of(cached.stored.key)
            authorization = _CachedAuthorization(credential.address, right, caller.scope, end)
            cached.admission = authorization
        return authorization.scope if now < authorization.end else NOT_CACHED

    def authenticate_stored(
        self,
        stored: StoredKey | None,
        credential: Credential | CertificateIdentity,
        rights: Sequence[str],
        now: datetime,
        *,
        verified: bool = False,
    ) -> Principal:
        """Authenticate against a key read before, and cache that the token matched.

        A digest under an old pepper is queued for rehashing under the current one.
        """
        caller = authenticate(stored, credential, rights, now, self.peppers, verified=verified)
        if stored is not None and not verified and isinstance(credential, Credential):
            self._cache_match(stored, _presented(credential))
        return caller

    async def present(self, text: str) -> PresentedToken | None:
        """Return a token of this authority or of an import set; None for a malformed text."""
        return presented(text) or (await self.imported.find((text,))).get(text)

    @property
    def has_outlines(self) -> bool:
        """True if `fails_outline_check` decides."""
        return self._outlines is not None

    def fails_outline_check(
        self,
        presented: PresentedToken,
        scope: Scope = None,
        outlines: dict[str, StoredKey] | None = None,
    ) -> bool:
        """True if a token matches no key in the scope, decided without reading its record.

        With a local store, compares the digest in an outline of the key; an absent key costs the
        same work. Always False where the outline would take a network round trip. `outlines` keeps
        those of one call: reading one a thousand times would tell an existing key from an absent.
        """
        if self._outlines is None:
            return False
        token, _, message = presented
        outline = outlines.get(token.access_key) if outlines else None
        if outline is None:
            outline = self._outlines.outline(token.access_key)
            if outlines is not None:
                outlines[token.access_key] = outline
        matches = digest_matches(outline, token, message, self.peppers)
        return not matches or not (scope is None or outline.key.project_id in scope)

    def reject_forged(self, credential: Credential | CertificateIdentity) -> None:
        """Raise Unauthenticated for an operator key that can be seen to be forged at once.

        Call it before any work for a caller that is authenticated only in the end.
        """
        if isinstance(credential, Credential) and self.cached_operator(credential) is None:
            self._check_outline(credential)

    def _check_outline(self, credential: Credential) -> None:
        if self.fails_outline_check(_presented(credential)):
            raise invalid_credential()

    def digest_matches(self, stored: StoredKey | None, presented: PresentedToken) -> bool:
        """Do as `principal.digest_matches`, and cache a match or queue it for rehashing."""
        if not digest_matches(stored, presented.token, presented.message, self.peppers):
            return False
        if stored is not None:
            self._cache_match(stored, presented)
        return True

    def _cache_match(self, stored: StoredKey, presented: PresentedToken) -> None:
        if stored.pepper_version == self.peppers.current:
            self.records.mark_verified(presented.text, stored)
        else:
            self._rehasher.enqueue(stored, presented.message)

    async def keys_under_old_peppers(self) -> int:
        """Return the number of keys that need a pepper version older than the newest."""
        return await self.store.query(keys_under_older, self.peppers.newest, self.clock.now())

    async def require_visible(self, caller: Principal, project_id: str, access_key: str) -> None:
        """Raise NotFound unless project and key are in scope and the key is of the project.

        An empty name is not checked.
        """
        if project_id and await self.store.get_project(project_id, caller.scope) is None:
            raise not_found(ErrorReason.PROJECT_NOT_FOUND)
        if access_key:
            key = await self.store.get_key(access_key, caller.scope)
            if key is None or project_id not in ("", key.project_id):
                raise not_found(ErrorReason.KEY_NOT_FOUND)

    async def mutate(
        self,
        caller: Principal,
        right: str,
        work: Callable[[Transaction, Principal, datetime], T],
        *,
        urgent: bool = False,
        reads: Reads = NO_READS,
    ) -> T:
        """Run `work` in a transaction, and check the caller's right again inside it.

        `work` takes the transaction, the caller as of the transaction and the commit time. An
        operator that lost the right after authentication and before the commit is denied.
        `urgent` marks work that takes access away, and `reads` names the records that it reads: see
        `store.interface`.
        """

        def in_transaction(transaction: Transaction) -> T:
            current, now = self._as_of(transaction, caller)
            current.require(right)
            return work(transaction, current, now)

        reads = reads._replace(keys=(*reads.keys, caller.actor))
        return await self.store.write(in_transaction, urgent=urgent, reads=reads)

    async def mutate_key(
        self,
        caller: Principal,
        action: str,
        access_key: str,
        work: Callable[[Transaction, StoredKey | None, Principal, datetime], T],
        *,
        urgent: bool = False,
        reads: Reads = NO_READS,
    ) -> T:
        """Run `work` on a key as `mutate` does, with the right that the action on its kind needs.

        `work` also takes the key as of the transaction, None if it is absent or out of the caller's
        scope. A caller confined to projects sees no operator key: it is treated as absent.
        """

        def in_transaction(transaction: Transaction) -> T:
            current, now = self._as_of(transaction, caller)
            stored = transaction.key(access_key, current.scope)
            current.require(right_for(action, stored.key.kind if stored else None))
            return work(transaction, stored, current, now)

        reads = reads._replace(keys=(*reads.keys, access_key, caller.actor))
        return await self.store.write(in_transaction, urgent=urgent, reads=reads)

    def _as_of(self, transaction: Transaction, caller: Principal) -> tuple[Principal, datetime]:
        """Return the caller as of a transaction, which must be active, and the commit time."""
        now = self.commit_time(transaction)
        current = _reload(transaction, caller)
        check_active(current.key, current.peer, now)
        return current, now

    def commit_time(self, transaction: Transaction) -> datetime:
        """Return the time of a change: now, but never before the newest committed change."""
        now, newest = self.clock.now(), transaction.newest_time
        return now if newest is None else max(now, newest)


def _presented(credential: Credential) -> PresentedToken:
    return PresentedToken(credential.token, credential.text, credential.text.encode())


def _reload(transaction: Transaction, caller: Principal) -> Principal:
    """Return the caller with its key as of the transaction; a certificate does not change."""
    if caller.certified:
        return caller
    stored = transaction.key(caller.actor, None)
    if stored is None:
        raise not_found(ErrorReason.KEY_NOT_FOUND)
    return Principal(stored.key, caller.peer, lineage=stored.lineage)


def not_found(reason: ErrorReason) -> KeyAuthorityError:
    """Return the NotFound error, the same for an absent record and for another tenant's."""
    resource = "key" if reason is ErrorReason.KEY_NOT_FOUND else "project"
    return error(reason, f"no such {resource}")


def require_future(expire_time: datetime, now: datetime) -> None:
    """Raise InvalidArgument unless expire_time is in the future."""
    if expire_time <= now:
        raise bad_field("expire_time", "must be in the future")


def right_for(action: str, kind: KeyKind | None) -> str:
    """Return the right needed for an action on a key of this kind."""
    return f"{'operators' if kind is KeyKind.OPERATOR else 'keys'}:{action}"
