# Generated from keyauthority/aio/advisories.py by .ci/generate_sync.py: edit that file.
"""Calls of AdvisoryService: keys that need attention."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from keyauthority import convert
from keyauthority._requests import advisories
from keyauthority.client.connection import Connection, Listing
from keyauthority.model import AdvisoryType
from keyauthority.results import Advisory


class AdvisoryCalls(Connection):
    """Lists the keys that need attention."""

    def list_advisories(
        self,
        project_id: str = "",
        *,
        types: Iterable[AdvisoryType | str] = (),
        dormant_after: timedelta | None = None,
        expires_within: timedelta | None = None,
        page_size: int = 0,
        timeout: float | None = None,
    ) -> Listing[Advisory]:
        """Return the advisories of the given types, or of all, by creation of their keys.

        Without `project_id`: those of all projects of the caller. `dormant_after` is the window of
        DORMANT, NEVER_USED and UNUSED_PERMISSIONS, 90 days by default; `expires_within` is that of
        EXPIRING, 30 days by default; both are 0 to 3660 days. `page_size` is 1 to 1000; 0 means
        100. Raises NotFound for a project that does not exist or that the caller may not see,
        InvalidArgument for an unknown type.
        """
        query = advisories.advisory_query(
            project_id,
            types=types,
            dormant_after=dormant_after,
            expires_within=expires_within,
            page_size=page_size,
        )
        return Listing(
            lambda page_token: self._call(
                self._stubs.advisories.ListAdvisories,
                advisories.list_advisories(query, page_token),
                convert.advisory_page_from_proto,
                timeout,
            )
        )
