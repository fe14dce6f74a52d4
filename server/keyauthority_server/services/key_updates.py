"""UpdateKey and UpdateProject: changes of named fields, guarded by an etag."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any, Final, TypeVar

from keyauthority.decision import state_of, with_state
from keyauthority.errors import ErrorReason, KeyAuthorityError, bad_field, error
from keyauthority.model import ChangeType, Key, KeyKind, KeyState, Project, Restrictions
from keyauthority.requests import KeyUpdate, ProjectUpdate
from keyauthority.restrictions import canonical
from keyauthority.results import WrittenKey, WrittenProject
from keyauthority_server.rights import not_rights
from keyauthority_server.services.context import ServiceContext, not_found
from keyauthority_server.services.delegation import ceiling_of, widens
from keyauthority_server.services.principal import Principal
from keyauthority_server.store.interface import Transaction
from keyauthority_server.store.sql.queries import observations
from keyauthority_server.store.types import Mutation, PermissionUse, Reads, StoredKey

R = TypeVar("R", Key, Project)

_FINAL: Final = frozenset({KeyState.SUPERSEDED, KeyState.REVOKED})


class Updates:
    """Updates keys and projects."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    async def key(self, caller: Principal, update: KeyUpdate) -> WrittenKey:
        """Change the named fields of a key.

        NotFound; Aborted if the etag differs; FailedPrecondition for a key that is superseded or
        revoked; InvalidArgument for a field that the key's kind does not allow; PermissionDenied
        for an operator key that is extended beyond the caller's own.
        """

        def work(
            transaction: Transaction, stored: StoredKey | None, current: Principal, now: datetime
        ) -> WrittenKey:
            if stored is None:
                raise not_found(ErrorReason.KEY_NOT_FOUND)
            old = stored.key
            new = _updated(old, update)
            _check_kind(new)
            if new.kind is KeyKind.OPERATOR and "permissions" in update.paths:
                for index, description in not_rights(new.permissions):
                    raise bad_field(f"permissions[{index}]", description)
            if new.kind is KeyKind.OPERATOR and widens(old, new):
                current.require_within_ceiling(ceiling_of(new))
            _check_etag(old, update.etag)
            require_state_not_in(old, now, _FINAL)
            revision = transaction.head
            if new != old:
                stored = stored._replace(key=new)
                applied = transaction.apply(
                    Mutation(current, ChangeType.KEY_UPDATED, now, (stored,))
                )
                new, revision = applied.keys[0], applied.revision
                note_grants(transaction, old, new, now)
            return WrittenKey(
                key=with_state(new, now), revision=revision, log_id=self._context.log_id
            )

        return await self._context.mutate_key(caller, "update", update.access_key, work)

    async def project(self, caller: Principal, update: ProjectUpdate) -> WrittenProject:
        """Change the named fields of a project. NotFound; Aborted if the etag differs."""

        def work(transaction: Transaction, current: Principal, now: datetime) -> WrittenProject:
            old = transaction.project(update.project_id, current.scope)
            if old is None:
                raise not_found(ErrorReason.PROJECT_NOT_FOUND)
            new, revision = _updated(old, update), transaction.head
            _check_etag(old, update.etag)
            if new != old:
                applied = transaction.apply(
                    Mutation(current, ChangeType.PROJECT_UPDATED, now, project=new)
                )
                new, revision = applied.project or new, applied.revision
            return WrittenProject(project=new, revision=revision, log_id=self._context.log_id)

        reads = Reads(projects=(update.project_id,))
        return await self._context.mutate(caller, "projects:update", work, reads=reads)


def require_state_not_in(key: Key, now: datetime, states: frozenset[KeyState]) -> None:
    """Raise FailedPrecondition, naming the state, if the key is in one of these states."""
    state = state_of(key, now)
    if state in states:
        raise state_error(state)


def state_error(state: KeyState) -> KeyAuthorityError:
    """Return the FailedPrecondition error for a key in this state."""
    return error(
        ErrorReason.KEY_STATE,
        f"the key is {state.value}",
        metadata={"state": f"KEY_STATE_{state.name}"},
    )


def note_grants(transaction: Transaction, old: Key, new: Key, now: datetime) -> None:
    """Store when permissions were granted: the creation of the key does not show it."""
    if new.permissions == old.permissions or new.kind is KeyKind.OPERATOR:
        return
    day = now.replace(hour=0, minute=0, second=0, microsecond=0)
    granted = [permission for permission in new.permissions if permission not in old.permissions]
    transaction.bookkeep(
        observations.note_grants,
        new.access_key,
        [PermissionUse(new.access_key, permission, day) for permission in dict.fromkeys(granted)],
        [permission for permission in old.permissions if permission not in new.permissions],
    )


def _updated(record: R, update: KeyUpdate | ProjectUpdate) -> R:
    named: dict[str, Any] = {path: getattr(update, path) for path in update.paths}
    if "restrictions" in named:
        named["restrictions"] = canonical(named["restrictions"])
    return replace(record, **named)


def _check_etag(record: Key | Project, etag: str) -> None:
    if etag and etag != record.etag:
        raise error(
            ErrorReason.ETAG_MISMATCH, "the record changed after this etag was read; read it again"
        )


def _check_kind(key: Key) -> None:
    if key.kind is KeyKind.SECRET and key.permissions:
        raise bad_field("permissions", "must be empty: a SECRET key holds every permission")
    if key.kind in (KeyKind.RESTRICTED, KeyKind.OPERATOR) and not key.permissions:
        raise bad_field("permissions", f"required for kind {key.kind.name}: at least one")
    if key.kind is KeyKind.OPERATOR:
        only_ips = Restrictions(allowed_ips=key.restrictions.allowed_ips)
        if key.restrictions != only_ips:
            raise bad_field("restrictions", "only allowed_ips is allowed for kind OPERATOR")
        for field in ("rate_limit", "quota"):
            if getattr(key, field) is not None:
                raise bad_field(field, "not allowed for kind OPERATOR")
