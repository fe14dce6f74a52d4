"""The picture of the README: `make pictures` takes it from a server with made-up records."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from keyauthority import Client, Quota, QuotaPeriod, Restrictions, UsageRow, VerdictCode
from tests.console.browser import running_browser
from tests.console.people import running_console
from tests.service.processes import start

PICTURE: Final = Path(__file__).parents[2] / "docs" / "console.png"
WIDTH: Final = 960
HEIGHT: Final = 752


def usage(access_key: str) -> Iterator[UsageRow]:
    """Yield a month of verifications that follow the hours of a day."""
    now = datetime.now(UTC)
    for hours in range(24 * 30):
        time = (now - timedelta(hours=hours)).replace(minute=0, second=0, microsecond=0)
        base = int(400 * (1.3 + math.sin(time.hour / 24 * math.tau)) * (1 - hours / 2000))
        for verdict, count in (
            (VerdictCode.VALID, base),
            (VerdictCode.RATE_LIMITED, base // 6 if hours % 9 == 4 else 0),
            (VerdictCode.IP_NOT_ALLOWED, base // 12 if hours % 7 == 2 else 0),
        ):
            if count:
                yield UsageRow(
                    access_key=access_key,
                    verdict=verdict,
                    bucket_time=time,
                    count=count,
                    cost=0,
                    last_used_time=min(time + timedelta(minutes=50), now),
                )


def seed(client: Client) -> str:
    """Make the records that the picture shows; return the access key of its key."""
    project = client.create_project("Shop")
    key = client.create_key(
        project.project_id,
        mode="live",
        kind="restricted",
        purpose="nightly export",
        permissions=["orders:read", "billing.*:write"],
        restrictions=Restrictions(allowed_ips=("203.0.113.0/24",)),
        ttl=timedelta(days=90),
        quota=Quota(1_000_000, QuotaPeriod.MONTH),
        labels={"team": "payments"},
    ).key
    rows = list(usage(key.access_key))
    for place in range(0, len(rows), 1000):
        client.report_usage(rows[place : place + 1000])
    return key.access_key


def main() -> None:
    """Take the picture."""
    with tempfile.TemporaryDirectory() as folder, running_browser() as browser:
        server = start(Path(folder) / "data")
        try:
            with Client(server.address, operator_key=server.operator_key) as client:
                access_key = seed(client)
            with running_console(Path(folder), server) as console:
                page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
                page.goto(console.link)
                page.goto(f"{console.url}/keys/{access_key}")
                page.screenshot(path=PICTURE)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
