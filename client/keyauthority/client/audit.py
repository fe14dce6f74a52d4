# Generated from keyauthority/aio/audit.py by .ci/generate_sync.py: edit that file.
"""Calls of AuditService: the audit log."""

from __future__ import annotations

from datetime import datetime

from keyauthority import convert
from keyauthority._requests import audit
from keyauthority.client.connection import Connection, Listing
from keyauthority.requests import EventQuery
from keyauthority.results import Event


class AuditCalls(Connection):
    """Reads the audit log."""

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
    ) -> Listing[Event]:
        """Return the changes committed in [start_time, end_time), oldest first.

        Without `project_id`: the changes of all projects of the caller, and of operator keys if
        the caller is not confined to projects. The changes of an access key include its creation
        or the rotation that created it. `page_size` is 1 to 1000; 0 means 100. Raises NotFound for
        a project or key that does not exist or that the caller may not see.
        """
        query = EventQuery(
            project_id=project_id,
            access_key=access_key,
            actor=actor,
            start_time=start_time,
            end_time=end_time,
            page_size=page_size,
        )
        return Listing(
            lambda page_token: self._call(
                self._stubs.audit.ListEvents,
                audit.list_events(query, page_token),
                convert.event_page_from_proto,
                timeout,
            )
        )
