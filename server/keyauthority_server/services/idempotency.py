"""request_id: the same call again gives the same answer again, secret included, and makes nothing.

What is kept of a request is a hash of its id, a hash of its content, the revision of its change
and, for a day, the token that it gave. That is sealed by AES-GCM under HKDF(pepper, request_id), so
that database and pepper together do not open it without the request_id. The records of the answer
are those that the log of changes has at that revision.
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keyauthority.errors import ErrorReason, error
from keyauthority.model import Change, Key, KeyKind
from keyauthority.token import SecretKey, parse
from keyauthority_server.keyring import Keyring
from keyauthority_server.services.context import gone
from keyauthority_server.services.delegation import ceiling_of
from keyauthority_server.services.key_creation import version_in
from keyauthority_server.services.principal import Principal
from keyauthority_server.store.interface import Transaction
from keyauthority_server.store.types import IdempotencyRecord

REMEMBERED_FOR: Final = timedelta(hours=24)

_NONCE_BYTES: Final = 12  # what AES-GCM takes (NIST SP 800-38D, section 5.2.1.1)
_KEY_BYTES: Final = 32


class Request(NamedTuple):
    """A request_id, and the content that it was sent with."""

    request_id: str
    content: bytes
    """The whole request but for its id, in bytes that are the same for the same request."""


class Replayed(NamedTuple):
    """The change that the first of equal requests has made, and the token that it gave."""

    change: Change
    secret_key: SecretKey | None


class Replay:
    """Remembers requests, and finds them again."""

    def __init__(self, peppers: Keyring) -> None:
        self._peppers = peppers

    def find(
        self, transaction: Transaction, caller: Principal, request: Request, now: datetime
    ) -> Replayed | None:
        """Return what the same request has made before; None if it is another, or new.

        Raises PermissionDenied or NotFound if the caller, as restricted now, could not make that
        key, and FailedPrecondition if the key was revoked.
        """
        remembered = _remembered(transaction, caller, request, now)
        if remembered is None or remembered.content != _content(request):
            return None
        change = transaction.change(remembered.revision)
        if not change.keys:
            return Replayed(change, None)
        _require_own(caller, change.keys[-1])
        if remembered.sealed is None:
            raise error(
                ErrorReason.REPLAY_REVOKED, "the key that this request made has been revoked"
            )
        return Replayed(change, self._open(remembered, request))

    def refuse_other(
        self, transaction: Transaction, caller: Principal, request: Request, now: datetime
    ) -> None:
        """Raise AlreadyExists if the id was used before: by a request that `find` did not find.

        It comes after what else is wrong with the request, but for the state of its key.
        """
        if _remembered(transaction, caller, request, now) is not None:
            raise error(
                ErrorReason.REQUEST_ID_REUSED, "this request_id was used with other content"
            )

    def remember(
        self,
        transaction: Transaction,
        caller: Principal,
        request: Request,
        secret_key: SecretKey | None,
        now: datetime,
    ) -> None:
        """Keep what the newest change of this transaction has answered to the request."""
        if not request.request_id:
            return
        token = None if secret_key is None else parse(secret_key)
        version = version_in(transaction, self._peppers)
        transaction.remember(
            IdempotencyRecord(
                name=_name(transaction, caller, request),
                content=_content(request),
                revision=transaction.head,
                access_key=token.access_key if token else "",
                sealed=None if secret_key is None else self._seal(request, secret_key, version),
                pepper_version=version,
                end=now + REMEMBERED_FOR,
            ),
            now,
        )

    def _seal(self, request: Request, secret_key: SecretKey, pepper_version: int) -> bytes:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        cipher = self._cipher(request, pepper_version)
        return nonce + cipher.encrypt(nonce, secret_key.encode(), _content(request))

    def _open(self, remembered: IdempotencyRecord, request: Request) -> SecretKey:
        sealed = remembered.sealed or b""
        nonce, box = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        cipher = self._cipher(request, remembered.pepper_version)
        return SecretKey(cipher.decrypt(nonce, box, _content(request)).decode("ascii"))

    def _cipher(self, request: Request, pepper_version: int) -> AESGCM:
        pepper = self._peppers.derive("replay", pepper_version)
        kdf = HKDF(SHA256(), _KEY_BYTES, salt=pepper, info=b"keyauthority replay")
        return AESGCM(kdf.derive(request.request_id.lower().encode()))


def _require_own(caller: Principal, made: Key) -> None:
    """Raise unless the key lies within what the caller may reach now, which may be less than then.

    The answer has the key's secret: it is not given to a caller who lost the right to the key.
    """
    if made.kind is KeyKind.OPERATOR:
        caller.require_within_own(ceiling_of(made))
    elif caller.scope is not None and made.project_id not in caller.scope:
        raise gone(ErrorReason.PROJECT_NOT_FOUND)


def _remembered(
    transaction: Transaction, caller: Principal, request: Request, now: datetime
) -> IdempotencyRecord | None:
    if not request.request_id:
        return None
    return transaction.remembered(_name(transaction, caller, request), now)


def _name(transaction: Transaction, caller: Principal, request: Request) -> bytes:
    """The hash that a request is found by: of its id, and of the lineage of whoever sent it."""
    stored = transaction.key(caller.actor, None)
    lineage = stored.lineage if stored else caller.actor
    return hashlib.sha256(f"{lineage}\0{request.request_id.lower()}".encode()).digest()


def _content(request: Request) -> bytes:
    return hashlib.sha256(request.content).digest()
