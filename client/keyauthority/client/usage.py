# Generated from keyauthority/aio/usage.py by .ci/generate_sync.py: edit that file.
"""Calls of UsageService: counts of verifications."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from keyauthority import convert
from keyauthority._requests import usage
from keyauthority.client.connection import Connection, Listing
from keyauthority.model import UsageGranularity, UsageRow
from keyauthority.requests import KeyObservation


class UsageCalls(Connection):
    """Reads and reports counts of verifications."""

    def get_usage(
        self,
        project_id: str = "",
        *,
        access_key: str = "",
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        granularity: UsageGranularity | str = UsageGranularity.HOUR,
        page_size: int = 0,
        timeout: float | None = None,
    ) -> Listing[UsageRow]:
        """Return the counts in [start_time, end_time), by time, access key and verdict.

        One row per hour or day, in UTC; hours and days without verifications are omitted. Without
        `project_id`: the counts of all projects of the caller. `page_size` is 1 to 1000; 0 means
        100.
        """
        query = usage.usage_query(
            project_id,
            access_key=access_key,
            start_time=start_time,
            end_time=end_time,
            granularity=granularity,
            page_size=page_size,
        )
        return Listing(
            lambda page_token: self._call(
                self._stubs.usage.GetUsage,
                usage.get_usage(query, page_token),
                convert.usage_page_from_proto,
                timeout,
            )
        )

    def report_usage(
        self,
        rows: Iterable[UsageRow],
        *,
        observations: Iterable[KeyObservation] = (),
        batch_id: str | None = None,
        timeout: float | None = None,
    ) -> None:
        """Report verifications made outside the server, at most 1000 rows.

        `observations`, one for each key of the rows, feed the advisories on these keys.
        Each `batch_id`, a UUID, is counted once; pass your own to repeat the call safely (default:
        a new one per call). Rows for keys that the caller may not see are ignored.
        """
        request = usage.report_usage(rows, observations, batch_id)
        self._call(self._stubs.usage.ReportUsage, request, usage.nothing, timeout)
