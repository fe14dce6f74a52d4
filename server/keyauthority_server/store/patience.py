"""Waits at start for a store that cannot be reached yet."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, TypeVar

import structlog

from keyauthority.clock import monotonic
from keyauthority_server.config import StoreUrl
from keyauthority_server.store.interface import StoreUnavailable

RETRY_SECONDS: Final = 1.0
LOG_SECONDS: Final = 10.0  # between two equal log lines

T = TypeVar("T")

_log = structlog.get_logger("keyauthority_server.store")


async def when_reachable(
    use: Callable[[], Awaitable[T]], store: StoreUrl, stop: asyncio.Event
) -> T | None:
    """Return the result of `use` once the store can be reached; None if stopped.

    Only StoreUnavailable is retried, and only for a remote store: a store on this machine does not
    become available by waiting.
    """
    logged = float("-inf")
    while not stop.is_set():
        try:
            return await use()
        except StoreUnavailable as error:
            if not store.is_postgres:
                raise
            if monotonic() - logged > LOG_SECONDS:
                _log.warning("store_unavailable_at_start", error=str(error), retry="until it is")
                logged = monotonic()
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), RETRY_SECONDS)
    return None
