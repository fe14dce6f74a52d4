"""Use cases of audit: the log of changes is shown, and refused mutations are noted."""

from __future__ import annotations

from keyauthority.errors import ErrorReason
from keyauthority.requests import EventQuery
from keyauthority.results import Event, Page
from keyauthority_server.audit import DenialLog, event_of
from keyauthority_server.audit.denials import DeniedCall
from keyauthority_server.services.context import ServiceContext, gone
from keyauthority_server.services.principal import Principal


class Audit:
    """Shows events, and notes what was refused."""

    def __init__(self, context: ServiceContext, denials: DenialLog) -> None:
        self._context = context
        self._refusals = denials

    async def list(
        self, caller: Principal, query: EventQuery, content: bytes, page_size: int
    ) -> Page[Event]:
        """Return a page of the events that the caller may see.

        `content` is the query in bytes that tell it from any other. NotFound for a project or key
        that is not the caller's, and for a key that is not of the project.
        """
        store, pages = self._context.store, self._context.pages
        place = pages.place(caller.actor, content, query.page_token)
        if query.project_id and await store.get_project(query.project_id, caller.scope) is None:
            raise gone(ErrorReason.PROJECT_NOT_FOUND)
        if query.access_key:
            key = await store.get_key(query.access_key, caller.scope)
            if key is None or query.project_id not in ("", key.project_id):
                raise gone(ErrorReason.KEY_NOT_FOUND)
        found, after = await store.list_events(caller.scope, query, place, page_size)
        return Page(tuple(map(event_of, found)), pages.token(caller.actor, content, after))

    def refused(self, attempt: DeniedCall) -> None:
        """Note a mutation that was refused to a caller who is known."""
        self._refusals.note(attempt, self._context.clock.now())
