"""Reads who calls from a call's metadata and peer. It believes nothing: `authority` judges."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from keyauthority.errors import ErrorReason, KeyAuthorityError, error
from keyauthority.model import Key, KeyKind, KeyMode
from keyauthority.token import Token, parse
from keyauthority_server.overload import address_of
from keyauthority_server.rpc.policy import Admission
from keyauthority_server.rpc_types import Call, Certificate
from keyauthority_server.services import CertificateIdentity, Credential

OPERATORS_KEPT: Final = 256  # credentials that need not be read anew: few callers make most calls
CALLS_KEPT: Final = 1_024  # the same for all that calls say of themselves: each connection its own
TOKEN_MAX: Final = 128  # characters; a token has 78, and a prefix of up to 17 before them

_BEFORE: Final = datetime.min.replace(tzinfo=UTC)  # a configuration does not tell since when
_HEADERS: Final = frozenset({"authorization", "x-auth-token"})


def presented(call: Call) -> bool:
    """True if the call carries a credential, good or bad."""
    return bool(call.certificates or _headers(call))


def _headers(call: Call) -> list[tuple[str, str]]:
    return [
        (name, value if isinstance(value, str) else "")
        for name, value in call.metadata
        if name in _HEADERS
    ]


@lru_cache(maxsize=CALLS_KEPT)
def credential_of(call: Call) -> Credential | CertificateIdentity:
    """Return the one operator token, well formed, or the one certificate that stands for a caller.

    Raises Unauthenticated if there is none, and if there is more than one: a certificate that
    stands for a caller and an operator key are two, since either could be meant. A certificate that
    the configuration does not know is no credential, and none with an operator key beside it.
    """
    headers = _headers(call)
    if call.certificates and not headers and len(call.certificates) == 1:
        return certified(call.certificates[0], address_of(call.peer))
    if not headers and not call.certificates:
        raise error(ErrorReason.CREDENTIAL_MISSING, "the call carries no operator key")
    if len(headers) > 1 or call.certificates:
        raise error(ErrorReason.CREDENTIAL_AMBIGUOUS, "the call carries more than one credential")
    name, text = headers[0]
    if name == "authorization":
        scheme, _, text = text.partition(" ")
        if scheme.lower() != "bearer":
            text = ""
    token = _read(text) if len(text) <= TOKEN_MAX else None  # no long text is kept
    if token is None or token.kind is not KeyKind.OPERATOR:
        raise error(ErrorReason.CREDENTIAL_INVALID, "the credential is not valid")
    return Credential(token, text, address_of(call.peer))


def by_operator(admission: Admission) -> Callable[[Call], bool]:
    """Return what tells whether a call of a method is made by an operator's credential."""
    if admission is Admission.OPERATOR_OR_SECRET:
        return presented
    operator = admission is not Admission.SECRET
    return lambda _: operator


def rejects_unparsed(admission: Admission) -> Callable[[Call], bool] | None:
    """Return what is true of a call that is refused for its credential, whatever it asks for."""
    if admission is Admission.SECRET:
        return None
    either = admission is Admission.OPERATOR_OR_SECRET

    def refuses(call: Call) -> bool:
        if either and not presented(call):
            return False
        try:
            credential_of(call)
        except KeyAuthorityError:
            return True
        return False

    return refuses


def caller_of(call: Call) -> Hashable:
    """Return what tells this caller from every other; raises what `credential_of` does."""
    credential = credential_of(call)
    return credential if isinstance(credential, Credential) else call.certificates


@lru_cache(maxsize=OPERATORS_KEPT)
def certified(certificate: Certificate, address: str) -> CertificateIdentity:
    """Return the certificate as a credential: the operator that it stands for."""
    key = Key(
        access_key=certificate.name,
        project_id="",
        mode=KeyMode.LIVE,
        kind=KeyKind.OPERATOR,
        permissions=certificate.permissions,
        operator_projects=certificate.projects,
        create_time=_BEFORE,
        update_time=_BEFORE,
        expire_time=certificate.expire_time,
        revision=0,
    )
    return CertificateIdentity(key, address)


@lru_cache(maxsize=OPERATORS_KEPT)
def _read(text: str) -> Token | None:
    return parse(text)
