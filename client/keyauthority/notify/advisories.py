"""Looks at the advisories of the authority: each that has opened becomes an event, once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from typing import Final

from keyauthority.aio import AsyncClient
from keyauthority.errors import KeyAuthorityError, Unimplemented
from keyauthority.model import AdvisoryType
from keyauthority.notify.events import event_of_advisory, identity_of_advisory
from keyauthority.notify.outbox import Outbox
from keyauthority.notify.settings import CannotNotify, Settings
from keyauthority.results import Advisory

LOOK_SECONDS: Final = 30.0
RETRY_SECONDS: Final = 1.0  # until the first look, for which the ready line waits
OPEN_MAX: Final = 100_000  # advisories of either sort that are remembered, in some 20 MB of memory
PAGE_SIZE: Final = 1000  # the maximum

OF_USE: Final = frozenset(
    {AdvisoryType.CANARY_USED, AdvisoryType.USED_AFTER_END, AdvisoryType.OVERLAP_ENDING_IN_USE}
)
"""Advisories of keys that are presented: however many keys rest, they are sent."""
OF_REST: Final = frozenset(AdvisoryType) - OF_USE

_log: Final = logging.getLogger("keyauthority.notify")


class AdvisoryLooker:
    """Compares the open advisories with those of the look before."""

    def __init__(self, settings: Settings, outbox: Outbox) -> None:
        self._settings = settings
        self._outbox = outbox
        self._logged = ""
        self.ready = asyncio.Event()
        """Set when every advisory that opens from now on becomes an event."""

    async def follow(self, started: asyncio.Event) -> None:
        """Look every `LOOK_SECONDS` until cancelled, first when the log has a position."""
        await started.wait()
        while True:
            try:
                async with self._settings.connect(self._settings.read_key()) as client:
                    await self._look(client)
                self._logged = ""
                self.ready.set()
            except Unimplemented as failed:
                self._log_once(f"advisories are not sent: {failed.message}")
                self.ready.set()
            except (KeyAuthorityError, CannotNotify) as failed:
                self._log_once(f"advisories are looked at later: {failed}")
            await asyncio.sleep(LOOK_SECONDS if self.ready.is_set() else RETRY_SECONDS)

    async def _look(self, client: AsyncClient) -> None:
        """Take the advisories that were not open at the last look; the first look takes none."""
        found = set[str]()
        for types in (OF_USE, OF_REST):
            found |= await self._look_at(client, types)
        self._outbox.keep_advisories(found)
        await self._outbox.flush()

    async def _look_at(self, client: AsyncClient, types: Collection[AdvisoryType]) -> set[str]:
        listing, page_token = client.list_advisories(types=types, page_size=PAGE_SIZE), ""
        found = set[str]()
        while True:
            page = await listing.page(page_token)
            for advisory in page.items:
                found.add(identity_of_advisory(advisory))
                await self._open(advisory)
            page_token = page.next_page_token
            if not page_token:
                return found
            if len(found) >= OPEN_MAX:
                names = ", ".join(sorted(types))
                _log.warning(
                    "more than %d advisories are open: the others of %s are not sent",
                    *(OPEN_MAX, names),
                )
                return found

    async def _open(self, advisory: Advisory) -> None:
        known, position = self._outbox.advisories, self._outbox.position
        identity = identity_of_advisory(advisory)
        if known is None or position is None or identity in known:
            return
        await self._outbox.wait_for_room()
        self._outbox.open_advisory(identity, event_of_advisory(position.log_id, advisory))

    def _log_once(self, text: str) -> None:
        if text != self._logged:
            self._logged = text
            _log.warning("%s", text)
