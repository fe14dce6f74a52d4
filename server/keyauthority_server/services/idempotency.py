"""Idempotency by request_id: a repeated call returns the first response and changes nothing.

The store keeps a hash of the id, a hash of the content, the revision of the change and, for a day,
the token that the call returned. The token is sealed by AES-GCM under HKDF(pepper, request_id):
database and pepper together do not open it without the request_id. The records of a replayed
response are read from the log of changes at that revision.
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keyauthority.errors import ErrorReason, error
from keyauthority.model import Change, Key, KeyKind
from keyauthority.results import CreatedKey, RotatedKey
from keyauthority.token import SecretKey, parse
from keyauthority_server.keyring import Keyring
from keyauthority_server.services.context import not_found
from keyauthority_server.services.delegation import ceiling_of
from keyauthority_server.services.key_creation import pepper_version
from keyauthority_server.services.principal import Principal
from keyauthority_server.store.interface import StoreDamaged, Transaction
from keyauthority_server.store.types import IdempotencyRecord

RETENTION: Final = timedelta(hours=24)

_NONCE_BYTES: Final = 12  # nonce length of AES-GCM (NIST SP 800-38D, section 5.2.1.1)
_KEY_BYTES: Final = 32


class Request(NamedTuple):
    """A request_id and the content sent with it."""

    request_id: str
    content: bytes
    """Fingerprint of the request without its id: equal requests have equal bytes."""


class Replay(NamedTuple):
    """The change made by the first of equal requests, and the token that it returned."""

    change: Change
    secret_key: SecretKey | None


class Lookup(NamedTuple):
    """The record of a request in one transaction."""

    replay: Replay | None
    """The answer to an equal request; None if the id is new or the content differs."""
    is_used: bool = False
    """The id was used before: unless `replay` answers the request, with other content."""
    name: bytes = b""
    """Under which the request is recorded; empty without a request_id."""


class Idempotency:
    """Records requests and finds their replays."""

    def __init__(self, peppers: Keyring) -> None:
        self._peppers = peppers

    def find(
        self, transaction: Transaction, caller: Principal, request: Request, now: datetime
    ) -> Lookup:
        """Look up a request.

        Raises PermissionDenied or NotFound if the caller could not create that key with its
        present rights, FailedPrecondition if the key was revoked, and StoreDamaged if the record
        was altered.
        """
        if not request.request_id:
            return Lookup(None)
        name = _name(caller, request)
        record = transaction.find_request(name, now)
        if record is None:
            return Lookup(None, name=name)
        if record.content != _content(request):
            return Lookup(None, is_used=True, name=name)
        change = transaction.change(record.revision)
        if not change.keys:
            return Lookup(Replay(change, None), is_used=True, name=name)
        _require_visible(caller, change.keys[-1])
        if record.sealed is None:
            raise error(
                ErrorReason.REPLAY_REVOKED,
                "the key created by this request was revoked; use a new request_id",
            )
        secret_key = self._open(record, request)
        token = parse(secret_key)
        if token is None or token.access_key != change.keys[-1].access_key:
            raise _altered(record)
        return Lookup(Replay(change, secret_key), is_used=True, name=name)

    def reject_reused_id(self, lookup: Lookup) -> None:
        """Raise AlreadyExists if the id was used with other content.

        In the order of errors it follows every other check except that of the key's state.
        """
        if lookup.is_used:
            raise error(
                ErrorReason.REQUEST_ID_REUSED,
                "this request_id was used with other content; use a new request_id",
            )

    def record(
        self,
        transaction: Transaction,
        lookup: Lookup,
        request: Request,
        created: CreatedKey | RotatedKey | None,
        now: datetime,
    ) -> None:
        """Record the newest change of this transaction, and the key that it created."""
        if not lookup.name:
            return
        version = pepper_version(transaction, self._peppers)
        transaction.save_request(
            IdempotencyRecord(
                name=lookup.name,
                content=_content(request),
                revision=transaction.head,
                access_key=created.key.access_key if created else "",
                sealed=self._seal(request, created.secret_key, version) if created else None,
                pepper_version=version,
                end=now + RETENTION,
            ),
            now,
        )

    def _seal(self, request: Request, secret_key: SecretKey, pepper_version: int) -> bytes:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        cipher = self._cipher(request, pepper_version)
        return nonce + cipher.encrypt(nonce, secret_key.encode(), _content(request))

    def _open(self, record: IdempotencyRecord, request: Request) -> SecretKey:
        sealed = record.sealed or b""
        nonce, ciphertext = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        cipher = self._cipher(request, record.pepper_version)
        try:
            return SecretKey(cipher.decrypt(nonce, ciphertext, _content(request)).decode("ascii"))
        except (InvalidTag, ValueError) as error:  # ValueError: the nonce is too short
            raise _altered(record) from error

    def _cipher(self, request: Request, pepper_version: int) -> AESGCM:
        pepper = self._peppers.derive("replay", pepper_version)
        kdf = HKDF(SHA256(), _KEY_BYTES, salt=pepper, info=b"keyauthority replay")
        return AESGCM(kdf.derive(request.request_id.lower().encode()))


def _altered(record: IdempotencyRecord) -> StoreDamaged:
    return StoreDamaged(
        f"the stored response of the request that made change {record.revision} was altered"
    )


def _require_visible(caller: Principal, key: Key) -> None:
    """Raise unless the key lies within the caller's present rights, which may have shrunk.

    The response has the key's secret: a caller that lost the right to the key must not get it.
    """
    if key.kind is KeyKind.OPERATOR:
        caller.require_within_ceiling(ceiling_of(key))
    elif caller.scope is not None and key.project_id not in caller.scope:
        raise not_found(ErrorReason.PROJECT_NOT_FOUND)


def _name(caller: Principal, request: Request) -> bytes:
    """Return the lookup hash of a request: over its id and the lineage of the caller's key."""
    lineage = caller.lineage or caller.actor
    return hashlib.sha256(f"{lineage}\0{request.request_id.lower()}".encode()).digest()


def _content(request: Request) -> bytes:
    return hashlib.sha256(request.content).digest()
