"""Use cases of audit: the log of changes is shown, and refused mutations are noted."""

from __future__ import annotations

from keyauthority.errors import ErrorReason
from keyauthority.requests import EventQuery
from keyauthority.results import Event, Page
from keyauthority_server.audit import Refusals, event_of
from keyauthority_server.audit.refusals import Attempt
from keyauthority_server.authority.callers import Caller
from keyauthority_server.authority.desk import Desk, gone


class Audit:
    """Shows events, and notes what was refused."""

    def __init__(self, desk: Desk, refusals: Refusals) -> None:
        self._desk = desk
        self._refusals = refusals

    async def list(
        self, caller: Caller, query: EventQuery, content: bytes, page_size: int
    ) -> Page[Event]:
        """Return a page of the events that the caller may see.

        `content` is the query in bytes that tell it from any other. NotFound for a project or key
        that is not the caller's, and for a key that is not of the project.
        """
        store, pages = self._desk.store, self._desk.pages
        place = pages.place(caller.actor, content, query.page_token)
        if query.project_id and await store.get_project(query.project_id, caller.scope) is None:
            raise gone(ErrorReason.PROJECT_NOT_FOUND)
        if query.access_key:
            key = await store.get_key(query.access_key, caller.scope)
            if key is None or query.project_id not in ("", key.project_id):
                raise gone(ErrorReason.KEY_NOT_FOUND)
        found, after = await store.list_events(caller.scope, query, place, page_size)
        return Page(tuple(map(event_of, found)), pages.token(caller.actor, content, after))

    def refused(self, attempt: Attempt) -> None:
        """Note a mutation that was refused to a caller who is known."""
        self._refusals.note(attempt, self._desk.clock.now())
