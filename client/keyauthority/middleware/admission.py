"""Admission of a request: its facts, one verdict, and the permissions needed by each guard.

Independent of any framework. A guard reads the facts, passes them to a verifier, and attaches the
`Admission` to the request:

    guard = Guard(header="x-shop-key")
    admitted = admit(guard, verifier, Request(headers, peer), ["orders:read"])

A later guard of the same request checks its permissions against that verdict, so that limits are
spent once.
"""

from __future__ import annotations

import hmac
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from keyauthority.aio import AsyncClient
from keyauthority.client import Client
from keyauthority.decision import grants_of
from keyauthority.errors import KeyAuthorityError
from keyauthority.http.client_address import (
    FORWARDED,
    TrustedProxies,
    check_proxies,
    client_ip,
)
from keyauthority.http.credentials import check_header, read_key
from keyauthority.http.referrer import read_referrer
from keyauthority.http.rejection import (
    MISSING_PERMISSION,
    Rejection,
    reject,
    reject_failure,
)
from keyauthority.model import Verdict
from keyauthority.permissions import Grants, is_concrete
from keyauthority.verifier import AsyncVerifier, Verifier

Permissions = Sequence[str] | None
"""The permissions needed by a request; None if it needs no key."""


class KeyVerifier(Protocol):
    """Interface of `Verifier` and `Client`."""

    def verify(
        self,
        secret_key: str,
        *,
        permissions: Sequence[str] = (),
        client_ip: str = "",
        referrer: str = "",
        cost: int = 1,
    ) -> Verdict:
        """Return the verdict on a token."""
        ...


class AsyncKeyVerifier(Protocol):
    """Interface of `AsyncVerifier` and `AsyncClient`."""

    async def verify(
        self,
        secret_key: str,
        *,
        permissions: Sequence[str] = (),
        client_ip: str = "",
        referrer: str = "",
        cost: int = 1,
    ) -> Verdict:
        """Return the verdict on a token."""
        ...


class Request(NamedTuple):
    """The parts of a request used by admission."""

    headers: Sequence[tuple[str, str]]
    """Names are in lower case."""
    peer: str
    """The address of the connection; empty if it has none."""


class Presented(NamedTuple):
    """The facts of a request, as read by one guard."""

    secret_key: str
    client_ip: str
    referrer: str


@dataclass(frozen=True, slots=True)
class Admission:
    """An admitted request."""

    verdict: Verdict
    verifier: object
    presented: Presented = field(repr=False)
    spent: bool
    """True if this guard spent from the limits; False if an earlier one did."""


class _PendingVerify(NamedTuple):
    """A call of the verifier that is still to be made."""

    verifier: object
    presented: Presented
    permissions: Sequence[str]
    cost: int
    spent: bool

    def conclude(self, verdict: Verdict) -> Admission | Rejection:
        """Return the outcome of the call."""
        return reject(verdict) or Admission(verdict, self.verifier, self.presented, self.spent)


class Guard:
    """The options shared by all guards.

    `header` is the only header to read the key from. `trusted_proxies` is a number of proxies, or
    their addresses and CIDR blocks. `cost` is spent from the limits of the key.
    """

    __slots__ = ("_cost", "_header", "_proxies")

    def __init__(
        self, *, header: str | None = None, trusted_proxies: TrustedProxies = 0, cost: int = 1
    ) -> None:
        if cost < 0:
            raise ValueError("cost is 0 or more")
        self._header = check_header(header)
        self._proxies = check_proxies(trusted_proxies)
        self._cost = cost

    def present(self, request: Request) -> Presented | Rejection:
        """Return the facts of a request, or the rejection if it carries no usable key."""
        key = read_key(request.headers, self._header)
        if isinstance(key, Rejection):
            return key
        forwarded = [text for name, text in request.headers if name == FORWARDED]
        address = client_ip(request.peer, forwarded, self._proxies)
        return Presented(key, address, read_referrer(request.headers))

    def ask(
        self,
        verifier: object,
        request: Request,
        permissions: Sequence[str],
        earlier: Admission | None,
    ) -> Admission | Rejection | _PendingVerify:
        """Return the outcome if an earlier admission decides it, else the call to make.

        An earlier verdict is reused for the same verifier and the same facts. If this guard reads
        other facts with the same key, they are verified too, at no cost.
        """
        presented = self.present(request)
        if isinstance(presented, Rejection):
            return presented
        if earlier is None or earlier.verifier is not verifier:
            return _PendingVerify(verifier, presented, permissions, self._cost, spent=True)
        if earlier.presented == presented:
            if not Grants(grants_of(earlier.verdict)).holds(permissions):
                return MISSING_PERMISSION
            return Admission(earlier.verdict, verifier, presented, spent=False)
        spent = not _same_key(earlier.presented, presented)
        return _PendingVerify(verifier, presented, permissions, self._cost if spent else 0, spent)


def admit(
    guard: Guard,
    verifier: KeyVerifier,
    request: Request,
    permissions: Sequence[str],
    earlier: Admission | None = None,
) -> Admission | Rejection:
    """Return the admission of a request, or its rejection."""
    pending = guard.ask(verifier, request, permissions, earlier)
    if not isinstance(pending, _PendingVerify):
        return pending
    try:
        verdict: Any = verifier.verify(
            pending.presented.secret_key,
            permissions=pending.permissions,
            client_ip=pending.presented.client_ip,
            referrer=pending.presented.referrer,
            cost=pending.cost,
        )
    except KeyAuthorityError as failure:
        return reject_failure(failure)
    if inspect.iscoroutine(verdict):
        verdict.close()
        raise TypeError(_NEEDS_BLOCKING)
    return pending.conclude(verdict)


async def admit_async(
    guard: Guard,
    verifier: AsyncKeyVerifier,
    request: Request,
    permissions: Sequence[str],
    earlier: Admission | None = None,
) -> Admission | Rejection:
    """Return the admission of a request, or its rejection: `admit`, awaited."""
    pending = guard.ask(verifier, request, permissions, earlier)
    if not isinstance(pending, _PendingVerify):
        return pending
    try:
        verdict: Any = verifier.verify(
            pending.presented.secret_key,
            permissions=pending.permissions,
            client_ip=pending.presented.client_ip,
            referrer=pending.presented.referrer,
            cost=pending.cost,
        )
        if isinstance(verdict, Verdict):
            raise TypeError(_NEEDS_ASYNC)
        verdict = await verdict
    except KeyAuthorityError as failure:
        return reject_failure(failure)
    return pending.conclude(verdict)


def check_permissions(permissions: Permissions, owner: str) -> None:
    """Raise TypeError unless permissions are a list of strings, ValueError for a malformed one."""
    if isinstance(permissions, str):
        raise TypeError(f"the permissions of {owner} are a list of strings, not a string")
    for permission in permissions or ():
        if not isinstance(permission, str):
            raise TypeError(f"the permissions of {owner} are strings, not {permission!r}")
        if not is_concrete(permission):
            raise ValueError(
                f"a permission of {owner} is resource:action, such as orders:read, "
                f"not {permission!r}"
            )


def check_verifier(verifier: object, *, awaited: bool) -> None:
    """Raise TypeError unless `verifier` is one that the guard can use, or a callable.

    `awaited`: the guard awaits its verifier. What a callable returns is checked when it is used.
    """
    if not hasattr(verifier, "verify") and not callable(verifier):
        raise TypeError("verifier is a Verifier or Client, or a callable that returns one")
    if awaited and isinstance(verifier, (Verifier, Client)):
        raise TypeError(_NEEDS_ASYNC)
    if not awaited and isinstance(verifier, (AsyncVerifier, AsyncClient)):
        raise TypeError(_NEEDS_BLOCKING)


def current_verifier(verifier: Any) -> Any:
    """Return the verifier, calling a callable. Raises RuntimeError if there is none yet."""
    if hasattr(verifier, "verify"):
        return verifier
    try:
        current = verifier()
    except (AttributeError, LookupError) as missing:
        raise RuntimeError(f"{MISSING_VERIFIER} ({missing})") from missing
    if current is None:
        raise RuntimeError(MISSING_VERIFIER)
    return current


MISSING_VERIFIER: Final = (
    "there is no verifier yet: open one before the first request, in the lifespan of the "
    "application that the server runs, or give the guard one that is open"
)

_NEEDS_ASYNC: Final = (
    "this guard awaits its verifier: pass an AsyncVerifier or AsyncClient, not a Verifier or Client"
)
_NEEDS_BLOCKING: Final = (
    "this guard does not await its verifier: pass a Verifier or Client, not an AsyncVerifier or "
    "AsyncClient"
)


def _same_key(one: Presented, other: Presented) -> bool:
    return hmac.compare_digest(
        one.secret_key.encode("utf-8", "surrogatepass"),
        other.secret_key.encode("utf-8", "surrogatepass"),
    )
