"""The connection to the authority: one verifier, replaced when the operator key changes.

async with AuthorityLink(connect, read_key) as link:
    following = asyncio.create_task(link.follow())
    verdict = await link.verifier.verify(token)
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, NamedTuple, Self

from keyauthority.aio import AsyncClient
from keyauthority.errors import (
    InvalidArgument,
    KeyAuthorityError,
    PermissionDenied,
    Unauthenticated,
)
from keyauthority.permissions import Grants
from keyauthority.verifier import AsyncVerifier
from keyauthority.verifier.policy import BOUND

RIGHTS: Final = ("keys:verify", "keys:read", "changes:watch", "usage:report")
"""Rights that the operator key needs."""

RETRY_SECONDS: Final = 0.5
RELOAD_SECONDS: Final = 1.0  # between two looks at the operator key
FRESH_SECONDS: Final = 5.0  # for a verifier to receive its first update
CLOSE_SECONDS: Final = 2.0  # for the checks that still use a replaced verifier

_REFUSED: Final = (Unauthenticated, PermissionDenied, InvalidArgument)

Connect = Callable[[str | None], AsyncClient]
ReadKey = Callable[[], str | None]

_log: Final = logging.getLogger("keyauthority.gateway")


class UnusableKey(Exception):
    """The operator key cannot be used; the message says why."""


class MissingRights(UnusableKey):
    """The operator key lacks rights; the message names them."""


class _Connected(NamedTuple):
    client: AsyncClient
    verifier: AsyncVerifier

    async def confirm(self) -> None:
        """Start the verifier. Raises MissingRights unless the operator key has all `RIGHTS`.

        Until then the verifier calls the authority for each check.
        """
        grants = Grants((await self.client.get_caller()).permissions)
        missing = [right for right in RIGHTS if not grants.holds([right])]
        if missing:
            raise MissingRights(f"the operator key lacks {', '.join(missing)}")
        await self.verifier.__aenter__()
        await self.verifier.wait_until_fresh(FRESH_SECONDS)

    async def close(self) -> None:
        """Report usage and close the connection."""
        await self.verifier.close()
        await self.client.close()


class AuthorityLink:
    """The verifier in use."""

    def __init__(self, connect: Connect, read_key: ReadKey) -> None:
        """`connect` makes a client for an operator key, which `read_key` reads every second."""
        self._connect = connect
        self._read_key = read_key
        self._key = read_key()
        self._connected = self._connection(self._key)
        self.confirmed = asyncio.Event()
        """Set when the authority has confirmed the rights."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connected.close()

    @property
    def verifier(self) -> AsyncVerifier:
        """The verifier of the current operator key."""
        return self._connected.verifier

    def is_fresh(self) -> bool:
        """Return True while the local records are recent enough to decide on."""
        staleness = self.verifier.staleness
        return staleness is not None and staleness < BOUND

    async def follow(self) -> None:
        """Confirm the rights, then replace the verifier whenever the operator key changes.

        Waits for an authority that cannot serve. Raises MissingRights, or the failure of a
        credential that is not valid; after that, a bad new key is logged and the old one is kept.
        """
        await self._confirm()
        logged = ""
        while True:
            await asyncio.sleep(RELOAD_SECONDS)
            try:
                key = self._read_key()
                if key != self._key:
                    await self._replace(key)
                    logged = ""
            except (KeyAuthorityError, UnusableKey) as failure:
                if str(failure) != logged:
                    logged = str(failure)
                    _log.error("the operator key is not replaced: %s", logged)

    async def _confirm(self) -> None:
        logged = ""
        while True:
            try:
                await self._connected.confirm()
            except _REFUSED:
                raise
            except KeyAuthorityError as failure:
                if failure.message != logged:
                    logged = failure.message
                    _log.warning("checks are answered with 503: %s", logged)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self.confirmed.set()
                return

    async def _replace(self, key: str | None) -> None:
        """Use a new key after the authority has confirmed its rights."""
        new = self._connection(key)
        try:
            await new.confirm()
        except BaseException:
            await new.close()
            raise
        old, self._connected, self._key = self._connected, new, key
        _log.info("the operator key is replaced")
        try:
            await asyncio.sleep(CLOSE_SECONDS)
        finally:
            await old.close()

    def _connection(self, key: str | None) -> _Connected:
        client = self._connect(key)
        return _Connected(client, AsyncVerifier(client))
