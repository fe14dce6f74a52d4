"""New keys: a unique access key, a secret, the digest to store, and the record."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from keyauthority.model import Key, KeyKind, KeyMode
from keyauthority.requests import ImportedKey, NewKey
from keyauthority.restrictions import canonical
from keyauthority.token import AccessKey, SecretKey, make, new_access_key, new_secret
from keyauthority_server.keyring import Keyring, newest_version
from keyauthority_server.services.principal import Principal
from keyauthority_server.store.interface import Transaction


class Issued(NamedTuple):
    """A new token, not stored yet."""

    access_key: AccessKey
    secret_key: SecretKey
    digest: bytes
    pepper_version: int
    publishable_key: str
    """The whole token of a PUBLISHABLE key, else empty."""


def issue(
    transaction: Transaction,
    kind: KeyKind,
    mode: KeyMode,
    peppers: Keyring,
    prefix: str,
    access_key: AccessKey,
) -> Issued:
    """Return a new token of this kind and mode, with the prefix of the deployment.

    It has the new `access_key`, unless another key has it. Raises UnknownVersion if this process
    has not loaded the newest pepper version yet.
    """
    access_key = unused_access_key(transaction, access_key)
    public = kind is KeyKind.PUBLISHABLE
    secret_key = make(kind, mode, access_key, None if public else new_secret(), prefix)
    version = pepper_version(transaction, peppers)
    return Issued(
        access_key,
        secret_key,
        peppers.digest(secret_key.encode(), version),
        version,
        secret_key.reveal() if public else "",
    )


def new_key(
    new: NewKey | ImportedKey,
    creator: Principal,
    access_key: AccessKey,
    kind: KeyKind,
    mode: KeyMode,
    now: datetime,
) -> Key:
    """Return the record of a new key, with the expiry that the request names."""
    return Key(
        access_key=access_key,
        project_id=new.project_id,
        mode=mode,
        kind=kind,
        purpose=new.purpose,
        permissions=new.permissions,
        restrictions=canonical(new.restrictions),
        rate_limit=new.rate_limit,
        quota=new.quota,
        labels=new.labels,
        create_time=now,
        update_time=now,
        expire_time=new.expire_time,
        created_by=creator.actor,
        created_from=creator.peer,
        revision=0,
    )


def unused_access_key(transaction: Transaction, access_key: AccessKey) -> AccessKey:
    """Return this new access key, or another one that no key has."""
    while transaction.key(access_key, None) is not None:
        access_key = new_access_key()
    return access_key


def pepper_version(transaction: Transaction, peppers: Keyring) -> int:
    """Return the pepper version for new digests: the newest as of the transaction."""
    return newest_version(peppers.name, transaction.key_checks())
