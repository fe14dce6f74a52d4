"""The calls about usage, awaited."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from keyauthority import convert
from keyauthority._requests import usage
from keyauthority.aio.connection import AsyncConnection, AsyncListing
from keyauthority.model import UsageGranularity, UsageRow


class AsyncUsageCalls(AsyncConnection):
    """Reads the counts of verifications, and adds to them."""

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
    ) -> AsyncListing[UsageRow]:
        """Return the counts in [start_time, end_time), by time, access key and verdict.

        One row for each hour or day, in UTC, in which there was something to count. Without a
        project_id, of all your projects. `page_size` is 1 to 1000, 0 means 100.
        """
        query = usage.usage_query(
            project_id,
            access_key=access_key,
            start_time=start_time,
            end_time=end_time,
            granularity=granularity,
            page_size=page_size,
        )
        return AsyncListing(
            lambda page_token: self._call(
                self._usage.GetUsage,
                usage.get_usage(query, page_token),
                convert.usage_page_from_proto,
                timeout,
            )
        )

    async def report_usage(
        self,
        rows: Iterable[UsageRow],
        *,
        batch_id: str | None = None,
        timeout: float | None = None,
    ) -> None:
        """Add verifications that were made elsewhere, at most 1000 rows; one batch_id counts once.

        A fresh batch_id is made unless you give one, a UUID, to be able to repeat the call. Rows of
        keys that are not yours are left out.
        """
        request = usage.report_usage(rows, batch_id)
        await self._call(self._usage.ReportUsage, request, usage.nothing, timeout)
