"""New tokens: a unique access key, a secret, and the digest to store."""

from __future__ import annotations

from typing import NamedTuple

from keyauthority.model import KeyKind, KeyMode
from keyauthority.token import AccessKey, SecretKey, make, new_access_key, new_secret
from keyauthority_server.keyring import Keyring, newest_version
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


def unused_access_key(transaction: Transaction, access_key: AccessKey) -> AccessKey:
    """Return this new access key, or another one that no key has."""
    while transaction.key(access_key, None) is not None:
        access_key = new_access_key()
    return access_key


def pepper_version(transaction: Transaction, peppers: Keyring) -> int:
    """Return the pepper version for new digests: the newest as of the transaction."""
    return newest_version(peppers.name, transaction.key_checks())
