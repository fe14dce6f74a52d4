"""Who calls, and what he may do: an operator's key is judged by the rules that judge every key."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from keyauthority.decision import decide, permits
from keyauthority.errors import ErrorReason, KeyAuthorityError, error
from keyauthority.model import NO_FACTS, Facts, Key, KeyKind, VerdictCode
from keyauthority.token import Token
from keyauthority_server.keyring import Keyring, UnknownVersion
from keyauthority_server.services.delegation import Ceiling, ceiling_of
from keyauthority_server.store.types import Scope, StoredKey

_NO_DIGEST: Final = bytes(32)  # no HMAC is all zeros but with a chance of 2**-256
_OF_ALL_PROJECTS: Final = frozenset({"projects:create"})  # nobody confined to some has these
_ENDED: Final = frozenset(
    {VerdictCode.REVOKED, VerdictCode.SUPERSEDED, VerdictCode.EXPIRED, VerdictCode.DISABLED}
)


class Credential(NamedTuple):
    """A well-formed operator token as it came with a call, and the address that it came from."""

    token: Token
    text: str
    address: str

    def __repr__(self) -> str:
        return f"Credential({self.token.access_key}, {self.address!r})"


class CertificateIdentity(NamedTuple):
    """An operator whom the configuration knows by his client certificate.

    `key` says what he may do as an operator's key would: its access key is the certificate's name,
    its end that of the certificate. It is of this process, and in no store.
    """

    key: Key
    address: str


@dataclass(frozen=True, slots=True)
class Principal:
    """An operator whose key holds, for one call."""

    key: Key
    peer: str
    certified: bool = False
    """True if his key is that of a certificate, see `CertificateIdentity`."""

    @property
    def actor(self) -> str:
        """The name that his changes are recorded under."""
        return self.key.access_key

    @property
    def scope(self) -> Scope:
        """The projects that he is confined to; None means all."""
        return frozenset(self.key.operator_projects) or None

    def may(self, right: str) -> bool:
        """True if his key holds the right, and he is not confined where nobody confined has it."""
        if right in _OF_ALL_PROJECTS and self.scope is not None:
            return False
        return permits(self.key, right)

    def require(self, right: str) -> None:
        """Raise PermissionDenied unless he has the right."""
        if not self.may(right):
            raise permission_denied(
                right, confined=right in _OF_ALL_PROJECTS and self.scope is not None
            )

    def require_within_own(self, wanted: Ceiling) -> None:
        """Raise PermissionDenied if an operator key with these bounds would go beyond his own."""
        beyond = wanted.beyond(ceiling_of(self.key))
        if beyond:
            raise error(ErrorReason.BEYOND_OWN_RIGHTS, beyond)


def operator_of(credential: Credential | CertificateIdentity) -> str | None:
    """Return the access key of the operator's key to read; None for a certificate."""
    return None if isinstance(credential, CertificateIdentity) else credential.token.access_key


def scope_of(credential: Credential | CertificateIdentity, stored: StoredKey | None) -> Scope:
    """Return the scope of the operator, whose key is `held`; None for no operator, too."""
    key = (
        credential.key
        if isinstance(credential, CertificateIdentity)
        else stored.key
        if stored
        else None
    )
    return (frozenset(key.operator_projects) if key else None) or None


def digest_matches(stored: StoredKey | None, token: Token, text: str, peppers: Keyring) -> bool:
    """True if the token is that of the key; does the same work if there is no such key.

    Raises UnknownVersion if nobody can tell, for want of the pepper.
    """
    try:
        digest = peppers.digest(text.encode(), stored.pepper_version if stored else None)
    except UnknownVersion as lacking:
        _refuse_to_guess(stored, peppers, lacking)
        digest = peppers.digest(text.encode())
    return _is_its(digest, stored, token)


def _refuse_to_guess(stored: StoredKey | None, peppers: Keyring, lacking: UnknownVersion) -> None:
    """Raise unless the pepper was dropped, and the key over: nothing proves it, nor ever will."""
    if (
        stored is None
        or not peppers.dropped(stored.pepper_version)
        or (stored.key.revoke_time is None and stored.key.supersede_time is None)
    ):
        raise lacking


def _is_its(digest: bytes, stored: StoredKey | None, token: Token) -> bool:
    return hmac.compare_digest(digest, stored.digest if stored else _NO_DIGEST) and (
        stored is not None and stored.key.kind is token.kind and stored.key.mode is token.mode
    )


def authenticate(
    stored: StoredKey | None,
    credential: Credential | CertificateIdentity,
    rights: Sequence[str],
    now: datetime,
    peppers: Keyring,
    *,
    proven: bool = False,
) -> Principal:
    """Return the caller if the credential is that of the key and it holds one of the rights.

    `held` is what `operator_of` the credential names; `proven` says that the two were compared
    before. Unauthenticated tells nothing of why a key does not work. PermissionDenied names the
    right.
    """
    if isinstance(credential, CertificateIdentity):
        return _admit(Principal(credential.key, credential.address, certified=True), rights, now)
    if not proven and not digest_matches(stored, credential.token, credential.text, peppers):
        raise invalid_credential()
    if stored is None or stored.key.kind is not KeyKind.OPERATOR:
        raise invalid_credential()
    return _admit(Principal(stored.key, credential.address), rights, now)


def _admit(caller: Principal, rights: Sequence[str], now: datetime) -> Principal:
    check_active(caller.key, caller.peer, now)
    if not any(map(caller.may, rights)):
        caller.require(rights[0])
    return caller


def check_active(key: Key, address: str, now: datetime) -> None:
    """Raise Unauthenticated if the operator key has ended, PermissionDenied if used from afar."""
    code = decide(key, None, _facts(address), now)
    if code in _ENDED:
        raise invalid_credential()
    if code is not VerdictCode.VALID:
        raise error(
            ErrorReason.ADDRESS_NOT_ALLOWED, "the operator key may not be used from this address"
        )


def _facts(address: str) -> Facts:
    if address == "unix":
        return NO_FACTS
    return Facts(client_ip=address.partition("%")[0])  # the zone names an interface of this machine


def invalid_credential() -> KeyAuthorityError:
    """Return the one answer to whatever is no working credential."""
    return error(ErrorReason.CREDENTIAL_INVALID, "the credential is not valid")


def permission_denied(right: str, *, confined: bool = False) -> KeyAuthorityError:
    """Return the answer to a caller who lacks a right, be it for his confinement to projects."""
    why = (
        f"the caller is confined to projects, and {right} is for those who are not"
        if confined
        else f"the caller lacks the permission {right}"
    )
    return error(ErrorReason.PERMISSION_MISSING, why, metadata={"permission": right})
