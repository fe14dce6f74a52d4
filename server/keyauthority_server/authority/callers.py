"""Who calls, and what he may do: an operator's key is judged by the rules that judge every key."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final, NamedTuple

from keyauthority.decision import decide, grants_of
from keyauthority.errors import ErrorReason, KeyAuthorityError, error
from keyauthority.model import Facts, Key, KeyKind, VerdictCode
from keyauthority.permissions import covers, holds
from keyauthority.token import Token
from keyauthority_server.peppers import Keyring
from keyauthority_server.store.values import Held, Scope

_NO_DIGEST: Final = bytes(32)  # no HMAC is all zeros but with a chance of 2**-256
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


@dataclass(frozen=True, slots=True)
class Caller:
    """An operator whose key holds, for one call."""

    key: Key
    peer: str

    @property
    def actor(self) -> str:
        """The name that his changes are recorded under."""
        return self.key.access_key

    @property
    def scope(self) -> Scope:
        """The projects that he is confined to; None means all."""
        return frozenset(self.key.operator_projects) or None

    def may(self, right: str) -> bool:
        """True if his key holds the right."""
        return holds(grants_of(self.key), (right,))

    def require(self, right: str) -> None:
        """Raise PermissionDenied unless his key holds the right."""
        if not self.may(right):
            raise missing(right)

    def require_within_own(
        self, permissions: Sequence[str], projects: Sequence[str], expire_time: datetime | None
    ) -> None:
        """Raise PermissionDenied if an operator key like this would go beyond his own."""
        own = grants_of(self.key)
        beyond = [one for one in permissions if not any(covers(grant, one) for grant in own)]
        if beyond:
            raise _beyond(f"the permission {beyond[0]} is beyond your own")
        if self.scope is not None and not (projects and self.scope.issuperset(projects)):
            raise _beyond("its projects are beyond your own")
        end = self.key.expire_time
        if end is not None and (expire_time is None or expire_time > end):
            raise _beyond("it would outlive your own key")


def proves(held: Held | None, token: Token, text: str, peppers: Keyring) -> bool:
    """True if the token is that of the key; does the same work if there is no such key."""
    digest = peppers.digest(text.encode(), held.pepper_version if held else None)
    return _is_its(digest, held, token)


def _is_its(digest: bytes, held: Held | None, token: Token) -> bool:
    return hmac.compare_digest(digest, held.digest if held else _NO_DIGEST) and (
        held is not None and held.key.kind is token.kind and held.key.mode is token.mode
    )


def admit(
    held: Held | None,
    credential: Credential,
    rights: Sequence[str],
    now: datetime,
    peppers: Keyring,
) -> Caller:
    """Return the caller if his key proves him and holds one of the rights, else raise.

    Unauthenticated tells nothing of why a key does not work. PermissionDenied names the right.
    """
    token = credential.token
    digest = peppers.remembered_digest(credential.text, held.pepper_version if held else None)
    if not _is_its(digest, held, token) or token.kind is not KeyKind.OPERATOR:
        raise invalid_credential()
    assert held is not None  # noqa: S101 - what does not exist is not proven; tells mypy so
    judge(held.key, credential.address, now)
    caller = Caller(held.key, credential.address)
    for right in rights:
        if caller.may(right):
            return caller
    raise missing(rights[0])


def judge(key: Key, address: str, now: datetime) -> None:
    """Raise Unauthenticated if the operator key has ended, PermissionDenied if used from afar."""
    code = decide(key, None, _facts(address), now)
    if code in _ENDED:
        raise invalid_credential()
    if code is not VerdictCode.VALID:
        raise error(
            ErrorReason.ADDRESS_NOT_ALLOWED, "the operator key may not be used from this address"
        )


@lru_cache(maxsize=4_096)
def _facts(address: str) -> Facts:
    return Facts(client_ip="" if address == "unix" else address)


def invalid_credential() -> KeyAuthorityError:
    """Return the one answer to whatever is no working credential."""
    return error(ErrorReason.CREDENTIAL_INVALID, "the credential is not valid")


def missing(right: str) -> KeyAuthorityError:
    """Return the answer to a caller who lacks a right."""
    return error(
        ErrorReason.PERMISSION_MISSING,
        f"the operator key lacks the permission {right}",
        metadata={"permission": right},
    )


def _beyond(message: str) -> KeyAuthorityError:
    return error(ErrorReason.BEYOND_OWN_RIGHTS, message)
