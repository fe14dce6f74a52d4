"""The calls about the log of all changes, awaited."""

from __future__ import annotations

from datetime import datetime

from keyauthority import convert
from keyauthority._requests import audit
from keyauthority.aio.connection import AsyncConnection, AsyncListing
from keyauthority.requests import EventQuery
from keyauthority.results import Event


class AsyncAuditCalls(AsyncConnection):
    """Reads the log of all changes as evidence."""

    def list_events(
        self,
        project_id: str = "",
        *,
        access_key: str = "",
        actor: str = "",
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        page_size: int = 0,
        timeout: float | None = None,
    ) -> AsyncListing[Event]:
        """Return the changes that were committed in [start_time, end_time), oldest first.

        Without a project_id, of all your projects, and of operators' keys if you are confined to
        none. Of a key, the change that made it is among them, a rotation too. `page_size` is 1 to
        1000, 0 means 100. NotFound for a project or key that is absent or not yours.
        """
        query = EventQuery(
            project_id=project_id,
            access_key=access_key,
            actor=actor,
            start_time=start_time,
            end_time=end_time,
            page_size=page_size,
        )
        return AsyncListing(
            lambda page_token: self._call(
                self._audit.ListEvents,
                audit.list_events(query, page_token),
                convert.event_page_from_proto,
                timeout,
            )
        )
