"""RotateKey: creates a successor with the same settings, and ends the old key."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from keyauthority.decision import with_state
from keyauthority.errors import ErrorReason, bad_field, error
from keyauthority.model import ChangeType, Key, KeyKind, KeyState
from keyauthority.requests import OVERLAP_DEFAULT, Rotation
from keyauthority.results import RotatedKey
from keyauthority.token import AccessKey, SecretKey, new_access_key
from keyauthority_server.services.context import ServiceContext, not_found, require_future
from keyauthority_server.services.delegation import ceiling_of
from keyauthority_server.services.idempotency import Idempotency, Lookup, Request
from keyauthority_server.services.key_creation import Issued, issue
from keyauthority_server.services.key_updates import require_state_not_in, state_error
from keyauthority_server.services.principal import Principal
from keyauthority_server.store.interface import Transaction
from keyauthority_server.store.types import Mutation, Reads, StoredKey

_NOT_ROTATED: Final = frozenset({KeyState.DISABLED, KeyState.SUPERSEDED, KeyState.REVOKED})


class KeyRotation:
    """Rotates keys."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context
        self._idempotency = Idempotency(context.peppers)

    async def rotate(self, caller: Principal, rotation: Rotation, content: bytes) -> RotatedKey:
        """Create a successor of a key.

        NotFound; FailedPrecondition for a key that is disabled, superseded, revoked or has a
        successor; PermissionDenied for an operator key that exceeds the caller's own;
        InvalidArgument unless the expiry is in the future.
        """
        request, access_key = Request(rotation.request_id, content), new_access_key()

        def work(
            transaction: Transaction, stored: StoredKey | None, current: Principal, now: datetime
        ) -> RotatedKey:
            lookup = _UNKNOWN
            if stored is not None:
                lookup = self._idempotency.find(transaction, current, request, now)
            first = lookup.replay
            if first is not None and first.secret_key is not None:
                previous, successor = first.change.keys
                time, revision = first.change.time, first.change.revision
                return self._rotated(previous, successor, first.secret_key, time, revision)
            if stored is not None and stored.key.kind is KeyKind.OPERATOR:
                end = _end_of_successor(stored.key, rotation, now)
                current.require_within_ceiling(ceiling_of(stored.key)._replace(expire_time=end))
            if rotation.expire_time is not None:
                require_future(rotation.expire_time, now)
            if stored is None:
                raise not_found(ErrorReason.KEY_NOT_FOUND)
            ends = _ends(stored.key, rotation, now)
            self._idempotency.reject_reused_id(lookup)
            _require_rotatable(stored.key, now)
            rotated = self._rotate(transaction, current, stored, access_key, ends, now)
            self._idempotency.record(transaction, lookup, request, rotated, now)
            return rotated

        reads = Reads(keys=(access_key,))
        return await self._context.mutate_key(
            caller, "rotate", rotation.access_key, work, reads=reads
        )

    def _rotate(
        self,
        transaction: Transaction,
        caller: Principal,
        stored: StoredKey,
        access_key: AccessKey,
        ends: _Ends,
        now: datetime,
    ) -> RotatedKey:
        old = stored.key
        issued = issue(
            *(transaction, old.kind, old.mode, self._context.peppers, self._context.token_prefix),
            access_key,
        )
        successor = _successor(old, issued, ends.successor, caller, now)
        previous = replace(old, supersede_time=ends.overlap, successor_access_key=issued.access_key)
        applied = transaction.apply(
            Mutation(
                *(caller, ChangeType.KEY_ROTATED, now),
                (
                    stored._replace(key=previous),
                    StoredKey(successor, issued.digest, issued.pepper_version, stored.lineage),
                ),
            )
        )
        previous, successor = applied.keys
        return self._rotated(previous, successor, issued.secret_key, now, applied.revision)

    def _rotated(
        self, previous: Key, successor: Key, secret_key: SecretKey, time: datetime, revision: int
    ) -> RotatedKey:
        # last_used_time moves on during the overlap; with it, a replay would not be identical.
        previous = replace(previous, last_used_time=None)
        return RotatedKey(
            key=with_state(successor, time),
            secret_key=secret_key,
            previous=with_state(previous, time),
            revision=revision,
            log_id=self._context.log_id,
        )


_UNKNOWN: Final = Lookup(None)


class _Ends(NamedTuple):
    """The end of a rotated key's overlap, and the expiry of its successor."""

    overlap: datetime
    successor: datetime | None


def _ends(old: Key, rotation: Rotation, now: datetime) -> _Ends:
    return _Ends(_end_of_overlap(old, rotation, now), _end_of_successor(old, rotation, now))


def _require_rotatable(old: Key, now: datetime) -> None:
    require_state_not_in(old, now, _NOT_ROTATED)
    if old.disabled:  # a key both disabled and expired has state EXPIRED
        raise state_error(KeyState.DISABLED)
    if old.successor_access_key:
        raise error(
            ErrorReason.KEY_STATE,
            "the key was rotated already; rotate its successor instead",
            metadata={"successor_access_key": old.successor_access_key},
        )


def _successor(
    old: Key, issued: Issued, expire_time: datetime | None, caller: Principal, now: datetime
) -> Key:
    return replace(
        old,
        access_key=issued.access_key,
        publishable_key=issued.publishable_key,
        predecessor_access_key=old.access_key,
        create_time=now,
        update_time=now,
        expire_time=expire_time,
        last_used_time=None,
        created_by=caller.actor,
        created_from=caller.peer,
        import_set="",
        foreign_id="",
    )


def _end_of_overlap(old: Key, rotation: Rotation, now: datetime) -> datetime:
    overlap = OVERLAP_DEFAULT if rotation.overlap is None else rotation.overlap
    end = now + overlap
    return end if old.expire_time is None else min(end, old.expire_time)


def _end_of_successor(old: Key, rotation: Rotation, now: datetime) -> datetime | None:
    """Return the requested expiry; by default the successor lives as long as the old key."""
    if rotation.expire_time is not None:
        return rotation.expire_time
    if old.expire_time is None:
        return None
    lifetime = old.expire_time - old.create_time
    if lifetime <= timedelta(0):
        raise bad_field("expire_time", "required: the old key expired before it was created")
    try:
        return now + lifetime
    except OverflowError:
        raise bad_field(
            "expire_time", "required: the old key's lifetime would end after the year 9999"
        ) from None
