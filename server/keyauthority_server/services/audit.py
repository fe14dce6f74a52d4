"""Audit service: reads the log of changes, and records denied mutations."""

from __future__ import annotations

from keyauthority.requests import EventQuery
from keyauthority.results import Event, Page
from keyauthority_server.audit import DenialLog, event_of
from keyauthority_server.audit.denials import DeniedCall
from keyauthority_server.services.context import ServiceContext
from keyauthority_server.services.principal import Principal
from keyauthority_server.store.rows import Rows
from keyauthority_server.store.sql.queries.events import list_events
from keyauthority_server.store.types import Scope


class Audit:
    """Reads events and records denials."""

    def __init__(self, context: ServiceContext, denials: DenialLog) -> None:
        self._context = context
        self._denials = denials

    async def list(
        self, caller: Principal, query: EventQuery, content: bytes, page_size: int
    ) -> Page[Event]:
        """Return a page of the events in the caller's scope.

        `content` is the fingerprint of the query. NotFound for a project or key outside the
        caller's scope, and for a key of another project.
        """
        store, pages = self._context.store, self._context.pages
        cursor = pages.decode(caller.actor, content, query.page_token)
        await self._context.require_visible(caller, query.project_id, query.access_key)
        events, next_cursor = await store.query(_events, caller.scope, query, cursor, page_size)
        return Page(events, pages.encode(caller.actor, content, next_cursor))

    def denied(self, call: DeniedCall) -> None:
        """Record a mutation that was denied to an authenticated caller."""
        self._denials.note(call, self._context.clock.now())


def _events(
    rows: Rows, scope: Scope, query: EventQuery, after: int, limit: int
) -> tuple[tuple[Event, ...], int | None]:
    """Do as `list_events`, with events.

    It runs in a thread of the store: to compare large records takes a tenth of a second.
    """
    entries, next_cursor = list_events(rows, scope, query, after, limit)
    return tuple(map(event_of, entries)), next_cursor
