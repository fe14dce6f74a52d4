"""Reads who calls from a call's metadata and peer. It believes nothing: `authority` judges."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from keyauthority.errors import ErrorReason, error
from keyauthority.model import KeyKind
from keyauthority.token import Token, parse
from keyauthority_server.authority import Credential
from keyauthority_server.wire import Call

OPERATORS_KEPT: Final = 256  # credentials that need not be read anew: few callers make most calls

_HEADERS: Final = frozenset({"authorization", "x-auth-token"})


def presented(call: Call) -> list[tuple[str, str]]:
    """Return the headers that carry a credential."""
    return [
        (name, value if isinstance(value, str) else "")
        for name, value in call.metadata
        if name in _HEADERS
    ]


def address_of(peer: str) -> str:
    """Return the peer's IP address without its port, or `unix`."""
    family, _, rest = peer.partition(":")
    if family == "ipv4":
        return rest.rpartition(":")[0]
    if family == "ipv6":
        host = rest.rpartition(":")[0]
        return host.removeprefix("%5B").removesuffix("%5D").strip("[]")
    return "unix"


def credential_of(call: Call) -> Credential:
    """Return the one operator token, well formed; raise Unauthenticated if there is none."""
    headers = presented(call)
    if not headers:
        raise error(ErrorReason.CREDENTIAL_MISSING, "the call carries no operator key")
    if len(headers) > 1:
        raise error(ErrorReason.CREDENTIAL_AMBIGUOUS, "the call carries more than one credential")
    name, text = headers[0]
    if name == "authorization":
        scheme, _, text = text.partition(" ")
        if scheme.lower() != "bearer":
            text = ""
    token = _read(text)
    if token is None or token.kind is not KeyKind.OPERATOR:
        raise error(ErrorReason.CREDENTIAL_INVALID, "the credential is not valid")
    return Credential(token, text, address_of(call.peer))


@lru_cache(maxsize=OPERATORS_KEPT)
def _read(text: str) -> Token | None:
    return parse(text)
