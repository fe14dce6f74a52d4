"""Reads the authority: its changes become events in the outbox."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from keyauthority.aio import AsyncClient
from keyauthority.clock import monotonic
from keyauthority.errors import (
    ErrorReason,
    FailedPrecondition,
    InvalidArgument,
    KeyAuthorityError,
    PermissionDenied,
    Unauthenticated,
)
from keyauthority.notify.events import event_of_change
from keyauthority.notify.outbox import Outbox, Position
from keyauthority.notify.settings import CannotNotify, Settings
from keyauthority.permissions import Grants
from keyauthority.results import WatchUpdate
from keyauthority.verifier.policy import RETRY_MAX, SILENCE_MAX

RIGHTS: Final = ("changes:watch", "usage:read")
"""Rights that the operator key needs: for changes, and for advisories."""
RELOAD_SECONDS: Final = 1.0  # between two looks at the operator key
AHEAD_MAX: Final = 10  # attempts, one each second, in which a server that is behind catches up

_REFUSED: Final = (Unauthenticated, PermissionDenied, InvalidArgument)

_log: Final = logging.getLogger("keyauthority.notify")


class Follower:
    """Follows the log of changes from the position of the outbox."""

    def __init__(self, settings: Settings, outbox: Outbox) -> None:
        self._settings = settings
        self._outbox = outbox
        self._logged = ""
        self._ahead = 0  # times that the log ended before the position
        self.ready = asyncio.Event()
        """Set when every change from now on becomes an event."""

    async def follow(self) -> None:
        """Follow until cancelled, over any number of connections.

        Waits for an authority that cannot serve. Before the first connection raises CannotNotify
        for an operator key without the rights, and KeyAuthorityError for one that is not valid;
        later they are logged, and the key is read again.
        """
        while True:
            try:
                await self._connect()
            except (KeyAuthorityError, CannotNotify) as failed:
                if not self.ready.is_set() and isinstance(failed, (*_REFUSED, CannotNotify)):
                    raise
                self._log_once(str(failed))
            await asyncio.sleep(RETRY_MAX)

    async def _connect(self) -> None:
        """Follow one stream to its end, until the outbox is full, or the operator key changes."""
        key = self._settings.read_key()
        async with self._settings.connect(key) as client:
            grants = Grants((await client.get_caller()).permissions)
            missing = [right for right in RIGHTS if not grants.holds([right])]
            if missing:
                raise CannotNotify(f"the operator key lacks {', '.join(missing)}")
            if self._outbox.is_full:  # all later changes wait in the log
                self.ready.set()
                await self._outbox.wait_for_room()
            try:
                await self._follow(client, key)
            except FailedPrecondition as failed:
                if failed.reason is not ErrorReason.REVISION_AHEAD:
                    raise
                self._ahead += 1
                if self._ahead >= AHEAD_MAX:
                    await self._lose("the log of the authority ends before the cursor", None)

    async def _follow(self, client: AsyncClient, key: str | None) -> None:
        position = self._outbox.position
        async with client.watch_changes(
            from_revision=position.revision if position else None,
            log_id=position.log_id if position else "",
        ) as stream:
            is_first, reload = True, monotonic() + RELOAD_SECONDS
            while not self._outbox.is_full:
                try:
                    async with asyncio.timeout(SILENCE_MAX):
                        update = await anext(stream)
                except (TimeoutError, StopAsyncIteration):
                    return
                if update.resync:
                    if is_first:
                        await self._resync(update)
                    return
                is_first = False
                await self._take(update)
                if monotonic() > reload:
                    reload = monotonic() + RELOAD_SECONDS
                    if self._settings.read_key() != key:
                        _log.info("the operator key is replaced")
                        return

    async def _take(self, update: WatchUpdate) -> None:
        position = self._outbox.position
        reached = position.revision if position else 0
        changes = [change for change in update.changes if change.revision > reached]
        if update.checkpoint:
            reached = max(reached, update.revision)
        elif changes:
            reached = changes[-1].revision
        events = (event_of_change(update.log_id, change) for change in changes)
        self._outbox.take(Position(update.log_id, reached), events)
        await self._outbox.flush()
        self._logged, self._ahead = "", 0
        self.ready.set()

    async def _resync(self, update: WatchUpdate) -> None:
        """Go on after changes that the authority does not send again."""
        position = self._outbox.position
        now = Position(update.log_id, update.revision)
        if position and position.log_id != now.log_id:
            await self._lose(
                f"the log of the cursor, {position.log_id}, is gone: it was restored", now
            )
        else:
            await self._lose(
                "the cursor is further behind than the authority sends changes again", now
            )

    async def _lose(self, reason: str, now: Position | None) -> None:
        """Report the loss, and begin with the newest revision; pending events are kept."""
        begin = f"after revision {now.revision} of the log {now.log_id}" if now else "with now"
        _log.error(
            "%s; the changes after revision %d are not sent; events begin %s",
            reason,
            self._outbox.position.revision if self._outbox.position else 0,
            begin,
        )
        if now:
            self._outbox.take(now, ())
            await self._outbox.flush()
        else:
            self._outbox.position = None

    def _log_once(self, text: str) -> None:
        if text != self._logged:
            self._logged = text
            _log.warning("changes wait in the log of the authority: %s", text)
