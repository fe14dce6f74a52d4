"""The authenticated caller and its rights.

An operator key is checked by the same decision rules as every other key.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from keyauthority.decision import decide, permits
from keyauthority.errors import ErrorReason, KeyAuthorityError, error
from keyauthority.model import NO_FACTS, Facts, Key, KeyKind, VerdictCode
from keyauthority.results import CallerIdentity
from keyauthority.token import Token
from keyauthority_server.keyring import Keyring, UnknownVersion
from keyauthority_server.services.delegation import Ceiling, ceiling_of
from keyauthority_server.services.token_digests import token_digest
from keyauthority_server.store.types import Scope, StoredKey

_NO_DIGEST: Final = bytes(32)  # an HMAC is all zeros with a probability of 2**-256
_UNCONFINED_ONLY: Final = frozenset({"projects:create", "keys:import"})
"""Rights that a caller confined to projects does not have."""
_ENDED: Final = frozenset(
    {VerdictCode.REVOKED, VerdictCode.SUPERSEDED, VerdictCode.EXPIRED, VerdictCode.DISABLED}
)


class Credential(NamedTuple):
    """A well-formed operator token sent with a call, and the address of the peer."""

    token: Token
    text: str
    address: str

    def __repr__(self) -> str:
        return f"Credential({self.token.access_key}, {self.address!r})"


class CertificateIdentity(NamedTuple):
    """An operator configured by the name in its client certificate.

    `key` describes its rights as an operator key would: the access key is the certificate's name,
    the expiry that of the certificate. It exists in this process only, not in the store.
    """

    key: Key
    address: str


@dataclass(frozen=True, slots=True)
class Principal:
    """The authenticated operator of one call."""

    key: Key
    peer: str
    certified: bool = False
    """True if the key stands for a certificate and is not in the store: `CertificateIdentity`."""
    lineage: str = ""
    """That of the stored key; see `StoredKey`."""

    @property
    def actor(self) -> str:
        """The name under which changes of this caller are recorded."""
        return self.key.access_key

    @property
    def scope(self) -> Scope:
        """The projects to which the caller is confined; None means all."""
        return frozenset(self.key.operator_projects) or None

    @property
    def identity(self) -> CallerIdentity:
        """The caller as it may see itself."""
        key, name = self.key, self.key.access_key
        return CallerIdentity(
            access_key="" if self.certified else name,
            certificate_name=name if self.certified else "",
            permissions=key.permissions,
            operator_projects=key.operator_projects,
            allowed_ips=key.restrictions.allowed_ips,
            expire_time=key.expire_time,
        )

    def may(self, right: str) -> bool:
        """True if the key holds the right and its confinement to projects does not rule it out."""
        if right in _UNCONFINED_ONLY and self.scope is not None:
            return False
        return permits(self.key, right)

    def require(self, right: str) -> None:
        """Raise PermissionDenied unless the caller has the right."""
        if not self.may(right):
            raise permission_denied(
                right, confined=right in _UNCONFINED_ONLY and self.scope is not None
            )

    def require_within_ceiling(self, requested: Ceiling) -> None:
        """Raise PermissionDenied if an operator key would exceed the caller's own ceiling."""
        violation = requested.violation(ceiling_of(self.key))
        if violation:
            raise error(ErrorReason.BEYOND_OWN_RIGHTS, violation)


def operator_of(credential: Credential | CertificateIdentity) -> str | None:
    """Return the access key of the operator key to read; None for a certificate."""
    return None if isinstance(credential, CertificateIdentity) else credential.token.access_key


def scope_of(credential: Credential | CertificateIdentity, stored: StoredKey | None) -> Scope:
    """Return the scope of an operator whose key is `stored`; None means all or no operator."""
    key = (
        credential.key
        if isinstance(credential, CertificateIdentity)
        else stored.key
        if stored
        else None
    )
    return (frozenset(key.operator_projects) if key else None) or None


def digest_matches(
    stored: StoredKey | None, token: Token, message: bytes, peppers: Keyring
) -> bool:
    """True if the token is that of the key; an absent key costs the same work.

    `message` is the bytes that the digest of the key is made from: see `presented_tokens`.

    Raises UnknownVersion if this process lacks the pepper version of the digest.
    """
    access_key = token.access_key
    try:
        digest = token_digest(
            peppers, message, access_key, stored.pepper_version if stored else None
        )
    except UnknownVersion as missing:
        _require_dropped_pepper(stored, peppers, missing)
        digest = token_digest(peppers, message, access_key)
    return hmac.compare_digest(digest, stored.digest if stored else _NO_DIGEST) and (
        stored is not None and stored.key.kind is token.kind and stored.key.mode is token.mode
    )


def _require_dropped_pepper(
    stored: StoredKey | None, peppers: Keyring, missing: UnknownVersion
) -> None:
    """Raise unless the pepper was dropped and the key is revoked or superseded.

    No token can match such a key any longer, so a comparison that fails is the true answer.
    """
    if (
        stored is None
        or not peppers.dropped(stored.pepper_version)
        or (stored.key.revoke_time is None and stored.key.supersede_time is None)
    ):
        raise missing


def authenticate(
    stored: StoredKey | None,
    credential: Credential | CertificateIdentity,
    rights: Sequence[str],
    now: datetime,
    peppers: Keyring,
    *,
    verified: bool = False,
) -> Principal:
    """Return the caller if the credential matches the key and the key holds one of the rights.

    Without rights the credential suffices.
    `stored` is the key that `operator_of` names; `verified` means that its digest was compared
    before. Unauthenticated gives no reason why a key does not work. PermissionDenied names the
    missing right.
    """
    if isinstance(credential, CertificateIdentity):
        return _authorize(
            Principal(credential.key, credential.address, certified=True), rights, now
        )
    if not verified and not digest_matches(
        stored, credential.token, credential.text.encode(), peppers
    ):
        raise invalid_credential()
    if stored is None or stored.key.kind is not KeyKind.OPERATOR:
        raise invalid_credential()
    return _authorize(
        Principal(stored.key, credential.address, lineage=stored.lineage), rights, now
    )


def _authorize(caller: Principal, rights: Sequence[str], now: datetime) -> Principal:
    check_active(caller.key, caller.peer, now)
    if rights and not any(map(caller.may, rights)):
        caller.require(rights[0])
    return caller


def check_active(key: Key, address: str, now: datetime) -> None:
    """Raise Unauthenticated for an inactive operator key, PermissionDenied for the address."""
    code = decide(key, None, _facts(address), now)
    if code in _ENDED:
        raise invalid_credential()
    if code is not VerdictCode.VALID:
        raise error(
            ErrorReason.ADDRESS_NOT_ALLOWED, "the operator key is not allowed from this address"
        )


def _facts(address: str) -> Facts:
    if address == "unix":
        return NO_FACTS
    return Facts(client_ip=address.partition("%")[0])  # the zone names an interface of this machine


def invalid_credential() -> KeyAuthorityError:
    """Return the Unauthenticated error, the same for every credential that does not work."""
    return error(ErrorReason.CREDENTIAL_INVALID, "invalid credential")


def permission_denied(right: str, *, confined: bool = False) -> KeyAuthorityError:
    """Return the PermissionDenied error; `confined` if confinement to projects is the cause."""
    message = (
        f"permission {right} is not available to a caller confined to projects"
        if confined
        else f"the caller lacks permission {right}"
    )
    return error(ErrorReason.PERMISSION_MISSING, message, metadata={"permission": right})
