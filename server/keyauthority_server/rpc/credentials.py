"""Reads the caller's credential from metadata and peer; `services` authenticates it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

from keyauthority.clock import LONG_AGO
from keyauthority.errors import ErrorReason, KeyAuthorityError, error
from keyauthority.model import Key, KeyKind, KeyMode
from keyauthority.token import TOKEN_LENGTH_MAX, Token, parse
from keyauthority_server.overload import address_of
from keyauthority_server.rpc.policy import CredentialSource
from keyauthority_server.rpc_types import CREDENTIAL_HEADERS, Call, Certificate
from keyauthority_server.services import CertificateIdentity, Credential
from keyauthority_server.services.principal import invalid_credential

OPERATOR_CACHE_SIZE: Final = 256  # parsed credentials: few callers make most calls
CALL_CACHE_SIZE: Final = 1_024  # calls with equal attributes; each connection has its own peer


def has_credential(call: Call) -> bool:
    """True if the call carries a credential, valid or not."""
    return bool(call.certificates or _headers(call))


def _headers(call: Call) -> list[tuple[str, str]]:
    return [
        (name, value if isinstance(value, str) else "")
        for name, value in call.metadata
        if name in CREDENTIAL_HEADERS
    ]


@lru_cache(maxsize=CALL_CACHE_SIZE)
def credential_of(call: Call) -> Credential | CertificateIdentity:
    """Return the call's only credential: a well-formed operator token or a configured certificate.

    Raises Unauthenticated without one, and for more than one; a configured certificate and an
    operator key are two, since either could be meant. A certificate that the configuration does
    not name is ignored, also beside an operator key.
    """
    headers = _headers(call)
    if call.certificates and not headers and len(call.certificates) == 1:
        return certificate_identity(call.certificates[0], address_of(call.peer))
    if not headers and not call.certificates:
        raise error(
            ErrorReason.CREDENTIAL_MISSING,
            "missing operator key; send it as `authorization: Bearer <operator key>`",
        )
    if len(headers) > 1 or call.certificates:
        raise error(ErrorReason.CREDENTIAL_AMBIGUOUS, "more than one credential; send exactly one")
    name, text = headers[0]
    if name == "authorization":
        scheme, _, text = text.partition(" ")
        if scheme.lower() != "bearer":
            text = ""
    token = _parse(text) if len(text) <= TOKEN_LENGTH_MAX else None  # a long text is not cached
    if token is None or token.kind is not KeyKind.OPERATOR:
        raise invalid_credential()
    return Credential(token, text, address_of(call.peer))


def by_operator(credentials: CredentialSource) -> Callable[[Call], bool]:
    """Return a predicate: True if an operator credential authenticates the call."""
    if credentials is CredentialSource.OPERATOR_OR_SECRET:
        return has_credential
    operator = credentials is not CredentialSource.SECRET
    return lambda _: operator


def rejects_unparsed(credentials: CredentialSource) -> Callable[[Call], bool] | None:
    """Return a predicate: True if the credential alone fails the call, before parsing."""
    if credentials is CredentialSource.SECRET:
        return None
    optional = credentials is CredentialSource.OPERATOR_OR_SECRET

    def rejects(call: Call) -> bool:
        if optional and not has_credential(call):
            return False
        try:
            credential_of(call)
        except KeyAuthorityError:
            return True
        return False

    return rejects


@lru_cache(maxsize=OPERATOR_CACHE_SIZE)
def certificate_identity(certificate: Certificate, address: str) -> CertificateIdentity:
    """Return the operator that the configuration assigns to the certificate."""
    key = Key(
        access_key=certificate.name,
        project_id="",
        mode=KeyMode.LIVE,
        kind=KeyKind.OPERATOR,
        permissions=certificate.permissions,
        operator_projects=certificate.projects,
        create_time=LONG_AGO,
        update_time=LONG_AGO,
        expire_time=certificate.expire_time,
        revision=0,
    )
    return CertificateIdentity(key, address)


@lru_cache(maxsize=OPERATOR_CACHE_SIZE)
def _parse(text: str) -> Token | None:
    return parse(text)
