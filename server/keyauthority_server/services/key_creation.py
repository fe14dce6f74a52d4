"""New tokens: an access key that nobody has, its secret, and what is kept of it."""

from __future__ import annotations

from typing import NamedTuple

from keyauthority.model import KeyKind, KeyMode
from keyauthority.token import AccessKey, SecretKey, make, new_access_key, new_secret
from keyauthority_server.keyring import Keyring, newest_version
from keyauthority_server.store.interface import Transaction


class Issued(NamedTuple):
    """A token that no record has yet."""

    access_key: AccessKey
    secret_key: SecretKey
    digest: bytes
    pepper_version: int
    publishable_key: str
    """The whole token if it is public, else empty."""


def issue(transaction: Transaction, kind: KeyKind, mode: KeyMode, peppers: Keyring) -> Issued:
    """Return a fresh token of this kind and mode.

    Raises UnknownVersion if the newest version of the pepper is not known in this process yet.
    """
    access_key = new_access_key()
    while transaction.key(access_key, None) is not None:
        access_key = new_access_key()
    public = kind is KeyKind.PUBLISHABLE
    secret_key = make(kind, mode, access_key, None if public else new_secret())
    version = version_in(transaction, peppers)
    return Issued(
        access_key,
        secret_key,
        peppers.digest(secret_key.encode(), version),
        version,
        secret_key.reveal() if public else "",
    )


def version_in(transaction: Transaction, peppers: Keyring) -> int:
    """Return the version of the pepper that a transaction has to write with: the newest."""
    return newest_version(peppers.name, transaction.key_checks())
