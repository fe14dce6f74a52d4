"""Key service: create, get, look up, list and revoke."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from keyauthority.decision import with_state
from keyauthority.errors import ErrorReason, bad_field
from keyauthority.model import ChangeType, Key, KeyKind, KeyMode, KeyState
from keyauthority.requests import KeyFilter, NewKey, Revocation
from keyauthority.results import CreatedKey, KeyLookup, Page, RevokedKey
from keyauthority.token import AccessKey, SecretKey, new_access_key
from keyauthority_server.services.context import (
    ServiceContext,
    not_found,
    require_future,
    right_for,
)
from keyauthority_server.services.delegation import Ceiling
from keyauthority_server.services.idempotency import Idempotency, Request
from keyauthority_server.services.key_creation import issue, new_key
from keyauthority_server.services.presented_tokens import PresentedToken
from keyauthority_server.services.principal import Principal, invalid_credential
from keyauthority_server.store.interface import Transaction
from keyauthority_server.store.sql.queries.lists import list_keys
from keyauthority_server.store.types import Actor, Author, Mutation, Reads, Scope, StoredKey

BEARER: Final = "secret"
"""The actor of a caller identified only by the secret of the key."""


class Keys:
    """Creates, reads and revokes keys."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context
        self._idempotency = Idempotency(context.peppers)

    async def create(self, caller: Principal, new: NewKey, content: bytes) -> CreatedKey:
        """Create a key, or return the key that the same request created before.

        `content` is the fingerprint of the request. NotFound for a project outside the caller's
        scope, PermissionDenied for an operator key that exceeds the caller's own, InvalidArgument
        unless the expiry is in the future.
        """
        request, access_key = Request(new.request_id, content), new_access_key()
        projects = tuple(new.operator_projects or (new.project_id,))

        def work(transaction: Transaction, current: Principal, now: datetime) -> CreatedKey:
            lookup = self._idempotency.find(transaction, current, request, now)
            first = lookup.replay
            if first is not None and first.secret_key is not None:
                (key,), revision = first.change.keys, first.change.revision
                return self._created(key, first.secret_key, revision, first.change.time)
            expire_time = new.expire_time if new.ttl is None else _end(new.ttl, now)
            if new.kind is KeyKind.OPERATOR:
                allowed_ips = new.restrictions.allowed_ips
                current.require_within_ceiling(
                    Ceiling(new.permissions, new.operator_projects, allowed_ips, expire_time)
                )
            if new.expire_time is not None:
                require_future(new.expire_time, now)
            for project_id in projects:
                if project_id and transaction.project(project_id, current.scope) is None:
                    raise not_found(ErrorReason.PROJECT_NOT_FOUND)
            self._idempotency.reject_reused_id(lookup)
            created = self._issue(transaction, current, new, access_key, expire_time, now)
            self._idempotency.record(transaction, lookup, request, created, now)
            return created

        reads = Reads((access_key,), projects)
        return await self._context.mutate(caller, right_for("create", new.kind), work, reads=reads)

    def _issue(
        self,
        transaction: Transaction,
        caller: Principal,
        new: NewKey,
        access_key: AccessKey,
        expire_time: datetime | None,
        now: datetime,
    ) -> CreatedKey:
        if new.kind is None:
            raise bad_field("kind", "required")
        mode = new.mode or KeyMode.LIVE  # unset for operator keys only
        issued = issue(
            *(transaction, new.kind, mode, self._context.peppers, self._context.token_prefix),
            access_key,
        )
        key = replace(
            new_key(new, caller, issued.access_key, new.kind, mode, now),
            expire_time=expire_time,
            publishable_key=issued.publishable_key,
            operator_projects=new.operator_projects,
        )
        stored = StoredKey(key, issued.digest, issued.pepper_version, key.access_key)
        applied = transaction.apply(Mutation(caller, ChangeType.KEY_CREATED, now, (stored,)))
        return self._created(applied.keys[0], issued.secret_key, applied.revision, now)

    def _created(
        self, key: Key, secret_key: SecretKey, revision: int, time: datetime
    ) -> CreatedKey:
        return CreatedKey(
            key=with_state(key, time),
            secret_key=secret_key,
            revision=revision,
            log_id=self._context.log_id,
        )

    async def get(self, caller: Principal, access_key: str) -> Key:
        """Return a key with its current state, or raise NotFound."""
        key = await self._context.store.get_key(access_key, caller.scope)
        caller.require(right_for("read", key.kind if key else None))
        if key is None:
            raise not_found(ErrorReason.KEY_NOT_FOUND)
        return with_state(key, self._context.clock.now())

    async def lookup(self, caller: Principal, secret_key: str) -> KeyLookup:
        """Return the key that a token proves, with its current state and project, or NotFound.

        An operator key is found only by a caller that may read operator keys.
        """
        presented = await self._context.present(secret_key)
        found = await self._verified(presented, caller.scope) if presented else None
        if found is None or not caller.may(right_for("read", found.key.kind)):
            raise not_found(ErrorReason.KEY_NOT_FOUND)
        return replace(found, key=with_state(found.key, self._context.clock.now()))

    async def list(
        self,
        caller: Principal,
        project_id: str,
        key_filter: KeyFilter,
        query: bytes,
        page_size: int,
        page_token: str,
    ) -> Page[Key]:
        """Return a page of the keys in the caller's scope."""
        operators = key_filter.kind is KeyKind.OPERATOR and not project_id
        caller.require(right_for("read", KeyKind.OPERATOR if operators else None))
        store, pages, now = self._context.store, self._context.pages, self._context.clock.now()
        cursor = pages.decode(caller.actor, query, page_token)
        if project_id and await store.get_project(project_id, caller.scope) is None:
            raise not_found(ErrorReason.PROJECT_NOT_FOUND)
        keys, next_cursor = await store.query(
            list_keys, project_id or None, caller.scope, key_filter, now, cursor, page_size
        )
        return Page(
            tuple(with_state(key, now) for key in keys),
            pages.encode(caller.actor, query, next_cursor),
        )

    async def revoke(
        self, caller: Principal, access_key: str, revocation: Revocation
    ) -> RevokedKey:
        """Revoke a key permanently; a key revoked before is returned unchanged."""

        def work(
            transaction: Transaction, stored: StoredKey | None, current: Principal, now: datetime
        ) -> RevokedKey:
            if stored is None:
                raise not_found(ErrorReason.KEY_NOT_FOUND)
            return self._revoke(transaction, stored, revocation, now, current)

        return await self._context.mutate_key(caller, "revoke", access_key, work, urgent=True)

    async def revoke_by_secret(
        self, access_key: str, revocation: Revocation, peer: str
    ) -> RevokedKey:
        """Revoke a key whose secret `access_key_of` has verified; the result has no record."""

        def work(transaction: Transaction) -> RevokedKey:
            stored = transaction.key(access_key, None)
            if stored is None:
                raise invalid_credential()
            now = self._context.commit_time(transaction)
            revoked = self._revoke(transaction, stored, revocation, now, Actor(BEARER, peer))
            return replace(revoked, key=None)

        reads = Reads(keys=(access_key,))
        return await self._context.store.write(work, urgent=True, reads=reads)

    async def access_key_of(self, access_key: str, secret_key: str) -> str:
        """Return the access key of a secret, which must match `access_key` unless that is empty.

        Raises Unauthenticated otherwise, and for a publishable key, which is public.
        """
        presented = await self._context.present(secret_key)
        if presented is None or presented.token.kind is KeyKind.PUBLISHABLE:
            raise invalid_credential()
        found = await self._verified(presented)
        if found is None or access_key not in ("", found.key.access_key):
            raise invalid_credential()
        return found.key.access_key

    async def _verified(self, presented: PresentedToken, scope: Scope = None) -> KeyLookup | None:
        """Return the key of a token with its project; None unless the key is in the scope."""
        if self._context.fails_outline_check(presented, scope):
            return None
        snapshot = await self._context.store.read(presented.token.access_key, None)
        stored = snapshot.stored
        if not self._context.digest_matches(stored, presented) or stored is None:
            return None
        if scope is not None and stored.key.project_id not in scope:
            return None
        return KeyLookup(key=stored.key, project=snapshot.project)

    def _revoke(
        self,
        transaction: Transaction,
        stored: StoredKey,
        revocation: Revocation,
        now: datetime,
        by: Author,
    ) -> RevokedKey:
        key, revision = stored.key, transaction.head
        if key.revoke_time is None:
            revoked = replace(
                key, revoke_time=now, revoke_reason=revocation.reason, revoke_note=revocation.note
            )
            stored = stored._replace(key=revoked)
            applied = transaction.apply(Mutation(by, ChangeType.KEY_REVOKED, now, (stored,)))
            key, revision = applied.keys[0], applied.revision
            transaction.delete_sealed_tokens(key.access_key)
        return RevokedKey(
            access_key=key.access_key,
            project_id=key.project_id,
            state=KeyState.REVOKED,
            revoke_time=key.revoke_time,
            key_revision=key.revision,
            key=with_state(key, now),
            revision=revision,
            log_id=self._context.log_id,
        )


def _end(ttl: timedelta, now: datetime) -> datetime:
    try:
        return now + ttl
    except OverflowError:
        raise bad_field("ttl", "too long: the key would expire after the year 9999") from None
