"""Changes of what is there: UpdateKey and UpdateProject, by mask and etag."""

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
from keyauthority_server.services.context import ServiceContext, gone
from keyauthority_server.services.delegation import ceiling_of, widens
from keyauthority_server.services.principal import Principal
from keyauthority_server.store.interface import Transaction
from keyauthority_server.store.types import Mutation

R = TypeVar("R", Key, Project)

_FINAL: Final = frozenset({KeyState.SUPERSEDED, KeyState.REVOKED})


class Updates:
    """Changes records in place."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    async def key(self, caller: Principal, update: KeyUpdate) -> WrittenKey:
        """Change the named fields of a key.

        NotFound, Aborted for another etag, FailedPrecondition for a key that is superseded or
        revoked, InvalidArgument for what its kind cannot have, PermissionDenied for an operator
        key that is widened or prolonged and would go beyond the caller's own.
        """
        right = await self._context.authorize_key_action(caller, "update", update.access_key)

        def work(transaction: Transaction, present: Principal, now: datetime) -> WrittenKey:
            stored = transaction.key(update.access_key, present.scope)
            if stored is None:
                raise gone(ErrorReason.KEY_NOT_FOUND)
            old = stored.key
            new = _updated(old, update)
            _check_kind(new)
            if new.kind is KeyKind.OPERATOR and "permissions" in update.paths:
                for place, why in not_rights(new.permissions):
                    raise bad_field(f"permissions[{place}]", why)
            if new.kind is KeyKind.OPERATOR and widens(old, new):
                present.require_within_own(ceiling_of(new))
            _check_etag(old, update.etag)
            refuse_state(old, now, _FINAL)
            revision = transaction.head
            if new != old:
                mutation = Mutation(
                    type=ChangeType.KEY_UPDATED,
                    time=now,
                    actor=present.actor,
                    peer=present.peer,
                    keys=(stored._replace(key=new),),
                )
                applied = transaction.apply(mutation)
                new, revision = applied.keys[0], applied.revision
            return WrittenKey(
                key=with_state(new, now), revision=revision, log_id=self._context.log_id
            )

        return await self._context.change(caller, right, work)

    async def project(self, caller: Principal, update: ProjectUpdate) -> WrittenProject:
        """Change the named fields of a project. NotFound, and Aborted for another etag."""

        def work(transaction: Transaction, present: Principal, now: datetime) -> WrittenProject:
            old = transaction.project(update.project_id, present.scope)
            if old is None:
                raise gone(ErrorReason.PROJECT_NOT_FOUND)
            new, revision = _updated(old, update), transaction.head
            _check_etag(old, update.etag)
            if new != old:
                mutation = Mutation(
                    type=ChangeType.PROJECT_UPDATED,
                    time=now,
                    actor=present.actor,
                    peer=present.peer,
                    project=new,
                )
                applied = transaction.apply(mutation)
                new, revision = applied.project or new, applied.revision
            return WrittenProject(project=new, revision=revision, log_id=self._context.log_id)

        return await self._context.change(caller, "projects:update", work)


def refuse_state(key: Key, now: datetime, refused: frozenset[KeyState]) -> None:
    """Raise FailedPrecondition, naming the state, if the key is in one of these."""
    state = state_of(key, now)
    if state in refused:
        raise in_state(state)


def in_state(state: KeyState) -> KeyAuthorityError:
    """Return the answer to what the state of a key does not allow."""
    return error(
        ErrorReason.KEY_STATE,
        f"the key is {state.value}",
        metadata={"state": f"KEY_STATE_{state.name}"},
    )


def _updated(record: R, update: KeyUpdate | ProjectUpdate) -> R:
    named: dict[str, Any] = {path: getattr(update, path) for path in update.paths}
    if "restrictions" in named:
        named["restrictions"] = canonical(named["restrictions"])
    return replace(record, **named)


def _check_etag(record: Key | Project, etag: str) -> None:
    if etag and etag != record.etag:
        raise error(ErrorReason.ETAG_MISMATCH, "the record has changed since this etag was read")


def _check_kind(key: Key) -> None:
    if key.kind is KeyKind.SECRET and key.permissions:
        raise bad_field("permissions", "a SECRET key holds all and lists none")
    if key.kind in (KeyKind.RESTRICTED, KeyKind.OPERATOR) and not key.permissions:
        raise bad_field("permissions", "a key of this kind lists at least one")
    if key.kind is KeyKind.OPERATOR:
        only_ips = Restrictions(allowed_ips=key.restrictions.allowed_ips)
        if key.restrictions != only_ips:
            raise bad_field("restrictions", "an operator key has allowed_ips only")
        for field in ("rate_limit", "quota"):
            if getattr(key, field) is not None:
                raise bad_field(field, "an operator key has none")
