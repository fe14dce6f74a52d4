"""Reports of usage: how the keys that they name are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from unittest.mock import Mock

from keyauthority.model import UNRESTRICTED, Restrictions, Revision, UsageRow, VerdictCode
from keyauthority.requests import UsageReport
from keyauthority_server.services.time_slices import TimeSlices
from keyauthority_server.services.usage import KEYS_AT_ONCE, Usage
from keyauthority_server.store.types import Snapshots
from tests.store.factories import NOON, held, key


async def test_each_key_of_a_report_is_read_once_and_few_together() -> None:
    """1,000 rows of one key with long lists took a gigabyte."""
    restricted = Restrictions(allowed_ips=("10.0.0.0/8",))
    made = [key("a project", restrictions=restricted) for _ in range(KEYS_AT_ONCE + 10)]
    stored = {one.access_key: held(one) for one in made[1:]}  # the first is absent
    reads: list[int] = []

    async def read_many(names: Sequence[str], _: None) -> Snapshots:
        reads.append(len(names))
        return Snapshots(Revision(1), [(stored.get(name), None) for name in names], None)

    rows = [
        UsageRow(
            project_id="",
            access_key=one.access_key,
            verdict=VerdictCode.VALID,
            bucket_time=NOON,
            count=1,
            cost=1,
            last_used_time=NOON,
        )
        for one in made * 5
    ]
    service = Usage(Mock(store=Mock(read_many=read_many)), TimeSlices())
    keys = await service._keys(UsageReport(batch_id="", rows=tuple(rows)))
    assert {one.access_key: replace(one, restrictions=UNRESTRICTED) for one in made[1:]} == keys
    assert [KEYS_AT_ONCE, 10] == reads
